//! Receives a snapshot file in parts, in order, and can go on where an earlier attempt ended.

use std::fmt;
use std::io;
use std::sync::Arc;

use rpc_core::runtime::Runtime;

use super::{
    SNAPSHOT_SIZE_MAX, SUFFIX_RECEIVING, SnapshotFile, SnapshotName, SnapshotOffer, damaged, meta_of,
    on_thread,
};
use crate::disk::Files;
use crate::plant;
use crate::types::SnapshotMeta;

/// A snapshot on its way in. Dropping it keeps what was received: a later receiver of the same offer goes on from
/// there, in the same life of the node.
pub struct SnapshotReceiver {
    files: Arc<dyn Files>,
    runtime: Runtime,
    offer: SnapshotOffer,
    /// The file that is written: named by what was parsed, never by what was sent.
    part: String,
    received: u64,
    /// The file was finished before, nothing is to be received.
    finished: bool,
}

impl SnapshotReceiver {
    /// Begins, or goes on with what an earlier receiver of the same offer has left. Parts of other offers are removed.
    pub(crate) fn open(files: Arc<dyn Files>, runtime: Runtime, offer: SnapshotOffer) -> io::Result<Self> {
        let refused = |what| io::Error::new(io::ErrorKind::InvalidInput, format!("offer refused: {what}"));
        let name = SnapshotName::parse(&offer.name).ok_or_else(|| refused("no name of a snapshot"))?;
        if offer.size > SNAPSHOT_SIZE_MAX {
            return Err(refused("too large"));
        }
        let part = name.with(SUFFIX_RECEIVING);
        let names = files.list()?;
        for other in names.iter().filter(|other| other.ends_with(SUFFIX_RECEIVING) && **other != part) {
            files.remove(other)?;
        }
        let finished = names.contains(&offer.name);
        let received = if finished {
            offer.size
        } else if names.contains(&part) {
            files.size(&part)?.min(offer.size)
        } else {
            files.create(&part)?;
            0
        };
        Ok(Self { files, runtime, offer, part, received, finished })
    }

    /// What is being received.
    pub fn offer(&self) -> &SnapshotOffer {
        &self.offer
    }

    /// How many bytes from the beginning were received: the offset of the next part.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Whether all bytes are there.
    pub fn is_complete(&self) -> bool {
        self.received == self.offer.size
    }

    /// Takes the part at `offset`. What was received before is not written again; a part that begins beyond
    /// [`SnapshotReceiver::received`], or reaches beyond the offered size, is ignored. Answers the new
    /// [`SnapshotReceiver::received`].
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<u64> {
        let end = offset.saturating_add(bytes.len() as u64);
        if offset <= self.received && end > self.received && end <= self.offer.size {
            let fresh = &bytes[(self.received - offset) as usize..];
            self.files.write(&self.part, self.received, fresh)?;
            self.received = end;
        }
        Ok(self.received)
    }

    /// Verifies the whole file and makes it durable: what openraft is then given to install. A damaged one is removed
    /// (`InvalidData`): the transfer must begin anew.
    pub(crate) async fn finish(self) -> io::Result<(SnapshotMeta, SnapshotFile)> {
        let runtime = self.runtime.clone();
        on_thread(&runtime, "snapshot-verify", self.verify_and_publish()).await
    }

    async fn verify_and_publish(self) -> io::Result<(SnapshotMeta, SnapshotFile)> {
        let Self { files, offer, part, .. } = self;
        if self.received != offer.size {
            return Err(damaged(&offer.name, format_args!("{} of {} bytes", self.received, offer.size)));
        }
        let lies_at = if self.finished { offer.name.clone() } else { part };
        let received =
            SnapshotFile::new(Arc::clone(&files), SnapshotOffer { name: lies_at.clone(), ..offer.clone() });
        let head = match received.verify().await {
            Ok((head, _)) => head,
            Err(error) => {
                if error.kind() == io::ErrorKind::InvalidData && !self.finished {
                    files.remove(&lies_at)?;
                }
                return Err(error);
            }
        };
        if !self.finished {
            // A node that starts installs the newest snapshot, so this is what makes an installation durable.
            let synced = !plant::INSTALL_NOT_SYNCED.is_planted();
            if synced {
                files.sync(&lies_at).await?;
            }
            files.rename(&lies_at, &offer.name)?;
            if synced {
                files.sync_directory().await?;
            }
        }
        Ok((meta_of(&head), SnapshotFile::new(files, offer)))
    }
}

impl fmt::Debug for SnapshotReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotReceiver")
            .field("offer", &self.offer)
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}
