//! Names of methods: `service.method`, nested as `root.sub.method`, and the 30-bit id that travels instead.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// The id of a method on the wire: FNV-1a (32 bits) over its full name, the two highest bits cleared so that it is
/// four bytes as a varint. Two names with one id on one peer are refused when the peer is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MethodId(pub u32);

impl MethodId {
    /// The id of the method with the full name `name`.
    pub const fn of(name: &str) -> Self {
        Self(fnv1a(FNV_OFFSET, name.as_bytes()) & ID_MASK)
    }
}

/// Where a service is mounted: the empty path, or names joined by dots.
#[derive(Clone)]
pub struct Path {
    name: Arc<str>,
    /// The hash of `name` and the dot that follows it, so that a call hashes only the method's own name.
    state: u32,
    /// Full names of methods that were called at this path, at most [`NAMES_MAX`].
    names: Names,
}

impl Path {
    /// The path of services at the root.
    pub fn root() -> Self {
        Self { name: "".into(), state: FNV_OFFSET, names: Arc::default() }
    }

    /// The path `name` below this one.
    pub fn join(&self, name: &str) -> Self {
        let full = self.name_of(name);
        let state = fnv1a(fnv1a(FNV_OFFSET, full.as_bytes()), b".");
        Self { name: full.into(), state, names: Arc::default() }
    }

    /// The id of `method` at this path.
    pub fn method(&self, method: &str) -> MethodId {
        MethodId(fnv1a(self.state, method.as_bytes()) & ID_MASK)
    }

    /// The full name of `method` at this path.
    pub fn name_of(&self, method: &str) -> String {
        if self.name.is_empty() { method.to_owned() } else { format!("{}.{method}", self.name) }
    }

    /// The id and the full name of `method` at this path. The name is remembered: a call that is repeated allocates
    /// nothing for it.
    pub(crate) fn resolve(&self, method: &str) -> (MethodId, Arc<str>) {
        let id = self.method(method);
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        // Two names may have one id.
        let known = |(other, name): &&(MethodId, Arc<str>)| *other == id && self.is_name_of(name, method);
        if let Some((_, name)) = names.iter().find(known) {
            return (id, Arc::clone(name));
        }
        let name: Arc<str> = self.name_of(method).into();
        if names.len() < NAMES_MAX {
            names.push((id, Arc::clone(&name)));
        }
        (id, name)
    }

    fn is_name_of(&self, name: &str, method: &str) -> bool {
        let path_size = if self.name.is_empty() { 0 } else { self.name.len() + 1 };
        name.len() == path_size + method.len() && name.ends_with(method)
    }
}

/// Shared by the copies of a path.
type Names = Arc<Mutex<Vec<(MethodId, Arc<str>)>>>;

/// Names that a path remembers; looked through one by one, so no more than a service has methods.
const NAMES_MAX: usize = 32;

impl PartialEq for Path {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Path {}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

const FNV_OFFSET: u32 = 0x811c_9dc5;
const FNV_PRIME: u32 = 0x0100_0193;
const ID_MASK: u32 = 0x3fff_ffff;

const fn fnv1a(mut hash: u32, bytes: &[u8]) -> u32 {
    let mut index = 0;
    while index < bytes.len() {
        hash = (hash ^ bytes[index] as u32).wrapping_mul(FNV_PRIME);
        index += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_joined_path_names_and_hashes_as_the_full_name() {
        let path = Path::root().join("root").join("sub");
        assert_eq!(path.name_of("add"), "root.sub.add");
        assert_eq!(path.method("add"), MethodId::of("root.sub.add"));
        assert_eq!(Path::root().method("ping"), MethodId::of("ping"));
    }

    #[test]
    fn names_are_remembered_and_told_apart() {
        for path in [Path::root(), Path::root().join("root")] {
            for method in ["add", "dad.add", "add"] {
                assert_eq!(path.resolve(method), (path.method(method), path.name_of(method).into()));
            }
            let (_, first) = path.resolve("add");
            assert!(Arc::ptr_eq(&first, &path.clone().resolve("add").1));
            (0..100).for_each(|index| drop(path.resolve(&format!("method{index}"))));
            assert_eq!(*path.resolve("method99").1, path.name_of("method99"));
            assert_eq!(path.names.lock().unwrap().len(), NAMES_MAX);
        }
    }
}
