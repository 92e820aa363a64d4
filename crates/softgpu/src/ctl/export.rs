//! The exported `softgpu_*` functions: the loaded library's side of control.

use super::abi::{Each, FindingC, LaunchC, LeakC, LineC, SettingsC, VERSION, control_functions};
use super::types::{Finding, LaunchRecord, Leak, Streams};
use super::words;
use crate::driver::code::Code;
use crate::driver::state::{self, DeviceId};
use crate::driver::{leak, profile, thread};
use crate::mem::Background;
use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Declares exported functions that never unwind: a panic, which is an error in this crate, answers `or`.
macro_rules! export {
    ($($(#[doc = $doc:literal])* fn $name:ident($($arg:ident: $ty:ty),*) -> $answer:ty, or $or:expr; $body:block)*) => {$(
        $(#[doc = $doc])*
        ///
        /// # Safety
        /// Every pointer among the arguments is null or valid as the documentation of the function says.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> $answer {
            catch_unwind(AssertUnwindSafe(|| $body)).unwrap_or($or)
        }
    )*};
}

/// A NUL-terminated text of the caller; empty for null or what is not UTF-8.
fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: not null, checked above; callers pass NUL-terminated texts.
    unsafe { CStr::from_ptr(pointer) }.to_str().unwrap_or_default().to_string()
}

/// A text for a callback. A NUL inside would cut it, so it goes.
fn c_text(text: &str) -> CString {
    CString::new(text.replace('\0', "")).unwrap_or_default()
}

/// Hands each item to a callback, converted; answers how many there were.
fn hand_out<T, C>(items: &[T], each: Each<C>, data: *mut c_void, convert: impl Fn(&T, &mut dyn FnMut(&C))) -> usize {
    for item in items {
        // SAFETY: the caller passed the function to be called with its own data and an item that lives during the call.
        convert(item, &mut |item| unsafe { each(data, item) });
    }
    items.len()
}

fn with_finding(finding: &Finding, give: &mut dyn FnMut(&FindingC)) {
    let (detector, text) = (c_text(&finding.detector.0), c_text(&finding.text));
    let submission = finding.submission.as_deref().map(c_text);
    let at = finding.at.as_ref();
    let places = at.map(|at| (c_text(&at.kernel), c_text(&at.place), c_text(&at.statement)));
    let null = std::ptr::null;
    give(&FindingC {
        size: size_of::<FindingC>() as u32,
        pc: at.map_or(0, |at| at.pc),
        cta: at.map_or([0; 3], |at| at.cta),
        warp: at.map_or(0, |at| at.warp),
        lane: at.map_or(0, |at| at.lane),
        reserved: 0,
        detector: detector.as_ptr(),
        text: text.as_ptr(),
        kernel: places.as_ref().map_or(null(), |(kernel, _, _)| kernel.as_ptr()),
        place: places.as_ref().map_or(null(), |(_, place, _)| place.as_ptr()),
        statement: places.as_ref().map_or(null(), |(_, _, statement)| statement.as_ptr()),
        submission: submission.as_ref().map_or(null(), |submission| submission.as_ptr()),
    });
}

fn with_leak(leak: &Leak, give: &mut dyn FnMut(&LeakC)) {
    let (made_by, what) = (c_text(&leak.made_by), c_text(&leak.what));
    give(&LeakC {
        size: size_of::<LeakC>() as u32,
        kind: leak.kind as u32,
        order: leak.order,
        bytes: leak.bytes,
        made_by: made_by.as_ptr(),
        what: what.as_ptr(),
    });
}

fn with_launch(launch: &LaunchRecord, give: &mut dyn FnMut(&LaunchC)) {
    let (kernel, image) = (c_text(&launch.kernel), c_text(&launch.image));
    give(&LaunchC {
        size: size_of::<LaunchC>() as u32,
        code: launch.code,
        grid: launch.grid,
        block: launch.block,
        dynamic_shared: launch.dynamic_shared,
        reserved: 0,
        seed: launch.seed,
        kernel: kernel.as_ptr(),
        image: image.as_ptr(),
    });
}

/// The settings of the calling thread.
fn settings() -> SettingsC {
    let thread = thread::current();
    let inner = thread.inner();
    SettingsC {
        size: size_of::<SettingsC>() as u32,
        streams: inner.streams as u32,
        seed: inner.settings.seed,
        check_init: inner.settings.checks.init.into(),
        check_race: inner.settings.checks.race.into(),
        findings_fail: inner.settings.findings_fail.into(),
        echo: inner.echo.into(),
        step_limit: inner.settings.step_limit,
        profile: inner.profile.map_or(0, |profile| profile.capability.major * 10 + profile.capability.minor),
        wide: inner.settings.wide.into(),
        strict_init: inner.settings.strict_init.into(),
        reserved: 0,
    }
}

/// Answers with a code where a range is not one of live memory.
fn on_memory<T>(result: Result<T, crate::mem::MemoryFault>) -> u32 {
    match result {
        Ok(_) => 0,
        Err(fault) => {
            thread::current().set_last_error(fault.to_string());
            Code::INVALID_VALUE.0
        }
    }
}

export! {
    /// The version of these functions; that it exists tells a software GPU from a real driver.
    fn softgpu_abi() -> u32, or 0; {
        VERSION
    }

    /// Writes the calling thread's settings to `out`, as many bytes as its `size` says.
    fn softgpu_get_settings(out: *mut SettingsC) -> (), or (); {
        if !out.is_null() {
            let own = settings();
            // SAFETY: not null, checked above; `size` is the first field and says how many bytes are there.
            unsafe {
                let size = ((*out).size as usize).min(size_of::<SettingsC>());
                out.cast::<u8>().copy_from_nonoverlapping((&raw const own).cast(), size);
            }
        }
    }

    /// Takes the calling thread's settings from `new`, as many bytes as its `size` says. 1 for values that mean nothing.
    fn softgpu_set_settings(new: *const SettingsC) -> u32, or Code::UNKNOWN.0; {
        let mut wanted = settings();
        if new.is_null() {
            return Code::INVALID_VALUE.0;
        }
        // SAFETY: not null, checked above; `size` is the first field and says how many bytes are there.
        unsafe {
            let size = ((*new).size as usize).min(size_of::<SettingsC>());
            (&raw mut wanted).cast::<u8>().copy_from_nonoverlapping(new.cast(), size);
        }
        let chosen = profile::by_key(&format!("sm_{}", wanted.profile));
        let Some(streams) = Streams::parse(&wanted.streams.to_string()) else { return Code::INVALID_VALUE.0 };
        if chosen.is_none() && wanted.profile != 0 {
            return Code::INVALID_VALUE.0;
        }
        let thread = thread::current();
        if thread.inner().settings.seed != wanted.seed {
            thread.reseed(wanted.seed);
        }
        let mut inner = thread.inner();
        inner.streams = streams;
        inner.profile = chosen;
        inner.echo = wanted.echo != 0;
        inner.settings.seed = wanted.seed;
        inner.settings.checks.init = wanted.check_init != 0;
        inner.settings.checks.race = wanted.check_race != 0;
        inner.settings.findings_fail = wanted.findings_fail != 0;
        inner.settings.step_limit = wanted.step_limit;
        inner.settings.wide = wanted.wide != 0;
        inner.settings.strict_init = wanted.strict_init != 0;
        0
    }

    /// Makes there be at least the devices of a list such as `sm_90,sm_80`, for the whole process.
    fn softgpu_devices(list: *const c_char) -> u32, or Code::UNKNOWN.0; {
        match profile::parse_devices(&text(list)) {
            Some(profiles) => {
                state::lock().set_devices(&profiles);
                0
            }
            None => Code::INVALID_VALUE.0,
        }
    }

    /// Sets the memory of a device, for the whole process.
    fn softgpu_memory_limit(device: u32, bytes: u64) -> u32, or Code::UNKNOWN.0; {
        if !state::lock().has_device(DeviceId(device)) {
            return Code::INVALID_DEVICE.0;
        }
        state::space().set_limit(device, bytes);
        0
    }

    /// Lets the `nth` call from now of entry `name` on the calling thread fail with `code`; `*` counts every entry.
    fn softgpu_fail(name: *const c_char, nth: u64, code: u32) -> u32, or Code::UNKNOWN.0; {
        if nth == 0 || code == 0 || name.is_null() {
            return Code::INVALID_VALUE.0;
        }
        thread::current().inner().plan.fail(&text(name), nth, Code(code));
        0
    }

    /// Forgets the failures asked for that have not happened.
    fn softgpu_fail_clear() -> (), or (); {
        thread::current().inner().plan.clear();
    }

    /// How many failures asked for have not happened.
    fn softgpu_fail_waiting() -> u64, or 0; {
        thread::current().inner().plan.waiting() as u64
    }

    /// How often the calling thread has called entry `name`; `*` counts every entry.
    fn softgpu_calls(name: *const c_char) -> u64, or 0; {
        thread::current().inner().plan.calls(&text(name))
    }

    /// Of the next launches only these CTAs run (linear index, x fastest); null runs all.
    fn softgpu_only_ctas(ctas: *const u64, count: usize) -> (), or (); {
        let chosen = (!ctas.is_null()).then(|| {
            // SAFETY: not null, checked above; the caller says that `count` numbers are there.
            unsafe { std::slice::from_raw_parts(ctas, count) }.into()
        });
        thread::current().inner().settings.only_ctas = chosen;
    }

    /// In the next launches of `kernel` on the calling thread instruction `pc` does nothing; null ends that. A launch fails
    /// where it is a branch or an exit.
    fn softgpu_omit(kernel: *const c_char, pc: u32) -> (), or (); {
        thread::current().inner().omitted = (!kernel.is_null()).then(|| (text(kernel), pc));
    }

    /// Each of the next launches must write every byte of these outputs exactly once, and nothing else. `outputs` holds
    /// `count` pairs of an address and a number of bytes; none ends the watch.
    fn softgpu_watch(outputs: *const u64, count: usize) -> (), or (); {
        let numbers: &[u64] = match outputs.is_null() {
            true => &[],
            // SAFETY: not null; the caller says that `count` pairs are there.
            false => unsafe { std::slice::from_raw_parts(outputs, 2 * count) },
        };
        let ranges = numbers.chunks_exact(2).map(|pair| pair[0]..pair[0].saturating_add(pair[1]));
        thread::current().inner().settings.watch = ranges.collect();
    }

    /// Marks a range of device memory as never written.
    fn softgpu_forget(address: u64, bytes: u64) -> u32, or Code::UNKNOWN.0; {
        on_memory(state::space().forget(address, bytes))
    }

    /// Writes to `out` the first address in a range that nobody wrote: answers 1 if there is one, 0 if not, 2 for a range
    /// that is not live memory.
    fn softgpu_first_unwritten(address: u64, bytes: u64, out: *mut u64) -> u32, or 2; {
        match state::space().first_uninitialised(address, bytes) {
            Ok(None) => 0,
            Ok(Some(first)) => {
                if !out.is_null() {
                    // SAFETY: not null, checked above; the caller says that a number may be written there.
                    unsafe { out.write(first) };
                }
                1
            }
            Err(_) => 2,
        }
    }

    /// Puts hashed words behind a range: in a large allocation they take no memory.
    fn softgpu_generate(address: u64, bytes: u64, seed: u64) -> u32, or Code::UNKNOWN.0; {
        on_memory(state::space().generate(address, bytes, Background::Hash(seed)))
    }

    /// Copies bytes of device memory to the host as they are now: nothing is waited for and nothing is checked but bounds.
    fn softgpu_read(address: u64, out: *mut c_void, bytes: usize) -> u32, or Code::UNKNOWN.0; {
        if out.is_null() && bytes > 0 {
            return Code::INVALID_VALUE.0;
        }
        let mut copy = vec![0u8; bytes];
        let code = on_memory(state::space().read(address, &mut copy));
        if code == 0 && bytes > 0 {
            // SAFETY: not null, checked above; the caller says that `bytes` bytes may be written there.
            unsafe { out.cast::<u8>().copy_from_nonoverlapping(copy.as_ptr(), bytes) };
        }
        code
    }

    /// Copies bytes of the host to device memory, now.
    fn softgpu_write(address: u64, data: *const c_void, bytes: usize) -> u32, or Code::UNKNOWN.0; {
        let data: &[u8] = match (data.is_null(), bytes) {
            (_, 0) => &[],
            (true, _) => return Code::INVALID_VALUE.0,
            // SAFETY: not null; the caller says that `bytes` bytes are there.
            (false, _) => unsafe { std::slice::from_raw_parts(data.cast(), bytes) },
        };
        on_memory(state::space().write(address, data))
    }

    /// Writes the counters of a kernel's launches on the calling thread to `out`, at most `capacity` numbers. Answers how
    /// many numbers there are, 0 if the kernel was not launched.
    fn softgpu_counters(kernel: *const c_char, out: *mut u64, capacity: usize) -> usize, or 0; {
        let thread = thread::current();
        let Some(words) = thread.inner().counters.get(&text(kernel)).map(words::of_counters) else { return 0 };
        if !out.is_null() {
            // SAFETY: not null, checked above; the caller says that `capacity` numbers may be written there.
            unsafe { out.copy_from_nonoverlapping(words.as_ptr(), words.len().min(capacity)) };
        }
        words.len()
    }

    /// Calls `each` for every instruction of a kernel with its counters; answers how many there are.
    fn softgpu_counter_lines(kernel: *const c_char, each: Each<LineC>, data: *mut c_void) -> usize, or 0; {
        let lines = thread::current().inner().counters.get(&text(kernel)).map(|counters| counters.lines.clone());
        hand_out(&lines.unwrap_or_default(), each, data, |line, give| {
            let (words, place, statement) = (words::of_line(line), c_text(&line.place), c_text(&line.statement));
            give(&LineC {
                size: size_of::<LineC>() as u32,
                count: words.len() as u32,
                words: words.as_ptr(),
                place: place.as_ptr(),
                statement: statement.as_ptr(),
            });
        })
    }

    /// Forgets the calling thread's counters.
    fn softgpu_reset_counters() -> (), or (); {
        thread::current().inner().counters.clear();
    }

    /// Calls `each` for every finding of the calling thread and forgets them; answers how many there were.
    fn softgpu_take_findings(each: Each<FindingC>, data: *mut c_void) -> usize, or 0; {
        let findings = std::mem::take(&mut thread::current().inner().findings);
        hand_out(&findings, each, data, with_finding)
    }

    /// Calls `each` for everything that is live: of the calling thread, or of all threads if `all` is not 0.
    fn softgpu_leaks(all: u32, each: Each<LeakC>, data: *mut c_void) -> usize, or 0; {
        let thread = thread::current();
        let state = state::lock();
        let devices = (0..state.device_count() as u32).map(DeviceId);
        let live = devices.flat_map(|device| leak::of_device(&state, device));
        let leaks: Vec<Leak> = live.filter(|leak| all != 0 || leak.made_by == thread.name()).collect();
        drop(state);
        hand_out(&leaks, each, data, with_leak)
    }

    /// Calls `each` for what contexts released by the calling thread had left, and forgets it.
    fn softgpu_take_leaks(each: Each<LeakC>, data: *mut c_void) -> usize, or 0; {
        let leaks = std::mem::take(&mut thread::current().inner().leaks);
        hand_out(&leaks, each, data, with_leak)
    }

    /// Calls `each` for every launch of the calling thread, in order of execution, and forgets them.
    fn softgpu_take_launches(each: Each<LaunchC>, data: *mut c_void) -> usize, or 0; {
        let mut launches = std::mem::take(&mut thread::current().inner().launches);
        hand_out(launches.make_contiguous(), each, data, with_launch)
    }

    /// Hands over what this thread's kernels printed, which is then forgotten, in pieces of at most `capacity` bytes and
    /// without a NUL. Answers the bytes written, or the bytes there are if `out` is null.
    fn softgpu_take_printed(out: *mut c_char, capacity: usize) -> usize, or 0; {
        let thread = thread::current();
        let mut inner = thread.inner();
        let printed = &mut inner.printed;
        if out.is_null() {
            return printed.len();
        }
        let text: Vec<u8> = printed.drain(..capacity.min(printed.len())).collect();
        // SAFETY: not null, checked above; the caller says that `capacity` bytes may be written there, and `text` has no
        // more.
        unsafe { out.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len()) };
        text.len()
    }

    /// Writes why the calling thread's last failing call failed, NUL-terminated and cut to `capacity` bytes. Answers the
    /// length of the whole text.
    fn softgpu_last_error(out: *mut c_char, capacity: usize) -> usize, or 0; {
        let text = thread::current().last_error();
        if !out.is_null() && capacity > 0 {
            let length = text.len().min(capacity - 1);
            // SAFETY: not null, checked above; the caller says that `capacity` > length bytes may be written there.
            unsafe {
                out.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), length);
                out.add(length).write(0);
            }
        }
        text.len()
    }
}

/// Compares what is exported with the list that clients resolve: a difference does not compile.
macro_rules! compare {
    ($($name:ident: fn($($arg:ty),*) $(-> $answer:ty)?;)*) => {
        const _: () = {
            $(let _: unsafe extern "C" fn($($arg),*) $(-> $answer)? = $name;)*
        };
    };
}
control_functions!(compare);
