//! Who wants to be told when a batch, or all up to a point, has been through.
//!
//! A place in a partition is a number that only grows: that of an entry is one more than that of the
//! entry before it, whatever became of those. Somebody waits for a stretch of places, and is told when
//! the last of them has left the partition, and whether an entry of the stretch was given up.
//!
//! Kept under a lock of its own, which is taken after all others of the partition. How many wait can be read without it
//! ([`Line::len`]): whoever makes places leave must have seen all those who wait for them, so it has a lock in common
//! with each of these, or with who swapped out what they wait for.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use smallvec::SmallVec;

use crate::stats::Reason;
use crate::sync::{AtomicUsize, Mutex, MutexGuard, Ordering};

/// Who waits, `O`, and for what.
#[derive(Debug)]
pub struct Awaiting<O> {
    // By the last place of the stretch, and by who came first.
    waiting: BTreeMap<Key, Stretch<O>>,
    // Who is the only one; then nobody is in there, and no memory is taken.
    alone: Option<(Key, Stretch<O>)>,
    added: u64,
}

type Key = (u64, u64);

#[derive(Debug)]
struct Stretch<O> {
    owner: O,
    token: u64,
    // The place before the first one.
    after: u64,
    lost: Option<Reason>,
}

/// Somebody who waits no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed<O> {
    /// Who.
    pub owner: O,
    /// What it gave to be recognised by.
    pub token: u64,
    /// Why an entry of the stretch was given up, if one was.
    pub lost: Option<Reason>,
}

/// Those who wait no longer: mostly none, or one.
pub type Told<O> = SmallVec<[Passed<O>; 1]>;

/// All who wait, and their lock.
#[derive(Debug)]
pub struct Line<O> {
    all: Mutex<Awaiting<O>>,
    // Written under the lock.
    len: AtomicUsize,
}

/// The lock, held.
pub struct Held<'a, O: Copy> {
    all: MutexGuard<'a, Awaiting<O>>,
    len: &'a AtomicUsize,
}

impl<O> Default for Line<O> {
    fn default() -> Self {
        Self {
            all: Mutex::default(),
            len: AtomicUsize::new(0),
        }
    }
}

impl<O: Copy> Line<O> {
    /// Takes the lock.
    pub fn lock(&self) -> Held<'_, O> {
        Held {
            all: self.all.lock(),
            len: &self.len,
        }
    }

    /// How many wait. Those count for certain whose entries came before something that the caller has seen under a lock.
    pub fn len(&self) -> usize {
        // Who waits has been counted under the lock of the live generation, or of what the caller looks at.
        self.len.load(Ordering::Relaxed)
    }

    /// Whether nobody does.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<O: Copy> Deref for Held<'_, O> {
    type Target = Awaiting<O>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

impl<O: Copy> DerefMut for Held<'_, O> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.all
    }
}

impl<O: Copy> Drop for Held<'_, O> {
    fn drop(&mut self) {
        self.len.store(self.all.len(), Ordering::Relaxed);
    }
}

impl<O> From<Stretch<O>> for Passed<O> {
    fn from(stretch: Stretch<O>) -> Self {
        Passed {
            owner: stretch.owner,
            token: stretch.token,
            lost: stretch.lost,
        }
    }
}

impl<O> Default for Awaiting<O> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            alone: None,
            added: 0,
        }
    }
}

impl<O: Copy> Awaiting<O> {
    /// Waits for the places after `after` up to `last`.
    pub fn add(&mut self, owner: O, token: u64, after: u64, last: u64) {
        let stretch = Stretch {
            owner,
            token,
            after,
            lost: None,
        };
        let key = (last, self.added);
        self.added += 1;
        if self.is_empty() {
            self.alone = Some((key, stretch));
            return;
        }
        self.waiting.extend(self.alone.take());
        self.waiting.insert(key, stretch);
    }

    /// Waits no more. Whether it did.
    pub fn cancel(&mut self, token: u64) -> bool {
        let before = self.len();
        self.alone.take_if(|(_, stretch)| stretch.token == token);
        self.waiting.retain(|_, stretch| stretch.token != token);
        self.len() < before
    }

    /// Entries of the places after `after` up to `last` were given up.
    pub fn lose(&mut self, after: u64, last: u64, reason: Reason) {
        let alone = self.alone.iter_mut().filter(|(key, _)| key.0 > after);
        let alone = alone.map(|(_, stretch)| stretch);
        let later = self.waiting.range_mut((after + 1, 0)..);
        for stretch in alone.chain(later.map(|(_, stretch)| stretch)) {
            if stretch.after < last {
                stretch.lost.get_or_insert(reason);
            }
        }
    }

    /// All places up to `last` have left.
    pub fn pass(&mut self, last: u64, passed: &mut Told<O>) {
        let alone = self.alone.take_if(|(key, _)| key.0 <= last);
        passed.extend(alone.map(|(_, stretch)| Passed::from(stretch)));
        while let Some(first) = self.waiting.first_entry() {
            if first.key().0 > last {
                break;
            }
            passed.push(Passed::from(first.remove()));
        }
    }

    /// Stretches that begin after `after` and end at `last` or before have left: earlier places have not.
    pub fn pass_within(&mut self, after: u64, last: u64, passed: &mut Told<O>) {
        let is_within = |(key, stretch): &mut (Key, Stretch<O>)| {
            (after..=last).contains(&key.0) && stretch.after >= after
        };
        let alone = self.alone.take_if(is_within);
        passed.extend(alone.map(|(_, stretch)| Passed::from(stretch)));
        let ending = self.waiting.range((after, 0)..(last + 1, 0));
        let within = ending.filter(|(_, stretch)| stretch.after >= after);
        let gone: Vec<_> = within.map(|(key, _)| *key).collect();
        let gone = gone.iter().filter_map(|key| self.waiting.remove(key));
        passed.extend(gone.map(Passed::from));
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len() + usize::from(self.alone.is_some())
    }

    /// Whether nobody does.
    pub fn is_empty(&self) -> bool {
        self.alone.is_none() && self.waiting.is_empty()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn tokens(passed: &[Passed<u8>]) -> Vec<(u64, Option<Reason>)> {
        passed.iter().map(|one| (one.token, one.lost)).collect()
    }

    #[test]
    fn is_told_when_the_last_place_has_left() {
        let mut awaiting = Awaiting::default();
        awaiting.add(1u8, 10, 0, 3);
        awaiting.add(1, 11, 3, 4);
        let mut passed = Told::new();
        awaiting.pass(2, &mut passed);
        assert!(passed.is_empty());
        awaiting.pass(3, &mut passed);
        assert_eq!(tokens(&passed), [(10, None)]);
        awaiting.pass(9, &mut passed);
        assert_eq!(tokens(&passed), [(10, None), (11, None)]);
        assert!(awaiting.is_empty());
    }

    #[test]
    fn is_told_of_losses_in_its_stretch_only() {
        let mut awaiting = Awaiting::default();
        awaiting.add(1u8, 10, 0, 3);
        awaiting.add(1, 11, 3, 6);
        awaiting.lose(1, 3, Reason::Killed);
        awaiting.lose(2, 3, Reason::Timeout);
        let mut passed = Told::new();
        awaiting.pass(6, &mut passed);
        assert_eq!(tokens(&passed), [(10, Some(Reason::Killed)), (11, None)]);
    }

    #[test]
    fn what_left_before_its_turn_is_told_of_at_once() {
        let mut awaiting = Awaiting::default();
        awaiting.add(1u8, 10, 0, 5);
        awaiting.add(1, 11, 4, 5);
        let mut passed = Told::new();
        awaiting.pass_within(4, 6, &mut passed);
        assert_eq!(tokens(&passed), [(11, None)]);
        assert!(awaiting.cancel(10));
        assert!(!awaiting.cancel(10));
    }

    #[test]
    fn two_of_the_same_token_are_both_told() {
        let mut awaiting = Awaiting::default();
        awaiting.add(1u8, 10, 0, 5);
        awaiting.add(2, 10, 0, 5);
        let mut passed = Told::new();
        awaiting.pass(5, &mut passed);
        let owners: Vec<u8> = passed.iter().map(|one| one.owner).collect();
        assert_eq!(owners, [1, 2]);
    }
}
