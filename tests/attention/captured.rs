//! Captured calls: what masks and offsets hold counts when a graph is launched, and whatever that is, nothing outside of the
//! operands is touched and the next launch is right again (flashinfer#2432, flash-attn#166, ORT#15002, TensorRT#2888: calls that waited or
//! read back could not be captured).

use crate::common::compare::assert_same_bits;
use crate::common::device::{assert_no_findings, soft};
use crate::common::gpu::undisturbed;
use crate::common::random::Random;
use crate::device;
use sumexp::attention::{Attention, AttentionOutput, forward, forward_packed};
use sumexp::mask::Align;
use sumexp::{Device, Graph, Mask, Result, Tensor, f16, keep};

fn normal(device: &Device, dims: &[usize], seed: u64) -> Tensor<f16> {
    let mut random = Random::new(seed);
    let values: Vec<f16> = (0..dims.iter().product()).map(|_| f16::from_f64(random.normal())).collect();
    Tensor::from_slice(device, dims, &values).unwrap()
}

/// What a call reads beside q, k and v.
struct Said {
    bytes: Tensor<u8>,
    lengths: Tensor<i32>,
    segments: [Tensor<i32>; 2],
    bias: Tensor<f16>,
}

/// Two batch entries.
fn call(x: &[Tensor<f16>; 3], said: &Said) -> Result<AttentionOutput<f16>> {
    let masks = [
        Mask::Window { left: None, right: Some(30), align: Align::BottomRight },
        Mask::KeyLengths(said.lengths.view()),
        Mask::Segments { q: said.segments[0].view(), k: said.segments[1].view() },
        keep(&said.bytes).into(),
    ];
    let options = Attention { mask: Mask::All(&masks), bias: Some((&said.bias).into()), ..Attention::default() };
    forward(&x[0], &x[1], &x[2], &options)
}

impl Said {
    fn new(device: &Device, [queries, keys]: [usize; 2]) -> Self {
        let ids = |count: usize| Tensor::zeros(device, &[2, count]).unwrap();
        Self {
            bytes: Tensor::zeros(device, &[queries, keys]).unwrap(),
            lengths: Tensor::zeros(device, &[2]).unwrap(),
            segments: [ids(queries), ids(keys)],
            bias: Tensor::zeros(device, &[1, 2, 1, keys]).unwrap(),
        }
    }

    /// Other contents, which may be anything if they are `hostile`.
    fn change(&mut self, seed: u64, hostile: bool) {
        let mut random = Random::new(seed);
        let mut word = move || {
            let bits = (random.below(1 << 16) << 16 | random.below(1 << 16)) as u32;
            if random.one_in(4) { [0, 1, i32::MAX, i32::MIN, -1][random.below(5)] } else { bits as i32 }
        };
        let mut within = |most: i32| if hostile { word() } else { word().rem_euclid(most + 1) };
        let keys = self.segments[1].dims()[1] as i32;
        let mut fill = |x: &mut Tensor<i32>, most: i32| {
            let values: Vec<i32> = (0..x.elements()).map(|_| within(most)).collect();
            x.copy_from_slice(&values).unwrap();
        };
        fill(&mut self.lengths, keys);
        self.segments.iter_mut().for_each(|x| fill(x, 2));
        let bytes: Vec<u8> = (0..self.bytes.elements()).map(|_| within(255) as u8 % 3).collect();
        self.bytes.copy_from_slice(&bytes).unwrap();
        let bias: Vec<f16> = (0..self.bias.elements()).map(|_| f16::from_bits(within(0x3c00) as u16)).collect();
        self.bias.copy_from_slice(&bias).unwrap();
    }
}

#[test]
fn masks_may_change_between_launches() {
    // One that is split, one whose queries fill several blocks.
    for sizes in [[2, 2100], [150, 90]] {
        let device = device();
        let x = [(2, sizes[0]), (1, sizes[1]), (1, sizes[1])];
        let x = x.map(|(heads, length)| normal(&device, &[2, heads, length, 32], length as u64));
        let mut said = Said::new(&device, sizes);
        let (graph, got) = undisturbed(|| Graph::capture(&device, |_| call(&x, &said))).unwrap();
        for seed in 0..12 {
            let hostile = seed % 3 == 1;
            said.change(seed, hostile);
            graph.launch().unwrap();
            let want = call(&x, &said).unwrap();
            assert_same_bits(
                &format!("{sizes:?}, {seed}: out"),
                &got.out.to_vec().unwrap(),
                &want.out.to_vec().unwrap(),
            );
            assert_same_bits(
                &format!("{sizes:?}, {seed}: lse"),
                &got.lse.to_vec().unwrap(),
                &want.lse.to_vec().unwrap(),
            );
            assert_no_findings(&format!("{sizes:?}, {seed}"));
        }
    }
}

#[test]
fn offsets_may_change_between_launches() {
    const TOKENS: usize = 140;
    let device = device();
    let q = normal(&device, &[TOKENS, 2, 32], 1);
    let k = normal(&device, &[TOKENS, 1, 32], 2);
    let mut offsets = Tensor::<i32>::zeros(&device, &[5]).unwrap();
    let options = Attention { mask: Mask::Causal(Align::BottomRight), ..Attention::default() };
    let call = |offsets: &Tensor<i32>| forward_packed(&q, &k, &k, offsets, offsets, &options);
    let (graph, got) = undisturbed(|| Graph::capture(&device, |_| call(&offsets))).unwrap();
    let mut random = Random::new(3);
    for round in 0..40 {
        let hostile = round % 2 == 1;
        let mut values: Vec<i32> = match hostile {
            false => (0..5).map(|_| random.below(TOKENS + 1) as i32).collect(),
            true => (0..5).map(|_| (random.below(1 << 16) << 16 | random.below(1 << 16)) as u32 as i32).collect(),
        };
        if !hostile {
            values.sort_unstable();
            (values[0], values[4]) = (0, TOKENS as i32);
        }
        offsets.copy_from_slice(&values).unwrap();
        graph.launch().unwrap();
        if hostile {
            // Sequences may overlap then, and their rows are written by both.
            device.synchronize().unwrap();
            let findings = soft().map(|soft| soft.take_findings()).unwrap_or_default();
            let beyond = findings.iter().find(|finding| !finding.to_string().contains("race"));
            assert!(beyond.is_none(), "{values:?}: {}", beyond.expect("one"));
            continue;
        }
        let want = call(&offsets).unwrap();
        assert_same_bits(&format!("{values:?}: out"), &got.out.to_vec().unwrap(), &want.out.to_vec().unwrap());
        assert_same_bits(&format!("{values:?}: lse"), &got.lse.to_vec().unwrap(), &want.lse.to_vec().unwrap());
        assert_no_findings(&"changed offsets");
    }
}
