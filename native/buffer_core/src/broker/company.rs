//! Whether the handlers of workers that share a state get into each other's way, so that one worker had better work alone.
//!
//! Two ways to share it: those that write take turns, or whoever finds the state changed is run again. Either way, with
//! handlers that take less than the way from one core to another, one worker after the other is slower than one alone.
//!
//! All of this is a guess, made of what was seen of late, by several at the same time and without a lock.

use crate::sync::{AtomicUsize, Ordering};

/// How workers that share a state get on.
#[derive(Debug)]
pub struct Company {
    // Those that write take turns.
    turns: bool,
    score: AtomicUsize,
    // Of one that works alone: how many messages it has had since it was idle, and how often in a row they were few.
    run: AtomicUsize,
    short: AtomicUsize,
}

impl Company {
    /// Handlers up to this time are short, in nanoseconds: less than it takes others to join in.
    const SHORT: i64 = 50_000;
    /// With this score one is to work alone.
    const ENOUGH: usize = 24;
    /// What one that was run in vain counts for, against one that wrote.
    const IN_VAIN: usize = 3;
    /// A run of less than this is of one that does not have much to do; so often.
    const FEW: usize = 4;
    const OFTEN: usize = 16;

    /// None of them has met another one yet.
    pub fn new(turns: bool) -> Self {
        let [score, run, short] = [(); 3].map(|()| AtomicUsize::new(0));
        Self {
            turns,
            score,
            run,
            short,
        }
    }

    /// A handler has written, or had the turn to do so, and took so long. With turns, whoever writes is in the way of others: whether they had better
    /// be kept out of it.
    pub fn wrote(&self, took: i64) -> bool {
        let score = self.score.load(Ordering::Relaxed);
        let next = match took {
            // It may have waited for its turn, or for the scheduler.
            Self::SHORT.. => score / 2,
            _ if self.turns => (score + 1).min(Self::ENOUGH),
            _ => score.saturating_sub(1),
        };
        self.put(score, next);
        self.turns && next >= Self::ENOUGH
    }

    /// A handler that others need not have waited for has left the state as it was: those are to run side by side. Whether they are not to be kept from it.
    pub fn read(&self) -> bool {
        if self.turns {
            self.put(self.score.load(Ordering::Relaxed), 0);
        }
        self.turns
    }

    /// A handler has run in vain.
    pub fn in_vain(&self) {
        let score = self.score.load(Ordering::Relaxed);
        self.put(score, (score + Self::IN_VAIN).min(2 * Self::ENOUGH));
    }

    /// Whether one of them had better work alone.
    pub fn is_a_crowd(&self) -> bool {
        self.score.load(Ordering::Relaxed) >= Self::ENOUGH
    }

    /// The one that works alone goes on with the next message.
    pub fn goes_on(&self) {
        let run = self.run.load(Ordering::Relaxed);
        self.run.store(run.saturating_add(1), Ordering::Relaxed);
    }

    /// It has nothing to do. Whether that is so often that all are better off: with turns they never are.
    pub fn rests(&self) -> bool {
        let few = self.run.load(Ordering::Relaxed) < Self::FEW;
        self.run.store(0, Ordering::Relaxed);
        let short = match few {
            true => self.short.load(Ordering::Relaxed) + 1,
            false => 0,
        };
        let is_lonely = !self.turns && short >= Self::OFTEN;
        self.short.store(
            if is_lonely { 0 } else { short.min(Self::OFTEN) },
            Ordering::Relaxed,
        );
        is_lonely
    }

    // Others may have this in their caches.
    fn put(&self, score: usize, next: usize) {
        if score != next {
            self.score.store(next, Ordering::Relaxed);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn many_short_writes_in_turns_are_a_crowd_until_somebody_reads() {
        let company = Company::new(true);
        assert!((1..Company::ENOUGH).all(|_| !company.wrote(1)));
        assert!(company.wrote(1) && company.is_a_crowd());
        assert!(company.read());
        assert!(!company.wrote(1) && !company.is_a_crowd());
    }

    #[test]
    fn those_that_take_long_are_none_nor_is_one_of_ten() {
        let company = Company::new(true);
        for round in 0..1_000 {
            let took = if round % 10 == 0 { Company::SHORT } else { 1 };
            assert!(!company.wrote(took));
        }
        // One that waits for its turn after others have had theirs.
        let mut took = [1; 16].into_iter().chain([Company::SHORT]).cycle();
        assert!((0..100).any(|_| company.wrote(took.next().unwrap_or_default())));
    }

    #[test]
    fn handlers_that_run_in_vain_are_a_crowd_and_those_that_do_not_are_none() {
        let company = Company::new(false);
        assert!((0..1_000).all(|_| !company.wrote(1)));
        assert!(!company.is_a_crowd());
        for _ in 0..16 {
            company.in_vain();
            company.wrote(1);
        }
        assert!(company.is_a_crowd());
        assert!(!company.read(), "it does not matter");
        assert!(company.is_a_crowd());
        assert!((0..3 * Company::ENOUGH).all(|_| !company.wrote(1)));
        assert!(!company.is_a_crowd());
    }

    #[test]
    fn a_third_of_the_runs_may_be_in_vain() {
        let company = Company::new(false);
        for _ in 0..1_000 {
            company.in_vain();
            for _ in 0..Company::IN_VAIN {
                company.wrote(1);
            }
            assert!(!company.is_a_crowd());
        }
    }

    #[test]
    fn one_that_has_nothing_to_do_again_and_again_need_not_work_alone() {
        for turns in [true, false] {
            let company = Company::new(turns);
            let short_run = || {
                company.goes_on();
                company.rests()
            };
            assert!((1..Company::OFTEN).all(|_| !short_run()));
            (0..Company::FEW).for_each(|_| company.goes_on());
            assert!(!company.rests(), "it had enough to do");
            assert!((1..Company::OFTEN).all(|_| !short_run()));
            assert_eq!(short_run(), !turns);
            assert!(!company.rests() || turns);
        }
    }
}
