//! What becomes of the losses of a batch.

use crate::kernels::loss::Reduce;

/// What becomes of the losses of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduction {
    /// They stay apart: one per row, or per element.
    None,
    /// Their sum.
    Sum,
    /// Their sum, divided by how many count; 0 if none does.
    #[default]
    Mean,
}

impl From<Reduction> for Reduce {
    fn from(reduction: Reduction) -> Self {
        match reduction {
            Reduction::None => Self::None,
            Reduction::Sum => Self::Sum,
            Reduction::Mean => Self::Mean,
        }
    }
}
