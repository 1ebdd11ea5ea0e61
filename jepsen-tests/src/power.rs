//! Power cuts: the storage of a node on a real file system, on a disk that loses what was not flushed.
//!
//! ```text
//! worker (a process)      the storage of raft-node: sled, log, state, snapshots
//!    | writes                 | what it is told is done, it says on a pipe
//! ext4, loop device           v
//! [`fuse`]  a file        [`witness`]  what must be there after the cut
//! [`disk`]  volatile cache, cut at any moment
//! ```
//! A cut takes a copy of what is durable at that moment and of any sectors of the cache; the worker is killed, the copy
//! becomes the disk that the next worker opens, and the witness judges what it finds. So cuts fall into the load, into
//! opening, and into opening after a cut that fell into opening.
//!
//! [`load`] is what the worker does, [`rig`] puts all of it together. Linux, root.

pub mod disk;
mod fuse;
pub mod load;
pub mod rig;
pub mod witness;
