//! Finds the binary `kv-server`: beside our own, as one build leaves them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const NAME: &str = "kv-server";

/// The path of the binary, or what to type to have it.
///
/// `cargo run` and `cargo test` tell their programs where cargo is. Then the binary is built, so that what is tested is
/// what the sources say and not what was built some time ago; with nothing to do that takes a moment.
pub(super) fn kv_server() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| format!("own path unknown: {error}"))?;
    let found = own.with_file_name(NAME);
    let is_release = own.parent().is_some_and(|folder| folder.ends_with("release"));
    if let Some(cargo) = std::env::var_os("CARGO") {
        build(Path::new(&cargo), &own, is_release)?;
    }
    if found.is_file() {
        return Ok(found);
    }
    let profile = if is_release { " --release" } else { "" };
    Err(format!(
        "there is no {}: build it with `cargo build{profile} -p {NAME} -p jepsen-tests`",
        found.display()
    ))
}

fn build(cargo: &Path, own: &Path, is_release: bool) -> Result<(), String> {
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", NAME, "--bin", NAME]);
    if is_release {
        command.arg("--release");
    }
    if let Some(target) = own.parent().and_then(Path::parent) {
        command.arg("--target-dir").arg(target);
    }
    if let Some(manifest) = std::env::var_os("CARGO_MANIFEST_DIR") {
        command.current_dir(manifest);
    }
    eprintln!("building {NAME}");
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("building {NAME} ended with {status}")),
        Err(error) => Err(format!("{} did not start: {error}", cargo.display())),
    }
}
