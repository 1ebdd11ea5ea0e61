//! history.jsonl: one operation a line, so that any other checker can judge a run (docs/TESTING.md).
//!
//! The reader is strict: a field that does not belong to its line is an error, because a misspelt field would
//! silently change what the history says.

use std::io::{self, BufRead, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};

use super::lines::{self, ReadError};
use super::operation::{Action, History, Nemesis, Operation, Outcome, Semantics, Token};

/// Writes a history, line by line as it happens.
#[derive(Debug)]
pub struct HistoryWriter<W> {
    output: W,
}

impl<W: Write> HistoryWriter<W> {
    /// A history that goes to `output`, which should be buffered.
    pub fn new(output: W) -> Self {
        Self { output }
    }

    /// Adds the line of one operation. An append has none: [`io::ErrorKind::InvalidInput`].
    pub fn operation(&mut self, operation: &Operation) -> io::Result<()> {
        let line = Line::of_operation(operation).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "history.jsonl has no word for append")
        })?;
        self.line(&line)
    }

    /// Adds the line of one fault.
    pub fn nemesis(&mut self, nemesis: &Nemesis) -> io::Result<()> {
        self.line(&Line::of_nemesis(nemesis))
    }

    /// Flushes, and gives the output back.
    pub fn finish(mut self) -> io::Result<W> {
        self.output.flush()?;
        Ok(self.output)
    }

    fn line(&mut self, line: &Line) -> io::Result<()> {
        serde_json::to_writer(&mut self.output, line)?;
        self.output.write_all(b"\n")
    }
}

/// Reads a history whose first line has the number `before + 1`.
pub(super) fn read(input: &mut impl BufRead, before: u64) -> Result<History, ReadError> {
    let mut history = History { semantics: Semantics::Register, ..History::default() };
    let mut line_of_operation = Vec::new();
    lines::for_each_line(input, before, |number, text| {
        let line: Line = serde_json::from_str(text).map_err(|error| column_only(&error))?;
        if line.op == NEMESIS {
            return lines::push(&mut history.nemeses, line.into_nemesis()?);
        }
        line_of_operation.push(number);
        lines::push(&mut history.operations, line.into_operation()?)
    })?;
    check_processes(&history.operations, &line_of_operation)?;
    Ok(history)
}

/// Says where in the line the JSON is wrong; serde_json counts the line we handed it as line 1.
fn column_only(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

/// A process has one operation open at a time, and none after an `info`.
fn check_processes(operations: &[Operation], line_of_operation: &[u64]) -> Result<(), ReadError> {
    let mut order: Vec<usize> = (0..operations.len()).collect();
    order.sort_by_key(|&index| {
        let operation = &operations[index];
        (operation.process, operation.call, operation.ended().unwrap_or(u64::MAX))
    });
    for pair in order.windows(2) {
        let (earlier, later) = (&operations[pair[0]], &operations[pair[1]]);
        let (earlier_line, later_line) = (line_of_operation[pair[0]], line_of_operation[pair[1]]);
        if earlier.process != later.process {
            continue;
        }
        let process = later.process;
        match earlier.ended() {
            None => {
                let what = format!("process {process} is used again after its info on line {earlier_line}");
                return Err(ReadError::line(later_line, what));
            }
            Some(ended) if ended > later.call => {
                let what = format!("process {process} still has the operation of line {earlier_line} open");
                return Err(ReadError::line(later_line, what));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

const NEMESIS: &str = "nemesis";

/// One line as it stands in the file. A doubled option tells "not there" from null, which means absent.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<u64>,
    op: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    f: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    expect: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expect_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    value: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    swapped: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    existed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rev: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<Token>,
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ret: Option<u64>,
}

/// Runs only if the field is there, so that null becomes `Some(None)`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl Line {
    fn of_nemesis(nemesis: &Nemesis) -> Self {
        Self {
            op: NEMESIS.to_owned(),
            f: Some(nemesis.f.clone()),
            value: nemesis.value.clone().map(Some),
            call: Some(nemesis.call),
            ret: nemesis.ret,
            ..Self::default()
        }
    }

    fn of_operation(operation: &Operation) -> Option<Self> {
        let mut line = Self {
            process: Some(operation.process),
            op: operation.action.word().to_owned(),
            key: Some(operation.key.clone()),
            result: Some(operation.action.result().word().to_owned()),
            rev: operation.rev,
            node: operation.node,
            token: operation.token,
            call: Some(operation.call),
            ret: operation.ended(),
            ..Self::default()
        };
        match &operation.action {
            Action::Get { outcome: Outcome::Ok(value) } => {
                (line.value, line.value_b64) = text_or_base64(value.as_ref())
            }
            Action::Get { .. } => {}
            Action::Put { value, outcome } => {
                (line.value, line.value_b64) = text_or_base64(Some(value));
                line.existed = existed(outcome);
            }
            Action::Cas { expect, value, outcome } => {
                (line.expect, line.expect_b64) = text_or_base64(expect.as_ref());
                (line.value, line.value_b64) = text_or_base64(Some(value));
                line.swapped = match outcome {
                    Outcome::Ok(swapped) => Some(*swapped),
                    Outcome::Fail | Outcome::Info => None,
                };
            }
            Action::Delete { outcome } => line.existed = existed(outcome),
            Action::Append { .. } => return None,
        }
        Some(line)
    }

    fn into_nemesis(self) -> Result<Nemesis, String> {
        let f = self.f.ok_or("a nemesis needs f")?;
        let call = self.call.ok_or("a nemesis needs call")?;
        if self.process.is_some() || self.key.is_some() || self.result.is_some() {
            return Err("a nemesis has only f, value, call and ret".to_owned());
        }
        Ok(Nemesis { f, value: self.value.flatten(), call, ret: self.ret })
    }

    fn into_operation(self) -> Result<Operation, String> {
        let process = self.process.ok_or("process is missing")?;
        let key = self.key.ok_or("key is missing")?;
        let call = self.call.ok_or("call is missing")?;
        if self.f.is_some() {
            return Err("f belongs to a nemesis".to_owned());
        }
        let result = match self.result.as_deref() {
            Some("ok") => Outcome::Ok(()),
            Some("fail") => Outcome::Fail,
            Some("info") => Outcome::Info,
            Some(other) => return Err(format!("result is {other:?}, not ok, fail or info")),
            None => return Err("result is missing".to_owned()),
        };
        let ret = match (result, self.ret) {
            (Outcome::Info, _) => call,
            (_, None) => return Err("ret is missing".to_owned()),
            (_, Some(ret)) if ret < call => return Err(format!("ret {ret} is before call {call}")),
            (_, Some(ret)) => ret,
        };
        let value = bytes_of("value", self.value, self.value_b64)?;
        let expect = bytes_of("expect", self.expect, self.expect_b64)?;

        if expect.is_some() && self.op != "cas" {
            return Err("expect belongs to a cas".to_owned());
        }
        if self.swapped.is_some() && (self.op != "cas" || result != Outcome::Ok(())) {
            return Err("swapped belongs to a cas that is ok".to_owned());
        }
        if self.existed.is_some()
            && (!matches!(self.op.as_str(), "put" | "delete") || result != Outcome::Ok(()))
        {
            return Err("existed belongs to a put or delete that is ok".to_owned());
        }
        let action = match self.op.as_str() {
            "get" => match (result, value) {
                (Outcome::Ok(()), None) => return Err("a get that is ok needs value".to_owned()),
                (Outcome::Ok(()), Some(value)) => Action::Get { outcome: Outcome::Ok(value) },
                (_, Some(Some(_))) => return Err("a get that is not ok has no value".to_owned()),
                (Outcome::Fail, _) => Action::Get { outcome: Outcome::Fail },
                (Outcome::Info, _) => Action::Get { outcome: Outcome::Info },
            },
            "put" => Action::Put {
                value: value.flatten().ok_or("a put needs value")?,
                outcome: with_answer(result, self.existed),
            },
            "cas" => Action::Cas {
                expect: expect.ok_or("a cas needs expect")?,
                value: value.flatten().ok_or("a cas needs value")?,
                outcome: match (result, self.swapped) {
                    (Outcome::Ok(()), None) => return Err("a cas that is ok needs swapped".to_owned()),
                    (result, swapped) => with_answer(result, swapped.unwrap_or_default()),
                },
            },
            "delete" if value.is_some() => return Err("a delete has no value".to_owned()),
            "delete" => Action::Delete { outcome: with_answer(result, self.existed) },
            "" => return Err("op is missing".to_owned()),
            other => return Err(format!("op is {other:?}, not get, put, cas, delete or nemesis")),
        };
        Ok(Operation { process, key, action, rev: self.rev, node: self.node, token: self.token, call, ret })
    }
}

fn with_answer<T>(result: Outcome<()>, answer: T) -> Outcome<T> {
    match result {
        Outcome::Ok(()) => Outcome::Ok(answer),
        Outcome::Fail => Outcome::Fail,
        Outcome::Info => Outcome::Info,
    }
}

fn existed(outcome: &Outcome<Option<bool>>) -> Option<bool> {
    match outcome {
        Outcome::Ok(existed) => *existed,
        Outcome::Fail | Outcome::Info => None,
    }
}

/// The pair of fields (`x`, `x_b64`) for a value.
fn text_or_base64(value: Option<&Bytes>) -> (Option<Option<String>>, Option<String>) {
    match value.map(|value| str::from_utf8(value)) {
        None => (Some(None), None),
        Some(Ok(text)) => (Some(Some(text.to_owned())), None),
        Some(Err(_)) => (None, value.map(|value| BASE64.encode(value))),
    }
}

/// The value of the fields `name` and `name_b64`: `None` if neither is there, `Some(None)` if it says absent.
fn bytes_of(
    name: &str,
    text: Option<Option<String>>,
    base64: Option<String>,
) -> Result<Option<Option<Bytes>>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(format!("{name} and {name}_b64 exclude each other")),
        (None, Some(base64)) => match BASE64.decode(base64) {
            Ok(bytes) => Ok(Some(Some(bytes.into()))),
            Err(error) => Err(format!("{name}_b64: {error}")),
        },
        (text, None) => Ok(text.map(|text| text.map(Bytes::from))),
    }
}
