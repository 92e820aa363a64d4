//! Operations of the family `convert`.
