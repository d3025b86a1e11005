//! How messages wait, and how long.

use super::codel::Codel;

/// Which end is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The oldest first.
    Fifo,
    /// The newest first.
    Lifo,
}

/// Who gives way when there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// The message that comes is refused.
    Newest,
    /// The oldest that waits is dropped.
    Oldest,
}

/// How messages wait; times are in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Which message is taken.
    pub order: Order,
    /// How many may wait.
    pub max: usize,
    /// What happens to one more.
    pub overflow: Overflow,
    /// So many are not dropped for having waited too long.
    pub min: usize,
    /// How long a message may wait.
    pub timeout: Option<i64>,
    /// Drops for as long as waits are too long.
    pub codel: Option<Codel>,
    /// Which idle worker is woken.
    pub workers: Order,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            order: Order::Fifo,
            max: usize::MAX,
            overflow: Overflow::Newest,
            min: 0,
            timeout: None,
            codel: None,
            workers: Order::Lifo,
        }
    }
}

impl Config {
    /// What of it is for the partition of this index: bounds are split so that they add up.
    pub fn share(&self, index: usize, partitions: usize) -> Self {
        let part = |bound: usize| match bound {
            usize::MAX => usize::MAX,
            _ => bound / partitions + usize::from(index < bound % partitions),
        };
        Self {
            max: part(self.max),
            min: part(self.min),
            ..*self
        }
    }
}
