//! An arena of integers whose existence is on record, for tests that run on one thread.
//!
//! The record belongs to the thread: tests that run beside each other do not see each other's arenas.

use std::cell::RefCell;
use std::collections::BTreeMap;

use buffer_core::map::Source;
use buffer_core::Arena;

/// Integers in one arena.
pub struct Ints {
    id: usize,
    values: Vec<u64>,
}

/// What is on record of an arena: how many values it holds, and the last one.
#[derive(Clone, Copy, Default)]
pub struct Page {
    pub len: usize,
    pub last: u64,
}

#[derive(Default)]
struct Ledger {
    created: usize,
    cleared: (usize, usize),
    alive: BTreeMap<usize, Page>,
}

thread_local! {
    static LEDGER: RefCell<Ledger> = RefCell::default();
}

fn with<R>(look: impl FnOnce(&mut Ledger) -> R) -> R {
    LEDGER.with_borrow_mut(look)
}

impl Ints {
    /// Adds a value.
    pub fn store(&mut self, value: u64) {
        self.values.push(value);
        let page = Page {
            len: self.values.len(),
            last: value,
        };
        with(|ledger| {
            if ledger.alive.insert(self.id, page).is_none() {
                // It has been cleared: from now on it is another one.
                ledger.created += 1;
            }
        });
    }

    /// Puts a value in the place of another one.
    pub fn overwrite(&mut self, index: usize, value: u64) {
        self.values[index] = value;
        if index + 1 == self.values.len() {
            with(|ledger| {
                let page = ledger.alive.get_mut(&self.id);
                page.expect("this arena is alive").last = value;
            });
        }
    }

    /// The values in `range`.
    pub fn load(&self, range: std::ops::Range<usize>) -> &[u64] {
        &self.values[range]
    }
}

impl Arena for Ints {
    fn new() -> Self {
        let id = with(|ledger| {
            ledger.created += 1;
            ledger.alive.insert(ledger.created, Page::default());
            ledger.created
        });
        let values = Vec::new();
        Self { id, values }
    }

    fn copy_from(&mut self, other: &Self, index: usize) {
        self.store(other.values[index]);
    }

    /// Off the record until it gets values again.
    fn clear(&mut self) -> bool {
        self.values.clear();
        with(|ledger| {
            let page = ledger.alive.remove(&self.id);
            ledger.cleared.0 += 1;
            ledger.cleared.1 += page.expect("this arena is alive").len;
        });
        true
    }

    fn len(&self) -> usize {
        self.values.len()
    }
}

impl Drop for Ints {
    fn drop(&mut self) {
        // A thread that ends takes its record along.
        let _ = LEDGER.try_with(|ledger| {
            let page = ledger.borrow_mut().alive.remove(&self.id);
            let cleared = self.values.is_empty();
            assert!(
                page.is_some() || cleared,
                "arena {} was dropped twice",
                self.id
            );
        });
    }
}

/// A value that is written over others that are as heavy, if it is even; or one that is packed.
pub struct Value(u64, Vec<u8>);

impl Value {
    /// One that goes to an arena.
    pub fn plain(value: u64) -> Self {
        Self(value, Vec::new())
    }

    /// One that is packed, and takes so many bytes: at least 9.
    pub fn packed(value: u64, len: usize) -> Self {
        let bytes = std::iter::once(len as u8).chain(value.to_le_bytes());
        Self(value, bytes.chain(std::iter::repeat(7)).take(len).collect())
    }

    /// The value of one that is packed.
    pub fn of_bytes(bytes: &[u8]) -> u64 {
        let filler = &bytes[9..bytes[0].into()];
        assert!(filler.iter().all(|&byte| byte == 7));
        let [_, value @ ..] = bytes.first_chunk::<9>().expect("it has at least 9");
        u64::from_le_bytes(*value)
    }
}

impl Source<Ints> for Value {
    fn packed(&self) -> Option<&[u8]> {
        (!self.1.is_empty()).then_some(&self.1)
    }

    fn store(self, arena: &mut Ints) {
        assert!(self.1.is_empty());
        arena.store(self.0);
    }

    fn overwrite(&self, arena: &mut Ints, index: usize) -> bool {
        assert!(self.1.is_empty());
        if self.0.is_multiple_of(2) {
            arena.overwrite(index, self.0);
        }
        self.0.is_multiple_of(2)
    }
}

/// The arenas that exist on this thread, in the order in which they were made.
pub fn alive() -> Vec<Page> {
    with(|ledger| ledger.alive.values().copied().collect())
}

/// How many arenas this thread has ever made, or used again after they were cleared.
pub fn created() -> usize {
    with(|ledger| ledger.created)
}

/// How many it has cleared.
pub fn cleared() -> usize {
    with(|ledger| ledger.cleared.0)
}

/// How many values were in those.
pub fn cleared_values() -> usize {
    with(|ledger| ledger.cleared.1)
}
