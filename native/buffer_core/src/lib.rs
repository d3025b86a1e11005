//! The storage of PartitionedBuffer, without the BEAM.
//!
//! Everything here is generic over an [`Arena`], the place that entries are copied into. The NIF
//! crate brings an arena of Erlang terms, the tests bring one of integers, and so proptest and loom
//! run on the very code that ships.
//!
//! | module | one idea |
//! |---|---|
//! | [`implementation`] | definitions, invariants, lock order (documentation only) |
//! | [`arena`] | where entries live |
//! | [`segment`] | an arena and the weights of the entries in it |
//! | [`queue`] | a generation that keeps order |
//! | [`map`] | a generation that keeps the newest entry of each key |
//! | [`partition`] | one live and one draining generation, and their counters |
//! | [`buffer`] | the partitions of one buffer, and its end |
//! | [`capacity`] | how much a buffer may hold, and how much of that is taken |
//! | [`waiters`] | writers that wait for room |
//! | [`delivery`] | batches, and what becomes of one that has failed |
//! | [`awaiting`] | who wants to be told when entries have been through |
//! | [`kept`] | what was given up, until somebody has been told |
//! | [`broker`] | messages that wait for workers, and workers that wait for messages |
//! | [`cell`] | a value with a version: no replacement is lost |
//! | [`turns`] | one has the turn, the others wait in order |
//! | [`gate`] | lets a write that spans partitions in as a whole, or not at all |
//! | [`route`] | which partition a hash belongs to |
//! | [`stats`] | what a partition reports |
//! | [`sync`] | the one place that names locks and atomics (real or loom's) |
#![forbid(unsafe_code)]

pub mod arena;
pub mod awaiting;
pub mod broker;
pub mod buffer;
pub mod capacity;
pub mod cell;
pub mod delivery;
pub mod gate;
pub mod implementation;
pub mod kept;
pub mod map;
pub mod partition;
pub mod queue;
pub mod route;
pub mod segment;
pub mod stats;
pub mod sync;
pub mod turns;
pub mod waiters;

pub use arena::Arena;
pub use awaiting::{Passed, Told};
pub use buffer::Buffer;
pub use capacity::{Capacity, Credit, NoRoom, Size};
pub use cell::Cell;
pub use delivery::{After, Batch, Discarded, Next, Policy, Settled, Wanted};
pub use gate::Gate;
pub use kept::KeptBatch;
pub use map::Map;
pub use partition::{
    Again, Begun, Closed, First, Generation, Idle, Legacy, Mode, NoTurn, NotOwner, Open, Partition,
    Room, Rows, Served, Standings, Started, Step, Stood, Tally, Trigger, View, Watched, Written,
};
pub use queue::Queue;
pub use segment::{Retired, Segment};
pub use stats::{Reason, Stats};
pub use turns::Turns;
pub use waiters::{Turn, Wait, Waiters};
