//! The names of all kernels, in the one place where they are written.

use crate::dtype::DType;
use crate::plan::loss::{self, Piece};

/// One entry point of the compiled kernel files: which operation, for which element type, in which variant.
///
/// A test compares [`KernelId::all`] with the compiled images: every name exists there, and nothing there is without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KernelId {
    /// Loss, lse and saved state of every row.
    CrossEntropyForward {
        /// Of the logits.
        dtype: DType,
        /// How a row is held.
        piece: Piece,
    },
    /// Gradient of the logits, classes along the last dim.
    CrossEntropyBackward {
        /// Of the logits.
        dtype: DType,
        /// How a row is held.
        piece: Piece,
    },
    /// Gradient of the logits, classes along another dim.
    CrossEntropyBackwardColumns {
        /// Of the logits.
        dtype: DType,
    },
    /// Adds up chunks of losses, counts targets, finds bad ones.
    LossCollect,
    /// Adds up the chunks.
    LossFinish,
}

/// The element types that operations compute on.
const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

impl KernelId {
    /// The name of the entry point.
    pub fn symbol(self) -> String {
        let held = |Piece { lanes, vectors }: Piece| format!("{lanes}x{vectors}");
        match self {
            Self::CrossEntropyForward { dtype, piece } => format!("cross_entropy_forward_{dtype}_{}", held(piece)),
            Self::CrossEntropyBackward { dtype, piece } => format!("cross_entropy_backward_{dtype}_{}", held(piece)),
            Self::CrossEntropyBackwardColumns { dtype } => format!("cross_entropy_backward_{dtype}_columns"),
            Self::LossCollect => "loss_collect".to_owned(),
            Self::LossFinish => "loss_finish".to_owned(),
        }
    }

    /// The kernel file that defines it, without its extension.
    pub fn image(self) -> &'static str {
        match self {
            Self::CrossEntropyForward { .. }
            | Self::CrossEntropyBackward { .. }
            | Self::CrossEntropyBackwardColumns { .. }
            | Self::LossCollect
            | Self::LossFinish => "loss",
        }
    }

    /// Every entry point.
    pub fn all() -> impl Iterator<Item = Self> {
        let losses = FLOATS.into_iter().flat_map(|dtype| {
            let forward = loss::FORWARD.map(|piece| Self::CrossEntropyForward { dtype, piece });
            let backward = loss::BACKWARD.map(|piece| Self::CrossEntropyBackward { dtype, piece });
            forward.into_iter().chain(backward).chain([Self::CrossEntropyBackwardColumns { dtype }])
        });
        losses.chain([Self::LossCollect, Self::LossFinish])
    }
}
