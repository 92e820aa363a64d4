//! The case table of attention: every dtype, mask, layout, head size, number of queries and of keys, in a subset of all
//! combinations that has every pair of two of them.

use std::fmt;

use super::super::random::Random;
use super::problem::{Masks, Problem, numbers};
use sumexp::mask::{Align, Band};
use sumexp::{DType, Polarity};

/// What hides pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    None,
    CausalTopLeft,
    CausalBottomRight,
    Window,
    KeyLengths,
    CausalKeyLengths,
    Segments,
    BytesOfPairs,
    BytesOfKeys,
    CausalBytes,
}

/// How the operands lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// [B, H, S, D].
    HeadsFirst,
    /// [B, S, H, D].
    PositionsFirst,
    /// q, k and v in one tensor, position by position. As many queries as keys, Dv = D.
    OneBuffer,
    /// Rows that begin anywhere, with unused elements between them.
    Misaligned,
    /// Packed sequences of unequal lengths, of which one is empty. Masks by position or length; no bias.
    Packed,
}

/// What else there is in the scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    None,
    /// Per pair, the same for all batches and heads.
    BiasOfPairs,
    /// Per head and key.
    BiasOfKeys,
    Alibi,
    Softcap,
    /// All of them.
    All,
}

/// How query heads share key heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heads {
    One,
    Equal,
    Grouped,
    Shared,
}

pub const DTYPES: [DType; 3] = [DType::F16, DType::BF16, DType::F32];
pub const MASKS: [Mask; 10] = [
    Mask::None,
    Mask::CausalTopLeft,
    Mask::CausalBottomRight,
    Mask::Window,
    Mask::KeyLengths,
    Mask::CausalKeyLengths,
    Mask::Segments,
    Mask::BytesOfPairs,
    Mask::BytesOfKeys,
    Mask::CausalBytes,
];
pub const LAYOUTS: [Layout; 5] =
    [Layout::HeadsFirst, Layout::PositionsFirst, Layout::OneBuffer, Layout::Misaligned, Layout::Packed];
/// D and Dv: those with tiles of their own, sizes between them, the smallest, and values of another size.
pub const SIZES: [[usize; 2]; 12] = [
    [1, 1],
    [17, 17],
    [32, 32],
    [40, 40],
    [64, 64],
    [80, 80],
    [96, 96],
    [128, 128],
    [192, 192],
    [256, 256],
    [64, 128],
    [192, 33],
];
/// Around the sides of tiles.
pub const LENGTHS: [usize; 12] = [1, 3, 63, 64, 65, 113, 127, 128, 129, 203, 256, 257];
pub const EXTRAS: [Extra; 6] =
    [Extra::None, Extra::BiasOfPairs, Extra::BiasOfKeys, Extra::Alibi, Extra::Softcap, Extra::All];
pub const HEADS: [Heads; 4] = [Heads::One, Heads::Equal, Heads::Grouped, Heads::Shared];

/// How many values each property has, in the order of [`Choice`].
pub const VALUES: [usize; 8] =
    [DTYPES.len(), MASKS.len(), LAYOUTS.len(), SIZES.len(), LENGTHS.len(), LENGTHS.len(), EXTRAS.len(), HEADS.len()];

/// The number of a value for each property: dtype, mask, layout, sizes, queries, keys, extra, heads.
pub type Choice = [usize; 8];

/// One case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub dtype: DType,
    pub mask: Mask,
    pub layout: Layout,
    /// D and Dv.
    pub sizes: [usize; 2],
    /// Queries, of the longest sequence if packed.
    pub queries: usize,
    /// Keys, of the longest sequence if packed.
    pub keys: usize,
    pub extra: Extra,
    pub heads: Heads,
    pub seed: u64,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { dtype, mask, layout, sizes: [d, dv], queries, keys, extra, heads, seed } = self;
        write!(f, "{dtype} {layout:?} D {d} Dv {dv}, {queries} queries, {keys} keys, heads {heads:?}, mask {mask:?}")?;
        write!(f, ", extra {extra:?}, seed {seed}")
    }
}

/// Whether two values of different properties contradict each other.
pub fn contradict(a: (usize, usize), b: (usize, usize)) -> bool {
    let is = |property: usize, value: usize| a == (property, value) || b == (property, value);
    let packed = |position: usize| is(2, 4) && is(1, position);
    let bias = [1, 2, 5].into_iter().any(|extra| is(2, 4) && is(6, extra));
    let own_value_size = [10, 11].into_iter().any(|sizes| is(2, 2) && is(3, sizes));
    (6..10).any(packed) || bias || own_value_size
}

/// Whether a combination makes sense, and is not too large for an interpreter.
fn possible(choice: &Choice) -> bool {
    let pairs = pairs(choice);
    let (queries, keys) = (LENGTHS[choice[4]], LENGTHS[choice[5]]);
    let one_buffer = LAYOUTS[choice[2]] != Layout::OneBuffer || queries == keys;
    let small = queries * keys <= 20_000 || HEADS[choice[7]] == Heads::One;
    one_buffer && small && !pairs.iter().any(|(a, b)| contradict(*a, *b))
}

/// All pairs of (property, value) of a combination.
pub fn pairs(choice: &Choice) -> Vec<((usize, usize), (usize, usize))> {
    let of = |n: usize| (n, choice[n]);
    (0..8).flat_map(|a| (a + 1..8).map(move |b| (of(a), of(b)))).collect()
}

/// The table as numbers of values: each combination of dtype, queries and keys, half of them twice. The rest is chosen so that
/// as many pairs as possible are new, and combinations of dtype, mask and layout.
pub fn choices() -> Vec<Choice> {
    let mut random = Random::new(2);
    let mut bases: Vec<[usize; 3]> = (0..3 * 144).map(|i| [i / 144, i / 12 % 12, i % 12]).collect();
    for i in 1..bases.len() {
        bases.swap(i, random.below(i + 1));
    }
    let mut seen = std::collections::HashSet::new();
    let mut choices = Vec::new();
    for [dtype, queries, keys] in bases.iter().chain(&bases[..216]).copied() {
        let new = |choice: &Choice, seen: &std::collections::HashSet<_>| {
            let triple = ((8, choice[0]), (choice[1], choice[2]));
            pairs(choice).into_iter().chain([triple]).filter(|pair| !seen.contains(pair)).count()
        };
        let tries = (0..300).map(|_| {
            let mut choice: Choice = std::array::from_fn(|n| random.below(VALUES[n]));
            (choice[0], choice[4], choice[5]) = (dtype, queries, keys);
            choice
        });
        let best = tries.filter(possible).max_by_key(|choice| new(choice, &seen)).expect("most are possible");
        seen.extend(pairs(&best));
        seen.insert(((8, best[0]), (best[1], best[2])));
        choices.push(best);
    }
    choices
}

/// The table.
pub fn table() -> Vec<Case> {
    let case = |(i, choice): (usize, Choice)| Case {
        dtype: DTYPES[choice[0]],
        mask: MASKS[choice[1]],
        layout: LAYOUTS[choice[2]],
        sizes: SIZES[choice[3]],
        queries: LENGTHS[choice[4]],
        keys: LENGTHS[choice[5]],
        extra: EXTRAS[choice[6]],
        heads: HEADS[choice[7]],
        seed: i as u64,
    };
    choices().into_iter().enumerate().map(case).collect()
}

impl Case {
    /// Batch, query heads and key heads. A packed batch has its sequences instead, see [`Case::sequences`].
    pub fn heads(&self) -> [usize; 3] {
        match self.heads {
            Heads::One => [1, 1, 1],
            Heads::Equal => [2, 2, 2],
            Heads::Grouped => [1, 4, 2],
            Heads::Shared => [2, 3, 1],
        }
    }

    /// What one call of the case computes: a problem, or the sequences of a packed batch.
    pub fn problems(&self) -> Vec<Problem> {
        if self.layout == Layout::Packed { self.sequences() } else { vec![self.problem()] }
    }

    /// Whether scores are of ordinary size, rather than peaked or very negative.
    pub fn ordinary(&self) -> bool {
        self.seed % 5 < 3
    }

    /// The case as a problem, the longest sequence if packed. Scores are of ordinary size, or peaked, or very negative.
    pub fn problem(&self) -> Problem {
        self.of_lengths([self.queries, self.keys], self.seed)
    }

    /// The sequences of a packed case, each a problem of batch 1: the longest one, one without queries, one without keys, and a
    /// short one.
    pub fn sequences(&self) -> Vec<Problem> {
        let lengths =
            [[self.queries, self.keys], [0, self.keys.min(5)], [self.queries.min(3), 0], [1, self.keys.min(2)]];
        let problem = |(n, lengths): (u64, [usize; 2])| {
            let problem = Case { heads: Heads::One, ..*self }.of_lengths(lengths, self.seed + 1000 * n);
            let [_, query_heads, key_heads] = self.heads();
            let widened = Problem::new([1, query_heads, key_heads], lengths, self.sizes, self.seed + 1000 * n);
            let alibi = problem.alibi.map(|(slopes, align)| (slopes.repeat(query_heads), align));
            Problem { masks: problem.masks, softcap: problem.softcap, alibi, ..widened }
        };
        (0..).zip(lengths).map(problem).collect()
    }

    fn of_lengths(&self, [queries, keys]: [usize; 2], seed: u64) -> Problem {
        let mut random = Random::new(seed);
        let mut problem = Problem::new(self.heads(), [queries, keys], self.sizes, seed);
        let [batch, query_heads, _] = self.heads();
        match seed % 5 {
            // Peaked: some scores of about 40.
            3 => problem.q.iter_mut().for_each(|x| *x *= 8.0),
            // All scores far below 0: q and k of opposite signs.
            4 => {
                problem.q.iter_mut().for_each(|x| *x = x.abs() + 2.0);
                problem.k.iter_mut().for_each(|x| *x = -x.abs() - 2.0);
            }
            _ => {}
        }
        let causal = |align| vec![Band::causal(align)];
        let lengths = |random: &mut Random| Some((0..batch).map(|_| random.below(keys + 2) as i32 - 1).collect());
        let segments = |random: &mut Random| {
            let per_segment = 1 + random.below(100);
            let ids = |n: usize| (0..batch * n).map(|i| (i % n.max(1) / per_segment) as i32).collect();
            Some((ids(queries), ids(keys)))
        };
        let bytes = |random: &mut Random, shape: [usize; 4], polarity| {
            // Blocks, so that whole tiles come out hidden and visible, with single exceptions.
            let of = |i: usize, random: &mut Random| {
                let (query, key) = (i / keys.max(1) % shape[2], i % keys.max(1));
                u8::from(random.one_in(50) ^ ((query / 70 + key / 70).is_multiple_of(2)))
            };
            Some(((0..shape.iter().product()).map(|i| of(i, random)).collect(), shape, polarity))
        };
        let pairs = [1, 1, queries, keys];
        let masks = &mut problem.masks;
        *masks = Masks::default();
        match self.mask {
            Mask::None => {}
            Mask::CausalTopLeft => masks.bands = causal(Align::TopLeft),
            Mask::CausalBottomRight => masks.bands = causal(Align::BottomRight),
            Mask::Window => masks.bands = vec![Band { left: Some(40), right: Some(20), align: Align::BottomRight }],
            Mask::KeyLengths => masks.lengths = lengths(&mut random),
            Mask::CausalKeyLengths => {
                (masks.bands, masks.lengths) = (causal(Align::BottomRight), lengths(&mut random));
            }
            Mask::Segments => masks.segments = segments(&mut random),
            Mask::BytesOfPairs => masks.bytes = bytes(&mut random, [batch, query_heads, queries, keys], Polarity::Keep),
            Mask::BytesOfKeys => masks.bytes = bytes(&mut random, [batch, 1, 1, keys], Polarity::Hide),
            Mask::CausalBytes => {
                (masks.bands, masks.bytes) = (causal(Align::TopLeft), bytes(&mut random, pairs, Polarity::Hide));
            }
        }
        let bias = |random: &mut Random, shape: [usize; 4]| {
            let mut values = numbers(random, shape.iter().product());
            values.iter_mut().filter(|_| random.one_in(20)).for_each(|x| *x = f64::NEG_INFINITY);
            Some((values, shape))
        };
        match self.extra {
            Extra::BiasOfPairs | Extra::All => problem.bias = bias(&mut random, pairs),
            Extra::BiasOfKeys => problem.bias = bias(&mut random, [1, query_heads, 1, keys]),
            _ => {}
        }
        if [Extra::Alibi, Extra::All].contains(&self.extra) {
            problem.alibi = Some(((0..query_heads).map(|h| 0.5f32.powi(h as i32 + 2)).collect(), Align::BottomRight));
        }
        if [Extra::Softcap, Extra::All].contains(&self.extra) {
            problem.softcap = Some(20.0);
        }
        problem
    }
}
