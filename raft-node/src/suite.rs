//! openraft's own storage suite, on the real and on the simulated disk.

use std::sync::Arc;

use bytes::Bytes;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use rpc_core::random::SeededRandom;
use rpc_core::runtime::Runtime;
use rpc_core::sim::World;

use crate::disk::sim::{SimDisk, SimDiskOptions};
use crate::disk::{Disk, real};
use crate::host::{Host, HostConfig};
use crate::log::LogStore;
use crate::machine::{ApplyContext, Rows, StateMachine};
use crate::types::TypeConfig;

/// Keeps nothing: the suite looks at log ids, membership and snapshots only.
struct Nothing;

impl StateMachine for Nothing {
    fn apply(&self, _: &ApplyContext, _: &mut dyn Rows, _: &Bytes) -> std::io::Result<Bytes> {
        Ok(Bytes::new())
    }
}

struct Builder<F> {
    runtime: Runtime,
    disk: F,
}

impl<F, G> StoreBuilder<TypeConfig, LogStore, Host<Nothing>, G> for Builder<F>
where
    F: Fn(&Runtime) -> (Disk, G) + Send + Sync + 'static,
    G: Send + Sync + 'static,
{
    async fn build(&self) -> Result<(G, LogStore, Host<Nothing>), StorageError<TypeConfig>> {
        let (disk, guard) = (self.disk)(&self.runtime);
        let log = LogStore::open(disk.clone(), &self.runtime).expect("an empty disk opens");
        let host = Host::open(disk, Arc::new(Nothing), self.runtime.clone(), HostConfig::default());
        Ok((guard, log, host.expect("an empty disk opens")))
    }
}

#[test]
fn the_suite_passes_on_the_simulated_disk() {
    let world = World::new(1);
    let runtime = world.observer();
    let builder = Builder {
        runtime: runtime.clone(),
        disk: |runtime: &Runtime| {
            let disk = SimDisk::new(SeededRandom::new(1), SimDiskOptions::default());
            (disk.open(runtime), disk)
        },
    };
    world.run(async move { Suite::test_all(builder).await.unwrap() });
}

#[test]
fn the_suite_passes_on_the_real_disk() {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let runtime = rpc_core::driver::system::runtime(tokio.handle().clone());
    let builder = Builder {
        runtime: runtime.clone(),
        disk: |_: &Runtime| {
            let folder = tempfile::tempdir().unwrap();
            (real::open(folder.path()).unwrap(), folder)
        },
    };
    tokio.block_on(runtime.enter(async move { Suite::test_all(builder).await.unwrap() }));
}
