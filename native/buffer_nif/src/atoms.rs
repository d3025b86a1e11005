//! Every atom that the boundary names.
#![expect(
    clippy::disallowed_methods,
    reason = "`atoms!` makes its atoms in an `OwnedEnv`; no term but atoms comes out of it"
)]

rustler::atoms! {
    ok,
    error,
    nil,
    // what a write answers instead of `ok`
    closed,
    heavy,
    improper,
    unknown,
    no_partitions,
    other_kind,
    wait,
    full,
    too_large,
    who_listens,
    listening,
    // messages
    partitioned_buffer,
    due,
    // what an update answers
    changed,
    wrong_type,
    unsuited,
    // what it can do
    add,
    max,
    min,
    append,
    // how a message was sent
    handed,
    // how a buffer was opened
    created,
    adopted,
    mismatch,
    // what a drain answers
    empty,
    not_owner,
    large,
    dirty,
    table,
    paused,
    expired_some,
    look_again = "look",
    again,
    begun,
    attend,
    halved,
    // reasons of a discard
    exception,
    killed,
    timeout,
    shutdown,
    failed,
    expired,
    overflow,
    processing_timeout,
    // what starts a cycle
    interval,
    max_size,
    flush,
    resume,
    stop,
    capacity,
    // what came of the wish for one, and what tells who drains
    noted,
    nothing,
    waits,
    ends,
    partitioned_buffer_cycle,
    partitioned_buffer_sent_away,
    // what a cell and turns answer, and what tells a process that its turn has come
    taken_back,
    abandoned,
    through,
    unchanged,
    partitioned_buffer_turn,
    partitioned_buffer_turn_wanted,
    // fields of what serde encodes: it takes an atom for a name only if the atom exists
    accepted,
    processed,
    discarded,
    superseded,
    deleted,
    queued,
    in_flight,
    bytes,
    high_water,
    oldest_age_ns,
    arenas,
    entries,
    retries,
    // what a broker sends
    wake = "$broker_wake",
    message = "$broker_message",
    look = "$broker_look",
    joined = "$broker_joined",
    slow = "$broker_slow",
    stored,
    late = "$broker_late",
    // what it answers
    elsewhere,
    observed,
    soon,
    idle,
    gone,
    no_worker,
    // how messages wait
    fifo,
    lifo,
    newest,
    oldest,
    // why they are given up
    queue_full,
    queue_timeout,
    queue_delay,
    caller_down,
    // what workers do
    running,
    woken,
    // fields of its figures
    started,
    cancelled,
    dropped,
    refused,
    waiting,
    done,
    busy_ns,
}

/// The atom of a reason.
pub fn of_reason(reason: buffer_core::Reason) -> rustler::Atom {
    use buffer_core::Reason;
    match reason {
        Reason::Exception => exception(),
        Reason::Killed => killed(),
        Reason::Timeout => timeout(),
        Reason::Shutdown => shutdown(),
        Reason::Failed => failed(),
        Reason::Expired => expired(),
        Reason::Overflow => overflow(),
    }
}

/// The atom of what starts a cycle.
pub fn of_trigger(trigger: buffer_core::Trigger) -> rustler::Atom {
    use buffer_core::Trigger;
    match trigger {
        Trigger::Interval => interval(),
        Trigger::MaxSize => max_size(),
        Trigger::Flush => flush(),
        Trigger::Resume => resume(),
        Trigger::Stop => stop(),
        Trigger::Capacity => capacity(),
    }
}
