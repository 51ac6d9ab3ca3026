//! What people wrote: LinuxKit's YAML, typed, with positions.
