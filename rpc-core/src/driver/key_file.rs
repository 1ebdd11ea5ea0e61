//! Key files: written once with safe permissions, read only if nobody else can read them.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::security::{KeyError, SharedKey};

/// The most that is read of a file: a key is far shorter.
const SIZE_MAX: u64 = 4_096;
/// The owner reads and writes, nobody else anything.
const MODE: u32 = 0o600;

/// Writes `key` into a new file that only its owner can read, and makes it durable.
///
/// # Errors
/// When the file is there already, which keeps a cluster from losing its key, or cannot be written.
pub fn write(path: &Path, key: &SharedKey) -> Result<(), KeyFileError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => KeyFileError::new(path, Problem::Exists),
        _ => KeyFileError::new(path, Problem::Write(error)),
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path).map_err(failed)?;
    file.write_all(key.to_text().as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

/// Reads the key of a cluster.
///
/// # Errors
/// When the file cannot be read, others can read it, or it holds no key.
pub fn read(path: &Path) -> Result<SharedKey, KeyFileError> {
    let failed = |error| KeyFileError::new(path, Problem::Read(error));
    let file = File::open(path).map_err(failed)?;
    // Of the open file: what the name means may change in between.
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::new(path, Problem::Readable { mode }));
    }
    let mut text = String::new();
    file.take(SIZE_MAX).read_to_string(&mut text).map_err(failed)?;
    SharedKey::from_str(&text).map_err(|error| KeyFileError::new(path, Problem::NoKey(error)))
}

/// Why a key file cannot be used, in one sentence that says what to do.
#[derive(Debug)]
pub struct KeyFileError {
    path: PathBuf,
    problem: Problem,
}

#[derive(Debug)]
enum Problem {
    Exists,
    Write(io::Error),
    Read(io::Error),
    Readable { mode: u32 },
    NoKey(KeyError),
}

impl KeyFileError {
    fn new(path: &Path, problem: Problem) -> Self {
        Self { path: path.to_owned(), problem }
    }
}

impl fmt::Display for KeyFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.problem {
            Problem::Exists => write!(f, "key file {path} is there already and is not overwritten"),
            Problem::Write(error) => write!(f, "key file {path} cannot be written: {error}"),
            Problem::Read(error) => write!(f, "key file {path} cannot be read: {error}"),
            Problem::Readable { mode } => {
                write!(f, "key file {path} can be used by others (mode {mode:03o}): chmod 600 {path}")
            }
            Problem::NoKey(error) => write!(f, "key file {path} holds no key: {error}"),
        }
    }
}

impl std::error::Error for KeyFileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.problem {
            Problem::Write(error) | Problem::Read(error) => Some(error),
            Problem::NoKey(error) => Some(error),
            Problem::Exists | Problem::Readable { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_key_file_is_written_once_and_only_read_when_it_is_private() {
        let folder = std::env::temp_dir().join(format!("rpc-core-key-file-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("key");
        let key = SharedKey::new([9; 32]);
        write(&path, &key).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&path).unwrap(), key);
        let again = write(&path, &SharedKey::new([8; 32])).unwrap_err().to_string();
        assert!(again.contains("is not overwritten"), "{again}");
        assert_eq!(read(&path).unwrap(), key);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = read(&path).unwrap_err().to_string();
        assert!(refused.ends_with(&format!("(mode 640): chmod 600 {}", path.display())), "{refused}");

        let other = folder.join("other");
        OpenOptions::new().write(true).create_new(true).mode(MODE).open(&other).unwrap();
        assert!(read(&other).unwrap_err().to_string().contains("holds no key"));
        assert!(read(&folder.join("none")).unwrap_err().to_string().contains("cannot be read"));
        fs::remove_dir_all(&folder).unwrap();
    }
}
