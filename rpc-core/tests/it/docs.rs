//! The pages say what is true: files and tests that they name are there, and the crate is as small as they claim.

#![allow(clippy::unwrap_used, reason = "also in functions that tests call")]

use std::path::{Path, PathBuf};

#[test]
fn the_reading_order_leads_through_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(root.join("docs/reading-order.md")).unwrap();
    let files: Vec<&str> = page.split('`').filter(|part| part.starts_with("rpc-core/")).collect();
    assert!(files.len() > 40, "the page names {} files", files.len());
    let missing: Vec<_> = files.iter().filter(|file| !root.join(file).exists()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_readme_shows_the_table_that_a_peer_prints() {
    use rpc_core::rpc::describe::{Description, MethodDescription};
    use rpc_core::rpc::{Ctx, Never};

    #[rpc_core::service(name = "calc")]
    trait Calc {
        /// Adds.
        async fn add(&self, ctx: Ctx, a: i64, b: i64) -> Result<i64, Never>;
    }
    let schemas = CalcClient::SCHEMA.methods.iter();
    let description =
        Description { methods: schemas.map(|schema| MethodDescription::new(schema.name, schema)).collect() };
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    assert!(page.contains(&format!("```text\n{description}```")), "{description}");
}

/// All that is below `folder` and ends in `.rs`, with its text; nothing that was built.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found
}

#[test]
fn the_features_page_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(root.join("docs/FEATURES.md")).unwrap();
    let crates = ["rpc-core", "raft-node", "kv-client", "kv-server", "jepsen-tests"];
    let sources: Vec<_> = crates.iter().flat_map(|name| sources(&root.join(name))).collect();
    let exists = |link: &str| {
        if !link.contains("::") {
            // A command, or a path from a crate or from the root.
            return link.contains(' ')
                || root.join(link).exists()
                || crates.iter().any(|name| root.join(name).join(link).exists());
        }
        sources.iter().any(|(path, text)| {
            link.split("::").all(|segment| {
                path.with_extension("").iter().any(|part| part == segment)
                    || [format!("fn {segment}("), format!("mod {segment} {{"), format!("mod {segment};")]
                        .iter()
                        .any(|line| text.contains(line))
                    // The stories of endpoints are told in two modes.
                    || (segment == "sealed" && link.starts_with("endpoint::"))
            })
        })
    };
    let mut links = 0;
    let mut missing = Vec::new();
    for row in page.lines().filter(|line| line.starts_with("| S") || line.starts_with("| C-")) {
        let shown_by = row.split(" | ").last().unwrap();
        for link in shown_by.split('`').skip(1).step_by(2) {
            links += 1;
            if !exists(link) {
                missing.push(link);
            }
        }
    }
    assert!(links > 100, "{links} links");
    assert!(missing.is_empty(), "{missing:#?}");
}

/// Lines with code, without comments and tests, that the layers may have.
const BUDGETS: [(&str, &[&str], usize); 2] =
    [("the heart", &["wire", "conn", "endpoint", "driver"], 6_750), ("all of it", &["."], 18_750)];

#[test]
fn the_source_stays_within_its_budget() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let sources = sources(&root);
    for (what, layers, budget) in BUDGETS {
        let of_layer = |path: &Path| {
            let path = path.strip_prefix(&root).unwrap();
            let first = Path::new(path.iter().next().unwrap()).with_extension("");
            !path.iter().any(|part| part == "tests" || part == "tests.rs" || part == "vectors.rs")
                && first != Path::new("fuzzing")
                && layers.iter().any(|layer| *layer == "." || first == Path::new(layer))
        };
        let lines: usize =
            sources.iter().filter(|(path, _)| of_layer(path)).map(|(_, text)| code_lines(text)).sum();
        assert!(lines <= budget, "{what} has {lines} lines of code, {budget} are budgeted");
        assert!(lines > budget * 9 / 10, "{what} has {lines} lines: lower the budget of {budget}");
    }
}

/// Lines before a module of tests in the file that are neither empty nor a comment.
fn code_lines(text: &str) -> usize {
    let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let is_code = |line: &&str| !line.is_empty() && !line.starts_with("//");
    product.lines().map(str::trim).filter(is_code).count()
}
