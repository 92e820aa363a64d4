//! Attention.

use crate::device;
use crate::header::*;
use crate::options;
use crate::status::{Failure, enter};
use crate::tensor::{Operand, with_float};
use std::ffi::c_void;
use sumexp::attention::{
    Alibi, Attention, AttentionInto, Bias, BiasInto, GradientsInto, Partial, Upstream, backward_into,
    backward_packed_into, forward_into, forward_packed_into, weights_into,
};
use sumexp::mask::Align;
use sumexp::{DType, Device, Mask, keep};

/// The options as the caller wrote them, with the tensors that they point to.
struct Options {
    raw: sumexp_attention_options,
    align: Option<Align>,
    keep: Option<Operand>,
    bias: Option<Operand>,
    alibi_slopes: Option<Operand>,
    key_lengths: Option<Operand>,
    /// Of q and k.
    segments: Option<[Operand; 2]>,
    offsets: Option<[Operand; 2]>,
}

impl Options {
    /// # Safety
    /// `options` must be what the header says.
    unsafe fn read(op: &'static str, options: *const sumexp_attention_options) -> Result<Self, Failure> {
        // SAFETY: the caller makes the same promise, which includes the tensors.
        unsafe {
            let raw = options::read(op, options)?;
            let refused = |why: String| Err(Failure::new(SUMEXP_OPTION, format_args!("{op}: {why}")));
            let align = match raw.causal {
                0 => None,
                1 => Some(Align::TopLeft),
                2 => Some(Align::BottomRight),
                other => {
                    return refused(format!(
                        "causal is {other}, it must be 0 (none), 1 (top left) or 2 (bottom right)"
                    ));
                }
            };
            for (name, window) in [("window_left", raw.window_left), ("window_right", raw.window_right)] {
                if window < -1 {
                    return refused(format!("{name} is {window}, it must be at least -1 (-1 = all)"));
                }
            }
            for (name, longest) in [("max_q", raw.max_q), ("max_k", raw.max_k)] {
                if longest < 0 {
                    return refused(format!("{name} is {longest}, it must be at least 0 (0 = not known)"));
                }
            }
            Ok(Self {
                raw,
                align,
                keep: Operand::optional(op, "keep", raw.keep)?,
                bias: Operand::optional(op, "bias", raw.bias)?,
                alibi_slopes: Operand::optional(op, "alibi_slopes", raw.alibi_slopes)?,
                key_lengths: Operand::optional(op, "key_lengths", raw.key_lengths)?,
                segments: pair(op, [("q_segments", raw.q_segments), ("k_segments", raw.k_segments)])?,
                offsets: pair(op, [("q_offsets", raw.q_offsets), ("k_offsets", raw.k_offsets)])?,
            })
        }
    }

    /// All tensors.
    fn operands(&self) -> impl Iterator<Item = &Operand> {
        let single = [&self.keep, &self.bias, &self.alibi_slopes, &self.key_lengths].into_iter().flatten();
        single.chain(self.segments.iter().flatten()).chain(self.offsets.iter().flatten())
    }

    /// The masks.
    ///
    /// # Safety
    /// As [`Operand::view`].
    unsafe fn masks<'a>(&self, device: &'a Device) -> Result<Vec<Mask<'a>>, Failure> {
        let mut masks = Vec::new();
        masks.extend(self.align.map(Mask::Causal));
        // -1, or what is checked to be at least 0.
        let side = |window: i64| u64::try_from(window).ok();
        let (left, right) = (side(self.raw.window_left), side(self.raw.window_right));
        if left.is_some() || right.is_some() {
            masks.push(Mask::Window { left, right, align: self.align() });
        }
        // SAFETY: the caller makes the same promise.
        unsafe {
            if let Some(lengths) = &self.key_lengths {
                masks.push(Mask::KeyLengths(lengths.view(device)?));
            }
            if let Some([q, k]) = &self.segments {
                masks.push(Mask::Segments { q: q.view(device)?, k: k.view(device)? });
            }
            if let Some(bytes) = &self.keep {
                masks.push(Mask::Visible(keep(bytes.view::<u8>(device)?)));
            }
        }
        Ok(masks)
    }

    /// Refuses weights that the operation would refuse when the rest is written.
    fn check_weights(&self, weights: &Operand, q: &Operand, k: &Operand, inputs: &[&Operand]) -> Result<(), Failure> {
        if self.offsets.is_some() {
            let version = env!("CARGO_PKG_VERSION");
            let why = format_args!("of packed sequences are not in this version of sumexp ({version}), pass NULL");
            return Err(weights.refused(SUMEXP_UNSUPPORTED, why));
        }
        // What is wrong with other numbers of dims the operation says.
        if let ([batch, heads, queries, _], [_, _, keys, _]) = (&q.dims[..], &k.dims[..]) {
            weights.must_be(&[*batch, *heads, *queries, *keys])?;
        }
        weights.must_be_apart_from(q)?;
        inputs.iter().try_for_each(|input| weights.must_be_apart_from(input))
    }

    /// How windows and slopes are aligned.
    fn align(&self) -> Align {
        self.align.unwrap_or(Align::BottomRight)
    }

    /// The options as sumexp takes them.
    ///
    /// # Safety
    /// As [`Operand::view`].
    unsafe fn on<'a>(&self, device: &'a Device, masks: &'a [Mask<'a>]) -> Result<Attention<'a>, Failure> {
        // SAFETY: the caller makes the same promise.
        unsafe {
            let bias = match &self.bias {
                None => None,
                Some(bias) => Some(match bias.dtype {
                    DType::F16 => Bias::F16(bias.view(device)?),
                    DType::BF16 => Bias::BF16(bias.view(device)?),
                    DType::F32 => Bias::F32(bias.view(device)?),
                    other => {
                        let why = format_args!("is {other}, it must be f16, bf16 or f32");
                        return Err(bias.refused(SUMEXP_DTYPE, why));
                    }
                }),
            };
            let slopes = self.alibi_slopes.as_ref().map(|slopes| slopes.view(device)).transpose()?;
            Ok(Attention {
                scale: (!self.raw.scale.is_nan()).then_some(self.raw.scale),
                mask: Mask::All(masks),
                bias,
                // A place for it says so.
                bias_gradient: false,
                alibi: slopes.map(|slopes| Alibi { slopes, align: self.align() }),
                softcap: (self.raw.softcap != 0.0).then_some(self.raw.softcap),
            })
        }
    }
}

/// Two tensors that are given together or not at all.
///
/// # Safety
/// As [`Operand::new`].
unsafe fn pair(
    op: &'static str,
    [(left, of_left), (right, of_right)]: [(&'static str, *const DLTensor); 2],
) -> Result<Option<[Operand; 2]>, Failure> {
    // SAFETY: the caller makes the same promise.
    let operands = unsafe { (Operand::optional(op, left, of_left)?, Operand::optional(op, right, of_right)?) };
    match operands {
        (Some(left), Some(right)) => Ok(Some([left, right])),
        (None, None) => Ok(None),
        (Some(_), None) => Err(Failure::new(SUMEXP_NULL, format_args!("{op}: {right} is NULL, while {left} is given"))),
        (None, Some(_)) => Err(Failure::new(SUMEXP_NULL, format_args!("{op}: {left} is NULL, while {right} is given"))),
    }
}

/// Attention; see the header.
///
/// # Safety
/// The tensors, the options and the stream must be what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sumexp_attention_forward(
    q: *const DLTensor,
    k: *const DLTensor,
    v: *const DLTensor,
    options: *const sumexp_attention_options,
    out: *const DLTensor,
    lse: *const DLTensor,
    weights: *const DLTensor,
    stream: *mut c_void,
) -> i32 {
    // SAFETY: the caller promises what the header says of tensors, options and the stream, which is what each call here asks.
    enter("attention_forward", |op| unsafe {
        let given = Options::read(op, options)?;
        let [q, k, v] = [Operand::new(op, "q", q)?, Operand::new(op, "k", k)?, Operand::new(op, "v", v)?];
        let (out, lse) = (Operand::new(op, "out", out)?, Operand::new(op, "lse", lse)?);
        let weights = Operand::optional(op, "weights", weights)?;
        let outputs: Vec<&Operand> = [&out, &lse].into_iter().chain(&weights).collect();
        let inputs: Vec<&Operand> = [&k, &v].into_iter().chain(given.operands()).collect();
        let device = device::of(&q, &[&inputs[..], &outputs[..]].concat(), stream)?;
        Operand::apart(&outputs)?;
        if let Some(weights) = &weights {
            given.check_weights(weights, &q, &k, &inputs)?;
        }
        let masks = given.masks(&device)?;
        let options = given.on(&device, &masks)?;
        with_float!(q, T => {
            let [q, k, v] = [q.view::<T>(&device)?, k.view::<T>(&device)?, v.view::<T>(&device)?];
            let results = AttentionInto { out: out.view_mut::<T>(&device)?, lse: Some(lse.view_mut::<f32>(&device)?) };
            let weights = weights.map(|weights| weights.view_mut::<T>(&device)).transpose()?;
            match &given.offsets {
                None => {
                    forward_into(q, k, v, &options, results)?;
                    if let Some(weights) = weights {
                        weights_into(q, k, lse.view::<f32>(&device)?, 0..q.dims()[2], &options, weights)?;
                    }
                }
                Some([of_q, of_k]) => {
                    let (of_q, of_k) = (of_q.view::<i32>(&device)?, of_k.view::<i32>(&device)?);
                    forward_packed_into(q, k, v, of_q, of_k, &options, results)?;
                }
            }
            Ok(())
        })
    })
}

/// Gradient of attention; see the header.
///
/// # Safety
/// The tensors, the options and the stream must be what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sumexp_attention_backward(
    q: *const DLTensor,
    k: *const DLTensor,
    v: *const DLTensor,
    out: *const DLTensor,
    lse: *const DLTensor,
    dout: *const DLTensor,
    dlse: *const DLTensor,
    options: *const sumexp_attention_options,
    dq: *const DLTensor,
    dk: *const DLTensor,
    dv: *const DLTensor,
    dbias: *const DLTensor,
    stream: *mut c_void,
) -> i32 {
    // SAFETY: the caller promises what the header says of tensors, options and the stream, which is what each call here asks.
    enter("attention_backward", |op| unsafe {
        let given = Options::read(op, options)?;
        let [q, k, v] = [Operand::new(op, "q", q)?, Operand::new(op, "k", k)?, Operand::new(op, "v", v)?];
        let [out, lse, dout] =
            [Operand::new(op, "out", out)?, Operand::new(op, "lse", lse)?, Operand::new(op, "dout", dout)?];
        let dlse = Operand::optional(op, "dlse", dlse)?;
        let dbias = Operand::optional(op, "dbias", dbias)?;
        let [dq, dk, dv] = [Operand::new(op, "dq", dq)?, Operand::new(op, "dk", dk)?, Operand::new(op, "dv", dv)?];
        let rest: Vec<&Operand> = [&k, &v, &out, &lse, &dout, &dq, &dk, &dv]
            .into_iter()
            .chain(&dlse)
            .chain(&dbias)
            .chain(given.operands())
            .collect();
        let device = device::of(&q, &rest, stream)?;
        let results: Vec<&Operand> = [&dq, &dk, &dv].into_iter().chain(&dbias).collect();
        Operand::apart(&results)?;
        let masks = given.masks(&device)?;
        let options = given.on(&device, &masks)?;
        with_float!(q, T => {
            let [q, k, v] = [q.view::<T>(&device)?, k.view::<T>(&device)?, v.view::<T>(&device)?];
            let saved = Partial::from_values(out.view::<T>(&device)?, lse.view(&device)?);
            let dlse = dlse.map(|dlse| dlse.view(&device)).transpose()?;
            let upstream = Upstream { dout: dout.view(&device)?, dlse };
            let dbias = match &dbias {
                None => None,
                Some(dbias) => Some(match dbias.dtype {
                    DType::F16 => BiasInto::F16(dbias.view_mut(&device)?),
                    DType::BF16 => BiasInto::BF16(dbias.view_mut(&device)?),
                    DType::F32 => BiasInto::F32(dbias.view_mut(&device)?),
                    other => {
                        let why = format_args!("is {other}, it must be of the type of the bias");
                        return Err(dbias.refused(SUMEXP_DTYPE, why));
                    }
                }),
            };
            let gradients = GradientsInto {
                dq: dq.view_mut(&device)?,
                dk: dk.view_mut(&device)?,
                dv: dv.view_mut(&device)?,
                dbias,
            };
            match &given.offsets {
                None => backward_into(q, k, v, saved, upstream, &options, gradients)?,
                Some([of_q, of_k]) => {
                    let (of_q, of_k) = (of_q.view::<i32>(&device)?, of_k.view::<i32>(&device)?);
                    backward_packed_into(q, k, v, of_q, of_k, saved, upstream, &options, gradients)?;
                }
            }
            Ok(())
        })
    })
}
