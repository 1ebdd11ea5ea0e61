//! A crash after any operation, and damage at any byte.

use std::collections::BTreeMap;

use super::*;

/// The sight at each round boundary of the scenario applied in rounds of `per_round` entries, by applied index.
fn boundaries(per_round: usize, unsaved_size_max: usize) -> (TestDisk, BTreeMap<Option<u64>, Sight>) {
    let disk = TestDisk::default();
    let host = open_lazy(disk.handle(), unsaved_size_max).unwrap();
    let mut sights = BTreeMap::from([(None, host.sight())]);
    for round in scenario().chunks(per_round) {
        host.apply_all(round.to_vec()).unwrap();
        sights.insert(host.applied().index(), host.sight());
    }
    (disk, sights)
}

/// Opens what a crash left, checks that it is one of `sights` and nothing more, and that it can go on.
fn check_reopened(disk: &TestDisk, sights: &BTreeMap<Option<u64>, Sight>, at: &str) {
    let host = open(disk.handle()).unwrap_or_else(|error| panic!("{at}: {error}"));
    let sight = host.sight();
    assert_eq!(Some(&sight), sights.get(&sight.applied.index()), "{at}");
    let named = sight.rows.iter().filter(|(_, value)| value.len() > VALUE_PIECE_SIZE);
    let named: usize = named.map(|(_, value)| value.len().div_ceil(VALUE_PIECE_SIZE)).sum();
    assert_eq!(disk.content().piece_keys().len(), named, "no pieces but those of values: {at}");
    let states = disk.content().generations().len();
    assert!(states <= 1, "{states} states: {at}");
    let rest = scenario().into_iter().filter(|entry| sight.applied.index() < Some(entry.log_id.index));
    host.apply_all(rest).unwrap();
    assert_eq!(Some((&Some(21), &host.sight())), sights.last_key_value(), "going on: {at}");
}

#[test]
fn every_prefix_of_operations_reopens_at_a_round_boundary() {
    for (per_round, unsaved_size_max) in [(1, 0), (4, 0), (21, 0), (1, 500), (1, 9_000), (4, 9_000)] {
        let (disk, sights) = boundaries(per_round, unsaved_size_max);
        let prefixes = disk.prefixes_since(&Default::default());
        assert!(prefixes.len() > 1, "something was saved");
        for (count, content) in prefixes.into_iter().enumerate() {
            let disk = TestDisk::of(content);
            let at = format!("{count} operations in rounds of {per_round}, saves of {unsaved_size_max}");
            check_reopened(&disk, &sights, &at);
        }
    }
}

#[test]
fn what_was_not_saved_is_applied_again() {
    let (disk, sights) = boundaries(1, usize::MAX);
    assert!(!disk.content().trees.contains_key("sm.0"), "nothing was saved");
    check_reopened(&disk, &sights, "nothing saved");
    let (disk, sights) = boundaries(1, 3 * VALUE_PIECE_SIZE);
    let host = open(disk.handle()).unwrap();
    let saved = host.applied().index();
    assert!(Some(5) < saved && saved < Some(21), "{saved:?}");
    assert_eq!(Some(&host.sight()), sights.get(&saved));
}

#[test]
fn a_crash_while_reopening_loses_nothing_either() {
    let (disk, sights) = boundaries(4, 0);
    for (count, content) in disk.prefixes_since(&Default::default()).into_iter().enumerate().step_by(7) {
        let disk = TestDisk::of(content.clone());
        let index = open(disk.handle()).unwrap().applied().index();
        for (again, content) in disk.prefixes_since(&content).into_iter().enumerate() {
            let disk = TestDisk::of(content);
            let at = format!("{count} operations, {again} while reopening");
            assert_eq!(open(disk.handle()).unwrap().applied().index(), index, "{at}");
            check_reopened(&disk, &sights, &at);
        }
    }
}

#[test]
fn damaged_bytes_are_refused_and_never_served() {
    let (disk, host) = scenario_disk();
    let sight = host.sight();
    let content = disk.content().clone();
    let trees: Vec<_> = content.trees.iter().map(|(name, rows)| (name.clone(), rows.clone())).collect();
    let mut refused = 0;
    for (tree, rows) in trees {
        for (key, item) in rows {
            // Every byte of small items, some of large ones.
            for position in (0..item.len()).filter(|position| *position < 64 || position % 389 == 0) {
                let mut damaged = content.clone();
                let mut bytes = item.to_vec();
                bytes[position] ^= 1 << (position % 8);
                damaged.trees.get_mut(&tree).unwrap().insert(key.clone(), bytes.into());
                let disk = TestDisk::of(damaged);
                let found = open(disk.handle()).and_then(|host| {
                    let rows = host.read(|rows, _| rows.range(&[], None, usize::MAX))?;
                    Ok((rows, host.sessions(), host.applied()))
                });
                match found {
                    Err(error) => {
                        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
                        refused += 1;
                    }
                    // Nothing reads what was damaged.
                    Ok(found) => assert_eq!(found, (sight.rows.clone(), sight.sessions, sight.applied)),
                }
            }
        }
    }
    assert!(refused > 500, "{refused} refused");
}

#[test]
fn rows_without_a_state_head_are_refused() {
    let (disk, _) = scenario_disk();
    let mut content = disk.content().clone();
    content.trees.get_mut("sm.0").unwrap().remove([2].as_slice());
    let error = open(TestDisk::of(content).handle()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn sessions_and_tombstones_survive_a_restart() {
    let disk = TestDisk::default();
    let host = open(disk.handle()).unwrap();
    let resolve = Command::Resolve { session: 1, sequence: 2, floor: 0, time_ms: 1 };
    host.apply_all([open_session(1, 7), write(2, 1, 1, "put a 1 1"), entry(3, &resolve)]).unwrap();
    let host = open(disk.handle()).unwrap();
    let late = [write(4, 1, 1, "put a 1 9"), write(5, 1, 2, "put a 1 9"), open_session(6, 7)];
    let replies = host.apply_all(late).unwrap();
    assert_eq!(replies[0], applied_reply(2));
    assert!(matches!(&replies[1], Reply::Settled(record) if record.verdict == Verdict::RolledBack));
    assert_eq!(replies[2], Reply::Opened { session: 1 });
    assert_eq!(host.get("a").unwrap(), pattern(1, 1));
}
