//! Element types. The set is closed: every type here is valid for all bit patterns, so device bytes are always safe to read.

use std::fmt;

pub use half::{bf16, f16};

/// The type of an element, as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE 754 half precision.
    F16,
    /// bfloat16: the upper half of an `f32`.
    BF16,
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 double precision.
    F64,
    /// Signed 32-bit integer.
    I32,
    /// Signed 64-bit integer.
    I64,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned byte; also a truth value, where 0 is false and everything else is true.
    U8,
}

impl DType {
    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::BF16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }

    /// The name, as the Rust type is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::U32 => "u32",
            Self::U8 => "u8",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A type that tensors may hold: [`struct@f16`], [`struct@bf16`], `f32`, `f64`, `i32`, `i64`, `u32` and `u8`.
///
/// The trait is sealed, because bytes that a device wrote are read back as this type: only a type without invalid
/// bit patterns may implement it. In particular `bool` does not; truth values are `u8`.
///
/// ```compile_fail,E0277
/// fn holds<T: sumexp::Element>() {}
/// holds::<bool>();
/// ```
pub trait Element: sealed::Sealed + Copy + PartialEq + fmt::Debug + Default + Send + Sync + 'static {
    /// The same type, as a value.
    const DTYPE: DType;
}

/// A floating point type that the operations compute on: [`struct@f16`], [`struct@bf16`] and `f32`.
pub trait Float: Element {
    /// The exact value as `f32`.
    fn to_f32(self) -> f32;
    /// The exact value as `f64`.
    fn to_f64(self) -> f64;
    /// The nearest value of this type, ties to even; rounded once.
    fn from_f64(value: f64) -> Self;
}

macro_rules! elements {
    ($($type:ty => $dtype:ident),* $(,)?) => {$(
        impl sealed::Sealed for $type {}
        impl Element for $type {
            const DTYPE: DType = DType::$dtype;
        }
        // Buffers are sized and aligned by `DType::size`.
        const _: () = assert!(size_of::<$type>() == DType::$dtype.size() && align_of::<$type>() <= DType::$dtype.size());
    )*};
}

elements! { f16 => F16, bf16 => BF16, f32 => F32, f64 => F64, i32 => I32, i64 => I64, u32 => U32, u8 => U8 }

/// Rounds to `f32` towards the neighbour whose last bit is 1 unless the value is exact ("round to odd").
///
/// A second rounding to a format at least two bits narrower then gives the same result as one rounding from `f64`;
/// rounding to nearest twice would not (1 + 2^-11 + 2^-40 must round up in f16, but rounds to the tie 1 + 2^-11 first).
fn to_f32_odd(value: f64) -> f32 {
    let nearest = value as f32;
    if !value.is_finite() || f64::from(nearest) == value || nearest.to_bits() & 1 == 1 {
        return nearest;
    }
    // `nearest` is even and inexact: the odd neighbour lies on the side of `value`.
    let away = f64::from(nearest).abs() < value.abs();
    f32::from_bits(if away { nearest.to_bits() + 1 } else { nearest.to_bits() - 1 })
}

impl Float for f16 {
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    fn to_f64(self) -> f64 {
        f16::to_f64(self)
    }
    fn from_f64(value: f64) -> Self {
        f16::from_f32(to_f32_odd(value))
    }
}

impl Float for bf16 {
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
    fn to_f64(self) -> f64 {
        bf16::to_f64(self)
    }
    fn from_f64(value: f64) -> Self {
        bf16::from_f32(to_f32_odd(value))
    }
}

impl Float for f32 {
    fn to_f32(self) -> f32 {
        self
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn from_f64(value: f64) -> Self {
        value as f32
    }
}
