//! Seeds that failed once, with the plans they failed with: none may fail again.

use std::path::Path;

use jepsen_tests::runner::Conclusion;
use jepsen_tests::simulation::Regression;

#[test]
fn what_was_fixed_stays_fixed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("an entry can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "what was found once is kept");
    for path in files {
        let regression =
            Regression::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let simulated = regression.simulation().run(None);
        // Without most of its faults a plan may be too little to count; it must not fail.
        if let Conclusion::Failed(why) = simulated.conclude() {
            panic!("{} ({}): {why}", path.display(), regression.found);
        }
    }
}
