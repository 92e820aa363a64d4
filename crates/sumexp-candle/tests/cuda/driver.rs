//! The switches and reports of the software GPU that this program is linked with. They belong to the calling thread.
//!
//! The crate softgpu has all this and more, but a program that links with its Rust library has the driver twice: there, and in the
//! shared library that sumexp loads.

use std::ffi::{CStr, CString, c_char, c_void};

#[allow(dead_code, unused_imports)] // A part of it is used here.
#[path = "../../../softgpu/src/ctl/abi.rs"]
mod abi;
use abi::*;

macro_rules! declare {
    ($($name:ident: fn($($argument:ty),*) $(-> $answer:ty)?;)*) => {
        #[allow(dead_code)]
        unsafe extern "C" {
            $(fn $name($(_: $argument),*) $(-> $answer)?;)*
        }
    };
}
control_functions!(declare);

/// `LeakKind::Module`.
const MODULE: u32 = 4;

/// Queued work runs as late as the rules of streams allow, and what is found is kept for [`findings`]: a failed operation would
/// fail the neighbours of a test, who share the context.
pub fn late() {
    let mut settings = SettingsC { size: size_of::<SettingsC>() as u32, ..SettingsC::default() };
    // SAFETY: the structure carries its size and may be written.
    unsafe { softgpu_get_settings(&mut settings) };
    settings.streams = 1;
    settings.findings_fail = 0;
    settings.echo = 0;
    // SAFETY: as above.
    assert_eq!(unsafe { softgpu_set_settings(&settings) }, 0);
}

/// Makes there be two GPUs.
pub fn two_gpus() {
    // SAFETY: the text is NUL-terminated.
    assert_eq!(unsafe { softgpu_devices(c"sm_90,sm_90".as_ptr()) }, 0);
}

/// Lets the `nth` call of a driver function from now on fail, once.
pub fn fail(function: &str, nth: u64) {
    const OUT_OF_MEMORY: u32 = 2;
    let function = CString::new(function).unwrap();
    // SAFETY: the text is NUL-terminated.
    assert_eq!(unsafe { softgpu_fail(function.as_ptr(), nth, OUT_OF_MEMORY) }, 0);
}

/// Ends the wait for the call that shall fail; answers whether it has come.
pub fn has_failed() -> bool {
    // SAFETY: no arguments.
    let waiting = unsafe { softgpu_fail_waiting() };
    // SAFETY: as above.
    unsafe { softgpu_fail_clear() };
    waiting == 0
}

/// How often this thread called a driver function.
pub fn calls(function: &str) -> u64 {
    let function = CString::new(function).unwrap();
    // SAFETY: the text is NUL-terminated.
    unsafe { softgpu_calls(function.as_ptr()) }
}

/// What the checks found since the last look.
pub fn findings() -> Vec<String> {
    unsafe extern "C" fn take(list: *mut c_void, finding: *const FindingC) {
        // SAFETY: the finding lives during the call, and its texts are null or NUL-terminated.
        unsafe { push(list, &[(*finding).detector, (*finding).text, (*finding).submission]) };
    }
    let mut list: Vec<String> = Vec::new();
    // SAFETY: the function and the list belong together.
    unsafe { softgpu_take_findings(take, (&raw mut list).cast()) };
    list
}

/// What was made and not given back, by any thread or by the calling one: who made it, and what it is. Kernels are loaded once per
/// process and kept.
pub fn left_behind(by_any: bool) -> Vec<String> {
    unsafe extern "C" fn take(list: *mut c_void, leak: *const LeakC) {
        // SAFETY: as above.
        unsafe {
            if (*leak).kind != MODULE {
                push(list, &[(*leak).made_by, (*leak).what]);
            }
        }
    }
    let mut list: Vec<String> = Vec::new();
    // SAFETY: as above.
    unsafe { softgpu_leaks(by_any.into(), take, (&raw mut list).cast()) };
    list
}

/// Adds a line to a list.
///
/// # Safety
/// `list` is a `Vec<String>` that nobody else uses; texts are null or NUL-terminated.
unsafe fn push(list: *mut c_void, texts: &[*const c_char]) {
    let texts = texts.iter().filter(|text| !text.is_null());
    // SAFETY: see above.
    let texts: Vec<_> = texts.map(|text| unsafe { CStr::from_ptr(*text) }.to_string_lossy()).collect();
    // SAFETY: see above.
    unsafe { (*list.cast::<Vec<String>>()).push(texts.join(": ")) };
}
