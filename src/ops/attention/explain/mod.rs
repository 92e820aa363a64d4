//! What a call does, before it is made: kernels, tiles, operations and bytes, and what was not chosen.

mod backward;
mod display;
mod facts;
mod forward;

use super::{Attention, Offsets, check, packed};
use crate::dtype::Float;
use crate::error::Result;
use crate::kernels::attention::{Forward, Launch};
use crate::plan::attention::{TileCounts, Work};
use crate::tensor::View;
use facts::{Facts, Sizes};

/// What [`explain`] finds out. Its [`Display`](std::fmt::Display) is a page of text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// Shapes, element type and device in words.
    pub call: String,
    /// Pairs of a query and a key, of all batch entries and heads.
    pub pairs: u64,
    /// Those of them that the mask shows. What a bias of -inf hides is not counted out.
    pub visible: u64,
    /// The forward operation.
    pub forward: ExplainedPass,
    /// The backward operation.
    pub backward: ExplainedPass,
}

/// One direction of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExplainedPass {
    /// In the order of their launches.
    pub kernels: Vec<ExplainedKernel>,
    /// What else was possible.
    pub rejected: Vec<RejectedPlan>,
    /// Operations by the field's count: two for each multiplication and addition of the products of visible pairs, `4 D` forward and `10 D`
    /// backward if v has rows as q.
    pub flops: u64,
    /// Bytes that must move: every distinct element of the operands read once, results written once.
    pub bytes: u64,
    /// Bytes of memory that the call takes beside its operands and results, and gives back.
    pub workspace: u64,
}

impl ExplainedPass {
    /// Operations of tensor cores: [`flops`](Self::flops) and what hidden pairs in computed tiles, padding of heads and rows, and the three
    /// products of f32 add.
    pub fn executed_flops(&self) -> u64 {
        self.kernels.iter().map(|kernel| kernel.flops).sum()
    }
}

/// One launch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExplainedKernel {
    /// The kernel's name, as profilers show it.
    pub symbol: String,
    /// Blocks along x, y and z.
    pub grid: [u64; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared: u64,
    /// What it does, in words.
    pub plan: String,
    /// Its tiles of pairs, if it is one that has them.
    pub tiles: Option<TileCounts>,
    /// Operations of tensor cores.
    pub flops: u64,
    /// Bytes of operands that blocks ask for, from memory or caches: again for every block that meets them. 0 for kernels without tiles.
    pub bytes_read: u64,
}

/// A plan that was possible, and why it is not the one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RejectedPlan {
    /// The plan.
    pub plan: String,
    /// Why not.
    pub reason: String,
}

impl RejectedPlan {
    fn new(plan: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { plan: plan.into(), reason: reason.into() }
    }
}

impl ExplainedKernel {
    fn new(launch: &Launch, plan: String) -> Self {
        let Launch { id, shape } = launch;
        Self {
            symbol: id.symbol(),
            grid: shape.grid,
            threads: shape.block.iter().product(),
            shared: shape.shared,
            plan,
            tiles: None,
            flops: 0,
            bytes_read: 0,
        }
    }

    /// With what it does of the pairs: `products` multiplications of rows of `width` elements for each.
    fn with(self, work: &Work, products: u64, width: u64, bytes_read: u64) -> Self {
        Self { tiles: Some(work.tiles), flops: 2 * work.pairs * products * width, bytes_read, ..self }
    }
}

const OP: &str = "attention_explain";

/// What [`forward`](super::forward) with these arguments, and [`backward`](super::backward) behind it, do on a GPU: which kernels are launched and how, why they and no others, which tiles
/// of pairs they compute, mask and skip, and how many operations and bytes that takes.
///
/// Launches come from the same functions that make them, and tiles are counted by the rules of the kernels. Operands may be
/// anywhere: what would run on a GPU can be asked without one. Values are not looked at, but key lengths, segments, boolean
/// masks and offsets are: the host waits for the device that has them, and so this cannot be captured in a graph. Takes a moment where a
/// boolean mask is large.
///
/// # Errors
/// As [`forward`](super::forward).
///
/// ```
/// use sumexp::attention::{Attention, explain};
/// use sumexp::mask::Align;
/// use sumexp::{Device, Mask, Tensor, f16};
/// let x = Tensor::<f16>::zeros(&Device::cpu(), &[1, 1, 4096, 64])?;
/// let causal = Attention { mask: Mask::Causal(Align::TopLeft), ..Attention::default() };
/// let explanation = explain(&x, &x, &x, &causal)?;
/// println!("{explanation}");
/// let tiles = explanation.forward.kernels[0].tiles.unwrap();
/// // Tiles of 128 queries and 64 keys: of the 64 along a row of tiles, the first has 2 to compute, the last all.
/// assert_eq!((tiles.computed(), tiles.masked, tiles.skipped), (1056, 64, 992));
/// assert_eq!(explanation.visible, 4096 * 4097 / 2);
/// # Ok::<(), sumexp::Error>(())
/// ```
pub fn explain<'a, T: Float>(
    q: impl Into<View<'a, T>>,
    k: impl Into<View<'a, T>>,
    v: impl Into<View<'a, T>>,
    options: &Attention<'a>,
) -> Result<Explanation> {
    of_call(&check::operands(OP, [q.into(), k.into(), v.into()], options, None)?)
}

/// [`explain`] for [`forward_packed`](super::forward_packed).
///
/// # Errors
/// As [`forward_packed`](super::forward_packed).
pub fn explain_packed<'a, T: Float>(
    q: impl Into<View<'a, T>>,
    k: impl Into<View<'a, T>>,
    v: impl Into<View<'a, T>>,
    q_offsets: impl Into<Offsets<'a>>,
    k_offsets: impl Into<Offsets<'a>>,
    options: &Attention<'a>,
) -> Result<Explanation> {
    of_call(&packed::check(OP, [q.into(), k.into(), v.into()], [q_offsets.into(), k_offsets.into()], options)?)
}

fn of_call<T: Float>(call: &Forward<T>) -> Result<Explanation> {
    let (sizes, facts) = (Sizes::of(call), Facts::of(call)?);
    let (mut pairs, mut visible) = (0, 0);
    facts.each(&mut |sight, heads| {
        pairs += sight.pairs() * heads;
        visible += sight.visible() * heads;
    });
    let forward = forward::explained(call, &sizes, &facts, visible);
    let backward = backward::explained(call, &sizes, &facts, visible);
    Ok(Explanation { call: sizes.words(call), pairs, visible, forward, backward })
}
