//! What the host must know of a call to count its tiles.

use crate::dtype::{Element, Float};
use crate::error::Result;
use crate::kernels::attention::{Bias, Forward};
use crate::mask::{Entries, Polarity};
use crate::plan::attention::{Bytes, Segments, Sight};
use crate::shape::Dim;
use crate::tensor::View;

/// Lengths of a call.
pub(super) struct Sizes {
    pub(super) batch: u64,
    pub(super) heads: u64,
    pub(super) key_heads: u64,
    pub(super) queries: u64,
    pub(super) keys: u64,
    pub(super) head_size: u64,
    pub(super) value_size: u64,
    /// Of an element of q.
    pub(super) bytes: u64,
}

impl Sizes {
    pub(super) fn of<T: Float>(call: &Forward<T>) -> Self {
        let of = |view: &View<T>| [0, 1, 2, 3].map(|dim| view.dims()[dim] as u64);
        let ([batch, heads, queries, head_size], [_, key_heads, keys, value_size]) = (of(&call.q), of(&call.v));
        let bytes = T::DTYPE.size() as u64;
        Self { batch, heads, key_heads, queries, keys, head_size, value_size, bytes }
    }

    /// Queries of all heads.
    pub(super) fn rows(&self) -> u64 {
        self.batch * self.heads * self.queries
    }

    /// Products of tensor cores for one of a pair.
    pub(super) fn steps(&self) -> u64 {
        if self.bytes == 4 { 3 } else { 1 }
    }

    pub(super) fn words<T: Float>(&self, call: &Forward<T>) -> String {
        let Self { batch, heads, key_heads, queries, keys, head_size, value_size, .. } = self;
        let (dtype, device) = (T::DTYPE, call.q.device());
        let (of_q, of_k) = match call.sequences() {
            None => (format!("[{batch}, {heads}, {queries}, {head_size}]"), format!("[{batch}, {key_heads}, {keys}, ")),
            Some(_) => (format!("[{queries}, {heads}, {head_size}]"), format!("[{keys}, {key_heads}, ")),
        };
        let packed = call.sequences().map_or_else(String::new, |count| format!(", {count} packed sequences"));
        let at = match device.is_cpu() {
            true => "on the host, where the float64 reference runs instead of".to_owned(),
            false => format!("on {device:?}:"),
        };
        format!("q {of_q}, k {of_k}{head_size}], v {of_k}{value_size}] of {dtype}{packed} {at}")
    }
}

/// A view's elements on the host, once where they repeat.
struct Copied<E> {
    data: Vec<E>,
    strides: Vec<u64>,
    dims: Vec<u64>,
}

impl<E: Element> Copied<E> {
    fn of(view: &View<E>) -> Result<Self> {
        let (mut once, dims) = (*view, view.dims().to_vec());
        for (dim, stride) in view.layout().strides().iter().enumerate() {
            if *stride == 0 && dims[dim] > 1 {
                once = once.slice(Dim::front(dim), 0..1)?;
            }
        }
        let mut strides = vec![0; dims.len()];
        let mut step = 1;
        for (stride, length) in strides.iter_mut().zip(once.dims()).rev() {
            *stride = if *length > 1 { step } else { 0 };
            step *= *length as u64;
        }
        Ok(Self { data: once.to_vec()?, strides, dims: dims.iter().map(|length| *length as u64).collect() })
    }

    /// The entries at an index of the first dims, by the others.
    fn entries<const N: usize>(&self, at: &[u64]) -> Entries<'_, E, N> {
        let start: u64 = at.iter().zip(&self.strides).map(|(i, stride)| i * stride).sum();
        let data = self.data.get(start as usize..).unwrap_or_default();
        Entries { data, strides: std::array::from_fn(|dim| self.strides[at.len() + dim]) }
    }

    /// Whether the entries are the same for all indices of a dim.
    fn repeats(&self, dim: usize) -> bool {
        self.strides[dim] == 0
    }
}

/// Masks and offsets of a call.
pub(super) struct Facts<'c, 'a, T> {
    call: &'c Forward<'a, T>,
    key_lengths: Option<Copied<i32>>,
    segments: Option<[Copied<i32>; 2]>,
    visible: Option<(Copied<u8>, Polarity)>,
    /// Where sequences start in the queries and in the keys, and end.
    offsets: Option<[Vec<i32>; 2]>,
}

impl<'c, 'a, T: Float> Facts<'c, 'a, T> {
    pub(super) fn of(call: &'c Forward<'a, T>) -> Result<Self> {
        let masking = &call.masking;
        let both = |(of_q, of_k): &(View<i32>, View<i32>)| Ok([Copied::of(of_q)?, Copied::of(of_k)?]);
        Ok(Self {
            call,
            key_lengths: masking.key_lengths.as_ref().map(Copied::of).transpose()?,
            segments: masking.segments.as_ref().map(both).transpose()?,
            visible: masking.visible.as_ref().map(|(bytes, p)| Ok((Copied::of(bytes)?, *p))).transpose()?,
            offsets: call.offsets.as_ref().map(|(of_q, of_k)| Ok([of_q.to_vec()?, of_k.to_vec()?])).transpose()?,
        })
    }

    /// Calls `visit` with the pairs of each sequence and head, and with how many sequences and heads they are the pairs of.
    pub(super) fn each(&self, visit: &mut dyn FnMut(&Sight, u64)) {
        let sizes = Sizes::of(self.call);
        let masking = &self.call.masking;
        let sequences = self.call.sequences().unwrap_or(sizes.batch);
        let same_batches = self.offsets.is_none()
            && self.key_lengths.as_ref().is_none_or(|lengths| lengths.repeats(0))
            && self.segments.iter().flatten().all(|segments| segments.repeats(0))
            && self.visible.as_ref().is_none_or(|(bytes, _)| bytes.repeats(0));
        let same_heads = self.visible.as_ref().is_none_or(|(bytes, _)| bytes.repeats(1));
        let (batches, of_batch) = if same_batches { (sequences.min(1), sequences) } else { (sequences, 1) };
        let (heads, of_head) = if same_heads { (1, sizes.heads) } else { (sizes.heads, 1) };
        for (b, h) in (0..batches).flat_map(|b| (0..heads).map(move |h| (b, h))) {
            let (queries, keys) = match &self.offsets {
                None => (sizes.queries, sizes.keys),
                Some([of_q, of_k]) => (length(of_q, b, sizes.queries), length(of_k, b, sizes.keys)),
            };
            let end = self.key_lengths.as_ref().map_or(keys, |lengths| {
                let own: i32 = lengths.entries::<0>(&[b]).at([]);
                (own.max(0) as u64).min(keys)
            });
            let bytes = self.visible.as_ref().map(|(bytes, polarity)| Bytes {
                entries: bytes.entries(&[b, h]),
                polarity: *polarity,
                dims: [bytes.dims[2], bytes.dims[3]],
            });
            let segments = self.segments.as_ref().map(|both| {
                [0, 1].map(|side| Segments { entries: both[side].entries(&[b]), positions: both[side].dims[1] })
            });
            let sight = Sight::new(queries, keys, &masking.bands, 0..end).with(bytes, segments);
            visit(&sight, of_batch * of_head);
        }
    }

    /// As [`Facts::each`], of a call with one query whose heads are taken for `group` queries of their key head: they see the keys in
    /// `seen`, whatever their number.
    pub(super) fn each_shared(&self, group: u64, seen: std::ops::Range<u64>, visit: &mut dyn FnMut(&Sight, u64)) {
        self.each(&mut |sight, heads| {
            let end = sight.key_end().min(seen.end);
            visit(&Sight::new(group, seen.end, &[], seen.start..end), heads / group);
        });
    }
}

/// The length of a sequence, cut off as kernels do.
fn length(offsets: &[i32], sequence: u64, tokens: u64) -> u64 {
    let at = |i: usize| i64::from(offsets[i]).clamp(0, tokens as i64);
    (at(sequence as usize + 1) - at(sequence as usize)).max(0) as u64
}

/// Bytes of the elements of a view, once where they repeat.
pub(super) fn bytes<E: Element>(view: &View<E>) -> u64 {
    let own = view.dims().iter().zip(view.layout().strides()).map(|(length, stride)| match stride {
        0 => (*length).min(1) as u64,
        _ => *length as u64,
    });
    own.product::<u64>() * E::DTYPE.size() as u64
}

/// Bytes of q, k and v, of what masks and changes scores, and of offsets.
pub(super) fn operand_bytes<T: Float>(call: &Forward<T>) -> u64 {
    let masking = &call.masking;
    let of_masks = masking.key_lengths.as_ref().map_or(0, bytes)
        + masking.segments.as_ref().map_or(0, |(of_q, of_k)| bytes(of_q) + bytes(of_k))
        + masking.visible.as_ref().map_or(0, |(visible, _)| bytes(visible));
    let of_scores = match &call.bias {
        None => 0,
        Some(Bias::F32(bias)) => bytes(bias),
        Some(Bias::F16(bias)) => bytes(bias),
        Some(Bias::BF16(bias)) => bytes(bias),
    } + call.slopes.as_ref().map_or(0, |(slopes, _)| bytes(slopes));
    let of_offsets = call.offsets.as_ref().map_or(0, |(of_q, of_k)| bytes(of_q) + bytes(of_k));
    [&call.q, &call.k, &call.v].into_iter().map(bytes).sum::<u64>() + of_masks + of_scores + of_offsets
}
