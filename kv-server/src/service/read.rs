//! Reads of keys.

use kv_client::api::{Age, Consistency, GetReply, GetRequest, KvError, Versioned};
use raft_node::outcome;
use rpc_core::runtime::Instant;

use super::Running;
use crate::{machine, refusal};

pub(super) async fn get(
    running: &Running,
    request: GetRequest,
    deadline: Instant,
) -> Result<GetReply, KvError> {
    let GetRequest { key, consistency } = request;
    let consistency = match consistency {
        Consistency::Linearizable => outcome::Consistency::Linearizable,
        Consistency::Stale => outcome::Consistency::Stale,
    };
    let read = running.node.read(consistency, deadline, |rows| machine::row(rows, &key)).await;
    let read = read.map_err(|error| refusal::of_read(error, &running.node))?;
    let value = read.value.map(|row| Versioned { value: row.value, mod_revision: row.mod_revision });
    Ok(GetReply { value, revision: read.revision, age: age(read.age), leader: running.other_leader() })
}

fn age(age: outcome::Age) -> Age {
    match age {
        outcome::Age::Linearizable => Age::Linearizable,
        // Rounded up: it must never look fresher than it is.
        outcome::Age::AtMost(age) => {
            Age::AtMostMs(u64::try_from(age.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
        }
        outcome::Age::Unbounded => Age::Unbounded,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_age_is_rounded_up() {
        let of = |nanos| age(outcome::Age::AtMost(Duration::from_nanos(nanos)));
        assert_eq!(of(0), Age::AtMostMs(0));
        assert_eq!(of(1), Age::AtMostMs(1));
        assert_eq!(of(2_000_000), Age::AtMostMs(2));
        assert_eq!(of(2_000_001), Age::AtMostMs(3));
    }
}
