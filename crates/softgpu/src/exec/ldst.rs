//! Operations of the family `ldst`.
