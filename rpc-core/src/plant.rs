//! Bugs on purpose, so that tests of faults can be seen to fail.
//!
//! They exist only with the feature `plant`, which no manifest of the workspace enables; the variable `KV_PLANT` then
//! names the one that is there. Each bug is one line at the place of the mistake, and nothing without the feature.

/// A known mistake that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bug {
    /// What `KV_PLANT` calls it.
    pub name: &'static str,
    /// The mistake in one sentence.
    pub mistake: &'static str,
}

impl Bug {
    /// A bug of this name.
    pub const fn new(name: &'static str, mistake: &'static str) -> Self {
        Self { name, mistake }
    }

    /// Whether this bug is there.
    #[cfg(feature = "plant")]
    pub fn is_planted(&self) -> bool {
        static PLANTED: std::sync::OnceLock<Option<std::ffi::OsString>> = std::sync::OnceLock::new();
        PLANTED
            .get_or_init(|| std::env::var_os(VARIABLE))
            .as_ref()
            .is_some_and(|planted| planted == self.name)
    }

    /// Never.
    #[cfg(not(feature = "plant"))]
    pub const fn is_planted(&self) -> bool {
        false
    }
}

/// Whether bugs can be planted in this build.
pub const ENABLED: bool = cfg!(feature = "plant");

/// The variable of the environment that names the bug.
pub const VARIABLE: &str = "KV_PLANT";

/// The version that a program of this build gives itself: `package`, and a warning if bugs can be planted in it.
#[cfg(feature = "plant")]
pub fn version(package: &'static str) -> &'static str {
    static VERSION: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    VERSION.get_or_init(|| format!("{package} WITH PLANTED BUGS"))
}

/// The version that a program of this build gives itself: `package`.
#[cfg(not(feature = "plant"))]
pub const fn version(package: &'static str) -> &'static str {
    package
}

/// The bugs of this crate.
pub const BUGS: [Bug; 2] = [CHECKSUM_IGNORED, ANSWER_MISMATCHED];

pub(crate) const CHECKSUM_IGNORED: Bug =
    Bug::new("checksum-ignored", "without encryption, a packet is taken whatever its checksum says");
pub(crate) const ANSWER_MISMATCHED: Bug =
    Bug::new("answer-mismatched", "an answer that comes late is given to the oldest call that is open");
