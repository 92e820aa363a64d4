//! Sequences of different lengths, one behind the other.

use crate::common::device::assert_no_findings;
use crate::naive::Problem;
use crate::{CAUSAL, device, problem, run, window};
use sumexp::attention::{Attention, PackedOffsets, forward_packed};
use sumexp::{Float, Mask, Tensor, bf16, f16};

fn offsets(lengths: &[usize]) -> Vec<i32> {
    let mut all = vec![0];
    lengths.iter().for_each(|length| all.push(all[all.len() - 1] + *length as i32));
    all
}

/// The same bits as each sequence alone.
fn packed<T: Float>(of_q: &[usize], of_k: &[usize], mask: Mask) {
    let device = device();
    let (heads, key_heads, head) = (4, 2, 64);
    let (tq, tk) = (of_q.iter().sum(), of_k.iter().sum());
    // As one batch entry with heads in front; packed rows have them behind.
    let p = problem::<T>(21, [1, heads, key_heads, tq, tk, head, head], 1.0);
    let upload = |x: &[f64], rows: usize, heads: usize| {
        let at = |i: usize| x[(i / head % heads * rows + i / (head * heads)) * head + i % head];
        let x: Vec<T> = (0..x.len()).map(|i| T::from_f64(at(i))).collect();
        Tensor::from_slice(&device, &[rows, heads, head], &x).unwrap()
    };
    let (q, k, v) = (upload(&p.q, tq, heads), upload(&p.k, tk, key_heads), upload(&p.v, tk, key_heads));
    let (q_offsets, k_offsets) = (offsets(of_q), offsets(of_k));
    let on_device = |lengths: &[usize]| PackedOffsets::from_lengths(&device, lengths).unwrap();
    let (dq, dk) = (on_device(of_q), on_device(of_k));
    let options = Attention { mask, ..Attention::default() };
    let got = forward_packed(&q, &k, &v, &dq, &dk, &options).unwrap();
    let (out, lse) = (got.out.to_vec().unwrap(), got.lse.to_vec().unwrap());
    assert_no_findings(&format!("{of_q:?} {of_k:?}"));
    for i in 0..of_q.len() {
        let rows = |x: &[f64], heads: usize, length: usize, from: i32, count: usize| -> Vec<f64> {
            (0..heads).flat_map(|h| x[(h * length + from as usize) * head..][..count * head].to_vec()).collect()
        };
        let one = Problem {
            queries: of_q[i],
            keys: of_k[i],
            q: rows(&p.q, heads, tq, q_offsets[i], of_q[i]),
            k: rows(&p.k, key_heads, tk, k_offsets[i], of_k[i]),
            v: rows(&p.v, key_heads, tk, k_offsets[i], of_k[i]),
            ..p.clone()
        };
        let (want, of_lse) = run::<T>(&one, &options);
        for h in 0..heads {
            for row in 0..of_q[i] {
                let at = (q_offsets[i] as usize + row) * heads + h;
                let equal = (0..head)
                    .all(|d| out[at * head + d].to_f64().to_bits() == want[(h * of_q[i] + row) * head + d].to_bits());
                assert!(equal, "sequence {i} head {h} row {row}");
                assert_eq!(f64::from(lse[at]).to_bits(), of_lse[h * of_q[i] + row].to_bits());
            }
        }
    }
}

#[test]
fn sequences_are_as_if_alone() {
    let causal = CAUSAL;
    packed::<f16>(&[76, 34, 146], &[1, 1, 1], causal);
    packed::<bf16>(&[0, 256, 0, 3, 130], &[5, 70, 0, 200, 0], causal);
    packed::<f32>(&[10, 70], &[40, 70], Mask::None);
    let many: Vec<usize> = (0..70).map(|i| i * 7 % 5).collect();
    packed::<f16>(&many, &many, window(2, 0));
}

/// Few sequences for kernels with larger tiles.
pub fn of_some_lengths<T: Float>() {
    packed::<T>(&[76, 0, 146, 3], &[70, 5, 300, 0], CAUSAL);
}

/// Whatever the offsets say, nothing outside of the data is touched.
#[test]
fn bad_offsets_stay_within_the_data() {
    let device = device();
    let q = Tensor::<f16>::zeros(&device, &[50, 1, 64]).unwrap();
    for offsets in [[0, 60, 50], [-7, 20, 50], [i32::MIN, i32::MAX, i32::MIN], [30, 10, 50], [50, 50, 50]] {
        let offsets = Tensor::from_slice(&device, &[3], &offsets).unwrap();
        drop(forward_packed(&q, &q, &q, &offsets, &offsets, &Attention::default()).unwrap());
        device.synchronize().unwrap();
        assert_no_findings(&"bad offsets");
    }
}
