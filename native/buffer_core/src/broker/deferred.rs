//! Messages that a worker is through with, and that somebody will answer later.
//!
//! Who answers claims the message first, by its id, and one claim succeeds; the caller that waits no longer
//! claims it too. So there is one answer at the most, and none comes after the caller has gone on.
//!
//! Each message that comes looks after two that are there: those of dead callers go, so there are no more than a
//! few times as many as there are callers that live.

use std::collections::BTreeMap;

/// By id: who waits, and whether it has been told that this takes long.
#[derive(Debug)]
pub(super) struct Deferred<P> {
    callers: BTreeMap<u64, (P, bool)>,
    // Where to look next.
    next: u64,
}

impl<P> Default for Deferred<P> {
    fn default() -> Self {
        Self {
            callers: BTreeMap::new(),
            next: 0,
        }
    }
}

impl<P: Copy> Deferred<P> {
    const LOOKED_AFTER: usize = 2;

    pub(super) fn push(&mut self, id: u64, caller: P, told: bool, alive: impl Fn(P) -> bool) {
        for _ in 0..Self::LOOKED_AFTER {
            let Some((&at, &(who, _told))) = self.callers.range(self.next..).next() else {
                self.next = 0;
                break;
            };
            self.next = at + 1;
            if !alive(who) {
                self.callers.remove(&at);
            }
        }
        self.callers.insert(id, (caller, told));
    }

    /// Whether its caller has been told, if it waits.
    pub(super) fn claim(&mut self, id: u64) -> Option<bool> {
        self.callers.remove(&id).map(|(_caller, told)| told)
    }

    pub(super) fn len(&self) -> usize {
        self.callers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_claimed_once() {
        let mut deferred = Deferred::default();
        deferred.push(7, 'a', true, |_| true);
        deferred.push(9, 'a', false, |_| true);
        assert_eq!(deferred.claim(8), None);
        assert_eq!(deferred.claim(7), Some(true));
        assert_eq!(deferred.claim(7), None);
        assert_eq!(deferred.claim(9), Some(false));
        assert_eq!(deferred.len(), 0);
    }

    #[test]
    fn those_of_the_dead_go_and_others_stay() {
        let mut deferred = Deferred::default();
        // Every hundredth lives.
        let alive = |caller: u64| caller.is_multiple_of(100);
        for id in 1..=10_000 {
            deferred.push(id, id, false, alive);
            assert!(
                deferred.len() <= 4 + 4 * (id as usize / 100 + 1),
                "{id}: {}",
                deferred.len()
            );
        }
        for id in 1..=10_000 {
            assert!(!alive(id) || deferred.claim(id).is_some());
        }
    }
}
