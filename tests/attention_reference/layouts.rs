//! Operands that lie in memory in other ways, and outputs among memory that must not change.

use crate::common::attention::problem::{Problem, strides, upstream};
use crate::common::compare::assert_same_bits;
use crate::laws::{Results, assert_same, results};
use sumexp::reference::attention::{Alibi, Attention, BiasGradient, Gradients, backward, forward, weights};
use sumexp::reference::{Operand, Output};

/// Strides in which dims come in this order, slowest first, with all elements this far apart; and how many elements that is.
fn ordered<const N: usize>(shape: [usize; N], order: [usize; N], step: u64) -> ([u64; N], usize) {
    let (mut strides, mut stride) = ([0; N], step);
    for n in order.into_iter().rev() {
        strides[n] = stride;
        stride *= shape[n] as u64;
    }
    (strides, stride as usize)
}

/// The places of all elements, row-major over the shape.
fn places<const N: usize>(shape: [usize; N], strides: [u64; N]) -> Vec<usize> {
    let place = |i: usize| {
        let (mut rest, mut place) = (i, 0);
        for n in (0..N).rev() {
            place += rest % shape[n] * strides[n] as usize;
            rest /= shape[n];
        }
        place
    };
    (0..shape.iter().product()).map(place).collect()
}

/// Values in these places, NaN around them.
fn spread<const N: usize>(values: &[f64], shape: [usize; N], layout: ([u64; N], usize)) -> Vec<f32> {
    let mut data = vec![f32::NAN; layout.1];
    places(shape, layout.0).into_iter().zip(values).for_each(|(place, value)| data[place] = *value as f32);
    data
}

/// What an output must leave alone.
const UNTOUCHED: f32 = -12345.0;

/// What stands in these places; panics if anything else was written, or one of them was not.
fn collect<const N: usize>(data: &[f32], shape: [usize; N], strides: [u64; N]) -> Vec<f32> {
    let places = places(shape, strides);
    let mut around = data.to_vec();
    for place in &places {
        assert_ne!(around[*place], UNTOUCHED, "an element was not written, or twice in the same place");
        around[*place] = UNTOUCHED;
    }
    assert!(around.iter().all(|x| *x == UNTOUCHED), "written outside of the output");
    places.into_iter().map(|place| data[place]).collect()
}

/// Runs a problem with every operand in this order of dims and distance of elements.
fn run(problem: &Problem, (dout, dlse): &(Vec<f64>, Vec<f64>), order: [usize; 4], step: u64) -> Results {
    let (q_shape, k_shape, v_shape) = (problem.q_shape(), problem.k_shape(), problem.v_shape());
    let (out_shape, lse_shape) = (problem.out_shape(), problem.lse_shape());
    let weight_shape = [problem.batch, problem.query_heads, problem.queries, problem.keys];
    let lse_order = std::array::from_fn(|n| order.into_iter().filter(|dim| *dim < 3).nth(n).unwrap());
    let layouts = [q_shape, k_shape, v_shape, out_shape, weight_shape].map(|shape| ordered(shape, order, step));
    let [of_q, of_k, of_v, of_out, of_weights] = layouts;
    let of_lse = ordered(lse_shape, lse_order, step);
    let (bias, bias_shape) = problem.bias.clone().unwrap();
    let of_bias = ordered(bias_shape, order, step);
    // Broadcast by strides of 0 where the bias's own shape is 1.
    let read_bias: [u64; 4] = std::array::from_fn(|n| if bias_shape[n] == 1 { 0 } else { of_bias.0[n] });
    let [q, k, v] = [(&problem.q, q_shape, of_q), (&problem.k, k_shape, of_k), (&problem.v, v_shape, of_v)]
        .map(|(values, shape, layout)| spread(values, shape, layout));
    let (dout, dlse, bias) =
        (spread(dout, out_shape, of_out), spread(dlse, lse_shape, of_lse), spread(&bias, bias_shape, of_bias));
    let slopes = [0.5f32, f32::NAN, 0.25];
    let mut outputs =
        [of_out.1, of_weights.1, of_q.1, of_k.1, of_v.1, of_bias.1, of_lse.1].map(|len| vec![UNTOUCHED; len]);
    let [out, weight, dq, dk, dv, dbias, lse] = &mut outputs;
    fn output<'a>(data: &'a mut [f32], strides: &'a [u64]) -> Output<'a, f32> {
        Output { data, strides }
    }
    problem.with_rules(|mask| {
        let attention = Attention {
            geometry: problem.geometry(),
            q: Operand { data: &q, strides: &of_q.0 },
            k: Operand { data: &k, strides: &of_k.0 },
            v: Operand { data: &v, strides: &of_v.0 },
            scale: problem.scale,
            bias: Some(Operand { data: &bias, strides: &read_bias }),
            alibi: problem
                .alibi
                .as_ref()
                .map(|(_, align)| Alibi { slopes: Operand { data: &slopes, strides: &[0, 2] }, align: *align }),
            softcap: problem.softcap,
            mask,
        };
        forward(&attention, output(out, &of_out.0), output(lse, &of_lse.0));
        weights(&attention, 0..problem.queries, output(weight, &of_weights.0));
        let gradients = Gradients {
            dq: output(dq, &of_q.0),
            dk: output(dk, &of_k.0),
            dv: output(dv, &of_v.0),
            dbias: Some(BiasGradient { output: output(dbias, &of_bias.0), shape: bias_shape }),
        };
        let dlse = Operand { data: &dlse[..], strides: &of_lse.0 };
        backward(&attention, Operand { data: &dout, strides: &of_out.0 }, Some(dlse), gradients);
    });
    Results {
        out: collect(out, out_shape, of_out.0),
        lse: collect(lse, lse_shape, of_lse.0),
        weights: collect(weight, weight_shape, of_weights.0),
        gradient: crate::common::attention::problem::Gradient {
            dq: collect(dq, q_shape, of_q.0),
            dk: collect(dk, k_shape, of_k.0),
            dv: collect(dv, v_shape, of_v.0),
            dbias: collect(dbias, bias_shape, of_bias.0),
        },
    }
}

fn problem() -> Problem {
    let mut problem = Problem::new([2, 2, 1], [4, 5], [3, 2], 41);
    problem.bias = Some(((0..8).map(|i| f64::from(i) / 4.0).collect(), [1, 2, 4, 1]));
    problem.alibi = Some((vec![0.5, 0.25], sumexp::mask::Align::BottomRight));
    problem.masks.lengths = Some(vec![3, 5]);
    problem
}

/// [B, H, S, D], [B, S, H, D], [S, B, H, D], features slowest, and unused elements between all; flash-attn 9ee0ff1d, #355,
/// 88c4e5db: strides of dout taken from out.
#[test]
fn any_strides_give_the_same_bits() {
    let problem = problem();
    let upstream = upstream(&problem, 4);
    let want = results(&problem, &upstream);
    for order in [[0, 1, 2, 3], [0, 2, 1, 3], [2, 0, 1, 3], [3, 2, 1, 0], [1, 3, 0, 2]] {
        for step in [1, 2, 3] {
            assert_same(&format!("{order:?}, step {step}"), &run(&problem, &upstream, order, step), &want);
        }
    }
}

/// q, k and v in one buffer [B, S, 3, H, D], as a projection leaves them.
#[test]
fn packed_qkv_needs_no_copy() {
    let [b, s, h, d] = [2, 4, 3, 2];
    let mut problem = Problem::new([b, h, h], [s, s], [d, d], 42);
    let want = problem.forward::<f32>();
    let mut data = vec![f32::NAN; b * s * 3 * h * d];
    let strides = [s * 3 * h * d, d, 3 * h * d, 1].map(|n| n as u64);
    for (n, x) in [&problem.q, &problem.k, &problem.v].into_iter().enumerate() {
        let places = places([b, h, s, d], strides);
        places.into_iter().zip(x).for_each(|(place, x)| data[n * h * d + place] = *x as f32);
    }
    problem.q.fill(f64::NAN);
    let mut out = vec![UNTOUCHED; b * h * s * d];
    let mut lse = vec![UNTOUCHED; b * h * s];
    problem.with_attention(|attention| {
        let part = |n: usize| Operand { data: &data[n * h * d..], strides: &strides };
        let attention = Attention { q: part(0), k: part(1), v: part(2), ..*attention };
        let out_strides = crate::common::attention::problem::strides([b, h, s, d]);
        forward(
            &attention,
            Output { data: &mut out, strides: &out_strides },
            Output { data: &mut lse, strides: &crate::common::attention::problem::strides([b, h, s]) },
        );
    });
    assert_same_bits(&"out", &out, &want.0);
    assert_same_bits(&"lse", &lse, &want.1);
}

/// pytorch PR #114173, #191937; flash-attn 2423cca3: keys and values of stride 0, and dout of stride 0 as `sum().backward()`
/// makes it.
#[test]
fn repeated_operands() {
    let mut problem = Problem::new([2, 2, 2], [3, 4], [2, 2], 43);
    // All batches and heads have the keys of the first, and dout is 1 everywhere.
    let (k, v) = (problem.k[..8].repeat(4), problem.v[..8].repeat(4));
    (problem.k, problem.v) = (k, v);
    let ones = (vec![1.0; 24], vec![0.0; 12]);
    let want = results(&problem, &ones);
    let (mut out, mut lse, mut dq, mut dk, mut dv) =
        (vec![UNTOUCHED; 24], vec![UNTOUCHED; 12], vec![UNTOUCHED; 24], vec![UNTOUCHED; 32], vec![UNTOUCHED; 32]);
    problem.with_attention(|attention: &Attention<f32>| {
        let repeat = |x: Operand<'_, f32>| -> Vec<f32> { x.data[..8].to_vec() };
        let (k, v) = (repeat(attention.k), repeat(attention.v));
        let shared = [0, 0, 2, 1];
        let attention = Attention {
            k: Operand { data: &k, strides: &shared },
            v: Operand { data: &v, strides: &shared },
            ..*attention
        };
        let (of_q, of_k, of_lse) = (strides([2, 2, 3, 2]), strides([2, 2, 4, 2]), strides([2, 2, 3]));
        forward(&attention, Output { data: &mut out, strides: &of_q }, Output { data: &mut lse, strides: &of_lse });
        let gradients = Gradients {
            dq: Output { data: &mut dq[..], strides: &of_q },
            dk: Output { data: &mut dk[..], strides: &of_k },
            dv: Output { data: &mut dv[..], strides: &of_k },
            dbias: None,
        };
        backward(&attention, Operand { data: &[1.0], strides: &[0; 4] }, None, gradients);
    });
    for (name, got, want) in [
        ("out", out, want.out),
        ("lse", lse, want.lse),
        ("dq", dq, want.gradient.dq),
        ("dk", dk, want.gradient.dk),
        ("dv", dv, want.gradient.dv),
    ] {
        assert_same_bits(&name, &got, &want);
    }
}

/// Some rows of the weights are those rows of all weights.
#[test]
fn weights_of_some_rows() {
    let problem = problem();
    let all = problem.weights::<f32>();
    let mut some = vec![UNTOUCHED; 2 * 2 * 2 * 5];
    problem.with_attention(|attention| {
        weights(attention, 1..3, Output { data: &mut some, strides: &strides([2, 2, 2, 5]) });
    });
    let want: Vec<f32> = all.chunks(20).flat_map(|head| head[5..15].to_vec()).collect();
    assert_same_bits(&"rows 1 and 2", &some, &want);
}
