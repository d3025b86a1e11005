//! Writers against a swap, and against the close.
//!
//! In every interleaving (see `model.rs` for the bound):
//!
//! 1. What two writers write while a third thread swaps and drains is drained once, and each writer's
//!    entries in the order in which it wrote them.
//! 2. The counters add up in every reading on the way and at the end.
//! 3. Of two swaps at once, neither takes the place of what the other has swapped out.
//! 4. The same holds where only a part of what is live is swapped out.
//! 5. A write that races with the close is either accepted, and then part of what is drained
//!    afterwards, or refused and nowhere.
//! 6. Who awaits an entry is told once, in the step that settles it, beside looks at whether anybody waits.

use crate::model::{
    self, assert_complete, check, drain, next, push, stats, swap, write_admitted, Ints, Part,
};
use buffer_core::{After, Generation as _, Next, Queue, Wanted};
use loom::sync::Arc;
use loom::thread;

#[test]
fn nothing_is_lost_and_nothing_comes_twice() {
    check(|| {
        let partition = Arc::new(Part::default());
        let write = |values: [u8; 2]| {
            let partition = Arc::clone(&partition);
            thread::spawn(move || {
                for value in values {
                    let written = model::write(&partition, value);
                    assert!(written.is_ok());
                }
            })
        };
        let writers = [write([10, 11]), write([20, 21])];

        let mut all = Vec::new();
        swap(&partition);
        all.extend(next(&partition, 1, 2).unwrap_or_default());
        all.extend(next(&partition, 1, 2).unwrap_or_default());
        for writer in writers {
            writer.join().unwrap();
        }
        all.extend(drain(&partition, 1));

        assert_complete(&all, &[&[10, 11], &[20, 21]]);
        let end = stats(&partition);
        assert_eq!((end.accepted, end.processed), (4, 4));
    });
}

#[test]
fn every_reading_adds_up_while_a_writer_and_a_swap_are_at_work() {
    check(|| {
        let partition = Arc::new(Part::default());
        let writer = {
            let partition = Arc::clone(&partition);
            thread::spawn(move || {
                for value in [10, 11] {
                    let written = model::write(&partition, value);
                    assert!(written.is_ok());
                }
            })
        };
        let drainer = {
            let partition = Arc::clone(&partition);
            thread::spawn(move || {
                swap(&partition);
                let first = next(&partition, 1, 1);
                (first, next(&partition, 1, 1))
            })
        };

        let (one, other) = (stats(&partition), stats(&partition));
        assert!(one.accepted <= other.accepted && one.processed <= other.processed);
        assert!(one.high_water <= other.high_water);
        writer.join().unwrap();
        let (first, second) = drainer.join().unwrap();
        let mut all: Vec<u8> = [first, second].into_iter().flatten().flatten().collect();
        stats(&partition);
        all.extend(drain(&partition, 1));
        assert_complete(&all, &[&[10, 11]]);
    });
}

#[test]
fn two_swaps_at_once_lose_nothing() {
    check(|| {
        let partition = Arc::new(Part::default());
        write_admitted(&partition, 10);
        let writer = {
            let partition = Arc::clone(&partition);
            thread::spawn(move || write_admitted(&partition, 11))
        };
        let other = {
            let partition = Arc::clone(&partition);
            thread::spawn(move || swap(&partition))
        };
        let swapped = [swap(&partition), other.join().unwrap()];
        assert!(swapped.iter().all(|len| (1..=2).contains(len)));
        stats(&partition);
        writer.join().unwrap();
        assert_complete(&drain(&partition, 1), &[&[10, 11]]);
    });
}

#[test]
fn a_part_that_is_swapped_out_loses_nothing() {
    check(|| {
        let partition = Arc::new(Part::default());
        write_admitted(&partition, 10);
        write_admitted(&partition, 11);
        let writer = {
            let partition = Arc::clone(&partition);
            thread::spawn(move || write_admitted(&partition, 12))
        };
        let reader = {
            let partition = Arc::clone(&partition);
            thread::spawn(move || stats(&partition))
        };
        let mut all = Vec::new();
        assert_eq!(partition.swap(Some(1), || 0), 1);
        all.extend(next(&partition, 1, 2).unwrap_or_default());
        assert_eq!(all, [10]);
        // The one in flight is settled by the next one.
        assert_eq!(next(&partition, 1, 2), None);
        assert!((1..=2).contains(&partition.swap(Some(2), || 0)));
        reader.join().unwrap();
        writer.join().unwrap();
        all.extend(next(&partition, 1, 9).unwrap_or_default());
        next(&partition, 1, 9);
        all.extend(drain(&partition, 1));
        assert_eq!(all, [10, 11, 12]);
        assert_eq!(stats(&partition).processed, 3);
    });
}

#[test]
fn a_write_that_races_with_the_close_is_in_or_refused() {
    check(|| {
        let partition = Arc::new(Part::default());
        let write = |value: u8| {
            let partition = Arc::clone(&partition);
            thread::spawn(move || {
                let written = model::write(&partition, value);
                written.map_or(0, |()| value)
            })
        };
        let writers = [write(10), write(20)];

        swap(&partition);
        partition.close();
        let all = drain(&partition, 1);
        // Nothing follows the close, so what has been drained by now is all.
        let mut accepted = Vec::new();
        for writer in writers {
            accepted.push(writer.join().unwrap());
        }
        assert!(drain(&partition, 1).is_empty());
        let accepted: Vec<&[u8]> = accepted
            .iter()
            .filter(|value| **value > 0)
            .map(std::slice::from_ref)
            .collect();
        assert_complete(&all, &accepted);
        assert!(partition.is_closed() && stats(&partition).accepted == all.len() as u64);
    });
}

#[test]
fn who_awaits_an_entry_is_told_once_when_it_has_left() {
    check(|| {
        let partition = Arc::new(Part::default());
        assert!(model::write(&partition, 1).is_ok());
        let writer = {
            let partition = Arc::clone(&partition);
            thread::spawn(move || {
                let mut after = After::default();
                let written = partition.write_and_await(&mut after, (7, 70), |live, _| {
                    let before = live.places().1;
                    push(live, 2);
                    Ok::<_, ()>(before..before + 1)
                });
                assert!(written.is_ok_and(|written| written.result.is_ok()));
                assert!(after.passed.is_empty());
            })
        };
        let (mut all, mut told) = (Vec::new(), Vec::new());
        drain_telling(&partition, &mut all, &mut told);
        assert_eq!(told.len(), all.iter().filter(|value| **value == 2).count());
        writer.join().unwrap();
        drain_telling(&partition, &mut all, &mut told);
        assert_eq!((all, told), (vec![1, 2], vec![70]));
        assert_eq!(partition.awaiting(), 0);
    });
}

/// What leaves with one swap, and the tokens of those who are told.
fn drain_telling(partition: &Part, all: &mut Vec<u8>, told: &mut Vec<u64>) {
    swap(partition);
    loop {
        let mut after = After::default();
        let read =
            |drain: &Queue<Ints>, batch: &buffer_core::Batch| model::values(drain, batch.len);
        let next = partition.next(1, Wanted::entries(1), || 0, &|_, _| None, &mut after, read);
        told.extend(after.passed.iter().map(|passed| passed.token));
        match next {
            Ok(Next::Batch(batch)) => all.extend(batch),
            _ => break,
        }
    }
}
