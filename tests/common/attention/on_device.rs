//! Problems on a device, through the public functions.

use std::ops::Range;

use super::cases::Layout;
use super::problem::{Gradient, Problem, narrow, turned};
use sumexp::attention::{
    Alibi, Attention, AttentionOutput, Bias, BiasGradient, PackedOffsets, Upstream, backward, backward_packed, forward,
    forward_packed,
};
use sumexp::mask::Band;
use sumexp::{Device, Dim, Element, Float, Mask, Polarity, Tensor, View, hide, keep};

/// Where an operand is: in a tensor `[B, H, S, D]` or `[B, S, H, D]`, among other heads and columns.
struct Part {
    tensor: usize,
    positions_first: bool,
    heads: Range<usize>,
    columns: Range<usize>,
}

/// What a problem gives, heads first.
pub struct Results<T> {
    pub out: Vec<T>,
    pub lse: Vec<f32>,
    pub gradient: Gradient<T>,
}

/// The operands of one call: a problem, or with [`Layout::Packed`] as many as there are sequences.
pub struct OnDevice<T> {
    pub device: Device,
    pub problems: Vec<Problem>,
    /// What q, k and v lie in. Elements that are not theirs are NaN.
    tensors: Vec<Tensor<T>>,
    parts: Vec<Part>,
    /// Of q and k.
    offsets: Option<[PackedOffsets; 2]>,
    lengths: Option<Tensor<i32>>,
    segments: Option<[Tensor<i32>; 2]>,
    bytes: Option<Tensor<u8>>,
    bias: Option<Tensor<T>>,
    slopes: Option<Tensor<f32>>,
}

/// Which rows a tensor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    Queries,
    Keys,
}

impl<T: Float> OnDevice<T> {
    /// Uploads one problem, or the sequences of a packed batch: each of batch 1, without bias, segments and bytes, and with the
    /// heads, sizes, bands, slopes and softcap of the first.
    pub fn new(device: &Device, problems: Vec<Problem>, layout: Layout) -> OnDevice<T> {
        let first = &problems[0];
        let masks = &first.masks;
        let ids = |dims: &[usize], ids: &[i32]| Tensor::from_slice(device, dims, ids).unwrap();
        let b = first.batch;
        let lengths = masks.lengths.as_ref().map(|_| {
            let all: Vec<i32> = problems.iter().flat_map(|p| p.masks.lengths.clone().unwrap()).collect();
            ids(&[all.len()], &all)
        });
        let segments = masks.segments.as_ref().map(|(q, k)| [ids(&[b, first.queries], q), ids(&[b, first.keys], k)]);
        let offsets = (layout == Layout::Packed).then(|| {
            [Rows::Queries, Rows::Keys].map(|rows| {
                let lengths: Vec<usize> = problems.iter().map(|problem| rows.of(problem)).collect();
                PackedOffsets::from_lengths(device, &lengths).expect("an upload")
            })
        });
        let bytes =
            masks.bytes.as_ref().map(|(bytes, shape, _)| Tensor::from_slice(device, shape, bytes).expect("an upload"));
        let bias = first
            .bias
            .as_ref()
            .map(|(bias, shape)| Tensor::from_slice(device, shape, &narrow::<T>(bias)).expect("an upload"));
        let slopes =
            first.alibi.as_ref().map(|(slopes, _)| Tensor::from_slice(device, &[slopes.len()], slopes).unwrap());
        let mut made = OnDevice {
            device: device.clone(),
            tensors: Vec::new(),
            parts: Vec::new(),
            offsets,
            lengths,
            segments,
            bytes,
            bias,
            slopes,
            problems,
        };
        made.upload_operands(layout);
        made
    }

    fn upload_operands(&mut self, layout: Layout) {
        let Problem { batch: b, query_heads, key_heads, queries, keys, size, value_size, .. } = self.problems[0];
        let nan = T::from_f64(f64::NAN);
        let of = |part: fn(&Problem) -> &Vec<f64>| -> Vec<T> { narrow(part(&self.problems[0])) };
        let operands = [
            (of(|p| &p.q), query_heads, queries, size),
            (of(|p| &p.k), key_heads, keys, size),
            (of(|p| &p.v), key_heads, keys, value_size),
        ];
        match layout {
            Layout::Packed => {
                let all = [
                    self.upload(Rows::Queries, [query_heads, size], |_, p| narrow(&p.q)),
                    self.upload(Rows::Keys, [key_heads, size], |_, p| narrow(&p.k)),
                    self.upload(Rows::Keys, [key_heads, value_size], |_, p| narrow(&p.v)),
                ];
                self.tensors.extend(all);
            }
            Layout::OneBuffer => {
                let heads = query_heads + 2 * key_heads;
                let mut whole = vec![nan; b * queries * heads * size];
                let mut from = 0;
                for (x, of_part, _, _) in operands {
                    for (row, x) in x.chunks(size).enumerate() {
                        let (batch, head, position) = (row / queries / of_part, row / queries % of_part, row % queries);
                        whole[((batch * queries + position) * heads + from + head) * size..][..size].copy_from_slice(x);
                    }
                    let heads = from..from + of_part;
                    from += of_part;
                    self.parts.push(Part { tensor: 0, positions_first: true, heads, columns: 0..size });
                }
                self.tensors.push(Tensor::from_slice(&self.device, &[b, queries, heads, size], &whole).unwrap());
            }
            _ => {
                // Rows that begin anywhere: an odd number of elements lies between two of them.
                let margin = if layout == Layout::Misaligned { [1, 2] } else { [0, 0] };
                let positions_first = layout == Layout::PositionsFirst;
                for (tensor, (x, heads, positions, width)) in operands.into_iter().enumerate() {
                    let x = if positions_first {
                        x.chunks((heads * positions * width).max(1))
                            .flat_map(|x| turned(x, heads, positions, width))
                            .collect()
                    } else {
                        x
                    };
                    let row = |x: &[T]| [&vec![nan; margin[0]][..], x, &vec![nan; margin[1]][..]].concat();
                    let whole: Vec<T> = x.chunks(width).flat_map(row).collect();
                    let all = margin[0] + width + margin[1];
                    let dims = if positions_first { [b, positions, heads, all] } else { [b, heads, positions, all] };
                    self.tensors.push(Tensor::from_slice(&self.device, &dims, &whole).unwrap());
                    let columns = margin[0]..margin[0] + width;
                    self.parts.push(Part { tensor, positions_first, heads: 0..heads, columns });
                }
            }
        }
    }

    /// Whether there are several sequences.
    pub fn packed(&self) -> bool {
        self.offsets.is_some()
    }

    /// q, k and v as the functions take them.
    pub fn operands(&self) -> [View<'_, T>; 3] {
        if self.packed() {
            return [0, 1, 2].map(|n| self.tensors[n].view());
        }
        [0, 1, 2].map(|n| {
            let Part { tensor, positions_first, heads, columns } = &self.parts[n];
            let whole = self.tensors[*tensor].view().slice(Dim::LAST, columns.clone()).unwrap();
            if *positions_first {
                whole.slice(Dim::back(1), heads.clone()).unwrap().permute(&[0, 2, 1, 3]).unwrap()
            } else {
                whole.slice(Dim::front(1), heads.clone()).unwrap()
            }
        })
    }

    /// Where the sequences of q and of k begin and end.
    pub fn offsets(&self) -> Option<&[PackedOffsets; 2]> {
        self.offsets.as_ref()
    }

    /// Hands over the options.
    pub fn with_options<R>(&self, run: impl FnOnce(&Attention) -> R) -> R {
        let first = &self.problems[0];
        let bands = first.masks.bands.iter().map(|band| match *band {
            Band { left: None, right: Some(0), align } => Mask::Causal(align),
            Band { left, right, align } => Mask::Window { left, right, align },
        });
        let mut masks: Vec<Mask> = bands.collect();
        masks.extend(self.lengths.as_ref().map(|lengths| Mask::KeyLengths(lengths.view())));
        masks.extend(self.segments.as_ref().map(|[q, k]| Mask::Segments { q: q.view(), k: k.view() }));
        let polarity = first.masks.bytes.as_ref().map(|(.., polarity)| *polarity);
        masks.extend(self.bytes.as_ref().zip(polarity).map(|(bytes, polarity)| match polarity {
            Polarity::Keep => Mask::Visible(keep(bytes)),
            Polarity::Hide => Mask::Visible(hide(bytes)),
        }));
        let align = first.alibi.as_ref().map(|(_, align)| *align);
        run(&Attention {
            scale: Some(first.scale as f32),
            mask: if masks.is_empty() { Mask::None } else { Mask::All(&masks) },
            bias: self.bias.as_ref().map(bias),
            bias_gradient: self.bias.is_some(),
            alibi: self.slopes.as_ref().zip(align).map(|(slopes, align)| Alibi { slopes: slopes.view(), align }),
            softcap: first.softcap.map(|cap| cap as f32),
        })
    }

    fn output(&self) -> AttentionOutput<T> {
        let [q, k, v] = self.operands();
        let output = self.with_options(|options| match self.offsets() {
            None => forward(q, k, v, options),
            Some([of_q, of_k]) => forward_packed(q, k, v, of_q, of_k, options),
        });
        output.expect("a legal call")
    }

    /// Gradients by problem, shaped as the operands with heads first, for these of out and lse.
    pub fn backward(&self, upstream: &[(Vec<f64>, Vec<f64>)]) -> Vec<Gradient<T>> {
        let Problem { query_heads, key_heads, size, value_size, .. } = self.problems[0];
        let saved = self.output();
        let dout = self.upload(Rows::Queries, [query_heads, value_size], |n, _| narrow::<T>(&upstream[n].0));
        let dlse = self.upload(Rows::Queries, [query_heads, 1], |n, _| narrow::<f32>(&upstream[n].1));
        let rank = dlse.dims().len();
        let dlse = dlse.view().reshape(&dlse.dims()[..rank - 1]).unwrap();
        let upstream = Upstream { dout: dout.view(), dlse: Some(dlse) };
        let [q, k, v] = self.operands();
        let gradients = self.with_options(|options| match self.offsets() {
            None => backward(q, k, v, &saved, upstream, options),
            Some([of_q, of_k]) => backward_packed(q, k, v, of_q, of_k, &saved, upstream, options),
        });
        let gradients = gradients.expect("a legal call");
        let by_problem =
            |rows, heads, width, x: &Tensor<T>| self.by_problem(rows, heads, width, x.to_vec().expect("a download"));
        let dq = by_problem(Rows::Queries, query_heads, size, &gradients.dq);
        let dk = by_problem(Rows::Keys, key_heads, size, &gradients.dk);
        let dv = by_problem(Rows::Keys, key_heads, value_size, &gradients.dv);
        let all = dq.into_iter().zip(dk).zip(dv);
        // One problem alone has a bias.
        let dbias = || gradients.dbias.as_ref().map_or_else(Vec::new, of_bias);
        all.map(|((dq, dk), dv)| Gradient { dq, dk, dv, dbias: dbias() }).collect()
    }

    /// Results by problem, `[B, H, S, Dv]` and `[B, H, S]`.
    pub fn forward(&self) -> Vec<(Vec<T>, Vec<f32>)> {
        let output = self.output();
        let (out, lse) = (output.out.to_vec().unwrap(), output.lse.to_vec().unwrap());
        let heads = self.problems[0].query_heads;
        let out = self.by_problem(Rows::Queries, heads, self.problems[0].value_size, out);
        out.into_iter().zip(self.by_problem(Rows::Queries, heads, 1, lse)).collect()
    }

    /// Results and gradients by problem, for these of out and lse.
    pub fn both(&self, upstream: &[(Vec<f64>, Vec<f64>)]) -> Vec<Results<T>> {
        let results = self.forward().into_iter().zip(self.backward(upstream));
        results.map(|((out, lse), gradient)| Results { out, lse, gradient }).collect()
    }

    /// Rows of a result as the operands have them, heads first and by problem.
    pub fn by_problem<E: Element>(&self, rows: Rows, heads: usize, width: usize, all: Vec<E>) -> Vec<Vec<E>> {
        if !self.packed() {
            return vec![all];
        }
        let mut rest = &all[..];
        let mut part = |problem: &Problem| {
            let length = rows.of(problem);
            let (part, behind) = rest.split_at(length * heads * width);
            rest = behind;
            turned(part, length, heads, width)
        };
        let parts = self.problems.iter().map(&mut part).collect();
        assert!(rest.is_empty(), "rows that belong to nobody");
        parts
    }

    /// The same upwards: what each problem has heads first, as an operand of a call. Of a batch `[B, H, S, width]`, packed
    /// `[T, H, width]`.
    pub fn upload<E: Element>(
        &self,
        rows: Rows,
        [heads, width]: [usize; 2],
        of: impl Fn(usize, &Problem) -> Vec<E>,
    ) -> Tensor<E> {
        let first = &self.problems[0];
        if !self.packed() {
            let dims = [first.batch, heads, rows.of(first), width];
            return Tensor::from_slice(&self.device, &dims, &of(0, first)).expect("an upload");
        }
        let turn = |(n, problem): (usize, &Problem)| turned(&of(n, problem), heads, rows.of(problem), width);
        let all: Vec<E> = self.problems.iter().enumerate().flat_map(turn).collect();
        Tensor::from_slice(&self.device, &[all.len() / (heads * width), heads, width], &all).expect("an upload")
    }
}

impl Rows {
    /// How many of them a problem has.
    pub fn of(self, problem: &Problem) -> usize {
        match self {
            Rows::Queries => problem.queries,
            Rows::Keys => problem.keys,
        }
    }
}

/// The numbers of a gradient of this type.
fn of_bias<T: Float>(gradient: &BiasGradient) -> Vec<T> {
    let tensor: &dyn std::any::Any = match gradient {
        BiasGradient::F32(tensor) => tensor,
        BiasGradient::F16(tensor) => tensor,
        BiasGradient::BF16(tensor) => tensor,
    };
    tensor.downcast_ref::<Tensor<T>>().expect("a gradient of the bias's type").to_vec().expect("a download")
}

/// A bias of the type that its elements have.
fn bias<T: Float>(tensor: &Tensor<T>) -> Bias<'_> {
    let tensor: &dyn std::any::Any = tensor;
    None.or_else(|| tensor.downcast_ref().map(|tensor: &Tensor<f32>| Bias::F32(tensor.view())))
        .or_else(|| tensor.downcast_ref().map(|tensor: &Tensor<_>| Bias::F16(tensor.view())))
        .or_else(|| tensor.downcast_ref().map(|tensor: &Tensor<_>| Bias::BF16(tensor.view())))
        .expect("f32, f16 or bf16")
}
