//! `version`

use clap::Args;
use kv_client::api::PROTOCOL;
use rpc_core::plant;
use serde::Serialize;

use super::context::Context;
use super::output::{print_json, print_line};
use super::{Exit, Format};

/// Print the version of this command
#[derive(Debug, Args)]
pub(crate) struct Version {}

#[derive(Debug, Serialize)]
struct VersionObject {
    version: &'static str,
    protocol: u32,
}

impl Version {
    pub(crate) async fn run(self, context: &Context) -> Exit {
        let version = plant::version(env!("CARGO_PKG_VERSION"));
        let printed = match context.format {
            Format::Json => print_json(&VersionObject { version, protocol: PROTOCOL }),
            Format::Simple => print_line(&format!("kv-client {version} (protocol {PROTOCOL})")),
        };
        printed.err().unwrap_or(Exit::Done)
    }
}
