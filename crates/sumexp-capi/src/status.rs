//! How a call ends: a code, and a message that the thread keeps.

use crate::header::*;
use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use sumexp::Error;

/// Why a call was refused or failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: sumexp_status,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: sumexp_status, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { code: code(&error), message: error.to_string() }
    }
}

/// The code of an error of sumexp. This is the only such table; a test compares it with the list of errors.
fn code(error: &Error) -> sumexp_status {
    match error {
        Error::Shapes { .. }
        | Error::Broadcast { .. }
        | Error::Rank { .. }
        | Error::TooLarge { .. }
        | Error::Length { .. }
        | Error::Range { .. }
        | Error::Permutation { .. }
        | Error::Reshape { .. }
        | Error::Offsets { .. }
        | Error::OperandRank { .. }
        | Error::Sizes { .. }
        | Error::NoClasses { .. } => SUMEXP_SHAPE,
        Error::Dim { .. } => SUMEXP_DIM,
        Error::ReshapeStrides { .. }
        | Error::StrideCount { .. }
        | Error::NegativeStride { .. }
        | Error::OutOfBounds { .. }
        | Error::NotContiguous { .. } => SUMEXP_STRIDES,
        Error::Types { .. } => SUMEXP_DTYPE,
        Error::Misaligned { .. } => SUMEXP_ALIGNMENT,
        Error::Overlap { .. } | Error::Shared { .. } => SUMEXP_OVERLAP,
        Error::DifferentDevices { .. }
        | Error::NoSuchDevice { .. }
        | Error::PerThreadStream
        | Error::ForeignContext { .. }
        | Error::Capability { .. } => SUMEXP_DEVICE,
        Error::Temperature { .. } | Error::Option { .. } | Error::TooMany { .. } | Error::Mask { .. } => SUMEXP_OPTION,
        Error::Target { .. } => SUMEXP_TARGET,
        Error::OutOfMemory { .. } => SUMEXP_OUT_OF_MEMORY,
        Error::NoDriver { .. } | Error::DriverTooOld { .. } | Error::Driver { .. } => SUMEXP_DRIVER,
        Error::Capturing { .. } | Error::NoGraphs => SUMEXP_CAPTURE,
        Error::NoImage { .. } | Error::KernelParams { .. } | Error::Launch { .. } => SUMEXP_INTERNAL,
        // Of operations that are not in this interface.
        Error::NoMinimum { .. } => SUMEXP_INTERNAL,
        // The list of errors may grow. One that is missing here is our mistake.
        _ => SUMEXP_INTERNAL,
    }
}

thread_local! {
    /// The message of the last call that failed on this thread.
    static LAST: RefCell<Option<CString>> = const { RefCell::new(None) };
}

/// The message of the last call that failed on this thread; see the header.
#[unsafe(no_mangle)]
pub extern "C" fn sumexp_last_error() -> *const c_char {
    // A thread that is ending may have dropped its message: then there is none.
    let last = LAST.try_with(|last| last.borrow().as_ref().map(|message| message.as_ptr()));
    last.ok().flatten().unwrap_or(c"".as_ptr())
}

/// The version of the library; see the header.
#[unsafe(no_mangle)]
pub extern "C" fn sumexp_version() -> *const c_char {
    const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => panic!("a version holds no NUL"),
    };
    VERSION.as_ptr()
}

/// Runs the body of an exported function: whatever happens in it becomes a code and a message.
pub(crate) fn enter(op: &'static str, body: impl FnOnce(&'static str) -> Result<(), Failure>) -> i32 {
    // What a panic may have left half-done: locks, which are taken by their poisoned value, and outputs, which are undefined
    // after an error that is found late.
    let failure = match panic::catch_unwind(AssertUnwindSafe(|| body(op))) {
        Ok(Ok(())) => return SUMEXP_OK.0 as i32,
        Ok(Err(failure)) => failure,
        Err(payload) => Failure::new(SUMEXP_INTERNAL, format_args!("{op}: {}", text(payload))),
    };
    let code = failure.code.0 as i32;
    // A NUL would end the message, and no message holds one.
    let message = CString::new(failure.message.replace('\0', " ")).ok();
    let _ = LAST.try_with(|last| *last.borrow_mut() = message);
    code
}

/// What a panic said.
fn text(payload: Box<dyn Any + Send>) -> String {
    let text = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text.to_string(),
        (_, Some(text)) => text.clone(),
        _ => "panicked".to_string(),
    };
    // A payload is any type, and its destructor any code.
    std::mem::forget(payload);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Every error of sumexp has a line in the table of codes, which the compiler cannot ask for: the list may grow.
    #[test]
    fn every_error_has_a_code() {
        fn variants(text: &str) -> BTreeSet<&str> {
            let list = text.split_once("pub enum Error {").expect("the list of errors").1;
            let list = list.split_once("\n}").expect("its end").0;
            let lines = list.lines().filter_map(|line| line.strip_prefix("    "));
            let names = lines.filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
            names.map(|line| line.trim_end_matches([' ', '{', ','])).collect()
        }
        let errors = variants(include_str!("../../../src/error/mod.rs"));
        assert!(errors.len() > 30 && errors.contains("Shapes") && errors.contains("PerThreadStream"), "{errors:?}");
        let table = include_str!("status.rs").split_once("fn code(").unwrap().1.split_once("\n}").unwrap().0;
        let mapped = |name: &str| {
            let mut words = table.split(|c: char| !c.is_alphanumeric() && c != ':');
            words.any(|word| word.strip_prefix("Error::") == Some(name))
        };
        let missing: Vec<&str> = errors.into_iter().filter(|name| !mapped(name)).collect();
        assert!(missing.is_empty(), "no code for {missing:?}");
        assert!(!mapped("Shape"));
    }

    #[test]
    fn errors_of_each_kind_have_the_code_of_their_kind() {
        let driver = |code| Error::Driver { call: "launch_kernel", code };
        for (error, want) in [
            (Error::Rank { op: "x", rank: 9, max: 8 }, SUMEXP_SHAPE),
            (Error::NegativeStride { op: "x", dim: 0, stride: -1 }, SUMEXP_STRIDES),
            (Error::Temperature { op: "x", temperature: 0.0 }, SUMEXP_OPTION),
            (Error::TooMany { op: "x", option: "top_k", value: 9, max: 8 }, SUMEXP_OPTION),
            (Error::Target { op: "x", row: 0, value: 9, classes: 8 }, SUMEXP_TARGET),
            (Error::PerThreadStream, SUMEXP_DEVICE),
            (Error::NoDriver { tried: "libcuda.so" }, SUMEXP_DRIVER),
            (driver(700), SUMEXP_DRIVER),
            (driver(2), SUMEXP_DRIVER),
        ] {
            let failure = Failure::from(error.clone());
            assert_eq!((failure.code, failure.message), (want, error.to_string()));
        }
    }

    fn last() -> String {
        // SAFETY: never null, and valid until the next call on this thread.
        unsafe { CStr::from_ptr(sumexp_last_error()) }.to_str().unwrap().to_string()
    }

    #[test]
    fn panics_become_codes() {
        assert_eq!(enter("op", |_| panic!("number {}", 7)), SUMEXP_INTERNAL.0 as i32);
        assert_eq!(last(), "op: number 7");
        assert_eq!(enter("op", |_| panic!("plain")), SUMEXP_INTERNAL.0 as i32);
        assert_eq!(last(), "op: plain");

        /// Not even a payload that panics when it is dropped gets through.
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        assert_eq!(enter("op", |_| panic::panic_any(Bomb)), SUMEXP_INTERNAL.0 as i32);
        assert_eq!(last(), "op: panicked");
        assert_eq!(enter("op", |_| Ok(())), SUMEXP_OK.0 as i32);
        assert_eq!(last(), "op: panicked");
    }

    #[test]
    fn a_message_with_a_nul_is_whole() {
        enter("op", |_| Err(Failure::new(SUMEXP_SHAPE, "before\0after")));
        assert_eq!(last(), "before after");
    }
}
