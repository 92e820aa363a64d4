//! Losses and their gradients.

use crate::device;
use crate::header::*;
use crate::options::{self, reduction};
use crate::status::{Failure, enter, unsupported};
use crate::tensor::{Operand, with_float};
use std::ffi::c_void;
use sumexp::{
    BinaryCrossEntropy, CrossEntropy, CrossEntropyInto, CrossEntropySaved, DType, Device, Reduction, Targets, Tensor,
    View, binary_cross_entropy_with_logits_backward_into, binary_cross_entropy_with_logits_into, cross_entropy,
    cross_entropy_backward_into, cross_entropy_into,
};

/// The operand of a loss: one that was reduced is `[]`, and may come as `[1]`.
///
/// # Safety
/// As [`Operand::new`].
unsafe fn loss(
    op: &'static str,
    name: &'static str,
    tensor: *const DLTensor,
    reduction: Reduction,
) -> Result<Operand, Failure> {
    // SAFETY: the caller makes the same promise.
    let loss = unsafe { Operand::new(op, name, tensor) }?;
    Ok(if matches!(reduction, Reduction::None) { loss } else { loss.one_number() })
}

/// # Safety
/// As [`Operand::view`].
unsafe fn targets<'a>(targets: &Operand, device: &'a Device) -> Result<Targets<'a>, Failure> {
    // SAFETY: the caller makes the same promise.
    unsafe {
        match targets.dtype {
            DType::I64 => Ok(targets.view::<i64>(device)?.into()),
            DType::I32 => Ok(targets.view::<i32>(device)?.into()),
            DType::U32 => Ok(targets.view::<u32>(device)?.into()),
            other => Err(targets.refused(SUMEXP_DTYPE, format_args!("are {other}, they must be i64, i32 or u32"))),
        }
    }
}

/// The options of a cross-entropy as the caller wrote them, with the tensor that they point to.
struct CrossEntropyOptions {
    dim: i32,
    raw: sumexp_cross_entropy_options,
    reduction: Reduction<'static>,
    class_weights: Option<Operand>,
}

impl CrossEntropyOptions {
    /// # Safety
    /// `options` must be what the header says.
    unsafe fn read(op: &'static str, options: *const sumexp_cross_entropy_options) -> Result<Self, Failure> {
        // SAFETY: the caller makes the same promise.
        unsafe {
            let raw = options::read(op, options)?;
            if raw.label_smoothing != 0.0 {
                return Err(Failure::new(
                    SUMEXP_UNSUPPORTED,
                    format_args!("{op}: label_smoothing is not in this version"),
                ));
            }
            let class_weights = Operand::optional(op, "class_weights", raw.class_weights)?;
            Ok(Self { dim: raw.dim, raw, reduction: reduction(op, raw.reduction)?, class_weights })
        }
    }

    /// The options as sumexp takes them.
    ///
    /// # Safety
    /// As [`Operand::view`] for the weights.
    unsafe fn on<'a>(&self, device: &'a Device) -> Result<CrossEntropy<'a>, Failure> {
        Ok(CrossEntropy {
            ignore_index: (self.raw.has_ignore_index != 0).then_some(self.raw.ignore_index),
            // SAFETY: the caller makes the same promise.
            class_weights: unsafe { weight(&self.class_weights, device) }?,
            z_loss: self.raw.z_loss,
            temperature: self.raw.temperature,
            reduction: self.reduction,
        })
    }
}

/// Cross-entropy; see the header.
///
/// # Safety
/// The tensors, the options and the stream must be what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sumexp_cross_entropy(
    logits: *const DLTensor,
    targets: *const DLTensor,
    options: *const sumexp_cross_entropy_options,
    loss: *const DLTensor,
    lse: *const DLTensor,
    stream: *mut c_void,
) -> i32 {
    // SAFETY: the caller promises what the header says of tensors, options and the stream, which is what each call here asks.
    enter("cross_entropy", |op| unsafe {
        let given = CrossEntropyOptions::read(op, options)?;
        let (logits, targets) = (Operand::new(op, "logits", logits)?, Operand::new(op, "targets", targets)?);
        let loss = self::loss(op, "loss", loss, given.reduction)?;
        let lse = Operand::optional(op, "lse", lse)?;
        let rest: Vec<&Operand> = [&targets, &loss].into_iter().chain(&lse).chain(&given.class_weights).collect();
        let device = device::of(&logits, &rest, stream)?;
        let options = given.on(&device)?;
        let dim = logits.dim(given.dim)?;
        if let Some(lse) = &lse {
            Operand::apart(&[&loss, lse])?;
        }
        targets.per_row_of(&logits, given.dim)?;
        let targets = self::targets(&targets, &device)?;
        with_float!(logits, T => {
            let loss = loss.view_mut::<f32>(&device)?;
            let logits = logits.view::<T>(&device)?;
            // What the caller did not ask for lives on the stream until the call's own work is done.
            let rows: usize = targets.shape().dims().iter().product();
            let mut saved = Tensor::<f32>::zeros(&device, &[CrossEntropySaved::elements(rows)])?;
            let mut count = Tensor::<i64>::zeros(&device, &[])?;
            let mut own_lse = None;
            let lse = match &lse {
                Some(lse) => lse.view_mut::<f32>(&device)?,
                None => own_lse.insert(Tensor::<f32>::zeros(&device, targets.shape().dims())?).view_mut(),
            };
            let outputs = CrossEntropyInto { loss, lse, count: count.view_mut(), saved: saved.view_mut() };
            Ok(cross_entropy_into(logits, dim, targets, &options, outputs)?)
        })
    })
}

/// Gradient of a cross-entropy; see the header.
///
/// # Safety
/// The tensors, the options and the stream must be what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sumexp_cross_entropy_backward(
    logits: *const DLTensor,
    targets: *const DLTensor,
    lse: *const DLTensor,
    dloss: *const DLTensor,
    options: *const sumexp_cross_entropy_options,
    dlogits: *const DLTensor,
    stream: *mut c_void,
) -> i32 {
    // SAFETY: the caller promises what the header says of tensors, options and the stream, which is what each call here asks.
    enter("cross_entropy_backward", |op| unsafe {
        let given = CrossEntropyOptions::read(op, options)?;
        let (logits, targets) = (Operand::new(op, "logits", logits)?, Operand::new(op, "targets", targets)?);
        let lse = Operand::new(op, "lse", lse)?;
        let dloss = self::loss(op, "dloss", dloss, given.reduction)?;
        let dlogits = Operand::new(op, "dlogits", dlogits)?;
        let rest: Vec<&Operand> = [&targets, &lse, &dloss, &dlogits].into_iter().chain(&given.class_weights).collect();
        let device = device::of(&logits, &rest, stream)?;
        let options = given.on(&device)?;
        let dim = logits.dim(given.dim)?;
        lse.view::<f32>(&device)?;
        lse.per_row_of(&logits, given.dim)?;
        Operand::apart(&[&dlogits, &lse])?;
        targets.per_row_of(&logits, given.dim)?;
        let targets = self::targets(&targets, &device)?;
        with_float!(logits, T => {
            let (dloss, dlogits) = (dloss.view::<f32>(&device)?, dlogits.view_mut::<T>(&device)?);
            let logits = logits.view::<T>(&device)?;
            let saved = cross_entropy(logits, dim, targets, &options)?.saved;
            Ok(cross_entropy_backward_into(logits, dim, targets, saved.view(), dloss, &options, dlogits)?)
        })
    })
}

/// The weights of a binary cross-entropy.
///
/// # Safety
/// As [`Operand::view`].
unsafe fn weight<'a>(weight: &Option<Operand>, device: &'a Device) -> Result<Option<View<'a, f32>>, Failure> {
    // SAFETY: the caller makes the same promise.
    weight.as_ref().map(|weight| unsafe { weight.view(device) }).transpose()
}

/// Binary cross-entropy of logits; see the header.
///
/// # Safety
/// The tensors and the stream must be what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sumexp_bce_with_logits(
    x: *const DLTensor,
    target: *const DLTensor,
    weight: *const DLTensor,
    pos_weight: *const DLTensor,
    reduction: i32,
    loss: *const DLTensor,
    stream: *mut c_void,
) -> i32 {
    // SAFETY: the caller promises what the header says of tensors and the stream, which is what each call here asks.
    enter("bce_with_logits", |op| unsafe {
        let reduction = self::reduction(op, reduction)?;
        let (x, target) = (Operand::new(op, "x", x)?, Operand::new(op, "target", target)?);
        let weight = Operand::optional(op, "weight", weight)?;
        let pos_weight = Operand::optional(op, "pos_weight", pos_weight)?;
        let loss = self::loss(op, "loss", loss, reduction)?;
        let rest: Vec<&Operand> = [&target, &loss].into_iter().chain(&weight).chain(&pos_weight).collect();
        let device = device::of(&x, &rest, stream)?;
        let (weight, pos_weight) = (self::weight(&weight, &device)?, self::weight(&pos_weight, &device)?);
        let options = BinaryCrossEntropy { weight, pos_weight, reduction };
        with_float!(x, T => {
            let (target, loss) = (target.view::<T>(&device)?, loss.view_mut::<f32>(&device)?);
            Ok(binary_cross_entropy_with_logits_into(x.view::<T>(&device)?, target, &options, loss)?)
        })
    })
}

/// Gradient of a binary cross-entropy; see the header.
///
/// # Safety
/// The tensors and the stream must be what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sumexp_bce_with_logits_backward(
    x: *const DLTensor,
    target: *const DLTensor,
    weight: *const DLTensor,
    pos_weight: *const DLTensor,
    reduction: i32,
    dloss: *const DLTensor,
    dx: *const DLTensor,
    stream: *mut c_void,
) -> i32 {
    // SAFETY: the caller promises what the header says of tensors and the stream, which is what each call here asks.
    enter("bce_with_logits_backward", |op| unsafe {
        let reduction = self::reduction(op, reduction)?;
        let (x, target) = (Operand::new(op, "x", x)?, Operand::new(op, "target", target)?);
        let weight = Operand::optional(op, "weight", weight)?;
        let pos_weight = Operand::optional(op, "pos_weight", pos_weight)?;
        let dloss = self::loss(op, "dloss", dloss, reduction)?;
        let dx = Operand::new(op, "dx", dx)?;
        let rest: Vec<&Operand> = [&target, &dloss, &dx].into_iter().chain(&weight).chain(&pos_weight).collect();
        let device = device::of(&x, &rest, stream)?;
        let (weight, pos_weight) = (self::weight(&weight, &device)?, self::weight(&pos_weight, &device)?);
        let options = BinaryCrossEntropy { weight, pos_weight, reduction };
        with_float!(x, T => {
            let (target, dloss) = (target.view::<T>(&device)?, dloss.view::<f32>(&device)?);
            let (x, dx) = (x.view::<T>(&device)?, dx.view_mut::<T>(&device)?);
            Ok(binary_cross_entropy_with_logits_backward_into(x, target, dloss, &options, dx)?)
        })
    })
}

/// Distillation; see the header.
///
/// # Safety
/// The tensors and the stream must be what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sumexp_distillation(
    _student: *const DLTensor,
    _teacher: *const DLTensor,
    _dim: i32,
    _temperature: f32,
    _direction: i32,
    _reduction: i32,
    _loss: *const DLTensor,
    _stream: *mut c_void,
) -> i32 {
    unsupported("distillation")
}

/// Gradient of a distillation; see the header.
///
/// # Safety
/// The tensors and the stream must be what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sumexp_distillation_backward(
    _student: *const DLTensor,
    _teacher: *const DLTensor,
    _dim: i32,
    _temperature: f32,
    _direction: i32,
    _reduction: i32,
    _dloss: *const DLTensor,
    _dstudent: *const DLTensor,
    _stream: *mut c_void,
) -> i32 {
    unsupported("distillation_backward")
}
