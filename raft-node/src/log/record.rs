//! The log on disk. All integers are big-endian.
//!
//! Tree `log`, key = index u64:
//! ```text
//! | crc32c u32 | version u8 = 1 | kind u8 | term u64 | node u64 | payload          |   whole entry
//! | crc32c u32 | version u8 = 1 | 3       | term u64 | node u64 | pieces u32 | length u32 | crc32c of the payload u32 | kind u8 |
//! ```
//! The checksum covers the key and everything after itself. `kind`: 0 blank, 1 command (its bytes), 2 membership
//! (CBOR). A payload that would make the item larger than [`PIECE_SIZE_MAX`] lies in tree `log.pieces`, key = index u64
//! | piece u32, written *before* its head: without the head the pieces mean nothing and are removed at the next start.
//!
//! Tree `meta`: `vote`, `committed`, `purged`, each `| crc32c u32 | version u8 = 1 | CBOR |`.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use openraft::alias::EntryOf;
use openraft::entry::RaftEntry;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::{EntryPayload, LogId};
use rpc_core::rpc::codec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::disk::{PIECE_SIZE_MAX, Store};
use crate::types::{Proposal, TypeConfig};

/// The tree of whole entries and of the heads of those in pieces.
pub(crate) const HEAD_KEYS: &str = "log";
const PIECES: &str = "log.pieces";
const META: &str = "meta";
/// The last vote.
pub(crate) const VOTE: &str = "vote";
/// The last log id known to be committed.
pub(crate) const COMMITTED: &str = "committed";
/// The last log id that was purged.
pub(crate) const PURGED: &str = "purged";

const VERSION: u8 = 1;
const BLANK: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;
const IN_PIECES: u8 = 3;
/// Checksum, version, kind, term, node.
const HEADER_SIZE: usize = 4 + 1 + 1 + 8 + 8;
/// Pieces, length, checksum and kind of a payload in pieces.
const PIECES_SIZE: usize = 4 + 4 + 4 + 1;

/// An error that says which entry is damaged.
pub(crate) fn damaged(index: u64, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("log entry {index} is damaged: {what}"))
}

/// Writes an entry; returns the size of its payload in bytes.
pub(crate) fn write(store: &dyn Store, entry: &EntryOf<TypeConfig>) -> io::Result<usize> {
    let log_id = entry.log_id();
    let (kind, payload) = match &entry.payload {
        EntryPayload::Blank => (BLANK, Bytes::new()),
        EntryPayload::Normal(Proposal(command)) => (COMMAND, command.clone()),
        EntryPayload::Membership(membership) => {
            (MEMBERSHIP, codec::encode(membership).map_err(io::Error::other)?)
        }
    };
    if HEADER_SIZE + payload.len() <= PIECE_SIZE_MAX {
        store.insert(HEAD_KEYS, &log_id.index.to_be_bytes(), &seal(&log_id, kind, &payload))?;
    } else {
        let mut count = 0u32;
        for piece in payload.chunks(PIECE_SIZE_MAX) {
            store.insert(PIECES, &piece_key(log_id.index, count), piece)?;
            count += 1;
        }
        let length = u32::try_from(payload.len()).map_err(|_| io::Error::other("log entry above 4 GiB"))?;
        let mut head = BytesMut::with_capacity(PIECES_SIZE);
        head.put_u32(count);
        head.put_u32(length);
        head.put_u32(crc32c::crc32c(&payload));
        head.put_u8(kind);
        store.insert(HEAD_KEYS, &log_id.index.to_be_bytes(), &seal(&log_id, IN_PIECES, &head))?;
    }
    Ok(payload.len())
}

/// Reads and verifies the entry at `index`, with the size that [`write`] returned.
pub(crate) fn read(store: &dyn Store, index: u64) -> io::Result<(EntryOf<TypeConfig>, usize)> {
    let record =
        store.get(HEAD_KEYS, &index.to_be_bytes())?.ok_or_else(|| damaged(index, "it is missing"))?;
    let head = Head::open(index, &record)?;
    let (kind, payload) = match head.kind {
        IN_PIECES => read_pieces(store, index, &head.payload)?,
        kind => (kind, head.payload),
    };
    let size = payload.len();
    let payload = match kind {
        BLANK => EntryPayload::Blank,
        COMMAND => EntryPayload::Normal(Proposal(payload)),
        MEMBERSHIP => {
            let membership = codec::decode(&payload).map_err(|error| damaged(index, &error.to_string()))?;
            EntryPayload::Membership(membership)
        }
        other => return Err(damaged(index, &format!("its kind is {other}"))),
    };
    let log_id = LogId::new(LeaderId { term: head.term, node_id: head.node }, index);
    Ok((EntryOf::<TypeConfig>::new(log_id, payload), size))
}

/// Removes all entries below `first`.
pub(crate) fn remove_below(store: &dyn Store, first: u64) -> io::Result<()> {
    store.remove_range(HEAD_KEYS, &[], Some(&first.to_be_bytes()))?;
    store.remove_range(PIECES, &[], Some(&piece_key(first, 0)))
}

/// Removes all entries from `end` on. The heads go first, so that what a crash leaves means nothing.
pub(crate) fn remove_from(store: &dyn Store, end: u64) -> io::Result<()> {
    store.remove_range(HEAD_KEYS, &end.to_be_bytes(), None)?;
    remove_pieces_from(store, end)
}

/// Entries behind a gap cannot come from a crash: something is lost.
pub(crate) fn refuse_entries_from(store: &dyn Store, end: u64) -> io::Result<()> {
    match store.range(HEAD_KEYS, &end.to_be_bytes(), None, 1)?.first() {
        Some((key, _)) => {
            let found = index_of(key)?;
            Err(damaged(end, &format!("it is missing, while entry {found} is there")))
        }
        None => Ok(()),
    }
}

/// Removes the pieces of entries from `end` on, whose heads were never written.
pub(crate) fn remove_pieces_from(store: &dyn Store, end: u64) -> io::Result<()> {
    store.remove_range(PIECES, &piece_key(end, 0), None)
}

/// Writes a record of tree `meta`.
pub(crate) fn encode_meta<T: Serialize>(store: &dyn Store, name: &str, value: &T) -> io::Result<()> {
    let body = codec::encode(value).map_err(io::Error::other)?;
    let mut record = BytesMut::with_capacity(5 + body.len());
    record.put_u32(0);
    record.put_u8(VERSION);
    record.put_slice(&body);
    let crc = crc32c::crc32c(&record[4..]);
    record[..4].copy_from_slice(&crc.to_be_bytes());
    store.insert(META, name.as_bytes(), &record)
}

/// Reads a record of tree `meta`.
pub(crate) fn decode_meta<T: DeserializeOwned>(store: &dyn Store, name: &str) -> io::Result<Option<T>> {
    let Some(record) = store.get(META, name.as_bytes())? else { return Ok(None) };
    let damaged = |what: &str| {
        io::Error::new(io::ErrorKind::InvalidData, format!("record `{name}` is damaged: {what}"))
    };
    let (crc, rest) = record.split_first_chunk::<4>().ok_or_else(|| damaged("it is too short"))?;
    if u32::from_be_bytes(*crc) != crc32c::crc32c(rest) {
        return Err(damaged("its checksum is wrong"));
    }
    match rest.split_first() {
        Some((&VERSION, body)) => codec::decode(body).map(Some).map_err(|error| damaged(&error.to_string())),
        Some((version, _)) => Err(damaged(&format!("its version is {version}"))),
        None => Err(damaged("it is empty")),
    }
}

struct Head {
    kind: u8,
    term: u64,
    node: u64,
    payload: Bytes,
}

impl Head {
    fn open(index: u64, record: &Bytes) -> io::Result<Self> {
        if record.len() < HEADER_SIZE {
            return Err(damaged(index, "its record is too short"));
        }
        let word = |at: usize| u64::from_be_bytes(std::array::from_fn(|byte| record[at + byte]));
        let crc = u32::from_be_bytes(std::array::from_fn(|byte| record[byte]));
        if crc != checksum(index, &record[4..]) {
            return Err(damaged(index, "its checksum is wrong"));
        }
        if record[4] != VERSION {
            return Err(damaged(index, &format!("its version is {}", record[4])));
        }
        Ok(Self { kind: record[5], term: word(6), node: word(14), payload: record.slice(HEADER_SIZE..) })
    }
}

fn seal(log_id: &openraft::alias::LogIdOf<TypeConfig>, kind: u8, payload: &[u8]) -> BytesMut {
    let mut record = BytesMut::with_capacity(HEADER_SIZE + payload.len());
    record.put_u32(0);
    record.put_u8(VERSION);
    record.put_u8(kind);
    record.put_u64(log_id.leader_id.term);
    record.put_u64(log_id.leader_id.node_id);
    record.put_slice(payload);
    let crc = checksum(log_id.index, &record[4..]);
    record[..4].copy_from_slice(&crc.to_be_bytes());
    record
}

fn checksum(index: u64, rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&index.to_be_bytes()), rest)
}

fn read_pieces(store: &dyn Store, index: u64, head: &[u8]) -> io::Result<(u8, Bytes)> {
    let Ok(head) = <[u8; PIECES_SIZE]>::try_from(head) else { return Err(damaged(index, "its head is cut")) };
    let number = |at: usize| u32::from_be_bytes(std::array::from_fn(|byte| head[at + byte]));
    let (count, length, crc) = (number(0), number(4) as usize, number(8));
    let mut payload = BytesMut::new();
    for piece in 0..count {
        let bytes = store
            .get(PIECES, &piece_key(index, piece))?
            .ok_or_else(|| damaged(index, &format!("piece {piece} of {count} is missing")))?;
        payload.put_slice(&bytes);
    }
    if payload.len() != length || crc32c::crc32c(&payload) != crc {
        return Err(damaged(index, "its pieces do not verify"));
    }
    Ok((head[12], payload.freeze()))
}

fn piece_key(index: u64, piece: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&index.to_be_bytes());
    key[8..].copy_from_slice(&piece.to_be_bytes());
    key
}

fn index_of(key: &[u8]) -> io::Result<u64> {
    let key = <[u8; 8]>::try_from(key)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a key of the log is not an index"))?;
    Ok(u64::from_be_bytes(key))
}
