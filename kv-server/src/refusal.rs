//! Why a request certainly had no effect: the host's words in those of the contract.

use kv_client::api::{Hint, KvError, Limited};
use raft_node::Node;
use raft_node::outcome::{self, ReadError, Refusal};

use crate::machine::KvMachine;

/// How long a caller should wait when a limit is reached: proposals in flight are answered faster than this.
pub(crate) const RETRY_AFTER_MS: u64 = 50;

/// A refusal by the node.
pub(crate) fn of(refusal: Refusal, node: &Node<KvMachine>) -> KvError {
    match refusal {
        Refusal::NotLeader { leader } => KvError::NotLeader { leader: leader.map(hint) },
        Refusal::LeaseExpired => KvError::NoQuorum,
        Refusal::Busy => KvError::Busy { retry_after_ms: RETRY_AFTER_MS },
        Refusal::TooLarge { size, max } => {
            KvError::TooLarge { what: Limited::Request, size: size as u64, max: max as u64 }
        }
        Refusal::Draining => KvError::Draining,
        Refusal::NotMember => KvError::NotMember { phase: node.status().phase.to_string() },
        Refusal::Deadline => KvError::Deadline,
        Refusal::DiskFull { free, reserve } => KvError::DiskFull { free, reserve },
    }
}

/// A read that was not served.
pub(crate) fn of_read(error: ReadError, node: &Node<KvMachine>) -> KvError {
    match error {
        ReadError::Refused(refusal) => of(refusal, node),
        ReadError::Deadline => KvError::Deadline,
        ReadError::Disk(error) => KvError::Disk { reason: error.to_string() },
    }
}

/// A member to ask instead.
pub(crate) fn hint(hint: outcome::Hint) -> Hint {
    Hint { id: hint.id, address: hint.address }
}
