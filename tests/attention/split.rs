//! Few queries and many keys, which are split between blocks.

use crate::common::device::soft;
use crate::naive::Problem;
use crate::{CAUSAL, compare, device, everything, problem, run, window};
use sumexp::attention::Attention;
use sumexp::{Float, Mask, Tensor, bf16, f16, keep};

fn split<T: Float>() {
    let device = device();
    for (heads, key_heads, queries, head) in [(4, 1, 1, 64), (2, 2, 1, 64), (2, 1, 3, 128), (1, 1, 100, 32)] {
        let keys = 2500;
        let p = problem::<T>(31, [2, heads, key_heads, queries, keys, head, head], 1.0);
        compare::<T>(&p, &Attention::default(), &everything);
        let causal = Attention { mask: CAUSAL, ..Attention::default() };
        let diagonal = keys as i64 - queries as i64;
        compare::<T>(&p, &causal, &|_, _, i, j| j as i64 <= i as i64 + diagonal);
        let windowed = Attention { mask: window(1200, 0), ..Attention::default() };
        compare::<T>(&p, &windowed, &|_, _, i, j| (-1200..=0).contains(&(j as i64 - i as i64 - diagonal)));
        let lengths = Tensor::from_slice(&device, &[2], &[1500, 0]).unwrap();
        let mask = Mask::KeyLengths(lengths.view());
        compare::<T>(&p, &Attention { mask, ..Attention::default() }, &|b, _, _, j| b == 0 && j < 1500);
        let bytes: Vec<u8> = (0..keys).map(|j| u8::from(j % 3 != 0 && !(1024..2048).contains(&j))).collect();
        let visible = Tensor::from_slice(&device, &[keys], &bytes).unwrap();
        let mask = Mask::Visible(keep(&visible));
        compare::<T>(&p, &Attention { mask, ..Attention::default() }, &|_, _, _, j| bytes[j] != 0);
    }
}

#[test]
fn f16_split() {
    split::<f16>();
}

#[test]
fn bf16_split() {
    split::<bf16>();
}

#[test]
fn f32_split() {
    split::<f32>();
}

/// Heads that share keys share a block, and each key is read once for all of them.
#[test]
fn shared_keys_are_read_once() {
    let Some(soft) = soft() else { return };
    let p = problem::<f16>(32, [1, 8, 1, 1, 2048, 64, 64], 1.0);
    let (out, lse) = run::<f16>(&p, &Attention::default());
    let loads = soft.counters("attention_forward_f16_64").expect("it was launched").global_loads.bytes;
    let needed = 2 * 2048 * 64 * 2;
    assert!((needed..needed + needed / 50).contains(&loads), "{loads} bytes of {needed}");
    for head in 0..8 {
        let one = Problem { heads: 1, q: p.q[head * 64..][..64].to_vec(), ..p.clone() };
        let (of_one, lse_of_one) = run::<f16>(&one, &Attention::default());
        assert_eq!((of_one, lse_of_one), (out[head * 64..][..64].to_vec(), lse[head..][..1].to_vec()));
    }
}
