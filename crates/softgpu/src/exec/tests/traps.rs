//! The traps of PTX arithmetic: one test for each, where a plausible implementation goes wrong.

use super::*;

/// `expf` is a saturated multiply-add, an integer trick with rounding down, and ex2; `add.rz` occurs beside it.
#[test]
fn trap_01_directed_rounding_is_exact() {
    // 1 + 2^-24, 1 - 2^-25: the nearest f32 is 1 for both; downwards the second is one step below.
    table(
        "add.rm.f32 %d0, %a0, %a1;",
        "w",
        "ww",
        &[
            (&[0x3f80_0000, 0x3380_0000], &[0x3f80_0000]),
            (&[0x3f80_0000, 0xb300_0000], &[0x3f7f_ffff]),
            (&[0x3f80_0000, 0x0000_0001], &[0x3f80_0000]),
            (&[0x3f80_0000, 0x8000_0001], &[0x3f7f_ffff]),
        ],
    );
    // The smallest number decides even far below 1 ulp of an f64 sum: 2^127 + 2^-149.
    table("add.rp.f32 %d0, %a0, %a1;", "w", "ww", &[(&[0x7f00_0000, 0x0000_0001], &[0x7f00_0001])]);
    table(
        "fma.rm.f32 %d0, %a0, %a1, %a2;",
        "w",
        "www",
        &[
            // The trick of `expf`: 252 * 0.3 + 12582913, rounded down, leaves an integer in the low bits.
            (&[0x3e99_999a, 0x437c_0000, 0x4b40_0001], &[0x4b40_004c]),
            (&[0x3f80_0000, 0x3f80_0000, 0xbf80_0000], &[0x8000_0000]),
            (&[0, 0, 0], &[0]),
            (&[0x7f7f_ffff, 0x4000_0000, 0], &[0x7f7f_ffff]),
            (&[0xff7f_ffff, 0x4000_0000, 0], &[0xff80_0000]),
        ],
    );
    table(
        "add.rz.f32 %d0, %a0, %a1;",
        "w",
        "ww",
        &[
            (&[0x7f7f_ffff, 0x7f7f_ffff], &[0x7f7f_ffff]),
            (&[0xff7f_ffff, 0xff7f_ffff], &[0xff7f_ffff]),
            (&[0x3f80_0000, 0xbf80_0000], &[0]),
        ],
    );
}

/// Approximate functions are exact where a table of the PTX manual says so, and otherwise within two units.
#[test]
fn trap_02_approximations_have_their_special_values() {
    table(
        "ex2.approx.ftz.f32 %d0, %a0;",
        "w",
        "w",
        &[(&[0xff80_0000], &[0]), (&[0xc2fd_0000], &[0]), (&[0xc2fc_0000], &[0x0080_0000])],
    );
    table(
        "lg2.approx.f32 %d0, %a0;",
        "w",
        "w",
        &[(&[0], &[0xff80_0000]), (&[0x8000_0000], &[0xff80_0000]), (&[0xbf80_0000], &[0x7fff_ffff])],
    );
    table(
        "div.approx.f32 %d0, %a0, %a1;",
        "w",
        "ww",
        &[(&[0x7f80_0000, 0x7e80_0001], &[0x7fff_ffff]), (&[0x3f80_0000, 0xfe80_0001], &[0x8000_0000])],
    );
    let form = Form::decode("ex2.approx.f32 %d0, %a0;", "w", "w", true).expect("decodes");
    for bits in (0xc2f0_0000u32..0xc2f8_0000).step_by(977) {
        let got = f32::from_bits(form.run(&[vec![u64::from(bits)]], 1)[0][0] as u32);
        let exact = f64::from(f32::from_bits(bits)).exp2();
        assert!((f64::from(got) / exact - 1.0).abs() < 2f64.powi(-23), "{bits:#x}: {got:e} for {exact:e}");
    }
}

/// A fused multiply-add computed in f64 and narrowed rounds twice.
#[test]
fn trap_03_fma_rounds_once() {
    // (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24, half-way between two f32; 2^-80 lifts it over, and f64 cannot hold that bit.
    let x = 0x3f80_0800;
    table(
        "fma.rn.f32 %d0, %a0, %a1, %a2;",
        "w",
        "www",
        &[(&[x, x, 0], &[0x3f80_1000]), (&[x, x, 0x1780_0000], &[0x3f80_1001]), (&[x, x, 0x9780_0000], &[0x3f80_1000])],
    );
    // In f16: 1.5 * (1 + 2^-10) + 2^-24 lies above a tie.
    table(
        "fma.rn.f16 %d0, %a0, %a1, %a2;",
        "h",
        "hhh",
        &[(&[0x3e00, 0x3c01, 0], &[0x3e02]), (&[0x3e00, 0x3c01, 1], &[0x3e02]), (&[0x3e00, 0x3c01, 0x8001], &[0x3e01])],
    );
}

/// min and max drop NaN unless told not to, and order the zeros; `ne` is ordered.
#[test]
fn trap_04_nan_and_signed_zeros() {
    const QUIET: u64 = 0xffc0_0001;
    table(
        "max.f32 %d0, %a0, %a1;",
        "w",
        "ww",
        &[
            (&[QUIET, 0xff80_0000], &[0xff80_0000]),
            (&[0xff80_0000, QUIET], &[0xff80_0000]),
            (&[QUIET, QUIET], &[0x7fff_ffff]),
            (&[0x8000_0000, 0], &[0]),
            (&[0, 0x8000_0000], &[0]),
        ],
    );
    table(
        "min.f32 %d0, %a0, %a1;",
        "w",
        "ww",
        &[(&[0x8000_0000, 0], &[0x8000_0000]), (&[0, 0x8000_0000], &[0x8000_0000])],
    );
    table("max.NaN.f32 %d0, %a0, %a1;", "w", "ww", &[(&[QUIET, 0], &[0x7fff_ffff]), (&[0, QUIET], &[0x7fff_ffff])]);
    table("max.NaN.f16x2 %d0, %a0, %a1;", "w", "ww", &[(&[0xfe01_3c00, 0x3c00_4000], &[0x7fff_4000])]);
    table("max.bf16x2 %d0, %a0, %a1;", "w", "ww", &[(&[0xffc1_8000, 0xff80_0000], &[0xff80_0000])]);
    table(
        "setp.ne.f32 %d0, %a0, %a1;",
        "p",
        "ww",
        &[(&[QUIET, 0], &[0]), (&[0x3f80_0000, 0], &[1]), (&[0, 0x8000_0000], &[0])],
    );
    table(
        "setp.neu.f32 %d0, %a0, %a1;",
        "p",
        "ww",
        &[(&[QUIET, 0], &[1]), (&[QUIET, QUIET], &[1]), (&[0, 0x8000_0000], &[0])],
    );
    // Arithmetic returns one NaN whatever it was given, and whatever the host makes of inf - inf.
    table(
        "add.f32 %d0, %a0, %a1;",
        "w",
        "ww",
        &[(&[QUIET, 0], &[0x7fff_ffff]), (&[0x7f80_0000, 0xff80_0000], &[0x7fff_ffff])],
    );
    table("add.f16 %d0, %a0, %a1;", "h", "hh", &[(&[0x7c00, 0xfc00], &[0x7fff])]);
}

#[test]
fn trap_05_conversions() {
    table("cvt.rn.f16x2.f32 %d0, %a0, %a1;", "w", "ww", &[(&[0x3f80_0000, 0x4000_0000], &[0x3c00_4000])]);
    table("cvt.rn.bf16x2.f32 %d0, %a0, %a1;", "w", "ww", &[(&[0x3f80_0000, 0x4000_0000], &[0x3f80_4000])]);
    table(
        "cvt.rzi.s32.f32 %d0, %a0;",
        "w",
        "w",
        &[
            (&[0x7fc0_0000], &[0]),
            (&[0x7f80_0000], &[0x7fff_ffff]),
            (&[0xff80_0000], &[0x8000_0000]),
            (&[0x4f00_0000], &[0x7fff_ffff]),
        ],
    );
    table("cvt.rzi.u32.f32 %d0, %a0;", "w", "w", &[(&[0xbf80_0000], &[0]), (&[0x4f80_0000], &[0xffff_ffff])]);
    // Where f64 or a 64-bit integer takes part a NaN becomes the top bit, not zero.
    table("cvt.rzi.s32.f64 %d0, %a0;", "w", "q", &[(&[0x7ff8 << 48], &[0x8000_0000])]);
    table("cvt.rzi.s64.f32 %d0, %a0;", "q", "w", &[(&[0x7fc0_0000], &[1 << 63])]);
    table("cvt.rzi.u64.f16 %d0, %a0;", "q", "h", &[(&[0x7e00], &[1 << 63])]);
    table("cvt.rni.f32.f32 %d0, %a0;", "w", "w", &[(&[0x4020_0000], &[0x4000_0000]), (&[0xbf00_0000], &[0x8000_0000])]);
    table(
        "cvt.sat.f32.f32 %d0, %a0;",
        "w",
        "w",
        &[(&[0x7fc0_0000], &[0]), (&[0xffc0_0000], &[0]), (&[0x4000_0000], &[0x3f80_0000])],
    );
    table("cvt.f32.bf16 %d0, %a0;", "w", "h", &[(&[0xc049], &[0xc049_0000])]);
}

/// Each half of a packed operation rounds, saturates and overflows alone.
#[test]
fn trap_06_halves_do_not_touch_each_other() {
    table(
        "add.f16x2 %d0, %a0, %a1;",
        "w",
        "ww",
        &[(&[0x3c00_7bff, 0x1000_7bff], &[0x3c00_7c00]), (&[0x8000_ffff, 0x8000_3c00], &[0x8000_7fff])],
    );
    table("add.sat.f16x2 %d0, %a0, %a1;", "w", "ww", &[(&[0x3c00_bc00, 0x3c00_b800], &[0x3c00_0000])]);
    table(
        "fma.rn.bf16x2 %d0, %a0, %a1, %a2;",
        "w",
        "www",
        &[(&[0x3f80_7f7f, 0x4000_4000, 0x3f80_0000], &[0x4040_7f80])],
    );
}

#[test]
fn trap_07_shifts_fields_and_permutations() {
    table(
        "shl.b32 %d0, %a0, %a1;",
        "w",
        "ww",
        &[(&[1, 31], &[0x8000_0000]), (&[1, 32], &[0]), (&[1, 0x8000_0001], &[0])],
    );
    table("shr.s32 %d0, %a0, %a1;", "w", "ww", &[(&[0x8000_0000, 40], &[0xffff_ffff]), (&[0x7fff_ffff, 40], &[0])]);
    table("shr.u64 %d0, %a0, %a1;", "q", "qw", &[(&[u64::MAX, 64], &[0]), (&[u64::MAX, 63], &[1])]);
    table("shf.l.wrap.b32 %d0, %a0, %a1, %a2;", "w", "www", &[(&[0x8000_0000, 1, 33], &[3])]);
    table("shf.l.clamp.b32 %d0, %a0, %a1, %a2;", "w", "www", &[(&[0x8000_0000, 1, 33], &[0x8000_0000])]);
    table(
        "bfe.s32 %d0, %a0, %a1, %a2;",
        "w",
        "www",
        &[(&[0xff, 4, 0], &[0]), (&[0xf0, 4, 4], &[0xffff_ffff]), (&[0x8000_0000, 40, 8], &[0xffff_ffff])],
    );
    table(
        "bfi.b32 %d0, %a0, %a1, %a2, %a3;",
        "w",
        "wwww",
        &[(&[0xff, 0, 28, 8], &[0xf000_0000]), (&[0xff, 7, 0, 0], &[7]), (&[0xff, 7, 0, 40], &[0xff])],
    );
    table("prmt.b32 %d0, %a0, %a1, 0x9876;", "w", "ww", &[(&[0x0000_8000, 0x0034_0000], &[0xff00_0034])]);
    table("bfind.shiftamt.u32 %d0, %a0;", "w", "w", &[(&[0], &[0xffff_ffff]), (&[1], &[31]), (&[0x8000_0000], &[0])]);
    table("lop3.b32 %d0, %a0, %a1, %a2, 0x80;", "w", "www", &[(&[6, 3, 2], &[2])]);
}

/// Bytes live in 16-bit registers, and those in the low half of a lane: comparisons see 16 bits and no more.
#[test]
fn trap_17_narrow_values_compare_at_their_width() {
    table("setp.eq.s16 %d0, %a0, 0;", "p", "h", &[(&[0], &[1]), (&[0xff], &[0])]);
    table("setp.lt.s16 %d0, %a0, %a1;", "p", "hh", &[(&[0xffff, 0], &[1]), (&[0x7fff, 0x8000], &[0])]);
    table("setp.gt.s16 %d0, %a0, -1;", "p", "h", &[(&[0], &[1]), (&[0xffff], &[0])]);
    table("neg.s16 %d0, %a0;", "h", "h", &[(&[1], &[0xffff])]);
    table("not.b16 %d0, %a0;", "h", "h", &[(&[0], &[0xffff])]);
    table("xor.b16 %d0, %a0, -1;", "h", "h", &[(&[0x00ff], &[0xff00])]);
    table("cvt.s16.s8 %d0, %a0;", "h", "h", &[(&[0x80], &[0xff80])]);
    table("cvt.u32.s16 %d0, %a0;", "w", "h", &[(&[0x8000], &[0xffff_8000])]);
    // Nothing may rely on the upper half of a lane: here it is wrong on purpose.
    let form = Form::decode("setp.eq.s16 %d0, %a0, 5;", "p", "h", true).expect("decodes");
    let mut warp = Warp::new(0, u32::MAX, form.slots, form.slots, 0, POISON);
    for &(slot, _, value) in &form.constants {
        fill(&mut warp, slot, Type::B32, |_| value);
    }
    fill(&mut warp, form.inst.a, Type::B32, |_| 0xabcd_0005);
    // SAFETY: as in `Form::run`.
    unsafe { (form.inst.run)(&mut warp, &mut Env::new(&form.launch), &form.inst, u32::MAX) };
    assert_eq!(warp.p(form.inst.d), u32::MAX);
}

/// No input may panic the host.
#[test]
fn trap_22_division_by_zero_and_odd_literals() {
    table(
        "div.s32 %d0, %a0, %a1;",
        "w",
        "ww",
        &[(&[7, 0], &[0xffff_ffff]), (&[0x8000_0000, 0xffff_ffff], &[0x8000_0000])],
    );
    table("rem.s32 %d0, %a0, %a1;", "w", "ww", &[(&[7, 0], &[7]), (&[0x8000_0000, 0xffff_ffff], &[0])]);
    table("div.u64 %d0, %a0, %a1;", "q", "qq", &[(&[7, 0], &[u64::MAX])]);
    table("rem.u64 %d0, %a0, 0;", "q", "q", &[(&[7], &[7])]);
    table("add.s32 %d0, %a0, -0x10;", "w", "w", &[(&[0x10], &[0])]);
    table("add.s64 %d0, %a0, 0xFFFFFFFFFFFFFFFF;", "q", "q", &[(&[1], &[0])]);
    table("add.f32 %d0, %a0, 0fBF800000;", "w", "w", &[(&[0x3f80_0000], &[0])]);
    table("mul.f64 %d0, %a0, 0d4000000000000000;", "q", "q", &[(&[0x3ff0 << 48], &[0x4000 << 48])]);
    table("shl.b64 %d0, %a0, 64;", "q", "q", &[(&[1], &[0])]);
    table("mov.b32 %d0, 1065353216;", "w", "", &[(&[], &[0x3f80_0000])]);
}
