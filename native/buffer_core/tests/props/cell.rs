//! Properties of cells and turns, against models of a few lines.
//!
//! 1. A cell does what a pair of a version and a value does: it is replaced by who names its version, and
//!    by nobody else, and who reads is told what is there unless it names its version.
//! 2. Turns do what a plain list does: the first has the turn; whoever comes is put at the end, once; and
//!    whoever leaves first of all makes it the turn of the second.

use std::sync::Arc;

use buffer_core::cell::{self, Cell, Changed};
use buffer_core::turns::Take;
use buffer_core::Turns;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum OnCell {
    /// Names a version that is this far behind.
    Load(Option<u64>),
    Replace(u64, i32),
}

fn on_cell() -> impl Strategy<Value = OnCell> {
    prop_oneof![
        proptest::option::of(0..3u64).prop_map(OnCell::Load),
        (prop_oneof![3 => Just(0), 1 => 1..3u64], any::<i32>())
            .prop_map(|(behind, value)| OnCell::Replace(behind, value)),
    ]
}

#[derive(Debug, Clone)]
enum OnTurns {
    Take(u8),
    Leave(u8),
}

fn on_turns() -> impl Strategy<Value = OnTurns> {
    prop_oneof![
        (0..5u8).prop_map(OnTurns::Take),
        (0..5u8).prop_map(OnTurns::Leave)
    ]
}

proptest! {
    #[test]
    fn a_cell_is_replaced_by_who_names_its_version(steps in prop::collection::vec(on_cell(), 0..100)) {
        let cell = Cell::new(Arc::new(0));
        let mut model = (cell::FIRST, 0);
        let mut kept = Vec::new();
        for step in steps {
            match step {
                OnCell::Load(behind) => {
                    let known = behind.map(|behind| model.0.wrapping_sub(behind));
                    match cell.load(known, Arc::clone) {
                        None => prop_assert_eq!(known, Some(model.0)),
                        Some((version, value)) => {
                            prop_assert_ne!(known, Some(model.0));
                            prop_assert_eq!((version, *value), model);
                            kept.push((value, model.1));
                        }
                    }
                }
                OnCell::Replace(behind, value) => match cell.replace(model.0.wrapping_sub(behind), Arc::new(value)) {
                    Ok((version, old)) => {
                        prop_assert_eq!(behind, 0);
                        prop_assert_eq!(*old, model.1);
                        model = (model.0 + 1, value);
                        prop_assert_eq!(version, model.0);
                    }
                    Err(Changed(refused)) => {
                        prop_assert_ne!(behind, 0);
                        prop_assert_eq!(*refused, value);
                    }
                },
            }
            prop_assert_eq!(cell.version(), model.0);
        }
        for (value, then) in kept {
            prop_assert_eq!(*value, then);
        }
    }

    #[test]
    fn turns_go_along_the_line(steps in prop::collection::vec(on_turns(), 0..200)) {
        let turns = Turns::new();
        let mut line: Vec<u8> = Vec::new();
        for step in steps {
            match step {
                OnTurns::Take(who) => {
                    let new = !line.contains(&who);
                    if new {
                        line.push(who);
                    }
                    let expected = match line[0] == who {
                        true => Take::Now,
                        false => Take::Wait((new && line.len() == 2).then_some(line[0])),
                    };
                    prop_assert_eq!(turns.take(who), expected);
                }
                OnTurns::Leave(who) => {
                    let had_it = line.first() == Some(&who);
                    line.retain(|other| *other != who);
                    let next = line.first().filter(|_| had_it);
                    let next = next.map(|next| (*next, line.len() > 1));
                    prop_assert_eq!(turns.leave(who), next);
                }
            }
            prop_assert_eq!(turns.len(), line.len());
            prop_assert_eq!(turns.is_held(), !line.is_empty());
        }
    }
}
