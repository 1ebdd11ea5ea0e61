//! A log of EDN maps, one event a line: `{:process 0, :type :invoke, :f :append, :key "0", :value "x"}`.
//!
//! Functions are get, put and append; an absent key reads as `""`. The log has no clock: line numbers are the
//! instants. A call that never returns is unknown.

use std::collections::BTreeMap;
use std::io::BufRead;

use bytes::Bytes;

use super::lines::{self, ReadError};
use super::operation::{Action, History, Operation, Outcome, Semantics};

/// Reads a log whose first line has the number `before + 1`.
pub(super) fn read(input: &mut impl BufRead, before: u64) -> Result<History, ReadError> {
    let mut history = History { semantics: Semantics::Text, ..History::default() };
    let mut open: BTreeMap<u64, (u64, Event)> = BTreeMap::new();
    lines::for_each_line(input, before, |number, text| {
        let event = Event::of(text)?;
        let process = event.process;
        if event.kind == "invoke" {
            return match open.insert(process, (number, event)) {
                None => Ok(()),
                Some((line, _)) => {
                    Err(format!("process {process} still has the operation of line {line} open"))
                }
            };
        }
        let Some((called, call)) = open.remove(&process) else {
            return Err(format!("process {process} has no operation open"));
        };
        if event.kind != "ok" || event.f != call.f || event.key != call.key {
            return Err(format!("this does not answer the call of line {called}"));
        }
        let value = if call.f == "get" { event.value } else { call.value };
        let action = action(&call.f, value, true)?;
        lines::push(&mut history.operations, operation(process, call.key, action, called, number))
    })?;
    for (process, (called, call)) in open {
        let action = action(&call.f, call.value, false).map_err(|what| ReadError::line(called, what))?;
        history.operations.push(operation(process, call.key, action, called, called));
    }
    Ok(history)
}

fn operation(process: u64, key: String, action: Action, call: u64, ret: u64) -> Operation {
    Operation { process, key, action, rev: None, node: None, token: None, call, ret }
}

fn action(f: &str, value: Option<Bytes>, answered: bool) -> Result<Action, String> {
    let needed = |value: Option<Bytes>| value.ok_or_else(|| format!("a {f} needs a value"));
    match f {
        "get" if answered => Ok(Action::Get { outcome: Outcome::Ok(Some(needed(value)?)) }),
        "get" => Ok(Action::Get { outcome: Outcome::Info }),
        "put" if answered => Ok(Action::Put { value: needed(value)?, outcome: Outcome::Ok(None) }),
        "put" => Ok(Action::Put { value: needed(value)?, outcome: Outcome::Info }),
        "append" if answered => Ok(Action::Append { value: needed(value)?, outcome: Outcome::Ok(()) }),
        "append" => Ok(Action::Append { value: needed(value)?, outcome: Outcome::Info }),
        other => Err(format!(":f is :{other}, not :get, :put or :append")),
    }
}

struct Event {
    process: u64,
    kind: String,
    f: String,
    key: String,
    value: Option<Bytes>,
}

impl Event {
    fn of(text: &str) -> Result<Self, String> {
        let (mut process, mut kind, mut f, mut key, mut value) = (None, None, None, None, None);
        let mut rest = text.strip_prefix('{').ok_or("an event is a map: {...}")?;
        loop {
            rest = rest.trim_start_matches([' ', ',', '\t']);
            if let Some(end) = rest.strip_prefix('}') {
                if !end.is_empty() {
                    return Err("something follows the map".to_owned());
                }
                break;
            }
            let (name, after_name) = word(rest);
            let (found, after_value) = Value::of(after_name.trim_start())?;
            rest = after_value;
            match (name, found) {
                (":process", Value::Word(word)) => {
                    process = Some(word.parse().map_err(|_| format!(":process is {word}, not a number"))?);
                }
                (":type", Value::Word(word)) => kind = Some(keyword(word)?),
                (":f", Value::Word(word)) => f = Some(keyword(word)?),
                (":key", Value::Text(text)) => key = Some(text),
                (":value", Value::Text(text)) => value = Some(Bytes::from(text)),
                (":value", Value::Word("nil")) => {}
                (name, _) => return Err(format!("cannot read {name:?} and its value")),
            }
        }
        Ok(Self {
            process: process.ok_or(":process is missing")?,
            kind: kind.ok_or(":type is missing")?,
            f: f.ok_or(":f is missing")?,
            key: key.ok_or(":key is missing")?,
            value,
        })
    }
}

enum Value<'a> {
    Word(&'a str),
    Text(String),
}

impl<'a> Value<'a> {
    /// The value at the start of `text`, and what follows it.
    fn of(text: &'a str) -> Result<(Self, &'a str), String> {
        let Some(quoted) = text.strip_prefix('"') else {
            let (word, rest) = word(text);
            return if word.is_empty() {
                Err("a value is missing".to_owned())
            } else {
                Ok((Self::Word(word), rest))
            };
        };
        let mut unescaped = String::new();
        let mut characters = quoted.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => return Ok((Self::Text(unescaped), &quoted[at + 1..])),
                '\\' => unescaped.push(match characters.next() {
                    Some((_, 'n')) => '\n',
                    Some((_, 't')) => '\t',
                    Some((_, 'r')) => '\r',
                    Some((_, same @ ('"' | '\\'))) => same,
                    _ => return Err("a string has an escape that is not known here".to_owned()),
                }),
                other => unescaped.push(other),
            }
        }
        Err("a string has no end".to_owned())
    }
}

/// The word at the start of `text`, and what follows it.
fn word(text: &str) -> (&str, &str) {
    text.split_at(text.find([' ', ',', '}', '\t']).unwrap_or(text.len()))
}

fn keyword(word: &str) -> Result<String, String> {
    word.strip_prefix(':').map(str::to_owned).ok_or_else(|| format!("{word} is not a :keyword"))
}
