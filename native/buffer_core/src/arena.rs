//! Where entries live.

/// A place that many entries are copied into, one after the other, and that is freed as a whole.
///
/// Entries are named by their index: the first is 0. An arena never forgets an entry and never
/// moves one.
pub trait Arena: Send {
    /// An arena without entries.
    fn new() -> Self;

    /// The same, about to get so many entries that take so much room altogether: a guess.
    fn about_to_get(entries: usize, room: usize) -> Self
    where
        Self: Sized,
    {
        let _ = (entries, room);
        Self::new()
    }

    /// How much room its entries take, in units of its own.
    fn room(&self) -> usize {
        0
    }

    /// Adds a copy of an entry of another arena.
    fn copy_from(&mut self, other: &Self, index: usize);

    /// Forgets all entries, and keeps the memory for those that come next, if that is little; otherwise nothing is
    /// done, and the answer is `false`.
    fn clear(&mut self) -> bool {
        false
    }

    /// How many entries it holds.
    fn len(&self) -> usize;

    /// Whether it holds none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
