//! The laws of merging, over thousands of random copies from fixed seeds.

use std::collections::BTreeMap;
use std::fmt::Debug;

use super::*;
use crate::random::SeededRandom;
use crate::rpc::codec;

const CASES: u64 = 2_000;

/// Merges give the same copy in every order and grouping, and again nothing new.
fn obeys_the_laws<T: Crdt + Clone + PartialEq + Debug>(random: impl Fn(&mut SeededRandom) -> T) {
    let merged = |mut first: T, second: &T| {
        first.merge(second.clone());
        first
    };
    let mut changed = 0;
    for seed in 0..CASES {
        let source = &mut SeededRandom::new(seed);
        let (a, b, c) = (random(source), random(source), random(source));
        let ab = merged(a.clone(), &b);
        assert_eq!(ab, merged(b.clone(), &a), "commutative, seed {seed}");
        assert_eq!(
            merged(ab.clone(), &c),
            merged(a.clone(), &merged(b.clone(), &c)),
            "associative, seed {seed}"
        );
        assert_eq!(merged(ab.clone(), &ab), ab, "idempotent, seed {seed}");
        assert!(!ab.clone().merge(a.clone()), "a copy knows what it took in, seed {seed}");
        assert_eq!(a.clone().merge(b), a != ab, "`merge` says whether it changed anything, seed {seed}");
        changed += u64::from(a != ab);
    }
    assert!(changed > CASES / 4, "only {changed} merges changed anything");
}

/// Few values, so that stamps and keys meet often.
fn stamp(random: &mut SeededRandom) -> Stamp {
    Stamp { wall_ms: random.below(4), counter: random.below(2) as u32, writer: random.below(3) }
}

fn map(random: &mut SeededRandom) -> LwwMap<u64, u64> {
    let mut map = LwwMap::new();
    for _ in 0..random.below(8) {
        let value = random.chance(700_000).then(|| random.below(3));
        map.write(random.below(5), stamp(random), value);
    }
    map
}

#[test]
fn a_growing_set_obeys_the_laws() {
    obeys_the_laws(|random| (0..random.below(6)).map(|_| random.below(10)).collect::<GSet<u64>>());
}

#[test]
fn the_last_write_obeys_the_laws_even_with_equal_stamps() {
    obeys_the_laws(|random| Lww::new(stamp(random), random.below(3)));
}

#[test]
fn a_map_with_removals_obeys_the_laws() {
    obeys_the_laws(map);
}

#[test]
fn a_part_is_enough_to_become_equal() {
    let mut smaller = 0;
    for seed in 0..CASES {
        let random = &mut SeededRandom::new(seed);
        let (mut a, mut b) = (map(random), map(random));
        // Two values under one stamp are a lie that stamps do not show: here stamps tell values apart.
        let honest = |map: &LwwMap<u64, u64>| {
            let mut honest = LwwMap::new();
            for (key, stamp) in map.stamps() {
                let hash = stamp.wall_ms * 7 + u64::from(stamp.counter) * 3 + stamp.writer;
                honest.write(*key, stamp, (hash % 4 > 0).then_some(hash));
            }
            honest
        };
        (a, b) = (honest(&a), honest(&b));
        let stamps = |map: &LwwMap<u64, u64>| -> BTreeMap<_, _> {
            map.stamps().map(|(key, stamp)| (*key, stamp)).collect()
        };
        let (for_a, for_b) = (b.newer_than(&stamps(&a)), a.newer_than(&stamps(&b)));
        smaller += u64::from(for_a.entries().len() < b.entries().len());
        a.merge(for_a);
        b.merge(for_b);
        assert_eq!(a, b, "seed {seed}");
        assert_eq!(a.newer_than(&stamps(&b)), LwwMap::new());
        assert_eq!(a.digest(4, |key| *key), b.digest(4, |key| *key));
    }
    assert!(smaller > CASES / 4);
}

#[test]
fn a_digest_tells_in_which_bucket_copies_differ() {
    let mut a = LwwMap::new();
    for key in 0..100u64 {
        a.write(key, Stamp { wall_ms: key, counter: 0, writer: 1 }, Some(key));
    }
    let mut b = a.clone();
    b.write(37, Stamp { wall_ms: 1_000, counter: 0, writer: 2 }, None);
    let (a, b) = (a.digest(16, |key| *key), b.digest(16, |key| *key));
    let differing: Vec<_> = (0..16).filter(|bucket| a[*bucket] != b[*bucket]).collect();
    assert_eq!(differing, [37 % 16]);
}

#[test]
fn the_digest_of_one_entry_is_the_one_that_the_protocol_names() {
    let mut map = LwwMap::new();
    map.write(1u64, Stamp { wall_ms: 2, counter: 3, writer: 4 }, Some(()));
    // FNV-1a of 0000000000000001 0000000000000002 00000003 0000000000000004, computed apart.
    assert_eq!(map.digest(1, |key| *key), [FNV_OF_ONE_ENTRY]);
    assert_eq!(LwwMap::<u64, ()>::new().digest(2, |key| *key), [0xcbf2_9ce4_8422_2325; 2]);
}

const FNV_OF_ONE_ENTRY: u64 = 0x28b9_f62c_088a_6899;

#[test]
fn a_removal_holds_against_older_copies_until_it_is_forgotten() {
    let early = Stamp { wall_ms: 1, ..Stamp::default() };
    let late = Stamp { wall_ms: 2, ..Stamp::default() };
    let mut map = LwwMap::new();
    map.write("key", early, Some(1));
    let old = map.clone();
    map.write("key", late, None);
    assert!(!map.merge(old.clone()));
    assert_eq!((map.get(&"key"), map.iter().count(), map.entries().len()), (None, 0, 1));
    map.forget(&"key");
    assert!(map.merge(old));
    assert_eq!(map.get(&"key"), Some(&1));
}

#[test]
fn copies_travel_as_cbor() {
    let map = map(&mut SeededRandom::new(5));
    assert_eq!(codec::decode::<LwwMap<u64, u64>>(&codec::encode(&map).unwrap()), Ok(map));
    let set: GSet<u64> = [3, 1, 2].into_iter().collect();
    assert_eq!(codec::encode(&set).unwrap()[..], [0x83, 1, 2, 3]);
    let stamp = Stamp { wall_ms: 1, counter: 2, writer: 3 };
    assert_eq!(codec::encode(&stamp).unwrap()[..], [0x83, 1, 2, 3]);
}
