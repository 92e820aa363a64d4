//! Options structs, which may be of another version of the interface than this library is.

use crate::header::*;
use crate::status::{Failure, enter};
use std::{f32, mem, ptr, slice};
use sumexp::Reduction;

/// More than any version of an options struct will have. A larger size is no size, and nobody reads so far to find out.
const MAX_SIZE: usize = 4096;

/// A struct of the header that begins with its size.
///
/// # Safety
/// It must be made of numbers and pointers, so that all bytes are valid.
pub(crate) unsafe trait Options: Copy {
    /// What a caller gets who sets nothing.
    fn defaults() -> Self;
    /// The first byte behind each field, in order.
    fn ends() -> Vec<usize>;
}

macro_rules! options {
    ($options:ty { $($field:ident: $default:expr),* $(,)? }) => {
        // SAFETY: the header declares numbers and pointers.
        unsafe impl Options for $options {
            fn defaults() -> Self {
                Self { size: size_of::<Self>() as u32, $($field: $default),* }
            }

            fn ends() -> Vec<usize> {
                fn size_of_field<S, F>(_: fn(&S) -> &F) -> usize {
                    size_of::<F>()
                }
                vec![
                    size_of::<u32>(),
                    $(mem::offset_of!($options, $field) + size_of_field(|options: &$options| &options.$field)),*
                ]
            }
        }
    };
}

options! { sumexp_cross_entropy_options {
    dim: -1,
    reduction: 2,
    has_ignore_index: 1,
    ignore_index: -100,
    label_smoothing: 0.0,
    z_loss: 0.0,
    temperature: 1.0,
    class_weights: ptr::null(),
}}

options! { sumexp_sample_options { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0, offset: 0 }}

options! { sumexp_attention_options {
    scale: f32::NAN,
    causal: 0,
    window_left: -1,
    window_right: -1,
    softcap: 0.0,
    keep: ptr::null(),
    bias: ptr::null(),
    alibi_slopes: ptr::null(),
    key_lengths: ptr::null(),
    q_segments: ptr::null(),
    k_segments: ptr::null(),
    q_offsets: ptr::null(),
    k_offsets: ptr::null(),
    max_q: 0,
    max_k: 0,
}}

/// The options that a caller passed, with the defaults for fields that their struct does not have.
///
/// # Safety
/// `options` must be null or point to a number and to as many bytes as it says, itself included.
pub(crate) unsafe fn read<T: Options>(op: &str, options: *const T) -> Result<T, Failure> {
    let mut known = T::defaults();
    if options.is_null() {
        return Ok(known);
    }
    let refused = |why: String| Err(Failure::new(SUMEXP_OPTION, format_args!("{op}: options.size {why}")));
    // SAFETY: the number is there, aligned or not.
    let size = unsafe { options.cast::<u32>().read_unaligned() } as usize;
    if !(size_of::<u32>()..=MAX_SIZE).contains(&size) {
        return refused(format!("is {size}, it must be that of the struct: call the _init function first"));
    }
    // A field counts if all of it is there.
    let common = if size < size_of::<T>() {
        T::ends().into_iter().filter(|&end| end <= size).max().unwrap_or(0)
    } else {
        size_of::<T>()
    };
    // SAFETY: `common` bytes are there on both sides, which do not overlap; whatever the bytes are, they are a `T`.
    unsafe { ptr::copy_nonoverlapping(options.cast::<u8>(), (&raw mut known).cast::<u8>(), common) };
    // SAFETY: `size` bytes are there.
    let unknown = unsafe { slice::from_raw_parts(options.cast::<u8>().add(common), size - common) };
    match unknown.iter().position(|&byte| byte != 0) {
        Some(at) if size > size_of::<T>() => refused(format!(
            "is {size}, and byte {} is set: this version of the library knows {} bytes",
            common + at,
            size_of::<T>()
        )),
        _ => Ok(known),
    }
}

/// # Safety
/// `options` must be null or point to memory for a `T`.
unsafe fn init<T: Options>(op: &'static str, options: *mut T) -> i32 {
    enter(op, |op| match options.is_null() {
        true => Err(Failure::new(SUMEXP_NULL, format_args!("{op}: options is NULL"))),
        false => {
            // SAFETY: not null, so there is memory for a `T`, aligned or not.
            unsafe { options.write_unaligned(T::defaults()) };
            Ok(())
        }
    })
}

/// Sets the defaults; see the header.
///
/// # Safety
/// `options` must be null or point to memory for the struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sumexp_cross_entropy_options_init(options: *mut sumexp_cross_entropy_options) -> i32 {
    // SAFETY: the caller makes the same promise.
    unsafe { init("sumexp_cross_entropy_options_init", options) }
}

/// Sets the defaults; see the header.
///
/// # Safety
/// As [`sumexp_cross_entropy_options_init`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sumexp_sample_options_init(options: *mut sumexp_sample_options) -> i32 {
    // SAFETY: the caller makes the same promise.
    unsafe { init("sumexp_sample_options_init", options) }
}

/// Sets the defaults; see the header.
///
/// # Safety
/// As [`sumexp_cross_entropy_options_init`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sumexp_attention_options_init(options: *mut sumexp_attention_options) -> i32 {
    // SAFETY: the caller makes the same promise.
    unsafe { init("sumexp_attention_options_init", options) }
}

/// The reduction that the header gives a number.
pub(crate) fn reduction(op: &str, reduction: i32) -> Result<Reduction<'static>, Failure> {
    match reduction {
        0 => Ok(Reduction::None),
        1 => Ok(Reduction::Sum),
        2 => Ok(Reduction::Mean),
        _ => {
            let message = format!("{op}: reduction is {reduction}, it must be 0 (none), 1 (sum) or 2 (mean)");
            Err(Failure::new(SUMEXP_OPTION, message))
        }
    }
}
