//! What a partition reports. One reading is one moment: all of it is taken under the partition's locks.

/// Why a batch was discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The processor raised, threw or exited.
    Exception,
    /// The processor's process was killed.
    Killed,
    /// The processor overran its time.
    Timeout,
    /// The buffer was stopped and its time was up.
    Shutdown,
    /// The processor said so.
    Failed,
    /// They had become too old.
    Expired,
    /// The buffer was full.
    Overflow,
}

impl Reason {
    /// Every reason, in the order of [`Stats::discarded`].
    pub const ALL: [Reason; 7] = [
        Reason::Exception,
        Reason::Killed,
        Reason::Timeout,
        Reason::Shutdown,
        Reason::Failed,
        Reason::Expired,
        Reason::Overflow,
    ];
}

/// The figures of one partition at one moment.
///
/// `accepted == processed + superseded + deleted + discarded (all reasons) + queued + in_flight` holds
/// in every reading.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Entries accepted, ever.
    pub accepted: u64,
    /// Entries of batches that a processor returned from, ever.
    pub processed: u64,
    /// Entries that a newer one has taken the place of, ever.
    pub superseded: u64,
    /// Entries removed before they were drained, ever.
    pub deleted: u64,
    /// How often a batch was to be tried again, ever.
    pub retries: u64,
    /// Entries discarded, ever, by reason.
    pub discarded: [u64; Reason::ALL.len()],
    /// Entries of the live generation.
    pub live: usize,
    /// Entries of both generations that no processor has been given yet.
    pub queued: usize,
    /// Entries of the batch that a processor has.
    pub in_flight: usize,
    /// The weight of queued entries and those in flight.
    pub bytes: u64,
    /// The most entries that were ever held at once, queued and in flight.
    pub high_water: usize,
    /// When the oldest entry held was accepted, or a little before it: the moment is kept for each
    /// segment, not for each entry.
    pub oldest: Option<i64>,
}
