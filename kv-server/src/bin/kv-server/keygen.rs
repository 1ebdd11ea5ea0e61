//! `kv-server keygen`: the key that a cluster and its clients share.

use std::path::PathBuf;

use rpc_core::driver::{key_file, system};
use rpc_core::security::SharedKey;

use crate::exit::Exit;

/// Flags of `kv-server keygen`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct KeygenArgs {
    /// The file to write; one that is there is not overwritten
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Writes a new key.
pub(crate) fn keygen(args: KeygenArgs) -> Result<(), Exit> {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(|error| Exit::Fatal(format!("no tokio runtime: {error}")))?;
    let mut bytes = [0; 32];
    system::runtime(tokio.handle().clone()).fill_random(&mut bytes);
    key_file::write(&args.out, &SharedKey::new(bytes)).map_err(Exit::KeyFile)?;
    println!(
        "{}: a new key. Copy it to every node and client, readable by its owner only",
        args.out.display()
    );
    Ok(())
}
