use super::*;

fn read_all(buf: Vec<u8>) -> Result<Vec<Frame>, Malformed> {
    let bytes = Bytes::from(buf);
    let mut reader = Reader::new(&bytes);
    let mut frames = Vec::new();
    while !reader.is_empty() {
        frames.push(Frame::read(&mut reader)?);
    }
    Ok(frames)
}

const COMPRESSED: Form = Form { meta: false, compressed: true };

fn head() -> RequestHead {
    RequestHead {
        method: (1 << 30) - 1,
        lane: Lane::Bulk,
        idempotent: true,
        form: Form { meta: true, compressed: false },
        left_us: 5_000_000,
        sent_us: 1 << 40,
    }
}

#[test]
fn every_frame_reads_back() {
    let mut buf = Vec::new();
    put_ping(&mut buf);
    put_request(&mut buf, varint::MAX, &head(), b"args");
    put_response(&mut buf, 3, 29, Lane::Control, COMPRESSED, b"");
    put_part(&mut buf, 4, Lane::Bulk, &PartHead::Request(head()), 0, 9, b"abc");
    put_part(&mut buf, 4, Lane::Bulk, &PartHead::Request(head()), 3, 9, b"def");
    put_part(&mut buf, 5, Lane::Normal, &PartHead::Response { status: 1, form: COMPRESSED }, 0, 9, b"abc");
    put_cancel(&mut buf, 6, 7);
    put_seen(&mut buf, 8);
    put_accepted(&mut buf, 10);
    put_max_data(&mut buf, 1 << 24);
    put_grant(&mut buf, 12, 1 << 40);
    put_drain(&mut buf, 12, 500);
    put_path_challenge(&mut buf, u64::MAX - 3);
    put_path_response(&mut buf, 5);
    put_close(&mut buf, 2, &[b'x'; 300]);
    buf.extend_from_slice(&[0, 0, 0]);
    let part = |call, response, lane, offset, head, data| {
        Frame::Part(Part { call, response, lane, offset, total: 9, head, data: Bytes::from_static(data) })
    };
    let expected = vec![
        Frame::Ping,
        Frame::Request { call: varint::MAX, head: head(), body: Bytes::from_static(b"args") },
        Frame::Response { call: 3, status: 29, form: COMPRESSED, body: Bytes::new() },
        part(4, false, Lane::Bulk, 0, Some(PartHead::Request(head())), b"abc"),
        part(4, false, Lane::Bulk, 3, None, b"def"),
        part(5, true, Lane::Normal, 0, Some(PartHead::Response { status: 1, form: COMPRESSED }), b"abc"),
        Frame::Cancel { call: 6, code: 7 },
        Frame::Seen { floor: 8 },
        Frame::Accepted { call: 10 },
        Frame::MaxData { bytes: 1 << 24 },
        Frame::Grant { call: 12, upto: 1 << 40 },
        Frame::Drain { last_call: 12, after_ms: 500 },
        Frame::PathChallenge { data: u64::MAX - 3 },
        Frame::PathResponse { data: 5 },
        Frame::Close { code: 2, reason: Bytes::from_static(&[b'x'; REASON_SIZE_MAX]) },
        Frame::Padding,
    ];
    assert_eq!(read_all(buf), Ok(expected));
}

#[test]
fn frames_cost_what_their_bounds_say() {
    let largest = RequestHead { method: (1 << 30) - 1, left_us: varint::MAX, sent_us: varint::MAX, ..head() };
    let mut buf = Vec::new();
    put_request(&mut buf, varint::MAX, &largest, &[0; 20_000]);
    assert!(buf.len() <= 20_000 + REQUEST_OVERHEAD_MAX);
    buf.clear();
    put_response(&mut buf, varint::MAX, varint::MAX, Lane::Bulk, COMPRESSED, &[0; 20_000]);
    assert!(buf.len() <= 20_000 + RESPONSE_OVERHEAD_MAX);
    buf.clear();
    put_part(&mut buf, varint::MAX, Lane::Bulk, &PartHead::Request(largest), 0, varint::MAX, &[0; 20_000]);
    assert!(buf.len() <= 20_000 + PART_OVERHEAD_MAX);
}

#[test]
fn acknowledged_ranges_read_back() {
    let ranges = [(90, 100), (88, 88), (0, 40)];
    let mut buf = Vec::new();
    put_ack(&mut buf, 250, ranges.into_iter(), None);
    let frames = read_all(buf).unwrap();
    let [Frame::Ack(ack)] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!((ack.largest, ack.delay_us), (100, 250));
    assert_eq!(ack.ranges().collect::<Vec<_>>(), ranges);
}

#[test]
fn marks_stand_behind_the_ranges_and_are_refused_when_cut() {
    let marks = Marks { not_ect: 3, ect1: 70, ce: varint::MAX };
    let mut buf = Vec::new();
    put_ack(&mut buf, 250, [(90, 100), (0, 40)].into_iter(), Some(marks));
    for cut in buf.len() - 11..buf.len() {
        assert!(read_all(buf[..cut].to_vec()).is_err(), "cut at {cut}");
    }
    put_ping(&mut buf);
    let frames = read_all(buf).unwrap();
    let [Frame::AckEcn { ack, marks: read }, Frame::Ping] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!((*read, ack.ranges().count()), (marks, 2));
}

#[test]
fn an_acknowledgement_below_zero_is_refused() {
    for numbers in [&[2, 5, 0, 0, 6][..], &[2, 5, 0, 1, 0, 4, 0], &[2, 5, 0, 1, 0, 0, 4], &[2, 5, 0, 9, 0]] {
        assert!(read_all(numbers.to_vec()).is_err(), "{numbers:?}");
    }
}

#[test]
fn reserved_ids_are_refused_and_extensions_skipped() {
    for id in [7, 11, 14, 19, 20, 63] {
        assert_eq!(read_all(vec![id, 0, 0, 0]), Err(Malformed("unknown frame")), "{id}");
    }
    assert_eq!(read_all(vec![0x40, 64, 2, 9, 9, 1]), Ok(vec![Frame::Extension, Frame::Ping]));
    assert!(read_all(vec![0x40, 64, 200, 9, 9, 1]).is_err());
}

#[test]
fn a_part_must_lie_inside_its_message() {
    let mut buf = Vec::new();
    put_part(&mut buf, 4, Lane::Normal, &PartHead::Response { status: 0, form: COMPRESSED }, 5, 7, b"abc");
    assert_eq!(read_all(buf), Err(Malformed("part outside of its message")));
}
