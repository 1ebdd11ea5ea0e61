//! `leader move [ID]`

use clap::{Args, Subcommand};
use kv_client::api::MemberChange;
use serde::Serialize;

use super::Exit;
use super::context::Context;
use super::member;

/// Change who leads
#[derive(Debug, Args)]
pub(crate) struct Leader {
    #[command(subcommand)]
    change: Change,
}

#[derive(Debug, Subcommand)]
enum Change {
    Move(Move),
}

/// Hand leadership over, to the member that holds most of the log unless ID names one
#[derive(Debug, Args)]
struct Move {
    /// The id of the member that is to lead
    id: Option<u64>,
}

#[derive(Debug, Serialize)]
struct LeaderObject {
    leader: u64,
}

impl Leader {
    pub(crate) async fn run(self, context: &Context) -> Exit {
        let Change::Move(Move { id }) = self.change;
        let told = |leader| (LeaderObject { leader }, format!("node {leader} leads"));
        member::change(context, MemberChange::Lead { id }, told).await
    }
}
