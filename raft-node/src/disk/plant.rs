//! Bugs on purpose, so that a test of durability can be seen to fail.
//!
//! They exist only with the feature `plant`, which no manifest of the workspace names; the variable `RAFT_NODE_PLANT`
//! then says which of them is there.

/// A bug that can be planted, by what it forgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plant {
    /// Neither the journal nor the database is synced with the disk.
    Fdatasync,
    /// A file of the journal is begun again before the database holds what is in it durably.
    DatabaseSync,
    /// No directory is ever synced.
    DirectorySync,
    /// Files beside the store are not synced.
    FileSync,
    /// Half-written snapshots of sled's own are left for it to open.
    Cleaning,
}

impl Plant {
    /// Whether this bug is there.
    #[cfg(feature = "plant")]
    pub(super) fn is_there(self) -> bool {
        let name = match self {
            Self::Fdatasync => "no-fdatasync",
            Self::DatabaseSync => "no-database-sync",
            Self::DirectorySync => "no-directory-sync",
            Self::FileSync => "no-file-sync",
            Self::Cleaning => "no-cleaning",
        };
        std::env::var_os("RAFT_NODE_PLANT").is_some_and(|planted| planted == name)
    }

    /// Never.
    #[cfg(not(feature = "plant"))]
    pub(super) const fn is_there(self) -> bool {
        false
    }
}
