use std::collections::BTreeMap;

use raft_node::command::DETAIL_SIZE_MAX;
use rpc_core::random::SeededRandom;

use super::*;

/// Rows in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Memory(BTreeMap<Vec<u8>, Bytes>);

impl RowsRead for Memory {
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        Ok(self.0.get(key).cloned())
    }

    fn range(&self, from: &[u8], to: Option<&[u8]>, limit: usize) -> io::Result<Vec<(Bytes, Bytes)>> {
        let rows = self.0.range(from.to_vec()..);
        let rows = rows.take_while(|(key, _)| to.is_none_or(|to| key.as_slice() < to));
        Ok(rows.take(limit).map(|(key, value)| (Bytes::from(key.clone()), value.clone())).collect())
    }
}

impl Rows for Memory {
    fn put(&mut self, key: &[u8], value: Bytes) -> io::Result<()> {
        self.0.insert(key.to_vec(), value);
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> io::Result<()> {
        self.0.remove(key);
        Ok(())
    }
}

/// A machine that counts its revisions.
#[derive(Default)]
struct Machine {
    rows: Memory,
    revision: u64,
}

impl Machine {
    fn apply(&mut self, command: &Command) -> Answer {
        self.apply_bytes(&command.encode().unwrap())
    }

    fn apply_bytes(&mut self, command: &Bytes) -> Answer {
        self.revision += 1;
        let context = ApplyContext { revision: self.revision, time_ms: 0 };
        let detail = KvMachine.apply(&context, &mut self.rows, command).unwrap();
        assert!(detail.len() <= DETAIL_SIZE_MAX);
        Answer::decode(&detail).unwrap()
    }

    fn row(&self, key: &str) -> Option<Row> {
        row(&self.rows, key.as_bytes()).unwrap()
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, value: &str) -> Command {
    Command::Put { key: bytes(key), value: bytes(value) }
}

fn delete(key: &str) -> Command {
    Command::Delete { key: bytes(key) }
}

fn cas(key: &str, expect: Expect, value: &str) -> Command {
    Command::Cas { key: bytes(key), expect, value: bytes(value) }
}

#[test]
fn a_put_sets_both_revisions_and_an_overwrite_keeps_the_first() {
    let mut machine = Machine::default();
    assert_eq!(machine.apply(&put("k", "one")), Answer::Written { existed: false });
    assert_eq!(machine.apply(&put("k", "two")), Answer::Written { existed: true });
    let expected = Row { create_revision: 1, mod_revision: 2, value: bytes("two") };
    assert_eq!(machine.row("k"), Some(expected));
}

#[test]
fn a_deleted_key_is_created_anew_by_the_next_put() {
    let mut machine = Machine::default();
    assert_eq!(machine.apply(&delete("k")), Answer::Deleted { existed: false });
    machine.apply(&put("k", "one"));
    assert_eq!(machine.apply(&delete("k")), Answer::Deleted { existed: true });
    assert_eq!(machine.row("k"), None);
    machine.apply(&put("k", "two"));
    assert_eq!(machine.row("k").unwrap().create_revision, 4);
}

#[test]
fn a_failed_condition_changes_nothing_and_names_the_current_revision() {
    let mut machine = Machine::default();
    let failed = |mod_revision| Answer::ConditionFailed { mod_revision };
    assert_eq!(machine.apply(&cas("k", Expect::Revision(0), "x")), failed(None));
    assert_eq!(machine.apply(&cas("k", Expect::Value(Bytes::new()), "x")), failed(None));
    assert_eq!(machine.apply(&cas("k", Expect::Absent, "one")), Answer::Written { existed: false });
    let before = machine.rows.clone();
    assert_eq!(machine.apply(&cas("k", Expect::Absent, "x")), failed(Some(3)));
    assert_eq!(machine.apply(&cas("k", Expect::Revision(2), "x")), failed(Some(3)));
    assert_eq!(machine.apply(&cas("k", Expect::Value(bytes("two")), "x")), failed(Some(3)));
    assert_eq!(machine.rows, before);
    assert_eq!(machine.apply(&cas("k", Expect::Revision(3), "two")), Answer::Written { existed: true });
    let swap = cas("k", Expect::Value(bytes("two")), "three");
    assert_eq!(machine.apply(&swap), Answer::Written { existed: true });
}

#[test]
fn what_cannot_be_read_or_is_too_large_is_refused_and_changes_nothing() {
    let mut machine = Machine::default();
    machine.apply(&put("k", "one"));
    let before = machine.rows.clone();
    let long_key = Bytes::from(vec![b'k'; KEY_SIZE_MAX + 1]);
    let large_value = Bytes::from(vec![0; VALUE_SIZE_MAX + 1]);
    let mut trailing = put("k", "two").encode().unwrap().to_vec();
    trailing.push(0);
    let mut other_format = put("k", "two").encode().unwrap().to_vec();
    other_format[0] = FORMAT + 1;
    for command in [
        Bytes::new(),
        Bytes::from_static(&[FORMAT]),
        Bytes::from_static(b"garbage"),
        trailing.into(),
        other_format.into(),
        put("", "two").encode().unwrap(),
        Command::Put { key: long_key.clone(), value: bytes("two") }.encode().unwrap(),
        Command::Delete { key: long_key }.encode().unwrap(),
        Command::Put { key: bytes("k"), value: large_value.clone() }.encode().unwrap(),
        Command::Cas { key: bytes("k"), expect: Expect::Revision(1), value: large_value }.encode().unwrap(),
    ] {
        assert_eq!(machine.apply_bytes(&command), Answer::Refused, "{} bytes", command.len());
    }
    assert_eq!(machine.rows, before);
}

#[test]
fn the_largest_key_and_value_are_accepted() {
    let mut machine = Machine::default();
    let key = Bytes::from(vec![0xff; KEY_SIZE_MAX]);
    let value = Bytes::from(vec![7; VALUE_SIZE_MAX]);
    let command = Command::Put { key: key.clone(), value: value.clone() };
    let encoded = command.encode().unwrap();
    assert!(encoded.len() < KEY_SIZE_MAX + VALUE_SIZE_MAX + 64, "bytes travel as byte strings");
    assert_eq!(machine.apply_bytes(&encoded), Answer::Written { existed: false });
    assert_eq!(row(&machine.rows, &key).unwrap().unwrap().value, value);
}

#[test]
fn the_formats_do_not_change() {
    let command = cas("k", Expect::Revision(7), "v").encode().unwrap();
    assert_eq!(&command[..], b"\x01\xa1\x63Cas\xa3\x63key\x41k\x66expect\xa1\x68Revision\x07\x65value\x41v");
    let row = Row { create_revision: 1, mod_revision: 0x0102, value: bytes("v") };
    assert_eq!(&row.encode()[..], b"\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x01\x02v");
    let answer = encode(&Answer::ConditionFailed { mod_revision: Some(3) }).unwrap();
    assert_eq!(&answer[..], b"\x01\xa1\x6fConditionFailed\xa1\x6cmod_revision\x03");
}

#[test]
fn a_damaged_row_is_an_error_not_an_answer() {
    let mut machine = Machine::default();
    for damaged in [&b""[..], b"\x01short", b"\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01v"] {
        machine.rows.put(&row_key(b"k"), Bytes::copy_from_slice(damaged)).unwrap();
        assert!(row(&machine.rows, b"k").is_err());
    }
}

#[test]
fn random_commands_agree_with_a_map() {
    let mut random = SeededRandom::new(20_261_121);
    let (mut machine, mut model) = (Machine::default(), BTreeMap::<String, (u64, u64, String)>::new());
    for revision in 1..=20_000 {
        let key = format!("k{}", random.below(8));
        let value = format!("v{}", random.below(4));
        let current = model.get(&key).cloned();
        let existed = current.is_some();
        let created = current.as_ref().map_or(revision, |(created, ..)| *created);
        let (command, holds) = match random.below(6) {
            0 | 1 => (put(&key, &value), true),
            2 => {
                model.remove(&key);
                assert_eq!(machine.apply(&delete(&key)), Answer::Deleted { existed });
                continue;
            }
            3 => (cas(&key, Expect::Absent, &value), !existed),
            4 => {
                let expected = format!("v{}", random.below(4));
                let holds = current.as_ref().is_some_and(|(.., held)| *held == expected);
                (cas(&key, Expect::Value(bytes(&expected)), &value), holds)
            }
            _ => {
                let guess = current.as_ref().map_or(revision, |(_, modified, _)| modified - random.below(2));
                let holds = current.as_ref().is_some_and(|(_, modified, _)| *modified == guess);
                (cas(&key, Expect::Revision(guess), &value), holds)
            }
        };
        let expected = if holds {
            model.insert(key, (created, revision, value));
            Answer::Written { existed }
        } else {
            Answer::ConditionFailed { mod_revision: current.map(|(_, modified, _)| modified) }
        };
        assert_eq!(machine.apply(&command), expected, "revision {revision}: {command:?}");
    }
    assert_eq!(machine.rows.0.len(), model.len());
    for (key, (create_revision, mod_revision, value)) in model {
        let expected = Row { create_revision, mod_revision, value: bytes(&value) };
        assert_eq!(machine.row(&key), Some(expected));
    }
}
