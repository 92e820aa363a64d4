//! Operations between the lanes of a warp: shuffles, votes, matches, reductions.
//!
//! All but `activemask` are [`Kind::Sync`](crate::ir::Kind::Sync): slot `m` holds the member mask, and the mask an
//! operation gets is the members that are here. A full mask may name lanes that have exited, as long as nobody reads
//! them.

use super::access::lanes_of;
use super::warp::LANES;
use super::{Env, Warp, ops};
use crate::check::{Detector, Finding};
use crate::ir::Inst;

ops! {
    /// `shfl.sync.up`: `a` value, `b` distance, `c` clamp and segments, `d` result, predicate `x`.
    SHFL_UP = |warp, env, inst, mask| shuffle(warp, env, inst, mask, |lane, b, s| {
        let from = lane - b;
        (from, from >= s.max)
    });
    /// `shfl.sync.down`
    SHFL_DOWN = |warp, env, inst, mask| shuffle(warp, env, inst, mask, |lane, b, s| {
        let from = lane + b;
        (from, from <= s.max)
    });
    /// `shfl.sync.bfly`
    SHFL_BFLY = |warp, env, inst, mask| shuffle(warp, env, inst, mask, |lane, b, s| {
        let from = lane ^ b;
        (from, from <= s.max)
    });
    /// `shfl.sync.idx`
    SHFL_IDX = |warp, env, inst, mask| shuffle(warp, env, inst, mask, |_, b, s| {
        let from = s.min | (b & !s.segment);
        (from, from <= s.max)
    });
    /// `vote.sync.all`: predicate `a`, negated when `x` is 1; `d` result.
    VOTE_ALL = |warp, _, inst, mask| {
        let all = votes(warp, inst) & mask == mask;
        warp.wp(inst.d, mask, spread(all));
    };
    /// `vote.sync.any`
    VOTE_ANY = |warp, _, inst, mask| {
        let any = votes(warp, inst) & mask != 0;
        warp.wp(inst.d, mask, spread(any));
    };
    /// `vote.sync.uni`
    VOTE_UNI = |warp, _, inst, mask| {
        let votes = votes(warp, inst) & mask;
        warp.wp(inst.d, mask, spread(votes == 0 || votes == mask));
    };
    /// `vote.sync.ballot`
    VOTE_BALLOT = |warp, _, inst, mask| {
        let votes = votes(warp, inst) & mask;
        warp.w32(inst.d, mask, &[votes; LANES]);
    };
    /// `activemask`
    ACTIVE_MASK = |warp, _, inst, mask| warp.w32(inst.d, mask, &[mask; LANES]);
    /// `match.any.sync.b32`: the members whose `a` is the same.
    MATCH_ANY_32 = |warp, _, inst, mask| {
        let same = equals(warp.r32(inst.a), mask);
        warp.w32(inst.d, mask, &same);
    };
    /// `match.any.sync.b64`
    MATCH_ANY_64 = |warp, _, inst, mask| {
        let same = equals(warp.r64(inst.a), mask);
        warp.w32(inst.d, mask, &same);
    };
    /// `match.all.sync.b32`: the members if all have the same `a`, else 0; predicate `x` says which.
    MATCH_ALL_32 = |warp, _, inst, mask| {
        let all = mask != 0 && equals(warp.r32(inst.a), mask)[mask.trailing_zeros() as usize % LANES] == mask;
        warp.w32(inst.d, mask, &[if all { mask } else { 0 }; LANES]);
        warp.wp(inst.x as u16, mask, spread(all));
    };
    /// `match.all.sync.b64`
    MATCH_ALL_64 = |warp, _, inst, mask| {
        let all = mask != 0 && equals(warp.r64(inst.a), mask)[mask.trailing_zeros() as usize % LANES] == mask;
        warp.w32(inst.d, mask, &[if all { mask } else { 0 }; LANES]);
        warp.wp(inst.x as u16, mask, spread(all));
    };
    /// `redux.sync.add`
    REDUX_ADD = |warp, _, inst, mask| reduce(warp, inst, mask, u32::wrapping_add);
    /// `redux.sync.min.u32`
    REDUX_MIN_U = |warp, _, inst, mask| reduce(warp, inst, mask, u32::min);
    /// `redux.sync.max.u32`
    REDUX_MAX_U = |warp, _, inst, mask| reduce(warp, inst, mask, u32::max);
    /// `redux.sync.min.s32`
    REDUX_MIN_S = |warp, _, inst, mask| reduce(warp, inst, mask, |a, b| (a as i32).min(b as i32) as u32);
    /// `redux.sync.max.s32`
    REDUX_MAX_S = |warp, _, inst, mask| reduce(warp, inst, mask, |a, b| (a as i32).max(b as i32) as u32);
    /// `redux.sync.and`
    REDUX_AND = |warp, _, inst, mask| reduce(warp, inst, mask, |a, b| a & b);
    /// `redux.sync.or`
    REDUX_OR = |warp, _, inst, mask| reduce(warp, inst, mask, |a, b| a | b);
    /// `redux.sync.xor`
    REDUX_XOR = |warp, _, inst, mask| reduce(warp, inst, mask, |a, b| a ^ b);
    /// `elect.sync`: `d` the lowest member, predicate `x` whether the lane is it.
    ELECT = |warp, _, inst, mask| {
        let leader = mask.trailing_zeros();
        warp.w32(inst.d, mask, &[leader; LANES]);
        warp.wp(inst.x as u16, mask, mask & mask.wrapping_neg());
    };
}

/// The segment of a lane: the lanes it may read.
#[derive(Clone, Copy)]
struct Segment {
    /// The bits of a lane number that must stay.
    segment: i32,
    min: i32,
    max: i32,
}

#[inline(always)]
fn shuffle(
    warp: &mut Warp,
    env: &mut Env<'_>,
    inst: &Inst,
    mask: u32,
    from: impl Fn(i32, i32, Segment) -> (i32, bool),
) {
    let (a, b, c) = (*warp.r32(inst.a), warp.r32(inst.b), warp.r32(inst.c));
    let (mut source, mut inside, mut bad) = ([0u32; LANES], 0u32, 0u32);
    for lane in 0..LANES {
        let (segment, clamp) = ((c[lane] >> 8 & 31) as i32, (c[lane] & 31) as i32);
        let this = lane as i32;
        let limits = Segment { segment, min: this & segment, max: (this & segment) | (clamp & !segment) };
        let (other, ok) = from(this, (b[lane] & 31) as i32, limits);
        let other = if ok { other } else { this } & 31;
        source[lane] = other as u32;
        inside |= u32::from(ok) << lane;
        bad |= u32::from(mask >> other & 1 == 0) << lane;
    }
    let mut value = [0; LANES];
    for lane in 0..LANES {
        value[lane] = a[source[lane] as usize % LANES];
    }
    if bad & mask != 0 {
        absent(warp, env, inst, mask, bad & mask, &source);
        for lane in lanes_of(bad & mask) {
            value[lane] = u32::MAX;
        }
    }
    warp.w32(inst.d, mask, &value);
    warp.wp(inst.x as u16, mask, inside);
}

/// Reports lanes that read a lane which takes no part.
#[cold]
#[inline(never)]
fn absent(warp: &Warp, env: &mut Env<'_>, inst: &Inst, mask: u32, bad: u32, source: &[u32; LANES]) {
    if env.seen(Detector::InactiveLane, None) {
        return;
    }
    let lane = bad.trailing_zeros();
    let from = source[lane as usize % LANES];
    let members = warp.r32(inst.m)[lane as usize % LANES];
    let why = if warp.lanes >> from & 1 == 0 {
        "has no thread"
    } else if warp.live >> from & 1 == 0 {
        "has exited"
    } else if members >> from & 1 == 0 {
        "is not named in the member mask"
    } else {
        "is switched off by the guard"
    };
    let text = format!(
        "warp {} lane {lane} reads lane {from}, which {why} (member mask {members:#010x}; here: {}; the same holds for {})",
        warp.index,
        crate::check::lanes(mask),
        crate::check::lanes(bad),
    );
    env.find(Finding::new(Detector::InactiveLane, env.at(warp, lane), text));
}

#[inline(always)]
fn votes(warp: &Warp, inst: &Inst) -> u32 {
    warp.p(inst.a) ^ spread(inst.x != 0)
}

#[inline(always)]
fn spread(bit: bool) -> u32 {
    0u32.wrapping_sub(u32::from(bit))
}

/// For each lane, the lanes of `mask` that hold the same value.
#[inline(always)]
fn equals<T: PartialEq>(values: &[T; LANES], mask: u32) -> [u32; LANES] {
    let mut same = [0; LANES];
    for lane in 0..LANES {
        for other in 0..LANES {
            same[lane] |= u32::from(values[lane] == values[other]) << other;
        }
        same[lane] &= mask;
    }
    same
}

#[inline(always)]
fn reduce(warp: &mut Warp, inst: &Inst, mask: u32, f: impl Fn(u32, u32) -> u32) {
    let a = warp.r32(inst.a);
    let mut total = a[mask.trailing_zeros() as usize % LANES];
    for lane in lanes_of(mask & mask.wrapping_sub(1)) {
        total = f(total, a[lane]);
    }
    warp.w32(inst.d, mask, &[total; LANES]);
}
