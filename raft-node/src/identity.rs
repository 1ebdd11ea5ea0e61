//! Who this node is: durable before its first datagram, and never guessed.
//!
//! The file `identity`, replaced as a whole by a rename:
//!
//! ```text
//! 0        8            12
//! +--------+------------+----------------------+
//! | magic  | CRC32C, LE | CBOR of `Identity`   |     magic: "raftid", version 1 as two bytes, big endian
//! +--------+------------+----------------------+     the checksum covers the CBOR
//! ```
//!
//! Knows the files of the disk and nothing of clusters or networks.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use rpc_core::rpc::codec;
use rpc_core::runtime::Runtime;
use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::types::Member;

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// The id in the configuration that this data was made with.
    pub(crate) configured: u64,
    /// The id in the replicated membership. Differs from `configured` once this node replaced a lost one.
    pub(crate) id: u64,
    /// Drawn for this data folder; never used by any other node or folder.
    pub(crate) incarnation: u128,
    /// The cluster, once it is known.
    pub(crate) cluster: Option<u128>,
    /// On the node that founded the cluster: the members it was founded with.
    pub(crate) founding: BTreeMap<u64, Member>,
}

impl Identity {
    /// Reads the identity from `disk`; `None` when there is none, so that the disk must be empty.
    pub(crate) fn load(disk: &Disk) -> Result<Option<Self>, IdentityError> {
        let size = match disk.files.size(FILE) {
            Ok(size) => size,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(IdentityError::Disk(error)),
        };
        if size > FILE_SIZE_MAX {
            return Err(IdentityError::Damaged("it is too long"));
        }
        let bytes = disk.files.read(FILE, 0, size as usize).map_err(IdentityError::Disk)?;
        Self::decode(&bytes).map(Some)
    }

    /// A new identity for an empty disk, not stored yet.
    pub(crate) fn draw(runtime: &Runtime, configured: u64) -> Self {
        Self {
            configured,
            id: configured,
            incarnation: runtime.random_u128(),
            cluster: None,
            founding: BTreeMap::new(),
        }
    }

    /// Makes this the identity of `disk`: durable when it returns.
    pub(crate) async fn store(&self, disk: &Disk) -> io::Result<()> {
        let bytes = self.encode()?;
        let files = &disk.files;
        files.create(FILE_NEW)?;
        files.write(FILE_NEW, 0, &bytes)?;
        files.sync(FILE_NEW).await?;
        files.rename(FILE_NEW, FILE)?;
        files.sync_directory().await
    }

    /// This node as a member: its id and incarnation.
    pub(crate) fn name(&self) -> NodeName {
        NodeName { id: self.id, incarnation: self.incarnation }
    }

    fn encode(&self) -> io::Result<Vec<u8>> {
        let body = codec::encode(self).map_err(io::Error::other)?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        Ok(bytes)
    }

    fn decode(bytes: &[u8]) -> Result<Self, IdentityError> {
        let Some((magic, rest)) = bytes.split_first_chunk::<8>() else {
            return Err(IdentityError::Damaged("it is too short"));
        };
        let Some((checksum, body)) = rest.split_first_chunk::<4>() else {
            return Err(IdentityError::Damaged("it is too short"));
        };
        if magic[..6] != MAGIC[..6] {
            return Err(IdentityError::Damaged("it is not an identity"));
        }
        if *magic != MAGIC {
            return Err(IdentityError::Damaged("its format is of another version"));
        }
        if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
            return Err(IdentityError::Damaged("its checksum is wrong"));
        }
        codec::decode(body).map_err(|_| IdentityError::Damaged("its content cannot be read"))
    }
}

/// A member of exactly one life: no other data folder ever has the same incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeName {
    /// The id in the replicated membership.
    #[serde(rename = "i")]
    pub(crate) id: u64,
    /// The incarnation of its data folder.
    #[serde(rename = "n")]
    pub(crate) incarnation: u128,
}

/// Why there is no identity.
#[derive(Debug)]
pub(crate) enum IdentityError {
    /// The file is not what was written.
    Damaged(&'static str),
    /// The disk failed.
    Disk(io::Error),
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(what) => write!(f, "file `{FILE}`: {what}"),
            Self::Disk(error) => write!(f, "file `{FILE}`: {error}"),
        }
    }
}

const FILE: &str = "identity";
const FILE_NEW: &str = "identity.new";
const MAGIC: [u8; 8] = *b"raftid\0\x01";
/// Far above any identity: the members of the largest cluster that one would found.
const FILE_SIZE_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_the_file() {
        assert_eq!(Identity::decode(&sample().encode().unwrap()).unwrap(), sample());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = sample().encode().unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Identity::decode(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_truncation_is_noticed() {
        let bytes = sample().encode().unwrap();
        for length in 0..bytes.len() {
            assert!(Identity::decode(&bytes[..length]).is_err(), "length {length}");
        }
    }

    fn sample() -> Identity {
        let member = Member { incarnation: u128::MAX - 5, address: "10.0.0.1:7301".into() };
        Identity {
            configured: 3,
            id: 71,
            incarnation: 1 << 100,
            cluster: Some(7),
            founding: BTreeMap::from([(1, member.clone()), (2, member)]),
        }
    }
}
