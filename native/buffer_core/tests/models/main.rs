//! What happens when threads meet, in every order that they can come in: run with `--cfg loom`, which puts
//! loom's locks and atomics in the place of the real ones.
//!
//! One program, so that it is linked once and its models share the cores.
#![cfg(loom)]

mod broker;
mod capacity;
mod cell;
mod drain;
mod gate;
mod line;
mod model;
mod patience;
mod runner;
mod snapshot;
mod swap;
