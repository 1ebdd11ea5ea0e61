//! The services of a running peer.

use std::fmt;
use std::sync::Arc;

use super::Inner;
use crate::rpc::Services;
use crate::rpc::registry::{NameCollision, Table};

/// Adds, replaces and removes services while their peer runs. Cheap to clone.
///
/// Each change is one swap of the whole table: a request finds the services before it or after it, never half of each.
/// Calls that run go on, also those of a service that is removed.
#[derive(Clone)]
pub struct Mounts {
    inner: Arc<Inner>,
}

impl Mounts {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// Serves all methods of `services` below `path`: `add` as `path.add`.
    ///
    /// # Errors
    /// When a name is served already, or shares its wire id with another; then nothing is changed.
    pub fn mount(&self, path: &str, services: Services) -> Result<(), NameCollision> {
        self.merge(Services::new().nest(path, services))
    }

    /// Serves all methods of `services` under their own names.
    ///
    /// # Errors
    /// As of [`Mounts::mount`].
    pub fn merge(&self, services: Services) -> Result<(), NameCollision> {
        self.swap(|table| Ok((table.with(&services)?, ())))
    }

    /// Serves `services` below `path` instead of all that is there.
    ///
    /// # Errors
    /// As of [`Mounts::mount`], with names and ids outside of `path`.
    pub fn replace(&self, path: &str, services: Services) -> Result<(), NameCollision> {
        let services = Services::new().nest(path, services);
        self.swap(|table| Ok((table.without(path).0.with(&services)?, ())))
    }

    /// Stops serving the method `path` and all below it, and says how many that were. Their next callers are answered
    /// METHOD_NOT_FOUND.
    pub fn unmount(&self, path: &str) -> usize {
        self.swap(|table| Ok(table.without(path))).unwrap_or(0)
    }

    /// The full names of all methods, ascending.
    pub fn names(&self) -> Vec<String> {
        let table = Arc::clone(&self.inner.lock().methods);
        table.catalogue().into_iter().map(|(name, _)| name).collect()
    }

    fn swap<T>(
        &self,
        change: impl FnOnce(&Table) -> Result<(Table, T), NameCollision>,
    ) -> Result<T, NameCollision> {
        let (old, result) = {
            let mut state = self.inner.lock();
            let (new, result) = change(&state.methods)?;
            (std::mem::replace(&mut state.methods, Arc::new(new)), result)
        };
        // What handlers own may call this peer when it is dropped: not under its lock.
        drop(old);
        Ok(result)
    }
}

impl fmt::Debug for Mounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}
