//! Helpers shared by kiln's end-to-end tests.
