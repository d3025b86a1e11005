//! Room for a write, taken under the lock of the partition that it is made to, and the limit that there
//! is to it.

use super::{size_of, Generation, Live, Partition};
use crate::capacity::{Capacity, NoRoom, Size};
use crate::delivery::After;
use crate::stats::Reason;

/// Copies the first entries of a generation into an arena as a processor gets them.
pub type CopyRows<'a, G> = &'a dyn Fn(&G, usize, &mut <G as Generation>::Arena);

/// How entries are dropped that somebody may have to be told of.
pub struct Rows<'a, G: Generation> {
    /// What keeps them, if they are to be kept.
    pub copy: Option<CopyRows<'a, G>>,
    /// The clock.
    pub now: fn() -> i64,
}

/// Where a write takes room from. Without a limit there always is some.
pub struct Room<'a, G: Generation, O> {
    limited: Option<Limited<'a, G, O>>,
}

struct Limited<'a, G: Generation, O> {
    partition: &'a Partition<G, O>,
    after: &'a mut After<G::Arena, O>,
    base: u64,
    since: u64,
    used: Used,
}

/// What a write has done to the room of its buffer.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Used {
    /// What was taken for it.
    pub(super) taken: Size,
    /// How much of that was the room of entries which were to be dropped.
    pub(super) taken_over: Size,
    /// What was dropped.
    pub(super) evicted: Size,
}

impl<'a, G: Generation, O: Copy + PartialEq> Room<'a, G, O> {
    pub(super) fn unlimited() -> Self {
        Self { limited: None }
    }

    pub(super) fn limited(
        partition: &'a Partition<G, O>,
        live: &Live<G, O>,
        after: &'a mut After<G::Arena, O>,
    ) -> Self {
        Self {
            limited: Some(Limited {
                partition,
                after,
                base: live.base,
                since: live.since,
                used: Used::default(),
            }),
        }
    }

    pub(super) fn into_used(self) -> Used {
        self.limited.map(|limited| limited.used).unwrap_or_default()
    }

    pub(super) fn evicted(&self) -> Size {
        let used = self.limited.as_ref().map(|limited| limited.used);
        used.unwrap_or_default().evicted
    }

    /// Whether there always is room.
    pub fn is_unlimited(&self) -> bool {
        self.limited.is_none()
    }

    /// Takes room for what the write adds at the most.
    #[inline]
    pub fn take(&mut self, size: Size) -> Result<(), NoRoom> {
        if let Some(limited) = &mut self.limited {
            limited.partition.capacity.take(size)?;
            limited.used.taken += size;
        }
        Ok(())
    }

    /// Takes room for a write in place of the oldest entries of this generation, which are dropped: no more
    /// than it takes, and none if all of them were too few.
    pub fn take_in_place(
        &mut self,
        live: &mut G,
        size: Size,
        rows: &Rows<'_, G>,
    ) -> Result<(), NoRoom> {
        match self.take(size) {
            Err(NoRoom::Full) => {}
            other => return other,
        }
        if let Some(limited) = &mut self.limited {
            let capacity = &limited.partition.capacity;
            let (_, excess) = capacity.take_in_place(size_of(live), size)?;
            limited.used.taken += size;
            limited.used.taken_over += excess;
            self.evict(live, excess, rows);
        }
        Ok(())
    }

    /// Drops the oldest entries until those dropped are at least as large as `size` in each part.
    pub(super) fn evict(&mut self, live: &mut G, size: Size, rows: &Rows<'_, G>) {
        let Some(limited) = &mut self.limited else {
            return;
        };
        let until = limited.used.evicted + size;
        while !until.fits(limited.used.evicted) && !live.is_empty() {
            limited.evict_first(live, rows);
        }
    }
}

impl<G: Generation, O: Copy + PartialEq> Limited<'_, G, O> {
    fn evict_first(&mut self, live: &mut G, rows: &Rows<'_, G>) {
        let bytes = live.first(1, 0).bytes;
        let place = self.base + live.places_up_to(0);
        if let Some(copy) = rows.copy {
            let mut kept = self.partition.kept.lock();
            kept.add_to_last((place, place), |arena| copy(live, 1, arena));
        }
        live.evict(1, rows.now, &mut self.after.retired);
        self.used.evicted += Size { entries: 1, bytes };
        let lost = Reason::Overflow;
        self.partition.awaiting.lock().lose(place - 1, place, lost);
        let left = if live.is_empty() {
            self.base + live.places().1
        } else {
            place
        };
        let passed = &mut self.after.passed;
        self.partition.pass_live(self.since, left, passed);
    }
}

/// Introduces, changes or lifts the limit of a buffer of these partitions. Answers whether writers wait for
/// room.
///
/// All partitions stand still meanwhile, so that what they hold counts exactly once. Their locks are
/// taken in the order of the partitions; nobody else ever holds those of two.
pub fn set_limit<G: Generation, O: Copy + PartialEq>(
    partitions: &[Partition<G, O>],
    capacity: &Capacity,
    limit: Option<Size>,
) -> bool {
    let mut all: Vec<_> = partitions
        .iter()
        .map(|partition| (partition.ledger.lock(), partition.live.lock()))
        .collect();
    let mut held = Size::default();
    for (ledger, live) in &mut all {
        ledger.bounded = limit.is_some();
        live.bounded = limit.is_some();
        held += size_of(&live.generation);
        held += Size {
            entries: ledger.len,
            bytes: ledger.bytes,
        };
    }
    capacity.set_limit(limit, || held)
}
