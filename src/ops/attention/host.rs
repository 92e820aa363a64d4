//! Attention on the host: the checked call as the reference takes it.

use super::bias::fill_on_host;
use crate::dtype::{Element, Float};
use crate::error::{Error, Result};
use crate::kernels::attention::{Bias, Forward, OperandGradients, Results, Upstream};
use crate::mask::{Align, Bits, Entries, Offsets, Rule};
use crate::reference::attention::{
    Alibi, Attention, BiasGradient, Geometry, Gradients, Sequences, backward, forward, weights_from_lse,
};
use crate::reference::{Operand, Output};
use crate::tensor::{View, ViewMut};
use std::ops::Range;

/// What is done with a call on the host, whatever the type of its bias.
pub(super) trait OnHost<T> {
    fn run<U: Float>(self, attention: &Attention<T, U>) -> Result<()>;
}

/// Hands a checked call, all of whose operands are on the host, to the reference.
pub(super) fn run<T: Float>(op: &'static str, call: &Forward<T>, task: impl OnHost<T>) -> Result<()> {
    match &call.bias {
        None => with_bias::<T, T>(op, call, None, task),
        Some(Bias::F32(bias)) => with_bias(op, call, Some(bias), task),
        Some(Bias::F16(bias)) => with_bias(op, call, Some(bias), task),
        Some(Bias::BF16(bias)) => with_bias(op, call, Some(bias), task),
    }
}

fn with_bias<T: Float, U: Float>(
    op: &'static str,
    call: &Forward<T>,
    bias: Option<&View<U>>,
    task: impl OnHost<T>,
) -> Result<()> {
    let dims = |view: &View<T>| [0, 1, 2, 3].map(|dim| view.dims()[dim]);
    let ([batch, query_heads, queries, head_size], [_, key_heads, keys, value_size]) = (dims(&call.q), dims(&call.v));
    let sequences = match &call.offsets {
        None => Sequences::Batched { batch, queries, keys },
        Some((of_q, of_k)) => Sequences::Packed {
            queries: offsets(op, "the offsets of q", data_of(of_q), queries)?,
            keys: offsets(op, "the offsets of k", data_of(of_k), keys)?,
        },
    };
    let packed = call.offsets.is_some();
    let strides = |view: &View<T>| strides_of(packed, view);
    let (of_q, of_k, of_v) = (strides(&call.q), strides(&call.k), strides(&call.v));
    let masking = &call.masking;
    let mut mask: Vec<Rule> = Vec::new();
    // In packed sequences masks and biases have lengths of their own, and hide what is longer. This comes first: the others are not asked
    // about what they do not know.
    if packed {
        let (mut queries, mut keys) = (usize::MAX, usize::MAX);
        let mut within = |of_queries: usize, of_keys: usize| {
            (queries, keys) = (queries.min(of_queries), keys.min(of_keys));
        };
        masking.segments.iter().for_each(|(q, k)| within(q.dims()[1], k.dims()[1]));
        masking.visible.iter().for_each(|(bytes, _)| within(bytes.dims()[2], bytes.dims()[3]));
        bias.iter().for_each(|bias| within(bias.dims()[2], bias.dims()[3]));
        mask.push(Rule::Within { queries, keys });
    }
    mask.extend(masking.bands.iter().map(|band| Rule::Band(*band)));
    mask.extend(masking.key_lengths.as_ref().map(|lengths| Rule::KeyLengths(entries(lengths))));
    mask.extend(masking.segments.as_ref().map(|(q, k)| Rule::Segments { q: entries(q), k: entries(k) }));
    let visible = masking.visible.as_ref();
    mask.extend(visible.map(|(bytes, polarity)| Rule::Visible(Bits { bytes: entries(bytes), polarity: *polarity })));
    let attention = Attention {
        geometry: Geometry { sequences, query_heads, key_heads, head_size, value_size },
        q: Operand { data: data_of(&call.q), strides: &of_q },
        k: Operand { data: data_of(&call.k), strides: &of_k },
        v: Operand { data: data_of(&call.v), strides: &of_v },
        scale: call.scale.into(),
        bias: bias.map(|bias| Operand { data: data_of(bias), strides: bias.layout().strides() }),
        alibi: call.slopes.as_ref().map(|(slopes, bottom_right)| Alibi {
            slopes: Operand { data: data_of(slopes), strides: slopes.layout().strides() },
            align: if *bottom_right { Align::BottomRight } else { Align::TopLeft },
        }),
        softcap: call.cap.map(f64::from),
        mask: &mask,
    };
    task.run(&attention)
}

/// The forward operation.
pub(super) struct Fill<'r, T> {
    pub(super) op: &'static str,
    pub(super) results: Results<'r, T>,
}

impl<T: Float> OnHost<T> for Fill<'_, T> {
    fn run<U: Float>(self, attention: &Attention<T, U>) -> Result<()> {
        let Self { op, mut results } = self;
        let out_strides = results.out.layout().strides().to_vec();
        let out = results.out.on_host(op, "out")?.expect("out is where q is");
        let out = Output { data: out, strides: &out_strides };
        match &mut results.lse {
            Some(lse) => {
                let strides = lse.layout().strides().to_vec();
                let data = lse.on_host(op, "lse")?.expect("lse is where q is");
                forward(attention, out, Output { data, strides: &strides });
            }
            // Nobody wants it: every query writes the same place.
            None => forward(attention, out, Output { data: &mut [0.0], strides: &[0, 0, 0] }),
        }
        Ok(())
    }
}

/// The weights of some queries.
pub(super) struct FillWeights<'r, T> {
    pub(super) op: &'static str,
    pub(super) lse: View<'r, f32>,
    pub(super) rows: Range<usize>,
    pub(super) out: ViewMut<'r, T>,
}

impl<T: Float> OnHost<T> for FillWeights<'_, T> {
    fn run<U: Float>(self, attention: &Attention<T, U>) -> Result<()> {
        let Self { op, lse, rows, mut out } = self;
        let strides = out.layout().strides().to_vec();
        let data = out.on_host(op, "the weights")?.expect("the weights are where q is");
        let lse = Operand { data: data_of(&lse), strides: lse.layout().strides() };
        weights_from_lse(attention, rows, lse, Output { data, strides: &strides });
        Ok(())
    }
}

/// The backward operation.
pub(super) struct FillGradients<'r, T> {
    pub(super) op: &'static str,
    pub(super) packed: bool,
    /// The bias's own shape, if its gradient is wanted.
    pub(super) bias: Option<[usize; 4]>,
    pub(super) upstream: Upstream<'r, T>,
    pub(super) gradients: OperandGradients<'r, T>,
}

impl<T: Float> OnHost<T> for FillGradients<'_, T> {
    fn run<U: Float>(self, attention: &Attention<T, U>) -> Result<()> {
        let Self { op, packed, bias, upstream: Upstream { dout, dlse }, gradients } = self;
        let OperandGradients { mut dq, mut dk, mut dv, mut dbias, .. } = gradients;
        let shape = bias.unwrap_or_default();
        let mut of_bias = vec![U::default(); shape.iter().product()];
        let bias_strides =
            [shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1].map(|stride| stride as u64);
        let strides = [&dq, &dk, &dv].map(|view| view.layout().strides().to_vec());
        let of_dout = strides_of(packed, &dout);
        let dlse = dlse.map(|dlse| {
            let s = dlse.layout().strides();
            (data_of(&dlse), if packed { vec![s[2], s[1]] } else { s.to_vec() })
        });
        let results = Gradients {
            dq: Output { data: dq.on_host(op, "dq")?.expect("dq is where q is"), strides: &strides[0] },
            dk: Output { data: dk.on_host(op, "dk")?.expect("dk is where q is"), strides: &strides[1] },
            dv: Output { data: dv.on_host(op, "dv")?.expect("dv is where q is"), strides: &strides[2] },
            dbias: bias
                .map(|shape| BiasGradient { output: Output { data: &mut of_bias, strides: &bias_strides }, shape }),
        };
        let dlse = dlse.as_ref().map(|(data, strides)| Operand { data, strides });
        backward(attention, Operand { data: data_of(&dout), strides: &of_dout }, dlse, results);
        dbias.as_mut().map_or(Ok(()), |dbias| fill_on_host(op, dbias, &of_bias))
    }
}

/// Strides of rows; packed ones are by token, head and feature.
fn strides_of<E: Element>(packed: bool, view: &View<E>) -> Vec<u64> {
    let s = view.layout().strides();
    if packed { vec![s[2], s[1], s[3]] } else { s.to_vec() }
}

fn data_of<'a, E: Element>(view: &View<'a, E>) -> &'a [E] {
    view.on_host().expect("every operand is where q is")
}

fn entries<'a, E: Element, const N: usize>(view: &View<'a, E>) -> Entries<'a, E, N> {
    Entries { data: data_of(view), strides: std::array::from_fn(|dim| view.layout().strides()[dim]) }
}

fn offsets<'a>(op: &'static str, operand: &'static str, offsets: &'a [i32], tokens: usize) -> Result<Offsets<'a>> {
    Offsets::new(offsets, tokens).map_err(|reason| Error::Offsets { op, operand, reason: reason.to_string() })
}
