//! What belongs to a host thread: its settings, its findings and counters, and its current context.
//!
//! Tests run as threads of one process, so whatever a test sets or learns must not reach its neighbours. An operation
//! keeps the thread that submitted it, and reports to it wherever it runs.

use super::capture::Mode;
use super::code::{Code, Result};
use super::inject::Plan;
use super::profile::Profile;
use super::state::DeviceId;
use crate::count::Counters;
use crate::ctl::env;
use crate::ctl::types::{Finding, LaunchRecord, Leak, Streams};
use crate::launch::Settings;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Findings and launches that one thread remembers; older ones are dropped, and counted.
const REMEMBERED: usize = 4096;
/// Bytes of output of kernels that a thread keeps: the size of the buffer in which a real driver collects them.
const PRINTED: usize = 1 << 20;

/// One host thread.
pub struct HostThread {
    /// Its number, in order of first use.
    pub number: u64,
    name: String,
    inner: Mutex<Inner>,
}

/// What changes.
pub struct Inner {
    /// How launches run.
    pub settings: Settings,
    /// When queued work runs.
    pub streams: Streams,
    /// A kernel's symbol and the instruction that its launches leave out.
    pub omitted: Option<(String, u32)>,
    /// The device this thread pretends to have, if it has chosen.
    pub profile: Option<&'static Profile>,
    /// How calls that no capture sees are taken.
    pub capture_mode: Mode,
    /// Driver calls that are to fail.
    pub plan: Plan,
    /// What the checks found.
    pub findings: Vec<Finding>,
    /// What kernels printed, as much of its end as is kept.
    pub printed: VecDeque<u8>,
    /// Counters by kernel, summed over launches.
    pub counters: BTreeMap<String, Counters>,
    /// The launches, in order of execution.
    pub launches: VecDeque<LaunchRecord>,
    /// What was left behind in contexts that were released.
    pub leaks: Vec<Leak>,
    /// Whether reports are printed as they are made.
    pub echo: bool,
    random: u64,
    last_error: String,
}

thread_local! {
    static CURRENT: Arc<HostThread> = HostThread::new();
    // Without a destructor, so that a thread whose locals are being destroyed can still make a context current.
    static CONTEXTS: RefCell<ManuallyDrop<Vec<Option<DeviceId>>>> = const { RefCell::new(ManuallyDrop::new(Vec::new())) };
    static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
}

/// The calling thread.
pub fn current() -> Arc<HostThread> {
    // While the thread's locals are being destroyed its drops may still call the driver: they get a fresh record.
    CURRENT.try_with(Arc::clone).unwrap_or_else(|_| HostThread::new())
}

impl HostThread {
    fn new() -> Arc<HostThread> {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let thread = std::thread::current();
        let name = match thread.name() {
            Some(name) => format!("host thread {number} ({name})"),
            None => format!("host thread {number}"),
        };
        let defaults = env::defaults();
        let inner = Inner {
            settings: defaults.settings.clone(),
            streams: defaults.streams,
            omitted: None,
            profile: None,
            capture_mode: Mode::default(),
            plan: defaults.plan.clone(),
            findings: Vec::new(),
            printed: VecDeque::new(),
            counters: BTreeMap::new(),
            launches: VecDeque::new(),
            leaks: Vec::new(),
            echo: true,
            random: defaults.settings.seed ^ number,
            last_error: String::new(),
        };
        Arc::new(HostThread { number, name, inner: Mutex::new(inner) })
    }

    /// The thread in words.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Exclusive access to what changes. Never held while another lock is taken.
    pub fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Counts a driver call, and answers whether it is one that shall fail.
    pub fn enter_call(&self, name: &'static str) -> Option<Code> {
        let injected = self.inner().plan.next(name);
        if let Some(code) = injected {
            self.set_last_error(format!("{name}: failed on request ({code})"));
        }
        injected
    }

    /// Prints a call when `SOFTGPU_TRACE=api` asks for it.
    pub fn trace(&self, name: &str, result: Result) {
        if env::defaults().trace_calls {
            match result {
                Ok(()) => eprintln!("softgpu: {}: {name}", self.name),
                Err(code) => eprintln!("softgpu: {}: {name} -> {code}: {}", self.name, self.last_error()),
            }
        }
    }

    /// Why the last call failed.
    pub fn last_error(&self) -> String {
        self.inner().last_error.clone()
    }

    /// Notes why a call fails.
    pub fn set_last_error(&self, text: String) {
        self.inner().last_error = text;
    }

    /// Records a finding, and answers whether it fails the operation.
    pub fn report(&self, finding: Finding) -> bool {
        let mut inner = self.inner();
        let (echo, fails) = (inner.echo, inner.settings.findings_fail);
        if echo {
            eprintln!("softgpu: {finding}");
        }
        if inner.findings.len() < REMEMBERED {
            inner.findings.push(finding);
        }
        fails
    }

    /// Reports something that was left behind when its context was released.
    pub fn report_leak(&self, leak: &Leak) {
        let mut inner = self.inner();
        if inner.echo {
            eprintln!("softgpu: leak: {leak}");
        }
        if inner.leaks.len() < REMEMBERED {
            inner.leaks.push(leak.clone());
        }
    }

    /// Shows what a kernel printed, as a driver does, and keeps it.
    pub fn print(&self, text: &[u8]) {
        let mut inner = self.inner();
        if inner.echo {
            use std::io::Write;
            let mut out = std::io::stdout().lock();
            // A program that has closed its output has no use for more of it.
            let _ = out.write_all(text).and_then(|()| out.flush());
        }
        inner.printed.extend(text);
        let excess = inner.printed.len().saturating_sub(PRINTED);
        inner.printed.drain(..excess);
    }

    /// Records a launch that was executed.
    pub fn record_launch(&self, record: LaunchRecord, counters: Counters) {
        let mut inner = self.inner();
        *inner.counters.entry(record.kernel.clone()).or_default() += &counters;
        if inner.launches.len() == REMEMBERED {
            inner.launches.pop_front();
        }
        inner.launches.push_back(record);
    }

    /// A random number below `bound`, from the thread's seed.
    pub fn random(&self, bound: u64) -> u64 {
        let mut inner = self.inner();
        // SplitMix64: one addition and a finaliser, no state to keep beside the counter.
        inner.random = inner.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = inner.random;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ z >> 31) % bound
    }

    /// Starts the thread's random numbers anew; a seed gives the same choices in every thread.
    pub fn reseed(&self, seed: u64) {
        self.inner().random = seed;
    }

    /// The device whose context is current on the calling thread.
    pub fn current_context(&self) -> Option<DeviceId> {
        CONTEXTS.with_borrow(|stack| stack.last().copied().flatten())
    }

    /// Replaces the top of the calling thread's context stack.
    pub fn set_context(&self, device: Option<DeviceId>) {
        CONTEXTS.with_borrow_mut(|stack| {
            stack.pop();
            stack.push(device);
        });
    }

    /// Pushes a context on the calling thread's stack.
    pub fn push_context(&self, device: DeviceId) {
        CONTEXTS.with_borrow_mut(|stack| stack.push(Some(device)));
    }

    /// Takes the top of the calling thread's context stack.
    pub fn pop_context(&self) -> Option<DeviceId> {
        CONTEXTS.with_borrow_mut(|stack| {
            let top = stack.pop().flatten();
            if stack.is_empty() {
                // The one moment at which the memory of most threads can be given back.
                **stack = Vec::new();
            }
            top
        })
    }

    /// Whether the calling thread runs a function enqueued with `cuLaunchHostFunc`.
    pub fn is_in_host_function(&self) -> bool {
        IN_HOST_FUNCTION.get()
    }
}

/// Runs a function that a program enqueued; calls of the driver from within it are refused.
pub fn in_host_function(run: impl FnOnce()) {
    IN_HOST_FUNCTION.set(true);
    run();
    IN_HOST_FUNCTION.set(false);
}
