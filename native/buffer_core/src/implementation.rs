//! Definitions, invariants, lock order. Documentation only.
