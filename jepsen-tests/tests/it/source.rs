//! Rules of the source that no lint knows.

use std::path::{Path, PathBuf};

/// All Rust files of the workspace's product code.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace");
    let mut files = Vec::new();
    for folder in ["rpc-core", "raft-node", "kv-client", "kv-server", "jepsen-tests"] {
        collect(&root.join(folder).join("src"), &mut files);
    }
    assert!(files.len() > 50, "{} files found under {}", files.len(), root.display());
    files
}

fn collect(folder: &Path, files: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(folder).expect("a source folder is readable") {
        let path = entry.expect("a source folder is readable").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source file is readable");
            files.push((path, text));
        }
    }
}

/// Lines with code that break `rule`, as `file:line: text`.
fn offences(rule: impl Fn(&[&str], usize) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for index in 0..lines.len() {
            if !lines[index].trim_start().starts_with("//") && rule(&lines, index) {
                found.push(format!("{}:{}: {}", path.display(), index + 1, lines[index].trim()));
            }
        }
    }
    found
}

#[test]
fn every_select_is_biased() {
    // An unbiased `select!` draws from tokio's own generator: one seed would give many traces.
    let unbiased = offences(|lines, index| {
        lines[index].contains("select! {")
            && !lines.get(index + 1).is_some_and(|next| next.contains("biased;"))
    });
    assert!(unbiased.is_empty(), "select! without biased:\n{}", unbiased.join("\n"));
}

#[test]
fn byte_strings_are_never_arrays_of_numbers() {
    // In a serialized type, a bare Vec<u8> becomes a CBOR array: twice the size, hundreds of times the time.
    let mut bare = Vec::new();
    for (path, text) in sources() {
        let mut serialized = false;
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            if line.contains("derive(") {
                serialized = line.contains("Serialize") || line.contains("Deserialize");
            } else if *line == "}" {
                serialized = false;
            }
            let marked = index > 0 && lines[index - 1].contains("serde_bytes");
            if serialized && line.contains(": Vec<u8>") && !marked {
                bare.push(format!("{}:{}: {}", path.display(), index + 1, line.trim()));
            }
        }
    }
    assert!(bare.is_empty(), "bare Vec<u8> in a serialized type:\n{}", bare.join("\n"));
}

#[test]
fn only_the_host_crate_knows_openraft_and_sled() {
    let strangers =
        offences(|lines, index| lines[index].contains("openraft::") || lines[index].contains("sled::"));
    let strangers: Vec<_> = strangers.iter().filter(|line| !line.contains("raft-node/src")).collect();
    assert!(strangers.is_empty(), "openraft or sled outside raft-node:\n{strangers:?}");
}

#[test]
fn nothing_above_the_drivers_uses_tokios_watch() {
    // Its receivers are woken in an order that tokio draws.
    let users = offences(|lines, index| lines[index].contains("tokio::sync::watch"));
    assert!(users.is_empty(), "tokio::sync::watch:\n{}", users.join("\n"));
}

#[test]
fn no_manifest_plants_a_bug() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace");
    let manifests =
        ["", "rpc-core", "rpc-core/macros", "raft-node", "kv-client", "kv-server", "jepsen-tests"];
    let mut named = Vec::new();
    for folder in manifests {
        let path = root.join(folder).join("Cargo.toml");
        let text = std::fs::read_to_string(&path).expect("a manifest is readable");
        let lines = text.lines().filter(|line| !line.starts_with('#') && line.contains("plant"));
        named.extend(lines.map(|line| (folder, line.to_owned())));
    }
    let expected = [("rpc-core", "plant = []".to_owned()), ("raft-node", "plant = []".to_owned())];
    assert_eq!(named, expected, "the features are for command lines");
}

#[test]
fn every_bug_that_can_be_planted_is_listed_and_has_its_line() {
    let (all, mut count) = (sources(), 0);
    for (path, text) in all.iter().filter(|(path, _)| path.ends_with("src/plant.rs")) {
        let folder = path.parent().expect("a file lies in a folder");
        for line in text.lines() {
            let Some((name, _)) =
                line.strip_prefix("pub(crate) const ").and_then(|rest| rest.split_once(": Bug"))
            else {
                continue;
            };
            count += 1;
            let asked = format!("{name}.is_planted()");
            let is_asked =
                |(other, text): &(PathBuf, String)| other.starts_with(folder) && text.contains(&asked);
            assert!(all.iter().any(is_asked), "{}: nobody asks {asked}", path.display());
        }
    }
    let lists = [rpc_core::plant::BUGS.len(), raft_node::plant::BUGS.len(), kv_client::plant::BUGS.len()];
    assert_eq!(count, lists.iter().sum::<usize>(), "bugs, and those that are listed");
}
