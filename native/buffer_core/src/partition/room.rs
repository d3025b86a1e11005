//! Room for a write, taken under the lock of the partition that it is made to.

use super::{Generation, Partition};
use crate::awaiting::Awaiting;
use crate::capacity::{Capacity, Credit, NoRoom, Size};
use crate::delivery::After;
use crate::kept::Kept;
use crate::stats::Reason;
use crate::sync::Mutex;

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
    capacity: &'a Capacity,
    awaiting: &'a Mutex<Awaiting<O>>,
    kept: &'a Mutex<Kept<G::Arena>>,
    after: &'a mut After<G::Arena, O>,
    base: u64,
    credit: Option<Credit>,
    evicted: Size,
}

impl<'a, G: Generation, O: Copy + PartialEq> Room<'a, G, O> {
    pub(super) fn unlimited(_partition: &'a Partition<G, O>) -> Self {
        Self { limited: None }
    }

    pub(super) fn limited(
        partition: &'a Partition<G, O>,
        base: u64,
        after: &'a mut After<G::Arena, O>,
    ) -> Self {
        Self {
            limited: Some(Limited {
                capacity: &partition.capacity,
                awaiting: &partition.awaiting,
                kept: &partition.kept,
                after,
                base,
                credit: None,
                evicted: Size::default(),
            }),
        }
    }

    /// What was evicted, and what was taken.
    pub(super) fn into_parts(self) -> (Size, Option<Credit>) {
        self.limited.map_or((Size::default(), None), |limited| {
            (limited.evicted, limited.credit)
        })
    }

    /// Whether there always is room.
    pub fn is_unlimited(&self) -> bool {
        self.limited.is_none()
    }

    /// Takes room for what the write adds at the most. To be called once.
    #[inline]
    pub fn take(&mut self, size: Size) -> Result<(), NoRoom> {
        match &mut self.limited {
            None => Ok(()),
            Some(limited) => {
                limited.credit = Some(limited.capacity.take(size)?);
                Ok(())
            }
        }
    }

    /// Takes room for a write in place of the oldest entries of this generation: as many as it takes, and
    /// no more than there are.
    pub fn take_in_place(
        &mut self,
        live: &mut G,
        size: Size,
        rows: &Rows<'_, G>,
    ) -> Result<(), NoRoom> {
        if let Err(refused) = self.take(size) {
            if refused == NoRoom::TooLarge {
                return Err(refused);
            }
            let Some(limited) = &mut self.limited else {
                return Ok(());
            };
            loop {
                let first = live.first(1, 0);
                if first.len == 0 {
                    return Err(NoRoom::Full);
                }
                limited.evict(live, first.len, rows);
                if let Ok(credit) = limited.capacity.take_in_place(limited.evicted, size) {
                    limited.credit = Some(credit);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Drops the oldest entries until those dropped are at least as large as `size` in each part.
    pub(super) fn evict(&mut self, live: &mut G, size: Size, rows: &Rows<'_, G>) {
        let Some(limited) = &mut self.limited else {
            return;
        };
        while !size.fits(limited.evicted) && !live.is_empty() {
            limited.evict(live, 1, rows);
        }
    }
}

impl<G: Generation, O: Copy + PartialEq> Limited<'_, G, O> {
    fn evict(&mut self, live: &mut G, count: usize, rows: &Rows<'_, G>) {
        let before = live.places().0;
        let first = live.first(count, u64::MAX);
        let (from, last) = (self.base + before, self.base + first.places);
        if let Some(copy) = rows.copy {
            let places = (from + 1, last);
            self.kept
                .lock()
                .add_to_last(places, |arena| copy(live, count, arena));
        }
        live.evict(count, rows.now, &mut self.after.retired);
        self.evicted += Size {
            entries: first.len,
            bytes: first.bytes,
        };
        let mut awaiting = self.awaiting.lock();
        awaiting.lose(from, last, Reason::Overflow);
        awaiting.pass_within(from, last, &mut self.after.passed);
    }
}
