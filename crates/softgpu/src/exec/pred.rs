//! Operations of the family `pred`.
