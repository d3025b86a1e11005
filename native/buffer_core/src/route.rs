//! Which partition a hash belongs to: `erlang:phash2(Hash, Partitions)` without a call into the VM.
//!
//! Erlang promises that `phash2` gives the same value for the same term on every machine and in
//! every release, so the function for small integers can be written down. It is Bob Jenkins's
//! mixing step of 1996 ("lookup2", public domain) over one word. Items and keys that are such integers are hashed
//! here as well; hashing whole terms here was tried and was slower than the VM's own function.

/// Erlang's constant for integers: the golden ratio.
const GOLDEN: u32 = 0x9e37_79b9;

/// `erlang:phash2(Hash, Partitions)` for a hash below 2^27 and at least one partition.
#[inline]
pub fn route(hash: u32, partitions: u32) -> usize {
    debug_assert!(hash < 1 << 27, "a hash of phash2/1 has 27 bits");
    let mixed = mix(GOLDEN.wrapping_add(hash), GOLDEN, 0);
    // Mostly there are two, four or eight, and a division takes as long as half of the mixing.
    let index = match partitions.is_power_of_two() {
        true => mixed & (partitions - 1),
        false => mixed % partitions,
    };
    index as usize
}

/// `erlang:phash2(Integer)` for an integer from 0 up to 2^27 - 1.
#[inline]
pub fn hash_of_integer(integer: u32) -> u32 {
    debug_assert!(integer < 1 << 27, "larger ones are hashed in another way");
    mix(GOLDEN.wrapping_add(integer), GOLDEN, 0) % (1 << 27)
}

#[inline]
fn mix(mut a: u32, mut b: u32, mut c: u32) -> u32 {
    a = a.wrapping_sub(b).wrapping_sub(c) ^ (c >> 13);
    b = b.wrapping_sub(c).wrapping_sub(a) ^ (a << 8);
    c = c.wrapping_sub(a).wrapping_sub(b) ^ (b >> 13);
    a = a.wrapping_sub(b).wrapping_sub(c) ^ (c >> 12);
    b = b.wrapping_sub(c).wrapping_sub(a) ^ (a << 16);
    c = c.wrapping_sub(a).wrapping_sub(b) ^ (b >> 5);
    a = a.wrapping_sub(b).wrapping_sub(c) ^ (c >> 3);
    b = b.wrapping_sub(c).wrapping_sub(a) ^ (a << 10);
    c.wrapping_sub(a).wrapping_sub(b) ^ (b >> 15)
}

#[cfg(test)]
mod tests {
    use super::{hash_of_integer, route};

    /// `(Hash, Partitions, erlang:phash2(Hash, Partitions))`, as Erlang prints them.
    const ROUTES: &[(u32, u32, usize)] = &[
        (0, 1, 0),
        (0, 2, 1),
        (0, 3, 1),
        (0, 7, 1),
        (0, 16, 13),
        (0, 1000, 469),
        (0, 999983, 785444),
        (1, 1, 0),
        (1, 2, 0),
        (1, 3, 1),
        (1, 7, 6),
        (1, 16, 10),
        (1, 1000, 162),
        (1, 999983, 494325),
        (2, 1, 0),
        (2, 2, 0),
        (2, 3, 0),
        (2, 7, 3),
        (2, 16, 4),
        (2, 1000, 668),
        (2, 999983, 675477),
        (1000, 1, 0),
        (1000, 2, 1),
        (1000, 3, 2),
        (1000, 7, 1),
        (1000, 16, 1),
        (1000, 1000, 57),
        (1000, 999983, 608899),
        (65536, 1, 0),
        (65536, 2, 1),
        (65536, 3, 0),
        (65536, 7, 2),
        (65536, 16, 7),
        (65536, 1000, 471),
        (65536, 999983, 654943),
        (12345678, 1, 0),
        (12345678, 2, 1),
        (12345678, 3, 0),
        (12345678, 7, 1),
        (12345678, 16, 11),
        (12345678, 1000, 267),
        (12345678, 999983, 251650),
        (134217727, 1, 0),
        (134217727, 2, 1),
        (134217727, 3, 2),
        (134217727, 7, 1),
        (134217727, 16, 7),
        (134217727, 1000, 567),
        (134217727, 999983, 425208),
    ];

    #[test]
    fn agrees_with_erlang() {
        for &(hash, partitions, expected) in ROUTES {
            assert_eq!(
                route(hash, partitions),
                expected,
                "phash2({hash}, {partitions})"
            );
        }
    }

    /// `(Integer, erlang:phash2(Integer))`.
    const HASHES: &[(u32, u32)] = &[
        (0, 88_723_725),
        (1, 2_614_250),
        (2, 27_494_836),
        (1000, 65_787_489),
        (65_536, 79_773_559),
        (12_345_678, 65_030_539),
        (134_217_727, 112_602_999),
    ];

    #[test]
    fn hashes_integers_as_erlang_does() {
        for &(integer, expected) in HASHES {
            assert_eq!(hash_of_integer(integer), expected, "phash2({integer})");
        }
    }

    #[test]
    fn spreads_neighbours_over_all_partitions() {
        for partitions in [1, 2, 3, 8, 13] {
            let mut counts = vec![0; partitions as usize];
            for hash in (1 << 27) - 10_000..1 << 27 {
                counts[route(hash, partitions)] += 1;
            }
            let fair = 10_000 / partitions;
            assert!(counts.iter().all(|count| fair.abs_diff(*count) < 300));
        }
    }
}
