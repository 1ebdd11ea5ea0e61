//! CBOR: the codec against ciborium, the bodies that peers send each other, the notation for people.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::crdt::Stamp;
use crate::gossip::{
    ADDRESSES_MAX, Advertisement, Difference, Digest, ENTRIES_MAX, Entry, Exchanged, News, NodeId, Reason,
    Refusal, SERVICES_MAX,
};
use crate::rpc::codec::{self, Value};
use crate::rpc::describe::Description;
use crate::rpc::envelope::{Space, pack, unpack};
use crate::rpc::error::Origin;
use crate::rpc::meta::{IdempotencyKey, Meta, Trace};
use crate::rpc::{Code, MethodId, Outcome, RpcError};
use crate::wire::Form;

/// Every kind of data that a body may hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sample {
    flag: bool,
    byte: u8,
    signed: i64,
    wide: u128,
    real: f64,
    letter: char,
    text: String,
    bytes: Bytes,
    list: Vec<u16>,
    table: BTreeMap<String, Option<i32>>,
    pair: (u8, String),
    kind: Kind,
    nothing: (),
    nested: Option<Box<Self>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Kind {
    Unit,
    Newtype(u32),
    Tuple(i8, bool),
    Struct { a: Option<u8>, b: Vec<Self> },
}

/// Any CBOR, as a value and as a typed body: what both codecs read, they read alike.
pub(super) fn cbor(bytes: &[u8]) -> bool {
    let value = agrees::<Value>(bytes);
    let sample = agrees::<Sample>(bytes);
    value || sample
}

/// What is read here reads back from what is written for it, and ciborium, if it reads it, reads the same.
fn agrees<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> bool {
    let Some(written) = read_back::<T>(bytes) else { return false };
    let mut rest = bytes;
    if let Ok(theirs) = ciborium::de::from_reader_with_recursion_limit::<T, _>(&mut rest, codec::DEPTH_MAX)
        && rest.is_empty()
    {
        // Compared as bytes: NaN does not equal itself.
        assert_eq!(
            codec::encode(&theirs).ok().as_deref(),
            Some(&written[..]),
            "ciborium reads something else"
        );
    }
    true
}

/// Reads, writes, reads and writes again; what is written must not change. `None` if it cannot be read.
fn read_back<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Option<Bytes> {
    let value = codec::decode::<T>(bytes).ok()?;
    let written = codec::encode(&value).expect("what was read can be written");
    let again = codec::decode::<T>(&written).expect("what was written can be read");
    assert_eq!(codec::encode(&again).as_ref(), Ok(&written));
    Some(written)
}

/// Metadata and a compressed body; the first byte of the input says which of them there are.
pub(super) fn envelope(bytes: &[u8]) -> bool {
    const BODY_MAX: usize = 1 << 20;
    let Some((form, message)) = bytes.split_first() else { return false };
    let form = Form { meta: form & 1 != 0, compressed: form & 2 != 0 };
    let space = Space::new(BODY_MAX);
    let Ok(unpacked) = unpack(form, Bytes::copy_from_slice(message), &space) else { return false };
    assert!(unpacked.body.len() <= BODY_MAX.max(message.len()));
    // What is no longer sent (unknown entries) makes the metadata smaller, never larger than it may be.
    let (form, message) =
        pack(unpacked.meta.as_deref(), unpacked.body.clone(), true).expect("it came in one");
    let again = unpack(form, message, &space).expect("what was packed can be unpacked");
    assert_eq!(again.body, unpacked.body);
    assert_eq!(again.meta.unwrap_or_default(), unpacked.meta.unwrap_or_default());
    true
}

/// What is answered instead of a result: errors, and what a peer says of its services.
pub(super) fn errors(bytes: &[u8]) -> bool {
    if read_back::<Description>(bytes).is_some() {
        return true;
    }
    if let Ok(error) = codec::decode::<RpcError>(bytes) {
        assert!(error.message.len() <= bytes.len());
    }
    read_back::<RpcError>(bytes).is_some()
}

/// The bodies of `peers`: the first byte of the input chooses which.
pub(super) fn gossip(bytes: &[u8]) -> bool {
    let Some((kind, body)) = bytes.split_first() else { return false };
    let bounded = |entries: &[Entry]| {
        assert!(entries.len() <= ENTRIES_MAX);
        for advertisement in entries.iter().filter_map(|entry| entry.advertisement.as_ref()) {
            assert!(advertisement.addresses.len() <= ADDRESSES_MAX);
            assert!(advertisement.services.len() <= SERVICES_MAX);
        }
    };
    match kind % 4 {
        0 => codec::decode::<Digest>(body).is_ok_and(|digest| {
            crate::gossip::take_anything(Some(&digest), None);
            read_back::<Digest>(body).is_some()
        }),
        1 => read_back::<Difference>(body).is_some(),
        2 => codec::decode::<News>(body).is_ok_and(|news| {
            bounded(&news.entries);
            crate::gossip::take_anything(None, Some(news));
            read_back::<News>(body).is_some()
        }),
        _ => codec::decode::<Exchanged>(body).is_ok_and(|exchanged| {
            bounded(&exchanged.entries);
            assert!(exchanged.refused.len() <= ENTRIES_MAX);
            read_back::<Exchanged>(body).is_some()
        }),
    }
}

/// Text as notation, and bytes as text for people.
pub(super) fn notation(bytes: &[u8]) -> bool {
    let shown = codec::diagnostic(bytes).limit(1_000).to_string();
    assert!(shown.len() <= 8 * 1_000, "{} bytes of text", shown.len());
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(read) = codec::from_diagnostic(text) else { return false };
    assert!(read.len() <= 9 * text.len(), "notation does not blow up");
    let shown = codec::diagnostic(&read).limit(usize::MAX).to_string();
    let again = codec::from_diagnostic(&shown).unwrap_or_else(|error| panic!("{shown}: {error}"));
    assert_eq!(codec::diagnostic(&again).limit(usize::MAX).to_string(), shown);
    true
}

fn sample(depth: u8) -> Sample {
    Sample {
        flag: true,
        byte: 200,
        signed: -5_000_000_000,
        wide: 1 << 90,
        real: 1.1,
        letter: 'é',
        text: "text".to_owned(),
        bytes: Bytes::from_static(&[1, 2, 3]),
        list: vec![1, 300, 65_535],
        table: [("a".to_owned(), Some(-1)), ("b".to_owned(), None)].into(),
        pair: (7, String::new()),
        kind: match depth {
            0 => Kind::Unit,
            1 => Kind::Newtype(9),
            2 => Kind::Tuple(-1, false),
            _ => Kind::Struct { a: Some(1), b: vec![Kind::Unit, Kind::Newtype(1)] },
        },
        nothing: (),
        nested: depth.checked_sub(1).map(|depth| Box::new(sample(depth))),
    }
}

pub(super) fn cbor_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> = (0..4).map(|depth| encoded(&sample(depth))).collect();
    seeds.extend(
        ["[_ 1, 2]", "{_ \"a\": 1}", "-1", "1.5", "h'00ff'", "null", "[[[]]]", "2(h'0100')"]
            .map(|text| codec::from_diagnostic(text).expect("notation").to_vec()),
    );
    seeds
}

pub(super) fn error_seeds() -> Vec<Vec<u8>> {
    let mut error = RpcError::new(Code::ServerBusy, Outcome::NotExecuted, "8 calls run");
    let bare = encoded(&error);
    error.origin = Some(Box::new(Origin { address: address(7_301), method: "calc.add".to_owned() }));
    error.retry_after = Some(Duration::from_millis(20));
    vec![bare, encoded(&error)]
}

pub(super) fn envelope_seeds() -> Vec<Vec<u8>> {
    let meta = Meta {
        trace: Some(Trace { id: 1 << 100, span: 7, hops: vec![MethodId::of("a"), MethodId::of("b")] }),
        key: Some(IdempotencyKey { client: 1 << 90, sequence: 5 }),
        extra: [(64, Bytes::from_static(b"token"))].into(),
    };
    let large = Bytes::from(b"again and ".repeat(300));
    let packed = |meta: Option<&Meta>, body: &Bytes| {
        let (form, message) = pack(meta, body.clone(), true).expect("small metadata");
        [&[u8::from(form.meta) | u8::from(form.compressed) << 1], &message[..]].concat()
    };
    let small = Bytes::from_static(&[7]);
    vec![packed(None, &small), packed(Some(&meta), &small), packed(None, &large), packed(Some(&meta), &large)]
}

pub(super) fn gossip_seeds() -> Vec<Vec<u8>> {
    let stamp = Stamp { wall_ms: 1_767_225_600_000, counter: 3, writer: 9 };
    let says = Advertisement { services: ["a".to_owned(), "b".to_owned()].into(), ..address(7_302).into() };
    let entry = |node| Entry { node: NodeId(node), stamp, age_ms: 5_000, advertisement: Some(says.clone()) };
    let entries = vec![entry(1), Entry { advertisement: None, ..entry(2) }, entry(1 << 60)];
    let refused = vec![Refusal { node: NodeId(3), reason: Reason::FarAhead }];
    let difference =
        Difference { buckets: vec![1, 31], stamps: vec![(NodeId(1), stamp), (NodeId(33), stamp)] };
    vec![
        [&[0], &encoded(&Digest { buckets: (0..32).map(|bucket| bucket << 50).collect() })[..]].concat(),
        [&[1], &encoded(&difference)[..]].concat(),
        [&[2], &encoded(&News { entries: entries.clone(), wanted: vec![NodeId(7)] })[..]].concat(),
        [&[3], &encoded(&Exchanged { entries, refused })[..]].concat(),
    ]
}

pub(super) fn notation_seeds() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"key": h'cafe', "ttl": null, "at": [1, -2.5]}"#,
        "[_ 1, {_ \"a\": true}, undefined, NaN, -Infinity, simple(99)]",
        "18446744073709551615",
        "0xff / hex /",
        "32(\"http:\\u00e9\\n\")",
        "'bytes'",
    ];
    texts.into_iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn encoded<T: Serialize>(value: &T) -> Vec<u8> {
    codec::encode(value).expect("plain data").to_vec()
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
