//! The launches of merging attentions over different keys.

use super::KernelId;
use crate::dtype::{DType, Float};
use crate::error::Result;
use crate::kernels::operand::{Walk, absent};
use crate::kernels::params::{AttentionPartialBackwardParams, AttentionPartialParams, AttentionParts};
use crate::kernels::{LaunchShape, launch};
use crate::plan::attention as plan;
use crate::tensor::{View, ViewMut};

/// Rows `[.., size]` and one number per row, `[..]`; both on one GPU.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a, T> {
    pub(crate) out: View<'a, T>,
    pub(crate) lse: View<'a, f32>,
}

/// Where a merged part goes: contiguous, of the same shapes.
pub(crate) struct Merged<'a, T> {
    pub(crate) out: ViewMut<'a, T>,
    pub(crate) lse: Option<ViewMut<'a, f32>>,
}

/// Where the gradients of a part go: contiguous, of the same shapes.
pub(crate) struct Gradients<'a, T> {
    pub(crate) dout: ViewMut<'a, T>,
    pub(crate) dlse: ViewMut<'a, f32>,
}

/// Where the rows of up to six operands are: rows of elements and single numbers in turn.
fn walk<T: Float>(parts: &[Part<T>]) -> Walk {
    let rows: Vec<Vec<u64>> = parts.iter().map(|part| part.out.layout().strides().to_vec()).collect();
    let strides = parts.iter().zip(&rows);
    let operands: Vec<&[u64]> =
        strides.flat_map(|(part, rows)| [&rows[..rows.len() - 1], part.lse.layout().strides()]).collect();
    Walk::new(parts[0].lse.dims(), &operands)
}

fn parts<T: Float>(walk: &Walk, [a, b]: [&Part<T>; 2]) -> AttentionParts {
    AttentionParts {
        positions: walk.positions,
        a_out: walk.operand(0, a.out.address(), step(&a.out)),
        a_lse: walk.operand(1, a.lse.address(), 0),
        b_out: walk.operand(2, b.out.address(), step(&b.out)),
        b_lse: walk.operand(3, b.lse.address(), 0),
        size: a.out.dims()[a.out.dims().len() - 1] as u64,
    }
}

/// The distance between the elements of a row.
fn step<T: Float>(view: &View<T>) -> u64 {
    *view.layout().strides().last().expect("rows have a dim")
}

fn shape(rows: u64) -> LaunchShape {
    let (blocks, threads) = plan::warps(rows);
    LaunchShape { grid: [blocks, 1, 1], block: [threads, 1, 1], shared: 0 }
}

/// Enqueues the merge of two parts with at least one row.
pub(crate) fn merge<T: Float>(op: &'static str, a: Part<T>, b: Part<T>, mut merged: Merged<T>) -> Result<()> {
    let walk = walk(&[a, b]);
    let params = AttentionPartialParams {
        parts: parts(&walk, [&a, &b]),
        out: merged.out.address(op, "out")? as *mut _,
        lse: merged.lse.as_mut().map_or(Ok(0), |lse| lse.address(op, "lse"))? as *mut f32,
    };
    let id = KernelId::AttentionPartial { dtype: T::DTYPE, backward: false };
    // SAFETY: the parts are borrowed views of one shape whose strides the parameters repeat; the results were checked to be
    // contiguous and of that shape.
    unsafe { launch(a.out.device(), id, &shape(walk.positions.count), &params) }
}

/// Enqueues the gradients of two parts with at least one row. `upstream` is the gradient of the merged part; its lse is only looked at
/// where `has_dlse` says so.
pub(crate) fn merge_backward<T: Float>(
    op: &'static str,
    [a, b]: [Part<T>; 2],
    (upstream, has_dlse): (Part<T>, bool),
    [mut da, mut db]: [Gradients<T>; 2],
) -> Result<()> {
    let walk = walk(&[a, b, upstream]);
    let params = AttentionPartialBackwardParams {
        parts: parts(&walk, [&a, &b]),
        dout: walk.operand(4, upstream.out.address(), step(&upstream.out)),
        dlse: if has_dlse { walk.operand(5, upstream.lse.address(), 0) } else { absent() },
        a_dout: da.dout.address(op, "the gradient of a")? as *mut _,
        a_dlse: da.dlse.address(op, "the gradient of the lse of a")? as *mut f32,
        b_dout: db.dout.address(op, "the gradient of b")? as *mut _,
        b_dlse: db.dlse.address(op, "the gradient of the lse of b")? as *mut f32,
    };
    let id = KernelId::AttentionPartial { dtype: T::DTYPE, backward: true };
    // SAFETY: as above, for the gradient of the merged part too.
    unsafe { launch(a.out.device(), id, &shape(walk.positions.count), &params) }
}

/// The kernels that exist for an element type.
pub(super) fn kernels(dtype: DType) -> impl Iterator<Item = KernelId> {
    [false, true].into_iter().map(move |backward| KernelId::AttentionPartial { dtype, backward })
}
