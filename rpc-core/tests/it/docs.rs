//! The pages that name files of this crate name files that are there.

use std::path::Path;

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
