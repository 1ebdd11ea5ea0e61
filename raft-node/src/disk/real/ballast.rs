//! The ballast: space that is taken in good times, so that a disk that is full can be opened again.
//!
//! Opening needs room: sled writes a snapshot of its own, and after a failed write the node must start again before it
//! can make any. When there is too little, the ballast goes; it comes back at the first start with enough space.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

use crate::disk::Space;

/// The size of the ballast in bytes: what an opening wants to be free.
pub(super) const SIZE: u64 = 64 * 1024 * 1024;
const FILE: &str = "BALLAST";

/// Takes the space, if it is not taken and no reserve is touched by it. Failing is no error: there is none then.
pub(super) fn keep(folder: &Path, space: Space) {
    let path = folder.join(FILE);
    if path.exists() || space.free < space.reserve() + SIZE {
        return;
    }
    let taken = File::create(&path).and_then(|file| Ok(fallocate(&file, FallocateFlags::empty(), 0, SIZE)?));
    if let Err(error) = taken {
        tracing::warn!(file = %path.display(), %error, "no ballast: a full disk may be too full to be opened");
        // A file without space behind it would only pretend.
        let _ = fs::remove_file(&path);
    }
}

/// Gives the space back.
pub(super) fn drop(folder: &Path) -> io::Result<()> {
    match fs::remove_file(folder.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => {
            tracing::warn!(folder = %folder.display(), "the disk is full: the ballast was dropped");
            removed
        }
    }
}
