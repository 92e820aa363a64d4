//! Control from Rust, through the symbols of the library that the process has loaded as its driver.

use super::abi::{self, Each, FindingC, LaunchC, LeakC, LineC, SettingsC, control_functions};
use super::install;
use super::types::{Detector, Finding, LaunchRecord, Leak, LeakKind, Streams};
use super::words;
use crate::count::Counters;
use crate::launch::{Checks, Where};
use std::ffi::{CStr, CString, c_char, c_void};
use std::fmt;

/// Why there is no software GPU to talk to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectError {
    /// No driver is loaded.
    NoDriver,
    /// The driver that is loaded is a real one.
    RealDriver,
    /// The library speaks another version.
    Version {
        /// The library's.
        library: u32,
        /// This crate's.
        crate_: u32,
    },
    /// The library lacks a function.
    Missing {
        /// Its name.
        function: &'static str,
    },
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::NoDriver => f.write_str("no CUDA driver is loaded: call softgpu::install() first"),
            ConnectError::RealDriver => f.write_str("the CUDA driver that is loaded is not softgpu"),
            ConnectError::Version { library, crate_ } => {
                write!(f, "the loaded softgpu speaks version {library} of its control functions, this crate {crate_}")
            }
            ConnectError::Missing { function } => write!(f, "the loaded softgpu lacks {function}"),
        }
    }
}

impl std::error::Error for ConnectError {}

macro_rules! declare {
    ($($name:ident: fn($($arg:ty),*) $(-> $answer:ty)?;)*) => {
        /// The functions of the loaded library.
        #[derive(Clone, Copy)]
        struct Functions {
            $($name: unsafe extern "C" fn($($arg),*) $(-> $answer)?,)*
        }

        impl Functions {
            fn resolve(library: install::Library) -> Result<Functions, ConnectError> {
                Ok(Functions {
                    $($name: {
                        const NAME: &str = stringify!($name);
                        let symbol = CString::new(NAME).ok().and_then(|name| library.symbol(&name));
                        let address = symbol.ok_or(ConnectError::Missing { function: NAME })?;
                        // SAFETY: the library is softgpu, and its exports are compared with this list where they are
                        // declared; the version was compared before any of them is called.
                        unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($arg),*) $(-> $answer)?>(address) }
                    },)*
                })
            }
        }
    };
}
control_functions!(declare);

/// The software GPU of this process, as the calling thread sees it: settings, findings and counters belong to the host
/// thread that uses the driver.
#[derive(Clone, Copy)]
pub struct Gpu {
    functions: Functions,
}

/// Connects to the software GPU that this process has loaded as its driver.
pub fn connect() -> Result<Gpu, ConnectError> {
    let (_, library) = install::driver().ok_or(ConnectError::NoDriver)?;
    if !library.is_softgpu() {
        return Err(ConnectError::RealDriver);
    }
    let functions = Functions::resolve(library)?;
    // SAFETY: the function takes nothing and has no preconditions.
    let version = unsafe { (functions.softgpu_abi)() };
    if version != abi::VERSION {
        return Err(ConnectError::Version { library: version, crate_: abi::VERSION });
    }
    Ok(Gpu { functions })
}

/// A text for the C side.
fn c_text(text: &str) -> CString {
    CString::new(text).expect("no name contains a NUL")
}

/// A text from the C side.
fn text(pointer: *const c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: not null, checked above; the library passes NUL-terminated texts that live during the callback.
    Some(unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}

/// Collects what the library hands out through a callback.
fn collect<C, T>(convert: fn(&C) -> T, call: impl FnOnce(Each<C>, *mut c_void) -> usize) -> Vec<T> {
    struct Bag<C, T> {
        convert: fn(&C) -> T,
        items: Vec<T>,
    }
    unsafe extern "C" fn take<C, T>(data: *mut c_void, item: *const C) {
        // SAFETY: `data` is the bag below, which outlives the call and is used by nobody else; `item` is live during it.
        let (bag, item) = unsafe { (&mut *data.cast::<Bag<C, T>>(), &*item) };
        bag.items.push((bag.convert)(item));
    }
    let mut bag = Bag { convert, items: Vec::new() };
    call(take::<C, T>, (&raw mut bag).cast());
    bag.items
}

fn finding(item: &FindingC) -> Finding {
    let at = text(item.kernel).map(|kernel| Where {
        kernel,
        place: text(item.place).unwrap_or_default(),
        statement: text(item.statement).unwrap_or_default(),
        pc: item.pc,
        cta: item.cta,
        warp: item.warp,
        lane: item.lane,
    });
    let detector = Detector(text(item.detector).unwrap_or_default().into());
    Finding { detector, text: text(item.text).unwrap_or_default(), at, submission: text(item.submission) }
}

fn leak(item: &LeakC) -> Leak {
    Leak {
        kind: LeakKind::from_number(item.kind).unwrap_or(LeakKind::Memory),
        order: item.order,
        bytes: item.bytes,
        made_by: text(item.made_by).unwrap_or_default(),
        what: text(item.what).unwrap_or_default(),
    }
}

fn launch(item: &LaunchC) -> LaunchRecord {
    LaunchRecord {
        kernel: text(item.kernel).unwrap_or_default(),
        grid: item.grid,
        block: item.block,
        dynamic_shared: item.dynamic_shared,
        seed: item.seed,
        image: text(item.image).unwrap_or_default(),
        code: item.code,
    }
}

fn line(item: &LineC) -> crate::count::Line {
    // SAFETY: the library says that `count` numbers are there during the callback.
    let numbers = unsafe { std::slice::from_raw_parts(item.words, item.count as usize) };
    words::to_line(numbers, text(item.place).unwrap_or_default(), text(item.statement).unwrap_or_default())
}

impl Gpu {
    pub(super) fn change(&self, change: impl FnOnce(&mut SettingsC)) {
        let mut settings = SettingsC { size: size_of::<SettingsC>() as u32, ..SettingsC::default() };
        // SAFETY: the structure carries its size and is valid for reading and writing.
        unsafe { (self.functions.softgpu_get_settings)(&mut settings) };
        change(&mut settings);
        // SAFETY: as above.
        let code = unsafe { (self.functions.softgpu_set_settings)(&settings) };
        assert_eq!(code, 0, "softgpu does not know the settings {settings:?}");
    }

    /// Seed of the schedules, of the poison and of seeded streams.
    pub fn seed(&self, seed: u64) {
        self.change(|settings| settings.seed = seed);
    }

    /// Which checks run.
    pub fn checks(&self, checks: Checks) {
        self.change(|settings| {
            settings.check_init = checks.init.into();
            settings.check_race = checks.race.into();
        });
    }

    /// Whether reads of bytes that nobody wrote are reported where they stand. Else they are when the value decides an
    /// address, a branch or a barrier, or is stored to device memory.
    pub fn strict_init(&self, strict: bool) {
        self.change(|settings| settings.strict_init = strict.into());
    }

    /// Whether a finding fails the operation (719) or is only recorded.
    pub fn findings_fail(&self, fail: bool) {
        self.change(|settings| settings.findings_fail = fail.into());
    }

    /// Whether reports are also printed on stderr as they are made.
    pub fn echo(&self, echo: bool) {
        self.change(|settings| settings.echo = echo.into());
    }

    /// When the queued work of streams runs.
    pub fn streams(&self, streams: Streams) {
        self.change(|settings| settings.streams = streams as u32);
    }

    /// Warp instructions after which a launch ends with 702.
    pub fn step_limit(&self, steps: u64) {
        self.change(|settings| settings.step_limit = steps);
    }

    /// The device that this thread takes every device for; `None` for what they are.
    pub fn profile(&self, profile: Option<Profile>) {
        self.change(|settings| settings.profile = profile.map_or(0, |profile| profile as u32));
    }

    /// Makes there be at least these devices, for the whole process.
    pub fn devices(&self, profiles: &[Profile]) {
        let keys: Vec<String> = profiles.iter().map(|profile| format!("sm_{}", *profile as u32)).collect();
        // SAFETY: the text is NUL-terminated.
        let code = unsafe { (self.functions.softgpu_devices)(c_text(&keys.join(",")).as_ptr()) };
        assert_eq!(code, 0, "softgpu does not know the devices {keys:?}");
    }

    /// Sets the memory of a device, for the whole process.
    pub fn memory_limit(&self, device: u32, bytes: u64) {
        // SAFETY: no pointers.
        let code = unsafe { (self.functions.softgpu_memory_limit)(device, bytes) };
        assert_eq!(code, 0, "there is no device {device}");
    }

    /// Lets the `nth` call from now of a driver entry on this thread fail, once. `*` counts every entry.
    pub fn fail(&self, entry: &str, nth: u64, code: u32) {
        // SAFETY: the text is NUL-terminated.
        let answer = unsafe { (self.functions.softgpu_fail)(c_text(entry).as_ptr(), nth, code) };
        assert_eq!(answer, 0, "call {nth} cannot fail with code {code}");
    }

    /// Forgets the failures asked for that have not happened.
    pub fn clear_failures(&self) {
        // SAFETY: no arguments.
        unsafe { (self.functions.softgpu_fail_clear)() }
    }

    /// How many failures asked for have not happened.
    pub fn failures_waiting(&self) -> u64 {
        // SAFETY: no arguments.
        unsafe { (self.functions.softgpu_fail_waiting)() }
    }

    /// How often this thread has called a driver entry; `*` counts every entry.
    pub fn calls(&self, entry: &str) -> u64 {
        // SAFETY: the text is NUL-terminated.
        unsafe { (self.functions.softgpu_calls)(c_text(entry).as_ptr()) }
    }

    /// Of the next launches only these CTAs run (linear index, x fastest); `None` runs all.
    pub fn only_ctas(&self, ctas: Option<&[u64]>) {
        let (first, count) = ctas.map_or((std::ptr::null(), 0), |ctas| (ctas.as_ptr(), ctas.len()));
        // SAFETY: null, or as many numbers as said.
        unsafe { (self.functions.softgpu_only_ctas)(first, count) }
    }

    /// In the next launches of a kernel one instruction does nothing, named by its place in [`Counters::lines`]: what notices
    /// that a barrier is missing? `None` ends that. A launch fails where the instruction is a branch or an exit.
    pub fn omit(&self, instruction: Option<(&str, u32)>) {
        let (name, pc) = instruction.map_or((None, 0), |(kernel, pc)| (Some(c_text(kernel)), pc));
        // SAFETY: null, or a NUL-terminated text.
        unsafe { (self.functions.softgpu_omit)(name.as_ref().map_or(std::ptr::null(), |name| name.as_ptr()), pc) }
    }

    /// Each of the next launches must write every byte of these outputs exactly once, and nothing else. An output is an
    /// address and a number of bytes; none ends the watch.
    pub fn watch(&self, outputs: &[(u64, u64)]) {
        let pairs: Vec<u64> = outputs.iter().flat_map(|&(address, bytes)| [address, bytes]).collect();
        // SAFETY: as many pairs as said.
        unsafe { (self.functions.softgpu_watch)(pairs.as_ptr(), outputs.len()) }
    }

    /// Marks a range of device memory as never written, so that [`Gpu::first_unwritten`] tells what was left out since.
    pub fn forget(&self, address: u64, bytes: u64) {
        // SAFETY: no host pointers.
        let code = unsafe { (self.functions.softgpu_forget)(address, bytes) };
        assert_eq!(code, 0, "{bytes} bytes at {address:#x} cannot be forgotten: {}", self.last_error());
    }

    /// The first address of a range that nobody wrote.
    pub fn first_unwritten(&self, address: u64, bytes: u64) -> Option<u64> {
        let mut first = 0;
        // SAFETY: a number may be written to `first`.
        let answer = unsafe { (self.functions.softgpu_first_unwritten)(address, bytes, &mut first) };
        assert!(answer < 2, "{bytes} bytes at {address:#x} are not live memory");
        (answer == 1).then_some(first)
    }

    /// Fills a range with hashed words; in a large allocation they take no memory.
    pub fn generate(&self, address: u64, bytes: u64, seed: u64) {
        // SAFETY: no host pointers.
        let code = unsafe { (self.functions.softgpu_generate)(address, bytes, seed) };
        assert_eq!(code, 0, "{bytes} bytes at {address:#x} cannot be filled: {}", self.last_error());
    }

    /// Bytes of device memory as they are now: nothing is waited for, and bytes that nobody wrote are poison.
    pub fn read(&self, address: u64, bytes: u64) -> Vec<u8> {
        let mut out = vec![0u8; bytes as usize];
        // SAFETY: as many bytes may be written as said.
        let code = unsafe { (self.functions.softgpu_read)(address, out.as_mut_ptr().cast(), out.len()) };
        assert_eq!(code, 0, "{bytes} bytes at {address:#x} cannot be read: {}", self.last_error());
        out
    }

    /// Replaces bytes of device memory, now.
    pub fn write(&self, address: u64, data: &[u8]) {
        // SAFETY: as many bytes are there as said.
        let code = unsafe { (self.functions.softgpu_write)(address, data.as_ptr().cast(), data.len()) };
        assert_eq!(code, 0, "{} bytes at {address:#x} cannot be written: {}", data.len(), self.last_error());
    }

    /// The counters of a kernel, summed over its launches on this thread; `None` if it was not launched.
    pub fn counters(&self, kernel: &str) -> Option<Counters> {
        let kernel = c_text(kernel);
        let mut numbers = vec![0; words::COUNT];
        // SAFETY: the text is NUL-terminated, and as many numbers may be written as said.
        let count = unsafe { (self.functions.softgpu_counters)(kernel.as_ptr(), numbers.as_mut_ptr(), numbers.len()) };
        if count == 0 {
            return None;
        }
        assert_eq!(count, words::COUNT, "the loaded softgpu counts other things than this crate");
        let lines = collect(line, |each, data| {
            // SAFETY: the text is NUL-terminated; the callback and its data belong together.
            unsafe { (self.functions.softgpu_counter_lines)(kernel.as_ptr(), each, data) }
        });
        Some(words::to_counters(&numbers, lines))
    }

    /// Forgets the counters of this thread.
    pub fn reset_counters(&self) {
        // SAFETY: no arguments.
        unsafe { (self.functions.softgpu_reset_counters)() }
    }

    /// What the checks found in this thread's work, which is then forgotten.
    pub fn take_findings(&self) -> Vec<Finding> {
        // SAFETY: the callback and its data belong together.
        collect(finding, |each, data| unsafe { (self.functions.softgpu_take_findings)(each, data) })
    }

    /// Everything that this thread has made and not given back.
    pub fn leaks(&self) -> Vec<Leak> {
        // SAFETY: the callback and its data belong together.
        collect(leak, |each, data| unsafe { (self.functions.softgpu_leaks)(0, each, data) })
    }

    /// Everything that any thread has made and not given back.
    pub fn leaks_of_all_threads(&self) -> Vec<Leak> {
        // SAFETY: the callback and its data belong together.
        collect(leak, |each, data| unsafe { (self.functions.softgpu_leaks)(1, each, data) })
    }

    /// What the contexts that this thread released had left, which is then forgotten.
    pub fn take_leaks_of_released_contexts(&self) -> Vec<Leak> {
        // SAFETY: the callback and its data belong together.
        collect(leak, |each, data| unsafe { (self.functions.softgpu_take_leaks)(each, data) })
    }

    /// The launches of this thread in order of execution, which are then forgotten.
    pub fn take_launches(&self) -> Vec<LaunchRecord> {
        // SAFETY: the callback and its data belong together.
        collect(launch, |each, data| unsafe { (self.functions.softgpu_take_launches)(each, data) })
    }

    /// What this thread's kernels printed, which is then forgotten. It is also shown on stdout, as a real driver shows it,
    /// unless [`Gpu::echo`] is off.
    pub fn take_printed(&self) -> String {
        // SAFETY: null asks for the length alone.
        let length = unsafe { (self.functions.softgpu_take_printed)(std::ptr::null_mut(), 0) };
        let mut buffer = vec![0u8; length];
        // SAFETY: as many bytes may be written as said.
        let length = unsafe { (self.functions.softgpu_take_printed)(buffer.as_mut_ptr().cast(), buffer.len()) };
        buffer.truncate(length);
        String::from_utf8_lossy(&buffer).into_owned()
    }

    /// Why this thread's last failing driver call failed.
    pub fn last_error(&self) -> String {
        let mut buffer = vec![0u8; 4096];
        // SAFETY: as many bytes may be written as said.
        let length = unsafe { (self.functions.softgpu_last_error)(buffer.as_mut_ptr().cast(), buffer.len()) };
        buffer.truncate(length.min(buffer.len() - 1));
        String::from_utf8_lossy(&buffer).into_owned()
    }
}

/// Devices that can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Profile {
    /// Like an A100.
    Sm80 = 80,
    /// Like an H200.
    Sm90 = 90,
}
