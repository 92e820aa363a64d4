//! f32 and f64 arithmetic.
//!
//! The plain forms (round to nearest, no flushing, no saturation) have operations of their own: they are nearly all
//! that compilers emit. Any other form goes through one operation per opcode, whose `x` holds a [`Form`].

use super::lanes::{map1, map2, map3};
use super::{Warp, ops};
use crate::ir::Inst;
use crate::num::round::{
    add_f32, add_f64, canonical, div_f32, div_f64, flush, fma_f32, fma_f64, integral, integral_f32, mul_f32, mul_f64,
    nan_f64, saturate, saturate_f64, sqrt_f32, sqrt_f64,
};
use crate::num::{NAN_F32, NAN_F64, Rounding, approx};
use Rounding::{Down, Nearest, Up, Zero};

/// Rounding, flushing and saturation of an instruction, packed into `x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// How the result is rounded.
    pub rounding: Rounding,
    /// Subnormal operands and results become zeros.
    pub ftz: bool,
    /// The result is clamped to 0..1.
    pub sat: bool,
}

impl Form {
    /// Round to nearest and nothing else.
    pub const PLAIN: Form = Form { rounding: Nearest, ftz: false, sat: false };

    /// For [`Inst::x`].
    pub fn pack(self) -> u32 {
        self.rounding as u32 | u32::from(self.ftz) << 2 | u32::from(self.sat) << 3
    }

    /// From [`Inst::x`].
    #[inline(always)]
    pub fn unpack(x: u32) -> Form {
        let rounding = match x & 3 {
            0 => Nearest,
            1 => Zero,
            2 => Down,
            _ => Up,
        };
        Form { rounding, ftz: x & 4 != 0, sat: x & 8 != 0 }
    }
}

/// Flushing and saturation as lane masks: a loop that tests a flag would be compiled once for each of its values.
#[derive(Clone, Copy)]
pub struct Masks {
    ftz: u32,
    sat: u32,
}

impl Masks {
    /// All ones for each set flag.
    #[inline(always)]
    pub fn new(form: Form) -> Masks {
        let spread = |on: bool| 0u32.wrapping_sub(u32::from(on));
        Masks { ftz: spread(form.ftz), sat: spread(form.sat) }
    }

    /// An operand.
    #[inline(always)]
    pub fn operand(self, value: f32) -> f32 {
        pick(self.ftz, flush(value), value)
    }

    /// A result.
    #[inline(always)]
    pub fn result(self, value: f32) -> f32 {
        let value = self.operand(value);
        pick(self.sat, saturate(value), value)
    }
}

#[inline(always)]
fn pick(mask: u32, on: f32, off: f32) -> f32 {
    f32::from_bits((on.to_bits() & mask) | (off.to_bits() & !mask))
}

/// One f32 operand, any form. The rounding mode is settled outside the lane loop.
#[inline(always)]
fn any1(warp: &mut Warp, inst: &Inst, mask: u32, f: impl Fn(f32, Rounding) -> f32) {
    let form = Form::unpack(inst.x);
    let m = Masks::new(form);
    match form.rounding {
        Nearest => map1(warp, inst, mask, |a: f32| m.result(f(m.operand(a), Nearest))),
        Zero => map1(warp, inst, mask, |a: f32| m.result(f(m.operand(a), Zero))),
        Down => map1(warp, inst, mask, |a: f32| m.result(f(m.operand(a), Down))),
        Up => map1(warp, inst, mask, |a: f32| m.result(f(m.operand(a), Up))),
    }
}

/// Two f32 operands, any form.
#[inline(always)]
fn any2(warp: &mut Warp, inst: &Inst, mask: u32, f: impl Fn(f32, f32, Rounding) -> f32) {
    let form = Form::unpack(inst.x);
    let m = Masks::new(form);
    match form.rounding {
        Nearest => map2(warp, inst, mask, |a: f32, b: f32| m.result(f(m.operand(a), m.operand(b), Nearest))),
        Zero => map2(warp, inst, mask, |a: f32, b: f32| m.result(f(m.operand(a), m.operand(b), Zero))),
        Down => map2(warp, inst, mask, |a: f32, b: f32| m.result(f(m.operand(a), m.operand(b), Down))),
        Up => map2(warp, inst, mask, |a: f32, b: f32| m.result(f(m.operand(a), m.operand(b), Up))),
    }
}

/// Three f32 operands, any form.
#[inline(always)]
fn any3(warp: &mut Warp, inst: &Inst, mask: u32, f: impl Fn(f32, f32, f32, Rounding) -> f32) {
    let form = Form::unpack(inst.x);
    let m = Masks::new(form);
    let run = |a, b, c, mode| m.result(f(m.operand(a), m.operand(b), m.operand(c), mode));
    match form.rounding {
        Nearest => map3(warp, inst, mask, |a: f32, b: f32, c: f32| run(a, b, c, Nearest)),
        Zero => map3(warp, inst, mask, |a: f32, b: f32, c: f32| run(a, b, c, Zero)),
        Down => map3(warp, inst, mask, |a: f32, b: f32, c: f32| run(a, b, c, Down)),
        Up => map3(warp, inst, mask, |a: f32, b: f32, c: f32| run(a, b, c, Up)),
    }
}

/// An approximate function of one f32; `x` is a [`Form`] of which only the flushing counts.
#[inline(always)]
fn approx1(warp: &mut Warp, inst: &Inst, mask: u32, f: impl Fn(f32, bool) -> f32) {
    if Form::unpack(inst.x).ftz {
        map1(warp, inst, mask, |a: f32| f(a, true));
    } else {
        map1(warp, inst, mask, |a: f32| f(a, false));
    }
}

ops! {
    ADD_F32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: f32, b: f32| canonical(a + b));
    SUB_F32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: f32, b: f32| canonical(a - b));
    MUL_F32 = |warp, _, inst, mask| map2(warp, inst, mask, |a: f32, b: f32| canonical(a * b));
    FMA_F32 = |warp, _, inst, mask| map3(warp, inst, mask, |a: f32, b: f32, c: f32| canonical(a.mul_add(b, c)));
    ADD_F32_ANY = |warp, _, inst, mask| any2(warp, inst, mask, add_f32);
    SUB_F32_ANY = |warp, _, inst, mask| any2(warp, inst, mask, |a, b, mode| add_f32(a, negate(b), mode));
    MUL_F32_ANY = |warp, _, inst, mask| any2(warp, inst, mask, mul_f32);
    FMA_F32_ANY = |warp, _, inst, mask| any3(warp, inst, mask, fma_f32);
    DIV_F32 = |warp, _, inst, mask| any2(warp, inst, mask, div_f32);
    RCP_F32 = |warp, _, inst, mask| any1(warp, inst, mask, |a, mode| div_f32(1.0, a, mode));
    SQRT_F32 = |warp, _, inst, mask| any1(warp, inst, mask, sqrt_f32);
    DIV_APPROX = |warp, _, inst, mask| {
        let ftz = Form::unpack(inst.x).ftz;
        map2(warp, inst, mask, |a: f32, b: f32| approx::div(a, b, ftz))
    };
    DIV_FULL = |warp, _, inst, mask| {
        let ftz = Form::unpack(inst.x).ftz;
        map2(warp, inst, mask, |a: f32, b: f32| approx::div_full(a, b, ftz))
    };
    RCP_APPROX = |warp, _, inst, mask| approx1(warp, inst, mask, approx::rcp);
    SQRT_APPROX = |warp, _, inst, mask| approx1(warp, inst, mask, approx::sqrt);
    RSQRT_APPROX = |warp, _, inst, mask| approx1(warp, inst, mask, approx::rsqrt);
    EX2_APPROX = |warp, _, inst, mask| approx1(warp, inst, mask, approx::ex2);
    LG2_APPROX = |warp, _, inst, mask| approx1(warp, inst, mask, approx::lg2);
    SIN_APPROX = |warp, _, inst, mask| approx1(warp, inst, mask, approx::sin);
    COS_APPROX = |warp, _, inst, mask| approx1(warp, inst, mask, approx::cos);
    TANH_APPROX = |warp, _, inst, mask| map1(warp, inst, mask, approx::tanh);

    MIN_F32 = |warp, _, inst, mask| map2(warp, inst, mask, min_f32);
    MAX_F32 = |warp, _, inst, mask| map2(warp, inst, mask, max_f32);
    // The rest of min and max: `y` bit 0 keeps NaN, bit 1 is `.xorsign.abs`; flushing in `x`.
    MIN_F32_ANY = |warp, _, inst, mask| extremum(warp, inst, mask, min_f32);
    MAX_F32_ANY = |warp, _, inst, mask| extremum(warp, inst, mask, max_f32);
    ABS_F32 = |warp, _, inst, mask| map1(warp, inst, mask, |a: u32| a & 0x7fff_ffff);
    NEG_F32 = |warp, _, inst, mask| map1(warp, inst, mask, |a: u32| a ^ 0x8000_0000);
    ABS_F32_FTZ = |warp, _, inst, mask| map1(warp, inst, mask, |a: f32| flush(a).abs());
    NEG_F32_FTZ = |warp, _, inst, mask| map1(warp, inst, mask, |a: f32| negate(flush(a)));
    COPYSIGN_F32 = |warp, _, inst, mask| map2(warp, inst, mask, |sign: u32, a: u32| sign & 0x8000_0000 | a & 0x7fff_ffff);

    ADD_F64 = |warp, _, inst, mask| map2(warp, inst, mask, |a: f64, b: f64| add_f64(a, b, Nearest));
    SUB_F64 = |warp, _, inst, mask| map2(warp, inst, mask, |a: f64, b: f64| nan_f64(a - b, [a, b, 0.0]));
    MUL_F64 = |warp, _, inst, mask| map2(warp, inst, mask, |a: f64, b: f64| mul_f64(a, b, Nearest));
    FMA_F64 = |warp, _, inst, mask| map3(warp, inst, mask, |a: f64, b: f64, c: f64| fma_f64(a, b, c, Nearest));
    ADD_F64_ANY = |warp, _, inst, mask| { let m = Form::unpack(inst.x).rounding; map2(warp, inst, mask, |a: f64, b: f64| add_f64(a, b, m)) };
    SUB_F64_ANY = |warp, _, inst, mask| { let m = Form::unpack(inst.x).rounding; map2(warp, inst, mask, |a: f64, b: f64| add_f64(a, -b, m)) };
    MUL_F64_ANY = |warp, _, inst, mask| { let m = Form::unpack(inst.x).rounding; map2(warp, inst, mask, |a: f64, b: f64| mul_f64(a, b, m)) };
    FMA_F64_ANY = |warp, _, inst, mask| { let m = Form::unpack(inst.x).rounding; map3(warp, inst, mask, |a: f64, b: f64, c: f64| fma_f64(a, b, c, m)) };
    DIV_F64 = |warp, _, inst, mask| { let m = Form::unpack(inst.x).rounding; map2(warp, inst, mask, |a: f64, b: f64| div_f64(a, b, m)) };
    RCP_F64 = |warp, _, inst, mask| { let m = Form::unpack(inst.x).rounding; map1(warp, inst, mask, |a: f64| div_f64(1.0, a, m)) };
    SQRT_F64 = |warp, _, inst, mask| { let m = Form::unpack(inst.x).rounding; map1(warp, inst, mask, |a: f64| sqrt_f64(a, m)) };
    RCP_APPROX_F64 = |warp, _, inst, mask| map1(warp, inst, mask, approx::rcp_f64);
    RSQRT_APPROX_F64 = |warp, _, inst, mask| map1(warp, inst, mask, approx::rsqrt_f64);
    RSQRT_F64 = |warp, _, inst, mask| map1(warp, inst, mask, approx::rsqrt_full_f64);
    MIN_F64 = |warp, _, inst, mask| map2(warp, inst, mask, |a: f64, b: f64| if below_f64(a, b) { a } else { number_f64(b, a) });
    MAX_F64 = |warp, _, inst, mask| map2(warp, inst, mask, |a: f64, b: f64| if below_f64(b, a) { a } else { number_f64(b, a) });
    ABS_F64 = |warp, _, inst, mask| map1(warp, inst, mask, |a: u64| a & (u64::MAX >> 1));
    NEG_F64 = |warp, _, inst, mask| map1(warp, inst, mask, |a: u64| a ^ 1 << 63);
    COPYSIGN_F64 = |warp, _, inst, mask| map2(warp, inst, mask, |sign: u64, a: u64| sign & 1 << 63 | a & (u64::MAX >> 1));

    // `cvt` within one floating-point type: rounding to an integral value, flushing, saturation.
    INTEGRAL_F32 = |warp, _, inst, mask| any1(warp, inst, mask, |a, mode| canonical(integral_f32(a, mode)));
    COPY_F32 = |warp, _, inst, mask| { let m = Masks::new(Form::unpack(inst.x)); map1(warp, inst, mask, |a: f32| m.result(canonical(a))) };
    INTEGRAL_F64 = |warp, _, inst, mask| {
        let form = Form::unpack(inst.x);
        map1(warp, inst, mask, |a: f64| saturate_if(form.sat, nan_f64(integral(a, form.rounding), [a, 0.0, 0.0])))
    };
    COPY_F64 = |warp, _, inst, mask| { let sat = Form::unpack(inst.x).sat; map1(warp, inst, mask, |a: f64| saturate_if(sat, a)) };
}

/// The sign inverted, of a NaN too.
#[inline(always)]
fn negate(value: f32) -> f32 {
    f32::from_bits(value.to_bits() ^ 0x8000_0000)
}

#[inline(always)]
fn saturate_if(sat: bool, value: f64) -> f64 {
    if sat { saturate_f64(value) } else { value }
}

/// Whether a number is below another, -0 below +0; false for a NaN.
#[inline(always)]
fn below(a: f32, b: f32) -> bool {
    a < b || (a == b && a.to_bits() > b.to_bits())
}

/// The smaller number; a NaN loses against any number, two give the canonical one.
#[inline(always)]
pub fn min_f32(a: f32, b: f32) -> f32 {
    let chosen = if below(a, b) || b.is_nan() { a } else { b };
    canonical(chosen)
}

/// The larger number, as [`min_f32`].
#[inline(always)]
pub fn max_f32(a: f32, b: f32) -> f32 {
    let chosen = if below(b, a) || b.is_nan() { a } else { b };
    canonical(chosen)
}

/// min or max with flushing, `.NaN` and `.xorsign.abs`.
#[inline(always)]
fn extremum(warp: &mut Warp, inst: &Inst, mask: u32, f: impl Fn(f32, f32) -> f32) {
    let m = Masks::new(Form { sat: false, ..Form::unpack(inst.x) });
    let (keep_nan, signs) = (inst.y & 1 != 0, 0u32.wrapping_sub(inst.y >> 1 & 1) & 0x8000_0000);
    map2(warp, inst, mask, |a: f32, b: f32| {
        let sign = (a.to_bits() ^ b.to_bits()) & signs;
        let [x, y] = [a, b].map(|v| m.operand(f32::from_bits(v.to_bits() & !signs)));
        let any_nan = x.is_nan() | y.is_nan();
        let chosen = f(x, y).to_bits() | sign;
        if any_nan && (keep_nan || chosen & 0x7fff_ffff > 0x7f80_0000) { NAN_F32 } else { chosen }
    });
}

#[inline(always)]
fn below_f64(a: f64, b: f64) -> bool {
    a < b || (a == b && a.is_sign_negative() && b.is_sign_positive())
}

/// The first unless it is a NaN and the second is not; two give the default NaN.
#[inline(always)]
fn number_f64(first: f64, second: f64) -> f64 {
    match (first.is_nan(), second.is_nan()) {
        (true, true) => f64::from_bits(NAN_F64),
        (true, false) => second,
        _ => first,
    }
}
