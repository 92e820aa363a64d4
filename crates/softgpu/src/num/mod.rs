//! Arithmetic exactly as PTX defines it, as pure functions on values or bit patterns.
//!
//! Nothing here knows of warps. A lane loop calls these functions for 32 lanes, so everything on a hot path is
//! `#[inline(always)]`: a call that is not inlined leaves the AVX2 build of the loop, and a fused multiply-add then
//! becomes a library call (ten times slower).
//!
//! * [`half`]: f16 and bf16 patterns to and from f32.
//! * [`round`]: f32 and f64 operations in the four rounding modes, subnormal flushing, saturation, NaN rules.
//! * [`soft`]: the same operations in integers, for any format: slow and obvious, the oracle of the tests and the
//!   implementation where speed does not matter (f64 in directed modes, conversions).
//! * [`convert`]: any type to any other, as `cvt` does it.
//! * [`approx`]: the `.approx` operations, rounded once from f64 (hardware differs in the last one or two bits).

pub mod approx;
pub mod convert;
pub mod half;
pub mod round;
pub mod soft;

/// The NaN every f32 operation returns: PTX promises no payload for single precision.
pub const NAN_F32: u32 = 0x7fff_ffff;
/// The NaN every f16 operation returns.
pub const NAN_F16: u16 = 0x7fff;
/// The NaN every bf16 operation returns.
pub const NAN_BF16: u16 = 0x7fff;
/// The NaN an f64 operation makes when no operand is one.
pub const NAN_F64: u64 = 0xfff8_0000_0000_0000;

/// The rounding of a floating-point result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// `.rn`: to nearest, ties to the even neighbour.
    Nearest,
    /// `.rz`: toward zero.
    Zero,
    /// `.rm`: toward minus infinity.
    Down,
    /// `.rp`: toward plus infinity.
    Up,
}

impl Rounding {
    /// All four modes, for tables and tests.
    pub const ALL: [Rounding; 4] = [Rounding::Nearest, Rounding::Zero, Rounding::Down, Rounding::Up];
}
