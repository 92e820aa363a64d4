//! Operations of the family `float`.
