//! Disks as files of a file system in user space, so that a loop device can lie over them: a flush of the device
//! becomes an fsync of the file.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, WriteFlags,
};

use super::disk::{NoPower, VolatileDisk};

/// A disk that is served.
pub(super) type SharedDisk = Arc<Mutex<VolatileDisk>>;

type Disks = Arc<Mutex<BTreeMap<u64, SharedDisk>>>;

/// A folder with a file for each disk. Unmounted when dropped.
pub(super) struct DiskFolder {
    folder: PathBuf,
    disks: Disks,
    next: u64,
    session: Option<BackgroundSession>,
}

impl DiskFolder {
    /// Mounts an empty one at `folder`.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub(super) fn mount(folder: &Path) -> io::Result<Self> {
        let disks = Disks::default();
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("power".to_owned()), MountOption::NoAtime];
        let session = fuser::spawn_mount(Server { disks: Arc::clone(&disks) }, folder, &config)?;
        Ok(Self { folder: folder.to_owned(), disks, next: FIRST, session: Some(session) })
    }

    /// Serves `disk`; the path of its file.
    pub(super) fn add(&mut self, disk: VolatileDisk) -> (PathBuf, SharedDisk) {
        let (number, disk) = (self.next, Arc::new(Mutex::new(disk)));
        self.next += 1;
        lock(&self.disks).insert(number, Arc::clone(&disk));
        (self.folder.join(number.to_string()), disk)
    }

    /// Serves the disk of that file no longer.
    pub(super) fn remove(&mut self, path: &Path) {
        if let Some(number) = path.file_name().and_then(number) {
            lock(&self.disks).remove(&number);
        }
    }
}

impl Drop for DiskFolder {
    fn drop(&mut self) {
        if let Some(session) = self.session.take()
            && let Err(error) = session.umount_and_join()
        {
            tracing::error!(folder = %self.folder.display(), %error, "not unmounted");
        }
    }
}

struct Server {
    disks: Disks,
}

impl Server {
    fn with<T>(&self, inode: INodeNo, work: impl FnOnce(&mut VolatileDisk) -> T) -> Result<T, Errno> {
        let disk = lock(&self.disks).get(&inode.0).cloned().ok_or(Errno::ENOENT)?;
        let mut disk = lock(&disk);
        Ok(work(&mut disk))
    }

    fn attributes(&self, inode: INodeNo) -> Result<FileAttr, Errno> {
        if inode == INodeNo::ROOT {
            return Ok(attributes(inode, FileType::Directory, 0));
        }
        self.with(inode, |disk| attributes(inode, FileType::RegularFile, disk.size()))
    }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = number(name).ok_or(Errno::ENOENT).and_then(|inode| self.attributes(INodeNo(inode)));
        match found {
            Ok(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.with(inode, |disk| disk.read(offset, size as usize)) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.with(inode, |disk| disk.write(offset, data)) {
            // The kernel asks for no more than a u32 says.
            Ok(Ok(())) => reply.written(data.len() as u32),
            Ok(Err(NoPower)) => reply.error(Errno::EIO),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // A file was closed: that makes nothing durable.
        reply.ok();
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.with(inode, VolatileDisk::flush) {
            Ok(Ok(())) => reply.ok(),
            Ok(Err(NoPower)) => reply.error(Errno::EIO),
            Err(error) => reply.error(error),
        }
    }
}

fn attributes(inode: INodeNo, kind: FileType, size: u64) -> FileAttr {
    FileAttr {
        ino: inode,
        size,
        blocks: size / 512,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: 0o700,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4_096,
        flags: 0,
    }
}

/// The file names are the numbers of the inodes.
fn number(name: &OsStr) -> Option<u64> {
    name.to_str()?.parse().ok().filter(|number| *number >= FIRST)
}

/// Locks what is only ever left whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The inode of the first disk; 1 is the folder.
const FIRST: u64 = 2;
/// How long the kernel may believe what it was told: neither names nor sizes change.
const TTL: Duration = Duration::from_secs(3_600);
