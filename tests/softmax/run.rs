//! One case of one operation on one device, between guards, and what it must give.

use std::fmt;

use sumexp::{
    Device, Dim, Mask, Polarity, Result, SoftmaxOptions, hide, keep, log_softmax_backward_into, log_softmax_into,
    logsumexp_backward_into, logsumexp_into, softmax_backward_into, softmax_into, softmin_backward_into, softmin_into,
};

use crate::common::arrange::{Arrangement, Operand};
use crate::common::cases::Case;
use crate::common::compare::{Format, Tolerance, assert_right};
use crate::common::device::{assert_no_findings, devices};
use crate::common::family::{OPS, Op, forward_result, upstream, upstream_of_lse, want};
use crate::common::guard::Guarded;

/// What failure messages call a case.
pub struct Named<'a, T> {
    op: Op,
    case: &'a Case,
    device: &'a Device,
    dtype: std::marker::PhantomData<T>,
}

impl<T: Format> fmt::Display for Named<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Named { op, case, device, .. } = self;
        write!(f, "{op} {} {case} on {}", T::DTYPE, device.name())
    }
}

pub fn named<'a, T>(op: Op, case: &'a Case, device: &'a Device) -> Named<'a, T> {
    Named { op, case, device, dtype: std::marker::PhantomData }
}

/// What an operation gave: elements of the type, or one float32 per row for the lse.
pub enum Got<T> {
    Elements(Vec<T>),
    PerRow(Vec<f32>),
}

impl<T: Format> Got<T> {
    /// The bits, widened: equal exactly if the results are.
    pub fn bits(&self) -> Vec<u32> {
        match self {
            Got::Elements(x) => x.iter().map(|x| x.to_f32().to_bits()).collect(),
            Got::PerRow(x) => x.iter().map(|x| x.to_bits()).collect(),
        }
    }
}

/// The sentinel around outputs: no result is this.
const SENTINEL: f64 = -7.25;

/// Runs an operation in the case's memory. Around the logits lies NaN, around a mask what hides, around outputs a sentinel.
pub fn run<T: Format>(op: Op, case: &Case, device: &Device) -> Got<T> {
    let named = named::<T>(op, case, device);
    let dim = Dim::front(case.dim);
    let nan = T::from_f64(f64::NAN);
    let place = |values: &[T]| Operand::new(device, case.input, &case.dims, values, nan);
    let mask = case.mask.as_ref().map(|mask| {
        let filler = if mask.polarity == Polarity::Keep { 0 } else { 1 };
        (Operand::new(device, mask.arrangement, &mask.dims, &case.mask_bytes(), filler), mask.polarity)
    });
    let mask = match &mask {
        None => Mask::None,
        Some((bytes, Polarity::Keep)) => Mask::Visible(keep(bytes.view())),
        Some((bytes, Polarity::Hide)) => Mask::Visible(hide(bytes.view())),
    };
    let options = SoftmaxOptions { temperature: case.tau, mask };
    let offset = if let Arrangement::Offset(n) = case.output { n } else { 0 };
    let done = |result: Result<()>| result.unwrap_or_else(|error| panic!("{named}: {error}"));

    if op == Op::LogSumExp {
        let mut sizes = case.dims.clone();
        sizes.remove(case.dim);
        let x = place(&case.logits::<T>());
        let mut lse = Guarded::new(device, &sizes, offset, SENTINEL as f32);
        done(logsumexp_into(x.view(), dim, &options, lse.view_mut()));
        let got = lse.read(&named);
        assert_no_findings(&named);
        return Got::PerRow(got);
    }
    let mut out = Guarded::new(device, &case.dims, offset, T::from_f64(SENTINEL));
    let y = || place(&forward_result::<T>(case, op));
    match op {
        Op::Softmax | Op::LogSoftmax | Op::Softmin | Op::LogSumExp => {
            let forward = match op {
                Op::Softmax => softmax_into,
                Op::LogSoftmax => log_softmax_into,
                _ => softmin_into,
            };
            done(forward(place(&case.logits::<T>()).view(), dim, &options, out.view_mut()));
        }
        Op::SoftmaxBackward | Op::SoftminBackward | Op::LogSoftmaxBackward => {
            let dy = place(&upstream::<T>(case, op));
            let backward = match op {
                Op::SoftmaxBackward => softmax_backward_into,
                Op::SoftminBackward => softmin_backward_into,
                _ => log_softmax_backward_into,
            };
            done(backward(y().view(), dy.view(), dim, &options, out.view_mut()));
        }
        Op::LogSumExpBackward => {
            let mut sizes = case.dims.clone();
            sizes.remove(case.dim);
            let arrangement = if sizes.is_empty() { Arrangement::Offset(1) } else { Arrangement::EveryOther };
            let dlse = Operand::new(device, arrangement, &sizes, &upstream_of_lse(case), f32::NAN);
            let x = place(&case.logits::<T>());
            done(logsumexp_backward_into(x.view(), dlse.view(), dim, &options, out.view_mut()));
        }
    }
    let got = out.read(&named);
    assert_no_findings(&named);
    Got::Elements(got)
}

/// What flushing subnormal numbers may cost: an exponential below the smallest normal float32, times what it is multiplied
/// by. The winner's log-probability is a sum of exponentials, as many as the row has entries.
pub fn tolerance<T: Format>(op: Op, case: &Case) -> Tolerance {
    let tolerance = op.tolerance::<T>();
    let times = match op {
        Op::LogSoftmax => case.len() as f64,
        // Upstream gradients are below 32.
        _ if op.is_backward() => (64.0 / f64::from(case.tau)).max(1.0),
        _ => 1.0,
    };
    Tolerance { floor: tolerance.floor * times, ..tolerance }
}

/// How far one f32 per row may be from the exact value. 16-bit logits are weighed by the hardware's exp2, whose error is
/// a few units in the last place of f32.
pub fn tolerance_per_row<T: Format>(op: Op, case: &Case) -> Tolerance {
    let tolerance = tolerance::<f32>(op, case);
    if T::DIGITS < <f32 as Format>::DIGITS { Tolerance { ulps: 64.0, ..tolerance } } else { tolerance }
}

/// Every operation of a case, in one element type, on the host and the GPU.
pub fn check<T: Format>(case: &Case) {
    for op in OPS {
        let want = want::<T>(case, op);
        for device in devices() {
            let named = named::<T>(op, case, &device);
            match run::<T>(op, case, &device) {
                Got::Elements(got) => assert_right(&named, &got, &want, tolerance::<T>(op, case)),
                Got::PerRow(got) => assert_right(&named, &got, &want, tolerance_per_row::<T>(op, case)),
            }
        }
    }
}

/// The same in every element type.
pub fn check_all_types(case: &Case) {
    check::<f32>(case);
    check::<sumexp::f16>(case);
    check::<sumexp::bf16>(case);
}
