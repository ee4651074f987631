//! cell.
fn main() {}
