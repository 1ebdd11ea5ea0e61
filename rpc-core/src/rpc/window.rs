//! The credit of a stream.

/// How far a producer may be ahead of its consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Items; at least 1.
    pub items: u64,
    /// Bytes of encoded items; at least 64. The longest item is half of it.
    pub bytes: u64,
}

impl Default for Window {
    /// 1,024 items, 256 KiB.
    fn default() -> Self {
        Self { items: 1_024, bytes: 256 << 10 }
    }
}

impl Window {
    /// The largest window that is granted, whatever a peer asks for: 65,536 items, 16 MiB.
    pub const MAX: Self = Self { items: 65_536, bytes: 16 << 20 };

    pub(super) fn clamped(self) -> Self {
        Self { items: self.items.clamp(1, Self::MAX.items), bytes: self.bytes.clamp(64, Self::MAX.bytes) }
    }

    /// Whether `other` is within this window.
    pub(super) const fn holds(self, other: Self) -> bool {
        other.items <= self.items && other.bytes <= self.bytes
    }

    pub(super) const fn plus(self, items: u64, bytes: u64) -> Self {
        Self { items: self.items.saturating_add(items), bytes: self.bytes.saturating_add(bytes) }
    }
}
