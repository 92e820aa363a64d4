//! What the driver knows: devices with their primary contexts, and every object a program has made, by handle.
//!
//! One mutex guards it. It is never held while a kernel, a copy or a fill runs, so launches of different host threads
//! run beside each other.

use super::capture::Capture;
use super::code::Code;
use super::event::Event;
use super::function::{Function, LoadedModule};
use super::graph::{Exec, Graph};
use super::host::HostBlock;
use super::pool::Pool;
use super::profile::{self, Profile};
use super::queue::{Made, Stream, StreamId};
use crate::mem::Space;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};

/// The ordinal of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub u32);

/// Exclusive access to the state.
pub type Guard = MutexGuard<'static, State>;

/// The driver of this process.
struct Driver {
    space: Space,
    state: Mutex<State>,
    /// Signalled whenever an operation of some stream has finished.
    progress: Condvar,
}

/// Everything behind the handles.
pub struct State {
    /// Whether `cuInit` was called.
    pub initialised: bool,
    devices: Vec<Device>,
    /// Streams by identity, destroyed ones too as long as they have work.
    pub streams: BTreeMap<StreamId, Stream>,
    /// Events by handle.
    pub events: HashMap<u64, Event>,
    /// Modules by handle.
    pub modules: HashMap<u64, Arc<LoadedModule>>,
    /// Functions by handle; a handle lives as long as its module.
    pub functions: HashMap<u64, Function>,
    /// Captures that have not ended, by number.
    pub captures: BTreeMap<u64, Capture>,
    /// Graphs by handle, those that are being captured too.
    pub graphs: HashMap<u64, Graph>,
    /// Executable graphs by handle.
    pub execs: HashMap<u64, Exec>,
    /// Memory pools by handle.
    pub pools: HashMap<u64, Pool>,
    /// Pinned host memory by address, freed blocks too.
    pub host: BTreeMap<usize, HostBlock>,
    /// How each live allocation came to be, by address.
    pub allocations: BTreeMap<u64, Origin>,
    next_handle: u64,
    next_order: u64,
}

/// One device and its primary context, the only kind of context there is.
pub struct Device {
    /// What it is like, unless a thread has chosen otherwise.
    pub profile: &'static Profile,
    /// How often the primary context was retained; it exists while this is not zero.
    pub retained: u32,
    /// The flags of the primary context.
    pub flags: u32,
    /// An error after which every call on the context returns it again.
    pub sticky: Option<Code>,
    /// An error of an operation that leaves the context usable, not told yet.
    pub once: Option<Code>,
    /// The legacy default stream.
    pub legacy: StreamId,
    /// Per-thread default streams, by number of the host thread.
    pub per_thread: HashMap<u64, StreamId>,
    /// The pool that `cuMemAllocAsync` takes from.
    pub current_pool: u64,
    /// The pool that cannot be destroyed.
    pub default_pool: u64,
    /// Context limits by number, as set.
    pub limits: HashMap<u32, usize>,
    /// `CUfunc_cache` as set.
    pub cache_config: u32,
}

/// How an allocation came to be.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Its length.
    pub bytes: u64,
    /// The entry that made it.
    pub by: &'static str,
    /// The host thread that made it, in words.
    pub thread: String,
    /// The device it belongs to.
    pub device: DeviceId,
    /// For stream-ordered memory: the stream and position from which on it may be used, and its pool.
    pub ordered: Option<(StreamId, u64, u64)>,
    /// A submitted `cuMemFreeAsync` that has not run yet, in words.
    pub freeing: Option<String>,
    /// A variable of a module, which is not the program's to free.
    pub module: bool,
    /// Memory of a graph, which keeps its address from launch to launch.
    pub graph: bool,
}

/// What a handle names. The kind is part of the handle, so that a handle of another kind is never taken for this one.
#[derive(Clone, Copy, Debug)]
pub enum HandleKind {
    /// A context; the low bits are the device.
    Context = 1,
    /// A stream.
    Stream,
    /// An event.
    Event,
    /// A module.
    Module,
    /// A function of a module.
    Function,
    /// A memory pool.
    Pool,
    /// A graph.
    Graph,
    /// An executable graph.
    Exec,
    /// A node of a graph.
    Node,
}

/// Handles begin here: no canonical address of x86-64, so dereferencing one stops the program.
const HANDLE_BASE: u64 = 0x5D00_0000_0000_0000;

fn driver() -> &'static Driver {
    static DRIVER: OnceLock<Driver> = OnceLock::new();
    DRIVER.get_or_init(|| {
        let space = Space::new();
        let state = State::new(&space, &profile::devices_of_environment());
        Driver { space, state: Mutex::new(state), progress: Condvar::new() }
    })
}

/// The memory of all devices.
pub fn space() -> &'static Space {
    &driver().space
}

/// The allocation that begins at an address, in words.
pub fn describe(base: u64) -> String {
    space().owner(base).map_or_else(|| space().describe(base), |info| info.to_string())
}

/// Takes the state.
pub fn lock() -> Guard {
    // A panic while it was held is reported by the entry it happened in; the tables are still consistent enough to free.
    driver().state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Lets go of the state until some operation has finished.
pub fn wait_for_progress(state: Guard) -> Guard {
    driver().progress.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Wakes everybody who waits for progress.
pub fn announce_progress() {
    driver().progress.notify_all();
}

impl State {
    fn new(space: &Space, profiles: &[&'static Profile]) -> State {
        let mut state = State {
            initialised: false,
            devices: Vec::new(),
            streams: BTreeMap::new(),
            events: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            captures: BTreeMap::new(),
            graphs: HashMap::new(),
            execs: HashMap::new(),
            pools: HashMap::new(),
            host: BTreeMap::new(),
            allocations: BTreeMap::new(),
            next_handle: 1,
            next_order: 0,
        };
        for profile in profiles {
            state.add_device(space, profile);
        }
        state
    }

    fn add_device(&mut self, space: &Space, profile: &'static Profile) {
        let device = DeviceId(self.devices.len() as u32);
        space.set_limit(device.0, profile.memory_bytes);
        let legacy = self.new_stream(device, true, 0, Made::by_default("the legacy default stream".to_string()));
        let pool = self.new_handle(HandleKind::Pool);
        self.pools.insert(pool, Pool::new(device));
        self.devices.push(Device {
            profile,
            retained: 0,
            flags: 0,
            sticky: None,
            once: None,
            legacy,
            per_thread: HashMap::new(),
            current_pool: pool,
            default_pool: pool,
            limits: HashMap::new(),
            cache_config: 0,
        });
    }

    /// Makes there be `profiles.len()` devices, each as described. More may come, none may go.
    pub fn set_devices(&mut self, profiles: &[&'static Profile]) {
        for (index, profile) in profiles.iter().enumerate() {
            match self.devices.get_mut(index) {
                Some(device) => device.profile = profile,
                None => self.add_device(space(), profile),
            }
        }
    }

    /// How many devices there are.
    pub fn device_count(&self) -> usize {
        self.devices.len()
    }

    /// Whether there is a device of this ordinal.
    pub fn has_device(&self, device: DeviceId) -> bool {
        (device.0 as usize) < self.devices.len()
    }

    /// A device that is known to exist.
    pub fn device(&self, device: DeviceId) -> &Device {
        &self.devices[device.0 as usize]
    }

    /// A device that is known to exist.
    pub fn device_mut(&mut self, device: DeviceId) -> &mut Device {
        &mut self.devices[device.0 as usize]
    }

    /// How the work of a device that has run so far ended: its sticky error, else an error that is told once.
    pub fn verdict(&mut self, device: DeviceId) -> super::code::Result {
        let device = self.device_mut(device);
        device.sticky.or_else(|| device.once.take()).map_or(Ok(()), Err)
    }

    /// Notes how an operation of a device failed.
    pub fn note_failure(&mut self, device: DeviceId, code: Code) {
        let device = self.device_mut(device);
        if code.is_sticky() { &mut device.sticky } else { &mut device.once }.get_or_insert(code);
    }

    /// A handle nobody has had before.
    pub fn new_handle(&mut self, kind: HandleKind) -> u64 {
        self.next_handle += 1;
        HANDLE_BASE | (kind as u64) << 48 | self.next_handle << 4
    }

    /// The number of the next submission, for reports.
    pub fn new_order(&mut self) -> u64 {
        self.next_order += 1;
        self.next_order
    }

    /// The allocation that holds an address, if it is live.
    pub fn origin(&self, address: u64) -> Option<(u64, &Origin)> {
        let (&base, origin) = self.allocations.range(..=address).next_back()?;
        (address - base < origin.bytes.max(1)).then_some((base, origin))
    }
}

/// The handle of a device's primary context.
pub fn context_handle(device: DeviceId) -> u64 {
    HANDLE_BASE | (HandleKind::Context as u64) << 48 | u64::from(device.0) << 4
}

/// The device of a context handle.
pub fn context_of_handle(handle: u64) -> Option<DeviceId> {
    let device = DeviceId(((handle & 0xFFFF_FFFF) >> 4) as u32);
    (context_handle(device) == handle).then_some(device)
}
