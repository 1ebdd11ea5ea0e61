//! Histories as a test writes them, one operation a line: `PROCESS KEY OPERATION RESULT CALL..RET @REV`.
//!
//! Operations are `put V`, `get V`, `cas FROM TO`, `delete` and `append V`, with `-` for absent. RESULT may be `fail`
//! or `info`, for cas `swapped` or `mismatch`, for put and delete `existed` or `new`; nothing is ok. `info` has no RET.

use bytes::Bytes;

use crate::history::{Action, History, Operation, Outcome};

pub(crate) fn history(text: &str) -> History {
    let operations = text.lines().filter(|line| !line.trim().is_empty()).map(operation).collect();
    History { operations, ..History::default() }
}

fn operation(line: &str) -> Operation {
    let mut words = line.split_whitespace().peekable();
    let mut next = || words.next().unwrap_or_else(|| panic!("too short: {line}"));
    let process = next().parse().unwrap_or_else(|_| panic!("no process: {line}"));
    let key = next().to_owned();
    let (word, arguments) = match next() {
        word @ ("put" | "get" | "append") => (word, vec![next()]),
        word @ "cas" => (word, vec![next(), next()]),
        word @ "delete" => (word, vec![]),
        _ => panic!("no operation: {line}"),
    };
    let result = words.next_if(|word| !word.contains("..")).unwrap_or("ok");
    let (call, ret) =
        words.next().and_then(|word| word.split_once("..")).unwrap_or_else(|| panic!("no call: {line}"));
    let call = call.parse().unwrap_or_else(|_| panic!("no call: {line}"));
    let rev = words
        .next()
        .map(|word| word.trim_start_matches('@').parse().unwrap_or_else(|_| panic!("no rev: {line}")));

    let value =
        |index: usize| (arguments[index] != "-").then(|| Bytes::copy_from_slice(arguments[index].as_bytes()));
    let present = |index: usize| value(index).unwrap_or_else(|| panic!("absent: {line}"));
    let action = match word {
        "put" => Action::Put { value: present(0), outcome: outcome(result, existed(result)) },
        "get" => Action::Get { outcome: outcome(result, value(0)) },
        "append" => Action::Append { value: present(0), outcome: outcome(result, ()) },
        "cas" => {
            Action::Cas { expect: value(0), value: present(1), outcome: outcome(result, result == "swapped") }
        }
        _ => Action::Delete { outcome: outcome(result, existed(result)) },
    };
    let ret = if result == "info" { call } else { ret.parse().unwrap_or_else(|_| panic!("no ret: {line}")) };
    Operation { process, key, action, rev, node: None, token: None, call, ret }
}

fn outcome<T>(result: &str, answer: T) -> Outcome<T> {
    match result {
        "fail" => Outcome::Fail,
        "info" => Outcome::Info,
        _ => Outcome::Ok(answer),
    }
}

fn existed(result: &str) -> Option<bool> {
    match result {
        "existed" => Some(true),
        "new" => Some(false),
        _ => None,
    }
}
