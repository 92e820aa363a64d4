//! Operations of the family `int`.
