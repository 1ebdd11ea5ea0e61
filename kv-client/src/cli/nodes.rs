//! Asking every node for itself: the endpoints, and the members that they name.

use std::time::Duration;

use kv_client::api::{KvClient, Status};
use rpc_core::rpc::{Call, Never};
use rpc_core::runtime::Instant;
use serde::de::DeserializeOwned;

use super::context::Context;

/// What came of asking one node.
pub(crate) struct Asked<R> {
    /// As it was written, or as the membership names it.
    pub(crate) name: String,
    pub(crate) answer: Result<R, String>,
    /// Halfway between the question and its answer.
    pub(crate) at: Instant,
}

/// The status of all nodes that can be found. A node that was reached under two names is there once.
pub(crate) async fn find(context: &Context, timeout: Duration) -> Vec<Asked<Status>> {
    let names = context.client.endpoints().iter().map(|endpoint| endpoint.to_string()).collect();
    let mut asked = ask(context, timeout, names, KvClient::status).await;
    let others = unseen_members(&asked);
    asked.extend(ask(context, timeout, others, KvClient::status).await);
    let mut seen = Vec::new();
    asked.retain(|node| match &node.answer {
        Ok(status) if seen.contains(&(status.id, status.incarnation)) => false,
        Ok(status) => {
            seen.push((status.id, status.incarnation));
            true
        }
        Err(_) => true,
    });
    asked
}

/// Asks all nodes at once, in the order of their names.
pub(crate) async fn ask<R: DeserializeOwned + Send + 'static>(
    context: &Context,
    timeout: Duration,
    names: Vec<String>,
    call: impl Fn(&KvClient) -> Call<R, Never> + Clone + Send + 'static,
) -> Vec<Asked<R>> {
    let mut asked = Vec::new();
    let tasks: Vec<_> = names
        .into_iter()
        .map(|name| {
            let (client, runtime, call) = (context.client.clone(), context.runtime.clone(), call.clone());
            context.runtime.spawn("ask", async move {
                let begun = runtime.now();
                let deadline = begun + timeout;
                let addresses = runtime.timeout_at(deadline, client.addresses(&name)).await;
                let answer = match addresses {
                    Err(_) => Err("name not resolved in time".to_owned()),
                    Ok(Err(error)) => Err(format!("name not resolved: {error}")),
                    Ok(Ok(addresses)) => match addresses.first() {
                        None => Err("no address".to_owned()),
                        Some(address) => {
                            let call = call(&client.node(*address)).deadline(deadline);
                            call.await.map_err(|_| "no answer".to_owned())
                        }
                    },
                };
                let at = begun + (runtime.now() - begun) / 2;
                Asked { name, answer, at }
            })
        })
        .collect();
    for task in tasks {
        if let Ok(node) = task.await {
            asked.push(node);
        }
    }
    asked
}

/// The addresses of members that did not answer under any name, and were not asked under this one.
fn unseen_members(asked: &[Asked<Status>]) -> Vec<String> {
    let statuses = || asked.iter().filter_map(|node| node.answer.as_ref().ok());
    let mut others: Vec<String> = Vec::new();
    for member in statuses().flat_map(|status| &status.members) {
        let is_seen = statuses().any(|status| status.id == member.id)
            || asked.iter().any(|node| node.name == member.address)
            || others.contains(&member.address);
        if !is_seen && others.len() < MEMBERS_MAX {
            others.push(member.address.clone());
        }
    }
    others
}

/// Members that are asked beside the endpoints at most.
const MEMBERS_MAX: usize = 64;
