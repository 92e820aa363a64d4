//! Operations of the family `half`.
