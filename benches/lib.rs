//! Helpers shared by kiln's benches.
