//! CoDel: which messages to give up when all of them wait too long.
//!
//! The algorithm of RFC 8289. When the oldest message has waited for longer than `target` during a whole
//! `interval`, one is dropped; then another one after `interval / sqrt(count)`, until the wait is below
//! the target again. It is asked whenever a worker takes, so while nobody takes nothing is dropped.

/// What CoDel aims at, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codel {
    /// The wait that is fine for as long as one likes.
    pub target: i64,
    /// For how long a longer wait is fine.
    pub interval: i64,
}

/// What has happened so far.
#[derive(Debug, Default)]
pub struct State {
    // When the wait will have been above the target for an interval.
    above_until: Option<i64>,
    dropping: bool,
    drop_next: i64,
    count: u32,
}

impl State {
    /// Whether to drop the oldest message, which has waited for `sojourn`; `None` if there is none
    /// that may be dropped.
    pub fn drops(&mut self, codel: Codel, now: i64, sojourn: Option<i64>) -> bool {
        let over = self.is_over(codel, now, sojourn);
        if !over {
            self.dropping = false;
            false
        } else if !self.dropping {
            self.dropping = true;
            // Soon after the last time: go on at about the rate that was needed then.
            let recent = now.saturating_sub(self.drop_next) < codel.interval.saturating_mul(16);
            self.count = if recent && self.count > 2 {
                self.count - 2
            } else {
                1
            };
            self.drop_next = now.saturating_add(self.pause(codel));
            true
        } else if now >= self.drop_next {
            self.count = self.count.saturating_add(1);
            self.drop_next = self.drop_next.saturating_add(self.pause(codel));
            true
        } else {
            false
        }
    }

    /// Nothing waits.
    pub fn rest(&mut self) {
        self.above_until = None;
        self.dropping = false;
    }

    fn is_over(&mut self, codel: Codel, now: i64, sojourn: Option<i64>) -> bool {
        match sojourn {
            Some(sojourn) if sojourn >= codel.target => match self.above_until {
                Some(until) => now >= until,
                None => {
                    self.above_until = Some(now.saturating_add(codel.interval));
                    false
                }
            },
            _ => {
                self.above_until = None;
                false
            }
        }
    }

    fn pause(&self, codel: Codel) -> i64 {
        (codel.interval as f64 / f64::from(self.count.max(1)).sqrt()) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODEL: Codel = Codel {
        target: 5,
        interval: 100,
    };

    fn drops(state: &mut State, now: i64, sojourn: i64) -> bool {
        state.drops(CODEL, now, Some(sojourn))
    }

    #[test]
    fn a_short_wait_drops_nothing() {
        let mut state = State::default();
        assert!((0..1_000).all(|now| !drops(&mut state, now, 4)));
    }

    #[test]
    fn the_first_drop_comes_after_an_interval_above_the_target() {
        let mut state = State::default();
        let first = (0..1_000).find(|&now| drops(&mut state, now, 5));
        assert_eq!(first, Some(100));
    }

    #[test]
    fn drops_come_faster_the_longer_it_lasts() {
        let mut state = State::default();
        let all: Vec<i64> = (0..600).filter(|&now| drops(&mut state, now, 9)).collect();
        assert_eq!(all[..4], [100, 200, 270, 327]);
    }

    #[test]
    fn one_short_wait_or_an_empty_queue_ends_it() {
        for sojourn in [Some(4), None] {
            let mut state = State::default();
            assert!((0..=100).any(|now| drops(&mut state, now, 9)));
            assert!(!state.drops(CODEL, 201, sojourn));
            let next = (202..1_000).find(|&now| drops(&mut state, now, 9));
            assert_eq!(next, Some(302));
        }
    }
}
