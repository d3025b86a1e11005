//! The boundary between the BEAM and [`buffer_core`]: arenas of Erlang terms, and the NIFs.
//!
//! | module | one idea |
//! |---|---|
//! | [`arena`] | Erlang terms that belong to no process: copied by the VM, word by word, or packed into bytes; all unsafe code of the project |
//! | [`entry`] | the way into the library for what is called most (in `arena/`, unsafe too); the rest takes rustler's |
//! | [`weigh`] | how large a term is, found out in bounded time |
//! | [`resource`] | what a handle on the BEAM refers to |
//! | [`registry`] | open buffers by name |
//! | [`names`] | buffers and brokers by the atoms that they are used by |
//! | [`cycle`] | what happens to a partition, whatever it stores |
//! | [`begin`] | starts cycles, and tells who has to know |
//! | [`operation`] | what an update of a map can do natively |
//! | [`mod@write`] | what all writes have in common |
//! | [`server`] | makes the writes of those who waited for room |
//! | [`cell`], [`turns`] | the NIFs of a pool's shared state |
//! | [`courier`] | sends, also for a process that is killed meanwhile |
//! | [`reclaimer`] | frees drained memory away from the schedulers |
//! | [`broker`] | messages and workers, and the NIFs on them |
//! | [`buffer`], [`queue`], [`data_buffer`], [`map`], [`partition`], [`info`] | the NIFs, named as in `PartitionedBuffer.Native` |
//!
//! No NIF that runs on a normal scheduler does more than [`weigh::Limits`] allows; what may take
//! longer has a twin ending in `_dirty`.

mod arena;
mod atoms;
mod begin;
mod broker;
mod buffer;
mod cell;
mod clock;
mod courier;
mod cycle;
mod data_buffer;
#[path = "arena/entry.rs"]
mod entry;
mod info;
mod map;
mod names;
mod operation;
mod partition;
mod queue;
mod reclaimer;
mod registry;
mod resource;
mod server;
mod turns;
mod weigh;
mod write;

rustler::init!("Elixir.PartitionedBuffer.Native", load = resource::load);
