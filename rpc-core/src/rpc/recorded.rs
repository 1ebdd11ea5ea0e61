//! What version 1 of the protocol wrote is read for ever: the recorded messages and frames of `tests/recorded/v1.txt`
//! are never changed, only added to; the words follow what the reader of today shows. A later version adds a file of
//! its own beside it.
//!
//! A line is `kind name hex`; what it must be read as stands in the lines after it, behind `=`.

use bytes::Bytes;

use super::envelope::{self, Space};
use super::{RpcError, codec};
use crate::endpoint::Form;
use crate::wire::frame::Frame;
use crate::wire::varint::Reader;

const V1: &str = include_str!("../../tests/recorded/v1.txt");

/// What a recorded line is read as, in words.
fn read(kind: &str, bytes: Bytes) -> Vec<String> {
    match kind {
        "frames" => {
            let mut reader = Reader::new(&bytes);
            let mut frames = Vec::new();
            while !reader.is_empty() {
                frames.push(format!("{:?}", Frame::read(&mut reader).unwrap()));
            }
            frames
        }
        "error" => vec![codec::decode::<RpcError>(&bytes).unwrap().to_string()],
        "body" => vec![codec::diagnostic(&bytes).to_string()],
        "meta" | "compressed" | "both" => {
            let form = Form { meta: kind != "compressed", compressed: kind != "meta" };
            let unpacked = envelope::unpack(form, bytes, &Space::new(1 << 20)).unwrap();
            let meta = unpacked.meta.map(|meta| format!("{meta:?}"));
            let body = codec::decode::<codec::Value>(&unpacked.body).unwrap();
            meta.into_iter().chain([format!("{body:?}")]).collect()
        }
        _ => panic!("unknown kind {kind}"),
    }
}

fn unhex(hex: &str) -> Bytes {
    let digits = hex.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).unwrap());
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

#[test]
fn what_version_1_wrote_is_read_for_ever() {
    let mut lines = V1.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).peekable();
    let mut count = 0;
    while let Some(line) = lines.next() {
        let [kind, name, hex] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let mut expected = Vec::new();
        while let Some(line) = lines.next_if(|line| line.starts_with("= ")) {
            expected.push(line[2..].to_owned());
        }
        assert_eq!(read(kind, unhex(hex)), expected, "{name}");
        count += 1;
    }
    assert!(count >= 12, "{count} recorded messages");
}
