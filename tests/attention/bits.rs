//! What the bits of a row and of its gradients depend on: its own row, its keys and the options. Not on the batch, other lengths,
//! strides or schedules.

use crate::common::attention::cases::Layout;
use crate::common::attention::on_device::{OnDevice, Results};
use crate::common::attention::problem::{Gradient, Masks, Problem, narrow, upstream};
use crate::common::compare::assert_same_bits;
use crate::common::device::{assert_no_findings, soft};
use crate::common::sparse::{FAR, Far};
use crate::{device, devices};
use softgpu::ctl::Gpu;
use softgpu::launch::Checks;
use sumexp::attention::{
    Attention, AttentionGradients, AttentionInto, AttentionOutput, Bias, GradientsInto, backward, backward_into,
    forward, forward_into,
};
use sumexp::mask::{Align, Band};
use sumexp::{Device, Dim, Element, Error, Float, Mask, Polarity, Tensor, View, ViewMut, bf16, f16, keep};

/// Gradients of the results of a problem.
pub type Upstream = (Vec<f64>, Vec<f64>);

/// A problem of one batch entry among `count` others, with key lengths.
fn batch_of(
    (problem, of): &(Problem, Upstream),
    count: usize,
    place: usize,
    lengths: impl Fn(usize) -> i32,
) -> (Problem, Upstream) {
    let other = |x: &[f64]| -> Vec<f64> { x.iter().rev().copied().collect() };
    let all = |x: &[f64]| (0..count).flat_map(|n| if n == place { x.to_vec() } else { other(x) }).collect();
    let masks = Masks { lengths: Some((0..count).map(lengths).collect()), ..problem.masks.clone() };
    let [q, k, v] = [all(&problem.q), all(&problem.k), all(&problem.v)];
    (Problem { batch: count, q, k, v, masks, ..problem.clone() }, (all(&of.0), all(&of.1)))
}

/// Both directions of one problem.
fn both<T: Float>(device: &Device, problem: Problem, of: Upstream) -> Results<T> {
    OnDevice::<T>::new(device, vec![problem], Layout::HeadsFirst).both(&[of]).remove(0)
}

/// Fails unless `got`, from row `place` of as many batch entries as it is longer, is `want`.
#[track_caller]
fn assert_same<T: Float>(case: &str, got: &Results<T>, want: &Results<T>, place: usize) {
    fn part<E>(got: &[E], len: usize, place: usize) -> &[E] {
        &got[place * len..][..len]
    }
    assert_same_bits(&format!("{case}: lse"), part(&got.lse, want.lse.len(), place), &want.lse);
    for (name, got, want) in [
        ("out", &got.out, &want.out),
        ("dq", &got.gradient.dq, &want.gradient.dq),
        ("dk", &got.gradient.dk, &want.gradient.dk),
        ("dv", &got.gradient.dv, &want.gradient.dv),
    ] {
        assert_same_bits(&format!("{case}: {name}"), part(got, want.len(), place), want);
    }
}

/// The results of a problem alone, in a batch of 32, at any place of it, and with other rows' lengths changed.
pub fn alone_or_in_a_batch<T: Float>(device: &Device, problem: Problem) {
    let (upstream, keys) = (upstream(&problem, 52), problem.keys as i32);
    let (alone, length) = ((problem, upstream), keys - 2);
    let run = |(problem, of)| both::<T>(device, problem, of);
    let want = run(batch_of(&alone, 1, 0, |_| length));
    for (count, place, others) in [(32, 0, 1), (32, 31, keys), (32, 7, 0), (2, 1, keys / 2)] {
        let got = run(batch_of(&alone, count, place, |n| if n == place { length } else { others }));
        assert_same(&format!("{place} of {count}"), &got, &want, place);
    }
    assert_no_findings(&"a batch of 32");
}

/// flash-attn c2006099, FlashMLA#212, vllm#53257: alone, in a batch of 32, at any place of it, and with other rows' lengths changed. Long keys
/// are split between blocks, and the split must not depend on the others either.
#[test]
fn a_row_alone_or_in_a_batch_of_32() {
    fn of<T: Float>() {
        for (queries, keys) in [(1, 1100), (33, 70), (3, 5)] {
            let mut problem = Problem::new([1, 2, 1], [queries, keys], [32, 32], 51);
            problem.masks.bands = vec![Band::causal(Align::BottomRight)];
            for device in devices() {
                alone_or_in_a_batch::<T>(&device, problem.clone());
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
        let upstream = upstream(&problem, 53);
        let want = on.both(&[(upstream.0.clone(), vec![0.0; upstream.1.len()])]).remove(0);
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
        let saved = forward(q, k, v, &options).unwrap();
        let dout = Tensor::from_slice(&device, &[2, 2, 5, 64], &narrow::<bf16>(&upstream.0)).unwrap();
        let gradients = backward(q, k, v, &saved, &dout, &options).unwrap();
        assert_same("repeated operands", &read(&saved, &gradients), &want, 0);
        assert_no_findings(&"repeated operands");
    }
}

/// Results as the problems have them.
fn read<T: Float>(saved: &AttentionOutput<T>, gradients: &AttentionGradients<T>) -> Results<T> {
    let AttentionGradients { dq, dk, dv, .. } = gradients;
    let [dq, dk, dv] = [dq, dk, dv].map(|x| x.to_vec().unwrap());
    let (out, lse) = (saved.out.to_vec().unwrap(), saved.lse.to_vec().unwrap());
    Results { out, lse, gradient: Gradient { dq, dk, dv, dbias: Vec::new() } }
}

/// flash-attn 9ee0ff1d, #355, 88c4e5db, 2423cca3; TE#650; pytorch#141147; xformers fe23ac9a: the strides of out were taken for those of its
/// gradient, and dv was made as k. Every other row of a tensor, positions first, the same row for all; values of another size.
#[test]
fn gradients_of_any_strides() {
    any_strides();
}

pub fn any_strides() {
    for device in devices() {
        let (queries, size) = (70, 40);
        let problem = Problem::new([1, 2, 2], [queries, 33], [64, size], 60);
        let on = OnDevice::<f16>::new(&device, vec![problem.clone()], Layout::HeadsFirst);
        let [q, k, v] = on.operands();
        let options = Attention::default();
        let saved = forward(q, k, v, &options).unwrap();
        let whole = narrow::<f16>(&upstream(&Problem { queries: 2 * queries, ..problem }, 61).0);
        let whole = Tensor::from_slice(&device, &[1, 2, queries, 2 * size], &whole).unwrap();
        let row = whole.view().slice(Dim::back(1), 0..1).unwrap().slice(Dim::LAST, 0..size).unwrap();
        let positions_first = whole.view().reshape(&[1, queries, 4, size]).unwrap();
        let kinds = [
            whole.view().slice(Dim::LAST, size..2 * size).unwrap(),
            positions_first.slice(Dim::back(1), 1..3).unwrap().permute(&[0, 2, 1, 3]).unwrap(),
            row.expand(&[1, 2, queries, size]).unwrap(),
        ];
        for (n, dout) in kinds.into_iter().enumerate() {
            let copy = Tensor::from_slice(&device, &[1, 2, queries, size], &dout.to_vec().unwrap()).unwrap();
            let want = read(&saved, &backward(q, k, v, &saved, &copy, &options).unwrap());
            let got = read(&saved, &backward(q, k, v, &saved, dout, &options).unwrap());
            assert_same(&format!("kind {n}"), &got, &want, 0);
        }
        // One number for everything, as a sum has it, is no row of neighbours.
        let one = Tensor::from_slice(&device, &[1], &[f16::ONE]).unwrap();
        let dout = one.view().expand(&[1, 2, queries, size]).unwrap();
        let refused = backward(q, k, v, &saved, dout, &options);
        assert!(matches!(refused, Err(Error::NotContiguous { .. })), "{refused:?}");
        assert_no_findings(&"gradients of any strides");
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
/// q, k, v, mask, bias and dout, and of all results, lie 2^31 elements apart.
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
    let dout = narrow::<f16>(&upstream(&problem, 55).0);
    let near_dout = Tensor::from_slice(&device, &[1, 1, 4, 8], &dout).unwrap();
    let near_options = options(near_bytes.view(), near_bias.view());
    let want = forward(q, k, v, &near_options).unwrap();
    let of_want = backward(q, k, v, &want, &near_dout, &near_options).unwrap();
    let far_dout = Far::new(&soft, &device, &[4, 8], &dout);
    let far = |rows: usize, x: &[f64]| Far::new(&soft, &device, &[rows, 8], &narrow::<f16>(x));
    let (far_q, far_k, far_v) = (far(4, &problem.q), far(5, &problem.k), far(5, &problem.v));
    let (far_bytes, far_bias) =
        (Far::new(&soft, &device, &[4, 5], &bytes), Far::new(&soft, &device, &[4, 5], &numbers));
    assert!(far_q.view().layout().strides()[0] >= FAR as u64);
    fn whole(x: &Far<f16>, rows: usize) -> View<'_, f16> {
        x.view().expand(&[1, 1, rows, 8]).unwrap()
    }
    let options = options(far_bytes.view(), far_bias.view());
    let [far_q, far_k, far_v] = [whole(&far_q, 4), whole(&far_k, 5), whole(&far_v, 5)];
    let got = forward(far_q, far_k, far_v, &options).unwrap();
    let of_got = backward(far_q, far_k, far_v, &got, whole(&far_dout, 4), &options).unwrap();
    let want = read(&want, &of_want);
    assert_same("far apart", &read(&got, &of_got), &want, 0);

    let room = |rows: usize| Far::<f16>::room(&soft, &device, &[rows, 8]);
    fn all(x: &mut Far<f16>, rows: usize) -> ViewMut<'_, f16> {
        x.view_mut().reshape(&[1, 1, rows, 8]).unwrap()
    }
    let [mut out, mut dq, mut dk, mut dv] = [room(4), room(4), room(5), room(5)];
    forward_into(far_q, far_k, far_v, &options, AttentionInto { out: all(&mut out, 4), lse: None }).unwrap();
    let gradients = GradientsInto { dq: all(&mut dq, 4), dk: all(&mut dk, 5), dv: all(&mut dv, 5), dbias: None };
    backward_into(far_q, far_k, far_v, &got, whole(&far_dout, 4), &options, gradients).unwrap();
    for (name, got, want) in [
        ("out", &out, &want.out),
        ("dq", &dq, &want.gradient.dq),
        ("dk", &dk, &want.gradient.dk),
        ("dv", &dv, &want.gradient.dv),
    ] {
        // Row by row: what lies between them takes no memory as long as nobody reads it.
        let row = |i: usize| got.view().slice(Dim::front(0), i..i + 1).unwrap().to_vec().unwrap();
        let rows: Vec<f16> = (0..want.len() / 8).flat_map(row).collect();
        assert_same_bits(&format!("{name} far apart"), &rows, want);
    }
    assert_no_findings(&"far apart");
}

/// pytorch#142228, flashinfer#3125, #4534, DeepSpeed#1239: more heads, or batch entries, than a grid has blocks in y and z. Some of
/// them at its ends are looked at; the software GPU runs the blocks of those alone.
#[test]
fn more_heads_or_batch_entries_than_65535() {
    let device = device();
    let many = 65_537;
    let chosen = [0, 1, (1 << 14) - 1, 1 << 14, many - 2, many - 1];
    let values: Vec<f16> = (0..many).map(|i| f16::from_f32((i % 1000) as f32)).collect();
    // A block has one of them, or sixteen in the kernel before the gradients, where others were not computed.
    let blocks: Vec<u64> = chosen.iter().flat_map(|&i| [i as u64, i as u64 / 16]).collect();
    let only = |blocks: Option<&[u64]>| {
        let Some(soft) = soft() else { return };
        soft.checks(Checks { init: blocks.is_none(), ..Checks::ALL });
        soft.only_ctas(blocks);
    };
    for dims in [[1, many, 1, 1], [many, 1, 1, 1]] {
        let v = Tensor::from_slice(&device, &dims, &values).unwrap();
        let dim = Dim::front(usize::from(dims[0] == 1));
        let assert_are = |name: &str, got: &Tensor<f16>, want: &dyn Fn(usize) -> f16| {
            for i in chosen {
                let got = got.view().slice(dim, i..i + 1).unwrap().to_vec().unwrap();
                assert_same_bits(&format!("{name} {i} of {dims:?}"), &got, &[want(i)]);
            }
        };
        only(Some(&blocks));
        let got = forward(&v, &v, &v, &Attention::default()).unwrap();
        let AttentionGradients { dq, dk, dv, .. } = backward(&v, &v, &v, &got, &v, &Attention::default()).unwrap();
        device.synchronize().unwrap();
        only(None);
        // With one key its weight is 1, whatever q and k are.
        assert_are("out", &got.out, &|i| values[i]);
        assert_are("dv", &dv, &|i| values[i]);
        for (name, got) in [("dq", &dq), ("dk", &dk)] {
            assert_are(name, got, &|_| f16::ZERO);
        }
        assert_no_findings(&"a large grid");
    }
}

/// Twenty schedules of both directions of problems with every part of them: masks of all kinds, split keys, packed sequences.
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
    of_all_schedules(
        &soft,
        &[
            OnDevice::<f16>::new(&device, vec![masked], Layout::PositionsFirst),
            OnDevice::<f16>::new(&device, vec![split], Layout::HeadsFirst),
            OnDevice::<f16>::new(&device, sequences, Layout::Packed),
        ],
    );
}

pub fn of_all_schedules<T: Float>(soft: &Gpu, calls: &[OnDevice<T>]) {
    for call in calls {
        let of: Vec<Upstream> = call.problems.iter().map(|problem| upstream(problem, 60)).collect();
        soft.seed(0);
        let want = call.both(&of);
        for schedule in 1..=20 {
            soft.seed(schedule);
            for (got, want) in call.both(&of).iter().zip(&want) {
                assert_same(&format!("schedule {schedule}"), got, want, 0);
            }
        }
    }
    soft.seed(0);
    assert_no_findings(&"twenty schedules");
}
