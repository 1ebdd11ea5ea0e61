//! Thousands of seeded mutations of valid inputs for every decoder, in each run of the tests.

use super::*;
use crate::random::SeededRandom;

/// Mutations of one target; whole endpoints are slower.
const MUTATIONS: u64 = 4_000;
const SCRIPTS: u64 = 60;

fn mutate_all(name: &str, count: u64) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of this name");
    let seeds = (target.seeds)();
    for (index, seed) in seeds.iter().enumerate() {
        assert!((target.run)(seed), "seed {index} of {name} is not accepted");
    }
    let (mut accepted, mut refused) = (0, 0);
    for number in 0..count {
        let mut random = SeededRandom::new(number);
        let mut input = random.pick(&seeds).expect("seeds").clone();
        mutate(&mut random, &mut input, &seeds);
        if (target.run)(&input) {
            accepted += 1
        } else {
            refused += 1
        };
    }
    assert!(accepted > count / 100, "{accepted} of {count} mutations are accepted: too wild to get far");
    assert!(refused > 0 || name.starts_with("endpoint"), "nothing is refused");
}

/// One to four edits of the kinds that find mistakes: flipped bits, ends of ranges, lengths that lie, parts that are
/// missing, repeated, or from elsewhere.
fn mutate(random: &mut SeededRandom, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    const INTERESTING: [u8; 12] = [0, 1, 0x17, 0x18, 0x3f, 0x40, 0x7f, 0x80, 0x9f, 0xbf, 0xc0, 0xff];
    for _ in 0..random.between(1, 4) {
        let at = random.below(input.len().max(1) as u64) as usize;
        match random.below(9) {
            _ if input.is_empty() => input.push(random.next_u64() as u8),
            0 => input[at] ^= 1 << random.below(8),
            1 => input[at] = random.next_u64() as u8,
            2 => input[at] = *random.pick(&INTERESTING).expect("some"),
            3 => input[at] = input[at].wrapping_add(1),
            4 => input.insert(at, *random.pick(&INTERESTING).expect("some")),
            5 => input.truncate(at),
            6 => {
                let end = (at + random.below(16) as usize).min(input.len());
                input.drain(at..end);
            }
            7 => {
                let end = (at + random.below(16) as usize).min(input.len());
                let part = input[at..end].to_vec();
                input.splice(at..at, part);
            }
            _ => {
                let other = random.pick(seeds).expect("seeds");
                let from = random.below(other.len() as u64) as usize;
                let end = (from + random.below(32) as usize).min(other.len());
                input.splice(at..at, other[from..end].iter().copied());
            }
        }
    }
}

#[test]
fn mutated_datagrams_are_read_or_refused() {
    mutate_all("datagram", MUTATIONS);
}

#[test]
fn mutated_frames_are_read_back_or_refused() {
    mutate_all("frames", MUTATIONS);
}

#[test]
fn mutated_setup_bodies_are_read_back_or_refused() {
    mutate_all("setup", MUTATIONS);
}

#[test]
fn mutated_cbor_is_read_as_ciborium_reads_it_or_refused() {
    mutate_all("cbor", MUTATIONS);
}

#[test]
fn mutated_envelopes_unfold_to_no_more_than_they_may_or_are_refused() {
    mutate_all("envelope", MUTATIONS);
}

#[test]
fn mutated_errors_are_read_back_or_refused() {
    mutate_all("errors", MUTATIONS);
}

#[test]
fn mutated_sets_of_endpoints_stay_within_their_limits_or_are_refused() {
    mutate_all("gossip", MUTATIONS);
}

#[test]
fn mutated_notation_is_shown_as_it_was_read_or_refused() {
    mutate_all("notation", MUTATIONS);
}

#[test]
fn an_attacker_without_checksums_makes_no_call_run_twice() {
    mutate_all("endpoint", SCRIPTS);
}

#[test]
fn an_attacker_without_the_key_makes_no_call_run_twice_and_ends_no_connection() {
    mutate_all("endpoint_sealed", SCRIPTS);
}

#[test]
fn every_target_has_a_test_here() {
    let source = include_str!("tests.rs");
    for target in TARGETS {
        assert!(source.contains(&format!("mutate_all(\"{}\"", target.name)), "{}", target.name);
    }
}
