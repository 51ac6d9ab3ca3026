//! PID 1 of systems built by kiln.
fn main() {}
