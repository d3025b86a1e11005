//! Messages that wait, in the order in which they came. Any of them can leave: from either end, or by
//! its id.
//!
//! Messages lie in chunks of one segment each. Those that left from the middle leave a gap, which goes
//! with the last message of its chunk.
//!
//! Invariants:
//!
//! * Ids grow from the front to the back, over all chunks.
//! * Every chunk but the last holds a message. The first and the last entry of a chunk are no gaps.
//! * A chunk that was filled before it came (`push_stored`, `put_back`) has one message and takes no other, so
//!   it leaves with it.

use std::collections::{BTreeSet, VecDeque};

use super::entries::Entries;
use super::patience::Patience;
use crate::{Arena, Segment};

/// A message while it waits.
#[derive(Debug, Clone, Copy)]
pub struct Entry<P> {
    /// Its name; greater than that of every message before it.
    pub id: u64,
    /// When it came, in nanoseconds.
    pub at: i64,
    /// A deadline of its own; `i64::MAX` for none.
    pub due: i64,
    /// Whose death removes it.
    pub caller: Option<P>,
    /// Where in the arena it is.
    pub message: u32,
    /// Where in the arena that is which says whom to answer.
    pub reply: Option<u32>,
    /// What all of it weighs.
    pub weight: u32,
    /// It came in a segment of its own.
    pub alone: bool,
    /// Nobody waits for it, and nobody knows its id.
    pub loose: bool,
    /// Whether its caller is to be told when it has waited for long.
    pub patience: Patience,
}

impl<P> Entry<P> {
    /// A message that nobody waits for, but for what it weighs.
    #[inline]
    pub(super) fn loose(id: u64, at: i64, message: u32) -> Self {
        Self {
            id,
            at,
            due: i64::MAX,
            caller: None,
            message,
            reply: None,
            weight: 0,
            alone: false,
            loose: true,
            patience: Patience::Own,
        }
    }

    /// Whether there is no more to know of it than of one that nobody waits for.
    pub(super) fn is_brief(&self) -> bool {
        let waits = self.caller.is_some() || self.due != i64::MAX || self.patience != Patience::Own;
        self.loose && !self.alone && self.reply.is_none() && !waits
    }
}

/// Where a message and its reply were stored.
pub type Stored = (u32, Option<u32>);

/// A message that left, and its chunk if that went with it.
pub type Left<A, P> = (Entry<P>, Option<Box<Chunk<A, P>>>);

/// A chunk that nothing is left in, and its partition, if that is so.
pub(super) type Emptied<A, P> = Option<(usize, Box<Chunk<A, P>>)>;

/// A segment and the messages in it.
pub struct Chunk<A, P> {
    segment: Segment<A>,
    entries: Entries<P>,
    held: usize,
    // No id in it is smaller, and none is greater than this one of the next chunk.
    first: u64,
    sealed: bool,
    // What the messages in it weigh.
    bytes: u64,
    // All messages that ever were in it are loose, and it has not come back from a worker.
    lendable: bool,
}

impl<A: Arena, P: Copy> Chunk<A, P> {
    /// Terms that were consumed stay until their chunk goes. One that holds nothing goes at once if that
    /// many bytes lie in it.
    const IDLE_BYTES: u64 = 16 * 1024;

    fn of(segment: Segment<A>, first: u64) -> Self {
        Self {
            segment,
            entries: Entries::default(),
            held: 0,
            first,
            sealed: false,
            bytes: 0,
            lendable: true,
        }
    }

    /// One behind another. If that one is full, more is about to come than somebody takes, and it gets the like at once:
    /// memory that is new is provided in pieces, and each piece takes time.
    fn open_behind(last: Option<&Self>, now: i64, first: u64) -> Self {
        let segment = match last.map(|last| &last.segment) {
            Some(full) if full.is_full() => {
                Segment::open_like(now, full.stored(), full.arena().room())
            }
            _ => Segment::open(now),
        };
        Self::of(segment, first)
    }

    /// Makes it as good as new, if it has nothing in it and is small; otherwise nothing is done, and the answer is
    /// `false`.
    pub(super) fn clear(&mut self) -> bool {
        self.held == 0 && self.segment.clear()
    }

    /// Opens one that has been cleared.
    fn open_again(&mut self, now: i64, first: u64) {
        self.segment.open_again(now);
        self.entries.clear();
        self.first = first;
        (self.sealed, self.lendable) = (false, true);
    }

    fn push(&mut self, entry: Entry<P>) {
        self.entries.push(&entry, &self.segment);
        self.lendable &= entry.loose && !entry.alone && entry.reply.is_none();
        self.count(entry.id, entry.weight);
    }

    #[inline]
    fn push_loose(&mut self, id: u64, at: i64, message: u32, weight: u32) {
        let Self {
            segment, entries, ..
        } = self;
        if !entries.push_loose(id, at, message, weight, segment) {
            let entry = Entry::loose(id, at, message);
            entries.push(&Entry { weight, ..entry }, segment);
        }
        self.count(id, weight);
    }

    #[inline]
    fn count(&mut self, id: u64, weight: u32) {
        if self.held == 0 {
            self.first = id;
        }
        self.held += 1;
        self.bytes += u64::from(weight);
    }

    fn get(&self, index: usize) -> Option<Entry<P>> {
        self.entries.get(index, &self.segment)
    }

    #[inline]
    fn remove(&mut self, index: usize) -> Option<Entry<P>> {
        let entry = self.entries.remove(index, &self.segment)?;
        self.held -= 1;
        self.bytes -= u64::from(entry.weight);
        if self.held == 0 {
            self.first = u64::MAX;
        }
        Some(entry)
    }

    /// How many messages are in it.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// What they weigh.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// They, in order.
    pub(super) fn messages(&self) -> impl Iterator<Item = Entry<P>> + '_ {
        (0..self.entries.len()).filter_map(|index| self.get(index))
    }

    /// Takes the first one out.
    pub(super) fn pop(&mut self) -> Option<Entry<P>> {
        self.remove(0)
    }

    fn takes_more(&self) -> bool {
        !self.sealed && !self.segment.is_full()
    }

    /// Whether to let it go although it is the last.
    fn is_spent(&self) -> bool {
        self.held == 0 && (!self.takes_more() || self.segment.bytes() > Self::IDLE_BYTES)
    }

    /// Its memory.
    pub fn into_segment(self) -> Segment<A> {
        self.segment
    }

    /// Where its messages are.
    pub fn arena(&self) -> &A {
        self.segment.arena()
    }
}

/// Where a message is; good until something leaves or comes.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    chunk: usize,
    index: usize,
}

/// All messages that wait in one partition.
pub struct Waiting<A, P> {
    // Boxed: see `Queue`.
    chunks: VecDeque<Box<Chunk<A, P>>>,
    // Deadlines of their own, of those messages that have one.
    timed: BTreeSet<(i64, u64)>,
    len: usize,
    bytes: u64,
    // How many have a caller.
    called: usize,
    // When the oldest came; `i64::MAX`: there is none.
    front_at: i64,
    // How many have a patient caller that has not been told that it has waited for long; and up to which id there is none.
    untold: usize,
    told_to: u64,
}

impl<A, P> Default for Waiting<A, P> {
    fn default() -> Self {
        Self {
            chunks: VecDeque::new(),
            timed: BTreeSet::new(),
            len: 0,
            bytes: 0,
            called: 0,
            front_at: i64::MAX,
            untold: 0,
            told_to: 0,
        }
    }
}

impl<A, P> Waiting<A, P> {
    /// When the oldest came; `i64::MAX`: there is none.
    pub fn front_at(&self) -> i64 {
        self.front_at
    }
}

impl<A: Arena, P: Copy> Waiting<A, P> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What they weigh.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many have a caller.
    pub fn called(&self) -> usize {
        self.called
    }

    /// How many have a patient caller that has not been told that it has waited for long.
    pub(super) fn untold(&self) -> usize {
        self.untold
    }

    /// Adds a message at the back. `store` puts its terms into the segment and says where they are.
    /// `spare`: a chunk that has been cleared, if there is one.
    pub(super) fn push(
        &mut self,
        mut entry: Entry<P>,
        spare: impl FnOnce() -> Option<Box<Chunk<A, P>>>,
        store: impl FnOnce(&mut Segment<A>) -> Stored,
    ) {
        let chunk = self.last(entry.id, entry.at, spare);
        (entry.message, entry.reply) = store(&mut chunk.segment);
        chunk.push(entry);
        self.count(&entry);
    }

    /// Adds a message that nobody waits for, unless `store` refuses to put it into the segment, which is then as it was.
    /// Otherwise it says what the message weighs.
    pub(super) fn push_loose(
        &mut self,
        id: u64,
        at: i64,
        spare: impl FnOnce() -> Option<Box<Chunk<A, P>>>,
        store: impl FnOnce(&mut Segment<A>) -> Option<u32>,
    ) -> bool {
        let chunk = self.last(id, at, spare);
        let message = chunk.segment.stored() as u32;
        let Some(weight) = store(&mut chunk.segment) else {
            if chunk.held == 0 {
                // As any that is empty: what is put back goes before it.
                chunk.first = u64::MAX;
            }
            return false;
        };
        chunk.push_loose(id, at, message, weight);
        if self.len == 0 {
            self.front_at = at;
        }
        self.len += 1;
        self.bytes += u64::from(weight);
        true
    }

    /// The chunk that the message which comes now is put into.
    #[inline]
    fn last(
        &mut self,
        id: u64,
        at: i64,
        spare: impl FnOnce() -> Option<Box<Chunk<A, P>>>,
    ) -> &mut Chunk<A, P> {
        if !self.chunks.back().is_some_and(|chunk| chunk.takes_more()) {
            let chunk = match spare() {
                Some(mut chunk) => {
                    chunk.open_again(at, id);
                    chunk
                }
                None => Box::new(Chunk::open_behind(
                    self.chunks.back().map(|last| &**last),
                    at,
                    id,
                )),
            };
            self.chunks.push_back(chunk);
        }
        self.chunks.back_mut().expect("there is one, just pushed")
    }

    /// Adds a message that was stored in a segment of its own before.
    pub fn push_stored(&mut self, entry: Entry<P>, segment: Segment<A>) {
        let mut chunk = Box::new(Chunk::of(segment, entry.id));
        chunk.sealed = true;
        chunk.push(entry);
        // What was the last chunk may be empty, and is no longer the last.
        if self.chunks.back().is_some_and(|last| last.held == 0) {
            self.chunks.pop_back();
        }
        self.chunks.push_back(chunk);
        self.count(&entry);
    }

    /// Puts a message in that was stored in a segment of its own, and that had been handed to a worker past
    /// all that waited: it is older than any that is here, but for others of its kind.
    pub fn put_back(&mut self, entry: Entry<P>, segment: Segment<A>) -> Place {
        let mut own = Box::new(Chunk::of(segment, entry.id));
        own.sealed = true;
        own.push(entry);
        let chunk = self.chunks.partition_point(|chunk| chunk.first < entry.id);
        self.chunks.insert(chunk, own);
        self.count(&entry);
        self.see_front();
        Place { chunk, index: 0 }
    }

    /// Lends the first chunk to a worker, with all that is in it: if all of it is loose, and if that is no less than
    /// `least` or more is behind it.
    pub(super) fn lend(&mut self, least: usize) -> Option<Box<Chunk<A, P>>> {
        let first = self.chunks.front()?;
        if !first.lendable || !self.lends_enough(least) || first.held == 0 {
            return None;
        }
        let chunk = self.chunks.pop_front()?;
        self.len -= chunk.held;
        self.bytes -= chunk.bytes;
        self.see_front();
        Some(chunk)
    }

    /// Whether the first chunk may be lent, if there is one.
    pub(super) fn lends(&self) -> bool {
        self.chunks.front().is_none_or(|first| first.lendable)
    }

    /// Whether no less than `least` are in that one, or more are behind it, which may be such that somebody waits for them.
    pub(super) fn lends_enough(&self, least: usize) -> bool {
        let held = self.chunks.front().map_or(0, |first| first.held);
        held >= least || held < self.len
    }

    /// A chunk that was lent comes back. If it is not `lendable` from now on, its messages are taken one by one: there are not
    /// enough for all that look for some.
    pub(super) fn take_back(&mut self, mut chunk: Box<Chunk<A, P>>, lendable: bool) {
        (chunk.sealed, chunk.lendable) = (true, lendable);
        self.len += chunk.held;
        self.bytes += chunk.bytes;
        let place = self
            .chunks
            .partition_point(|other| other.first < chunk.first);
        self.chunks.insert(place, chunk);
        self.see_front();
    }

    fn see_front(&mut self) {
        let front = self.front().and_then(|front| self.get(front));
        self.front_at = front.map_or(i64::MAX, |(entry, _)| entry.at);
    }

    fn count(&mut self, entry: &Entry<P>) {
        if self.len == 0 {
            self.front_at = entry.at;
        }
        self.len += 1;
        self.bytes += u64::from(entry.weight);
        self.called += usize::from(entry.caller.is_some());
        self.untold += usize::from(entry.patience == Patience::Untold);
        if entry.due != i64::MAX {
            self.timed.insert((entry.due, entry.id));
        }
    }

    /// The oldest.
    pub fn front(&self) -> Option<Place> {
        (self.len > 0).then_some(Place { chunk: 0, index: 0 })
    }

    /// The newest.
    pub fn back(&self) -> Option<Place> {
        if self.len == 0 {
            return None;
        }
        let last = self.chunks.len() - 1;
        let chunk = if self.chunks[last].held > 0 {
            last
        } else {
            last - 1
        };
        let index = self.chunks[chunk].entries.len() - 1;
        Some(Place { chunk, index })
    }

    /// The one of this id.
    pub fn find(&self, id: u64) -> Option<Place> {
        let after = self.chunks.partition_point(|chunk| chunk.first <= id);
        let chunk = after.checked_sub(1)?;
        let index = self.chunks[chunk].entries.first_from(id);
        let place = Place { chunk, index };
        let (entry, _) = self.get(place)?;
        (entry.id == id).then_some(place)
    }

    /// The message at a place, with the arena it lies in.
    pub fn get(&self, place: Place) -> Option<(Entry<P>, &A)> {
        let chunk = self.chunks.get(place.chunk)?;
        Some((chunk.get(place.index)?, chunk.arena()))
    }

    /// Takes a message out, and its chunk with it if nothing is left there.
    pub fn remove(&mut self, place: Place) -> Option<Left<A, P>> {
        let chunk = self.chunks.get_mut(place.chunk)?;
        let entry = chunk.remove(place.index)?;
        let was_front = place.chunk == 0 && place.index == 0;
        let last = place.chunk + 1 == self.chunks.len();
        let chunk = &self.chunks[place.chunk];
        let gone = if chunk.held == 0 && (!last || chunk.is_spent()) {
            self.chunks.remove(place.chunk)
        } else {
            None
        };
        self.len -= 1;
        self.bytes -= u64::from(entry.weight);
        self.called -= usize::from(entry.caller.is_some());
        self.untold -= usize::from(entry.patience == Patience::Untold);
        if entry.due != i64::MAX {
            self.timed.remove(&(entry.due, entry.id));
        }
        if was_front {
            self.see_front();
        }
        Some((entry, gone))
    }

    /// The earliest deadline that a message has of its own, and that message.
    pub fn first_due(&self) -> Option<(i64, Place)> {
        let &(due, id) = self.timed.first()?;
        self.find(id).map(|place| (due, place))
    }

    /// Notes of patient callers that have waited since then or longer that they have been told, and has `tell` do so: looks at up to
    /// `count` messages, and at each once, as long as they are old enough. Whether to go on.
    pub(super) fn tell(
        &mut self,
        until: i64,
        count: usize,
        mut tell: impl FnMut(&A, &Entry<P>),
    ) -> bool {
        let after = self.told_to;
        let first = self.chunks.partition_point(|chunk| chunk.first <= after);
        let chunks = self.chunks.range_mut(first.saturating_sub(1)..);
        let mut left = count;
        for chunk in chunks {
            let Chunk {
                segment, entries, ..
            } = &mut **chunk;
            for index in entries.first_from(after + 1)..entries.len() {
                if left == 0 || self.untold == 0 {
                    return self.untold > 0;
                }
                left -= 1;
                let entry = entries.get(index, segment);
                if entry.is_some_and(|entry| entry.at > until) {
                    return false;
                }
                if let Some(entry) = entries.get_mut(index) {
                    if entry.patience.tell() {
                        self.untold -= 1;
                        tell(segment.arena(), entry);
                    }
                }
                self.told_to = entries.id(index).unwrap_or(self.told_to);
            }
        }
        false
    }

    /// Up to `count` messages with an id of at least `from`, in order: id and caller.
    pub fn callers(&self, from: u64, count: usize) -> Vec<(u64, Option<P>)> {
        let first = self.chunks.partition_point(|chunk| chunk.first <= from);
        let chunks = self.chunks.range(first.saturating_sub(1)..);
        chunks
            .flat_map(|chunk| {
                let from = chunk.entries.first_from(from);
                (from..chunk.entries.len()).filter_map(|index| chunk.get(index))
            })
            .take(count)
            .map(|entry| (entry.id, entry.caller))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Count(usize);

    impl Arena for Count {
        fn new() -> Self {
            Self::default()
        }

        fn copy_from(&mut self, _other: &Self, _index: usize) {
            self.0 += 1;
        }

        fn clear(&mut self) -> bool {
            self.0 = 0;
            true
        }

        fn len(&self) -> usize {
            self.0
        }
    }

    fn entry(id: u64, weight: u32) -> Entry<u8> {
        Entry {
            id,
            at: 0,
            due: i64::MAX,
            caller: None,
            message: 0,
            reply: None,
            weight,
            alone: false,
            loose: false,
            patience: Patience::Own,
        }
    }

    fn push(waiting: &mut Waiting<Count, u8>, id: u64, weight: u32) {
        waiting.push(
            entry(id, weight),
            || None,
            |segment| {
                let at = segment.arena().len();
                segment.push(weight, |arena| arena.0 += 1);
                (at as u32, None)
            },
        );
    }

    fn remove(waiting: &mut Waiting<Count, u8>, id: u64) -> bool {
        let place = waiting.find(id);
        place.and_then(|place| waiting.remove(place)).is_some()
    }

    #[test]
    fn gaps_go_with_their_chunk() {
        let mut waiting = Waiting::default();
        (0..600).for_each(|id| push(&mut waiting, id, 1));
        assert_eq!(waiting.chunks.len(), 3);
        for id in 256..512 {
            assert!(remove(&mut waiting, id));
            assert!(!remove(&mut waiting, id));
        }
        assert_eq!(
            (waiting.chunks.len(), waiting.len(), waiting.bytes()),
            (2, 344, 344)
        );
        for id in (0..256).rev().chain(512..600) {
            assert!(remove(&mut waiting, id));
        }
        assert!(waiting.is_empty() && waiting.chunks.len() <= 1);
        assert!(waiting.front().is_none() && waiting.back().is_none());
    }

    #[test]
    fn memory_of_what_left_does_not_grow() {
        let mut waiting = Waiting::default();
        for id in 0..10_000 {
            push(&mut waiting, id, 100);
            let back = waiting.back().expect("one was just pushed");
            assert_eq!(waiting.remove(back).expect("it is there").0.id, id);
            assert!(waiting.chunks.len() <= 1);
            let kept = waiting
                .chunks
                .front()
                .map_or(0, |chunk| chunk.segment.bytes());
            assert!(kept <= Chunk::<Count, u8>::IDLE_BYTES);
        }
    }

    #[test]
    fn a_chunk_that_was_cleared_is_as_good_as_new() {
        let mut waiting = Waiting::default();
        let loose = |id| Entry {
            loose: true,
            patience: Patience::Own,
            ..entry(id, 1)
        };
        let store = |segment: &mut Segment<Count>| {
            let at = segment.arena().len();
            segment.push(1, |arena| arena.0 += 1);
            (at as u32, None)
        };
        let mut spare = None;
        for round in 0..10 {
            for id in 10 * round..10 * round + 10 {
                waiting.push(loose(id), || spare.take(), store);
            }
            let mut chunk = waiting.lend(1).expect("all of it is loose");
            let ids: Vec<u64> = std::iter::from_fn(|| chunk.pop().map(|entry| entry.id)).collect();
            assert_eq!(ids, Vec::from_iter(10 * round..10 * round + 10));
            assert_eq!((chunk.arena().len(), chunk.bytes()), (10, 0));
            assert!(chunk.clear() && chunk.arena().len() == 0);
            spare = Some(chunk);
        }
        // What has come back from a worker is lent no more, but may be cleared.
        waiting.push(loose(200), || spare.take(), store);
        assert!(spare.is_none() && waiting.find(200).is_some());
        let lent = waiting.lend(1).expect("it is loose");
        waiting.take_back(lent, false);
        assert!(!waiting.lends() && waiting.lend(1).is_none());
        push(&mut waiting, 201, 1);
        assert!(remove(&mut waiting, 200) && remove(&mut waiting, 201));
    }

    #[test]
    fn one_that_was_refused_is_in_nobodys_way() {
        let mut waiting: Waiting<Count, u8> = Waiting::default();
        assert!(!waiting.push_loose(1, 0, || None, |_| None));
        let mut segment = Segment::open(0);
        segment.push(1, |arena: &mut Count| arena.0 += 1);
        waiting.put_back(entry(2, 1), segment);
        let front = waiting.front().and_then(|front| waiting.get(front));
        assert_eq!(front.map(|(entry, _)| entry.id), Some(2));
        assert!(waiting.push_loose(3, 0, || None, |_| Some(1)));
        assert!(remove(&mut waiting, 2) && remove(&mut waiting, 3));
        assert!(waiting.is_empty());
    }

    #[test]
    fn callers_are_told_once_in_order_a_few_at_a_time() {
        let mut waiting = Waiting::default();
        let patient = |id: u64, at| Entry {
            at,
            patience: Patience::Untold,
            ..entry(id, 1)
        };
        let store = |segment: &mut Segment<Count>| {
            segment.push(1, |arena| arena.0 += 1);
            (0, None)
        };
        // Every third has nobody who waits, and they lie in several chunks.
        for id in 1..=900 {
            match id % 3 {
                0 => push(&mut waiting, id, 1),
                _ => waiting.push(patient(id, id as i64), || None, store),
            }
        }
        let tell = |waiting: &mut Waiting<Count, u8>, until| {
            let mut told = Vec::new();
            let more = waiting.tell(until, 32, |_, entry| told.push(entry.id));
            (told, more)
        };
        let called =
            |ids: std::ops::RangeInclusive<u64>| Vec::from_iter(ids.filter(|id| id % 3 > 0));
        assert_eq!(tell(&mut waiting, 0), (vec![], false));
        assert_eq!(tell(&mut waiting, 10), (called(1..=10), false));
        // What leaves leaves no gap: who comes behind is told all the same, and nobody twice.
        (8..=21).for_each(|id| assert!(remove(&mut waiting, id)));
        assert_eq!(tell(&mut waiting, 40), (called(22..=40), false));
        let (told, more) = tell(&mut waiting, 899);
        assert_eq!((told, more), (called(41..=72), true));
        let mut all = Vec::new();
        let mut more = true;
        while more {
            let told;
            (told, more) = tell(&mut waiting, 899);
            assert!(told.len() <= 32);
            all.extend(told);
        }
        assert_eq!(all, called(73..=899));
        assert_eq!(waiting.untold(), 0);
        // One that comes when all have been told, and one that nobody has come for.
        waiting.push(patient(901, 950), || None, store);
        assert_eq!(tell(&mut waiting, 949), (vec![], false));
        assert_eq!(waiting.untold(), 1);
        assert_eq!(tell(&mut waiting, 950), (vec![901], false));
        waiting.push(patient(902, 951), || None, store);
        assert!(remove(&mut waiting, 902));
        assert_eq!(waiting.untold(), 0);
    }

    #[test]
    fn one_with_messages_in_it_is_not_cleared() {
        let mut chunk: Chunk<Count, u8> = Chunk::of(Segment::open(0), 1);
        chunk.push(entry(1, 1));
        assert!(!chunk.clear());
        assert_eq!(chunk.pop().map(|entry| entry.id), Some(1));
        assert!(chunk.clear());
    }

    #[test]
    fn one_that_came_in_a_segment_of_its_own_leaves_with_it() {
        let mut waiting = Waiting::default();
        push(&mut waiting, 1, 1);
        assert!(remove(&mut waiting, 1));
        let mut segment = Segment::open(0);
        segment.push(9_999, |arena: &mut Count| arena.0 += 1);
        waiting.push_stored(entry(2, 9_999), segment);
        push(&mut waiting, 3, 1);
        let front = waiting.front().expect("two are there");
        let (entry, chunk) = waiting.remove(front).expect("it is there");
        assert_eq!(entry.id, 2);
        assert_eq!(chunk.expect("it was alone").arena().len(), 1);
        assert!(waiting.find(3).is_some());
    }

    #[test]
    fn one_that_comes_back_is_where_it_would_have_been() {
        let stored = || {
            let mut segment = Segment::open(0);
            segment.push(1, |arena: &mut Count| arena.0 += 1);
            segment
        };
        let mut waiting = Waiting::default();
        push(&mut waiting, 1, 1);
        assert!(remove(&mut waiting, 1));
        // 2, 3 and 5 are handed over, into an empty chunk come 4 and 6.
        push(&mut waiting, 4, 1);
        waiting.put_back(entry(3, 1), stored());
        waiting.put_back(entry(2, 1), stored());
        assert!(remove(&mut waiting, 4));
        waiting.put_back(entry(5, 1), stored());
        push(&mut waiting, 6, 1);
        for id in [2, 3, 5, 6] {
            assert!(waiting.find(id).is_some(), "{id}");
        }
        let callers: Vec<u64> = waiting.callers(3, 9).iter().map(|(id, _)| *id).collect();
        assert_eq!(callers, [3, 5, 6]);
        for id in [2, 3, 5, 6] {
            let front = waiting.front().expect("some are there");
            assert_eq!(waiting.remove(front).expect("it is there").0.id, id);
        }
        assert!(waiting.is_empty() && waiting.back().is_none());
    }
}
