//! Snapshot files.
use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use rpc_core::runtime::Runtime;

use crate::disk::Files;
use crate::types::SnapshotMeta;

/// A complete snapshot file: a cheap handle. Reading it fails with `NotFound` once newer snapshots replaced it.
#[derive(Clone)]
pub struct SnapshotFile {
    files: Arc<dyn Files>,
    offer: SnapshotOffer,
}

/// What a sender tells a receiver before the first part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotOffer {
    /// The file's name, `<index>-<term>-<random>.snap`: names these very bytes.
    pub name: String,
    /// The file's size in bytes.
    pub size: u64,
    /// The CRC32C of the whole file.
    pub crc: u32,
}

impl SnapshotFile {
    /// What to tell a receiver.
    pub fn offer(&self) -> &SnapshotOffer {
        &self.offer
    }

    /// Up to `length` bytes at `offset`; fewer at the end of the file.
    pub fn read(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        self.files.read(&self.offer.name, offset, length)
    }
}

impl fmt::Debug for SnapshotFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotFile").field("offer", &self.offer).finish_non_exhaustive()
    }
}

/// A snapshot on its way in. Dropping it keeps what was received: a later receiver of the same offer goes on from there.
pub struct SnapshotReceiver {
    files: Arc<dyn Files>,
    runtime: Runtime,
    offer: SnapshotOffer,
    received: u64,
}

impl SnapshotReceiver {
    /// How many bytes from the beginning were received: the offset of the next part.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Takes a part. One that begins beyond [`SnapshotReceiver::received`] is ignored, so is what was received
    /// before; answers the new [`SnapshotReceiver::received`].
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<u64> {
        let _ = (&self.files, &self.runtime, offset, bytes);
        Err(io::Error::other("not landed yet"))
    }

    /// Verifies the whole file and makes it durable: what openraft is then given to install.
    pub(crate) async fn finish(self) -> io::Result<(SnapshotMeta, SnapshotFile)> {
        let _ = self.offer;
        Err(io::Error::other("not landed yet"))
    }
}
