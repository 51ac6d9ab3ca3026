//! The share plan.
