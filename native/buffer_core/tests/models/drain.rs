//! Those who drain, against each other and against a reading.
//!
//! In every interleaving (see `model.rs` for the bound):
//!
//! 1. While the drain is taken from an owner that still asks for batches, an entry is handed out at most
//!    once, a discarded batch is one that was handed out, to be reported once, and the rest is drained by
//!    the next owner.
//! 2. Of two that ask for batches at once, one gets them; the other gets what is left once the first
//!    is through.
//! 3. The account holds in every reading meanwhile.
//! 4. Either the processor returns, and its batch counts as processed, or its call is ended, and the batch is
//!    discarded as late; whoever is told so of its owner and whoever watches it agree on which.
//! 5. What is discarded at the end, beside an owner that still drains, is what it has not settled.

use crate::model::{assert_complete, check, drain, next, stats, swap, write_admitted, Part};
use buffer_core::{After, Discarded, NotOwner, Policy, Reason, Settled, Watched};
use loom::sync::Arc;
use loom::thread;

/// A partition that is about to drain these.
fn draining(values: &[u8]) -> Arc<Part> {
    let partition = Part::default();
    for value in values {
        write_admitted(&partition, *value);
    }
    swap(&partition);
    Arc::new(partition)
}

/// Takes the drain away from its owner; what is in flight is given up.
fn settle(partition: &Part) -> Option<Discarded> {
    let after = &mut After::default();
    match partition.settle(Reason::Killed, Policy::ONCE, &|_, _| None, after) {
        Settled::Discarded(discarded) => Some(discarded),
        _ => None,
    }
}

/// Asks for batches of one entry, so often; answers what it got.
fn ask(partition: &Arc<Part>, owner: u8, times: usize) -> thread::JoinHandle<Vec<u8>> {
    let partition = Arc::clone(partition);
    thread::spawn(move || {
        (0..times)
            .filter_map(|_| next(&partition, owner, 1))
            .flatten()
            .collect()
    })
}

#[test]
fn settling_races_with_an_owner_that_goes_on() {
    check(|| {
        let partition = draining(&[1, 2, 3]);
        let owner = ask(&partition, 1, 3);
        let settled = settle(&partition);
        let reading = stats(&partition);

        let mut handed = owner.join().unwrap();
        if let Some(discarded) = settled {
            assert_eq!((discarded.len, discarded.bytes), (1, 1));
            assert_eq!(reading.discarded[Reason::Killed as usize], 1);
            assert!(!handed.is_empty());
        }
        // The batch that the owner may still have is given up, as when a process is found dead.
        let last = settle(&partition);
        handed.extend(drain(&partition, 2));
        assert_complete(&handed, &[&[1, 2, 3]]);

        let end = stats(&partition);
        let discarded = settled.iter().chain(&last).count() as u64;
        assert_eq!(end.discarded[Reason::Killed as usize], discarded);
        assert_eq!(partition.unreported().len() as u64, discarded);
        assert_eq!(end.processed, 3 - discarded);
        assert_eq!(partition.drain_status(), (None, None));
    });
}

#[test]
fn a_call_returns_or_is_ended() {
    check(|| {
        let partition = draining(&[1, 2]);
        assert_eq!(next(&partition, 1, 1), Some(vec![1]));
        let owner = {
            let partition = Arc::clone(&partition);
            thread::spawn(move || {
                let told = partition.returned(1, || 2) == Ok(());
                let more = partition.done(1, &mut After::default());
                assert_eq!(more, if told { Ok(1) } else { Err(NotOwner) });
                told
            })
        };
        let watched = partition.time_out(1, i64::MAX, || 1);
        stats(&partition);
        let told = owner.join().unwrap();
        assert_eq!(told, watched != Watched::Overdue);
        assert_eq!(partition.claim(1).is_ok(), told);
        let late = settle(&partition).map(|discarded| discarded.reason);
        assert_eq!(late, (!told).then_some(Reason::Timeout));
        assert_eq!(stats(&partition).processed, u64::from(told));
        assert_eq!(drain(&partition, 2), [2]);
    });
}

#[test]
fn an_owner_that_dies_when_its_processor_has_returned_has_processed_its_batch() {
    check(|| {
        let partition = draining(&[1]);
        assert_eq!(next(&partition, 1, 1), Some(vec![1]));
        let owner = {
            let partition = Arc::clone(&partition);
            thread::spawn(move || partition.returned(1, || 2) == Ok(()))
        };
        let rest = partition.discard_rest(Reason::Shutdown, &mut After::default());
        stats(&partition);
        assert!(owner.join().unwrap());
        let end = stats(&partition);
        assert_eq!(end.processed, u64::from(rest.is_none()));
        assert_eq!(
            end.discarded[Reason::Shutdown as usize],
            u64::from(rest.is_some())
        );
    });
}

#[test]
fn two_that_ask_at_once_get_no_entry_twice() {
    check(|| {
        let partition = draining(&[1, 2]);
        let (one, other) = (ask(&partition, 1, 3), ask(&partition, 2, 1));
        let reading = stats(&partition);
        assert!(reading.in_flight <= 1);
        let (one, other) = (one.join().unwrap(), other.join().unwrap());
        // The second never comes back for its batch, so it keeps the rest from the first.
        match other.as_slice() {
            [] => assert_eq!(one, [1, 2]),
            [1] => assert!(one.is_empty()),
            _ => panic!("{one:?} and {other:?}"),
        }
        stats(&partition);
    });
}

#[test]
fn claiming_keeps_others_from_draining() {
    check(|| {
        let partition = draining(&[1, 2]);
        let claim = |owner| {
            let partition = Arc::clone(&partition);
            thread::spawn(move || partition.claim(owner).is_ok())
        };
        let claims = [claim(1), claim(2)].map(|claim| claim.join().unwrap());
        assert_eq!(claims.iter().filter(|claimed| **claimed).count(), 1);
        let winner = if claims[0] { 1 } else { 2 };
        assert!(next(&partition, 3 - winner, 1).is_none());
        assert_complete(&drain(&partition, winner), &[&[1, 2]]);
    });
}

#[test]
fn readings_add_up_while_swaps_follow_each_other() {
    check(|| {
        let partition = draining(&[1]);
        let drainer = {
            let partition = Arc::clone(&partition);
            thread::spawn(move || drain(&partition, 1))
        };
        let writer = {
            let partition = Arc::clone(&partition);
            thread::spawn(move || write_admitted(&partition, 2))
        };
        let (one, other) = (stats(&partition), stats(&partition));
        assert!(one.processed <= other.processed && one.accepted <= other.accepted);
        let mut all = drainer.join().unwrap();
        writer.join().unwrap();
        all.extend(drain(&partition, 1));
        assert_eq!(all, [1, 2]);
        assert_eq!(stats(&partition).processed, 2);
    });
}

#[test]
fn discarding_the_rest_leaves_the_owner_nothing() {
    check(|| {
        let partition = draining(&[1, 2]);
        write_admitted(&partition, 3);
        partition.close();
        let owner = ask(&partition, 1, 2);
        let rest = partition.discard_rest(Reason::Shutdown, &mut After::default());
        let rest = rest.map_or(0, |discarded| discarded.len);
        let end = stats(&partition);
        assert_eq!(end.queued + end.in_flight, 0);

        let handed = owner.join().unwrap();
        assert!([1, 2].starts_with(&handed));
        // One that it had settled is processed, one that it still had is not.
        assert_eq!(end.processed + rest as u64, 3);
        assert!(end.processed <= handed.len() as u64);
        assert!(drain(&partition, 2).is_empty());
    });
}
