//! Writes that span partitions, against the close of the buffer.
//!
//! In every interleaving (see `model.rs` for the bound):
//!
//! 1. A write that goes through the gate is whole once `close` has returned: all of its partitions have
//!    it, or none, as the writer was told.
//! 2. The same holds for two such writers beside each other, and for one beside a plain write, which
//!    needs no gate.

use crate::model::{self, check, drain, write_admitted, Ints, Owner};
use buffer_core::{Buffer, Queue};
use loom::sync::Arc;
use loom::thread;

type TestBuffer = Buffer<Queue<Ints>, Owner>;

/// Writes `value` to both partitions, or is refused.
fn write(buffer: &TestBuffer, value: u8) -> bool {
    let Ok(_pass) = buffer.enter() else {
        return false;
    };
    for partition in buffer.partitions() {
        write_admitted(partition, value);
    }
    true
}

/// What each of the partitions holds, in the order of the values.
fn contents(buffer: &TestBuffer) -> Vec<Vec<u8>> {
    let sorted = |mut values: Vec<u8>| {
        values.sort_unstable();
        values
    };
    let partitions = buffer.partitions().iter();
    partitions
        .map(|partition| sorted(drain(partition, 1)))
        .collect()
}

/// Writers beside a close: what is there when it returns is what they were told.
fn writers_against_close<const N: usize>(values: [u8; N]) {
    check(move || {
        let buffer = Arc::new(TestBuffer::new(2));
        let writers = values.map(|value| {
            let buffer = Arc::clone(&buffer);
            thread::spawn(move || write(&buffer, value).then_some(value))
        });
        buffer.close();
        let held = contents(&buffer);
        let told = writers.map(|writer| writer.join().expect("writers do not panic"));
        let told: Vec<u8> = told.into_iter().flatten().collect();
        assert_eq!(held, [told.clone(), told]);
        assert_eq!(contents(&buffer), [[], []], "it went on after the close");
        assert!(!write(&buffer, 9));
    });
}

#[test]
fn a_write_over_two_partitions_is_whole_or_refused() {
    writers_against_close([1]);
}

#[test]
fn two_writes_over_two_partitions_are_whole_or_refused() {
    writers_against_close([1, 2]);
}

#[test]
fn a_plain_write_is_in_or_refused_beside_one_over_two_partitions() {
    check(|| {
        let buffer = Arc::new(TestBuffer::new(2));
        let spanning = {
            let buffer = Arc::clone(&buffer);
            thread::spawn(move || write(&buffer, 1))
        };
        let plain = {
            let buffer = Arc::clone(&buffer);
            thread::spawn(move || model::write(&buffer.partitions()[1], 2).is_ok())
        };
        buffer.close();
        let held = contents(&buffer);
        let (spanning, plain) = (spanning.join().unwrap(), plain.join().unwrap());
        let told = |value: u8, accepted: bool| accepted.then_some(value);
        let first = Vec::from_iter(told(1, spanning));
        let second = Vec::from_iter(told(1, spanning).into_iter().chain(told(2, plain)));
        assert_eq!(held, [first, second]);
        assert_eq!(contents(&buffer), [[], []], "it went on after the close");
    });
}
