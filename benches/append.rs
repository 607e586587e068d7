//! How long appends take.
fn main() {}
