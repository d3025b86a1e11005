//! What is done to a partition at random.

use buffer_core::{Reason, Size};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::partition_model::Owner;

#[derive(Debug, Clone)]
pub enum Op {
    /// So many entries of this weight, one by one in one call, which takes room for these more.
    Write(usize, u32, usize),
    /// The same in place of the oldest ones.
    WriteInPlace(usize, u32),
    /// Entries for which there is no room are dropped.
    DropNew(usize, u32),
    Evict(Size),
    /// Entries in a queue of their own, through the gate, with one of the credits or without.
    Admit(usize, u32, Option<Index>),
    /// The same, awaited.
    AdmitAwaited(usize, u32, Option<Index>),
    /// A write that unwinds after so many entries, and one that has taken room for more.
    Unwind(usize),
    UnwindInPlace(usize, usize),
    Credit(Size),
    Cancel(Index),
    SetLimit(Option<Size>),
    Wait(Size),
    GiveUp(Index),
    Arm(Owner, Size),
    Swap(Option<usize>),
    Claim(Owner),
    Next(Owner, Limits),
    /// Settles the batch in flight, and starts no other.
    Done(Owner),
    /// `Next` until nothing is left, if this is the owner.
    Finish(Owner, Limits),
    /// The processor has returned from the batch in flight.
    Returned(Owner),
    /// Its call is ended if it has taken so long, or twice that once it has returned.
    TimeOut(i64),
    /// The processor has failed with the batch in flight.
    Fail(Owner, Reason),
    /// With those of it whose bits are set.
    FailSome(Owner, u64),
    /// The same with the next batch, which is given up then, but for what of it has been processed.
    FailPartly(u64, Reason),
    /// With entries that it may not have.
    FailSomeOthers(Owner, Vec<u32>),
    Settle(Reason, u32, bool),
    Pause(bool),
    /// All that is held, or the newest of it: what is not draining yet, if something is not.
    Await(bool),
    AwaitNoMore(Index),
    Keep(bool),
    NextKept,
    /// So many discards have been reported.
    Report(usize),
    DiscardRest(Reason),
    Close,
    /// What is held moves to a partition of the same name, and the run goes on with that one.
    Replace,
}

/// Of a batch: entries, bytes, and how many moments ago they came at the most.
#[derive(Debug, Clone, Copy)]
pub struct Limits(pub usize, pub u64, pub Option<u64>);

fn weight() -> impl Strategy<Value = u32> {
    prop_oneof![6 => 0..200u32, 2 => 100_000..600_000u32, 1 => Just(u32::MAX)]
}

fn count() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 0..4usize, 3 => 0..20usize, 2 => 200..300usize, 1 => 0..900usize]
}

fn limits() -> impl Strategy<Value = Limits> {
    let entries = prop_oneof![4 => 0..40usize, 3 => 100..600usize, 1 => Just(usize::MAX)];
    let bytes = prop_oneof![4 => Just(u64::MAX), 1 => 0..2_000u64, 1 => 0..2_000_000u64];
    let age = prop_oneof![9 => Just(None), 1 => (0..900u64).prop_map(Some)];
    (entries, bytes, age).prop_map(|(entries, bytes, age)| Limits(entries, bytes, age))
}

fn size() -> impl Strategy<Value = Size> {
    let bytes = prop_oneof![3 => 0..4_000u64, 1 => 0..2_000_000u64];
    (count(), bytes).prop_map(|(entries, bytes)| Size { entries, bytes })
}

fn limit() -> impl Strategy<Value = Option<Size>> {
    let entries = prop_oneof![3 => 1..60usize, 2 => 200..900usize, 1 => Just(usize::MAX)];
    let bytes = prop_oneof![3 => Just(u64::MAX), 1 => 500..5_000u64, 1 => 0..9_000_000u64];
    let size = (entries, bytes).prop_map(|(entries, bytes)| Size { entries, bytes });
    prop_oneof![1 => Just(None), 4 => size.prop_map(Some)]
}

fn reason() -> impl Strategy<Value = Reason> {
    prop::sample::select(Reason::ALL.to_vec())
}

// Mostly one owner: with as many strangers as owners hardly any drain would ever finish.
fn owner() -> impl Strategy<Value = Owner> {
    prop_oneof![6 => Just(1), 1 => 2..4u8]
}

pub fn op() -> impl Strategy<Value = Op> {
    let index = || any::<Index>();
    let credit = || prop::option::of(index());
    let entries = || (count(), weight());
    let more = prop_oneof![3 => Just(0), 1 => 0..20usize];
    let writes = prop_oneof![
        10 => (entries(), more).prop_map(|((n, weight), more)| Op::Write(n, weight, more)),
        6 => entries().prop_map(|(n, weight)| Op::WriteInPlace(n, weight)),
        2 => (0..4usize, weight()).prop_map(|(n, weight)| Op::DropNew(n, weight)),
        2 => size().prop_map(Op::Evict),
        4 => (entries(), credit()).prop_map(|((n, weight), with)| Op::Admit(n, weight, with)),
        4 => (entries(), credit()).prop_map(|((n, weight), with)| Op::AdmitAwaited(n, weight, with)),
        1 => (0..5usize).prop_map(Op::Unwind),
        1 => (0..5usize, 0..20usize).prop_map(|(n, more)| Op::UnwindInPlace(n, more)),
    ];
    let room = prop_oneof![
        2 => size().prop_map(Op::Credit),
        2 => index().prop_map(Op::Cancel),
        4 => limit().prop_map(Op::SetLimit),
        2 => size().prop_map(Op::Wait),
        1 => index().prop_map(Op::GiveUp),
    ];
    let drain = prop_oneof![
        8 => prop::option::of(0..400usize).prop_map(Op::Swap),
        2 => owner().prop_map(Op::Claim),
        16 => (owner(), limits()).prop_map(|(owner, limits)| Op::Next(owner, limits)),
        4 => (owner(), limits()).prop_map(|(owner, limits)| Op::Finish(owner, limits)),
        2 => owner().prop_map(Op::Done),
        2 => owner().prop_map(Op::Returned),
        2 => (0..30i64).prop_map(Op::TimeOut),
        2 => (owner(), reason()).prop_map(|(owner, reason)| Op::Fail(owner, reason)),
        4 => (any::<u64>(), reason()).prop_map(|(bits, reason)| Op::FailPartly(bits, reason)),
        4 => (owner(), any::<u64>()).prop_map(|(owner, bits)| Op::FailSome(owner, bits)),
        1 => (owner(), prop::collection::vec(0..30u32, 0..4))
            .prop_map(|(owner, failed)| Op::FailSomeOthers(owner, failed)),
        8 => (reason(), 0..3u32, any::<bool>())
            .prop_map(|(reason, retries, split)| Op::Settle(reason, retries, split)),
        1 => any::<bool>().prop_map(Op::Pause),
    ];
    let others = prop_oneof![
        3 => (owner(), size()).prop_map(|(owner, size)| Op::Arm(owner, size)),
        3 => any::<bool>().prop_map(Op::Await),
        1 => index().prop_map(Op::AwaitNoMore),
        2 => any::<bool>().prop_map(Op::Keep),
        3 => Just(Op::NextKept),
        2 => (0..4usize).prop_map(Op::Report),
        1 => reason().prop_map(Op::DiscardRest),
        1 => Just(Op::Close),
        1 => Just(Op::Replace),
    ];
    prop_oneof![30 => writes, 11 => room, 40 => drain, 15 => others]
}
