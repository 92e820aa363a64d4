//! Packed sequences against each of them alone.

use crate::common::attention::problem::{Gradient, Problem, strides, turned, upstream};
use crate::common::compare::assert_same_bits;
use crate::laws::Results;
use sumexp::mask::{Align, Band, Entries, Offsets, Rule};
use sumexp::reference::attention::{Attention, Geometry, Gradients, Sequences, backward, forward, weights};
use sumexp::reference::{Operand, Output};

/// Sequences one behind the other: of the same heads and sizes, each a problem of batch 1.
pub struct Packed {
    pub sequences: Vec<Problem>,
    pub bands: Vec<Band>,
    /// By sequence.
    pub lengths: Option<Vec<i32>>,
}

fn offsets(lengths: impl Iterator<Item = usize>) -> Vec<i32> {
    let mut offsets = vec![0];
    lengths.for_each(|len| offsets.push(offsets[offsets.len() - 1] + len as i32));
    offsets
}

impl Packed {
    /// Sequences of these lengths (queries, keys).
    pub fn new(lengths: &[[usize; 2]], heads: [usize; 2], sizes: [usize; 2], seed: u64) -> Packed {
        let problem = |(n, lengths): (usize, &[usize; 2])| {
            Problem::new([1, heads[0], heads[1]], *lengths, sizes, seed + n as u64)
        };
        Packed { sequences: lengths.iter().enumerate().map(problem).collect(), bands: Vec::new(), lengths: None }
    }

    /// Each sequence as a problem of its own, with the masks of all.
    pub fn alone(&self) -> Vec<Problem> {
        let alone = |(n, problem): (usize, &Problem)| {
            let mut problem = problem.clone();
            problem.masks.bands = self.bands.clone();
            problem.masks.lengths = self.lengths.as_ref().map(|lengths| vec![lengths[n]]);
            problem
        };
        self.sequences.iter().enumerate().map(alone).collect()
    }

    /// Everything of the packed form, in the order of packed operands; then the same put together from the sequences alone,
    /// where weights are filled up with 0.
    pub fn both(&self) -> (Results, Results) {
        let first = &self.sequences[0];
        let Problem { query_heads, key_heads, size, value_size, .. } = *first;
        let upstreams: Vec<_> = self.sequences.iter().enumerate().map(|(n, p)| upstream(p, n as u64)).collect();
        let pack = |parts: Vec<Vec<f32>>| parts.concat();
        let narrow = |x: &[f64]| -> Vec<f32> { x.iter().map(|x| *x as f32).collect() };
        let of = |part: &dyn Fn(&Problem) -> Vec<f32>| pack(self.sequences.iter().map(part).collect());
        let q = of(&|p| narrow(&turned(&p.q, query_heads, p.queries, size)));
        let k = of(&|p| narrow(&turned(&p.k, key_heads, p.keys, size)));
        let v = of(&|p| narrow(&turned(&p.v, key_heads, p.keys, value_size)));
        let with_upstream = self.sequences.iter().zip(&upstreams);
        let dout: Vec<f32> = with_upstream
            .clone()
            .flat_map(|(p, up)| narrow(&turned(&up.0, query_heads, p.queries, value_size)))
            .collect();
        let dlse: Vec<f32> =
            with_upstream.flat_map(|(p, up)| narrow(&turned(&up.1, query_heads, p.queries, 1))).collect();
        let q_offsets = offsets(self.sequences.iter().map(|p| p.queries));
        let k_offsets = offsets(self.sequences.iter().map(|p| p.keys));
        let (tq, tk) = (q_offsets[q_offsets.len() - 1] as usize, k_offsets[k_offsets.len() - 1] as usize);
        let longest = self.sequences.iter().map(|p| p.keys).max().unwrap();

        let unwritten = |len: usize| vec![f32::NAN; len];
        let mut got = Results {
            out: unwritten(tq * query_heads * value_size),
            lse: unwritten(tq * query_heads),
            weights: unwritten(tq * query_heads * longest),
            gradient: Gradient {
                dq: unwritten(q.len()),
                dk: unwritten(k.len()),
                dv: unwritten(v.len()),
                dbias: Vec::new(),
            },
        };
        let mut rules: Vec<Rule> = self.bands.iter().map(|band| Rule::Band(*band)).collect();
        let lengths = self.lengths.as_ref();
        rules.extend(lengths.map(|data| Rule::KeyLengths(Entries { data, strides: [1] })));
        let (of_q, of_k, of_v) =
            (strides([tq, query_heads, size]), strides([tk, key_heads, size]), strides([tk, key_heads, value_size]));
        let (of_out, of_lse) = (strides([tq, query_heads, value_size]), strides([tq, query_heads]));
        let attention = Attention::<f32> {
            geometry: Geometry {
                sequences: Sequences::Packed {
                    queries: Offsets::new(&q_offsets, tq).unwrap(),
                    keys: Offsets::new(&k_offsets, tk).unwrap(),
                },
                query_heads,
                key_heads,
                head_size: size,
                value_size,
            },
            q: Operand { data: &q, strides: &of_q },
            k: Operand { data: &k, strides: &of_k },
            v: Operand { data: &v, strides: &of_v },
            scale: first.scale,
            bias: None,
            alibi: None,
            softcap: None,
            mask: &rules,
        };
        let Results { out, lse, weights: of_rows, gradient } = &mut got;
        forward(&attention, Output { data: out, strides: &of_out }, Output { data: lse, strides: &of_lse });
        weights(&attention, 0..tq, Output { data: of_rows, strides: &strides([tq, query_heads, longest]) });
        let gradients = Gradients {
            dq: Output { data: &mut gradient.dq[..], strides: &of_q },
            dk: Output { data: &mut gradient.dk[..], strides: &of_k },
            dv: Output { data: &mut gradient.dv[..], strides: &of_v },
            dbias: None,
        };
        let dlse = Operand { data: &dlse[..], strides: &of_lse };
        backward(&attention, Operand { data: &dout, strides: &of_out }, Some(dlse), gradients);

        let gradient = Gradient { dq: Vec::new(), dk: Vec::new(), dv: Vec::new(), dbias: Vec::new() };
        let mut want = Results { out: Vec::new(), lse: Vec::new(), weights: Vec::new(), gradient };
        for (p, (dout, dlse)) in self.alone().iter().zip(&upstreams) {
            let (out, lse) = p.forward::<f32>();
            want.out.extend(turned(&out, query_heads, p.queries, value_size));
            want.lse.extend(turned(&lse, query_heads, p.queries, 1));
            let of_row = turned(&p.weights::<f32>(), query_heads, p.queries, p.keys);
            for row in 0..p.queries * query_heads {
                want.weights.extend(&of_row[row * p.keys..][..p.keys]);
                want.weights.extend(vec![0.0; longest - p.keys]);
            }
            let gradient = p.backward::<f32>(dout, Some(dlse));
            want.gradient.dq.extend(turned(&gradient.dq, query_heads, p.queries, size));
            want.gradient.dk.extend(turned(&gradient.dk, key_heads, p.keys, size));
            want.gradient.dv.extend(turned(&gradient.dv, key_heads, p.keys, value_size));
        }
        (got, want)
    }

    /// Panics unless the packed form gives the bits of the sequences alone.
    #[track_caller]
    pub fn check(&self) -> Results {
        let (got, want) = self.both();
        crate::laws::assert_same("packed", &got, &want);
        got
    }
}

const LENGTHS: [[usize; 2]; 6] = [[3, 4], [0, 2], [5, 0], [1, 1], [4, 2], [2, 6]];

#[test]
fn sequences_do_not_see_each_other() {
    Packed::new(&LENGTHS, [2, 2], [3, 2], 1).check();
    Packed::new(&LENGTHS, [4, 2], [1, 4], 2).check();
    Packed::new(&[[7, 7]], [3, 1], [4, 4], 3).check();
}

/// Bands and lengths go by each sequence's own positions.
#[test]
fn masks_of_packed_sequences() {
    for align in [Align::TopLeft, Align::BottomRight] {
        for band in [Band::causal(align), Band { left: Some(1), right: Some(2), align }] {
            let mut packed = Packed::new(&LENGTHS, [2, 1], [2, 3], 4);
            packed.bands = vec![band];
            packed.check();
            packed.lengths = Some(vec![2, 1, 3, -1, 99, 4]);
            packed.check();
        }
    }
}

/// Nothing but empty sequences, and no sequence at all.
#[test]
fn empty_batches() {
    let got = Packed::new(&[[0, 0], [0, 3]], [2, 2], [2, 2], 5).check();
    assert!(got.out.is_empty() && got.gradient.dk.len() == 12);
    let geometry = Geometry {
        sequences: Sequences::Packed { queries: Offsets::new(&[0], 0).unwrap(), keys: Offsets::new(&[0], 0).unwrap() },
        query_heads: 2,
        key_heads: 1,
        head_size: 2,
        value_size: 2,
    };
    assert_eq!((geometry.batch(), geometry.group()), (0, 2));
    let nothing = Operand { data: &[][..], strides: &[4, 2, 1] };
    let attention = Attention::<f32> {
        geometry,
        q: nothing,
        k: nothing,
        v: nothing,
        scale: 1.0,
        bias: None,
        alibi: None,
        softcap: None,
        mask: &[],
    };
    let mut untouched = [7f32; 2];
    let lse = &mut [7f32];
    forward(&attention, Output { data: &mut untouched, strides: &[4, 2, 1] }, Output { data: lse, strides: &[2, 1] });
    assert_eq!((untouched, *lse), ([7.0; 2], [7.0]));
}

/// Equal lengths: packed or batched is a matter of strides.
#[test]
fn packed_and_batched_agree() {
    let packed = Packed::new(&[[3, 5]; 4], [2, 1], [3, 2], 6);
    let (got, _) = packed.both();
    let mut batched = Problem::new([4, 2, 1], [3, 5], [3, 2], 0);
    let all = |part: fn(&Problem) -> &Vec<f64>| packed.sequences.iter().flat_map(|p| part(p).clone()).collect();
    (batched.q, batched.k, batched.v) = (all(|p| &p.q), all(|p| &p.k), all(|p| &p.v));
    let (out, lse) = batched.forward::<f32>();
    let packed_out: Vec<f32> = out.chunks(12).flat_map(|b| turned(b, 2, 3, 2)).collect();
    let packed_lse: Vec<f32> = lse.chunks(6).flat_map(|b| turned(b, 2, 3, 1)).collect();
    assert_same_bits(&"out", &got.out, &packed_out);
    assert_same_bits(&"lse", &got.lse, &packed_lse);
}
