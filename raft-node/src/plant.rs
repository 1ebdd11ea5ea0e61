//! The mistakes that can be planted in this crate ([`rpc_core::plant`]): each is one line where it would be made.

use rpc_core::plant::Bug;

/// The bugs of this crate, but for those of the real disk.
pub const BUGS: [Bug; 19] = [
    ACK_BEFORE_SYNC,
    VOTE_NOT_SAVED,
    VOTE_FOR_SHORTER_LOG,
    TRUNCATE_SHORT,
    APPLIED_TWICE,
    APPLIED_AGAIN_AFTER_CRASH,
    CLOCK_IN_APPLY,
    SNAPSHOT_WITHOUT_SESSIONS,
    SNAPSHOT_WITHOUT_TOMBSTONES,
    SNAPSHOT_WITHOUT_MEMBERSHIP,
    INSTALL_NOT_SYNCED,
    RESOLVE_WITHOUT_TOMBSTONE,
    REFUSED_AFTER_LOST,
    LATE_MEANS_REFUSED,
    READ_WITHOUT_QUORUM,
    READ_BY_LEASE,
    READ_BEFORE_APPLIED,
    READ_TORN,
    STALE_READ_AGELESS,
];

pub(crate) const ACK_BEFORE_SYNC: Bug =
    Bug::new("ack-before-fsync", "entries are acknowledged before they are durable");
pub(crate) const VOTE_NOT_SAVED: Bug =
    Bug::new("vote-not-saved", "a vote is given without being written down");
pub(crate) const VOTE_FOR_SHORTER_LOG: Bug =
    Bug::new("vote-for-shorter-log", "a vote is given whatever the candidate's log lacks");
pub(crate) const TRUNCATE_SHORT: Bug =
    Bug::new("truncate-short", "truncating a log leaves one entry too many");
pub(crate) const APPLIED_TWICE: Bug =
    Bug::new("applied-twice", "a repeated command is applied again: the session table is not asked");
pub(crate) const APPLIED_AGAIN_AFTER_CRASH: Bug =
    Bug::new("applied-again-after-crash", "the rows of a save and its state head are written one by one");
pub(crate) const CLOCK_IN_APPLY: Bug =
    Bug::new("clock-in-apply", "applying reads the clock of the node instead of the time in the log");
pub(crate) const SNAPSHOT_WITHOUT_SESSIONS: Bug =
    Bug::new("snapshot-without-sessions", "who installs a snapshot does not load its session table");
pub(crate) const SNAPSHOT_WITHOUT_TOMBSTONES: Bug =
    Bug::new("snapshot-without-tombstones", "who installs a snapshot forgets what was rolled back");
pub(crate) const SNAPSHOT_WITHOUT_MEMBERSHIP: Bug =
    Bug::new("snapshot-without-membership", "who installs a snapshot does not take its membership over");
pub(crate) const INSTALL_NOT_SYNCED: Bug =
    Bug::new("install-not-synced", "an installed snapshot counts before it is durable");
pub(crate) const RESOLVE_WITHOUT_TOMBSTONE: Bug =
    Bug::new("resolve-without-tombstone", "resolve says *rolled back*, and nobody remembers it");
pub(crate) const REFUSED_AFTER_LOST: Bug =
    Bug::new("refused-after-lost", "a refusal counts although an earlier attempt may be in a log");
pub(crate) const LATE_MEANS_REFUSED: Bug =
    Bug::new("late-means-refused", "the leader answers *not committed* when a proposal takes too long");
pub(crate) const READ_WITHOUT_QUORUM: Bug =
    Bug::new("read-without-quorum", "a leader serves reads without asking whether it still leads");
pub(crate) const READ_BY_LEASE: Bug =
    Bug::new("read-by-lease", "a leader trusts its clock to know that it still leads");
pub(crate) const READ_BEFORE_APPLIED: Bug =
    Bug::new("read-before-applied", "a read does not wait until what it must see is applied");
pub(crate) const READ_TORN: Bug =
    Bug::new("read-torn", "the revision of a read is taken in an earlier round than its value");
pub(crate) const STALE_READ_AGELESS: Bug =
    Bug::new("stale-read-ageless", "a stale read says that it is fresh");
