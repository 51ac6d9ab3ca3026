//! What moving from LinuxKit to kiln means for one description.
//!
//! Enters: the texts of one description, in order. Leaves: [`Finding`]s, each a place and the
//! [`Difference`] it touches. They are found in the YAML itself, so a description with mistakes has
//! them too; the mistakes are [`super::Spec::parse`]'s and the planner's work.

mod containers;
mod difference;
mod files;
mod find;

#[cfg(test)]
mod tests;

pub use difference::{Class, DIFFERENCES, Difference};
pub use find::find;

use super::position::Position;

/// Of one difference, no more places than this are listed.
pub const PLACES_MAX: usize = 100;

/// One place where a difference shows.
#[derive(Debug, Clone)]
pub struct Finding {
    /// Which one.
    pub difference: &'static Difference,
    /// Where.
    pub at: Position,
    /// The path in the description, and the value where it helps: `services[0].ipc: none`.
    pub what: String,
}
