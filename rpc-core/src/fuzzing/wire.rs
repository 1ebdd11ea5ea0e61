//! Packet headers, frames, setup bodies.

use std::time::Duration;

use bytes::Bytes;

use crate::wire::frame::{self, Ack, Frame, Part, PartHead, RequestHead};
use crate::wire::packet::{self, Header, LONG_HEADER_SIZE, LongKind};
use crate::wire::setup::{self, Init, Message, Params};
use crate::wire::varint::Reader;
use crate::wire::{Form, Lane, Malformed, Marks, seal};

/// A whole datagram: header, reset, and what follows from the kind of a setup packet.
pub(super) fn datagram(bytes: &[u8]) -> bool {
    let datagram = Bytes::copy_from_slice(bytes);
    if let Some((dcid, _)) = packet::read_reset(&datagram, None) {
        assert!(matches!(Header::read(&datagram), Ok(Header::Short { dcid: same, .. }) if same == dcid));
    }
    let Ok(header) = Header::read(&datagram) else { return false };
    let mut again = Vec::new();
    header.put(&mut again);
    again.resize(again.len() + seal::TAG_SIZE, 0);
    assert_eq!(Header::read(&again.into()), Ok(header));
    if let Header::Long { kind, .. } = header
        && let Some(body) = seal::checked(&datagram, LONG_HEADER_SIZE)
    {
        return setup_body(kind, &body);
    }
    true
}

/// The body of a setup packet; the first byte of the input chooses the kind.
pub(super) fn setup(bytes: &[u8]) -> bool {
    let Some((kind, body)) = bytes.split_first() else { return false };
    let body = Bytes::copy_from_slice(body);
    match kind % 6 {
        0 => setup_body(LongKind::Init, &body),
        1 => setup_body(LongKind::Retry, &body),
        2 => setup_body(LongKind::Reply, &body),
        3 => setup_body(LongKind::VersionNegotiation, &body),
        4 => Params::read_only(body.to_vec()).is_ok_and(|params| {
            assert_eq!(Params::read_only(params.payload(None)), Ok(params));
            true
        }),
        _ => Params::read_second(body.to_vec()).is_ok_and(|(scid, params)| {
            assert_eq!(Params::read_second(params.payload(Some(scid))), Ok((scid, params)));
            true
        }),
    }
}

fn setup_body(kind: LongKind, body: &Bytes) -> bool {
    match kind {
        // With dcid != 0 an INIT is read as the other form.
        LongKind::Init => {
            let third = Message::read(body);
            if let Ok(third) = &third {
                assert!(third.message.len() <= body.len());
            }
            let init = Init::read(body);
            if let Ok(init) = &init {
                assert!(init.versions.len() <= usize::from(u8::MAX) && init.message.len() <= body.len());
                // What was padded to the size of a setup datagram reads back; what is longer was no such packet.
                let datagram = Bytes::from(init.datagram(1));
                if datagram.len() == crate::wire::SETUP_DATAGRAM_SIZE && fits(init) {
                    let body = seal::checked(&datagram, LONG_HEADER_SIZE).expect("our own checksum");
                    assert_eq!(Init::read(&body).as_ref(), Ok(init));
                }
            }
            third.is_ok() || init.is_ok()
        }
        LongKind::Reply => Message::read(body).is_ok_and(|message| {
            assert!(message.message.len() <= body.len());
            true
        }),
        LongKind::Retry => setup::read_retry(body).is_ok_and(|cookie| {
            let datagram = Bytes::from(setup::retry(1, &cookie));
            let body = seal::checked(&datagram, LONG_HEADER_SIZE).expect("our own checksum");
            assert_eq!(setup::read_retry(&body), Ok(cookie));
            true
        }),
        LongKind::VersionNegotiation => packet::read_versions(body).is_ok_and(|versions| {
            assert!(versions.len() * 4 < body.len());
            true
        }),
    }
}

/// Whether the INIT is no longer than its datagram.
fn fits(init: &Init) -> bool {
    let size = 1 + 4 * init.versions.len() + 2 + init.cookie.len() + 2 + init.message.len();
    LONG_HEADER_SIZE + size + seal::TAG_SIZE <= crate::wire::SETUP_DATAGRAM_SIZE
}

/// The frames of a packet.
pub(super) fn frames(bytes: &[u8]) -> bool {
    let Ok(frames) = read_frames(&Bytes::copy_from_slice(bytes)) else { return false };
    for frame in &frames {
        let mut again = Vec::new();
        put(&mut again, frame);
        // Padding and extensions are read and not kept.
        if !again.is_empty() {
            let again = read_frames(&again.into()).expect("what was written can be read");
            assert!(matches!(&again[..], [again] if same(again, frame)), "{frame:?} became {again:?}");
        }
    }
    !frames.is_empty()
}

/// Whether two frames say the same; acknowledgements may say it in shorter varints.
fn same(a: &Frame, b: &Frame) -> bool {
    match (a, b) {
        (Frame::Ack(a), Frame::Ack(b)) => a.delay_us == b.delay_us && a.ranges().eq(b.ranges()),
        (Frame::AckEcn { ack: a, marks }, Frame::AckEcn { ack: b, marks: again }) => {
            a.delay_us == b.delay_us && a.ranges().eq(b.ranges()) && marks == again
        }
        _ => a == b,
    }
}

fn read_frames(packet: &Bytes) -> Result<Vec<Frame>, Malformed> {
    let mut reader = Reader::new(packet);
    let mut frames = Vec::new();
    while !reader.is_empty() {
        let before = reader.position();
        frames.push(Frame::read(&mut reader)?);
        assert!(reader.position() > before, "every frame takes bytes");
    }
    Ok(frames)
}

fn put(buf: &mut Vec<u8>, frame: &Frame) {
    match frame {
        Frame::Padding | Frame::Extension => {}
        Frame::Ping => frame::put_ping(buf),
        Frame::Ack(ack) => put_ack(buf, ack, None),
        Frame::AckEcn { ack, marks } => put_ack(buf, ack, Some(*marks)),
        Frame::Request { call, head, body } => frame::put_request(buf, *call, head, body),
        Frame::Response { call, status, form, body } => {
            frame::put_response(buf, *call, *status, Lane::Normal, *form, body);
        }
        Frame::Part(Part { call, response, lane, offset, total, head, data }) => {
            let absent = if *response {
                PartHead::Response { status: 0, form: Form::default() }
            } else {
                PartHead::Request(request_head())
            };
            frame::put_part(buf, *call, *lane, &head.unwrap_or(absent), *offset, *total, data);
        }
        Frame::Cancel { call, code } => frame::put_cancel(buf, *call, *code),
        Frame::Seen { floor } => frame::put_seen(buf, *floor),
        Frame::Accepted { call } => frame::put_accepted(buf, *call),
        Frame::MaxData { bytes } => frame::put_max_data(buf, *bytes),
        Frame::Drain { last_call, after_ms } => frame::put_drain(buf, *last_call, *after_ms),
        Frame::Close { code, reason } => frame::put_close(buf, *code, reason),
        Frame::Grant { call, upto } => frame::put_grant(buf, *call, *upto),
        Frame::PathChallenge { data } => frame::put_path_challenge(buf, *data),
        Frame::PathResponse { data } => frame::put_path_response(buf, *data),
    }
}

fn put_ack(buf: &mut Vec<u8>, ack: &Ack, marks: Option<Marks>) {
    let ranges: Vec<_> = ack.ranges().collect();
    assert!(ranges.iter().all(|(start, end)| start <= end));
    assert!(ranges.windows(2).all(|pair| pair[1].1 + 1 < pair[0].0), "highest first, apart");
    frame::put_ack(buf, ack.delay_us, ranges.into_iter(), marks);
}

fn request_head() -> RequestHead {
    let (left_us, sent_us) = (5_000_000, 1 << 33);
    RequestHead { method: 77, lane: Lane::Normal, idempotent: true, form: Form::default(), left_us, sent_us }
}

pub(super) fn frame_seeds() -> Vec<Vec<u8>> {
    let head = request_head();
    let form = Form { meta: true, compressed: true };
    type Put<'a> = &'a dyn Fn(&mut Vec<u8>);
    let writers: &[Put<'_>] = &[
        &frame::put_ping,
        &|buf| frame::put_ack(buf, 100, [(90, 99), (50, 60), (1, 7)].into_iter(), None),
        &|buf| {
            let marks = Marks { not_ect: 1, ect1: 0, ce: 300 };
            frame::put_ack(buf, 100, [(90, 99), (50, 60)].into_iter(), Some(marks));
        },
        &|buf| frame::put_request(buf, 4, &head, b"arguments"),
        &|buf| frame::put_response(buf, 5, 29, Lane::Bulk, form, b"result"),
        &|buf| frame::put_part(buf, 6, Lane::Bulk, &PartHead::Request(head), 0, 90_000, &[7; 60]),
        &|buf| frame::put_part(buf, 6, Lane::Bulk, &PartHead::Request(head), 60, 90_000, &[8; 60]),
        &|buf| {
            frame::put_part(buf, 7, Lane::Normal, &PartHead::Response { status: 1, form }, 0, 70, &[9; 60])
        },
        &|buf| frame::put_cancel(buf, 8, 3),
        &|buf| frame::put_seen(buf, 1 << 40),
        &|buf| frame::put_accepted(buf, 10),
        &|buf| frame::put_max_data(buf, 1 << 24),
        &|buf| frame::put_drain(buf, 12, 500),
        &|buf| frame::put_grant(buf, 6, 80_000),
        &|buf| frame::put_path_challenge(buf, 1 << 60),
        &|buf| frame::put_path_response(buf, 13),
        &|buf| frame::put_close(buf, 2, b"a reason"),
        &|buf| buf.extend_from_slice(&[0x40, 70, 3, 1, 2, 3, 0, 0]),
    ];
    let one = |put: &Put<'_>| {
        let mut buf = Vec::new();
        put(&mut buf);
        buf
    };
    let all = writers.iter().map(one).collect::<Vec<_>>().concat();
    writers.iter().map(one).chain([all]).collect()
}

pub(super) fn datagram_seeds() -> Vec<Vec<u8>> {
    let mut data = Vec::new();
    Header::Short { dcid: 1 << 50, pn_low: 7 }.put(&mut data);
    data.extend(frame_seeds().concat());
    seal::put_checksum(&mut data, 0);
    let setups = setup_packets().into_iter().map(|(_, datagram)| datagram);
    setups.chain([data, packet::reset(5, 6, None, || 0x1234_5678_9abc_def0)]).collect()
}

pub(super) fn setup_seeds() -> Vec<Vec<u8>> {
    let body = |(kind, datagram): (u8, Vec<u8>)| {
        let body = &datagram[LONG_HEADER_SIZE..datagram.len() - seal::TAG_SIZE];
        // Without the padding, which would take most mutations.
        let end = body.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        [&[kind], &body[..end]].concat()
    };
    let params = [(4, params().payload(None)), (5, params().payload(Some(9)))];
    let params = params.into_iter().map(|(kind, payload)| [&[kind][..], &payload].concat());
    setup_packets().into_iter().map(body).chain(params).collect()
}

fn setup_packets() -> Vec<(u8, Vec<u8>)> {
    let init = Init {
        versions: vec![1, 2, 0x0a0a_0a0a],
        mode: 0,
        cookie: Bytes::from_static(b"a cookie of thirty-two bytes long"),
        message: params().payload(None).into(),
    };
    let message = Message { mode: 0, message: params().payload(Some(9)).into() };
    vec![
        (0, init.datagram(5)),
        (0, message.third(5, 9)),
        (1, setup::retry(5, b"another cookie")),
        (2, message.reply(5, 9)),
        (3, packet::version_negotiation(9, 5)),
    ]
}

fn params() -> Params {
    Params {
        epoch: 0x1122,
        client_id: 7 << 100,
        datagram_size_max: 1_452,
        message_size_max: 1 << 26,
        calls_max: 1_024,
        ack_delay_max: Duration::from_millis(1),
        idle_timeout: Duration::from_secs(10),
        compression: true,
        ecn: true,
    }
}
