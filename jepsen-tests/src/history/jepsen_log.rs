//! Jepsen's text log of one register that is absent at first: `INFO  jepsen.util - PROCESS :TYPE :F VALUE`.
//!
//! The log has no clock: line numbers are the instants. `:fail :cas` says that the register did not hold the expected
//! value, so it is an answer here (a mismatch); `:fail :read` is a read without an answer, and `:info` or a call that
//! never returns is unknown. Lines of other shapes are noise.

use std::collections::BTreeMap;
use std::io::BufRead;

use bytes::Bytes;

use super::lines::{self, ReadError};
use super::operation::{Action, History, Operation, Outcome};

/// Reads a log whose first line has the number `before + 1`.
pub(super) fn read(input: &mut impl BufRead, before: u64) -> Result<History, ReadError> {
    let mut history = History::default();
    let mut open: BTreeMap<u64, (u64, Call)> = BTreeMap::new();
    lines::for_each_line(input, before, |number, text| {
        let Some(event) = Event::of(text)? else { return Ok(()) };
        let process = event.process;
        if event.kind == "invoke" {
            let call = Call::of(event.f, &event.value)?;
            return match open.insert(process, (number, call)) {
                None => Ok(()),
                Some((line, _)) => {
                    Err(format!("process {process} still has the operation of line {line} open"))
                }
            };
        }
        let Some((called, call)) = open.remove(&process) else {
            return Err(format!("process {process} has no operation open"));
        };
        let action = call.answered(&event)?;
        lines::push(&mut history.operations, operation(process, action, called, number))
    })?;
    history.operations.extend(
        open.into_iter().map(|(process, (called, call))| operation(process, call.unknown(), called, called)),
    );
    Ok(history)
}

fn operation(process: u64, action: Action, call: u64, ret: u64) -> Operation {
    Operation { process, key: "register".to_owned(), action, rev: None, node: None, token: None, call, ret }
}

struct Event<'a> {
    process: u64,
    kind: &'a str,
    f: &'a str,
    value: Vec<&'a str>,
}

impl<'a> Event<'a> {
    /// `None` if the line is noise.
    fn of(text: &'a str) -> Result<Option<Self>, String> {
        let mut words = text.split_whitespace();
        let (_level, source, dash) = (words.next(), words.next(), words.next());
        if source != Some("jepsen.util") || dash != Some("-") {
            return Ok(None);
        }
        let Some(process) = words.next().and_then(|word| word.parse().ok()) else { return Ok(None) };
        let mut keyword = || words.next().and_then(|word| word.strip_prefix(':'));
        let (Some(kind), Some(f)) = (keyword(), keyword()) else {
            return Err("an event of a process needs a :type and a :function".to_owned());
        };
        Ok(Some(Self { process, kind, f, value: words.collect() }))
    }
}

/// An operation that has not returned.
enum Call {
    Read,
    Write(Bytes),
    Cas(Bytes, Bytes),
}

impl Call {
    fn of(f: &str, value: &[&str]) -> Result<Self, String> {
        match (f, value) {
            ("read", _) => Ok(Self::Read),
            ("write", [value]) => Ok(Self::Write(number(value)?)),
            ("cas", [from, to]) => {
                let from = from.strip_prefix('[').ok_or("a cas needs [from to]")?;
                let to = to.strip_suffix(']').ok_or("a cas needs [from to]")?;
                Ok(Self::Cas(number(from)?, number(to)?))
            }
            _ => Err(format!("cannot read the call :{f} {}", value.join(" "))),
        }
    }

    fn answered(self, event: &Event<'_>) -> Result<Action, String> {
        match (self, event.kind, event.f) {
            (Self::Read, "ok", "read") => match event.value[..] {
                ["nil"] => Ok(Action::Get { outcome: Outcome::Ok(None) }),
                [value] => Ok(Action::Get { outcome: Outcome::Ok(Some(number(value)?)) }),
                _ => Err("a read needs one value".to_owned()),
            },
            (Self::Read, "fail", "read") => Ok(Action::Get { outcome: Outcome::Fail }),
            (Self::Write(value), "ok", "write") => Ok(Action::Put { value, outcome: Outcome::Ok(None) }),
            (Self::Write(value), "fail", "write") => Ok(Action::Put { value, outcome: Outcome::Fail }),
            (Self::Cas(from, value), "ok", "cas") => {
                Ok(Action::Cas { expect: Some(from), value, outcome: Outcome::Ok(true) })
            }
            (Self::Cas(from, value), "fail", "cas") => {
                Ok(Action::Cas { expect: Some(from), value, outcome: Outcome::Ok(false) })
            }
            (call, "info", f) if f == call.word() => Ok(call.unknown()),
            (call, kind, f) => Err(format!("a {} cannot return :{kind} :{f}", call.word())),
        }
    }

    fn unknown(self) -> Action {
        match self {
            Self::Read => Action::Get { outcome: Outcome::Info },
            Self::Write(value) => Action::Put { value, outcome: Outcome::Info },
            Self::Cas(from, value) => Action::Cas { expect: Some(from), value, outcome: Outcome::Info },
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write(_) => "write",
            Self::Cas(..) => "cas",
        }
    }
}

/// Values are kept as text, once it is sure that they are numbers.
fn number(word: &str) -> Result<Bytes, String> {
    match word.parse::<i64>() {
        Ok(_) => Ok(Bytes::copy_from_slice(word.as_bytes())),
        Err(_) => Err(format!("{word:?} is not a number")),
    }
}
