//! The forward operation explained.

use super::facts::{Facts, Sizes, operand_bytes};
use super::{ExplainedKernel, ExplainedPass, RejectedPlan};
use crate::dtype::Float;
use crate::kernels::attention::{self as kernel, Forward, Launches, Packing, Planned};
use crate::plan::attention::{self as plan, Kind, SPLIT_KEYS, Sight, Work};

/// `visible` pairs are counted already.
pub(super) fn explained<T: Float>(call: &Forward<T>, sizes: &Sizes, facts: &Facts<T>, visible: u64) -> ExplainedPass {
    let planned = kernel::planned(call);
    let Planned { plan, sharing, seen, packings, .. } = &planned;
    let mut kernels = of_masks(call);
    let mut workspace = call.masking.workspace();
    let results = sizes.rows() * (sizes.value_size * sizes.bytes + 4);
    // Without results there are no launches.
    if sizes.rows() * sizes.value_size > 0 {
        let work = work(plan, sharing, seen.clone(), facts);
        let Launches { first, merge } = kernel::launches(&planned, sizes.rows(), T::DTYPE);
        let Sizes { head_size, value_size, .. } = *sizes;
        let read = sizes.bytes * (work.rows * head_size + work.columns * (head_size + value_size));
        let width = u64::from(plan.tiles.head) * sizes.steps();
        kernels.extend(packings.iter().flatten().map(of_packing));
        workspace += packings.iter().flatten().map(Packing::bytes).sum::<u64>();
        kernels.push(ExplainedKernel::new(&first, plan.to_string()).with(&work, 2, width, read));
        let words = || format!("merges {} splits of {SPLIT_KEYS} keys", plan.splits);
        kernels.extend(merge.map(|launch| ExplainedKernel::new(&launch, words())));
        if plan.splits > 1 {
            workspace += plan.splits * sizes.rows() * (value_size + 2) * 4;
        }
    } else {
        kernels.clear();
        workspace = 0;
    }
    ExplainedPass {
        kernels,
        rejected: rejected(call, sizes, &planned),
        flops: 2 * visible * (sizes.head_size + sizes.value_size),
        bytes: operand_bytes(call) + results,
        workspace,
    }
}

/// A kernel that packs an operand.
pub(super) fn of_packing(packing: &Packing) -> ExplainedKernel {
    ExplainedKernel::new(&packing.launch(), "puts rows of an operand at multiples of 16 bytes".to_owned())
}

/// The kernels that look at masks first.
pub(super) fn of_masks<T: Float>(call: &Forward<T>) -> Vec<ExplainedKernel> {
    let words = "what cells of the mask have in common, so that tiles are skipped".to_owned();
    call.masking.launches().iter().map(|launch| ExplainedKernel::new(launch, words.clone())).collect()
}

fn work<T: Float>(
    plan: &plan::Forward,
    sharing: &Result<u64, &'static str>,
    seen: std::ops::Range<u64>,
    facts: &Facts<T>,
) -> Work {
    let (footprint, mut all) = (plan.footprint(), Work::default());
    let mut add = |sight: &Sight, heads: u64| {
        if plan.splits == 1 {
            all += sight.by_queries(footprint, 0..u64::MAX) * heads;
        }
        for split in (0..plan.splits).filter(|_| plan.splits > 1) {
            let first = plan.split_from + split * SPLIT_KEYS;
            all += sight.by_queries(footprint, first..first + SPLIT_KEYS) * heads;
        }
    };
    match sharing {
        Ok(group) => facts.each_shared(*group, seen, &mut add),
        Err(_) => facts.each(&mut add),
    }
    all
}

fn rejected<T: Float>(call: &Forward<T>, sizes: &Sizes, planned: &Planned) -> Vec<RejectedPlan> {
    let Planned { plan: chosen, sharing, seen, portable, .. } = planned;
    let mut rejected = other_heads(sizes, chosen.tiles.head, plan::heads(T::DTYPE).into_iter());
    rejected.push(of_generality(call));
    rejected.push(of_warpgroups(call, sizes, chosen, *portable));
    rejected.push(match plan::split(sizes.queries, seen.clone(), call.offsets.is_some()) {
        Err(reason) => RejectedPlan::new("keys split between blocks", reason),
        Ok(_) => {
            let reason = format!("{} queries keep too few multiprocessors busy", sizes.queries);
            RejectedPlan::new("all keys of a query in one block", reason)
        }
    });
    rejected.push(match sharing {
        Err(reason) => RejectedPlan::new("heads that share keys as queries of one head", *reason),
        Ok(group) => {
            let reason = format!("a block that has read a key serves all {group} heads that share it");
            RejectedPlan::new("a block for every head", reason)
        }
    });
    rejected
}

/// The kernel for other GPUs than the chosen one is for; if that is every GPU, with the reason.
pub(super) fn other_gpus(chosen: Kind, reason: Option<&'static str>) -> RejectedPlan {
    if chosen == Kind::Sm90a {
        let reason =
            "products of warpgroups read their operands from shared memory, and tiles come without a thread's work";
        return RejectedPlan::new("the kernel for every GPU", reason);
    }
    RejectedPlan::new("the kernel for compute capability 9.0", reason.unwrap_or("it cannot run"))
}

fn of_warpgroups<T: Float>(
    call: &Forward<T>,
    sizes: &Sizes,
    chosen: &plan::Forward,
    portable: Option<&'static str>,
) -> RejectedPlan {
    let head = sizes.head_size.max(sizes.value_size);
    let fits = plan::warpgroups(head, T::DTYPE, call.general().is_some(), chosen.splits > 1);
    other_gpus(chosen.kind, fits.err().or(portable))
}

/// Kernels for the head sizes next to the chosen one.
pub(super) fn other_heads(sizes: &Sizes, chosen: u32, heads: impl Iterator<Item = u32> + Clone) -> Vec<RejectedPlan> {
    let widest = sizes.head_size.max(sizes.value_size);
    let words = |head: u32| format!("the kernel for heads of up to {head} elements");
    let smaller = heads.clone().filter(|head| *head < chosen).max();
    let larger = heads.filter(|head| *head > chosen).min();
    let smaller = smaller.map(|head| RejectedPlan::new(words(head), format!("heads have {widest}")));
    let larger =
        larger.map(|head| RejectedPlan::new(words(head), format!("it would fill heads of {widest} up with zeros")));
    smaller.into_iter().chain(larger).collect()
}

/// The kernel for the other kind of masks and scores.
pub(super) fn of_generality<T: Float>(call: &Forward<T>) -> RejectedPlan {
    match call.general() {
        Some(reason) => RejectedPlan::new("the kernel for bands and lengths alone", reason),
        None => RejectedPlan::new(
            "the kernel for masks and scores of any kind",
            "it has fewer queries to a warp, and nothing needs a look at single pairs",
        ),
    }
}
