//! What `PartitionedBuffer.Map.update/5` can do to a value under the partition's lock.

use rustler::{Atom, Encoder, Term};

use crate::atoms;

/// The value after the operation, or why there is none: `wrong_type`, or `unsuited` for what takes
/// Elixir's arithmetic, such as integers of more than 64 bits.
pub fn apply<'a>(operation: Atom, current: Term<'a>, operand: Term<'a>) -> Result<Term<'a>, Atom> {
    if operation == atoms::add() {
        add(current, operand)
    } else if operation == atoms::max() {
        Ok(if operand > current { operand } else { current })
    } else if operation == atoms::min() {
        Ok(if operand < current { operand } else { current })
    } else if operation == atoms::append() {
        append(current, operand)
    } else {
        Err(atoms::unsuited())
    }
}

fn add<'a>(current: Term<'a>, operand: Term<'a>) -> Result<Term<'a>, Atom> {
    if !current.is_number() || !operand.is_number() {
        return Err(atoms::wrong_type());
    }
    let env = operand.get_env();
    if let (Ok(current), Ok(operand)) = (current.decode::<i64>(), operand.decode::<i64>()) {
        let sum = current.checked_add(operand);
        return sum.map(|sum| sum.encode(env)).ok_or_else(atoms::unsuited);
    }
    let float = |term: Term<'a>| {
        let whole = || term.decode::<i64>().map(|whole| whole as f64);
        term.decode::<f64>().or_else(|_| whole()).ok()
    };
    let has_float = current.is_float() || operand.is_float();
    match (float(current), float(operand)) {
        (Some(current), Some(operand)) if has_float && (current + operand).is_finite() => {
            Ok((current + operand).encode(env))
        }
        _ => Err(atoms::unsuited()),
    }
}

fn append<'a>(current: Term<'a>, operand: Term<'a>) -> Result<Term<'a>, Atom> {
    // rustler panics when it decodes an improper list.
    current.list_length().map_err(|_| atoms::wrong_type())?;
    let mut items: Vec<Term<'a>> = current.decode().map_err(|_| atoms::wrong_type())?;
    items.push(operand);
    Ok(items.encode(operand.get_env()))
}
