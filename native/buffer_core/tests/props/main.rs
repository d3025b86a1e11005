//! What each data structure promises, against a plain model of it: sequences of operations on one thread,
//! drawn at random. What happens when threads meet is in `tests/models`.
//!
//! One program, so that it is linked once and its properties share the cores.
#![cfg(not(loom))]

mod broker;
mod broker_load;
mod capacity;
mod cell;
mod ledger;
mod line;
mod map;
mod map_bounds;
mod map_snapshot;
mod map_versions;
mod partition;
mod partition_map;
mod partition_model;
mod partition_ops;
mod queue;
