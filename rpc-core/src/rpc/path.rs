//! Names of methods: `service.method`, nested as `root.sub.method`, and the 30-bit id that travels instead.

use std::fmt;
use std::sync::Arc;

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
#[derive(Clone, PartialEq, Eq)]
pub struct Path {
    name: Arc<str>,
    /// The hash of `name` and the dot that follows it, so that a call hashes only the method's own name.
    state: u32,
}

impl Path {
    /// The path of services at the root.
    pub fn root() -> Self {
        Self { name: "".into(), state: FNV_OFFSET }
    }

    /// The path `name` below this one.
    pub fn join(&self, name: &str) -> Self {
        let full = self.name_of(name);
        let state = fnv1a(fnv1a(FNV_OFFSET, full.as_bytes()), b".");
        Self { name: full.into(), state }
    }

    /// The id of `method` at this path.
    pub fn method(&self, method: &str) -> MethodId {
        MethodId(fnv1a(self.state, method.as_bytes()) & ID_MASK)
    }

    /// The full name of `method` at this path.
    pub fn name_of(&self, method: &str) -> String {
        if self.name.is_empty() { method.to_owned() } else { format!("{}.{method}", self.name) }
    }
}

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
}
