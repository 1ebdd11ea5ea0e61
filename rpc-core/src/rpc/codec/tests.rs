//! Against ciborium, in both directions.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ciborium::Value;
use serde::{Deserialize, Serialize};

use super::*;
use crate::random::SeededRandom;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Shape {
    Point,
    Circle(f64),
    Line(i64, i128),
    Polygon { name: String, corners: Vec<(i32, u16)>, fill: Option<Box<Self>> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Marker;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Meters(f32);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Everything {
    shapes: Vec<Shape>,
    bytes: Bytes,
    #[serde(with = "serde_bytes")]
    buffer: Vec<u8>,
    numbers: Vec<u16>,
    table: BTreeMap<String, Option<u128>>,
    wide: (u64, i64, i128, u128),
    letter: char,
    truth: bool,
    nothing: (),
    marker: Marker,
    length: Meters,
    address: SocketAddr,
    pause: Duration,
    any: Value,
}

/// A number of any size: as many leading zeros as chance has it.
fn number(random: &mut SeededRandom) -> u128 {
    let wide = u128::from(random.next_u64()) << 64 | u128::from(random.next_u64());
    wide >> random.below(128)
}

fn float(random: &mut SeededRandom) -> f64 {
    match random.below(5) {
        0 => float::from_half(random.next_u64() as u16),
        1 => f64::from(f32::from_bits(random.next_u64() as u32)),
        2 => f64::from_bits(random.next_u64()),
        3 => random.below(1_000) as f64 / 8.0,
        _ => (1.0 + random.below(4) as f64 / 2_048.0) * 2f64.powi(random.below(60) as i32 - 30),
    }
}

fn bytes(random: &mut SeededRandom) -> Vec<u8> {
    let limit = if random.below(20) == 0 { 70_000 } else { 300 };
    let mut bytes = vec![0; random.below(limit) as usize];
    random.fill(&mut bytes);
    bytes
}

fn text(random: &mut SeededRandom) -> String {
    String::from_utf8_lossy(&bytes(random)).into_owned()
}

fn value(random: &mut SeededRandom, depth: u64) -> Value {
    match random.below(if depth == 0 { 7 } else { 9 }) {
        0 => Value::from(number(random) as u64),
        1 => Value::from(!(number(random) as u64 >> 1) as i64),
        2 => Value::Bytes(bytes(random)),
        3 => Value::Text(text(random)),
        4 => Value::Float(Some(float(random)).filter(|float| !float.is_nan()).unwrap_or(f64::INFINITY)),
        5 => Value::Bool(random.below(2) == 0),
        6 => Value::Null,
        7 => Value::Array((0..random.below(6)).map(|_| value(random, depth - 1)).collect()),
        _ => Value::Map(
            (0..random.below(6)).map(|_| (value(random, depth - 1), value(random, depth - 1))).collect(),
        ),
    }
}

fn shape(random: &mut SeededRandom, depth: u64) -> Shape {
    match random.below(4) {
        0 => Shape::Point,
        1 => Shape::Circle(Some(float(random)).filter(|float| !float.is_nan()).unwrap_or(-0.0)),
        2 => Shape::Line(number(random) as i64, number(random) as i128),
        _ => Shape::Polygon {
            name: text(random),
            corners: (0..random.below(30)).map(|_| (number(random) as i32, number(random) as u16)).collect(),
            fill: (depth > 0).then(|| Box::new(shape(random, depth - 1))),
        },
    }
}

fn everything(random: &mut SeededRandom) -> Everything {
    let address: IpAddr = if random.below(2) == 0 {
        (number(random) as u32).to_be_bytes().into()
    } else {
        number(random).to_be_bytes().into()
    };
    Everything {
        shapes: (0..random.below(4)).map(|_| shape(random, 3)).collect(),
        bytes: bytes(random).into(),
        buffer: bytes(random),
        numbers: bytes(random).into_iter().take(30).map(|byte| u16::from(byte) * 257).collect(),
        table: (0..random.below(5))
            .map(|_| (text(random), (random.below(2) == 0).then(|| number(random))))
            .collect(),
        wide: (number(random) as u64, number(random) as i64, number(random) as i128, number(random)),
        letter: char::from_u32(random.below(0x0011_0000) as u32).unwrap_or('?'),
        truth: random.below(2) == 0,
        nothing: (),
        marker: Marker,
        length: Meters(random.below(1_000) as f32 / 10.0),
        address: (address, number(random) as u16).into(),
        pause: Duration::from_micros(number(random) as u64),
        any: value(random, 4),
    }
}

fn reference<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}

#[test]
fn every_type_has_the_bytes_that_ciborium_writes_and_both_read_them_alike() {
    let mut random = SeededRandom::new(8_949);
    for round in 0..2_000 {
        let value = everything(&mut random);
        let bytes = encode(&value).unwrap();
        assert_eq!(bytes, reference(&value), "round {round}");
        assert_eq!(decode::<Everything>(&bytes).as_ref(), Ok(&value), "round {round}");
        assert_eq!(ciborium::from_reader::<Everything, _>(&bytes[..]).unwrap(), value, "round {round}");
    }
}

#[test]
fn every_float_has_the_bytes_that_ciborium_writes() {
    let mut random = SeededRandom::new(1);
    for round in 0..200_000 {
        let value = float(&mut random);
        let bytes = encode(&value).unwrap();
        assert_eq!(bytes, reference(&value), "round {round}: {:#x}", value.to_bits());
        let read = decode::<f64>(&bytes).unwrap();
        assert!(read.to_bits() == value.to_bits() || read.is_nan() && value.is_nan());
    }
}

#[test]
fn damaged_bytes_are_errors_and_never_panics() {
    let mut random = SeededRandom::new(2);
    for _ in 0..2_000 {
        let mut bytes = encode(&everything(&mut random)).unwrap().to_vec();
        for _ in 0..=random.below(4) {
            let index = random.below(bytes.len() as u64) as usize;
            bytes[index] = random.next_u64() as u8;
        }
        let _ = decode::<Everything>(&bytes);
        let _ = decode::<Value>(&bytes);
        let cut = random.below(bytes.len() as u64) as usize;
        assert!(decode::<Everything>(&bytes[..cut]).is_err());
    }
}

#[test]
fn other_ways_to_write_the_same_are_read() {
    let text: String = decode(&[0x7f, 0x62, b'a', b'b', 0x61, b'c', 0xff]).unwrap();
    assert_eq!(text, "abc");
    let bytes: Bytes = decode(&[0x5f, 0x41, 1, 0x42, 2, 3, 0xff]).unwrap();
    assert_eq!(bytes, Bytes::from_static(&[1, 2, 3]));
    assert_eq!(decode::<Vec<u8>>(&[0x9f, 1, 0x18, 2, 0xff]), Ok(vec![1, 2]));
    assert_eq!(decode::<Vec<u8>>(&[0x42, 1, 2]), Ok(vec![1, 2]));
    assert_eq!(decode::<(u8, u8)>(&[0x9f, 1, 2, 0xff]), Ok((1, 2)));
    assert_eq!(decode::<u64>(&[0xd8, 99, 0x1b, 0, 0, 0, 0, 0, 0, 0, 7]), Ok(7));
    assert_eq!(decode::<Option<u8>>(&[0xf7]), Ok(None));
}

#[test]
fn what_is_not_read_is_refused() {
    assert!(decode::<(u8, u8)>(&[0x83, 1, 2, 3]).is_err(), "an element too many");
    assert!(decode::<(u8, u8)>(&[0x9f, 1, 2, 3, 0xff]).is_err(), "an element too many before the break");
    assert!(decode::<u8>(&[0x19, 1, 0]).is_err(), "256 is no byte");
    assert!(decode::<Shape>(&[0x66, b'C', b'i', b'r', b'c', b'l', b'e']).is_err(), "no content");
    assert!(decode::<u64>(&[0x1c]).is_err(), "a length that does not exist");
}

#[test]
fn a_claimed_length_allocates_nothing() {
    for first in [0x5b, 0x7b, 0x9b, 0xbb] {
        let claim = [first, 0, 0, 1, 0, 0, 0, 0, 0];
        assert!(decode::<Bytes>(&claim).is_err());
        assert!(decode::<Vec<u64>>(&claim).is_err());
        assert!(decode::<Value>(&claim).is_err());
        assert!(decode::<serde::de::IgnoredAny>(&claim).is_err());
    }
}

#[test]
fn trailing_bytes_are_rejected() {
    let mut bytes = encode(&7u64).unwrap().to_vec();
    assert_eq!(decode::<u64>(&bytes), Ok(7));
    bytes.push(0);
    assert!(decode::<u64>(&bytes).is_err());
}

#[test]
fn a_nesting_bomb_is_an_error() {
    for bomb in [vec![0x81; 100_000], vec![0x9f; 100_000], vec![0xa1; 100_000]] {
        assert!(decode::<Value>(&bomb).is_err());
        assert!(decode::<serde::de::IgnoredAny>(&bomb).is_err());
    }
    assert!(decode::<serde::de::IgnoredAny>(&vec![0xc1; 1_000_000]).is_err(), "nothing but tags");
}

#[test]
fn bytes_travel_as_a_byte_string() {
    let encoded = encode(&Bytes::from(vec![9; 100])).unwrap();
    assert_eq!(encoded[0] >> 5, BYTES);
    assert_eq!(encoded.len(), 102);
}

#[test]
fn a_large_byte_string_is_shared_with_its_body_and_everything_else_is_copied() {
    let is_within = |part: &Bytes, body: &Bytes| body.as_ptr_range().contains(&part.as_ptr());
    for (size, shared) in [(0, false), (10, false), (900, false), (1_000, true), (70_000, true)] {
        let sent = Bytes::from(vec![7; size]);
        let body = encode(&sent).unwrap();
        let read: Bytes = decode_shared(&body).unwrap();
        assert_eq!((&read, is_within(&read, &body)), (&sent, shared), "{size} bytes");
        assert_eq!(decode_shared::<(Bytes, u8)>(&encode(&(&sent, 7)).unwrap()).unwrap(), (sent, 7));
    }
    // What `decode` refuses is refused here too.
    let body = encode(&Bytes::from(vec![7; 2_000])).unwrap();
    let longer = Bytes::from([&body[..], &[0]].concat());
    for bad in [body.slice(..1_999), longer, encode(&vec!["a"; 2_000]).unwrap()] {
        assert_eq!(decode_shared::<Bytes>(&bad).is_ok(), decode::<Bytes>(&bad).is_ok());
        assert!(decode_shared::<Bytes>(&bad).is_err());
    }
    assert!(decode_shared::<String>(&body).is_err());
    // In pieces it cannot be shared.
    let mut pieces = vec![BYTES << 5 | INDEFINITE];
    pieces.extend_from_slice(&body);
    pieces.extend_from_slice(&body);
    pieces.push(BREAK);
    assert_eq!(decode_shared::<Bytes>(&pieces.into()).unwrap().len(), 4_000);
}
