//! A `Partition` and the room of its buffer against a plain model of them: deques and a handful of numbers.
//!
//! Properties, each checked after every step of a run (one thread; what needs several is in
//! `tests/models`):
//!
//! 1. Every answer, and every figure of `stats`, is the model's: `high_water` is the most that was ever
//!    held, `bytes` the weight of what is held, `oldest` the segment of the first entry held.
//! 2. `accepted = processed + discarded + queued + in flight`, after a write that unwinds too.
//! 3. Entries are handed out in the order in which they came. A batch that is tried again is the same one
//!    in all but the attempt and what of it has been processed; its halves are parts of it, and all of it.
//!    Only the owner gets any, and nobody while the partition is paused.
//! 4. A closed partition refuses writes and changes in nothing else; an admitted write still enters.
//! 5. `settle` counts the batch in flight as processed if its processor had returned; it discards it if it is
//!    not to be tried again, and no other entry; what has
//!    expired is what came before the moment; `discard_rest` discards all there is; each is to be reported
//!    once. `take_all` discards the batch in flight and leaves nothing: entries keep their order, and
//!    counters their values, in the partition that gets them.
//! 6. Memory: an arena with an entry that is held exists. Of those with none, fewer than 4096 wait to be
//!    handed to `retired`, and none once the draining generation is empty. In the end every arena that
//!    was made is in there, but for those of a partition that was replaced; dropped with it, none is
//!    left.
//! 7. While a batch is read, figures and the state of the drain can be asked for, and a swap returns.
//! 8. While there is a limit, what is taken of it is what is held and the credits that were taken under it,
//!    whatever was written, dropped, evicted, tried in part, given up or unwound. A write that takes
//!    room never leaves more than the limit, or than there was. What is evicted for a write is the oldest,
//!    no more than it takes, and nothing if that would not do.
//! 9. Nobody waits for room while there is room for the first one, if those are served of whom `After`, or
//!    what gave room back, says that they wait.
//! 10. Who awaits entries is told in the step in which the last of them leaves, once, and of a loss if and
//!     only if one of them was given up.
//! 11. What is kept is what was given up while that was wanted, and is handed out once.
//! 12. One is told that it is time in the step that makes it so, once until the next swap; and of dropped
//!     entries, once until it has asked.

use std::collections::VecDeque;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};

use crate::ledger::{self, Ints};
use crate::partition_model::{
    values, weigh, Awaiting, Call, Entry, InFlight, Kept, Model, Owner, Piece, Taken,
};
use crate::partition_ops::{op, Limits, Op};
use buffer_core::{
    After, Arena, Batch, Buffer, Closed, Credit, Generation, NoRoom, NotOwner, Policy, Queue,
    Reason, Retired, Rows, Settled, Size, Turn, Wait, Waiters, Wanted, Watched, Written,
};
use proptest::prelude::*;
use proptest::sample::Index;

type Next = buffer_core::Next<(Batch, Vec<u64>)>;

struct Run {
    buffer: Buffer<Queue<Ints>, Owner>,
    waiters: Waiters<u64>,
    model: Model,
    after: After<Ints, Owner>,
    // Whether arenas were dropped on the way: by this test after each step, as the library does it, with
    // a partition that was replaced, with what was kept, or under a write that unwound.
    drops: bool,
    dropped: bool,
    // One more for each entry: the value of the entry and the moment at which it came.
    clock: u64,
    token: u64,
}

// Of values in arenas of what was given up.
const KEPT: u64 = 1 << 63;

/// Pushes so many entries, valued from `clock` on, to a queue whose last entry is this one.
fn push(
    queue: &mut Queue<Ints>,
    last: Option<Entry>,
    clock: u64,
    count: usize,
    weight: u32,
) -> VecDeque<Entry> {
    let mut opened = last.map_or(0, |entry| entry.opened);
    let entries = (clock..clock + count as u64).map(|value| {
        let now = || {
            opened = value as i64;
            opened
        };
        queue.push(weight, now, |arena| arena.store(value));
        Entry {
            value,
            weight,
            opened,
            place: 0,
            done: false,
        }
    });
    entries.collect()
}

fn read(queue: &Queue<Ints>, count: usize) -> Vec<u64> {
    let pieces = queue.pieces(0, count);
    pieces
        .flat_map(|(arena, range)| arena.load(range).to_vec())
        .collect()
}

/// The entries of a batch that are to be processed.
fn read_batch(queue: &Queue<Ints>, batch: &Batch) -> Vec<u64> {
    let all = read(queue, batch.len);
    match &batch.pending {
        None => all,
        Some(pending) => pending.iter().map(|index| all[*index as usize]).collect(),
    }
}

fn keep_rows(queue: &Queue<Ints>, count: usize, arena: &mut Ints) {
    read(queue, count)
        .iter()
        .for_each(|value| arena.store(value | KEPT));
}

fn keep_batch(queue: &Queue<Ints>, batch: &Batch) -> Option<Ints> {
    let mut arena = Ints::new();
    read_batch(queue, batch)
        .iter()
        .for_each(|value| arena.store(value | KEPT));
    Some(arena)
}

fn unwinding() {
    resume_unwind(Box::new("unwinding"));
}

fn size_of(count: usize, weight: u32) -> Size {
    Size {
        entries: count,
        bytes: count as u64 * u64::from(weight),
    }
}

impl Run {
    fn new(drops: bool) -> Self {
        Run {
            buffer: Buffer::new(1),
            waiters: Waiters::default(),
            model: Model::default(),
            after: After::default(),
            drops,
            dropped: drops,
            clock: 0,
            token: 0,
        }
    }

    fn step(&mut self, op: &Op) {
        let (partition, model, clock) = (&self.buffer.partitions()[0], &mut self.model, self.clock);
        let (capacity, after) = (self.buffer.capacity(), &mut self.after);
        let rows = Rows {
            copy: model.keeps.then_some(&keep_rows as _),
            now: || 0,
        };
        let keep = |queue: &Queue<Ints>, batch: &Batch| {
            model.keeps.then(|| keep_batch(queue, batch)).flatten()
        };
        match *op {
            Op::Write(count, weight, more) => {
                let last = model.live.back().copied();
                let size = size_of(count + more, weight);
                let written = partition.open().map(|open| {
                    assert_eq!(open.is_limited(), model.limit.is_some());
                    // Two ways of the same, where there is no limit.
                    if model.limit.is_none() && count > 0 && weight % 2 == 0 {
                        return open.append(|live| Ok(push(live, last, clock, count, weight)));
                    }
                    open.write(after, |live, room| {
                        assert_eq!(room.is_unlimited(), model.limit.is_none());
                        room.take(size)?;
                        Ok::<_, NoRoom>(push(live, last, clock, count, weight))
                    })
                });
                self.wrote(written, |model| model.take(size).map(|()| Size::default()));
            }
            Op::WriteInPlace(count, weight) => {
                let last = model.live.back().copied();
                let size = size_of(count, weight);
                let written = partition.write(after, |live, room| {
                    room.take_in_place(live, size, &rows)?;
                    let last = last.filter(|_| !live.is_empty());
                    Ok::<_, NoRoom>(push(live, last, clock, count, weight))
                });
                self.wrote(written, |model| model.take_in_place(size));
            }
            Op::DropNew(count, weight) => {
                let values: Vec<u64> = (0..count as u64).map(|n| clock + n).collect();
                let keep = |arena: &mut Ints| values.iter().for_each(|v| arena.store(v | KEPT));
                let keep = (model.keeps && count > 0).then_some(keep);
                let size = size_of(count, weight);
                let dropped = partition.drop_new(size, keep).map(|written| written.signal);
                if model.closed {
                    assert!(dropped.is_err());
                } else if count > 0 {
                    assert_eq!(dropped, Ok(model.drop_new(size, &values)));
                } else {
                    model.overflow += size;
                    assert_eq!(dropped, Ok(model.signal()));
                }
                self.clock += count as u64;
            }
            Op::Evict(size) => {
                let evicted = partition.evict(size, &rows, after);
                let expected = if model.limit.is_none() || model.closed {
                    (Size::default(), None)
                } else {
                    (model.evict(size), model.signal())
                };
                assert_eq!(evicted, expected);
            }
            Op::Admit(count, weight, with) => self.admit(count, weight, with, false),
            Op::AdmitAwaited(count, weight, with) => self.admit(count, weight, with, true),
            Op::Unwind(count) => {
                let last = model.live.back().copied();
                let mut entries = VecDeque::new();
                let unwound = catch_unwind(AssertUnwindSafe(|| {
                    partition.write_admitted(&mut Credit::NONE.clone(), after, |live| {
                        entries = push(live, last, clock, count, 1);
                        live.push(1, || 0, |_| unwinding());
                    });
                }));
                assert!(unwound.is_err());
                self.unwound(entries);
            }
            Op::UnwindInPlace(count, more) => {
                let last = model.live.back().copied();
                let mut entries = VecDeque::new();
                let mut taken = Err(NoRoom::Full);
                let unwound = catch_unwind(AssertUnwindSafe(|| {
                    let _ = partition.write(after, |live, room| {
                        taken = room.take_in_place(live, size_of(count + more, 1), &rows);
                        if taken.is_ok() {
                            let last = last.filter(|_| !live.is_empty());
                            entries = push(live, last, clock, count, 1);
                        }
                        unwinding();
                    });
                }));
                assert_eq!(unwound.is_ok(), model.closed);
                if unwound.is_err() {
                    let evicted = model.take_in_place(size_of(count + more, 1));
                    assert_eq!(taken, evicted.map(|_| ()));
                    model.evict(evicted.unwrap_or_default());
                    self.unwound(entries);
                }
            }
            Op::Credit(size) => {
                let taken = capacity.take(size);
                assert_eq!(
                    taken.map(|credit| credit.size),
                    model.take(size).map(|()| size)
                );
                let counts = model.limit.is_some();
                model
                    .credits
                    .extend(taken.map(|credit| Taken { credit, counts }));
            }
            Op::Cancel(which) => {
                if !model.credits.is_empty() {
                    let taken = model.credits.swap_remove(which.index(model.credits.len()));
                    let waits = capacity.cancel(taken.credit);
                    assert_eq!(waits, !model.waiters.is_empty());
                    after.room |= waits;
                }
            }
            Op::SetLimit(limit) => {
                if model.limit.is_none() {
                    model
                        .credits
                        .iter_mut()
                        .for_each(|taken| taken.counts = false);
                }
                model.limit = limit;
                let waits = self.buffer.set_limit(limit);
                assert_eq!(waits, !model.waiters.is_empty());
                after.room |= waits;
                assert_eq!(capacity.limit(), limit);
            }
            Op::Wait(size) => {
                self.token += 1;
                let expected = model.take(size);
                match self.waiters.wait(capacity, size, self.token) {
                    Wait::Taken(_, credit) => {
                        assert_eq!(expected, Ok(()));
                        let counts = model.limit.is_some();
                        model.credits.push(Taken { credit, counts });
                    }
                    Wait::Waits(ticket) => {
                        assert_eq!(expected, Err(NoRoom::Full));
                        model.waiters.push_back((ticket, size));
                    }
                    other => assert_eq!((other, expected), (Wait::TooLarge, Err(NoRoom::TooLarge))),
                }
            }
            Op::GiveUp(which) => {
                if !model.waiters.is_empty() {
                    let place = which.index(model.waiters.len());
                    let gone = model.waiters.remove(place).expect("it is one of them");
                    assert!(self.waiters.give_up(capacity, gone.0).is_some());
                    assert!(self.waiters.give_up(capacity, gone.0).is_none());
                    after.room = true;
                }
            }
            Op::Arm(owner, trigger) => {
                (model.notify, model.trigger) = (Some(owner), Some(trigger));
                (model.signaled, model.overflow_signaled) = (model.is_due(), false);
                assert_eq!(partition.arm(owner, trigger), model.signaled);
            }
            Op::Swap(part) => {
                model.swap(part, clock as i64);
                assert_eq!(partition.swap(part, || clock as i64), model.to_drain());
            }
            Op::Claim(owner) => {
                let free = model.is_free_for(owner);
                let expected = if free { Ok(()) } else { Err(NotOwner) };
                assert_eq!(partition.claim(owner), expected);
                if free {
                    model.owner = Some(owner);
                }
            }
            Op::Next(owner, limits) => {
                self.next(owner, limits);
            }
            Op::Finish(owner, limits) => {
                let limits = Limits(limits.0.max(8), limits.1.max(1_000_000), limits.2);
                while self.next(owner, limits) {}
            }
            Op::Done(owner) => {
                let done = partition.done(owner, after);
                if model.is_free_for(owner) {
                    model.settle_done(owner);
                    assert_eq!(done, Ok(model.to_drain()));
                } else {
                    assert_eq!(done, Err(NotOwner));
                }
            }
            Op::Returned(owner) => {
                let returned = partition.returned(owner, || clock as i64);
                if model.is_free_for(owner) {
                    assert_eq!(returned, Ok(()));
                    model.set_call(Call::Returned);
                    if let Some(batch) = &mut model.in_flight {
                        batch.started_at = clock as i64;
                    }
                } else {
                    assert_eq!(returned, Err(NotOwner));
                }
            }
            Op::TimeOut(timeout) => {
                let watched = partition.time_out(timeout, 2 * timeout, || clock as i64);
                let expected = match model.in_flight {
                    None => Watched::Nothing,
                    Some(batch) => {
                        let may_take = match batch.call {
                            Call::Runs => timeout,
                            Call::Returned => 2 * timeout,
                            Call::Ended => 0,
                        };
                        let left = may_take - (clock as i64 - batch.started_at);
                        if left > 0 && batch.call != Call::Ended {
                            Watched::Left(left)
                        } else {
                            if batch.call == Call::Runs {
                                model.set_call(Call::Ended);
                            }
                            Watched::Overdue
                        }
                    }
                };
                assert_eq!(watched, expected);
            }
            Op::Fail(owner, reason) => {
                let free = model.is_free_for(owner);
                let expected = if free { Ok(()) } else { Err(NotOwner) };
                assert_eq!(partition.fail(owner, reason), expected);
                if free {
                    model.failed = model.in_flight.map(|_| reason);
                    model.set_call(Call::Runs);
                }
            }
            Op::FailSome(owner, bits) => {
                let failed = (0..values(model.batch()).len()).filter(|n| bits >> (n % 64) & 1 == 1);
                self.fail_some(owner, failed.map(|n| n as u32).collect());
            }
            Op::FailPartly(bits, reason) => {
                let all = Limits(usize::MAX, u64::MAX, None);
                for op in [
                    Op::Swap(None),
                    Op::Next(1, all),
                    Op::FailSome(1, bits),
                    Op::Settle(reason, 0, false),
                ] {
                    self.step(&op);
                    self.check();
                }
            }
            Op::FailSomeOthers(owner, ref failed) => self.fail_some(owner, failed.clone()),
            Op::Settle(reason, max_retries, split) => {
                let policy = Policy { max_retries, split };
                let (len, batch) = (values(model.batch()).len(), model.in_flight);
                let settled = partition.settle(reason, policy, &keep, after);
                if model.call() == Some(Call::Returned) {
                    assert_eq!(settled, Settled::Processed(len));
                    model.settle_done(1);
                    model.owner = None;
                    return;
                }
                let expected = match model.settle(reason, policy) {
                    None => Settled::Nothing,
                    Some(Ok(discarded)) => Settled::Discarded(discarded),
                    Some(Err(halved)) => {
                        let attempts = batch.map_or(0, |batch| batch.attempt);
                        Settled::Again {
                            attempts,
                            len,
                            halved,
                        }
                    }
                };
                assert_eq!(settled, expected);
            }
            Op::Pause(paused) => {
                partition.pause(paused);
                model.paused = paused;
            }
            Op::Await(newest) => {
                self.token += 1;
                let (awaits, after) = if newest {
                    let first = model.live.front().map_or(0, |entry| entry.place - 1);
                    (partition.await_newest(1, self.token), first)
                } else {
                    (partition.await_all(1, self.token), 0)
                };
                assert_eq!(awaits, model.held().entries > 0);
                if awaits {
                    let (owner, token, last) = (1, self.token, model.place);
                    model.awaiting.push(Awaiting {
                        owner,
                        token,
                        after,
                        last,
                        lost: None,
                    });
                }
            }
            Op::AwaitNoMore(which) => {
                if !model.awaiting.is_empty() {
                    let gone = model.awaiting.remove(which.index(model.awaiting.len()));
                    assert!(partition.await_no_more(gone.token));
                    assert!(!partition.await_no_more(gone.token));
                }
            }
            Op::Keep(keeps) => model.keeps = keeps,
            Op::NextKept => {
                let kept = partition.next_kept(|kept| Kept {
                    reason: kept.reason,
                    values: kept
                        .arena
                        .load(0..kept.arena.len())
                        .iter()
                        .map(|v| v & !KEPT)
                        .collect(),
                    places: kept.places,
                    attempts: kept.attempts,
                });
                assert_eq!(kept, model.kept.pop_front());
                self.dropped |= kept.is_some();
                model.told = kept.map_or(0, |kept| kept.values.len());
            }
            Op::Report(count) => {
                model.report_overflow();
                assert_eq!(partition.unreported(), model.unreported);
                partition.reported(count);
                model.unreported.drain(..count.min(model.unreported.len()));
            }
            Op::DiscardRest(reason) => {
                let rest = partition.discard_rest(reason, after);
                if model.call() == Some(Call::Returned) {
                    model.settle_done(1);
                }
                let mut passed = model.passed();
                let held = model.held();
                model.lose_all(reason);
                let some = held.entries > 0;
                let expected = some.then(|| model.discard(reason, held.entries, held.bytes));
                assert_eq!(rest, expected);
                passed.extend(model.passed());
                self.check_passed(passed);
            }
            Op::Close => {
                partition.close();
                model.closed = true;
            }
            Op::Replace => self.replace(),
        }
    }

    /// After a write that was to take room.
    fn wrote(
        &mut self,
        written: Result<Written<Result<VecDeque<Entry>, NoRoom>, Owner>, Closed>,
        take: impl FnOnce(&Model) -> Result<Size, NoRoom>,
    ) {
        let model = &mut self.model;
        assert_eq!(written.is_err(), model.closed);
        let Ok(Written { result, signal, .. }) = written else {
            return;
        };
        let before = model.used();
        let evicted = take(model);
        assert_eq!(result.as_ref().err(), evicted.as_ref().err());
        model.evict(evicted.unwrap_or_default());
        if let Ok(entries) = result {
            self.clock += entries.len() as u64;
            model.add(entries);
        }
        assert_eq!(signal, model.written());
        let limit = model.limit.unwrap_or(Size::UNLIMITED);
        let after = model.used();
        assert!(after.entries <= limit.entries.max(before.entries));
        assert!(after.bytes <= limit.bytes.max(before.bytes));
    }

    fn admit(&mut self, count: usize, weight: u32, with: Option<Index>, awaited: bool) {
        let (partition, model) = (&self.buffer.partitions()[0], &mut self.model);
        let mut staged = Queue::default();
        let entries = push(&mut staged, None, self.clock, count, weight);
        let which = with.filter(|_| !model.credits.is_empty());
        let which = which.map(|index| index.index(model.credits.len()));
        let mut credit = which.map_or(Credit::NONE, |which| model.credits[which].credit);
        let signal = if awaited {
            self.token += 1;
            let (owner, token, after) = (2, self.token, model.place);
            let last = after + count as u64;
            model.awaiting.push(Awaiting {
                owner,
                token,
                after,
                last,
                lost: None,
            });
            let awaited = (owner, token);
            let written = partition.write_awaited(&mut credit, &mut self.after, awaited, |live| {
                let before = live.places().1;
                live.append(staged);
                before..live.places().1
            });
            written.signal
        } else {
            let write = |live: &mut Queue<Ints>| live.append(staged);
            partition
                .write_admitted(&mut credit, &mut self.after, write)
                .signal
        };
        if let (Some(which), Some(_)) = (which, model.limit) {
            // What it does not cover counts all the same, and what is left of it is still taken.
            let taken = &mut model.credits[which];
            let covered = if taken.counts {
                taken.credit.size
            } else {
                Size::default()
            };
            assert_eq!(credit.size, covered - size_of(count, weight));
            *taken = Taken {
                credit,
                counts: true,
            };
        }
        model.add(entries);
        assert_eq!(signal, model.written());
        self.clock += count as u64;
    }

    /// After a write that unwound: the mark is made when a write ends well, here by one of nothing.
    fn unwound(&mut self, entries: VecDeque<Entry>) {
        self.dropped = true;
        self.clock += entries.len() as u64;
        self.model.add(entries);
        self.admit(0, 0, None, false);
    }

    fn fail_some(&mut self, owner: Owner, failed: Vec<u32>) {
        let model = &mut self.model;
        let result = self.buffer.partitions()[0].fail_some(owner, &failed, &mut self.after);
        if !model.is_free_for(owner) {
            assert_eq!(result, Err(NotOwner));
            return;
        }
        let held = values(model.batch()).len() as u32;
        let ascending = failed.windows(2).all(|pair| pair[0] < pair[1]);
        let valid = ascending && failed.last().is_some_and(|last| *last < held);
        assert_eq!(result, Ok(valid));
        if valid {
            model.set_call(Call::Runs);
            let len = model.in_flight.map_or(0, |batch| batch.len);
            let left = model
                .draining
                .iter_mut()
                .take(len)
                .filter(|entry| !entry.done);
            for (place, entry) in left.enumerate() {
                entry.done = !failed.contains(&(place as u32));
                model.processed += u64::from(entry.done);
            }
        }
    }

    /// Whether there is to be asked again.
    fn next(&mut self, owner: Owner, Limits(entries, bytes, age): Limits) -> bool {
        let (partition, model) = (&self.buffer.partitions()[0], &mut self.model);
        let now = self.clock as i64;
        let not_before = age.map(|age| now - age as i64);
        let keeps = model.keeps;
        let keep =
            |queue: &Queue<Ints>, batch: &Batch| keeps.then(|| keep_batch(queue, batch)).flatten();
        let wanted = Wanted {
            entries,
            bytes,
            not_before,
        };
        let read = |drain: &Queue<Ints>, batch: &Batch| {
            // What takes long is done here, and others are answered meanwhile.
            assert_eq!(partition.drain_status(), (Some(owner), Some(batch.clone())));
            assert_eq!(partition.stats().in_flight, batch.held());
            assert_eq!(partition.swap(None, || now), partition.draining());
            assert_eq!(partition.claim(owner), Ok(()));
            (batch.clone(), read_batch(drain, batch))
        };
        let next = partition.next(owner, wanted, || now, &keep, &mut self.after, read);
        if !model.is_free_for(owner) {
            assert_eq!(next, Err(NotOwner));
            return false;
        }
        model.settle_done(owner);
        if model.draining.is_empty() || model.paused {
            let expected = if model.draining.is_empty() {
                Next::Empty
            } else {
                // Whoever goes on may be another one.
                model.owner = None;
                Next::Paused
            };
            assert_eq!(next, Ok(expected));
            return false;
        }
        if let Some(piece) = not_before.and_then(|moment| model.expired(moment)) {
            assert_eq!(next, Ok(Next::Expired));
            let old = model.draining.iter().take(piece.len);
            assert!(old
                .clone()
                .all(|entry| Some(entry.value as i64) < not_before));
            model.pieces.pop_front();
            model.give_up(piece.len, piece.attempt - 1, Reason::Expired);
            return true;
        }
        let piece = model.pieces.pop_front().unwrap_or_else(|| {
            let mut sum = 0;
            let within = model
                .draining
                .iter()
                .take(entries.max(1))
                .take_while(|entry| {
                    let first = sum == 0 && entry.place == model.draining[0].place;
                    sum += u64::from(entry.weight);
                    first || sum <= bytes
                });
            Piece {
                len: within.count(),
                attempt: 1,
            }
        });
        let Piece { len, attempt } = piece;
        model.in_flight = Some(InFlight {
            len,
            attempt,
            started_at: now,
            call: Call::Runs,
        });
        (model.owner, model.failed) = (Some(owner), None);
        let Ok(Next::Batch((batch, handed))) = next else {
            unreachable!("{next:?} instead of a batch");
        };
        assert_eq!(handed, values(model.batch()));
        assert_eq!(batch.held(), handed.len());
        self.check_batch(Some(batch));
        true
    }

    fn check_batch(&self, batch: Option<Batch>) {
        let model = &self.model;
        let shape = |batch: Batch| {
            let Batch {
                first,
                last,
                len,
                bytes,
                attempt,
                started_at,
                ..
            } = batch;
            (first, last, len, bytes, attempt, started_at)
        };
        let expected = model.in_flight.map(
            |InFlight {
                 len,
                 attempt,
                 started_at,
                 ..
             }| {
                let (first, last) = (model.draining[0].place, model.draining[len - 1].place);
                (first, last, len, weigh(model.batch()), attempt, started_at)
            },
        );
        assert_eq!(batch.map(shape), expected);
    }

    fn replace(&mut self) {
        self.step(&Op::Close);
        let mut model = std::mem::take(&mut self.model);
        let old = std::mem::replace(&mut self.buffer, Buffer::new(1));
        let (partition, after) = (&old.partitions()[0], &mut self.after);
        let (all, legacy) = partition.take_all(after);
        // Nobody is told of it: whoever would be had the old one.
        let keeps = std::mem::take(&mut model.keeps);
        if model.call() == Some(Call::Returned) {
            model.settle_done(1);
        }
        model.settle(Reason::Killed, Policy::ONCE);
        let mut passed = model.passed();
        model.keeps = keeps;
        model.report_overflow();
        let lens = [model.draining.len(), model.live.len()];
        assert_eq!(all.each_ref().map(Generation::len), lens);
        self.dropped = true;

        // Of its room nothing is left but credits.
        let held = model.held();
        let entries: VecDeque<Entry> = model
            .draining
            .drain(..)
            .chain(model.live.drain(..))
            .collect();
        if model.limit.is_some() {
            assert_eq!(old.capacity().used(), model.used());
        }
        self.waiters.close(old.capacity());
        assert_eq!((self.waiters.len(), old.capacity().waiting()), (0, 0));
        self.waiters = Waiters::default();
        after.room = false;
        model.lose_all(Reason::Killed);
        passed.extend(model.passed());
        self.check_passed(passed);
        // All has been taken along; one entry more is no high water.
        let mut rest = After::default();
        let one = |live: &mut Queue<Ints>| push(live, None, 0, 1, 0);
        partition.write_admitted(&mut Credit::NONE.clone(), &mut rest, one);
        let stats = partition.stats();
        assert_eq!((stats.accepted, stats.queued, stats.processed), (1, 1, 0));
        assert_eq!(
            (stats.high_water, stats.retries),
            (model.high_water.max(1), 0)
        );
        assert!(stats.discarded == [0; Reason::ALL.len()] && partition.unreported().is_empty());
        assert!(rest.passed.is_empty() && partition.awaiting() == 0);

        // Entries get new places, behind all that there were. What had been processed of a batch of which the
        // rest was not counts as not processed, since all of it is there again.
        let done = entries.len() - held.entries;
        let fresh = entries.into_iter().map(|entry| Entry {
            done: false,
            ..entry
        });
        self.model = Model {
            accepted: model.accepted - lens.iter().sum::<usize>() as u64,
            processed: model.processed - done as u64,
            retries: model.retries,
            discarded: model.discarded,
            unreported: model.unreported,
            kept: model.kept,
            keeps: model.keeps,
            place: model.place,
            ..Model::default()
        };
        let partition = &self.buffer.partitions()[0];
        partition.inherit(legacy);
        let mut staged = Queue::default();
        all.into_iter()
            .for_each(|generation| staged.append(generation));
        self.model.add(fresh.collect());
        let credit = &mut Credit::NONE.clone();
        partition.write_admitted(credit, &mut self.after, |live| live.append(staged));
        self.model.written();
        self.buffer.set_limit(model.limit);
        self.model.limit = model.limit;
    }

    fn check_passed(&mut self, mut expected: Vec<(Owner, u64, Option<Reason>)>) {
        let passed = self.after.passed.drain(..);
        let mut passed: Vec<_> = passed.map(|one| (one.owner, one.token, one.lost)).collect();
        passed.sort_by_key(|one| one.1);
        expected.sort_by_key(|one| one.1);
        assert_eq!(passed, expected);
    }

    /// Serves those who wait, if somebody said so.
    fn serve(&mut self) {
        let capacity = self.buffer.capacity();
        if std::mem::take(&mut self.after.room) {
            assert!(self.waiters.start(), "one serves at a time, and stops");
            while let Some(turn) = self.waiters.next(capacity) {
                let (_, size) = self.model.waiters.pop_front().expect("nobody else waits");
                let waiters = std::mem::take(&mut self.model.waiters);
                let expected = self.model.take(size);
                self.model.waiters = waiters;
                match turn {
                    Turn::Granted(_, credit) => {
                        assert_eq!((expected, credit.size), (Ok(()), size));
                        let counts = self.model.limit.is_some();
                        self.model.credits.push(Taken { credit, counts });
                    }
                    Turn::TooLarge(_) => assert_eq!(expected, Err(NoRoom::TooLarge)),
                }
            }
        }
        if let Some((_, size)) = self.model.waiters.front() {
            let limit = self.model.limit.unwrap_or(Size::UNLIMITED);
            assert!(
                !(self.model.used() + *size).fits(limit),
                "it waits for nothing"
            );
        }
        assert_eq!(capacity.waiting(), self.model.waiters.len());
        assert_eq!(self.waiters.len(), self.model.waiters.len());
    }

    fn check(&mut self) {
        let passed = self.model.passed();
        self.check_passed(passed);
        self.serve();
        let (partition, model) = (&self.buffer.partitions()[0], &self.model);
        let stats = partition.stats();
        assert_eq!(stats, model.stats(stats.oldest));
        let left = stats.processed + stats.discarded.iter().sum::<u64>();
        assert_eq!(
            stats.accepted,
            left + (stats.queued + stats.in_flight) as u64
        );
        let first = model.draining.front().or(model.live.front());
        assert_eq!(stats.oldest, first.map(|entry| entry.opened));

        assert_eq!(partition.len(), model.live.len());
        assert_eq!(partition.is_empty(), model.live.is_empty());
        assert_eq!(partition.draining(), model.to_drain());
        assert_eq!(partition.is_closed(), model.closed);
        assert_eq!(partition.awaiting(), model.awaiting.len());
        let kept: usize = model.kept.iter().map(|kept| kept.values.len()).sum();
        assert_eq!(partition.kept(), kept + model.told);
        if model.limit.is_some() {
            assert_eq!(self.buffer.capacity().used(), model.used());
        }
        let (owner, batch) = partition.drain_status();
        assert_eq!(owner, model.owner);
        self.check_batch(batch.clone());
        partition.read(|drain, other| {
            let all: Vec<u64> = model.draining.iter().map(|entry| entry.value).collect();
            assert_eq!(read(drain, usize::MAX), all);
            assert_eq!(other, batch.as_ref());
        });
        self.check_memory();
    }

    fn check_memory(&mut self) {
        if self.drops {
            self.after.retired = Retired::default();
        }
        let held = |queue: &Queue<Ints>| {
            let arenas: Vec<usize> = queue
                .pieces(0, usize::MAX)
                .map(|(arena, _)| arena.len())
                .collect();
            (arenas.len(), arenas.iter().sum::<usize>())
        };
        let partition = &self.buffer.partitions()[0];
        let Ok((segments, entries)) = partition.read_live(held) else {
            return;
        };
        let (draining, drained) = partition.read(|drain, _| held(drain));
        let alive = ledger::alive().into_iter();
        let alive: Vec<_> = alive.filter(|page| page.last & KEPT == 0).collect();
        let stored: usize = alive.iter().map(|page| page.len).sum();
        let waiting = stored - entries - drained - self.after.retired.entries();
        assert!(waiting == 0 || !self.model.draining.is_empty());
        assert!(!self.drops || alive.len() - segments - draining < 4096);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..Default::default() })]

    #[test]
    fn agrees_with_a_model(ops in prop::collection::vec(op(), 0..80), drops: bool) {
        let made_before = ledger::created() - ledger::cleared();
        let mut run = Run::new(drops);
        for op in &ops {
            run.step(op);
            run.check();
        }
        run.step(&Op::DiscardRest(Reason::Shutdown));
        run.check();
        assert_eq!(run.buffer.partitions()[0].stats().bytes, 0);
        // All that was ever made is there, and waits to be dropped, but for what was cleared.
        let made = ledger::created() - ledger::cleared() - made_before;
        assert!(run.dropped || ledger::alive().len() == made);
        drop(run);
        assert!(ledger::alive().is_empty());
    }
}
