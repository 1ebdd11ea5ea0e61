//! The vectors of docs/PROTOCOL.md are what this crate writes: a stranger can trust the page.
//!
//! A vector stands in the page as a fenced block that begins with "```vector NAME"; white space does not count, and
//! `00*7` is seven bytes 00.

use std::time::Duration;

use bytes::Bytes;

use super::frame::{self, Frame, PartHead, RequestHead};
use super::packet::{self, Header, LONG_HEADER_SIZE, LongKind, SHORT_HEADER_SIZE};
use super::seal::Keys;
use super::setup::Params;
use super::varint::Reader;
use super::{Form, Lane, close};
use crate::rpc::{Code, MethodId, Outcome, RpcError, codec};

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

/// A data packet in the insecure mode, padded as a packet that wants an acknowledgement is.
fn packet(dcid: u64, pn: u32, frames: &[u8]) -> Vec<u8> {
    let mut buf = Vec::new();
    Header::Short { dcid, pn_low: pn }.put(&mut buf);
    buf.extend_from_slice(frames);
    buf.resize(buf.len().max(packet::ACK_ELICITING_SIZE_MIN - 16), 0);
    Keys::Insecure.seal(u64::from(pn), &mut buf, 0);
    buf
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
    check("init", &params().datagram(LongKind::Init, 0, A));
    check("reply", &params().datagram(LongKind::Reply, A, B));
    check("versions", &packet::version_negotiation(7, A));
    let init = Bytes::from(vector("init"));
    let body = Keys::Insecure.open(0, &init, LONG_HEADER_SIZE).expect("its tag fits");
    assert_eq!(Params::read(&body), Ok(params()));
}

#[test]
fn a_call() {
    let mut frames = Vec::new();
    frame::put_max_data(&mut frames, 16 << 20);
    let arguments = codec::encode(&(2, 3)).expect("plain data");
    frame::put_request(&mut frames, 0, &request_head(), &arguments);
    check("request", &packet(B, 0, &frames));

    frames.clear();
    frame::put_ack(&mut frames, 80, [(0, 0)].into_iter());
    frame::put_max_data(&mut frames, 16 << 20);
    let result = codec::encode(&5).expect("plain data");
    frame::put_response(&mut frames, 0, 0, Lane::Normal, Form::default(), &result);
    check("response", &packet(A, 0, &frames));

    let request = Bytes::from(vector("request"));
    let payload = Keys::Insecure.open(0, &request, SHORT_HEADER_SIZE).expect("its tag fits");
    let mut reader = Reader::new(&payload);
    assert_eq!(Frame::read(&mut reader), Ok(Frame::MaxData { bytes: 16 << 20 }));
    let call = Frame::Request { call: 0, head: request_head(), body: arguments };
    assert_eq!(Frame::read(&mut reader), Ok(call));
}

#[test]
fn frames() {
    let mut frames = Vec::new();
    frame::put_ack(&mut frames, 1_000, [(7, 9), (4, 4), (0, 1)].into_iter());
    frame::put_part(&mut frames, 2, Lane::Bulk, &PartHead::Request(request_head()), 0, 2_000, b"abc");
    frame::put_part(&mut frames, 2, Lane::Bulk, &PartHead::Request(request_head()), 3, 2_000, b"def");
    frame::put_cancel(&mut frames, 4, 7);
    frame::put_seen(&mut frames, 34);
    frame::put_accepted(&mut frames, 1);
    frame::put_drain(&mut frames, 6, 0);
    frame::put_ping(&mut frames);
    check("frames", &frames);
}

#[test]
fn the_end() {
    let mut frames = Vec::new();
    frame::put_close(&mut frames, close::VIOLATION, b"unknown frame");
    check("close", &packet(A, 9, &frames));
    check("reset", &packet::reset(B, 3, || 0x2122_2324_2526_2728));
}

#[test]
fn an_error() {
    let error = RpcError::new(Code::ServerBusy, Outcome::NotExecuted, "8 calls run");
    check("error", &codec::encode(&error).expect("plain data"));
}
