//! Operations of the family `collective`.
