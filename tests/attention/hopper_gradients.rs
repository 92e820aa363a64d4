//! The backward kernels of compute capability 9.0; see `hopper`.

use crate::bits::Upstream;
use crate::common::attention::cases::Layout;
use crate::common::attention::on_device::OnDevice;
use crate::common::attention::problem::{Gradient, Problem, upstream};
use crate::common::device::{assert_no_findings, soft};
use crate::explain::same;
use crate::hopper::on_hopper;
use crate::{CAUSAL, bits, counters, device, devices, gradients, magnitudes, window};
use softgpu::ctl::Gpu;
use sumexp::attention::{Attention, backward, explain, forward};
use sumexp::mask::{Align, Band};
use sumexp::{Device, Dim, Float, Mask, Tensor, View, bf16, f16};

/// Cases of the table that these kernels take: layouts, packed sequences, masks and lengths.
#[test]
fn f16_gradients_on_hopper() {
    on_hopper(gradients::by_warpgroups::<f16>);
}

#[test]
fn bf16_gradients_on_hopper() {
    on_hopper(gradients::by_warpgroups::<bf16>);
}

#[test]
fn gradients_of_large_and_small_scores_on_hopper() {
    on_hopper(|| {
        magnitudes::by_warpgroups::<f16>();
        magnitudes::by_warpgroups::<bf16>();
    });
}

#[test]
fn gradients_alone_or_in_a_batch_of_32_on_hopper() {
    fn of<T: Float>(size: usize) {
        let mut problem = Problem::new([1, 2, 1], [33, 150], [size, size], 51);
        problem.masks.bands = vec![Band::causal(Align::BottomRight)];
        bits::alone_or_in_a_batch::<T>(&device(), problem);
    }
    on_hopper(|| {
        of::<f16>(64);
        of::<bf16>(128);
    });
}

#[test]
fn gradients_of_any_strides_on_hopper() {
    on_hopper(bits::any_strides);
}

/// Several heads share keys, and there are more tiles than the ring holds.
fn shared(size: usize, queries: usize, keys: usize) -> Problem {
    let mut problem = Problem::new([1, 4, 2], [queries, keys], [size, size], 71);
    problem.masks.bands = vec![Band::causal(Align::BottomRight)];
    problem
}

#[test]
fn gradients_of_every_schedule_on_hopper() {
    let Some(soft) = soft() else { return };
    on_hopper(|| {
        let device = device();
        let sequences = vec![Problem::single(140, 70, 64, 57), Problem::single(3, 0, 64, 58)];
        bits::of_all_schedules(
            &soft,
            &[
                OnDevice::<f16>::new(&device, vec![shared(64, 130, 140)], Layout::PositionsFirst),
                OnDevice::<f16>::new(&device, sequences, Layout::Packed),
            ],
        );
        bits::of_all_schedules(
            &soft,
            &[OnDevice::<bf16>::new(
                &device,
                vec![Problem::new([1, 2, 1], [70, 260], [128, 128], 73)],
                Layout::HeadsFirst,
            )],
        );
    });
}

/// Infinite and NaN elements of any operand reach what sees them, as on the host, and nothing else. An infinite score, which hides its pair
/// where some others are hidden and is 0 times infinity elsewhere, is left to itself.
#[test]
fn special_elements_reach_the_gradients_that_see_them_on_hopper() {
    fn of<T: Float>(size: usize) {
        let problem = shared(size, 200, 200);
        let of = upstream(&problem, 72);
        for (n, special) in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY].into_iter().enumerate() {
            for operand in if special.is_nan() { 0..4 } else { 2..4 } {
                let (mut planted, mut of): (Problem, Upstream) = (problem.clone(), of.clone());
                let x = [&mut planted.q, &mut planted.k, &mut planted.v, &mut of.0];
                x.into_iter().nth(operand).unwrap()[[150, 199, 70][n] * size + 3] = special;
                let run = |device: &Device| {
                    let on = OnDevice::<T>::new(device, vec![planted.clone()], Layout::HeadsFirst);
                    on.both(std::slice::from_ref(&of)).remove(0).gradient
                };
                let [want, got] = devices().map(|device| run(&device));
                let named = |x: &Gradient<T>| [("dq", x.dq.clone()), ("dk", x.dk.clone()), ("dv", x.dv.clone())];
                for ((name, want), (_, got)) in named(&want).into_iter().zip(named(&got)) {
                    let what = format!("{special} in operand {operand}: {name}");
                    let mut reached = 0;
                    for (at, (want, got)) in want.iter().zip(&got).enumerate() {
                        let (want, got) = (want.to_f64(), got.to_f64());
                        reached += usize::from(!want.is_finite());
                        let alike = if want.is_finite() {
                            (want - got).abs() < 0.05 * (1.0 + want.abs())
                        } else {
                            !got.is_finite()
                        };
                        assert!(alike, "{what} {at}: {got}, not {want}");
                    }
                    assert!(reached < want.len(), "{what}");
                }
                assert_no_findings(&"special elements");
            }
        }
    }
    on_hopper(|| {
        of::<f16>(64);
        of::<bf16>(128);
    });
}

/// Whole sectors, nothing in local memory, and lanes that do not meet in a bank of shared memory.
#[test]
fn gradients_are_made_of_whole_sectors_on_hopper() {
    let Some(soft) = soft() else { return };
    on_hopper(|| {
        for head in [64, 128] {
            counters::whole_sectors::<f16>(&soft, head, CAUSAL);
            counters::whole_sectors::<bf16>(&soft, head, window(100, 30));
        }
    });
}

/// What is explained is what runs, whether maps describe the operands as they lie or not.
#[test]
fn explanations_of_gradients_on_hopper() {
    fn of<T: Float>(soft: &Gpu, size: usize, offset: usize) {
        let device = device();
        let dims = [2, 2, 150, size + 8];
        let rows = |x: &Tensor<T>| {
            let (first, last) = (offset, size + offset);
            x.view().slice(Dim::LAST, first..last).map(|x| x.to_vec()).unwrap().unwrap()
        };
        let x = Tensor::<T>::zeros(&device, &dims).unwrap();
        let [q, k, v]: [View<T>; 3] =
            std::array::from_fn(|_| x.view().slice(Dim::LAST, offset..size + offset).unwrap());
        let dout = Tensor::from_slice(&device, &[2, 2, 150, size], &rows(&x)).unwrap();
        for mask in [Mask::None, CAUSAL, window(70, 9)] {
            let options = Attention { mask, ..Attention::default() };
            let output = forward(q, k, v, &options).unwrap();
            let explanation = explain(q, k, v, &options).unwrap();
            soft.reset_counters();
            soft.take_launches();
            drop(backward(q, k, v, &output, &dout, &options).unwrap());
            same(soft, &explanation.backward, false, &format!("{} {size} from {offset}", T::DTYPE));
            let kernels = &explanation.backward.kernels;
            assert_eq!(kernels.iter().filter(|kernel| kernel.symbol.ends_with("_sm90a")).count(), kernels.len() - 1);
            let packs = kernels.iter().filter(|kernel| kernel.symbol == "attention_pack_sm90a").count();
            assert_eq!(packs, if offset == 0 { 0 } else { 3 } + usize::from(!size.is_multiple_of(8)));
        }
        assert_no_findings(&"explained");
    }
    let Some(soft) = soft() else { return };
    on_hopper(|| {
        of::<f16>(&soft, 64, 0);
        of::<bf16>(&soft, 128, 0);
        of::<f16>(&soft, 128, 1);
        of::<bf16>(&soft, 61, 1);
    });
}
