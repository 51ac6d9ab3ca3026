//! What people and programs see of a build.
//!
//! [`printer`] writes finished lines in cargo's manner; [`progress`] is the listener that feeds it
//! and draws one line per running step on a terminal; [`json`] is the listener for programs;
//! [`diagnostic`] renders errors; [`units`] and [`words`] say sizes, times and kinds of step.

pub(crate) mod diagnostic;
pub(crate) mod json;
pub(crate) mod printer;
pub(crate) mod progress;
pub(crate) mod units;
pub(crate) mod words;

#[cfg(test)]
mod messages_tests;
