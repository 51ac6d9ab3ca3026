//! Chains of causes, as errors carry them.

use std::error::Error;
use std::io;

/// A longer chain is a loop or noise.
const CAUSES_MAX: usize = 16;

/// Walks an error and its causes, outermost first; also through I/O errors that only carry another
/// error, which `source` skips.
pub fn causes<'a>(
    first: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let inner = |error: &'a (dyn Error + 'static)| match error.downcast_ref::<io::Error>() {
        Some(carrier) => match carrier.get_ref() {
            Some(carried) => Some(carried as &(dyn Error + 'static)),
            None => carrier.source(),
        },
        None => error.source(),
    };
    std::iter::successors(Some(first), move |error| inner(*error)).take(CAUSES_MAX)
}
