//! corelet.
fn main() {}
