//! Numbers on the ring of u32: of two, the one less than half the ring ahead is the later.

const HALF: u32 = 1 << 31;

/// `a` is `b` or lies before it.
pub(super) fn at_or_before(a: u32, b: u32) -> bool {
    b.wrapping_sub(a) < HALF
}

/// `a` lies before `b`.
pub(super) fn before(a: u32, b: u32) -> bool {
    a != b && at_or_before(a, b)
}

/// Steps from `start` forward to `number`, if fewer than `limit`.
pub(super) fn offset(start: u32, number: u32, limit: usize) -> Option<usize> {
    usize::try_from(number.wrapping_sub(start)).ok().filter(|&steps| steps < limit)
}

/// The number so many steps ahead.
pub(super) fn ahead(start: u32, steps: usize) -> u32 {
    start.wrapping_add(u32::try_from(steps).unwrap_or(u32::MAX))
}
