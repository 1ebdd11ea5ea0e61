//! The witness: hears what the worker was told, outside of the disk that is cut, and judges what the next one finds.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use super::load::{Change, FIRST, change, checksum};

/// What the storage of one disk owes.
#[derive(Default)]
pub struct Witness {
    identity: Option<String>,
    /// The highest vote that was durable, and the highest that was asked for.
    vote: u64,
    vote_asked: u64,
    /// Durable entries: index and term.
    durable: BTreeMap<u64, u64>,
    /// Terms of the entries as the worker sees its log.
    log: BTreeMap<u64, u64>,
    /// Everything that was ever asked to be appended: (index, term).
    asked: BTreeSet<(u64, u64)>,
    /// Terms of the entries that were asked to be applied: these can never change.
    applied: BTreeMap<u64, u64>,
    purge_asked: u64,
    /// The last index of the newest snapshot that was durable.
    snapshot: u64,
    found: Found,
    has_opened: bool,
    /// Acknowledgements heard: votes, entries, snapshots.
    acknowledged: u64,
}

/// What a worker finds while it opens.
#[derive(Default)]
struct Found {
    identity: Option<String>,
    vote: u64,
    entries: BTreeMap<u64, u64>,
    rows: BTreeMap<u8, (usize, u32)>,
}

impl Witness {
    /// A new worker begins on this disk.
    pub fn begin(&mut self) {
        self.found = Found::default();
        self.has_opened = false;
    }

    /// Whether the worker has opened its storage.
    pub fn has_opened(&self) -> bool {
        self.has_opened
    }

    /// Acknowledgements heard so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Takes in what the worker said.
    ///
    /// # Errors
    /// What is wrong with what it found on the disk, or that it is not understood.
    pub fn hear(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["opening"] => {}
            ["identity", identity] => self.found.identity = Some(identity.to_owned()),
            ["voted", term] => self.found.vote = number(term)?,
            ["entry", term, index, "right"] => drop(self.found.entries.insert(number(index)?, number(term)?)),
            ["entry", term, index, _] => {
                return Err(format!("entry {index} of term {term} holds something else than was appended"));
            }
            ["row", key, length, sum] => {
                let sum = u32::from_str_radix(sum, 16).map_err(|error| error.to_string())?;
                self.found.rows.insert(number(key)?, (number(length)?, sum));
            }
            ["opened", purged, last, applied, snapshot] => {
                self.judge(number(purged)?, number(last)?, number(applied)?, number(snapshot)?)?;
                self.has_opened = true;
            }
            ["vote", term] => self.vote_asked = number(term)?,
            ["vote-done", term] => {
                self.vote = number(term)?;
                self.acknowledged += 1;
            }
            ["append", term, first, count] => {
                let (term, first, count): (u64, u64, u64) = (number(term)?, number(first)?, number(count)?);
                self.asked.extend((first..first + count).map(|index| (index, term)));
                self.log.extend((first..first + count).map(|index| (index, term)));
            }
            ["append-done", last] => {
                let last: u64 = number(last)?;
                let known = self.durable.last_key_value().map_or(0, |(index, _)| *index);
                let new = self.log.range(..=last).filter(|(index, _)| **index > known);
                let before = self.durable.len();
                self.durable.extend(new.map(|(index, term)| (*index, *term)));
                self.acknowledged += (self.durable.len() - before) as u64;
            }
            ["truncate", last] => {
                let last: u64 = number(last)?;
                self.log.retain(|index, _| *index <= last);
                self.durable.retain(|index, _| *index <= last);
            }
            ["apply", last] => {
                let last: u64 = number(last)?;
                // After a cut, some are applied again.
                let known = self.applied.last_key_value().map_or(0, |(index, _)| *index);
                let new = self.log.range(..=last).filter(|(index, _)| **index > known);
                self.applied.extend(new.map(|(index, term)| (*index, *term)));
            }
            ["snapshot-done", last] => {
                self.snapshot = self.snapshot.max(number(last)?);
                self.acknowledged += 1;
            }
            ["purge", last] => {
                let last: u64 = number(last)?;
                self.purge_asked = self.purge_asked.max(last);
                self.log.retain(|index, _| *index > last);
                self.durable.retain(|index, _| *index > last);
            }
            _ => return Err(format!("the worker said `{line}`")),
        }
        Ok(())
    }

    /// Whether what was found is what may be there; from then on it counts.
    fn judge(&mut self, purged: u64, last: u64, applied: u64, snapshot: u64) -> Result<(), String> {
        let found = std::mem::take(&mut self.found);
        if self.identity.is_some() && self.identity != found.identity {
            return Err("the identity is another one".to_owned());
        }
        if !(self.vote..=self.vote_asked).contains(&found.vote) {
            return Err(format!("the vote is {}, {} was durable", found.vote, self.vote));
        }
        if purged > self.purge_asked {
            return Err(format!("purged up to {purged}, asked for was {}", self.purge_asked));
        }
        let indexes = found.entries.keys().copied();
        if !indexes.eq((purged + 1).max(FIRST)..last + 1) {
            return Err(format!("the log has holes between {purged} and {last}"));
        }
        for (index, term) in &found.entries {
            if !self.asked.contains(&(*index, *term)) {
                return Err(format!("entry {index} of term {term} was never appended"));
            }
            if self.applied.get(index).is_some_and(|applied| applied != term) {
                return Err(format!("entry {index} has term {term}, another one was applied"));
            }
        }
        for (index, term) in self.durable.range(purged + 1..) {
            if found.entries.get(index) != Some(term) {
                let there = found.entries.get(index);
                return Err(format!(
                    "entry {index} of term {term} was durable and is lost ({there:?} is there)"
                ));
            }
        }
        if applied < purged {
            return Err(format!("the state is at {applied}, the log begins after {purged}"));
        }
        if applied > self.applied.last_key_value().map_or(0, |(index, _)| *index) {
            return Err(format!("the state is at {applied}, which was never applied"));
        }
        self.judge_rows(applied, &found.rows)?;
        if snapshot < self.snapshot {
            return Err(format!(
                "the snapshot at {} was durable, the newest is at {snapshot}",
                self.snapshot
            ));
        }
        self.identity = found.identity;
        self.vote = found.vote;
        self.vote_asked = found.vote;
        // What was found once must be found again.
        self.log = found.entries.clone();
        self.durable = found.entries;
        self.snapshot = snapshot;
        Ok(())
    }

    /// Whether the rows are those after the entry at `applied`, of which none may be missing or half there.
    fn judge_rows(&self, applied: u64, rows: &BTreeMap<u8, (usize, u32)>) -> Result<(), String> {
        let mut expected = BTreeMap::new();
        for (index, term) in self.applied.range(..=applied) {
            match change(*term, *index) {
                Change::Open => {}
                Change::Put(key, value) => drop(expected.insert(key, (value, *index))),
                Change::Delete(key) => drop(expected.remove(&key)),
            }
        }
        for (key, (value, index)) in &expected {
            if rows.get(key) != Some(&(value.len(), checksum(value))) {
                return Err(format!(
                    "row {key} is not what entry {index} made it; the state is at {applied}"
                ));
            }
        }
        match rows.keys().find(|key| !expected.contains_key(key)) {
            Some(key) => Err(format!("row {key} is there and should not be; the state is at {applied}")),
            None => Ok(()),
        }
    }
}

fn number<T: FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("`{word}` is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One entry appended and applied, one only appended, and a vote; then a cut.
    fn witness() -> Witness {
        let mut witness = Witness::default();
        for line in [
            "opening",
            "identity a",
            "voted 0",
            "opened 0 0 0 0",
            "vote 5",
            "vote-done 5",
            "append 5 1 2",
            "append-done 2",
            "apply 2",
            "append 5 3 1",
            "append-done 3",
            "append 5 4 1",
        ] {
            witness.hear(line).unwrap();
        }
        witness.begin();
        witness
    }

    fn row(term: u64, index: u64) -> String {
        match change(term, index) {
            Change::Put(key, value) => format!("row {key} {} {:08x}", value.len(), checksum(&value)),
            other => panic!("{other:?}"),
        }
    }

    fn verdict(lines: &[&str]) -> Result<(), String> {
        let mut witness = witness();
        lines.iter().try_for_each(|line| witness.hear(line))
    }

    #[test]
    fn what_was_promised_passes_with_and_without_what_was_only_asked() {
        let row = row(5, 2);
        let three = ["identity a", "voted 5", "entry 5 1 right", "entry 5 2 right", "entry 5 3 right"];
        verdict(&[&three[..], &[&row, "opened 0 3 2 0"]].concat()).unwrap();
        verdict(&[&three[..], &["opened 0 3 1 0"]].concat()).unwrap();
        verdict(&[&three[..], &["entry 5 4 right", &row, "opened 0 4 2 0"]].concat()).unwrap();
    }

    #[test]
    fn every_broken_promise_is_named() {
        let row = row(5, 2);
        let all = ["identity a", "voted 5", "entry 5 1 right", "entry 5 2 right", "entry 5 3 right", &row];
        let refused = |lines: &[&str], what: &str| {
            let error = verdict(lines).unwrap_err();
            assert!(error.contains(what), "{error}");
        };
        let with = |position: usize, line| {
            let mut lines = all.to_vec();
            lines[position] = line;
            lines.push("opened 0 3 2 0");
            lines
        };
        refused(&with(0, "identity b"), "identity");
        refused(&with(1, "voted 4"), "vote");
        refused(&with(1, "voted 6"), "vote");
        refused(&with(4, "voted 5"), "holes");
        refused(&with(3, "entry 4 2 right"), "never appended");
        refused(&with(3, "entry 5 2 wrong"), "something else");
        refused(&with(5, "row 3 1 00000000"), "row");
        refused(
            &[&all[..4], &[&row, "opened 0 2 2 0"]].concat(),
            "entry 3 of term 5 was durable and is lost",
        );
        refused(&[&all[..], &["opened 0 3 3 0"]].concat(), "never applied");
        refused(&[&all[..], &["opened 0 3 1 0"]].concat(), "should not be");
        refused(&[&all[..], &["opened 9 3 2 0"]].concat(), "asked for was 0");
    }
}
