//! The vectors of docs/PROTOCOL.md are what this crate writes: a stranger can trust the page.
//!
//! A vector stands in the page as a fenced block that begins with "```vector NAME"; white space does not count, and
//! `00*7` is seven bytes 00.

use std::time::Duration;

use bytes::Bytes;

use super::frame::{self, Frame, PartHead, RequestHead};
use super::packet::{self, Header, LONG_HEADER_SIZE, SHORT_HEADER_SIZE};
use super::seal::{self, Keys, Rotation};
use super::setup::{self, Init, Message, Params, VERSIONS};
use super::varint::{self, Reader};
use super::{Form, Lane, Marks, VERSION, close};
use crate::rpc::envelope::{Space, unpack};
use crate::rpc::meta::{IdempotencyKey, Meta, Trace};
use crate::rpc::{Code, MethodId, Outcome, RpcError, codec};
use crate::runtime::Instant;
use crate::security::{Handshake, NodeKey, Prologue, Security, SharedKey};

const PAGE: &str = include_str!("../../../docs/PROTOCOL.md");

const A: u64 = 0xa1a2_a3a4_a5a6_a7a8;
const B: u64 = 0xb1b2_b3b4_b5b6_b7b8;

/// The bytes of a vector of the page.
pub(crate) fn vector(name: &str) -> Vec<u8> {
    let start = format!("```vector {name}\n");
    let (_, rest) = PAGE.split_once(&start).unwrap_or_else(|| panic!("the page has no vector `{name}`"));
    let (block, _) = rest.split_once("```").expect("a fence ends the block");
    let mut bytes = Vec::new();
    for word in block.split_whitespace() {
        let (hex, count) = word.split_once('*').unwrap_or((word, "1"));
        for _ in 0..count.parse::<usize>().expect("a count") {
            let digits = hex.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).expect("ASCII"));
            bytes.extend(digits.map(|pair| u8::from_str_radix(pair, 16).expect("hex digits")));
        }
    }
    bytes
}

/// Compares with the page; says what should stand there.
pub(crate) fn check(name: &str, bytes: &[u8]) {
    assert!(vector(name) == bytes, "vector {name} should be\n{}", as_block(bytes));
}

/// Bytes as they stand in the page: 32 in a line, long runs of zeros counted.
fn as_block(bytes: &[u8]) -> String {
    let mut block = String::new();
    let mut column = 0;
    let mut at = 0;
    while at < bytes.len() {
        let zeros = bytes[at..].iter().take_while(|byte| **byte == 0).count();
        if zeros > 8 {
            block.push_str(&format!("{}00*{zeros}\n", if column > 0 { " " } else { "" }));
            (at, column) = (at + zeros, 0);
            continue;
        }
        block.push_str(&format!("{:02x}", bytes[at]));
        (at, column) = (at + 1, column + 1);
        if column == 32 {
            (column, block) = (0, block + "\n");
        }
    }
    block
}

fn params() -> Params {
    Params {
        epoch: 0x0102_0304_0506_0708,
        client_id: 0x1112_1314_1516_1718_191a_1b1c_1d1e_1f20,
        datagram_size_max: 1_200,
        message_size_max: 64 << 20,
        calls_max: 1_024,
        ack_delay_max: Duration::from_millis(1),
        idle_timeout: Duration::from_secs(10),
        compression: true,
        ecn: false,
    }
}

fn request_head() -> RequestHead {
    RequestHead {
        method: MethodId::of("calc.add").0,
        lane: Lane::Normal,
        idempotent: false,
        form: Form::default(),
        left_us: 5_000_000,
        sent_us: 1_234,
    }
}

fn request_frames() -> Vec<u8> {
    let mut frames = Vec::new();
    frame::put_max_data(&mut frames, 16 << 20);
    let arguments = codec::encode(&(2, 3)).expect("plain data");
    frame::put_request(&mut frames, 0, &request_head(), &arguments);
    frames
}

fn response_frames() -> Vec<u8> {
    let mut frames = Vec::new();
    frame::put_ack(&mut frames, 80, [(0, 0)].into_iter(), None);
    frame::put_max_data(&mut frames, 16 << 20);
    let result = codec::encode(&5).expect("plain data");
    frame::put_response(&mut frames, 0, 0, Lane::Normal, Form::default(), &result);
    frames
}

/// A data packet before it is sealed, padded as a packet that wants an acknowledgement is.
fn open_packet(dcid: u64, pn: u32, frames: &[u8]) -> Vec<u8> {
    let mut buf = Vec::new();
    Header::Short { dcid, pn_low: pn }.put(&mut buf);
    buf.extend_from_slice(frames);
    buf.resize(buf.len().max(packet::ACK_ELICITING_SIZE_MIN - 16), 0);
    buf
}

/// A data packet in the insecure mode.
fn packet(dcid: u64, pn: u32, frames: &[u8]) -> Vec<u8> {
    let mut buf = open_packet(dcid, pn, frames);
    seal::put_checksum(&mut buf, 0);
    buf
}

/// A data packet of the other modes.
fn sealed(keys: &Keys, dcid: u64, pn: u32, frames: &[u8]) -> Vec<u8> {
    let mut buf = open_packet(dcid, pn, frames);
    keys.seal(u64::from(pn), &mut buf, 0, SHORT_HEADER_SIZE);
    buf
}

/// 32 bytes that count up.
fn key(first: u8) -> [u8; 32] {
    std::array::from_fn(|index| first + index as u8)
}

fn metadata() -> Meta {
    Meta {
        trace: Some(Trace {
            id: 0x3132_3334_3536_3738_393a_3b3c_3d3e_3f40,
            span: 0x4142_4344,
            hops: vec![MethodId::of("ping")],
        }),
        key: Some(IdempotencyKey { client: 0x5152_5354_5556_5758_595a_5b5c_5d5e_5f60, sequence: 7 }),
        extra: [(64, Bytes::from_static(b"token"))].into(),
    }
}

/// 2,000 zeros as a byte string: `size v | LZ4 block` as the page spells it out, and the body itself.
fn compressed_zeros() -> (Vec<u8>, Bytes) {
    let mut message = Vec::new();
    varint::put(&mut message, 2_003);
    // Four literals and a match of 4 + 15 + 7 * 255 + 190 bytes at distance 1.
    message.extend_from_slice(&[0x4f, 0x59, 0x07, 0xd0, 0x00, 1, 0]);
    message.extend_from_slice(&[[255; 7].as_slice(), &[190]].concat());
    // The last five bytes of a block are literals.
    message.extend_from_slice(&[0x50, 0, 0, 0, 0, 0]);
    (message, codec::encode(serde_bytes::Bytes::new(&[0; 2_000])).expect("plain data"))
}

#[test]
fn method_ids() {
    for (name, id) in [("calc.add", MethodId::of("calc.add").0), ("ping", MethodId::of("ping").0)] {
        let line = format!("| `{name}` | 0x{id:08x} |");
        assert!(PAGE.contains(&line), "the page should say\n{line}");
    }
}

#[test]
fn setup() {
    let init = Init {
        versions: VERSIONS.to_vec(),
        mode: 0,
        cookie: Bytes::new(),
        message: params().payload(None).into(),
    };
    check("init", &init.datagram(A));
    check("reply", &Message { mode: 0, message: params().payload(Some(B)).into() }.reply(A, B));
    check("versions", &packet::version_negotiation(7, A));
    let read = Bytes::from(vector("init"));
    let body = seal::checked(&read, LONG_HEADER_SIZE).expect("its tag fits");
    assert_eq!(Init::read(&body), Ok(init));
}

#[test]
fn a_call() {
    check("request", &packet(B, 0, &request_frames()));
    check("response", &packet(A, 0, &response_frames()));
    let arguments = codec::encode(&(2, 3)).expect("plain data");
    let request = Bytes::from(vector("request"));
    let payload = seal::checked(&request, SHORT_HEADER_SIZE).expect("its tag fits");
    let mut reader = Reader::new(&payload);
    assert_eq!(Frame::read(&mut reader), Ok(Frame::MaxData { bytes: 16 << 20 }));
    let call = Frame::Request { call: 0, head: request_head(), body: arguments };
    assert_eq!(Frame::read(&mut reader), Ok(call));
}

#[test]
fn frames() {
    let mut frames = Vec::new();
    frame::put_ack(&mut frames, 1_000, [(7, 9), (4, 4), (0, 1)].into_iter(), None);
    frame::put_part(&mut frames, 2, Lane::Bulk, &PartHead::Request(request_head()), 0, 2_000, b"abc");
    frame::put_part(&mut frames, 2, Lane::Bulk, &PartHead::Request(request_head()), 3, 2_000, b"def");
    frame::put_cancel(&mut frames, 4, 7);
    frame::put_seen(&mut frames, 34);
    frame::put_accepted(&mut frames, 1);
    frame::put_drain(&mut frames, 6, 0);
    frame::put_ping(&mut frames);
    check("frames", &frames);

    let mut frames = Vec::new();
    let marks = Marks { not_ect: 1, ect1: 0, ce: 300 };
    frame::put_ack(&mut frames, 1_000, [(7, 9), (4, 4)].into_iter(), Some(marks));
    check("frames-ecn", &frames);
}

#[test]
fn metadata_and_compression() {
    let meta = codec::encode(&metadata()).expect("plain data");
    let arguments = codec::encode(&(2, 3)).expect("plain data");
    let (block, zeros) = compressed_zeros();
    let space = Space::new(4_096);
    let request = |name, call, form, message: Vec<u8>| {
        let mut frame = Vec::new();
        frame::put_request(&mut frame, call, &RequestHead { form, ..request_head() }, &message);
        check(name, &frame);
        let unpacked = unpack(form, message.into(), &space).expect("a whole message");
        (unpacked.meta.as_deref().cloned(), unpacked.body)
    };
    let plain = [&meta[..], &arguments].concat();
    let read = request("request-meta", 4, Form { meta: true, compressed: false }, plain);
    assert_eq!(read, (Some(metadata()), arguments));
    let folded = [&meta[..], &block].concat();
    let read = request("request-both", 6, Form { meta: true, compressed: true }, folded);
    assert_eq!(read, (Some(metadata()), zeros.clone()));

    let (form, mut frame) = (Form { meta: false, compressed: true }, Vec::new());
    frame::put_response(&mut frame, 4, 0, Lane::Normal, form, &block);
    check("response-compressed", &frame);
    assert_eq!(unpack(form, block.into(), &space).expect("a whole message").body, zeros);
}

#[test]
fn the_end() {
    let mut frames = Vec::new();
    frame::put_close(&mut frames, close::VIOLATION, b"unknown frame");
    check("close", &packet(A, 9, &frames));
    check("reset", &packet::reset(B, 3, None, || 0x2122_2324_2526_2728));
}

/// The whole exchange in mode 1 with fixed keys.
#[test]
fn with_a_shared_key() {
    let security = Security::shared_key(SharedKey::new(key(0)));
    let prologue = Prologue::new(VERSION, A, VERSIONS);
    let mut initiator = Handshake::initiate(&security, &prologue, key(0x20)).expect("keys fit");
    let mut acceptor = Handshake::accept(&security, &prologue, key(0x40)).expect("keys fit");

    let message: Bytes = initiator.write(&params().payload(None)).expect("its turn").into();
    assert_eq!(acceptor.read(&message).map(Params::read_only), Ok(Ok(params())));
    let init = Init { versions: VERSIONS.to_vec(), mode: 1, cookie: Bytes::new(), message };
    check("sealed-init", &init.datagram(A));
    let message: Bytes = acceptor.write(&params().payload(Some(B))).expect("its turn").into();
    assert_eq!(initiator.read(&message).map(Params::read_second), Ok(Ok((B, params()))));
    check("sealed-reply", &Message { mode: 1, message }.reply(A, B));

    let (of_a, of_b) = (initiator.secrets().expect("complete"), acceptor.secrets().expect("complete"));
    assert_eq!(of_a.send.bytes(), of_b.receive.bytes());
    check("secrets", &[*of_a.send.bytes(), *of_b.send.bytes()].concat());
    let now = Instant::default();
    let (mut keys_a, mut keys_b) = (Keys::new(now, Some(of_a)), Keys::new(now, Some(of_b)));
    check("sealed-request", &sealed(&keys_a, B, 0, &request_frames()));
    check("sealed-response", &sealed(&keys_b, A, 0, &response_frames()));
    let request = Bytes::from(vector("sealed-request"));
    let opened = keys_b.open(now, Duration::ZERO, 0, request, SHORT_HEADER_SIZE).expect("the same keys");
    assert!(opened.starts_with(&request_frames()));

    let at_once = Rotation { packets_max: 1, age_max: Duration::MAX };
    assert!(keys_a.rotate(now, 5, Some(4), at_once));
    check("sealed-rotated", &sealed(&keys_a, B, 5, &[1]));

    let reset = packet::reset(B, 3, security.reset_key().as_ref(), || 0x2122_2324_2526_2728);
    check("sealed-reset", &reset);
    let cookie: [u8; 24] = std::array::from_fn(|index| 0xc0 + index as u8);
    check("retry", &setup::retry(A, &cookie));
}

/// The whole exchange in mode 2 with fixed keys.
#[test]
fn with_node_keys() {
    let security = |own| Security::node_keys(SharedKey::new(key(0)), NodeKey::new(key(own)), |_| true);
    let prologue = Prologue::new(VERSION, A, VERSIONS);
    let mut initiator = Handshake::initiate(&security(0x60), &prologue, key(0x20)).expect("keys fit");
    let mut acceptor = Handshake::accept(&security(0x80), &prologue, key(0x40)).expect("keys fit");

    let message: Bytes = initiator.write(&[]).expect("its turn").into();
    assert_eq!(acceptor.read(&message), Ok(Vec::new()));
    check(
        "node-init",
        &Init { versions: VERSIONS.to_vec(), mode: 2, cookie: Bytes::new(), message }.datagram(A),
    );
    let message: Bytes = acceptor.write(&params().payload(Some(B))).expect("its turn").into();
    assert_eq!(initiator.read(&message).map(Params::read_second), Ok(Ok((B, params()))));
    check("node-reply", &Message { mode: 2, message }.reply(A, B));
    let message: Bytes = initiator.write(&params().payload(None)).expect("its turn").into();
    assert_eq!(acceptor.read(&message).map(Params::read_only), Ok(Ok(params())));
    check("node-third", &Message { mode: 2, message }.third(B, A));

    let (of_a, of_b) = (initiator.secrets().expect("complete"), acceptor.secrets().expect("complete"));
    check("node-secrets", &[*of_a.send.bytes(), *of_b.send.bytes()].concat());
    let keys_a = Keys::new(Instant::default(), Some(of_a));
    check("node-request", &sealed(&keys_a, B, 0, &request_frames()));
}

#[test]
fn an_error() {
    let error = RpcError::new(Code::ServerBusy, Outcome::NotExecuted, "8 calls run");
    check("error", &codec::encode(&error).expect("plain data"));
}
