//! What the bits of a row depend on: its own row, its keys and the options. Not on the batch, other lengths, strides or schedules.

use crate::common::attention::cases::Layout;
use crate::common::attention::on_device::OnDevice;
use crate::common::attention::problem::{Masks, Problem, narrow};
use crate::common::compare::assert_same_bits;
use crate::common::device::{assert_no_findings, devices, soft};
use crate::common::sparse::{FAR, Far};
use crate::device;
use sumexp::attention::{Attention, Bias, forward};
use sumexp::mask::{Align, Band};
use sumexp::{Dim, Element, Float, Mask, Polarity, Tensor, View, bf16, f16, keep};

/// Copies of a problem's batch entry behind others, with key lengths.
fn batch_of(problem: &Problem, count: usize, place: usize, lengths: impl Fn(usize) -> i32) -> Problem {
    let other = |x: &[f64]| -> Vec<f64> { x.iter().rev().copied().collect() };
    let all = |x: &[f64]| (0..count).flat_map(|n| if n == place { x.to_vec() } else { other(x) }).collect();
    let masks = Masks { lengths: Some((0..count).map(lengths).collect()), ..problem.masks.clone() };
    let [q, k, v] = [all(&problem.q), all(&problem.k), all(&problem.v)];
    Problem { batch: count, q, k, v, masks, ..problem.clone() }
}

/// flash-attn c2006099, FlashMLA#212, vllm#53257: alone, in a batch of 32, at any place of it, and with other rows' lengths changed. Long keys
/// are split between blocks, and the split must not depend on the others either.
#[test]
fn a_row_alone_or_in_a_batch_of_32() {
    fn of<T: Float>() {
        for (queries, keys) in [(1, 1100), (33, 70), (3, 5)] {
            let mut problem = Problem::new([1, 2, 1], [queries, keys], [32, 32], 51);
            problem.masks.bands = vec![Band::causal(Align::BottomRight)];
            let length = keys as i32 - 2;
            for device in devices() {
                let run = |problem| OnDevice::<T>::new(&device, vec![problem], Layout::HeadsFirst).forward().remove(0);
                let (want, want_lse) = run(batch_of(&problem, 1, 0, |_| length));
                for (count, place, others) in [(32, 0, 1), (32, 31, keys as i32), (32, 7, 0), (2, 1, keys as i32 / 2)] {
                    let (out, lse) =
                        run(batch_of(&problem, count, place, |n| if n == place { length } else { others }));
                    assert_same_bits(&"out", &out[place * want.len()..][..want.len()], &want);
                    assert_same_bits(&"lse", &lse[place * want_lse.len()..][..want_lse.len()], &want_lse);
                }
                assert_no_findings(&"a batch of 32");
            }
        }
    }
    of::<f16>();
    of::<bf16>();
    of::<f32>();
}

/// pytorch PR #114173, #191937; TE#2746; rocm-libraries#11387: keys and values of stride 0, expanded masks, a length of 33 keys.
#[test]
fn repeated_operands() {
    for device in devices() {
        let mut problem = Problem::new([2, 2, 2], [5, 33], [64, 64], 52);
        (problem.k, problem.v) = (problem.k[..33 * 64].repeat(4), problem.v[..33 * 64].repeat(4));
        let row: Vec<u8> = (0..33).map(|j| u8::from(j % 5 != 0)).collect();
        problem.masks.bytes = Some((row.repeat(2 * 2 * 5), [2, 2, 5, 33], Polarity::Keep));
        let on = OnDevice::<bf16>::new(&device, vec![problem.clone()], Layout::HeadsFirst);
        let (want, _) = on.forward().remove(0);
        let [q, k, v] = on.operands();
        let first = |x: View<bf16>| {
            let one = Tensor::from_slice(&device, &[33, 64], &x.to_vec().unwrap()[..33 * 64]).unwrap();
            (one, [2, 2, 33, 64])
        };
        let ((k, dims), (v, _)) = (first(k), first(v));
        let (k, v) = (k.view().expand(&dims).unwrap(), v.view().expand(&dims).unwrap());
        let row = Tensor::from_slice(&device, &[1, 1, 1, 33], &row).unwrap();
        let bytes = row.view().expand(&[2, 2, 5, 33]).unwrap();
        let scale = Some(problem.scale as f32);
        let options = Attention { mask: Mask::Visible(keep(bytes)), scale, ..Attention::default() };
        let got = forward(q, k, v, &options).unwrap();
        assert_same_bits(&"out", &got.out.to_vec().unwrap(), &want);
        assert_no_findings(&"repeated operands");
    }
}

/// pytorch#134995, #121943, xformers#813: masks and biases of odd lengths at odd addresses, and every other one of their elements.
#[test]
fn masks_and_biases_lie_anywhere() {
    for device in devices() {
        for keys in [15, 43, 129] {
            let problem = Problem::new([1, 2, 2], [20, keys], [24, 24], 53);
            let on = OnDevice::<f16>::new(&device, vec![problem], Layout::HeadsFirst);
            let [q, k, v] = on.operands();
            let pairs = 20 * keys;
            let bytes: Vec<u8> = (0..pairs).map(|i| u8::from(i % 3 != 1)).collect();
            let numbers: Vec<f16> = (0..pairs).map(|i| f16::from_f32((i % 7) as f32 / 4.0)).collect();
            let mut want = None;
            for (offset, step) in [(0, 1), (1, 1), (3, 2)] {
                fn spread<E: Copy>(values: &[E], offset: usize, step: usize, filler: E) -> Vec<E> {
                    let mut all = vec![filler; offset];
                    values.iter().for_each(|x| all.extend([*x].into_iter().chain(vec![filler; step - 1])));
                    all
                }
                let bytes = spread(&bytes, offset, step, 1);
                let numbers = spread(&numbers, offset, step, f16::NAN);
                let bytes = Tensor::from_slice(&device, &[bytes.len()], &bytes).unwrap();
                let numbers = Tensor::from_slice(&device, &[numbers.len()], &numbers).unwrap();
                fn part<'a, E: Element>(x: &'a Tensor<E>, offset: usize, dims: [usize; 3]) -> View<'a, E> {
                    let x = x.view().slice(Dim::LAST, offset..offset + dims.iter().product::<usize>()).unwrap();
                    x.reshape(&dims).unwrap().slice(Dim::LAST, 0..1).unwrap().reshape(&dims[..2]).unwrap()
                }
                let dims = [20, keys, step];
                let options = Attention {
                    mask: Mask::Visible(keep(part(&bytes, offset, dims))),
                    bias: Some(Bias::F16(part(&numbers, offset, dims))),
                    ..Attention::default()
                };
                let got = forward(q, k, v, &options).unwrap().out.to_vec().unwrap();
                assert_same_bits(&format!("{keys} keys, {offset}, {step}"), &got, want.get_or_insert(got.clone()));
                assert_no_findings(&"masks anywhere");
            }
        }
    }
}

/// flash-attn b62d93f3, 6865e601; xformers 471569b4; ggml 1319de9e; ORT#32299: products of positions and strides in 32 bits. Rows of
/// q, k, v, mask and bias lie 2^31 elements apart.
#[test]
fn rows_that_lie_far_apart() {
    let Some(soft) = soft() else { return };
    let device = device();
    let problem = Problem::single(4, 5, 8, 54);
    let bytes: Vec<u8> = (0..20).map(|i| u8::from(i % 3 != 0)).collect();
    let numbers: Vec<f32> = (0..20).map(|i| i as f32 / 8.0).collect();
    let near = OnDevice::<f16>::new(&device, vec![problem.clone()], Layout::HeadsFirst);
    let [q, k, v] = near.operands();
    let (near_bytes, near_bias) = (
        Tensor::from_slice(&device, &[4, 5], &bytes).unwrap(),
        Tensor::from_slice(&device, &[4, 5], &numbers).unwrap(),
    );
    let options = |bytes, bias| Attention {
        mask: Mask::Visible(keep::<'_>(bytes)),
        bias: Some(Bias::F32(bias)),
        ..Attention::default()
    };
    let want = forward(q, k, v, &options(near_bytes.view(), near_bias.view())).unwrap();
    let far = |rows: usize, x: &[f64]| Far::new(&soft, &device, &[rows, 8], &narrow::<f16>(x));
    let (far_q, far_k, far_v) = (far(4, &problem.q), far(5, &problem.k), far(5, &problem.v));
    let (far_bytes, far_bias) =
        (Far::new(&soft, &device, &[4, 5], &bytes), Far::new(&soft, &device, &[4, 5], &numbers));
    assert!(far_q.view().layout().strides()[0] >= FAR as u64);
    fn whole(x: &Far<f16>, rows: usize) -> View<'_, f16> {
        x.view().expand(&[1, 1, rows, 8]).unwrap()
    }
    let options = options(far_bytes.view(), far_bias.view());
    let got = forward(whole(&far_q, 4), whole(&far_k, 5), whole(&far_v, 5), &options).unwrap();
    assert_same_bits(&"out", &got.out.to_vec().unwrap(), &want.out.to_vec().unwrap());
    assert_no_findings(&"far apart");
}

/// pytorch#142228, flashinfer#3125, #4534, DeepSpeed#1239: more heads, or batch entries, than a grid has blocks in y and z.
#[test]
fn more_heads_or_batch_entries_than_65535() {
    let device = device();
    let many = 65_537;
    let values: Vec<f16> = (0..many).map(|i| f16::from_f32((i % 1000) as f32)).collect();
    for dims in [[1, many, 1, 1], [many, 1, 1, 1]] {
        let v = Tensor::from_slice(&device, &dims, &values).unwrap();
        let got = forward(&v, &v, &v, &Attention::default()).unwrap();
        assert_same_bits(&format!("{dims:?}"), &got.out.to_vec().unwrap(), &values);
        assert_no_findings(&"a large grid");
    }
}

/// Twenty schedules of a problem with every part of the forward pass: masks of all kinds, split keys, packed sequences.
#[test]
fn twenty_schedules() {
    let Some(soft) = soft() else { return };
    let device = device();
    let mut masked = Problem::new([1, 2, 1], [70, 140], [64, 64], 55);
    masked.masks.bands = vec![Band::causal(Align::BottomRight)];
    masked.masks.lengths = Some(vec![130]);
    masked.masks.bytes = Some(((0..140).map(|j| u8::from(j % 9 != 0)).collect(), [1, 1, 1, 140], Polarity::Keep));
    let split = Problem::new([1, 4, 1], [1, 2100], [32, 32], 56);
    let sequences =
        vec![Problem::single(40, 70, 32, 57), Problem::single(3, 0, 32, 58), Problem::single(70, 5, 32, 59)];
    let calls = [
        OnDevice::<f16>::new(&device, vec![masked], Layout::PositionsFirst),
        OnDevice::<f16>::new(&device, vec![split], Layout::HeadsFirst),
        OnDevice::<f16>::new(&device, sequences, Layout::Packed),
    ];
    for call in &calls {
        soft.seed(0);
        let want = call.forward();
        for schedule in 1..=20 {
            soft.seed(schedule);
            for ((out, lse), (want, want_lse)) in call.forward().iter().zip(&want) {
                assert_same_bits(&format!("schedule {schedule}"), out, want);
                assert_same_bits(&format!("schedule {schedule}"), lse, want_lse);
            }
        }
    }
    soft.seed(0);
    assert_no_findings(&"twenty schedules");
}
