//! Decoding of the family `convert`.

use super::{Decoded, Lower};
use crate::ptx::Statement;

/// Decodes a statement of this family.
pub fn decode(_stmt: &Statement, _lower: &mut Lower<'_>) -> Option<Decoded> {
    None
}
