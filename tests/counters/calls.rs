//! Representative calls: at least one for every kernel file, and for the softmax family one for every way to cut rows.

use crate::common::random::Random;
use sumexp::attention::{self, Attention, AttentionGradients};
use sumexp::mask::Align;
use sumexp::{
    BinaryCrossEntropy, ConfidenceOptions, CrossEntropy, Device, Dim, Direction, Float, GumbelOptions, KlDivergence,
    LogProbabilities, Mask, NllLoss, Probabilities, Reduction, SampleOptions, SoftmaxOptions, Tensor, View, argmax,
    binary_cross_entropy_with_logits, binary_cross_entropy_with_logits_backward, confidence, cross_entropy,
    cross_entropy_backward, cross_entropy_with_gradient, gumbel_softmax, keep, kl_div, kl_div_backward,
    log_softmax_backward, logsumexp, logsumexp_backward, nll_loss, nll_loss_backward, sample, sigmoid,
    sigmoid_backward, softmax, softmax_backward, top_k,
};

/// What a call has to do at the least.
#[derive(Clone, Copy)]
pub struct Least {
    /// Bytes: every operand read once, every result written once.
    pub bytes: u64,
    /// What instructions are counted for: elements of the largest operand, or visible pairs of attention.
    pub elements: u64,
    /// Multiplications and additions of products; 0 where there are none.
    pub flops: u64,
}

/// A call, ready to run.
pub struct Call {
    pub name: String,
    pub least: Least,
    pub run: Box<dyn Fn()>,
}

fn random<T: Float>(device: &Device, dims: &[usize], seed: u64) -> Tensor<T> {
    let mut random = Random::new(seed);
    let values: Vec<T> = (0..dims.iter().product()).map(|_| T::from_f64(random.normal())).collect();
    Tensor::from_slice(device, dims, &values).expect("a small tensor")
}

/// Collects calls of an element type on a device.
struct Calls<'d> {
    device: &'d Device,
    all: Vec<Call>,
}

impl Calls<'_> {
    /// `bytes` for each of `elements`, and `per_row` for each of `rows`.
    fn add(&mut self, name: String, bytes: u64, elements: u64, run: impl Fn() + 'static) {
        self.all.push(Call { name, least: Least { bytes, elements, flops: 0 }, run: Box::new(run) });
    }

    /// The softmax family along a dim.
    fn family<T: Float>(&mut self, dims: &[usize], dim: usize) {
        let (size, count): (u64, u64) = (size_of::<T>() as u64, dims.iter().product::<usize>() as u64);
        let rows = count / dims[dim] as u64;
        let named = |op: &str| format!("{op} {} {dims:?} dim {dim}", T::DTYPE);
        let mut per_row = dims.to_vec();
        per_row.remove(dim);
        let (dim, plain) = (Dim::front(dim), SoftmaxOptions::default());
        let of = |seed| random::<T>(self.device, dims, seed);
        let (x, dlse) = (of(1), random::<f32>(self.device, &per_row, 2));
        let (y, dy) = (Probabilities::from_tensor(of(3)), of(4));
        let (log_y, log_dy) = (LogProbabilities::from_tensor(of(5)), of(6));
        let (of_lse, of_backward) = (of(7), of(8));
        self.add(named("softmax"), 2 * size * count, count, move || drop(softmax(&x, dim, &plain).unwrap()));
        let bytes = size * count + 4 * rows;
        self.add(named("logsumexp"), bytes, count, move || drop(logsumexp(&of_lse, dim, &plain).unwrap()));
        self.add(named("softmax_backward"), 3 * size * count, count, move || {
            drop(softmax_backward(&y, &dy, dim, &plain).unwrap());
        });
        self.add(named("log_softmax_backward"), 3 * size * count, count, move || {
            drop(log_softmax_backward(&log_y, &log_dy, dim, &plain).unwrap());
        });
        self.add(named("logsumexp_backward"), 2 * size * count + 4 * rows, count, move || {
            drop(logsumexp_backward(&of_backward, &dlse, dim, &plain).unwrap());
        });
    }

    /// Cross-entropy along a dim, of classes alone or with a share of every class.
    fn cross_entropy<T: Float>(&mut self, dims: &[usize], dim: usize, smoothing: f32) {
        let (size, count): (u64, u64) = (size_of::<T>() as u64, dims.iter().product::<usize>() as u64);
        let (classes, rows) = (dims[dim], count / dims[dim] as u64);
        let smooth = if smoothing > 0.0 { " smoothed" } else { "" };
        let named = |op: &str| format!("{op} {} {dims:?} dim {dim}{smooth}", T::DTYPE);
        let mut per_row = dims.to_vec();
        per_row.remove(dim);
        let dim = Dim::front(dim);
        let options =
            move || CrossEntropy { label_smoothing: smoothing, reduction: Reduction::None, ..CrossEntropy::default() };
        let targets = || {
            let targets: Vec<i64> = (0..rows).map(|row| (row * 7919 % classes as u64) as i64).collect();
            Tensor::from_slice(self.device, &per_row, &targets).unwrap()
        };
        let logits = || random::<T>(self.device, dims, 9);
        let upstream = random::<f32>(self.device, &per_row, 10);
        let forward = (logits(), targets());
        let fused = (logits(), targets());
        let backward = (logits(), targets());
        let saved = cross_entropy(&backward.0, dim, &backward.1, &options()).unwrap().saved;
        let ones = Tensor::from_slice(self.device, &per_row, &vec![1f32; rows as usize]).unwrap();
        // A class, a loss and an lse; what is saved is four numbers.
        self.add(named("cross_entropy"), size * count + 32 * rows, count, move || {
            drop(cross_entropy(&forward.0, dim, &forward.1, &options()).unwrap());
        });
        self.add(named("cross_entropy_backward"), 2 * size * count + 28 * rows, count, move || {
            drop(cross_entropy_backward(&backward.0, dim, &backward.1, &saved, &upstream, &options()).unwrap());
        });
        self.add(named("cross_entropy_with_gradient"), 2 * size * count + 36 * rows, count, move || {
            drop(cross_entropy_with_gradient(&fused.0, dim, &fused.1, Some(ones.view()), &options()).unwrap());
        });
    }

    /// The other losses, and what acts on single elements.
    fn losses<T: Float>(&mut self) {
        let size = size_of::<T>() as u64;
        let dims = [4, 4096];
        let count = (dims[0] * dims[1]) as u64;
        let named = |op: &str| format!("{op} {} {dims:?}", T::DTYPE);
        let of = |seed| random::<T>(self.device, &dims, seed);
        for top_k in [None, Some(64)] {
            let (student, teacher) = (of(11), of(12));
            let options = KlDivergence { direction: Direction::Forward, top_k, ..KlDivergence::default() };
            let one = Tensor::from_slice(self.device, &[], &[1f32]).unwrap();
            let kind = if top_k.is_some() { "top 64 of the teacher's, " } else { "" };
            let backward = (of(13), of(14), options);
            self.add(format!("{kind}{}", named("kl_div")), 2 * size * count, count, move || {
                drop(kl_div(&student, &teacher, Dim::LAST, &options).unwrap());
            });
            self.add(format!("{kind}{}", named("kl_div_backward")), 3 * size * count, count, move || {
                drop(kl_div_backward(&backward.0, &backward.1, Dim::LAST, &one, &backward.2).unwrap());
            });
        }
        let (y, targets) =
            (LogProbabilities::from_tensor(of(15)), Tensor::from_slice(self.device, &[4], &[1i64; 4]).unwrap());
        let one = Tensor::from_slice(self.device, &[], &[1f32]).unwrap();
        // Of the log-probabilities it reads one per row, and each of the gradient is written.
        let options = NllLoss::default;
        self.add(named("nll_loss"), 4 * (8 + size) + 4, 4, {
            let (y, targets) =
                (LogProbabilities::from_tensor(of(15)), Tensor::from_slice(self.device, &[4], &[1i64; 4]).unwrap());
            move || drop(nll_loss(&y, Dim::LAST, &targets, &options()).unwrap())
        });
        self.add(named("nll_loss_backward"), size * count + 4 * 8, count, move || {
            drop(nll_loss_backward(&y, Dim::LAST, &targets, &one, &options()).unwrap());
        });
        let (x, binary) = (of(16), of(17));
        let mean = BinaryCrossEntropy::default;
        self.add(named("binary_cross_entropy_with_logits"), 2 * size * count, count, move || {
            drop(binary_cross_entropy_with_logits(&x, &binary, &mean()).unwrap());
        });
        let (x, binary, one) = (of(16), of(17), Tensor::from_slice(self.device, &[], &[1f32]).unwrap());
        self.add(named("binary_cross_entropy_with_logits_backward"), 3 * size * count, count, move || {
            drop(binary_cross_entropy_with_logits_backward(&x, &binary, &one, &mean()).unwrap());
        });
        let (x, dy) = (of(18), of(19));
        let y = sigmoid(&x).unwrap();
        self.add(named("sigmoid"), 2 * size * count, count, move || drop(sigmoid(&x).unwrap()));
        self.add(named("sigmoid_backward"), 3 * size * count, count, move || drop(sigmoid_backward(&y, &dy).unwrap()));
    }

    /// What is read off logits.
    fn inference<T: Float>(&mut self) {
        let size = size_of::<T>() as u64;
        let dims = [2, 8192];
        let count = (dims[0] * dims[1]) as u64;
        let named = |op: &str| format!("{op} {} {dims:?}", T::DTYPE);
        let of = |seed| random::<T>(self.device, &dims, seed);
        let seed = || sumexp::Random::Seed { seed: 1, offset: 0 };
        let (a, b, c, d, e) = (of(20), of(21), of(22), of(23), of(24));
        self.add(named("argmax"), size * count + 2 * 8, count, move || drop(argmax(&a, Dim::LAST).unwrap()));
        self.add(named("confidence"), size * count + 2 * 12, count, move || {
            drop(confidence(&b, Dim::LAST, &ConfidenceOptions::default()).unwrap());
        });
        self.add(named("sample top-p 0.9"), size * count + 2 * 13, count, move || {
            let options = SampleOptions { top_p: 0.9, ..SampleOptions::default() };
            drop(sample(&c, Dim::LAST, &options, seed()).unwrap());
        });
        self.add(named("top_k 20"), size * count + 2 * 20 * (8 + size), count, move || {
            drop(top_k(&d, Dim::LAST, 20).unwrap());
        });
        self.add(named("gumbel_softmax"), 2 * size * count, count, move || {
            drop(gumbel_softmax(&e, Dim::LAST, &GumbelOptions::default(), seed()).unwrap());
        });
    }

    /// Attention and its gradients: `visible` is the share of pairs that a mask shows.
    fn attention<T: Float>(&mut self, head: usize, masked: Masked) {
        let (heads, queries, keys) = match masked {
            Masked::Decode => (2, 1, 2500),
            _ => (1, 384, 384),
        };
        let of = |heads: usize, length: usize, seed| random::<T>(self.device, &[1, heads, length, head], seed);
        let (q, k, v) = (of(heads, queries, 25), of(heads, keys, 26), of(heads, keys, 27));
        let dout = of(heads, queries, 28);
        let bytes: Vec<u8> = (0..queries * keys).map(|at| u8::from(at / keys / 128 != at % keys / 128)).collect();
        let bytes = Tensor::from_slice(self.device, &[queries, keys], &bytes).unwrap();
        let ids = |length: usize| {
            let ids: Vec<i32> = (0..length).map(|i| (i / 200) as i32).collect();
            Tensor::from_slice(self.device, &[1, length], &ids).unwrap()
        };
        let world = World { bytes, segments: [ids(queries), ids(keys)], bias: random(self.device, &[keys], 29) };
        let explanation = attention::explain(&q, &k, &v, &world.options(masked)).unwrap();
        let (name, visible) = (format!("{} {} D {head} {masked:?}", T::DTYPE, queries), explanation.visible);
        let output = attention::forward(&q, &k, &v, &world.options(masked)).unwrap();
        let least = |pass: &attention::ExplainedPass| Least { bytes: pass.bytes, elements: visible, flops: pass.flops };
        let (forward, backward) = (least(&explanation.forward), least(&explanation.backward));
        let shared = std::rc::Rc::new((q, k, v, dout, output, world));
        let of_forward = shared.clone();
        let run = move || {
            let (q, k, v, _, _, world) = &*of_forward;
            drop(attention::forward(q, k, v, &world.options(masked)).unwrap());
        };
        self.all.push(Call { name: format!("attention {name}"), least: forward, run: Box::new(run) });
        if matches!(masked, Masked::Decode) {
            return;
        }
        let of_backward = shared.clone();
        let run = move || {
            let (q, k, v, dout, output, world) = &*of_backward;
            let gradients: AttentionGradients<T> =
                attention::backward(q, k, v, output, dout, &world.options(masked)).unwrap();
            drop(gradients);
        };
        self.all.push(Call { name: format!("attention_backward {name}"), least: backward, run: Box::new(run) });
        if matches!(masked, Masked::Everything) {
            let pairs = (heads * queries * keys) as u64;
            let bytes = pairs * size_of::<T>() as u64;
            let run = move || {
                let (q, k, _, _, output, world) = &*shared;
                drop(attention::weights(q, k, &output.lse, 0..384, &world.options(masked)).unwrap());
                drop(attention::merge(output, output).unwrap());
            };
            let flops = 2 * pairs * head as u64;
            let name = format!("attention_weights, merge {name}");
            self.all.push(Call { name, least: Least { bytes, elements: pairs, flops }, run: Box::new(run) });
        }
    }
}

/// What attention hides.
#[derive(Clone, Copy, Debug)]
enum Masked {
    Everything,
    Causal,
    Bytes,
    Segments,
    BiasGradient,
    Decode,
}

/// What its options refer to.
struct World {
    bytes: Tensor<u8>,
    segments: [Tensor<i32>; 2],
    bias: Tensor<f32>,
}

impl World {
    fn options(&self, masked: Masked) -> Attention<'_> {
        let plain = Attention::default();
        let mask = match masked {
            Masked::Everything | Masked::Decode => Mask::None,
            Masked::Causal => Mask::Causal(Align::BottomRight),
            Masked::Bytes => Mask::Visible(keep(&self.bytes)),
            Masked::Segments => Mask::Segments { q: self.segments[0].view(), k: self.segments[1].view() },
            Masked::BiasGradient => {
                return Attention { bias: Some((&self.bias).into()), bias_gradient: true, ..plain };
            }
        };
        Attention { mask, ..plain }
    }
}

impl Calls<'_> {
    /// Attention to keys and values whose rows are not multiples of 16 bytes apart.
    fn attention_anywhere<T: Float>(&mut self) {
        let (q, x) = (random::<T>(self.device, &[1, 1, 384, 64], 25), random::<T>(self.device, &[1, 1, 384, 67], 26));
        fn rows<T: Float>(x: &Tensor<T>) -> View<'_, T> {
            x.view().slice(Dim::LAST, 1..65).unwrap()
        }
        let explanation = attention::explain(&q, rows(&x), rows(&x), &Attention::default()).unwrap();
        let pass = &explanation.forward;
        let least = Least { bytes: pass.bytes, elements: explanation.visible, flops: pass.flops };
        let name = format!("attention {} 384 D 64 rows anywhere", T::DTYPE);
        let run = move || drop(attention::forward(&q, rows(&x), rows(&x), &Attention::default()).unwrap());
        self.all.push(Call { name, least, run: Box::new(run) });
    }
}

/// The calls of attention that may take kernels of the newest GPUs.
pub fn attentions<T: Float>(device: &Device) -> Vec<Call> {
    let mut calls = Calls { device, all: Vec::new() };
    for masked in [Masked::Everything, Masked::Causal] {
        for head in [64, 128] {
            calls.attention::<T>(head, masked);
        }
    }
    calls.attention_anywhere::<T>();
    calls.all
}

/// All of an element type.
pub fn calls<T: Float>(device: &Device) -> Vec<Call> {
    let mut calls = Calls { device, all: Vec::new() };
    for dims in [[256, 64], [16, 1024], [4, 4096], [2, 32_000], [1, 140_000]] {
        calls.family::<T>(&dims, 1);
    }
    calls.family::<T>(&[2, 16, 512], 1);
    calls.family::<T>(&[2, 300, 64], 1);
    for smoothing in [0.0, 0.1] {
        calls.cross_entropy::<T>(&[4, 4096], 1, smoothing);
        calls.cross_entropy::<T>(&[1, 50_257], 1, smoothing);
    }
    calls.cross_entropy::<T>(&[2, 40, 512], 1, 0.0);
    calls.losses::<T>();
    calls.inference::<T>();
    for masked in [Masked::Bytes, Masked::Segments, Masked::BiasGradient, Masked::Decode] {
        calls.attention::<T>(64, masked);
    }
    let Calls { all, .. } = calls;
    all.into_iter().chain(attentions::<T>(device)).collect()
}
