//! What the attempts of one write say together.
//!
//! An outcome belongs to (session, sequence), never to one attempt: once any attempt may have reached a proposer, no
//! later refusal makes the write *not committed*.

use std::time::Duration;

use rpc_core::rpc::{CallError, Code, Outcome as CallOutcome, RpcError};

use crate::api::{KvError, WriteAnswer, WriteReply};
use crate::outcome::{Outcome, Reason, Refusal};
use crate::plant;
use crate::token::Token;

/// The attempts of one write so far.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Whether an attempt may have reached a proposer.
    maybe_proposed: bool,
    /// Why a node refused it last.
    refusal: Option<KvError>,
    /// Why a node was not reached, last.
    silence: Option<String>,
}

/// What follows from the answer to one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The write is settled.
    Settled(WriteReply),
    /// Another attempt may end otherwise.
    Again {
        /// How long to wait, if the node said so.
        after: Option<Duration>,
        /// Whether another node is the better one to ask.
        elsewhere: bool,
    },
    /// No other attempt would end otherwise.
    Stop,
}

impl Ledger {
    /// Takes in how one attempt ended.
    pub(crate) fn note(&mut self, ended: Result<WriteAnswer, CallError<KvError>>) -> Verdict {
        match ended {
            Ok(answer) => Verdict::Settled(answer.reply),
            Err(CallError::Method(error)) => {
                let verdict = verdict_of(&error);
                if error.is_definite() {
                    self.refusal = Some(error);
                } else {
                    self.maybe_proposed = true;
                }
                verdict
            }
            Err(CallError::Rpc(error)) => {
                // An answer that could not be read was executed: its effect is not known either.
                if error.outcome == CallOutcome::NotExecuted {
                    self.silence = Some(error.message.clone());
                } else {
                    self.maybe_proposed = true;
                }
                verdict_of_transport(&error)
            }
        }
    }

    /// The outcome when no attempt is open any more and none has settled the write.
    /// `unreachable` says what it means that nobody was reached, from why the last one was not.
    pub(crate) fn conclude(
        self,
        token: Token,
        unreachable: impl FnOnce(Option<String>) -> Refusal,
    ) -> Outcome {
        if self.maybe_proposed && !plant::FAIL_ON_TIMEOUT.is_planted() {
            return Outcome::Unknown(token);
        }
        // What a node said tells more than that another one said nothing.
        let refusal = self.refusal.map(Refusal::Node);
        Outcome::NotCommitted(Reason::Refused(refusal.unwrap_or_else(|| unreachable(self.silence))))
    }
}

/// Whether the same request may end otherwise later or elsewhere.
pub(crate) fn verdict_of(error: &KvError) -> Verdict {
    match error {
        KvError::Busy { retry_after_ms } => {
            Verdict::Again { after: Some(Duration::from_millis(*retry_after_ms)), elsewhere: false }
        }
        KvError::RecordsFull | KvError::SessionsFull | KvError::Unknown => {
            Verdict::Again { after: None, elsewhere: false }
        }
        KvError::NotLeader { .. }
        | KvError::NoQuorum
        | KvError::Draining
        | KvError::NotMember { .. }
        | KvError::Deadline
        | KvError::Disk { .. }
        | KvError::DiskFull { .. } => Verdict::Again { after: None, elsewhere: true },
        KvError::TooLarge { .. }
        | KvError::EmptyKey
        | KvError::SessionExpired
        | KvError::Stale
        | KvError::ForeignCluster { .. }
        | KvError::Denied { .. } => Verdict::Stop,
    }
}

/// As [`verdict_of`], for an error of the way to the node.
pub(crate) fn verdict_of_transport(error: &RpcError) -> Verdict {
    match error.code {
        Code::BadRequest
        | Code::SchemaMismatch
        | Code::MethodNotFound
        | Code::TooLarge
        | Code::Version
        | Code::Unauthorized
        | Code::Forbidden => Verdict::Stop,
        Code::ServerBusy => Verdict::Again { after: error.retry_after, elsewhere: false },
        _ => Verdict::Again { after: error.retry_after, elsewhere: true },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Limited;

    const TOKEN: Token = Token { cluster: 1, session: 2, sequence: 3, expires_ms: 4 };

    type Ended = Result<WriteAnswer, CallError<KvError>>;

    fn settled(reply: WriteReply) -> Ended {
        Ok(WriteAnswer { reply, leader: None })
    }

    fn transport(code: Code, outcome: CallOutcome) -> Ended {
        Err(RpcError::new(code, outcome, "test").into())
    }

    fn unreachable(last: Option<String>) -> Refusal {
        Refusal::Unreachable { detail: last.unwrap_or_default() }
    }

    fn definite() -> Vec<Ended> {
        let method = [
            KvError::NotLeader { leader: None },
            KvError::NoQuorum,
            KvError::Busy { retry_after_ms: 5 },
            KvError::TooLarge { what: Limited::Value, size: 2, max: 1 },
            KvError::EmptyKey,
            KvError::SessionsFull,
            KvError::SessionExpired,
            KvError::Stale,
            KvError::RecordsFull,
            KvError::Draining,
            KvError::NotMember { phase: "joining".to_owned() },
            KvError::ForeignCluster { cluster: 9 },
            KvError::Deadline,
            KvError::Denied { reason: "test".to_owned() },
            KvError::Disk { reason: "test".to_owned() },
        ];
        let mut all: Vec<Ended> = method.into_iter().map(|error| Err(CallError::Method(error))).collect();
        all.push(transport(Code::ServerBusy, CallOutcome::NotExecuted));
        all.push(transport(Code::ConnectionLost, CallOutcome::NotExecuted));
        all.push(transport(Code::Timeout, CallOutcome::NotExecuted));
        all
    }

    fn indefinite() -> Vec<Ended> {
        vec![
            Err(CallError::Method(KvError::Unknown)),
            transport(Code::Timeout, CallOutcome::Unknown),
            transport(Code::ConnectionLost, CallOutcome::Unknown),
            transport(Code::Codec, CallOutcome::Executed),
            transport(Code::Internal, CallOutcome::Unknown),
        ]
    }

    /// Every sequence of up to three attempts: unknown if any attempt was, whatever came before or after it.
    #[test]
    fn an_attempt_that_may_have_reached_a_proposer_is_never_forgotten() {
        let definite = definite();
        let all: Vec<Ended> = definite.iter().cloned().chain(indefinite()).collect();
        let is_definite = |index: usize| index < definite.len();
        for first in 0..all.len() {
            for second in 0..all.len() {
                for third in 0..all.len() {
                    let mut ledger = Ledger::default();
                    for index in [first, second, third] {
                        assert!(!matches!(ledger.note(all[index].clone()), Verdict::Settled(_)));
                    }
                    let outcome = ledger.conclude(TOKEN, unreachable);
                    if [first, second, third].into_iter().all(is_definite) {
                        assert!(matches!(outcome, Outcome::NotCommitted(Reason::Refused(_))), "{outcome:?}");
                    } else {
                        assert_eq!(outcome, Outcome::Unknown(TOKEN), "{first} {second} {third}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_settled_answer_counts_whatever_came_before() {
        let reply = WriteReply::Committed { revision: 7, existed: true };
        for before in definite().into_iter().chain(indefinite()) {
            let mut ledger = Ledger::default();
            ledger.note(before);
            assert_eq!(ledger.note(settled(reply.clone())), Verdict::Settled(reply.clone()));
        }
    }

    #[test]
    fn a_write_that_was_never_sent_is_not_committed() {
        assert!(matches!(Ledger::default().conclude(TOKEN, unreachable), Outcome::NotCommitted(_)));
    }
}
