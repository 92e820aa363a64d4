//! Every barrier and fence of every kernel is needed: without any one of them the checks of the software GPU report it, or the
//! results change. One that could be missing unnoticed is either too many, or no test would tell if it went by mistake.
//!
//! What is left out is a statement of the PTX, so a barrier of the source that stands in several kernels, or that the compiler
//! doubled, is tried in each of them. `make barriers` prints the table. Nothing can be left out on a real GPU, where these tests
//! do nothing.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::device::soft;
use common::gpu::ptx;
use common::random::Random;
use softgpu::ctl::{Gpu, Profile};
use sumexp::attention::{self, Attention};
use sumexp::kernels::images;
use sumexp::mask::Align;
use sumexp::{
    BinaryCrossEntropy, ConfidenceOptions, CrossEntropy, DType, Device, Dim, Direction, Float, GumbelOptions,
    KlDivergence, LogProbabilities, Mask, Probabilities, SampleOptions, SoftmaxOptions, Tensor, argmax, bf16,
    binary_cross_entropy_with_logits, confidence, cross_entropy, cross_entropy_in_place, f16, gumbel_softmax, keep,
    kl_div, kl_div_backward, log_softmax_backward, logsumexp, sample, softmax, softmax_backward, top_k,
};

/// Opcodes of what only puts accesses in order, and could go without anything else being wrong.
const ORDERING: [&str; 9] = [
    "bar.",
    "barrier.",
    "membar.",
    "fence.",
    "cp.async.wait_group",
    "cp.async.wait_all",
    "mbarrier.test_wait",
    "wgmma.fence",
    "wgmma.wait_group",
];

/// Schedules that are tried until one shows that a statement is missing.
const SEEDS: u64 = 20;

fn orders(statement: &str) -> bool {
    // Behind a guard, if there is one.
    let opcode = statement.split_whitespace().find(|word| !word.starts_with('@')).unwrap_or_default();
    ORDERING.iter().any(|ordering| opcode.starts_with(ordering))
}

/// A call, and the bits that it gives.
type Call = Box<dyn Fn(&Device) -> Vec<u32>>;

/// A named call, and the GPU that it is for: if nothing else is said, one that has only the kernels that every GPU has.
struct Case {
    name: String,
    profile: Profile,
    run: Call,
}

impl Case {
    fn new(name: String, run: impl Fn(&Device) -> Vec<u32> + 'static) -> Case {
        Case { name, profile: Profile::Sm80, run: Box::new(run) }
    }

    /// The same on a GPU of compute capability 9.0.
    fn on_hopper(self) -> Case {
        Case { name: format!("{} on Hopper", self.name), profile: Profile::Sm90, ..self }
    }
}

fn random<T: Float>(device: &Device, dims: &[usize], seed: u64) -> Tensor<T> {
    let mut random = Random::new(seed);
    let values: Vec<T> = (0..dims.iter().product()).map(|_| T::from_f64(random.normal())).collect();
    Tensor::from_slice(device, dims, &values).expect("a small tensor")
}

fn bits<T: Float>(values: sumexp::Result<Vec<T>>) -> Vec<u32> {
    values.expect("readable").into_iter().map(|x| x.to_f32().to_bits()).collect()
}

/// The softmax family on one shape. The other operations run the same kernels by the same barriers.
fn family<T: Float>(dims: &'static [usize], dim: usize) -> [Case; 4] {
    let (dim, options) = (Dim::front(dim), SoftmaxOptions::default());
    let named = |op: &str| format!("{op} {} {dims:?}", T::DTYPE);
    [
        Case::new(named("softmax"), move |device| {
            bits(softmax(&random::<T>(device, dims, 1), dim, &options).expect("a legal call").to_vec())
        }),
        Case::new(named("logsumexp"), move |device| {
            bits(logsumexp(&random::<T>(device, dims, 1), dim, &options).expect("a legal call").to_vec())
        }),
        Case::new(named("softmax_backward"), move |device| {
            let (y, dy) = (Probabilities::from_tensor(random::<T>(device, dims, 2)), random::<T>(device, dims, 3));
            bits(softmax_backward(&y, &dy, dim, &options).expect("a legal call").to_vec())
        }),
        Case::new(named("log_softmax_backward"), move |device| {
            let (y, dy) = (LogProbabilities::from_tensor(random::<T>(device, dims, 2)), random::<T>(device, dims, 3));
            bits(log_softmax_backward(&y, &dy, dim, &options).expect("a legal call").to_vec())
        }),
    ]
}

/// The weighted mean loss over two rows, one of which has a target that is no class; with `gradient`, which takes the place of the
/// logits, by one kernel.
fn loss<T: Float>((classes, gradient): (usize, bool)) -> Case {
    let op = if gradient { "cross_entropy_in_place" } else { "cross_entropy" };
    Case::new(format!("{op} {} [2, {classes}]", T::DTYPE), move |device| {
        let logits = random::<T>(device, &[2, classes], 4);
        let targets = Tensor::from_slice(device, &[2], &[classes as i64 - 1, -1]).expect("a small tensor");
        let weights = random::<f32>(device, &[classes], 9);
        let options = CrossEntropy { class_weights: Some(weights.view()), ..CrossEntropy::default() };
        let (output, dlogits) = if gradient {
            let both = cross_entropy_in_place(logits, Dim::LAST, &targets, None, &options).expect("a legal call");
            (both.0, Some(both.1))
        } else {
            (cross_entropy(&logits, Dim::LAST, &targets, &options).expect("a legal call"), None)
        };
        let report = device.check().expect_err("the bad target is reported");
        assert_eq!(device.check(), Ok(()), "once");
        let mut bits = [bits(output.lse.to_vec()), bits(output.loss.to_vec())].concat();
        bits.extend(dlogits.into_iter().flat_map(|dlogits| self::bits(dlogits.to_vec())));
        bits.extend(report.to_string().bytes().map(u32::from));
        bits
    })
}

/// The losses of two rows in which every class has a share, and what is known of the rows beside that; with `gradient` as [`loss`].
fn shares<T: Float>((classes, gradient): (usize, bool)) -> Case {
    let op = if gradient { "cross_entropy_in_place" } else { "cross_entropy" };
    Case::new(format!("{op} with shares {} [2, {classes}]", T::DTYPE), move |device| {
        let logits = random::<T>(device, &[2, classes], 4);
        let targets = Tensor::from_slice(device, &[2], &[classes as i64 - 1, 1]).expect("a small tensor");
        let options = CrossEntropy {
            reduction: sumexp::Reduction::None,
            label_smoothing: 0.5,
            statistics: true,
            ..CrossEntropy::default()
        };
        let (output, dlogits) = if gradient {
            let both = cross_entropy_in_place(logits, Dim::LAST, &targets, None, &options).expect("a legal call");
            (both.0, Some(both.1))
        } else {
            (cross_entropy(&logits, Dim::LAST, &targets, &options).expect("a legal call"), None)
        };
        let statistics = output.statistics.expect("asked for");
        let mut all = bits(output.loss.to_vec());
        all.extend(dlogits.into_iter().flat_map(|dlogits| bits(dlogits.to_vec())));
        all.extend(bits(statistics.entropy.to_vec()));
        all.extend(statistics.rank.to_vec().expect("no finding").into_iter().map(|rank| rank as u32));
        all.extend(statistics.argmax.to_vec().expect("no finding").into_iter().map(|index| index as u32));
        all
    })
}

/// The mean loss of more events than a block takes at a time.
fn events<T: Float>() -> Case {
    Case::new(format!("binary_cross_entropy_with_logits {}", T::DTYPE), |device| {
        let (x, options) = (random::<T>(device, &[3, 4000], 5), BinaryCrossEntropy::default());
        bits(binary_cross_entropy_with_logits(&x, &x, &options).expect("a legal call").to_vec())
    })
}

/// A divergence and the gradient of another, which has one sum more.
fn divergence<T: Float>(dims: &'static [usize]) -> Case {
    Case::new(format!("kl_div {} {dims:?}", T::DTYPE), move |device| {
        let (student, teacher) = (random::<T>(device, dims, 9), random::<T>(device, dims, 10));
        let options = KlDivergence { direction: Direction::Reverse, ..KlDivergence::default() };
        let loss = kl_div(&student, &teacher, Dim::LAST, &options).expect("a legal call");
        let gradient = kl_div_backward(&student, &teacher, Dim::LAST, &loss, &options).expect("a legal call");
        [bits(loss.to_vec()), bits(gradient.to_vec())].concat()
    })
}

/// What is read off logits without a gradient, on one shape.
fn inference<T: Float>((dims, dim): (&'static [usize], usize)) -> [Case; 5] {
    // So many of the longest rows that their candidates do not fit in shared memory.
    let k = if dims[dim] < 10_000 { 20 } else { 1024 };
    let dim = Dim::front(dim);
    let named = |op: &str| format!("{op} {} {dims:?}", T::DTYPE);
    [
        Case::new(named("argmax"), move |device| {
            let indices = argmax(&random::<T>(device, dims, 6), dim).expect("a legal call").to_vec();
            indices.expect("no finding").into_iter().map(|index| index as u32).collect()
        }),
        Case::new(named("confidence"), move |device| {
            let x = random::<T>(device, dims, 7);
            let sure = confidence(&x, dim, &ConfidenceOptions::default()).expect("a legal call");
            [sure.confidence, sure.margin, sure.entropy].into_iter().flat_map(|result| bits(result.to_vec())).collect()
        }),
        Case::new(named("sample"), move |device| {
            let options = SampleOptions { top_k: Some(k), top_p: 0.9, ..SampleOptions::default() };
            let drawn =
                sample(&random::<T>(device, dims, 9), dim, &options, sumexp::Random::Seed { seed: 1, offset: 0 });
            let drawn = drawn.expect("a legal call");
            let ids = drawn.ids.to_vec().expect("no finding").into_iter().map(|id| id as u32);
            ids.chain(bits(drawn.log_probabilities.to_vec())).collect()
        }),
        Case::new(named("gumbel_softmax"), move |device| {
            let random = sumexp::Random::Seed { seed: 1, offset: 0 };
            let drawn = gumbel_softmax(&self::random::<T>(device, dims, 9), dim, &GumbelOptions::default(), random);
            bits(drawn.expect("a legal call").probabilities.to_vec())
        }),
        Case::new(named("top_k"), move |device| {
            let indices = top_k(&random::<T>(device, dims, 8), dim, k).expect("a legal call").indices.to_vec();
            indices.expect("no finding").into_iter().map(|index| index as u32).collect()
        }),
    ]
}

/// Attention by the kernel for heads of so many elements, with more than two key tiles, so that buffers are filled again, and a NaN in
/// the values that some queries see and some do not; `general` asks for masks of any kind, with tiles that are whole and some that are not.
fn attends<T: Float>(head: usize, general: bool) -> Case {
    attends_to::<T>(head, general, 200)
}

/// The same with so many keys.
fn attends_to<T: Float>(head: usize, general: bool, keys: usize) -> Case {
    let name = format!("attention {} of {head}{}", T::DTYPE, if general { " with a mask of bytes" } else { "" });
    Case::new(name, move |device| {
        let queries = keys - 50;
        let of = |length: usize, seed: u64| random::<T>(device, &[1, 1, length, head], seed);
        let mut v = of(keys, 13).to_vec().expect("readable");
        // In the first tile, and in a later one.
        v[41 * head] = T::from_f64(f64::NAN);
        v[170 * head + 1] = T::from_f64(f64::NAN);
        let v = Tensor::from_slice(device, &[1, 1, keys, head], &v).expect("a small tensor");
        let bytes: Vec<u8> = (0..keys).map(|key| u8::from(key % 5 != 0 || key >= 50)).collect();
        let bytes = Tensor::from_slice(device, &[keys], &bytes).expect("a small tensor");
        let parts = [Mask::Causal(Align::TopLeft), Mask::Visible(keep(&bytes))];
        let options = Attention { mask: if general { Mask::All(&parts) } else { parts[0] }, ..Attention::default() };
        let output = attention::forward(&of(queries, 11), &of(keys, 12), &v, &options).expect("a legal call");
        [bits(output.out.to_vec()), bits(output.lse.to_vec())].concat()
    })
}

/// Attention by the kernels of compute capability 9.0, if the build has them for an element type.
fn by_warpgroups<T: Float>() -> Vec<Case> {
    let image = format!("attention_forward_{}_sm90a", T::DTYPE);
    let built = images().iter().any(|(name, _)| *name == image);
    let heads: &[usize] = if built { &[64, 128] } else { &[] };
    // Rings are filled again by keys, and by the queries of several heads.
    let gradients = |head: usize| [[1, 70, 600], [2, 300, 130]].map(|sizes| slopes_of::<T>(head, false, sizes));
    let of = |head: &usize| [attends_to::<T>(*head, false, 600)].into_iter().chain(gradients(*head));
    heads.iter().flat_map(of).map(Case::on_hopper).collect()
}

/// Gradients of attention by the kernels for heads of so many elements, likewise; `general` with tiles of queries and of keys of which
/// bytes alone show nothing.
fn slopes<T: Float>(head: usize, general: bool) -> Case {
    slopes_of::<T>(head, general, [1, 200, 200])
}

/// The same with so many heads that share so many keys, and so many queries in each.
fn slopes_of<T: Float>(head: usize, general: bool, [heads, queries, keys]: [usize; 3]) -> Case {
    let name = format!("gradients of attention {} of {head}{}", T::DTYPE, if general { " with bytes" } else { "" });
    Case::new(name, move |device| {
        // A NaN that some see and some do not.
        let of = |heads: usize, length: usize, seed: u64, at: usize| {
            let mut x = random::<T>(device, &[1, heads, length, head], seed).to_vec().expect("readable");
            x[at * head] = T::from_f64(f64::NAN);
            Tensor::from_slice(device, &[1, heads, length, head], &x).expect("a small tensor")
        };
        let (align, special) =
            if queries < keys { (Align::BottomRight, keys - queries + 30) } else { (Align::TopLeft, 40) };
        let (q, dout) = (of(heads, queries, 16, 30), of(heads, queries, 19, 30));
        let (k, v) = (of(1, keys, 17, special), of(1, keys, 18, special));
        // Holes in a corner, and whole tiles beside it.
        let shown =
            |query: usize, key: usize| query < 128 && key < 128 && (!key.is_multiple_of(5) || key >= 50 || query >= 50);
        let bytes: Vec<u8> = (0..queries * keys).map(|i| u8::from(shown(i / keys, i % keys))).collect();
        let bytes = Tensor::from_slice(device, &[queries, keys], &bytes).expect("a small tensor");
        let mask = if general { Mask::Visible(keep(&bytes)) } else { Mask::Causal(align) };
        let options = Attention { mask, ..Attention::default() };
        let saved = attention::forward(&q, &k, &v, &options).expect("a legal call");
        let gradients = attention::backward(&q, &k, &v, &saved, &dout, &options).expect("a legal call");
        [gradients.dq, gradients.dk, gradients.dv].into_iter().flat_map(|x| bits(x.to_vec())).collect()
    })
}

/// The gradient of a bias of one number per key, by the kernel for heads of so many elements: several tiles of queries add to it.
fn bias_slopes<T: Float>(head: usize) -> Case {
    Case::new(format!("gradient of a bias {} of {head}", T::DTYPE), move |device| {
        let of = |length: usize, seed: u64| random::<T>(device, &[1, 1, length, head], seed);
        let (q, k, dout, bias) = (of(150, 21), of(100, 22), of(150, 23), random::<f32>(device, &[100], 24));
        let options = Attention { bias: Some((&bias).into()), bias_gradient: true, ..Attention::default() };
        let saved = attention::forward(&q, &k, &k, &options).expect("a legal call");
        let gradients = attention::backward(&q, &k, &k, &saved, &dout, &options).expect("a legal call");
        bits(gradients.dbias.expect("asked for").f32().expect("the bias's type").to_vec())
    })
}

/// Weights of attention, over more key tiles and more columns than there are buffers.
fn weighs<T: Float>() -> Case {
    Case::new(format!("attention weights {}", T::DTYPE), |device| {
        let of = |length: usize, seed: u64| random::<T>(device, &[1, 1, length, 200], seed);
        let (q, k, options) = (of(100, 14), of(200, 15), Attention::default());
        let lse = attention::forward(&q, &k, &k, &options).expect("a legal call").lse;
        bits(attention::weights(&q, &k, &lse, 0..100, &options).expect("a legal call").to_vec())
    })
}

/// Every kernel of an element type in which lanes of more than one warp work together.
fn cases<T: Float>() -> Vec<Case> {
    let shapes: [(&[usize], usize); 11] = [
        (&[2, 2000], 1),
        (&[2, 4000], 1),
        (&[2, 8000], 1),
        (&[1, 16_000], 1),
        (&[1, 30_000], 1),
        (&[1, 60_000], 1),
        (&[1, 70_000], 1),
        (&[2, 20, 64], 1),
        (&[2, 300, 64], 1),
        (&[2, 20, 9], 1),
        (&[2, 300, 9], 1),
    ];
    let rows: [(&[usize], usize); 5] =
        [(&[2, 4000], 1), (&[2, 40_000], 1), (&[1, 140_000], 1), (&[2, 100, 9], 1), (&[2, 300, 9], 1)];
    let family = shapes.into_iter().flat_map(|(dims, dim)| family::<T>(dims, dim));
    let losses = [(4000, false), (40_000, false), (20, true), (100, true), (4000, true), (40_000, true)].map(loss::<T>);
    let divergences: [&[usize]; 3] = [&[2, 2000], &[2, 8000], &[2, 40_000]];
    let shares_of = [(4000, false), (20_000, false), (20, true), (100, true), (4000, true), (20_000, true)];
    let losses = losses.into_iter().chain(shares_of.map(shares::<T>)).chain([events::<T>()]);
    let losses = losses.chain(divergences.map(divergence::<T>));
    let attentions = [32, 64, 96, 128, 192, 256].into_iter().flat_map(|head| [false, true].map(|any| (head, any)));
    let attentions = attentions.flat_map(|(head, any)| [attends::<T>(head, any), slopes::<T>(head, any)]);
    let attentions = attentions.chain([32, 64, 96, 128, 192, 256].map(bias_slopes::<T>));
    family
        .chain(losses)
        .chain(rows.into_iter().flat_map(inference::<T>))
        .chain(attentions)
        .chain(by_warpgroups::<T>())
        .chain([weighs::<T>()])
        .collect()
}

/// A statement of a kernel: its symbol and the index of the instruction.
type Place = (String, u32);

/// What is known about a statement that orders.
struct Statement {
    /// Place in the source, and text.
    line: String,
    /// The cases that execute it.
    cases: Vec<usize>,
}

/// Runs a case in which nothing is missing, and notes the statements that order in its kernels.
fn explore(
    soft: &Gpu,
    devices: &Unused,
    index: usize,
    case: &Case,
    found: &mut BTreeMap<Place, Statement>,
) -> Vec<u32> {
    soft.reset_counters();
    soft.take_launches();
    let bits = (case.run)(devices.of(case));
    let findings = soft.take_findings();
    assert!(findings.is_empty(), "{}: {findings:?}", case.name);
    let kernels: BTreeSet<String> = soft.take_launches().into_iter().map(|launch| launch.kernel).collect();
    for kernel in kernels {
        let lines = soft.counters(&kernel).expect("it was just launched").lines;
        assert!(!lines.is_empty(), "{kernel}: one text, whatever launched it");
        for (pc, line) in lines.into_iter().enumerate().filter(|(_, line)| orders(&line.statement)) {
            let line_of = || format!("{} `{}`", line.place, line.statement);
            let place = (kernel.clone(), pc as u32);
            let statement = found.entry(place).or_insert_with(|| Statement { line: line_of(), cases: Vec::new() });
            if line.issued.warp > 0 {
                statement.cases.push(index);
            }
        }
    }
    bits
}

/// A GPU of each kind that nobody has used: threads that wait for each other for ever cost the one that they run on.
struct Unused {
    portable: Device,
    hopper: Device,
}

impl Unused {
    const ALL: [Profile; 256] = {
        let mut all = [Profile::Sm80; 256];
        let mut i = 1;
        while i < all.len() {
            all[i] = Profile::Sm90;
            i += 2;
        }
        all
    };

    fn new(soft: &Gpu) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        soft.devices(&Self::ALL);
        let pair = NEXT.fetch_add(1, Ordering::Relaxed) * 2;
        let [portable, hopper] =
            [pair, pair + 1].map(|number| Device::cuda(number).expect("fewer than 128 launches fail"));
        Self { portable, hopper }
    }

    fn of(&self, case: &Case) -> &Device {
        if case.profile == Profile::Sm90 { &self.hopper } else { &self.portable }
    }
}

/// How a missing statement shows first, in words.
fn shows(
    soft: &Gpu,
    devices: &mut Unused,
    cases: &[Case],
    right: &[Vec<u32>],
    statement: &Statement,
) -> Option<String> {
    for seed in 0..SEEDS {
        for &index in &statement.cases {
            soft.seed(seed);
            let Ok(bits) = catch_unwind(AssertUnwindSafe(|| (cases[index].run)(devices.of(&cases[index])))) else {
                soft.take_findings();
                *devices = Unused::new(soft);
                return Some(format!("a launch that does not end in {}, seed {seed}", cases[index].name));
            };
            if let Some(finding) = soft.take_findings().first() {
                let at = finding.at.as_ref().map(|at| format!(" at {} `{}`", at.place, at.statement));
                return Some(format!("{}{}, seed {seed}", finding.detector, at.unwrap_or_default()));
            }
            if bits != right[index] {
                return Some(format!("other result of {}, seed {seed}", cases[index].name));
            }
        }
    }
    None
}

/// Leaves out every statement that orders in the kernels of some cases, one at a time, and fails if one is not missed.
fn each_is_missed(cases: &[Case]) -> BTreeSet<String> {
    let Some(soft) = soft() else { return BTreeSet::new() };
    let mut devices = Unused::new(&soft);
    let mut found = BTreeMap::new();
    let right: Vec<Vec<u32>> =
        cases.iter().enumerate().map(|(index, case)| explore(&soft, &devices, index, case, &mut found)).collect();
    // The context is shared with other tests, so a finding must not fail it; and here it is what should be.
    soft.findings_fail(false);
    soft.echo(false);
    let mut unnoticed = Vec::new();
    for ((kernel, pc), statement) in &found {
        soft.omit(Some((kernel, *pc)));
        let shown = shows(&soft, &mut devices, cases, &right, statement);
        println!("| {kernel} | {} | {} |", statement.line, shown.as_deref().unwrap_or("**not noticed**"));
        if shown.is_none() {
            unnoticed.push(format!("{kernel}: {}, reached by {} cases", statement.line, statement.cases.len()));
        }
    }
    soft.omit(None);
    let kernels: BTreeSet<String> = found.keys().map(|(kernel, _)| kernel.clone()).collect();
    println!("{} statements of {} kernels, {} not noticed", found.len(), kernels.len(), unnoticed.len());
    assert!(unnoticed.is_empty(), "missed by nothing:\n{}", unnoticed.join("\n"));
    kernels
}

/// The kernels for elements of a type (or of none) whose PTX has a statement that orders.
fn kernels_that_order(dtype: DType) -> BTreeSet<String> {
    let others = [DType::F32, DType::F16, DType::BF16].into_iter().filter(|other| *other != dtype);
    let others: Vec<String> = others.map(|other| format!("_{other}")).collect();
    let mut kernels = BTreeSet::new();
    for (_, image) in images() {
        for entry in ptx(image).split(".visible .entry ").skip(1) {
            let (name, body) = entry.split_once('(').expect("parameters follow the name");
            if body.lines().any(orders) && !others.iter().any(|other| name.contains(other)) {
                kernels.insert(name.to_owned());
            }
        }
    }
    kernels
}

fn of_type<T: Float>() {
    let tried = each_is_missed(&cases::<T>());
    if soft().is_some() {
        let missing: Vec<String> =
            kernels_that_order(T::DTYPE).into_iter().filter(|kernel| !tried.contains(kernel)).collect();
        assert!(missing.is_empty(), "no case launches {missing:?}");
    }
}

#[test]
fn f32_kernels_need_their_barriers() {
    of_type::<f32>();
}

#[test]
fn f16_kernels_need_their_barriers() {
    of_type::<f16>();
}

#[test]
fn bf16_kernels_need_their_barriers() {
    of_type::<bf16>();
}
