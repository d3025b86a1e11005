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
    // What the generation held before.
    before: Size,
    used: Used,
}

/// What a write has done to the room of its buffer.
#[derive(Debug, Clone, Copy, Default)]
struct Used {
    // What was taken for it.
    taken: Size,
    // How much of that was the room of entries which were to be dropped.
    taken_over: Size,
    // What was dropped.
    evicted: Size,
}

/// A write, with the room that it takes. What it has changed is counted when this is dropped: even if it unwinds.
pub(super) struct Counted<'a, G: Generation, O: Copy + PartialEq> {
    live: &'a mut Live<G, O>,
    room: Room<'a, G, O>,
}

impl<'a, G: Generation, O: Copy + PartialEq> Counted<'a, G, O> {
    #[inline]
    pub(super) fn new(
        partition: &'a Partition<G, O>,
        live: &'a mut Live<G, O>,
        after: &'a mut After<G::Arena, O>,
    ) -> Self {
        let limited = live.bounded.then(|| Limited {
            partition,
            after,
            base: live.base,
            since: live.since,
            before: size_of(&live.generation),
            used: Used::default(),
        });
        let room = Room { limited };
        Self { live, room }
    }

    #[inline]
    pub(super) fn write<R>(mut self, write: impl FnOnce(&mut G, &mut Room<'a, G, O>) -> R) -> R {
        write(&mut self.live.generation, &mut self.room)
    }
}

impl<G: Generation, O: Copy + PartialEq> Drop for Counted<'_, G, O> {
    #[inline]
    fn drop(&mut self) {
        let Some(limited) = &mut self.room.limited else {
            return;
        };
        let used = limited.used;
        self.live.overflow += used.evicted;
        let counted = limited.before + used.taken;
        let actual = size_of(&self.live.generation) + used.taken_over;
        if counted != actual {
            limited.after.room |= limited.partition.capacity.correct(counted, actual);
        }
    }
}

impl<G: Generation, O: Copy + PartialEq> Room<'_, G, O> {
    /// What was dropped to make room.
    pub fn evicted(&self) -> Size {
        let limited = self.limited.as_ref();
        limited.map_or(Size::default(), |limited| limited.used.evicted)
    }

    /// Whether there always is room.
    pub fn is_unlimited(&self) -> bool {
        self.limited.is_none()
    }

    /// Takes room for what the write adds at the most. What adds nothing needs none.
    #[inline]
    pub fn take(&mut self, size: Size) -> Result<(), NoRoom> {
        if let Some(limited) = self.limited.as_mut().filter(|_| size != Size::default()) {
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
