//! The backward operation explained.

use super::facts::{Facts, Sizes, bytes, operand_bytes};
use super::forward::{of_generality, of_masks, of_packing, other_gpus, other_heads};
use super::{ExplainedKernel, ExplainedPass, RejectedPlan};
use crate::dtype::Float;
use crate::kernels::attention::{self as kernel, Forward, Packing, PlannedBackward};
use crate::plan::attention::{self as plan, Part, Sweep, Work};

/// `visible` pairs are counted already.
pub(super) fn explained<T: Float>(call: &Forward<T>, sizes: &Sizes, facts: &Facts<T>, visible: u64) -> ExplainedPass {
    let PlannedBackward { plan, portable, packings } = kernel::planned_backward(call, None);
    let launches = kernel::backward_launches(&plan, T::DTYPE);
    let (mut kernels, mut workspace) = (Vec::new(), 0);
    if !launches.is_empty() {
        kernels = of_masks(call);
        workspace = call.masking.workspace() + sizes.rows() * 16;
        kernels.extend(packings.iter().flatten().map(of_packing));
        workspace += packings.iter().flatten().map(Packing::bytes).sum::<u64>();
    }
    kernels.extend(launches.iter().map(|(launch, sweep)| match sweep {
        None => ExplainedKernel::new(launch, "dot(dout, out) - dlse of every query".to_owned()),
        Some(sweep) => {
            let (work, read) = of_sweep(call, sweep, sizes, facts);
            let width = u64::from(sweep.tiles.head) * sizes.steps();
            ExplainedKernel::new(launch, sweep.to_string()).with(&work, sweep.part.products(), width, read)
        }
    }));
    let head = plan.sweeps[0].tiles.head;
    let mut rejected = other_heads(sizes, head, plan::heads(T::DTYPE).into_iter());
    rejected.push(of_generality(call));
    rejected.push(of_warpgroups(call, sizes, &plan, portable));
    rejected.extend([one_kernel(), keys_and_values(&plan, head)]);
    let results = [&call.q, &call.k, &call.v].into_iter().map(bytes).sum::<u64>();
    let saved = 2 * sizes.rows() * sizes.value_size * sizes.bytes + 4 * sizes.rows();
    ExplainedPass {
        kernels,
        rejected,
        flops: 2 * visible * (3 * sizes.head_size + 2 * sizes.value_size),
        bytes: operand_bytes(call) + saved + results,
        workspace,
    }
}

fn of_warpgroups<T: Float>(
    call: &Forward<T>,
    sizes: &Sizes,
    chosen: &plan::Backward,
    portable: Option<&'static str>,
) -> RejectedPlan {
    let Sweep { kind, part, .. } = chosen.sweeps[0];
    let head = sizes.head_size.max(sizes.value_size);
    let fits = plan::backward_warpgroups(head, T::DTYPE, call.general().is_some(), part);
    other_gpus(kind, fits.err().or(portable))
}

/// What a kernel does, and how many bytes of operands and of what is known of queries its blocks ask for.
fn of_sweep<T: Float>(call: &Forward<T>, sweep: &Sweep, sizes: &Sizes, facts: &Facts<T>) -> (Work, u64) {
    let (footprint, mut work) = (sweep.footprint(), Work::default());
    let of_queries = matches!(sweep.part, Part::Queries | Part::Bias);
    facts.each(&mut |sight, heads| {
        let of_head = match (sweep.part, call.bias_gradient) {
            (Part::Bias, Some([.., queries, keys])) => {
                // One number for all of a dim is a number for each of them.
                let end = |own: usize| if own == 1 { u64::from(u32::MAX) } else { own as u64 };
                sight.by_pairs(footprint, [end(queries), end(keys)], keys > 1)
            }
            (Part::Queries | Part::Bias, _) => sight.by_queries(footprint, 0..u64::MAX),
            (Part::KeysAndValues | Part::Keys | Part::Values, _) => sight.by_keys(footprint),
        };
        work += of_head * heads;
    });
    let Sizes { heads, key_heads, head_size, value_size, .. } = *sizes;
    // A block that owns keys reads them once for all heads that share them.
    let rows = if of_queries { work.rows } else { work.rows * key_heads / heads.max(1) };
    // The gradient of v alone takes no v.
    let of_row = if sweep.part == Part::Values { head_size } else { head_size + value_size };
    let known = match sweep.part {
        Part::Queries => sizes.rows(),
        Part::Bias => work.rows,
        _ => work.columns,
    };
    (work, sizes.bytes * (rows * of_row + work.columns * (head_size + value_size)) + 16 * known)
}

fn one_kernel() -> RejectedPlan {
    RejectedPlan::new(
        "one kernel for all gradients",
        "gradients of queries would be added up by atomics, in any order, or by blocks that wait for each other",
    )
}

fn keys_and_values(chosen: &plan::Backward, head: u32) -> RejectedPlan {
    if chosen.sweeps.iter().any(|sweep| sweep.part == Part::KeysAndValues) {
        return RejectedPlan::new("a kernel each for keys and values", "one for both computes the scores once");
    }
    let reason = format!("there are no registers for both sums of heads of up to {head} elements");
    RejectedPlan::new("one kernel for keys and values", reason)
}
