use ciborium::Value;

use super::super::diagnostic;
use super::*;
use crate::random::SeededRandom;

#[test]
fn a_nesting_bomb_is_cut_off() {
    let bomb = vec![0x81; 100_000];
    assert!(diagnostic(&bomb).to_string().ends_with("[ / nested deeper than 64: 99936 bytes /"));
    assert!(from_diagnostic(&"[".repeat(100_000)).is_err());
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn the_examples_of_rfc_8949_read_and_write_as_printed() {
    // Appendix A.
    for (hex, notation) in [
        ("00", "0"),
        ("1818", "24"),
        ("1a000f4240", "1000000"),
        ("1bffffffffffffffff", "18446744073709551615"),
        ("3bffffffffffffffff", "-18446744073709551616"),
        ("3903e7", "-1000"),
        ("f90000", "0.0"),
        ("f98000", "-0.0"),
        ("fb3ff199999999999a", "1.1"),
        ("f9c400", "-4.0"),
        ("fb7e37e43c8800759c", "1e300"),
        ("f97c00", "Infinity"),
        ("f97e00", "NaN"),
        ("f9fc00", "-Infinity"),
        ("f4", "false"),
        ("f7", "undefined"),
        ("f0", "simple(16)"),
        ("f8ff", "simple(255)"),
        ("c11a514b67b0", "1(1363896240)"),
        ("d818456449455446", "24(h'6449455446')"),
        ("40", "h''"),
        ("62225c", "\"\\\"\\\\\""),
        ("64f0908591", "\"\u{10151}\""),
        ("8301820203820405", "[1, [2, 3], [4, 5]]"),
        ("a26161016162820203", "{\"a\": 1, \"b\": [2, 3]}"),
        ("9fff", "[_ ]"),
        ("9f018202039f0405ffff", "[_ 1, [2, 3], [_ 4, 5]]"),
        ("bf61610161629f0203ffff", "{_ \"a\": 1, \"b\": [_ 2, 3]}"),
    ] {
        assert_eq!(diagnostic(&unhex(hex)).to_string().replace("[_]", "[_ ]"), notation);
        assert_eq!(from_diagnostic(notation).unwrap(), unhex(hex), "{notation}");
    }
    let chunks = unhex("5f42010243030405ff");
    assert_eq!(diagnostic(&chunks).to_string(), "(_ h'0102', h'030405')");
}

#[test]
fn people_may_write_as_they_like() {
    let spaced = "  / a call / [ 0x10 ,-0x01, 'ab',\"\\u00fc\\ud83d\\ude00\" , h'CA FE' / done / ] ";
    assert_eq!(
        diagnostic(&from_diagnostic(spaced).unwrap()).to_string(),
        "[16, -1, h'6162', \"ü😀\", h'cafe']"
    );
    for (text, at) in [
        ("", 0),
        ("[1 2]", 3),
        ("[1,]", 3),
        ("{1}", 2),
        ("nul", 0),
        ("1 2", 2),
        ("\"open", 5),
        ("h'abc'", 2),
        ("\"\\q\"", 2),
        ("\"\\ud800\"", 2),
        ("1.2.3", 0),
        ("99999999999999999999", 0),
        ("/ open", 1),
        ("simple(24)", 6),
        ("2(1", 3),
        ("é", 0),
    ] {
        assert_eq!(from_diagnostic(text).map_err(|error| error.at), Err(at), "{text}");
    }
}

#[test]
fn what_is_long_or_no_cbor_is_shown_as_a_comment() {
    assert_eq!(diagnostic(&[0x01, 0x02]).to_string(), "1, 2");
    assert_eq!(diagnostic(&[]).to_string(), "");
    assert_eq!(diagnostic(&[0x82, 0x01]).to_string(), "[1,  / not CBOR, 0 bytes:  /");
    assert_eq!(diagnostic(&[0x1c]).to_string(), " / not CBOR, 1 bytes: 1c /");
    assert_eq!(diagnostic(&[0x62, 0xff, 0xfe]).to_string(), " / not CBOR, 2 bytes: fffe /");
    let long = super::super::encode(&vec![7u8; 1_000]).unwrap();
    assert_eq!(diagnostic(&long).limit(10).to_string(), "[7, 7, 7,  / and more, 996 bytes from here /");
}

/// A random value, and bytes made of it by flipping, cutting and doubling.
fn value(random: &mut SeededRandom, depth: usize) -> Value {
    let mut number = || random.next_u64();
    match number() % if depth == 0 { 6 } else { 9 } {
        0 => Value::from(number() >> (number() % 64)),
        1 => Value::from(-i128::from(number() >> (number() % 64))),
        2 => Value::Bytes(number().to_le_bytes()[..(number() % 8) as usize].to_vec()),
        3 => Value::Text(format!("{:x}\"\\\n\u{7f}é", number())),
        4 => Value::Bool(number() % 2 == 0),
        5 => Value::Float((number() >> 40) as f64 / 64.0),
        6 => Value::Array((0..number() % 4).map(|_| value(random, depth - 1)).collect()),
        7 => Value::Map(
            (0..number() % 4).map(|_| (value(random, depth - 1), value(random, depth - 1))).collect(),
        ),
        _ => Value::Tag(number() >> 40, Box::new(value(random, depth - 1))),
    }
}

fn encoded(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}

#[test]
fn what_is_printed_reads_back_as_the_same_bytes() {
    let mut random = SeededRandom::new(1);
    for _ in 0..2_000 {
        let bytes = encoded(&value(&mut random, 4));
        let notation = diagnostic(&bytes).to_string();
        assert_eq!(from_diagnostic(&notation).as_deref(), Ok(&bytes[..]), "{notation}");
    }
}

#[test]
fn garbage_is_printed_within_bounds() {
    let mut random = SeededRandom::new(2);
    for _ in 0..20_000 {
        let mut bytes = encoded(&value(&mut random, 4));
        for _ in 0..=random.next_u64() % 4 {
            let at = (random.next_u64() % (bytes.len() as u64 + 1)) as usize;
            match random.next_u64() % 3 {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, random.next_u64() as u8),
                _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= random.next_u64() as u8),
            }
        }
        let shown = diagnostic(&bytes).limit(200).to_string();
        assert!(shown.len() <= 300, "{shown}");
        // The reader takes what the printer says about garbage, or refuses it; it never panics.
        let _ = from_diagnostic(&shown);
    }
}
