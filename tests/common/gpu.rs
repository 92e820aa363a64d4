//! Which GPU the tests use: the software GPU, or a real one with `SUMEXP_TEST_DEVICE=cuda`.

use softgpu::ctl::Profile;
use softgpu::ctl::types::{LeakKind, Streams};
use softgpu::module::image::{Capability, choose};
use std::sync::{OnceLock, PoisonError, RwLock};
use sumexp::{Device, Error};

/// Where kernels run in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// The software GPU, with every check on.
    Soft,
    /// GPU 0 of the machine.
    Cuda,
}

/// The choice, made once per process and before the first driver call.
pub fn chosen() -> Chosen {
    static CHOSEN: OnceLock<Chosen> = OnceLock::new();
    *CHOSEN.get_or_init(|| match std::env::var("SUMEXP_TEST_DEVICE").as_deref() {
        Err(_) | Ok("soft") => {
            softgpu::install().expect("no driver may be loaded before the software GPU is installed");
            Chosen::Soft
        }
        Ok("cuda") => Chosen::Cuda,
        Ok(other) => panic!("SUMEXP_TEST_DEVICE is `soft` or `cuda`, not `{other}`"),
    })
}

/// The PTX of an image, of the newest architecture that it was compiled for.
pub fn ptx(image: &[u8]) -> String {
    let hopper = Capability { major: 9, minor: 0 };
    choose(image, hopper).expect("an image of this crate").ptx.into_owned()
}

/// A stream of its own on the chosen GPU: tests run side by side and must not see each other's records.
pub fn device() -> Device {
    static FIRST: OnceLock<Device> = OnceLock::new();
    chosen();
    // Kept for the whole process, and made on a thread that no test looks at.
    let first = FIRST.get_or_init(|| std::thread::spawn(|| Device::cuda(0).unwrap()).join().unwrap());
    first.with_new_stream().unwrap()
}

/// The software GPUs once a test asked for more than the first: two of compute capability 9.0, which the first is as well, and one of 8.0.
const GPUS: [Profile; 3] = [Profile::Sm90, Profile::Sm90, Profile::Sm80];

/// A stream of its own on a GPU that has only the kernels that every GPU has. A real GPU is what it is.
pub fn portable_device() -> Device {
    static PORTABLE: OnceLock<Device> = OnceLock::new();
    if chosen() == Chosen::Cuda {
        return device();
    }
    let portable = PORTABLE.get_or_init(|| {
        softgpu::ctl::connect().expect("chosen").devices(&GPUS);
        std::thread::spawn(|| Device::cuda(2).unwrap()).join().unwrap()
    });
    portable.with_new_stream().unwrap()
}

/// Held for writing by those who wait for a whole GPU, which the driver refuses while any thread captures a graph on it.
static SETTLING: RwLock<()> = RwLock::new(());

/// Runs something that captures a graph while other tests of the process run.
pub fn undisturbed<R>(capture: impl FnOnce() -> R) -> R {
    let _turn = SETTLING.read().unwrap_or_else(PoisonError::into_inner);
    capture()
}

/// GPU 1, once a test asked for it.
static SECOND: OnceLock<Option<Device>> = OnceLock::new();

/// The chosen GPU for a test that checks what it leaves behind: on the software GPU, with its reports.
pub struct World {
    gpu: Option<softgpu::ctl::Gpu>,
    streams: Streams,
}

impl World {
    /// Queued work runs as late as the rules of streams allow. (A real GPU runs it when it likes.)
    pub fn late() -> Self {
        Self::with(Streams::Late)
    }

    /// As asked.
    pub fn with(streams: Streams) -> Self {
        let gpu = match chosen() {
            Chosen::Cuda => None,
            Chosen::Soft => {
                // Also makes what is kept for the whole process.
                drop(device());
                let gpu = softgpu::ctl::connect().unwrap();
                gpu.streams(streams);
                gpu.echo(false);
                Some(gpu)
            }
        };
        Self { gpu, streams }
    }

    /// See [`device`].
    pub fn device(&self) -> Device {
        device()
    }

    /// A stream of its own on the second GPU, which the software GPU always has; `None` where there is one GPU only.
    pub fn second_device(&self) -> Option<Device> {
        let second = SECOND.get_or_init(|| {
            if let Some(gpu) = self.gpu() {
                gpu.devices(&GPUS);
            }
            // As in `device`: not a leak of the test that happens to ask first.
            match std::thread::spawn(|| Device::cuda(1)).join().unwrap() {
                Err(Error::NoSuchDevice { ordinal: 1, count: 1 }) => None,
                second => Some(second.unwrap()),
            }
        });
        second.as_ref().map(|second| second.with_new_stream().unwrap())
    }

    /// The switches of the software GPU; `None` on a real one.
    pub fn gpu(&self) -> Option<&softgpu::ctl::Gpu> {
        self.gpu.as_ref()
    }

    /// How often this thread called a driver function, or any with `*`. Always 0 on a real GPU.
    pub fn calls(&self, entry: &str) -> u64 {
        self.gpu().map_or(0, |gpu| gpu.calls(entry))
    }

    /// Runs `work` on the calling thread in this world, and checks what it did there.
    pub fn on_thread<R>(&self, work: impl FnOnce() -> R) -> R {
        match self.gpu {
            None => work(),
            Some(_) => {
                let here = Self::with(self.streams);
                let result = work();
                here.assert_no_findings();
                result
            }
        }
    }

    /// No work of this thread touched memory it must not touch.
    #[track_caller]
    pub fn assert_no_findings(&self) {
        if let Some(gpu) = self.gpu() {
            let findings: Vec<String> = gpu.take_findings().iter().map(ToString::to_string).collect();
            assert!(findings.is_empty(), "{}", findings.join("\n"));
        }
    }

    /// What this thread made and did not give back, in words.
    pub fn leaks(&self) -> Vec<String> {
        // Modules are loaded once per process and kept.
        let leaks = self.gpu().map(|gpu| gpu.leaks()).unwrap_or_default();
        leaks.iter().filter(|leak| leak.kind != LeakKind::Module).map(ToString::to_string).collect()
    }

    /// Waits for everything that is queued, on streams that were dropped too.
    pub fn settle(&self) {
        use cudarc::driver::result::{ctx, device, init, primary_ctx};
        init().unwrap();
        let _alone = SETTLING.write().unwrap_or_else(PoisonError::into_inner);
        let gpus = 1 + i32::from(SECOND.get().is_some_and(Option::is_some));
        for gpu in 0..gpus {
            let gpu = device::get(gpu).unwrap();
            // SAFETY: the handles are the driver's own, the library keeps the primary context alive, and it is retained
            // and released in pairs here.
            unsafe {
                let context = primary_ctx::retain(gpu).unwrap();
                ctx::set_current(context).unwrap();
                ctx::synchronize().unwrap();
                primary_ctx::release(gpu).unwrap();
            }
        }
    }

    /// No findings, and nothing left behind. The work that is still queued is waited for first.
    #[track_caller]
    pub fn assert_clean(&self) {
        self.settle();
        self.assert_no_findings();
        let leaks = self.leaks();
        assert!(leaks.is_empty(), "{}", leaks.join("\n"));
    }
}
