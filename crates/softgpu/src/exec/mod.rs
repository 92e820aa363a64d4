//! Executing one operation for 32 lanes.
//!
//! # Adding an operation
//! Write it inside [`ops!`] in the family's file:
//! ```text
//! ops! {
//!     /// `add.s32`, `add.u32`
//!     ADD_32 = |warp, env, inst, mask| { map2(warp, inst, mask, |a: u32, b: u32| a.wrapping_add(b)) };
//! }
//! ```
//! The macro compiles the body twice, with AVX2+FMA and portably, and makes the constant `ADD_32: Op`. The family's
//! decoder names it: `Inst { d, a, b, ..lower.inst(&ADD_32, Class::Int) }`. Everything that a lane loop calls must be
//! `#[inline(always)]`; results are computed for all lanes and written under `mask`; lanes that are off must never
//! touch memory, divide or fault.

pub(crate) mod access;
mod env;
mod format;
pub mod frames;
mod global;
pub mod lanes;
mod shared;
pub mod warp;

pub mod atom;
pub mod bits;
pub mod collective;
pub mod convert;
pub mod copies;
pub mod dot;
pub mod extended;
pub mod float;
pub mod half;
pub mod hopper;
pub mod int;
pub mod ldmatrix;
pub mod ldst;
pub mod local;
pub mod mma;
pub mod pred;
pub mod system;

pub use env::Env;
pub use warp::{LANES, Warp};

use crate::ir::Inst;

/// An operation: the warp, its surroundings, the instruction and the lanes that execute it.
///
/// # Safety
/// The processor must have the features the function was compiled for; [`Op::pick`] is the only place that chooses.
pub type Run = unsafe fn(&mut Warp, &mut Env<'_>, &Inst, u32);

/// The two builds of one operation.
pub struct Op {
    /// With AVX2, FMA, F16C and BMI; the portable build again on other architectures.
    pub wide: Run,
    /// For any processor.
    pub portable: Run,
}

impl Op {
    /// The build to use: `wide` needs [`has_wide`].
    pub fn pick(&self, wide: bool) -> Run {
        if wide && has_wide() { self.wide } else { self.portable }
    }
}

/// Whether this processor runs the wide build.
pub fn has_wide() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Defines operations: see the module's introduction.
macro_rules! ops {
    ($($(#[$attr:meta])* $name:ident = |$warp:pat_param, $env:pat_param, $inst:pat_param, $mask:pat_param| $body:expr;)*) => { $(
        $(#[$attr])*
        pub const $name: $crate::exec::Op = {
            // The body stands textually in both functions, so that its closures inherit their target features.
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
            fn wide(
                $warp: &mut $crate::exec::Warp, $env: &mut $crate::exec::Env<'_>, $inst: &$crate::ir::Inst, $mask: u32,
            ) {
                $body
            }
            fn portable(
                $warp: &mut $crate::exec::Warp, $env: &mut $crate::exec::Env<'_>, $inst: &$crate::ir::Inst, $mask: u32,
            ) {
                $body
            }
            #[cfg(not(target_arch = "x86_64"))]
            use portable as wide;
            $crate::exec::Op { wide, portable }
        };
    )* };
}
pub(crate) use ops;

/// The operation of instructions that the scheduler does itself.
pub fn nothing(_: &mut Warp, _: &mut Env<'_>, _: &Inst, _: u32) {}

#[cfg(test)]
mod tests;
