//! One write from admission to its outcome: committed, not committed, unknown.
//!
//! What this node only staged for a write that was never accepted is dropped by the host; once a proposer accepted
//! it, only the log decides. So three words come out of here, and nothing is guessed: an error is definite for this
//! attempt unless it is [`KvError::Unknown`].

use bytes::Bytes;
use kv_client::api::{
    Expect, KvError, ResolveRequest, Resolved, Unknowable, WriteOp, WriteReply, WriteRequest,
};
use raft_node::Node;
use raft_node::command::{Record, Verdict};
use raft_node::outcome::WriteOutcome;
use rpc_core::runtime::Instant;

use crate::machine::{self, Answer, Command, KvMachine};
use crate::refusal;

// A client that keeps to the window of the contract never runs ahead of the one of the log.
const _: () = assert!(kv_client::api::SEQUENCE_WINDOW <= raft_node::command::SEQUENCE_WINDOW);

/// Proposes a write, and says what became of it.
pub(crate) async fn write(
    node: &Node<KvMachine>,
    request: WriteRequest,
    deadline: Instant,
) -> Result<WriteReply, KvError> {
    let WriteRequest { session, sequence, floor, op, .. } = request;
    let body = command(op)?;
    match node.write(session, sequence, floor, body, deadline).await {
        WriteOutcome::Settled(record) => reply(&record),
        WriteOutcome::Stale => Err(KvError::Stale),
        WriteOutcome::SessionExpired => Err(KvError::SessionExpired),
        WriteOutcome::RecordsFull => Err(KvError::RecordsFull),
        WriteOutcome::Refused(refused) => Err(refusal::of(refused, node)),
        WriteOutcome::Unknown => Err(KvError::Unknown),
    }
}

/// Settles what became of a write: what it was, or rolled back for ever.
pub(crate) async fn resolve(
    node: &Node<KvMachine>,
    request: ResolveRequest,
    deadline: Instant,
) -> Result<Resolved, KvError> {
    let ResolveRequest { session, sequence, .. } = request;
    match node.resolve(session, sequence, deadline).await {
        WriteOutcome::Settled(record) => reply(&record).map(Resolved::Settled),
        WriteOutcome::Stale => Ok(Resolved::Unknowable(Unknowable::AnswerReceived)),
        WriteOutcome::SessionExpired => Ok(Resolved::Unknowable(Unknowable::SessionExpired)),
        WriteOutcome::RecordsFull => Err(KvError::RecordsFull),
        WriteOutcome::Refused(refused) => Err(refusal::of(refused, node)),
        WriteOutcome::Unknown => Err(KvError::Unknown),
    }
}

/// The log's form of what a client asks: wire types and log types change apart.
fn command(op: WriteOp) -> Result<Bytes, KvError> {
    let command = match op {
        WriteOp::Put { key, value } => Command::Put { key, value },
        WriteOp::Delete { key } => Command::Delete { key },
        WriteOp::Cas { key, expect, value } => {
            let expect = match expect {
                Expect::Absent => machine::Expect::Absent,
                Expect::Revision(revision) => machine::Expect::Revision(revision),
                Expect::Value(value) => machine::Expect::Value(value),
            };
            Command::Cas { key, expect, value }
        }
    };
    // Plain data always has an encoding; nothing was proposed.
    command.encode().map_err(|error| KvError::Disk { reason: error.to_string() })
}

fn reply(record: &Record) -> Result<WriteReply, KvError> {
    let revision = record.revision;
    match (record.verdict, Answer::decode(&record.detail)) {
        (Verdict::RolledBack, _) => Ok(WriteReply::RolledBack { revision }),
        (Verdict::Applied, Some(Answer::Written { existed } | Answer::Deleted { existed })) => {
            Ok(WriteReply::Committed { revision, existed })
        }
        (Verdict::Applied, Some(Answer::ConditionFailed { mod_revision })) => {
            Ok(WriteReply::ConditionFailed { revision, mod_revision })
        }
        (Verdict::Applied, Some(Answer::Refused)) => Ok(WriteReply::Rejected { revision }),
        // It is settled, in words that a newer version wrote: this one cannot say how.
        (Verdict::Applied, None) => Err(KvError::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use raft_node::command::DETAIL_SIZE_MAX;

    use super::*;

    fn record(verdict: Verdict, detail: &[u8]) -> Record {
        Record { verdict, revision: 7, detail: Bytes::copy_from_slice(detail) }
    }

    #[test]
    fn a_settled_record_that_cannot_be_read_is_unknown_never_a_failure() {
        for detail in [&b""[..], b"\x02\x00", b"\x01\xff", &[0; DETAIL_SIZE_MAX]] {
            assert_eq!(reply(&record(Verdict::Applied, detail)), Err(KvError::Unknown));
        }
    }

    #[test]
    fn a_tombstone_is_rolled_back_whatever_its_detail() {
        let expected = Ok(WriteReply::RolledBack { revision: 7 });
        assert_eq!(reply(&record(Verdict::RolledBack, b"")), expected);
        assert_eq!(reply(&record(Verdict::RolledBack, b"garbage")), expected);
    }
}
