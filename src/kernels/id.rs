//! The names of all kernels, in the one place where they are written.

use crate::dtype::DType;
use crate::plan::attention::{Kind, Part};
use crate::plan::{Piece, inference, loss, sample, softmax};

/// One entry point of the compiled kernel files: which operation, for which element type, in which variant.
///
/// A test compares [`KernelId::all`] with the compiled images: every name exists there, and nothing there is without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KernelId {
    /// Attention: weighted rows of v, and the lse.
    AttentionForward {
        /// Of q, k, v and out.
        dtype: DType,
        /// Largest head size.
        head: u32,
        /// For which masks and GPUs.
        kind: Kind,
    },
    /// Rows of 16-bit elements, as tensor maps can describe them.
    AttentionPack,
    /// The bytes of a mask as bits, and what cells of them have in common.
    AttentionMaskBits,
    /// The smallest and the largest segment of neighbouring positions.
    AttentionMaskSpans,
    /// Attention over keys that were split between blocks: the results of what each split left.
    AttentionMerge {
        /// Of out.
        dtype: DType,
    },
    /// Two attentions over different keys merged into one.
    AttentionPartial {
        /// Of both and of the result.
        dtype: DType,
        /// Whether it is the gradients of both.
        backward: bool,
    },
    /// The weights of attention themselves.
    AttentionWeights {
        /// Of q, k and the weights.
        dtype: DType,
    },
    /// Attention: what its gradients need to know of each query.
    AttentionBackwardRows {
        /// Of out.
        dtype: DType,
    },
    /// Attention: gradients of q, or of k and v.
    AttentionBackward {
        /// Of all of them.
        dtype: DType,
        /// Largest head size.
        head: u32,
        /// Which gradients.
        part: Part,
        /// For which masks and GPUs.
        kind: Kind,
    },
    /// Softmax, log-softmax, logsumexp and the gradient of logsumexp.
    SoftmaxForward {
        /// Of the logits.
        dtype: DType,
        /// Which part of the work, and how rows are held.
        form: SoftmaxForm,
    },
    /// Gradients of softmax and log-softmax.
    SoftmaxBackward {
        /// Of the results.
        dtype: DType,
        /// Which part of the work, and how rows are held.
        form: SoftmaxForm,
    },
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
    /// As `CrossEntropyForward`, where every class has a share of the loss, or with statistics of every row.
    CrossEntropyDenseForward {
        /// Of the logits.
        dtype: DType,
        /// How a row is held.
        piece: Piece,
    },
    /// As `CrossEntropyBackward`, where every class has a share of the loss.
    CrossEntropyDenseBackward {
        /// Of the logits.
        dtype: DType,
        /// How a row is held.
        piece: Piece,
    },
    /// Any of the four with few classes along another dim.
    CrossEntropyColumns {
        /// Of the logits.
        dtype: DType,
        /// Whether every class has a share of the loss.
        dense: bool,
        /// Whether it is the gradient.
        backward: bool,
    },
    /// Loss, lse and saved state of every row, and the gradient of its logits.
    CrossEntropyFused {
        /// Of the logits.
        dtype: DType,
        /// Whether every class has a share of the loss, or rows have statistics.
        dense: bool,
        /// How a row is held.
        piece: Piece,
    },
    /// Losses of single elements, or their sums by chunks.
    BinaryCrossEntropyForward {
        /// Of the logits.
        dtype: DType,
    },
    /// Gradient of the logits of single elements.
    BinaryCrossEntropyBackward {
        /// Of the logits.
        dtype: DType,
    },
    /// Divergence of every pair of rows of logits.
    DivergenceForward {
        /// Of the logits.
        dtype: DType,
        /// How each of the two rows is held.
        piece: Piece,
    },
    /// Gradient of the student's logits.
    DivergenceBackward {
        /// Of the logits.
        dtype: DType,
        /// How each of the two rows is held.
        piece: Piece,
    },
    /// The logits of chosen classes, or their gradients back in their places.
    DivergenceTopK {
        /// Bits of an element, 16 or 32.
        bits: u32,
        /// Whether it is the gradient.
        backward: bool,
    },
    /// Loss of every row of log-probabilities.
    NllForward {
        /// Of the log-probabilities.
        dtype: DType,
    },
    /// Its gradient at the targets.
    NllBackward {
        /// Of the log-probabilities.
        dtype: DType,
    },
    /// Its gradient everywhere else.
    NllZeros,
    /// sigmoid, log-sigmoid and their gradients.
    Sigmoid {
        /// Of the arguments.
        dtype: DType,
    },
    /// The index of the largest element of a row along the last dim.
    Argmax {
        /// Of the elements.
        dtype: DType,
        /// How a row is held.
        piece: Piece,
    },
    /// The index of the largest element of a row along another dim.
    ArgmaxColumns {
        /// Of the elements.
        dtype: DType,
    },
    /// Confidence, margin and entropy of a row along the last dim.
    Confidence {
        /// Of the logits.
        dtype: DType,
        /// How a row is held.
        piece: Piece,
    },
    /// The softmax of a row with Gumbel noise on it.
    GumbelSoftmax {
        /// Of the logits.
        dtype: DType,
        /// Lanes that share a row.
        lanes: u32,
    },
    /// An index of a row, drawn at random.
    Sample {
        /// Of the logits.
        dtype: DType,
        /// How a row is held.
        piece: Piece,
    },
    /// Confidence, margin and entropy of a row along another dim.
    ConfidenceColumns {
        /// Of the logits.
        dtype: DType,
    },
    /// The largest elements of a row.
    TopK {
        /// Of the elements.
        dtype: DType,
        /// How a row is held.
        piece: Piece,
    },
    /// Adds up chunks of losses, counts targets, finds bad ones.
    LossCollect,
    /// Adds up the chunks.
    LossFinish,
}

/// The forms of the softmax kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SoftmaxForm {
    /// A whole row in registers.
    Rows(Piece),
    /// Any dim but the last, with 16 bytes of columns per lane, or one column.
    Columns {
        /// Whether it is 16 bytes.
        wide: bool,
    },
    /// The first kernel for long rows: one partial result per slice.
    Partial,
    /// The second kernel for long rows.
    Results,
}

/// The element types that operations compute on.
const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

impl KernelId {
    /// The name of the entry point.
    pub fn symbol(self) -> String {
        let held = |Piece { lanes, vectors }: Piece| format!("{lanes}x{vectors}");
        let softmax = |form, partial: &str| match form {
            SoftmaxForm::Rows(piece) => held(piece),
            SoftmaxForm::Columns { wide } => if wide { "wide_columns" } else { "columns" }.to_owned(),
            SoftmaxForm::Partial => partial.to_owned(),
            SoftmaxForm::Results => "results".to_owned(),
        };
        let takes = |kind| match kind {
            Kind::Bands => "",
            Kind::General => "_general",
            Kind::Sm90a => "_sm90a",
        };
        match self {
            Self::AttentionForward { dtype, head, kind } => format!("attention_forward_{dtype}_{head}{}", takes(kind)),
            Self::AttentionPack => "attention_pack_sm90a".to_owned(),
            Self::AttentionMaskBits => "attention_mask_bits".to_owned(),
            Self::AttentionMaskSpans => "attention_mask_spans".to_owned(),
            Self::AttentionMerge { dtype } => format!("attention_merge_{dtype}"),
            Self::AttentionWeights { dtype } => format!("attention_weights_{dtype}"),
            Self::AttentionBackwardRows { dtype } => format!("attention_backward_rows_{dtype}"),
            Self::AttentionBackward { dtype, head, part, kind } => {
                let part = match part {
                    Part::Queries => "queries",
                    Part::KeysAndValues => "keys_and_values",
                    Part::Keys => "keys",
                    Part::Values => "values",
                    Part::Bias => "bias",
                };
                format!("attention_backward_{part}_{dtype}_{head}{}", takes(kind))
            }
            Self::AttentionPartial { dtype, backward } => {
                format!("attention_partial_{}{dtype}", if backward { "backward_" } else { "" })
            }
            Self::SoftmaxForward { dtype, form } => format!("softmax_forward_{dtype}_{}", softmax(form, "states")),
            Self::SoftmaxBackward { dtype, form } => format!("softmax_backward_{dtype}_{}", softmax(form, "sums")),
            Self::CrossEntropyForward { dtype, piece } => format!("cross_entropy_forward_{dtype}_{}", held(piece)),
            Self::CrossEntropyBackward { dtype, piece } => format!("cross_entropy_backward_{dtype}_{}", held(piece)),
            Self::CrossEntropyFused { dtype, dense, piece } => {
                format!("cross_entropy_fused{}_{dtype}_{}", if dense { "_dense" } else { "" }, held(piece))
            }
            Self::CrossEntropyDenseForward { dtype, piece } => {
                format!("cross_entropy_dense_forward_{dtype}_{}", held(piece))
            }
            Self::CrossEntropyDenseBackward { dtype, piece } => {
                format!("cross_entropy_dense_backward_{dtype}_{}", held(piece))
            }
            Self::CrossEntropyColumns { dtype, dense, backward } => {
                let direction = if backward { "backward" } else { "forward" };
                format!("cross_entropy{}_{direction}_{dtype}_columns", if dense { "_dense" } else { "" })
            }
            Self::BinaryCrossEntropyForward { dtype } => format!("binary_cross_entropy_forward_{dtype}"),
            Self::BinaryCrossEntropyBackward { dtype } => format!("binary_cross_entropy_backward_{dtype}"),
            Self::DivergenceForward { dtype, piece } => format!("divergence_forward_{dtype}_{}", held(piece)),
            Self::DivergenceBackward { dtype, piece } => format!("divergence_backward_{dtype}_{}", held(piece)),
            Self::DivergenceTopK { bits, backward } => {
                format!("divergence_{}_{bits}", if backward { "place" } else { "pick" })
            }
            Self::NllForward { dtype } => format!("nll_forward_{dtype}"),
            Self::NllBackward { dtype } => format!("nll_backward_{dtype}"),
            Self::NllZeros => "nll_zeros".to_owned(),
            Self::Sigmoid { dtype } => format!("sigmoid_{dtype}"),
            Self::Argmax { dtype, piece } => format!("argmax_{dtype}_{}", held(piece)),
            Self::ArgmaxColumns { dtype } => format!("argmax_{dtype}_columns"),
            Self::Confidence { dtype, piece } => format!("confidence_{dtype}_{}", held(piece)),
            Self::GumbelSoftmax { dtype, lanes } => format!("gumbel_softmax_{dtype}_{lanes}"),
            Self::Sample { dtype, piece } => format!("sample_{dtype}_{}", held(piece)),
            Self::ConfidenceColumns { dtype } => format!("confidence_{dtype}_columns"),
            Self::TopK { dtype, piece } => format!("top_k_{dtype}_{}", held(piece)),
            Self::LossCollect => "loss_collect".to_owned(),
            Self::LossFinish => "loss_finish".to_owned(),
        }
    }

    /// The kernel file that defines it, without its extension.
    pub fn image(self) -> &'static str {
        match self {
            Self::AttentionForward { dtype: DType::F16, kind: Kind::Sm90a, .. } => "attention_forward_f16_sm90a",
            Self::AttentionForward { kind: Kind::Sm90a, .. } => "attention_forward_bf16_sm90a",
            Self::AttentionForward { dtype: DType::F16, .. } => "attention_forward_f16",
            Self::AttentionForward { dtype: DType::BF16, .. } => "attention_forward_bf16",
            Self::AttentionForward { .. } => "attention_forward_f32",
            Self::AttentionMaskBits | Self::AttentionMaskSpans => "attention_mask",
            Self::AttentionPack => "attention_pack_sm90a",
            Self::AttentionMerge { .. } => "attention_merge",
            Self::AttentionBackwardRows { .. } => "attention_backward_rows",
            Self::AttentionBackward { dtype: DType::F16, kind: Kind::Sm90a, .. } => "attention_backward_f16_sm90a",
            Self::AttentionBackward { kind: Kind::Sm90a, .. } => "attention_backward_bf16_sm90a",
            Self::AttentionBackward { dtype, part, .. } => match (dtype, part) {
                (DType::F16, Part::Bias) => "attention_backward_bias_f16",
                (DType::BF16, Part::Bias) => "attention_backward_bias_bf16",
                (_, Part::Bias) => "attention_backward_bias_f32",
                (DType::F16, Part::Queries) => "attention_backward_queries_f16",
                (DType::BF16, Part::Queries) => "attention_backward_queries_bf16",
                (_, Part::Queries) => "attention_backward_queries_f32",
                (DType::F16, _) => "attention_backward_keys_f16",
                (DType::BF16, _) => "attention_backward_keys_bf16",
                (..) => "attention_backward_keys_f32",
            },
            Self::AttentionPartial { .. } => "attention_partial",
            Self::AttentionWeights { .. } => "attention_weights",
            Self::SoftmaxForward { form, .. } | Self::SoftmaxBackward { form, .. } => match (form, self) {
                (SoftmaxForm::Columns { .. }, _) => "softmax_columns",
                (SoftmaxForm::Partial | SoftmaxForm::Results, _) => "softmax_split",
                (SoftmaxForm::Rows(_), Self::SoftmaxForward { .. }) => "softmax_forward",
                (SoftmaxForm::Rows(_), _) => "softmax_backward",
            },
            Self::BinaryCrossEntropyForward { .. } | Self::BinaryCrossEntropyBackward { .. } => "loss_binary",
            Self::DivergenceForward { .. } => "loss_divergence",
            Self::DivergenceBackward { .. } => "loss_divergence_backward",
            Self::DivergenceTopK { .. } => "loss_divergence_top_k",
            Self::CrossEntropyFused { dense: true, .. } => "loss_fused_dense",
            Self::CrossEntropyFused { .. } => "loss_fused",
            Self::NllForward { .. } | Self::NllBackward { .. } | Self::NllZeros => "loss_nll",
            Self::Sigmoid { .. } => "sigmoid",
            Self::Argmax { .. } | Self::ArgmaxColumns { .. } => "inference_argmax",
            Self::GumbelSoftmax { .. } => "inference_gumbel",
            Self::Sample { .. } => "inference_sample",
            Self::Confidence { .. } | Self::ConfidenceColumns { .. } => "inference_confidence",
            Self::TopK { .. } => "inference_top_k",
            Self::CrossEntropyDenseForward { .. } | Self::CrossEntropyDenseBackward { .. } => "loss_dense",
            Self::CrossEntropyColumns { .. } => "loss_columns",
            Self::CrossEntropyForward { .. }
            | Self::CrossEntropyBackward { .. }
            | Self::LossCollect
            | Self::LossFinish => "loss",
        }
    }

    /// Every entry point.
    pub fn all() -> impl Iterator<Item = Self> {
        let losses = FLOATS.into_iter().flat_map(|dtype| {
            let forward = loss::FORWARD.map(|piece| Self::CrossEntropyForward { dtype, piece });
            let backward = loss::BACKWARD.map(|piece| Self::CrossEntropyBackward { dtype, piece });
            let fused = loss::FORWARD.map(|piece| Self::CrossEntropyFused { dtype, dense: false, piece });
            let both = loss::DENSE.map(|piece| Self::CrossEntropyFused { dtype, dense: true, piece });
            let dense = loss::DENSE.into_iter().flat_map(move |piece| {
                [Self::CrossEntropyDenseForward { dtype, piece }, Self::CrossEntropyDenseBackward { dtype, piece }]
            });
            let columns = [(false, false), (false, true), (true, false), (true, true)]
                .map(|(dense, backward)| Self::CrossEntropyColumns { dtype, dense, backward });
            let divergences = loss::DIVERGENCE.into_iter().flat_map(move |piece| {
                [Self::DivergenceForward { dtype, piece }, Self::DivergenceBackward { dtype, piece }]
            });
            let cross_entropies =
                forward.into_iter().chain(backward).chain(fused).chain(both).chain(dense).chain(columns);
            let of_log_probabilities = [Self::NllForward { dtype }, Self::NllBackward { dtype }];
            cross_entropies.chain(divergences).chain(of_log_probabilities)
        });
        let softmaxes = FLOATS.into_iter().flat_map(|dtype| {
            let forward = softmax_forms(softmax::FORWARD).map(move |form| Self::SoftmaxForward { dtype, form });
            let backward = softmax_forms(softmax::BACKWARD).map(move |form| Self::SoftmaxBackward { dtype, form });
            forward.chain(backward)
        });
        let of_elements = FLOATS.into_iter().flat_map(|dtype| {
            let binary = [Self::BinaryCrossEntropyForward { dtype }, Self::BinaryCrossEntropyBackward { dtype }];
            binary.into_iter().chain([Self::Sigmoid { dtype }])
        });
        let attention = FLOATS.into_iter().flat_map(super::attention::kernels).chain(super::attention::OF_ALL_TYPES);
        let inferences = FLOATS.into_iter().flat_map(|dtype| {
            let rows = inference::ROWS
                .into_iter()
                .flat_map(move |piece| [Self::Argmax { dtype, piece }, Self::Confidence { dtype, piece }]);
            let top_k = inference::TOP_K.map(|piece| Self::TopK { dtype, piece });
            rows.chain(top_k).chain([Self::ArgmaxColumns { dtype }, Self::ConfidenceColumns { dtype }])
        });
        let draws = FLOATS.into_iter().flat_map(|dtype| {
            let samples = sample::SAMPLE.map(|piece| Self::Sample { dtype, piece });
            let gumbel = sample::gumbel_pieces(dtype).map(|piece| Self::GumbelSoftmax { dtype, lanes: piece.lanes });
            samples.into_iter().chain(gumbel)
        });
        let choices =
            [16, 32].into_iter().flat_map(|bits| [false, true].map(|backward| Self::DivergenceTopK { bits, backward }));
        attention
            .chain(choices)
            .chain(softmaxes)
            .chain(losses)
            .chain(of_elements)
            .chain(inferences)
            .chain(draws)
            .chain([Self::LossCollect, Self::LossFinish, Self::NllZeros])
    }
}

fn softmax_forms(ladder: [softmax::Rung; 6]) -> impl Iterator<Item = SoftmaxForm> {
    let columns = [true, false].map(|wide| SoftmaxForm::Columns { wide });
    let rows = ladder.into_iter().map(|rung| SoftmaxForm::Rows(rung.piece));
    rows.chain(columns).chain([SoftmaxForm::Partial, SoftmaxForm::Results])
}
