//! What is explained is what happens: the same launches, as many products on tensor cores, as many bytes read.

use crate::common::device::{assert_no_findings, soft};
use crate::common::random::Random;
use crate::device;
use softgpu::ctl::Gpu;
use sumexp::attention::{
    Alibi, Attention, ExplainedPass, Explanation, PackedOffsets, backward, backward_packed, explain, explain_packed,
    forward, forward_packed,
};
use sumexp::mask::Align;
use sumexp::{Device, Float, Mask, Tensor, bf16, f16, hide, keep};

/// Batch entries, heads, heads of keys, queries, keys, head size of q, of v.
type Sizes = [usize; 7];

const CAUSAL: Mask = Mask::Causal(Align::BottomRight);

fn zeros<T: Float>(device: &Device, dims: &[usize]) -> Tensor<T> {
    Tensor::zeros(device, dims).unwrap()
}

/// Everything that options may refer to.
struct World {
    bytes: Tensor<u8>,
    of_heads: Tensor<u8>,
    blocks: Tensor<u8>,
    lengths: Tensor<i32>,
    ascending: [Tensor<i32>; 2],
    mixed: [Tensor<i32>; 2],
    bias: Tensor<f32>,
    of_pairs: Tensor<f16>,
    slopes: Tensor<f32>,
}

impl World {
    fn new(device: &Device, [batch, heads, _, queries, keys, ..]: Sizes) -> Self {
        let mut random = Random::new(7);
        let mut bytes = |dims: &[usize]| {
            let bytes: Vec<u8> = (0..dims.iter().product()).map(|_| u8::from(random.one_in(9))).collect();
            Tensor::from_slice(device, dims, &bytes).unwrap()
        };
        let ids = |length: usize, of: &dyn Fn(usize) -> i32| {
            let ids: Vec<i32> = (0..batch * length).map(|i| of(i % length) + (i / length) as i32).collect();
            Tensor::from_slice(device, &[batch, length], &ids).unwrap()
        };
        let block = |n: usize| u8::from((n / keys / 100 + n % keys / 130).is_multiple_of(2));
        let blocks: Vec<u8> = (0..queries * keys).map(block).collect();
        let lengths: Vec<i32> = (0..batch).map(|b| keys as i32 - 77 * b as i32 - 3).collect();
        Self {
            bytes: bytes(&[batch, 1, queries, keys]),
            of_heads: bytes(&[1, heads, 1, keys]),
            blocks: Tensor::from_slice(device, &[queries, keys], &blocks).unwrap(),
            lengths: Tensor::from_slice(device, &[batch], &lengths).unwrap(),
            ascending: [queries, keys].map(|length| ids(length, &|i| (i / 90) as i32)),
            mixed: [queries, keys].map(|length| ids(length, &|i| (i / 50 * 7 % 5) as i32)),
            bias: zeros(device, &[heads, 1, keys]),
            of_pairs: zeros(device, &[queries, keys]),
            slopes: zeros(device, &[heads]),
        }
    }

    /// A list of options, with names.
    fn each(&self, mut visit: impl FnMut(&str, &Attention)) {
        fn of([q, k]: &[Tensor<i32>; 2]) -> Mask<'_> {
            Mask::Segments { q: q.view(), k: k.view() }
        }
        let lengths = Mask::KeyLengths(self.lengths.view());
        let window = Mask::Window { left: Some(150), right: Some(20), align: Align::TopLeft };
        let documents = [CAUSAL, of(&self.ascending)];
        let all = [window, lengths, hide(&self.bytes).into()];
        let nothing = Mask::Window { left: Some(0), right: Some(0), align: Align::BottomRight };
        let apart = [Mask::Window { left: Some(0), right: Some(0), align: Align::TopLeft }, nothing];
        let masks = [
            ("everything", Mask::None),
            ("causal", CAUSAL),
            ("window", window),
            ("lengths", lengths),
            ("two diagonals", Mask::All(&apart)),
            ("bytes", hide(&self.bytes).into()),
            ("few bytes", keep(&self.bytes).into()),
            ("bytes of heads", keep(&self.of_heads).into()),
            ("blocks", keep(&self.blocks).into()),
            ("segments", of(&self.ascending)),
            ("segments in disorder", of(&self.mixed)),
            ("documents", Mask::All(&documents)),
            ("all", Mask::All(&all)),
        ];
        let plain = Attention::default();
        masks.iter().for_each(|(name, mask)| visit(name, &Attention { mask: *mask, ..plain }));
        visit("bias", &Attention { bias: Some((&self.bias).into()), mask: CAUSAL, ..plain });
        let with_gradient = Attention { bias_gradient: true, ..plain };
        visit("gradient of a bias", &Attention { bias: Some((&self.bias).into()), mask: window, ..with_gradient });
        visit("gradient of a bias of pairs", &Attention { bias: Some((&self.of_pairs).into()), ..with_gradient });
        let alibi = Some(Alibi { slopes: self.slopes.view(), align: Align::BottomRight });
        visit("slopes", &Attention { alibi, mask: lengths, ..plain });
        visit("cap", &Attention { softcap: Some(1.0), ..plain });
    }
}

/// Holds the kernels of an explanation against those that ran since counters and launches were reset.
#[track_caller]
pub fn same(soft: &Gpu, pass: &ExplainedPass, bands_only: bool, what: &str) {
    let launched: Vec<_> = soft.take_launches();
    let of_launch =
        |l: &softgpu::ctl::LaunchRecord| (l.kernel.clone(), l.grid.map(u64::from), l.block[0], l.dynamic_shared.into());
    let launched: Vec<(String, [u64; 3], u32, u64)> = launched.iter().map(of_launch).collect();
    let explained: Vec<_> = pass.kernels.iter().map(|k| (k.symbol.clone(), k.grid, k.threads, k.shared)).collect();
    assert_eq!(explained, launched, "{what}");
    for kernel in pass.kernels.iter().filter(|kernel| kernel.tiles.is_some()) {
        let counters = soft.counters(&kernel.symbol).expect("it was launched");
        assert_eq!(kernel.flops, counters.matrix_flops, "{what}: {kernel}");
        let read = counters.global_loads.bytes;
        // Bytes, segments, lengths and offsets are read as well.
        assert!(
            if bands_only { kernel.bytes_read == read } else { kernel.bytes_read <= read },
            "{what}: {kernel}: {read}"
        );
    }
}

fn of_sizes<T: Float>(sizes: Sizes) {
    let Some(soft) = soft() else { return };
    let device = device();
    let [batch, heads, key_heads, queries, keys, head, value] = sizes;
    let q = zeros::<T>(&device, &[batch, heads, queries, head]);
    let k = zeros::<T>(&device, &[batch, key_heads, keys, head]);
    let v = zeros::<T>(&device, &[batch, key_heads, keys, value]);
    let (here, there) = (World::new(&device, sizes), World::new(&Device::cpu(), sizes));
    let host = Device::cpu();
    let on_host = [q.to_device(&host), k.to_device(&host), v.to_device(&host)].map(Result::unwrap);
    let mut explained = Vec::new();
    here.each(|name, options| {
        let explanation = explain(&q, &k, &v, options).unwrap();
        soft.reset_counters();
        soft.take_launches();
        let output = forward(&q, &k, &v, options).unwrap();
        let what = format!("{} {sizes:?} {name}", T::DTYPE);
        // Rows that are not whole vectors are read element by element, some of them twice.
        let vectors = (head * T::DTYPE.size()).is_multiple_of(16) && (value * T::DTYPE.size()).is_multiple_of(16);
        same(&soft, &explanation.forward, vectors && ["everything", "causal", "window"].contains(&name), &what);
        soft.reset_counters();
        drop(backward(&q, &k, &v, &output, &output.out, options).unwrap());
        same(&soft, &explanation.backward, false, &what);
        let Explanation { pairs, visible, forward, .. } = &explanation;
        assert_eq!(*pairs, (batch * heads * queries * keys) as u64);
        assert!(visible <= pairs && forward.flops == 2 * visible * (head + value) as u64, "{what}");
        assert!(forward.executed_flops() >= forward.flops && !forward.rejected.is_empty(), "{what}");
        explained.push(explanation);
    });
    // The same on the host, where none of it runs.
    let mut of_host = Vec::new();
    let [q, k, v] = &on_host;
    there.each(|_, options| of_host.push(explain(q, k, v, options).unwrap()));
    for (left, right) in explained.iter().zip(&of_host) {
        let of = |all: &Explanation| (all.forward.clone(), all.backward.clone(), all.visible);
        assert!(of(left) == of(right), "{left}\n{right}");
    }
    assert_eq!(soft.take_launches().len(), 0, "nothing runs to explain");
    assert_no_findings(&"explain");
}

#[test]
fn launches_products_and_bytes_are_as_explained() {
    of_sizes::<f16>([2, 2, 1, 300, 400, 64, 64]);
    of_sizes::<bf16>([1, 2, 2, 257, 129, 40, 128]);
    of_sizes::<f32>([1, 2, 1, 150, 300, 64, 24]);
}

#[test]
fn few_queries_are_explained() {
    // Split keys; a query whose heads share a block; both.
    of_sizes::<f16>([2, 4, 1, 1, 700, 64, 64]);
    of_sizes::<bf16>([2, 4, 2, 1, 2500, 32, 32]);
    of_sizes::<f16>([1, 2, 2, 70, 2500, 200, 256]);
    of_sizes::<f32>([1, 1, 1, 1, 1100, 129, 16]);
}

/// Packed sequences have tiles of their own each, and masks may be shorter than they are.
#[test]
fn packed_sequences_are_explained() {
    let Some(soft) = soft() else { return };
    let device = device();
    let of_q = PackedOffsets::from_lengths(&device, &[200, 0, 1, 130]).unwrap();
    let of_k = PackedOffsets::from_lengths(&device, &[150, 40, 300, 0]).unwrap();
    let q = zeros::<f16>(&device, &[331, 4, 64]);
    let k = zeros::<f16>(&device, &[490, 2, 64]);
    let world = World::new(&device, [4, 4, 2, 140, 170, 64, 64]);
    world.each(|name, options| {
        let explanation = explain_packed(&q, &k, &k, &of_q, &of_k, options).unwrap();
        soft.reset_counters();
        soft.take_launches();
        let output = forward_packed(&q, &k, &k, &of_q, &of_k, options).unwrap();
        same(&soft, &explanation.forward, false, name);
        soft.reset_counters();
        drop(backward_packed(&q, &k, &k, &of_q, &of_k, &output, &output.out, options).unwrap());
        same(&soft, &explanation.backward, false, name);
        assert_eq!(explanation.pairs, 4 * (200 * 150 + 300), "{name}");
    });
    assert_no_findings(&"packed");
}

/// Visible pairs, by counting them.
#[test]
fn visible_pairs_are_counted() {
    let device = Device::cpu();
    let bytes: Vec<u8> = (0..30 * 50).map(|n| u8::from(n % 7 == 0)).collect();
    let count = (0..30 * 50).filter(|n| n % 7 == 0 && n % 50 <= n / 50 + 20).count() as u64;
    let bytes = Tensor::from_slice(&device, &[30, 50], &bytes).unwrap();
    let (q, k) = (zeros::<f32>(&device, &[3, 4, 30, 8]), zeros::<f32>(&device, &[3, 2, 50, 8]));
    let masks = [CAUSAL, keep(&bytes).into()];
    let options = Attention { mask: Mask::All(&masks), ..Attention::default() };
    let explanation = explain(&q, &k, &k, &options).unwrap();
    assert_eq!((explanation.pairs, explanation.visible), (12 * 1500, 12 * count));
    // Every operand once, the mask once for all heads, out, and the lse.
    assert_eq!(explanation.forward.bytes, (2 * 12 * 30 * 8 + 2 * 6 * 50 * 8 + 12 * 30) * 4 + 1500);
}

/// The page, word by word.
#[test]
fn the_page() {
    let device = Device::cpu();
    let (q, k) = (zeros::<f16>(&device, &[1, 8, 1024, 64]), zeros::<f16>(&device, &[1, 2, 1024, 64]));
    let options = Attention { mask: Mask::Causal(Align::TopLeft), ..Attention::default() };
    let page = explain(&q, &k, &k, &options).unwrap().to_string();
    let want = "\
q [1, 8, 1024, 64], k [1, 2, 1024, 64], v [1, 2, 1024, 64] of f16 on the host, where the float64 reference runs instead of
4198400 of 8388608 pairs of a query and a key are visible (50.0 %)
forward: 1.07 GFLOP for what is visible, 1.21 GFLOP on tensor cores; 2.65 MB at least
  attention_forward_f16_64<<<(64, 1, 1), 128, 49152>>>: 128 queries x 64 keys of up to 64 elements, 4 warps, bands: 64 blocks
    576 of 1024 tiles computed, 128 with a mask, 448 skipped; 1.21 GFLOP, 10.49 MB asked for
  not the kernel for heads of up to 32 elements: heads have 64
  not the kernel for heads of up to 96 elements: it would fill heads of 64 up with zeros
  not the kernel for masks and scores of any kind: it has fewer queries to a warp, and nothing needs a look at single pairs
  not the kernel for compute capability 9.0: it needs a GPU of compute capability 9.0
  not keys split between blocks: more than 128 queries keep a GPU busy by themselves
  not heads that share keys as queries of one head: only a single query sees the same keys in all heads
";
    assert!(page.starts_with(want), "{page}");
}

/// Nothing to launch, and nothing wrong with it.
#[test]
fn nothing_to_explain() {
    let device = Device::cpu();
    let (q, none) = (zeros::<f16>(&device, &[2, 2, 5, 8]), zeros::<f16>(&device, &[2, 2, 0, 8]));
    let explanation = explain(&q, &none, &none, &Attention::default()).unwrap();
    assert_eq!((explanation.visible, explanation.forward.kernels.len()), (0, 1));
    let explanation = explain(&none, &q, &q, &Attention::default()).unwrap();
    assert_eq!((explanation.visible, explanation.forward.kernels.len()), (0, 0));
    assert!(explanation.to_string().contains("nothing to launch"));
    assert!(explain(&q, &none, &q, &Attention::default()).is_err());
}
