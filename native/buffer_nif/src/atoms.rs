//! Every atom that the boundary names.

rustler::atoms! {
    ok,
    nil,
    // what a write answers instead of `ok`
    closed,
    heavy,
    improper,
    no_partitions,
    // how a buffer was opened
    created,
    adopted,
    mismatch,
    // what a drain answers
    empty,
    not_owner,
    large,
    none,
    // reasons of a discard
    exception,
    killed,
    timeout,
    shutdown,
}
