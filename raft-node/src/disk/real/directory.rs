//! The files beside the store: a plain directory.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use bytes::Bytes;
use rpc_core::runtime::BoxFuture;

use super::super::plant::Plant;
use super::super::{Files, Space};
use super::{space, sync_new};

/// The files of one folder.
pub(super) struct Directory {
    pub(super) folder: PathBuf,
}

impl Directory {
    fn path(&self, name: &str) -> io::Result<PathBuf> {
        if name.is_empty() || name.contains(['/', '\\']) || name == "." || name == ".." {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{name}` is no file name")));
        }
        Ok(self.folder.join(name))
    }
}

impl Files for Directory {
    fn list(&self) -> io::Result<Vec<String>> {
        let names =
            fs::read_dir(&self.folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names: Vec<String> = names.collect::<io::Result<_>>()?;
        names.sort();
        Ok(names)
    }

    fn size(&self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.path(name)?)?.len())
    }

    fn read(&self, name: &str, offset: u64, length: usize) -> io::Result<Bytes> {
        let file = File::open(self.path(name)?)?;
        let rest = file.metadata()?.len().saturating_sub(offset);
        let mut bytes = vec![0; length.min(usize::try_from(rest).unwrap_or(usize::MAX))];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes.into())
    }

    fn create(&self, name: &str) -> io::Result<()> {
        File::create(self.path(name)?).map(drop)
    }

    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.path(name)?)?.write_all_at(bytes, offset)
    }

    fn sync(&self, name: &str) -> BoxFuture<io::Result<()>> {
        let path = self.path(name);
        Box::pin(async move {
            if Plant::FileSync.is_there() {
                return Ok(());
            }
            File::open(path?)?.sync_all()
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from)?, self.path(to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(name)?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn sync_directory(&self) -> BoxFuture<io::Result<()>> {
        let folder = self.folder.clone();
        Box::pin(async move { sync_new(&[&folder]) })
    }

    fn space(&self) -> io::Result<Space> {
        space(&self.folder)
    }
}
