//! A message as it travels: metadata before the body, the body compressed where both sides want it.
//!
//! ```text
//! message     = [ meta map ] | body                          ; the map as the form's META bit says
//! compressed  = size v | LZ4 block                           ; instead of the body, as the COMPRESSED bit says
//! ```
//! The compressed form is taken for bodies above [`COMPRESS_ABOVE`] that shrink below nine tenths. What arrives is
//! unfolded into at most `message_size_max` bytes, and no more of them at once than [`INFLATED_MAX_FACTOR`] such
//! bodies: a peer pays for what it makes this side hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::codec;
use super::error::{Code, RpcError};
use super::meta::{META_SIZE_MAX, Meta};
use crate::endpoint::Form;
use crate::wire::varint;

/// Bodies up to this size, in bytes, are never compressed: they share a packet anyway.
pub(crate) const COMPRESS_ABOVE: usize = 1_024;
/// How many bodies of the largest size may be unfolded at once; above it a request is answered SERVER_BUSY.
pub(crate) const INFLATED_MAX_FACTOR: usize = 4;
/// No LZ4 block unfolds to more than so many times its size: a longer sequence costs a byte for each 255.
const RATIO_MAX: usize = 255;

/// What a message says: its metadata where it has any, and its body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unpacked {
    pub(crate) meta: Option<Arc<Meta>>,
    pub(crate) body: Bytes,
    /// Held as long as an unfolded body is used.
    pub(crate) room: Option<Room>,
}

/// Puts metadata and body into one message. A body without metadata that is not compressed is passed on as it is.
///
/// # Errors
/// When the metadata is larger than [`META_SIZE_MAX`]: BAD_REQUEST, not executed.
#[inline]
pub(crate) fn pack(meta: Option<&Meta>, body: Bytes, compress: bool) -> Result<(Form, Bytes), RpcError> {
    if meta.is_none() && !compress {
        return Ok((Form::default(), body));
    }
    fold(meta, body, compress)
}

fn fold(meta: Option<&Meta>, body: Bytes, compress: bool) -> Result<(Form, Bytes), RpcError> {
    let meta = meta.filter(|meta| !meta.is_empty());
    let block = if compress { deflate(&body) } else { None };
    let form = Form { meta: meta.is_some(), compressed: block.is_some() };
    let body = block.map_or(body, Bytes::from);
    let Some(meta) = meta else { return Ok((form, body)) };
    let mut message = Vec::with_capacity(64 + body.len());
    codec::encode_onto(meta, &mut message).map_err(|error| {
        RpcError::not_executed(Code::BadRequest, format!("metadata not encoded: {error}"))
    })?;
    if message.len() > META_SIZE_MAX {
        let message = format!("{} bytes of metadata: at most {META_SIZE_MAX} travel", message.len());
        return Err(RpcError::not_executed(Code::BadRequest, message));
    }
    message.extend_from_slice(&body);
    Ok((form, message.into()))
}

/// Takes a message apart.
///
/// # Errors
/// As words for an error of who sent it, and the code: BAD_REQUEST if it cannot be read, TOO_LARGE if it would
/// unfold to more than allowed, SERVER_BUSY if too much is unfolded already.
pub(crate) fn unpack(form: Form, message: Bytes, space: &Space) -> Result<Unpacked, (Code, String)> {
    let (meta, mut body) = if form.meta {
        let (meta, size) =
            Meta::read(&message).map_err(|error| (Code::BadRequest, format!("metadata: {error}")))?;
        (Some(Arc::new(meta)), message.slice(size..))
    } else {
        (None, message)
    };
    let mut room = None;
    if form.compressed {
        let (bytes, taken) = inflate(&body, space)?;
        (body, room) = (bytes.into(), Some(taken));
    }
    Ok(Unpacked { meta, body, room })
}

/// `size v | block`, if that is worth it.
fn deflate(body: &[u8]) -> Option<Vec<u8>> {
    if body.len() <= COMPRESS_ABOVE {
        return None;
    }
    let mut message = Vec::new();
    varint::put(&mut message, body.len() as u64);
    let start = message.len();
    message.resize(start + lz4_flex::block::get_maximum_output_size(body.len()), 0);
    let size = lz4_flex::block::compress_into(body, &mut message[start..]).ok()?;
    message.truncate(start + size);
    // Less than a tenth saved is not worth the peer's work.
    (message.len() < body.len() / 10 * 9).then_some(message)
}

fn inflate(message: &Bytes, space: &Space) -> Result<(Vec<u8>, Room), (Code, String)> {
    let broken = |what: &str| (Code::BadRequest, format!("compressed body: {what}"));
    let mut reader = varint::Reader::new(message);
    let size = reader.varint().map_err(|_| broken("no size"))?;
    let block = &message[reader.position()..];
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if size > space.body_max {
        return Err((
            Code::TooLarge,
            format!("a body of {size} bytes is above the limit of {}", space.body_max),
        ));
    }
    if size > block.len().saturating_mul(RATIO_MAX) {
        return Err(broken("no block of this size unfolds to so much"));
    }
    let room = space.take(size).ok_or_else(|| {
        (Code::ServerBusy, format!("{} bytes of compressed bodies are unfolded", space.in_use()))
    })?;
    let mut body = vec![0; size];
    match lz4_flex::block::decompress_into(block, &mut body) {
        Ok(written) if written == size => Ok((body, room)),
        Ok(_) => Err(broken("shorter than announced")),
        Err(_) => Err(broken("not an LZ4 block of the announced size")),
    }
}

/// How much may be unfolded.
#[derive(Debug)]
pub(crate) struct Space {
    body_max: usize,
    in_use: Arc<AtomicUsize>,
}

impl Space {
    /// For bodies of at most `body_max` bytes each.
    pub(crate) fn new(body_max: usize) -> Self {
        Self { body_max, in_use: Arc::default() }
    }

    fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed)
    }

    fn take(&self, size: usize) -> Option<Room> {
        let max = self.body_max.saturating_mul(INFLATED_MAX_FACTOR);
        let fits = |in_use: usize| in_use.checked_add(size).filter(|sum| *sum <= max);
        self.in_use.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Room { size, in_use: Arc::clone(&self.in_use) })
    }
}

/// Bytes of an unfolded body; given back when dropped.
#[derive(Debug)]
pub(crate) struct Room {
    size: usize,
    in_use: Arc<AtomicUsize>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.in_use.fetch_sub(self.size, Ordering::Relaxed);
    }
}

impl PartialEq for Room {
    fn eq(&self, other: &Self) -> bool {
        self.size == other.size
    }
}

impl Eq for Room {}

/// A body that may be kept. One that came in a packet with others keeps the whole packet in memory: a small one is copied
/// out, so that who sends it does not make us keep much more than it pays for.
pub(crate) fn to_be_kept(body: Bytes) -> Bytes {
    if body.len() < COPIED_BELOW { Bytes::copy_from_slice(&body) } else { body }
}

/// A sixteenth of the largest packet that is accepted unless told otherwise.
const COPIED_BELOW: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SeededRandom;

    fn space() -> Space {
        Space::new(1 << 20)
    }

    fn text(size: usize) -> Bytes {
        b"all work and no play ".iter().copied().cycle().take(size).collect()
    }

    #[test]
    fn a_plain_body_is_not_touched() {
        let body = text(5_000);
        let (form, message) = pack(None, body.clone(), false).unwrap();
        assert_eq!((form, message.as_ptr()), (Form::default(), body.as_ptr()));
    }

    #[test]
    fn a_body_is_compressed_where_that_pays() {
        let mut random = SeededRandom::new(1);
        let noise: Bytes = (0..5_000).map(|_| random.next_u64() as u8).collect();
        let barely: Bytes = [&noise[..4_700], &[0; 300]].concat().into();
        for (body, pays) in
            [(text(5_000), true), (text(COMPRESS_ABOVE), false), (noise, false), (barely, false)]
        {
            let (form, message) = pack(None, body.clone(), true).unwrap();
            assert_eq!(form.compressed, pays);
            assert_eq!(message.len() < body.len(), pays);
            assert_eq!(unpack(form, message, &space()).unwrap().body, body);
        }
    }

    #[test]
    fn metadata_and_a_compressed_body_travel_together() {
        let meta = Meta { extra: [(64, Bytes::from_static(b"x"))].into(), ..Meta::default() };
        let (form, message) = pack(Some(&meta), text(5_000), true).unwrap();
        assert!(form.meta && form.compressed);
        let unpacked = unpack(form, message, &space()).unwrap();
        assert_eq!((unpacked.meta.as_deref(), unpacked.body), (Some(&meta), text(5_000)));
        let large = Meta { extra: [(64, vec![0; META_SIZE_MAX].into())].into(), ..Meta::default() };
        assert_eq!(pack(Some(&large), text(1), false).unwrap_err().code, Code::BadRequest);
    }

    #[test]
    fn a_claimed_size_is_judged_before_memory_is_taken() {
        let compressed = Form { meta: false, compressed: true };
        let claim = |size: u64, block: usize| {
            let mut message = Vec::new();
            varint::put(&mut message, size);
            message.resize(message.len() + block, 0);
            unpack(compressed, message.into(), &space()).unwrap_err().0
        };
        assert_eq!(claim((1 << 20) + 1, 1 << 20), Code::TooLarge);
        assert_eq!(claim(1 << 20, 100), Code::BadRequest);
        assert_eq!(claim(4_000, 0), Code::BadRequest);
    }

    #[test]
    fn what_is_unfolded_at_once_is_limited() {
        let space = Space::new(5_000);
        let (form, message) = pack(None, text(5_000), true).unwrap();
        let unfold = || unpack(form, message.clone(), &space);
        let mut held: Vec<_> = (0..INFLATED_MAX_FACTOR).map(|_| unfold().unwrap()).collect();
        assert_eq!(unfold().unwrap_err().0, Code::ServerBusy);
        // What cannot be true is refused as that, whatever room there is.
        let mut claim = Vec::new();
        varint::put(&mut claim, 5_000);
        claim.extend_from_slice(&[0; 10]);
        assert_eq!(unpack(form, claim.into(), &space).unwrap_err().0, Code::BadRequest);
        held.pop();
        assert!(unfold().is_ok());
    }

    #[test]
    fn a_block_that_unfolds_to_less_than_announced_is_refused() {
        let (form, message) = pack(None, text(5_000), true).unwrap();
        let mut reader = varint::Reader::new(&message);
        assert_eq!(reader.varint(), Ok(5_000));
        let mut longer = Vec::new();
        varint::put(&mut longer, 5_001);
        longer.extend_from_slice(&message[reader.position()..]);
        assert_eq!(unpack(form, longer.into(), &space()).unwrap_err().0, Code::BadRequest);
    }

    /// Mutated messages end in a body of the announced size or in an error; never in a panic or in more memory.
    #[test]
    fn mutations_of_compressed_messages_are_survived() {
        let mut random = SeededRandom::new(2);
        let (form, message) = pack(None, text(3_000), true).unwrap();
        let space = space();
        for _ in 0..20_000 {
            let mut mutant = message.to_vec();
            for _ in 0..=random.next_u64() % 4 {
                let at = random.next_u64() as usize % mutant.len();
                match random.next_u64() % 4 {
                    0 => mutant[at] = random.next_u64() as u8,
                    1 => mutant[at] ^= 1 << (random.next_u64() % 8),
                    2 => mutant.truncate(at.max(1)),
                    _ => mutant.insert(at, 0xff),
                }
            }
            if let Ok(unpacked) = unpack(form, mutant.into(), &space) {
                assert!(unpacked.body.len() <= space.body_max);
            }
            assert_eq!(space.in_use(), 0);
        }
    }
}
