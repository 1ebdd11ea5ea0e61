//! Snapshots on their way in: one at a time, in parts, in any order.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::sync::Mutex;

use crate::host::Host;
use crate::machine::StateMachine;
use crate::network::client::SNAPSHOT_WINDOW;
use crate::network::messages::{Denied, SnapshotBegin, SnapshotPart};
use crate::snapshot::{SnapshotFile, SnapshotReceiver};
use crate::types::SnapshotMeta;

/// The snapshot that is being received.
#[derive(Default)]
pub(super) struct Incoming {
    current: Mutex<Option<Current>>,
}

struct Current {
    name: String,
    receiver: SnapshotReceiver,
    /// Parts that arrived before the ones that go before them, by offset.
    early: BTreeMap<u64, Bytes>,
}

impl Incoming {
    /// Begins to receive a snapshot, or goes on with it; how much of it is there.
    pub(super) async fn begin<S: StateMachine>(
        &self,
        host: &Host<S>,
        begin: SnapshotBegin,
    ) -> Result<u64, Denied> {
        let mut current = self.current.lock().await;
        if let Some(current) = current.as_ref().filter(|current| current.name == begin.name) {
            return Ok(current.receiver.received());
        }
        // What was received of another one stays on the disk until it is of no use.
        *current = None;
        let name = begin.name.clone();
        let receiver =
            host.receive_snapshot(begin.into()).map_err(|error| Denied::Disk(error.to_string()))?;
        let received = receiver.received();
        *current = Some(Current { name, receiver, early: BTreeMap::new() });
        Ok(received)
    }

    /// Takes a part; how much is there from the beginning on.
    pub(super) async fn part(&self, part: SnapshotPart) -> Result<u64, Denied> {
        let mut current = self.current.lock().await;
        let Some(current) = current.as_mut().filter(|current| current.name == part.name) else {
            return Err(Denied::StreamOver);
        };
        if part.offset > current.receiver.received() {
            if current.early.len() < SNAPSHOT_WINDOW {
                current.early.insert(part.offset, part.bytes);
            }
            return Ok(current.receiver.received());
        }
        let mut next = Some((part.offset, part.bytes));
        while let Some((offset, bytes)) = next {
            let received =
                current.receiver.write(offset, &bytes).map_err(|error| Denied::Disk(error.to_string()))?;
            next = current
                .early
                .first_entry()
                .filter(|early| *early.key() <= received)
                .map(|early| early.remove_entry());
        }
        Ok(current.receiver.received())
    }

    /// All parts were sent: verifies the whole and makes it durable.
    pub(super) async fn finish(&self, name: &str) -> Result<(SnapshotMeta, SnapshotFile), Denied> {
        let mut current = self.current.lock().await;
        let Some(complete) = current.take_if(|current| current.name == name) else {
            return Err(Denied::StreamOver);
        };
        complete.receiver.finish().await.map_err(|error| Denied::Disk(error.to_string()))
    }
}
