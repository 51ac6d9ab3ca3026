//! The build engine of kiln.
