//! What protects a packet.
//!
//! ```text
//! | header | frames                | tag 16                      |
//!            insecure: as they are   CRC32C u32 | 0 * 12          of header and frames
//!            encrypted: AES-128-GCM  the tag of the AEAD          associated data: the header
//! ```
//! Setup packets carry the checksum in every mode: it only finds damage. What must be authentic in them is inside a
//! Noise message, or in its prologue ([`crate::security`]).
//!
//! **Rotation.** Each direction has key phases of its own, numbered from 0; `K` in the header is the lowest bit of the
//! number. A sender goes to the next phase after [`Rotation::packets_max`] packets or [`Rotation::age_max`], and only
//! when the peer has acknowledged a packet of the present one: so the peer is never more than one phase behind. A
//! receiver tells by `K` and the packet number: the present phase; or, with the other `K`, the previous one if the
//! number is below the first that it opened in the present phase, else the next. It follows as soon as a packet of the
//! next phase opens, and forgets the previous key three probe timeouts later.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::plant;
use crate::runtime::Instant;
use crate::security::{PacketKey, Secret, Secrets};

/// Bytes behind the frames.
pub(crate) const TAG_SIZE: usize = 16;

/// `K` in the first byte of a short header.
const KEY_PHASE: u8 = 0b0010_0000;

/// Appends the checksum to the packet that starts at `start` in `buf`.
pub(crate) fn put_checksum(buf: &mut Vec<u8>, start: usize) {
    let checksum = crc32c::crc32c(&buf[start..]);
    buf.extend_from_slice(&checksum.to_be_bytes());
    buf.extend_from_slice(&[0; TAG_SIZE - 4]);
}

/// What lies between the header and the checksum; `None` if that does not fit.
pub(crate) fn checked(packet: &Bytes, header_size: usize) -> Option<Bytes> {
    let end = packet.len().checked_sub(TAG_SIZE).filter(|end| *end >= header_size)?;
    let checksum = crc32c::crc32c(&packet[..end]).to_be_bytes();
    let tag = &packet[end..];
    let fits = tag[..4] == checksum && tag[4..].iter().all(|byte| *byte == 0);
    (fits || plant::CHECKSUM_IGNORED.is_planted()).then(|| packet.slice(header_size..end))
}

/// When a sender changes its key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rotation {
    pub(crate) packets_max: u64,
    pub(crate) age_max: Duration,
}

/// The keys of one connection.
#[derive(Debug)]
pub(crate) enum Keys {
    /// The handshake is not complete: nothing can be opened, and nothing is sealed.
    None,
    /// A checksum.
    Insecure,
    /// AES-GCM.
    Sealed(Box<Sealed>),
}

impl Keys {
    /// The keys that come of a handshake.
    pub(crate) fn new(now: Instant, secrets: Option<Secrets>) -> Self {
        match secrets {
            None => Self::Insecure,
            Some(secrets) => Self::Sealed(Box::new(Sealed {
                send: Sending::new(now, secrets.send),
                receive: Receiving::new(secrets.receive),
            })),
        }
    }

    pub(crate) const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Goes to the next key if it is time to. Called before a packet is sealed.
    pub(crate) fn rotate(
        &mut self,
        now: Instant,
        next_pn: u64,
        largest_acked: Option<u64>,
        rotation: Rotation,
    ) -> bool {
        match self {
            Self::Sealed(sealed) => sealed.send.rotate(now, next_pn, largest_acked, rotation),
            Self::None | Self::Insecure => false,
        }
    }

    /// Seals the packet that starts at `start` in `buf` with a header of `header_size` bytes: encrypts it in place and
    /// appends the tag.
    pub(crate) fn seal(&self, packet_number: u64, buf: &mut Vec<u8>, start: usize, header_size: usize) {
        match self {
            Self::None | Self::Insecure => put_checksum(buf, start),
            Self::Sealed(sealed) => sealed.send.seal(packet_number, &mut *buf, start, header_size),
        }
    }

    /// The frames of a packet with a header of `header_size` bytes; `None` if the tag does not fit it. `keep` is how
    /// long the previous key is kept when this packet is the first with a new one.
    pub(crate) fn open(
        &mut self,
        now: Instant,
        keep: Duration,
        packet_number: u64,
        packet: Bytes,
        header_size: usize,
    ) -> Option<Bytes> {
        match self {
            Self::None => None,
            Self::Insecure => checked(&packet, header_size),
            Self::Sealed(sealed) => sealed.receive.open(now, keep, packet_number, packet, header_size),
        }
    }

    /// As [`Keys::open`], without an effect on the keys.
    #[cfg(test)]
    pub(crate) fn peek(&self, pn: u64, packet: &Bytes, header_size: usize) -> Option<Bytes> {
        match self {
            Self::None => None,
            Self::Insecure => checked(packet, header_size),
            Self::Sealed(sealed) => {
                let Receiving { key, next, previous, .. } = &sealed.receive;
                let keys = [Some(key), Some(&next.1), previous.as_ref().map(|(key, _)| key)];
                keys.into_iter().flatten().find_map(|key| decrypt(key, pn, packet.clone(), header_size))
            }
        }
    }
}

/// The keys of both directions.
#[derive(Debug)]
pub(crate) struct Sealed {
    send: Sending,
    receive: Receiving,
}

#[derive(Debug)]
struct Sending {
    secret: Secret,
    key: PacketKey,
    phase: u64,
    /// First packet number and first moment of this phase.
    first: u64,
    since: Instant,
}

impl Sending {
    fn new(now: Instant, secret: Secret) -> Self {
        Self { key: secret.key(), secret, phase: 0, first: 0, since: now }
    }

    fn rotate(&mut self, now: Instant, next_pn: u64, largest_acked: Option<u64>, rotation: Rotation) -> bool {
        let due = next_pn - self.first >= rotation.packets_max || now - self.since >= rotation.age_max;
        if !due || largest_acked.is_none_or(|acked| acked < self.first) {
            return false;
        }
        let secret = self.secret.next();
        *self = Self { key: secret.key(), secret, phase: self.phase + 1, first: next_pn, since: now };
        true
    }

    fn seal(&self, packet_number: u64, buf: &mut Vec<u8>, start: usize, header_size: usize) {
        if self.phase & 1 == 1 {
            buf[start] |= KEY_PHASE;
        }
        let (header, frames) = buf[start..].split_at_mut(header_size);
        // A datagram is never too long for the cipher; were it, nothing readable goes out.
        let tag = self.key.seal(packet_number, header, frames).unwrap_or_else(|| {
            frames.fill(0);
            [0; TAG_SIZE]
        });
        buf.extend_from_slice(&tag);
    }
}

#[derive(Debug)]
struct Receiving {
    key: PacketKey,
    phase: u64,
    /// Lowest packet number that was opened in this phase.
    first: Option<u64>,
    /// Computed ahead, so that opening takes as long for a forged packet as for a good one.
    next: (Secret, PacketKey),
    previous: Option<(PacketKey, Instant)>,
}

impl Receiving {
    fn new(secret: Secret) -> Self {
        let next = secret.next();
        Self { key: secret.key(), phase: 0, first: None, next: (next.clone(), next.key()), previous: None }
    }

    fn open(
        &mut self,
        now: Instant,
        keep: Duration,
        pn: u64,
        packet: Bytes,
        header_size: usize,
    ) -> Option<Bytes> {
        if packet.len() < header_size + TAG_SIZE {
            return None;
        }
        if self.previous.as_ref().is_some_and(|(_, until)| *until <= now) {
            self.previous = None;
        }
        let is_next = (packet[0] & KEY_PHASE != 0) != (self.phase & 1 == 1);
        let is_previous = is_next && self.first.is_some_and(|first| pn < first);
        let key = match &self.previous {
            _ if !is_next => &self.key,
            Some((key, _)) if is_previous => key,
            None if is_previous => return None,
            _ => &self.next.1,
        };
        let frames = decrypt(key, pn, packet, header_size)?;
        if !is_next {
            self.first = Some(self.first.map_or(pn, |first| first.min(pn)));
        } else if !is_previous {
            self.follow(now + keep, pn);
        }
        Some(frames)
    }

    /// The peer went to the next phase with packet `pn`.
    fn follow(&mut self, until: Instant, pn: u64) {
        let after = self.next.0.next();
        let key = after.key();
        let next = std::mem::replace(&mut self.next, (after, key));
        let previous = std::mem::replace(&mut self.key, next.1);
        self.previous = Some((previous, until));
        self.phase += 1;
        self.first = Some(pn);
    }
}

/// Decrypts in the memory of the packet if nothing else looks at it, else in a copy.
fn decrypt(key: &PacketKey, pn: u64, packet: Bytes, header_size: usize) -> Option<Bytes> {
    let mut memory = packet.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    let (header, sealed) = memory.split_at_mut(header_size);
    if !key.open(pn, header, sealed) {
        return None;
    }
    memory.truncate(memory.len() - TAG_SIZE);
    let mut frames = memory.freeze();
    bytes::Buf::advance(&mut frames, header_size);
    Some(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flipped_bit_is_found() {
        let mut buf = b"header and frames".to_vec();
        put_checksum(&mut buf, 0);
        let sealed = Bytes::from(buf);
        assert_eq!(checked(&sealed, 6), Some(Bytes::from_static(b" and frames")));
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(checked(&Bytes::from(damaged), 6), None, "bit {bit}");
        }
        for cut in 0..sealed.len() {
            assert_eq!(checked(&sealed.slice(..cut), 6), None, "cut at {cut}");
        }
    }

    fn two_sides() -> (Keys, Keys) {
        let secret = |byte| Secret::of([byte; 32]);
        let now = Instant::default();
        let a = Keys::new(now, Some(Secrets { send: secret(1), receive: secret(2) }));
        let b = Keys::new(now, Some(Secrets { send: secret(2), receive: secret(1) }));
        (a, b)
    }

    fn sealed(keys: &Keys, pn: u64) -> Bytes {
        let mut buf = vec![0b0100_0000; 13];
        buf.extend_from_slice(b"frames");
        keys.seal(pn, &mut buf, 0, 13);
        buf.into()
    }

    #[test]
    fn a_key_is_followed_kept_for_a_while_and_then_opens_nothing() {
        let (mut a, mut b) = two_sides();
        let (now, keep) = (Instant::from_nanos(1_000), Duration::from_millis(3));
        let early: Vec<_> = (0..6).map(|pn| sealed(&a, pn)).collect();
        assert!(b.open(now, keep, 0, early[0].clone(), 13).is_some());
        assert!(a.rotate(now, 6, Some(0), Rotation { packets_max: 6, age_max: Duration::MAX }));
        let (late, later) = (sealed(&a, 7), sealed(&a, 6));
        assert_ne!(late[0] & KEY_PHASE, 0);
        // Nothing forged makes the receiver follow.
        let mut forged = early[1].to_vec();
        forged[0] |= KEY_PHASE;
        assert_eq!(b.open(now, keep, 1, forged.into(), 13), None);
        assert!(b.open(now, keep, 1, early[1].clone(), 13).is_some());
        assert!(b.open(now, keep, 7, late, 13).is_some());
        // What was reordered still opens, with its own key.
        assert!(b.open(now, keep, 6, later, 13).is_some());
        assert!(b.open(now, keep, 2, early[2].clone(), 13).is_some());
        let almost = now + keep - Duration::from_nanos(1);
        assert!(b.open(almost, keep, 3, early[3].clone(), 13).is_some());
        assert_eq!(b.open(now + keep, keep, 4, early[4].clone(), 13), None);
        // Nor with its phase bit turned, or again later.
        let mut turned = early[5].to_vec();
        turned[0] |= KEY_PHASE;
        assert_eq!(b.open(now + keep, keep, 5, turned.into(), 13), None);
        assert_eq!(b.open(now, keep, 5, early[5].clone(), 13), None);
    }

    #[test]
    fn a_key_changes_after_its_packets_or_its_age_and_only_when_the_peer_followed() {
        let (mut a, _) = two_sides();
        let now = Instant::default();
        let rotation = Rotation { packets_max: 10, age_max: Duration::from_secs(60) };
        assert!(!a.rotate(now, 9, Some(8), rotation));
        assert!(!a.rotate(now, 10, None, rotation));
        assert!(a.rotate(now, 10, Some(3), rotation));
        assert!(!a.rotate(now, 30, Some(9), rotation), "nothing of this phase was acknowledged");
        assert!(a.rotate(now, 30, Some(10), rotation));
        let later = now + Duration::from_secs(60);
        assert!(!a.rotate(later - Duration::from_nanos(1), 31, Some(30), rotation));
        assert!(a.rotate(later, 31, Some(30), rotation));
    }

    #[test]
    fn a_key_is_never_the_one_of_an_earlier_phase() {
        let (mut a, _) = two_sides();
        let rotation = Rotation { packets_max: 1, age_max: Duration::MAX };
        let mut seen = std::collections::BTreeSet::new();
        for pn in 1..200 {
            assert!(seen.insert(sealed(&a, 0)));
            assert!(a.rotate(Instant::default(), pn, Some(pn), rotation));
        }
    }

    #[test]
    fn a_packet_without_room_for_a_tag_is_none() {
        let (a, mut b) = two_sides();
        let packet = sealed(&a, 0);
        let now = Instant::default();
        for size in 0..13 + TAG_SIZE {
            assert_eq!(b.open(now, Duration::ZERO, 0, packet.slice(..size), 13), None, "{size} bytes");
        }
        assert!(b.open(now, Duration::ZERO, 0, packet, 13).is_some());
    }
}
