//! Content-addressed storage for kiln.
