//! What an operation sees besides its warp: the launch, the CTA and where results of checks go.

use crate::check::{self, Detector, Finding};
use crate::count::Tally;
use crate::ir::Kernel;
use crate::launch::{Fault, Launch, Where, code};
use crate::mem::Shared;

use super::copies::Copies;
use super::hopper::Beside;
use super::hopper::cluster::Cluster;
use super::{LANES, Warp};

/// Calls that a report names: the innermost ones say what is going on.
const MOST_CALLERS: usize = 4;

/// Surroundings of the warps of one CTA.
pub struct Env<'l> {
    /// The launch: grid, block, parameters, memory, settings.
    pub launch: &'l Launch,
    /// Its kernel.
    pub kernel: &'l Kernel,
    /// Coordinates of the CTA.
    pub cta: [u32; 3],
    /// The CTA's number: x fastest.
    pub cta_index: u64,
    /// Index of the instruction being executed.
    pub pc: u32,
    /// The CTA's shared memory.
    pub shared: Shared,
    /// Asynchronous copies that the CTA's threads have not waited for.
    pub copies: Copies,
    /// What else works beside the threads.
    pub beside: Beside,
    /// The CTAs that run together with this one.
    pub cluster: Cluster,
    /// Order between the CTA's threads, for race detection.
    pub order: check::Order,
    /// Who touched device memory; while a CTA runs its order has it.
    pub(crate) global: check::Global,
    /// Counts by instruction.
    pub tally: Tally,
    /// Outputs that must be written exactly once.
    pub(crate) watch: Option<check::WriteOnce>,
    /// What the running load met that nobody wrote.
    pub(crate) undefined: Option<check::taint::Undefined>,
    /// Whether memory changes, and who waits for that.
    pub(crate) spins: check::poll::Spins,
    /// The running instruction waits for others of its warpgroup, and is to run again.
    pub(crate) again: bool,
    /// What ends the launch; the first one stays.
    pub fault: Option<Fault>,
    /// What the checks found so far.
    pub findings: Vec<Finding>,
    /// What `printf` printed.
    pub printed: Vec<u8>,
    /// Instructions issued by all warps so far: `%clock64`.
    pub clock: u64,
}

impl<'l> Env<'l> {
    /// Before the first instruction of a launch.
    pub fn new(launch: &'l Launch) -> Env<'l> {
        Env {
            launch,
            kernel: &launch.kernel,
            cta: [0; 3],
            cta_index: 0,
            pc: 0,
            shared: Shared::default(),
            copies: Copies::default(),
            beside: Beside::default(),
            cluster: Cluster::default(),
            order: check::Order::default(),
            global: check::Global::begin(),
            tally: Tally::new(launch.kernel.insts.len()),
            watch: check::WriteOnce::new(&launch.settings.watch),
            undefined: None,
            spins: Default::default(),
            again: false,
            fault: None,
            findings: Vec::new(),
            printed: Vec::new(),
            clock: 0,
        }
    }
}

impl Env<'_> {
    /// Describes the current instruction in `warp`, for lane `lane`, with the calls that led there.
    pub fn at(&self, warp: &Warp, lane: u32) -> Where {
        let mut at = self.kernel.describe(self.pc, self.cta, warp.index, lane);
        let calls = warp.frames.of(lane as usize % LANES);
        for call in calls.iter().rev().take(MOST_CALLERS) {
            at.place += ", called at ";
            at.place += &self.kernel.describe(call.from, self.cta, warp.index, lane).place;
        }
        if calls.len() > MOST_CALLERS {
            at.place += &format!(", inside of {} more calls", calls.len() - MOST_CALLERS);
        }
        at
    }

    /// Records what a check found. Execution goes on: one run then shows more than one mistake.
    #[cold]
    pub fn find(&mut self, mut finding: Finding) {
        finding.seed = self.launch.settings.seed;
        check::record(&mut self.findings, finding);
    }

    /// Whether this instruction's finding (with this second instruction) is recorded already; it is counted then.
    pub(crate) fn seen(&mut self, detector: Detector, other: Option<u32>) -> bool {
        self.seen_at(detector, self.pc, other)
    }

    /// The same for a finding about instruction `pc`.
    pub(crate) fn seen_at(&mut self, detector: Detector, pc: u32, other: Option<u32>) -> bool {
        let same = |old: &&mut Finding| {
            old.detector == detector && old.at.pc == pc && old.other.as_ref().map(|place| place.pc) == other
        };
        self.findings.iter_mut().find(same).map(|old| old.times += 1).is_some()
    }

    /// Ends the launch with a CUDA error code. The first fault stays.
    pub fn fault(&mut self, warp: &Warp, lane: u32, code: u32, text: String) {
        if self.fault.is_none() {
            self.fault = Some(Fault { code, text, at: Some(self.at(warp, lane)) });
        }
    }

    /// Notes a finding after which the kernel cannot go on, and ends the launch.
    pub fn stop(&mut self, detector: Detector, warp: &Warp, lane: u32, text: String) {
        self.find(Finding::new(detector, self.at(warp, lane), text.clone()));
        let code = if detector == Detector::Deadlock { code::TIMEOUT } else { code::LAUNCH_FAILED };
        self.fault(warp, lane, code, text);
    }
}
