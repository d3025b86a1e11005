//! NIFs that tell how a broker stands.

use std::sync::Arc;

use buffer_core::broker::dropped::Drop;
use buffer_core::broker::worker::{State, Worker};
use rustler::{Atom, LocalPid, SerdeTerm};
use serde::Serialize;

use super::SharedBroker;
use crate::arena::{Arena, Handle};
use crate::{atoms, clock};

/// How many messages wait. O(partitions).
#[rustler::nif]
fn broker_size(broker: Handle<'_, SharedBroker>) -> usize {
    broker.0.core.waiting()
}

/// How many workers are idle. O(1).
#[rustler::nif]
fn broker_idle(broker: Handle<'_, SharedBroker>) -> usize {
    broker.0.core.idle()
}

/// The workers. O(workers).
#[rustler::nif]
fn broker_workers(broker: Handle<'_, SharedBroker>) -> Vec<LocalPid> {
    broker
        .0
        .core
        .workers()
        .iter()
        .map(|worker| worker.pid)
        .collect()
}

/// How many partitions it has. O(1).
#[rustler::nif]
fn broker_partitions(broker: Handle<'_, SharedBroker>) -> usize {
    broker.0.core.partitions()
}

#[derive(Serialize)]
#[serde(rename = "Elixir.PartitionedBuffer.Native.BrokerFigures")]
struct BrokerFigures {
    accepted: u64,
    started: u64,
    done: u64,
    failed: u64,
    cancelled: u64,
    dropped: BrokerDrops,
    refused: u64,
    waiting: usize,
    bytes: u64,
    oldest_age_ns: Option<i64>,
    idle: usize,
    busy_ns: i64,
}

#[derive(Serialize)]
#[serde(rename = "Elixir.PartitionedBuffer.Native.BrokerDrops")]
struct BrokerDrops {
    queue_full: u64,
    queue_timeout: u64,
    queue_delay: u64,
    caller_down: u64,
    shutdown: u64,
}

/// What happened to messages, and how many wait. O(partitions and workers).
#[rustler::nif]
fn broker_info(broker: Handle<'_, SharedBroker>) -> SerdeTerm<impl Serialize> {
    let figures = broker.0.core.figures();
    let counts = figures.counts;
    let dropped = |why: Drop| counts.dropped[why as usize];
    SerdeTerm(BrokerFigures {
        accepted: counts.accepted,
        started: counts.started,
        done: figures.tally.done,
        failed: figures.tally.failed,
        cancelled: counts.cancelled,
        dropped: BrokerDrops {
            queue_full: dropped(Drop::Full),
            queue_timeout: dropped(Drop::Timeout),
            queue_delay: dropped(Drop::Delay),
            caller_down: dropped(Drop::CallerDown),
            shutdown: dropped(Drop::Shutdown),
        },
        refused: counts.refused,
        waiting: figures.waiting,
        bytes: figures.bytes,
        oldest_age_ns: figures.oldest.map(clock::since),
        idle: figures.idle,
        busy_ns: figures.tally.busy,
    })
}

/// What each worker does: `{pid, :running | :woken | :idle | :gone, done, failed, busy_ns, ns since it has
/// worked on its message | nil}`. `busy_ns` is that of messages it is through with. O(workers).
#[rustler::nif]
fn broker_crew(
    broker: Handle<'_, SharedBroker>,
) -> Vec<(LocalPid, Atom, u64, u64, i64, Option<i64>)> {
    let workers = broker.0.core.workers();
    let row = |worker: &Arc<Worker<Arena, LocalPid>>| {
        let (tally, since) = worker.tally();
        let state = match worker.state() {
            State::Running => atoms::running(),
            State::Idle => atoms::idle(),
            State::Woken => atoms::woken(),
            State::Leaving | State::Gone => atoms::gone(),
        };
        let since = since.map(clock::since);
        (
            worker.pid,
            state,
            tally.done,
            tally.failed,
            tally.busy,
            since,
        )
    };
    workers.iter().map(row).collect()
}
