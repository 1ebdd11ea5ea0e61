//! Is a stale read as fresh as the node said, and true at the revision that it names?

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use crate::history::{Action, History, Outcome, Shown};

/// What one node answered to a stale read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleRead {
    /// The node.
    pub node: u64,
    /// The key.
    pub key: String,
    /// What it held.
    pub value: Option<Bytes>,
    /// The revision that the node had applied.
    pub rev: u64,
    /// Everything that was answered so long before the read began is in it, in nanoseconds; `None`: no promise.
    pub age_ns: Option<u64>,
    /// When the read began, on the clock of the history.
    pub call: u64,
}

impl fmt::Display for StaleRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, key, value, rev, age_ns, call } = self;
        write!(f, "of node {node}: {key} = {} at rev {rev}, called at {call}", Shown(value.as_ref()))?;
        match age_ns {
            Some(age) => write!(f, ", at most {age} ns old"),
            None => f.write_str(", of any age"),
        }
    }
}

/// Judges stale reads by the writes of `history`: the first that is older than it says, or shows what was not there.
/// Nodes tell ages by their own clocks, which may run slow by `drift_percent`.
///
/// # Errors
/// The read, and the write that it lacks or invents.
pub fn check(history: &History, reads: &[StaleRead], drift_percent: u64) -> Result<(), String> {
    // By key and revision: what is there from that revision on, and when that was answered.
    let mut writes: BTreeMap<&str, BTreeMap<u64, (Option<&Bytes>, u64)>> = BTreeMap::new();
    let mut is_open: BTreeMap<&str, bool> = BTreeMap::new();
    for operation in &history.operations {
        if operation.action.result() == Outcome::Info && !matches!(operation.action, Action::Get { .. }) {
            is_open.insert(&operation.key, true);
        }
        if let (true, true, Some(rev), Some(value)) =
            (operation.is_ok(), operation.action.writes(), operation.rev, operation.action.leaves())
        {
            writes.entry(&operation.key).or_default().insert(rev, (value, operation.ret));
        }
    }
    for read in reads {
        let Some(writes) = writes.get(read.key.as_str()) else { continue };
        let expected = writes.range(..=read.rev).next_back().and_then(|(_, (value, _))| *value);
        // A write of unknown outcome explains any value: the clocks of the others still count.
        if expected != read.value.as_ref() && !is_open.contains_key(read.key.as_str()) {
            return Err(format!("stale read {read}, and it held {}", Shown(expected)));
        }
        let age_ns = read.age_ns.map(|age| age.saturating_add(age.saturating_mul(drift_percent) / 100));
        let Some(since) = age_ns.and_then(|age| read.call.checked_sub(age)) else { continue };
        let missed = writes.range(read.rev + 1..).find(|(_, (_, ret))| *ret < since);
        if let Some((rev, (value, ret))) = missed {
            return Err(format!(
                "stale read {read}, and misses {} of rev {rev}, which was answered at {ret}",
                Shown(*value)
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Operation;

    fn put(value: &'static str, rev: u64, ret: u64) -> Operation {
        Operation {
            process: 1,
            key: "k".to_owned(),
            action: Action::Put { value: value.into(), outcome: Outcome::Ok(None) },
            rev: Some(rev),
            node: None,
            token: None,
            call: ret - 1,
            ret,
        }
    }

    fn read(value: &'static str, rev: u64, age_ns: Option<u64>, call: u64) -> StaleRead {
        StaleRead { node: 2, key: "k".to_owned(), value: Some(value.into()), rev, age_ns, call }
    }

    #[test]
    fn a_read_must_hold_what_its_age_and_its_revision_promise() {
        let history = History { operations: vec![put("a", 1, 10), put("b", 5, 100)], ..History::default() };
        for good in [read("b", 6, Some(0), 200), read("a", 4, Some(150), 200), read("a", 1, None, 900)] {
            assert_eq!(check(&history, &[good], 0), Ok(()));
        }
        let old = check(&history, &[read("a", 4, Some(99), 200)], 0).expect_err("b was answered 100 before");
        assert!(old.contains("misses \"b\" of rev 5"), "{old}");
        let invented = check(&history, &[read("b", 4, None, 200)], 0).expect_err("b came at 5");
        assert!(invented.contains("it held \"a\""), "{invented}");
    }
}
