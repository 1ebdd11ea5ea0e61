//! What is there at the end: everything acknowledged is (durability), each of it once (exactly-once), nothing that was
//! answered *not committed*.
//!
//! Knows neither revisions' order nor real time, so it shares nothing with the other checkers: it looks at the last
//! reads of each key, those that were called after all writes of it were over.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};

use crate::history::{Action, History, Operation, Outcome, Shown};

/// Keys that begin so hold numbers that only ever grow by one.
pub const COUNTER: &str = "counter/";
/// Keys that begin so hold lists that only ever grow by one name.
pub const LIST: &str = "append/";

/// What a counter holds after one was added to `before`.
pub fn add(before: Option<&Bytes>) -> Bytes {
    (number(before).unwrap_or(0) + 1).to_string().into()
}

/// What a list holds after `name` was appended to `before`.
pub fn append(before: Option<&Bytes>, name: &str) -> Bytes {
    let before = before.map_or(&[][..], |before| before);
    let mut list = BytesMut::with_capacity(before.len() + name.len() + 1);
    list.put_slice(before);
    list.put_slice(name.as_bytes());
    list.put_u8(b';');
    list.freeze()
}

fn number(value: Option<&Bytes>) -> Option<u64> {
    match value {
        None => Some(0),
        Some(value) => std::str::from_utf8(value).ok()?.parse().ok(),
    }
}

/// Judges the effects of `history`.
///
/// # Errors
/// The first key that is not as the answers say, and why.
pub fn check(history: &History) -> Result<(), String> {
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        keys.entry(&operation.key).or_default().push(operation);
    }
    for (key, operations) in keys {
        check_key(key, &operations).map_err(|why| format!("key {key}: {why}"))?;
    }
    Ok(())
}

fn check_key(key: &str, operations: &[&Operation]) -> Result<(), String> {
    let writes = || operations.iter().filter(|it| !matches!(it.action, Action::Get { .. }));
    if writes().any(|write| write.ended().is_none()) {
        // Whatever is there may still change, and may have come from it.
        return Ok(());
    }
    let over = writes().map(|write| write.ret).max().unwrap_or(0);
    let last_reads =
        operations.iter().filter(|read| read.call > over).filter_map(|read| match &read.action {
            Action::Get { outcome: Outcome::Ok(value) } => Some((read, value.as_ref())),
            _ => None,
        });
    for (read, value) in last_reads {
        durable(operations, read, value)?;
        if key.contains(COUNTER) {
            counted(operations, value)?;
        }
        if key.contains(LIST) {
            listed(operations, value)?;
        }
    }
    Ok(())
}

/// The last acknowledged write is what is read.
fn durable(operations: &[&Operation], read: &Operation, value: Option<&Bytes>) -> Result<(), String> {
    let acknowledged = operations.iter().filter(|it| it.is_ok() && it.action.writes() && it.rev.is_some());
    let Some(last) = acknowledged.max_by_key(|write| write.rev) else {
        return match value {
            None => Ok(()),
            Some(_) => Err(format!("nothing was acknowledged, and {read}")),
        };
    };
    match last.action.leaves() {
        Some(left) if left != value => Err(format!("the last acknowledged write is {last}, and {read}")),
        _ => Ok(()),
    }
}

/// The number is that of the increments.
fn counted(operations: &[&Operation], value: Option<&Bytes>) -> Result<(), String> {
    let swaps = operations.iter().filter(|it| it.is_ok() && it.action.writes()).count() as u64;
    match number(value) {
        Some(number) if number == swaps => Ok(()),
        _ => Err(format!("{swaps} increments were acknowledged, and the counter is {}", Shown(value))),
    }
}

/// Each acknowledged name is there once, and no other.
fn listed(operations: &[&Operation], value: Option<&Bytes>) -> Result<(), String> {
    let mut names: BTreeMap<&[u8], u64> = BTreeMap::new();
    let list = value.map_or(&[][..], |value| value);
    for name in list.split(|byte| *byte == b';').filter(|name| !name.is_empty()) {
        *names.entry(name).or_default() += 1;
    }
    if let Some((name, count)) = names.iter().find(|(_, count)| **count > 1) {
        return Err(format!("{} was appended once, and is there {count} times", name.escape_ascii()));
    }
    for operation in operations {
        let Action::Cas { value: appended, .. } = &operation.action else { continue };
        let name = appended.strip_suffix(b";").and_then(|list| list.rsplit(|byte| *byte == b';').next());
        let Some(name) = name else { continue };
        let took_effect = operation.is_ok() && operation.action.writes();
        if took_effect != names.contains_key(name) {
            let there = if took_effect { "is not there" } else { "is there" };
            return Err(format!("{} {there}: {operation}", name.escape_ascii()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cas(number: u64, expect: Option<Bytes>, value: Bytes, outcome: Outcome<bool>) -> Operation {
        let action = Action::Cas { expect, value, outcome };
        let rev = Some(number);
        let key = "append/0".to_owned();
        Operation {
            process: number,
            key,
            action,
            rev,
            node: None,
            token: None,
            call: number * 10,
            ret: number * 10 + 5,
        }
    }

    fn get(value: Option<&'static str>) -> Operation {
        let action = Action::Get { outcome: Outcome::Ok(value.map(Bytes::from)) };
        let key = "append/0".to_owned();
        Operation { process: 99, key, action, rev: Some(50), node: Some(1), token: None, call: 900, ret: 905 }
    }

    fn list(value: Option<&'static str>) -> Result<(), String> {
        let one = append(None, "1.1");
        let two = append(Some(&one), "2.1");
        let operations = vec![
            cas(1, None, one.clone(), Outcome::Ok(true)),
            cas(2, Some(one.clone()), two.clone(), Outcome::Ok(true)),
            cas(3, Some(one), append(Some(&two), "3.1"), Outcome::Ok(false)),
            cas(4, Some(two.clone()), append(Some(&two), "4.1"), Outcome::Fail),
            get(value),
        ];
        check(&History { operations, ..History::default() })
    }

    #[test]
    fn each_acknowledged_name_is_there_once_and_no_other() {
        assert_eq!(list(Some("1.1;2.1;")), Ok(()));
        for (value, why) in [
            (Some("1.1;"), "the last acknowledged write"),
            (None, "the last acknowledged write"),
            (Some("1.1;2.1;4.1;"), "the last acknowledged write"),
        ] {
            let found = list(value).expect_err("it is wrong");
            assert!(found.contains(why), "{found}");
        }
        let doubled: Bytes = "1.1;1.1;".into();
        let operations = [&cas(1, None, append(None, "1.1"), Outcome::Ok(true))];
        let found = listed(&operations, Some(&doubled)).expect_err("twice");
        assert!(found.contains("there 2 times"), "{found}");
        let found = listed(&operations, None).expect_err("lost");
        assert!(found.contains("is not there"), "{found}");
    }

    #[test]
    fn a_counter_is_the_number_of_increments() {
        let one = [&cas(1, None, add(None), Outcome::Ok(true))];
        assert_eq!(counted(&one, Some(&"1".into())), Ok(()));
        for wrong in [None, Some("2".into()), Some("x".into())] {
            assert!(counted(&one, wrong.as_ref()).is_err());
        }
    }

    #[test]
    fn an_open_write_excuses_its_key() {
        let open =
            Operation { action: Action::Put { value: "v".into(), outcome: Outcome::Info }, ..get(None) };
        let operations = vec![open, get(Some("v"))];
        assert_eq!(check(&History { operations, ..History::default() }), Ok(()));
    }
}
