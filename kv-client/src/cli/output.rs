//! What goes out: exact bytes, lines, and JSON objects of the documented schema.

use std::io::{self, Write as _};

use kv_client::{Outcome, Reason, Refusal, Token};
use serde::Serialize;

use super::Exit;
use super::trace_id::id_text;

/// Writes to stdout. A reader that went away is not our failure: what was done is done.
pub(crate) fn print(bytes: &[u8]) -> Result<(), Exit> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Exit::Failure.because(format_args!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes one line to stdout.
pub(crate) fn print_line(line: &str) -> Result<(), Exit> {
    print(format!("{line}\n").as_bytes())
}

/// Writes one JSON object as one line to stdout.
pub(crate) fn print_json(object: &impl Serialize) -> Result<(), Exit> {
    print_line(&json(object)?)
}

/// One JSON object in one line.
pub(crate) fn json(object: &impl Serialize) -> Result<String, Exit> {
    serde_json::to_string(object).map_err(|error| Exit::Failure.because(format_args!("no JSON: {error}")))
}

/// The JSON of a write or a resolve: the first four fields are always there.
#[derive(Debug, Serialize)]
pub(crate) struct WriteObject {
    outcome: &'static str,
    rev: Option<u64>,
    reason: Option<&'static str>,
    token: Option<String>,
    /// Committed: whether the key was there before.
    #[serde(skip_serializing_if = "Option::is_none")]
    existed: Option<bool>,
    /// Condition failed: the revision at which the key was last written; null if it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    mod_rev: Option<Option<u64>>,
    /// Unknown: when the token expires at the earliest, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// With `--trace`: the id of the trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
}

impl WriteObject {
    /// The JSON of an outcome.
    pub(crate) fn new(outcome: &Outcome) -> Self {
        let empty = Self {
            outcome: "",
            rev: None,
            reason: None,
            token: None,
            existed: None,
            mod_rev: None,
            expires_ms: None,
            message: None,
            trace: None,
        };
        match outcome {
            Outcome::Committed { revision, existed } => {
                Self { outcome: "committed", rev: Some(*revision), existed: Some(*existed), ..empty }
            }
            Outcome::NotCommitted(reason) => Self {
                outcome: "not_committed",
                rev: reason.revision(),
                reason: Some(reason.code()),
                mod_rev: match reason {
                    Reason::ConditionFailed { mod_revision, .. } => Some(*mod_revision),
                    _ => None,
                },
                message: Some(reason.to_string()),
                ..empty
            },
            Outcome::Unknown(token) => Self {
                outcome: "unknown",
                token: Some(token.to_string()),
                expires_ms: Some(token.expires_ms),
                message: Some("the write may have taken effect; resolve the token to settle it".to_owned()),
                ..empty
            },
        }
    }

    /// With the id of the write's trace, if it has one.
    pub(crate) fn traced(self, trace: Option<u128>) -> Self {
        Self { trace: trace.map(id_text), ..self }
    }

    /// The JSON of a token that could not be settled (now, or ever).
    pub(crate) fn unsettled(token: &Token, reason: &'static str, message: String) -> Self {
        Self { reason: Some(reason), message: Some(message), ..Self::new(&Outcome::Unknown(*token)) }
    }
}

/// The JSON of any other command that failed.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorObject {
    error: &'static str,
    message: String,
}

impl ErrorObject {
    pub(crate) fn new(error: &'static str, message: String) -> Self {
        Self { error, message }
    }

    pub(crate) fn of_refusal(refusal: &Refusal) -> Self {
        Self::new(refusal.code(), refusal.to_string())
    }
}

/// Base 64 (RFC 4648, section 4).
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        let word = word << (8 * (3 - chunk.len()));
        for position in 0..4 {
            let digit = ALPHABET[(word >> (18 - 6 * position) & 63) as usize];
            text.push(if position <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use kv_client::api::KvError;

    use super::*;

    fn json(outcome: &Outcome) -> String {
        serde_json::to_string(&WriteObject::new(outcome)).unwrap()
    }

    #[test]
    fn the_json_of_a_write_is_fixed() {
        assert_eq!(
            json(&Outcome::Committed { revision: 7, existed: false }),
            r#"{"outcome":"committed","rev":7,"reason":null,"token":null,"existed":false}"#
        );
        assert_eq!(
            json(&Outcome::NotCommitted(Reason::ConditionFailed { revision: 8, mod_revision: Some(5) })),
            concat!(
                r#"{"outcome":"not_committed","rev":8,"reason":"condition_failed","token":null,"mod_rev":5,"#,
                r#""message":"the condition failed at revision 8: the key was last written at 5"}"#
            )
        );
        assert_eq!(
            json(&Outcome::NotCommitted(Reason::ConditionFailed { revision: 8, mod_revision: None })),
            concat!(
                r#"{"outcome":"not_committed","rev":8,"reason":"condition_failed","token":null,"mod_rev":null,"#,
                r#""message":"the condition failed at revision 8: the key is not there"}"#
            )
        );
        assert_eq!(
            json(&Outcome::NotCommitted(Reason::Refused(KvError::NoQuorum.into()))),
            concat!(
                r#"{"outcome":"not_committed","rev":null,"reason":"no_quorum","token":null,"#,
                r#""message":"no quorum answers"}"#
            )
        );
        let token = Token { cluster: 1, session: 2, sequence: 3, expires_ms: 4 };
        assert_eq!(
            json(&Outcome::Unknown(token)),
            format!(
                concat!(
                    r#"{{"outcome":"unknown","rev":null,"reason":null,"token":"{}","expires_ms":4,"#,
                    r#""message":"the write may have taken effect; resolve the token to settle it"}}"#
                ),
                token
            )
        );
    }

    #[test]
    fn base64_follows_the_test_vectors_of_rfc_4648() {
        let table = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ];
        for (bytes, text) in table {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xef, 0xbe]), "/+++");
    }
}
