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
    no_partitions,
    other_kind,
    // what an update answers
    changed,
    wrong_type,
    unsuited,
    // what it can do
    add,
    max,
    min,
    append,
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
    // reasons of a discard
    exception,
    killed,
    timeout,
    shutdown,
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
}
