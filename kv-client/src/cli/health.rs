//! `health --local`

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::context::Context;
use super::output::{print_json, print_line};
use super::{Exit, Format};

/// Ask one node whether its process and its disk work
///
/// For container health checks: the quorum plays no part, so that a partition gets no good node killed (for that
/// there is `wait --ready`). Asks the first endpoint only. Exits 1 if something does not work, 5 without an answer.
#[derive(Debug, Args)]
pub(crate) struct Health {
    /// This process and its disk (the only health there is to ask for)
    #[arg(long, required = true)]
    local: bool,
}

#[derive(Debug, Serialize)]
struct HealthObject {
    healthy: bool,
    reason: Option<String>,
}

impl Health {
    pub(crate) async fn run(self, context: &Context) -> Exit {
        let timeout = context.client_with_default(TIMEOUT_DEFAULT).timeout();
        let (exit, reason) = match context.runtime.timeout(timeout, ask(context, timeout)).await {
            Ok(Ok(health)) if health.healthy => (Exit::Done, None),
            Ok(Ok(health)) => (Exit::Failure, Some(health.reason.unwrap_or_else(|| "unhealthy".to_owned()))),
            Ok(Err(why)) => (Exit::NotApplied, Some(why)),
            Err(_) => (Exit::NotApplied, Some(format!("no address within {timeout:?}"))),
        };
        let printed = match (context.format, reason) {
            (Format::Json, reason) => print_json(&HealthObject { healthy: exit == Exit::Done, reason }),
            (Format::Simple, Some(reason)) => {
                exit.because(reason);
                Ok(())
            }
            (Format::Simple, None) if context.quiet => Ok(()),
            (Format::Simple, None) => print_line("healthy"),
        };
        context.leave().await;
        printed.err().unwrap_or(exit)
    }
}

async fn ask(context: &Context, timeout: Duration) -> Result<kv_client::api::Health, String> {
    let client = &context.client;
    let endpoint = client.endpoints().first().ok_or("no endpoint")?;
    let addresses = client.addresses(endpoint.as_str()).await;
    let addresses = addresses.map_err(|error| format!("{endpoint} cannot be resolved: {error}"))?;
    let address = *addresses.first().ok_or_else(|| format!("{endpoint} has no address"))?;
    let health = client.node(address).health_local().timeout(timeout).await;
    health.map_err(|_| format!("no answer from {endpoint} within {timeout:?}"))
}

/// How long the node is given unless told otherwise: less than the health checks of containers usually allow.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
