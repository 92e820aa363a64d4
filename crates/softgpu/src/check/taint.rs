//! Undefined values: followed from the load that read bytes nobody wrote to the place where they matter.
//!
//! Compilers copy padding, load more than they use and compute with registers that a later select throws away. So
//! reading undefined bytes is no mistake yet: it taints the lanes of the register, taint travels with the value, and a
//! report is made when it decides an address, a branch, a guard or a barrier, or is stored to device memory. In
//! shared and local memory it makes bytes undefined again.

use super::{Detector, Finding, lanes};
use crate::exec::access::{self, lanes_of};
use crate::exec::pred::flag;
use crate::exec::{Env, LANES, Warp};
use crate::ir::{Inst, Kernel, Kind, Place, Rule};
use crate::mem::windows::Window;

/// Where an undefined value comes from.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    pc: u32,
    cta: [u32; 3],
    warp: u32,
    /// The lanes that read undefined bytes.
    lanes: u32,
    /// What was read; `None` for a register that nobody wrote.
    read: Option<Read>,
}

/// An undefined register that a call keeps.
pub(crate) struct Kept {
    place: Place,
    bytes: Bytes,
    origin: Origin,
}

/// Undefined bytes that a load met.
#[derive(Clone, Copy)]
pub(crate) struct Read {
    pub(crate) window: Window,
    /// The first byte that nobody wrote.
    pub(crate) address: u64,
    /// Bytes of the access.
    pub(crate) bytes: usize,
}

/// What a load brought that nobody wrote; the scheduler hands it on to the registers.
#[derive(Clone, Copy)]
pub(crate) struct Undefined {
    origin: Origin,
    bytes: AccessBytes,
}

/// Bytes of a register that are undefined, bit 0 the lowest, for each lane.
type Bytes = [u8; LANES];
/// The same for the up to 32 bytes of an access.
pub(crate) type AccessBytes = [u32; LANES];

/// All bytes of a register, in the lanes `mask`.
fn whole(mask: u32) -> Bytes {
    std::array::from_fn(|lane| if mask >> lane & 1 != 0 { 0xFF } else { 0 })
}

/// The lanes in which some byte is undefined.
fn lanes_in(bytes: &AccessBytes) -> u32 {
    (0..LANES).filter(|lane| bytes[*lane] != 0).fold(0, |all, lane| all | 1 << lane)
}

/// The undefined values of one warp. While there are none it takes no memory and no time.
#[derive(Default)]
pub struct Taint {
    /// How many places are tainted.
    count: usize,
    /// Lanes, by slot; predicates follow behind the slots, then the carry.
    lanes: Vec<u32>,
    bytes: Vec<Bytes>,
    from: Vec<Option<Origin>>,
    slots: usize,
}

impl Taint {
    /// Whether anything is tainted.
    #[inline(always)]
    pub fn any(&self) -> bool {
        self.count != 0
    }

    /// A new CTA: registers that some path reads before it writes them are undefined.
    pub(crate) fn restart(&mut self, kernel: &Kernel, lanes: u32) {
        if self.any() {
            self.lanes.fill(0);
            self.count = 0;
        }
        let origin = Origin { pc: 0, cta: [0; 3], warp: 0, lanes, read: None };
        for place in &kernel.undefined {
            self.put(kernel, *place, u32::MAX, &whole(lanes), &origin);
        }
    }

    /// A call: the lanes of `mask` enter a function that may read these registers before it writes them.
    pub(crate) fn enter(&mut self, kernel: &Kernel, places: impl Iterator<Item = Place>, mask: u32) {
        let origin = Origin { pc: 0, cta: [0; 3], warp: 0, lanes: mask, read: None };
        for place in places {
            self.put(kernel, place, mask, &whole(mask), &origin);
        }
    }

    /// What the registers among `places` hold that is undefined; `back` restores it.
    pub(crate) fn keep(&self, places: impl Iterator<Item = Place>) -> Vec<Kept> {
        if !self.any() {
            return Vec::new();
        }
        let kept = |place| Some(Kept { place, bytes: self.bytes(place), origin: *self.origin(place)? });
        places.filter(|place| self.of(*place) != 0).filter_map(kept).collect()
    }

    /// The lane's registers among `places` hold what they held when `kept` was made.
    pub(crate) fn back(&mut self, kernel: &Kernel, places: impl Iterator<Item = Place>, kept: &[Kept], lane: usize) {
        if !self.any() && kept.is_empty() {
            return;
        }
        places.for_each(|place| self.clear(kernel, place, 1 << lane));
        for Kept { place, bytes, origin } in kept {
            self.put(kernel, *place, 1 << lane, bytes, origin);
        }
    }

    fn index(&self, place: Place) -> usize {
        match place {
            Place::Slot(slot) => usize::from(slot),
            Place::Pred(pred) => self.slots + usize::from(pred),
            Place::Carry => self.lanes.len().saturating_sub(1),
        }
    }

    /// The lanes of a register that hold undefined values.
    pub(crate) fn of(&self, place: Place) -> u32 {
        if !self.any() {
            return 0;
        }
        self.lanes.get(self.index(place)).copied().unwrap_or(0)
    }

    fn origin(&self, place: Place) -> Option<&Origin> {
        self.from.get(self.index(place))?.as_ref()
    }

    /// The bytes of a register that are undefined.
    pub(crate) fn bytes(&self, place: Place) -> Bytes {
        match self.any() {
            true => self.bytes.get(self.index(place)).copied().unwrap_or([0; LANES]),
            false => [0; LANES],
        }
    }

    /// In the lanes `mask` these bytes are undefined from now on, and no others.
    fn put(&mut self, kernel: &Kernel, place: Place, mask: u32, bytes: &Bytes, origin: &Origin) {
        let tainted = lanes_of(mask).filter(|lane| bytes[*lane] != 0).fold(0, |all, lane| all | 1 << lane);
        if self.lanes.is_empty() {
            if tainted == 0 {
                return;
            }
            self.slots = kernel.slots;
            self.lanes = vec![0; kernel.slots + kernel.preds + 1];
            self.bytes = vec![[0; LANES]; self.lanes.len()];
            self.from = vec![None; self.lanes.len()];
        }
        let at = self.index(place);
        let (old, new) = (self.lanes[at], self.lanes[at] & !mask | tainted);
        self.lanes[at] = new;
        self.count = self.count + usize::from(new != 0) - usize::from(old != 0);
        lanes_of(mask).for_each(|lane| self.bytes[at][lane] = bytes[lane]);
        if tainted != 0 {
            self.from[at] = Some(*origin);
        }
    }

    fn clear(&mut self, kernel: &Kernel, place: Place, mask: u32) {
        if self.any() {
            let nowhere = Origin { pc: 0, cta: [0; 3], warp: 0, lanes: 0, read: None };
            self.put(kernel, place, mask, &[0; LANES], &nowhere);
        }
    }

    /// Lanes have exited: what they held no longer matters.
    pub(crate) fn exit(&mut self, mask: u32) {
        if self.any() {
            for (lanes, bytes) in self.lanes.iter_mut().zip(&mut self.bytes) {
                *lanes &= !mask;
                lanes_of(mask).for_each(|lane| bytes[lane] = 0);
            }
            self.count = self.lanes.iter().filter(|lanes| **lanes != 0).count();
        }
    }

    /// The lanes for which any of `places` is undefined, and where the first of those comes from.
    fn union(&self, places: &[Place], mask: u32) -> (u32, Option<Origin>) {
        let mut all = (0, None);
        for place in places {
            let lanes = self.of(*place) & mask;
            if lanes != 0 {
                all = (all.0 | lanes, all.1.or(self.origin(*place).copied()));
            }
        }
        all
    }
}

/// The bytes of a store's values that are undefined.
pub(crate) fn stored(warp: &Warp, kernel: &Kernel, inst: &Inst) -> AccessBytes {
    let mut all = [0; LANES];
    let (count, size) = (access::count(inst), access::element(inst));
    for k in 0..count {
        let bytes = warp.taint.bytes(Place::Slot(access::slot(kernel, inst, inst.b, k)));
        for (all, bytes) in all.iter_mut().zip(bytes) {
            *all |= (u32::from(bytes) & ((1 << size) - 1)) << (k * size);
        }
    }
    all
}

/// A load of bytes nobody wrote: which bytes of the access of each lane, and the first of the first lane.
pub(crate) fn met(warp: &Warp, env: &mut Env<'_>, bytes: AccessBytes, read: Read) {
    let lanes = lanes_in(&bytes);
    let origin = Origin { pc: env.pc, cta: env.cta, warp: warp.index, lanes, read: Some(read) };
    if env.launch.settings.strict_init {
        if !env.seen(Detector::Uninitialised, None) {
            let text = describe(env, &origin);
            let at = env.at(warp, lanes.trailing_zeros());
            let finding = Finding::new(Detector::Uninitialised, at, text);
            env.find(Finding { address: Some(read.address), ..finding });
        }
        return;
    }
    match &mut env.undefined {
        // A generic load that reads several windows.
        Some(undefined) => undefined.bytes.iter_mut().zip(bytes).for_each(|(all, bytes)| *all |= bytes),
        None => env.undefined = Some(Undefined { origin, bytes }),
    }
}

/// Taints the results of the instruction that has just run for the lanes `mask` and met undefined bytes.
#[cold]
#[inline(never)]
pub(crate) fn arrive(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) {
    let Some(Undefined { origin, bytes }) = env.undefined.take() else { return };
    let kernel = env.kernel;
    let rule = kernel.flows.rule(env.pc);
    if rule == Rule::Load {
        let (count, size) = (access::count(inst), access::element(inst));
        let extended = inst.c & access::flags::SIGNED != 0;
        for k in 0..count {
            let place = Place::Slot(access::slot(kernel, inst, inst.d, k));
            let element = |lane: usize| match (bytes[lane] >> (k * size)) & ((1 << size) - 1) {
                0 => 0,
                _ if extended => 0xFF,
                bytes => bytes as u8,
            };
            warp.taint.put(kernel, place, lanes_in(&bytes), &std::array::from_fn(element), &origin);
        }
        return;
    }
    let lanes =
        if matches!(rule, Rule::Together | Rule::Rows | Rule::Product) { mask } else { lanes_in(&bytes) & mask };
    for place in kernel.flows.results(env.pc) {
        warp.taint.put(kernel, *place, lanes, &whole(lanes), &origin);
    }
}

/// Before an instruction runs for the lanes `mask`, in a warp that holds undefined values: looks at its guard for the
/// lanes `all`, at its addresses and decisions, and carries taint from its sources to its results.
#[cold]
#[inline(never)]
pub(crate) fn step(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, all: u32, mask: u32) {
    let (kernel, pc) = (env.kernel, env.pc);
    decides(warp, env, &[Place::Pred(inst.guard)], all, "decides whether an instruction runs");
    if mask == 0 {
        return;
    }
    let flows = &kernel.flows;
    let rule = flows.rule(pc);
    let givers = if rule == Rule::Rows { u32::MAX >> (LANES - 8 * access::count(inst)) } else { u32::MAX };
    decides(warp, env, flows.addresses(pc), mask & givers, "becomes an address");
    if inst.kind == Kind::Sync {
        decides(warp, env, &[Place::Slot(inst.m)], mask, "becomes a member mask");
    }
    if rule == Rule::Decide {
        decides(warp, env, flows.values(pc), mask, "decides a branch or a barrier");
    }
    let (lanes, origin) = match rule {
        // What these bring is looked at when they have run.
        Rule::Load | Rule::Store | Rule::Atomic | Rule::Rows | Rule::Decide => (0, None),
        Rule::Product => {
            let values = flows.values(pc);
            let adds = if inst.c != 0 { !warp.p(inst.d) } else { warp.p(inst.d) } & mask != 0;
            let count = if adds { values.len() } else { values.len() - flows.results(pc).len() };
            warp.taint.union(&values[..count], mask)
        }
        _ => warp.taint.union(flows.values(pc), mask),
    };
    let Some(origin) = origin else {
        for place in flows.results(pc) {
            warp.taint.clear(kernel, *place, mask);
        }
        return;
    };
    let bytes = match rule {
        Rule::Copy { bytes } => return copy(warp, env, usize::from(bytes), mask, &origin),
        Rule::Together | Rule::Product => whole(mask),
        Rule::Select => {
            let (a, b) = (warp.taint.bytes(Place::Slot(inst.a)), warp.taint.bytes(Place::Slot(inst.b)));
            let (open, chosen) = (warp.taint.of(Place::Pred(inst.c)), warp.p(inst.c) ^ inst.x);
            let pick = |lane: usize| if chosen >> lane & 1 != 0 { a[lane] } else { b[lane] };
            std::array::from_fn(|lane| if open >> lane & 1 != 0 { 0xFF } else { pick(lane) })
        }
        Rule::Logic { and } => {
            let invert = |bit: u32| if inst.x & bit != 0 { u32::MAX } else { 0 };
            let side = |pred, bit| (warp.taint.of(Place::Pred(pred)), warp.p(pred) ^ invert(bit));
            whole(logic(and, side(inst.a, 1), side(inst.b, 2)))
        }
        Rule::Compare => {
            let (third, value) = (warp.taint.of(Place::Pred(inst.c)), warp.p(inst.c));
            let value = if inst.y & flag::NOT_C != 0 { !value } else { value };
            let (sources, _) = warp.taint.union(&[Place::Slot(inst.a), Place::Slot(inst.b)], mask);
            // Whether the comparison itself settles the result is not known before it runs.
            whole(match inst.y & (flag::OR | flag::XOR) {
                0 => third | (sources & value),
                flag::OR => third | (sources & !value),
                _ => third | sources,
            })
        }
        Rule::Shuffle => shuffled(warp, env, inst, mask),
        _ => whole(lanes),
    };
    for place in flows.results(pc) {
        warp.taint.put(kernel, *place, mask, &bytes, &origin);
    }
}

/// `mov`, of a whole register or between one and its parts.
fn copy(warp: &mut Warp, env: &Env<'_>, bytes: usize, mask: u32, origin: &Origin) {
    let (values, results) = (env.kernel.flows.values(env.pc), env.kernel.flows.results(env.pc));
    if values.len() > 1 && results.len() > 1 || bytes > 8 {
        return;
    }
    let (from, to) = (bytes / values.len().max(1), bytes / results.len().max(1));
    let mut all = [0u32; LANES];
    for (k, place) in values.iter().enumerate() {
        for (all, part) in all.iter_mut().zip(warp.taint.bytes(*place)) {
            *all |= (u32::from(part) & ((1 << from) - 1)) << (k * from);
        }
    }
    for (k, place) in results.iter().enumerate() {
        let part: Bytes = std::array::from_fn(|lane| (all[lane] >> (k * to) & ((1 << to) - 1)) as u8);
        warp.taint.put(env.kernel, *place, mask, &part, origin);
    }
}

/// The undefined lanes of a logical operation of two predicates, each undefined in some lanes.
fn logic(and: bool, (a, a_value): (u32, u32), (b, b_value): (u32, u32)) -> u32 {
    // A defined operand settles the result where it is false (and) or true (or).
    let open = |value: u32| if and { value } else { !value };
    (a & b) | (a & !b & open(b_value)) | (b & !a & open(a_value))
}

/// The undefined bytes that a shuffle brings to each lane: the same shuffle of the taint itself, in the two slots that
/// take results nobody wants.
fn shuffled(warp: &mut Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) -> Bytes {
    let own = [inst.b, inst.c].iter().fold(0, |all, slot| all | warp.taint.of(Place::Slot(*slot)));
    let bytes = warp.taint.bytes(Place::Slot(inst.a));
    let (from, to) = (1, 0);
    *warp.r32_mut(from) = bytes.map(u32::from);
    // Lanes that are not there are reported when the shuffle itself runs.
    let findings = std::mem::take(&mut env.findings);
    let sunk = u32::from(crate::ir::decode::SINK_PRED);
    let shadow = Inst { a: from, d: to, x: sunk, ..*inst };
    // SAFETY: `run` was chosen by `Op::pick`, which gives the wide build only to processors that have its features.
    unsafe { (inst.run)(warp, env, &shadow, mask) };
    env.findings = findings;
    let moved = warp.r32(to);
    std::array::from_fn(|lane| match own >> lane & 1 {
        0 => u8::try_from(moved[lane]).unwrap_or(0),
        _ => 0xFF,
    })
}

/// Reports undefined values of `places` among the lanes `mask`, which then count as defined: one mistake, one report.
fn decides(warp: &mut Warp, env: &mut Env<'_>, places: &[Place], mask: u32, what: &str) {
    for place in places {
        let bad = warp.taint.of(*place) & mask;
        if bad == 0 {
            continue;
        }
        if let Some(origin) = warp.taint.origin(*place).copied() {
            report(warp, env, &origin, bad, what);
        }
        warp.taint.clear(env.kernel, *place, bad);
    }
}

/// The lanes in which an atomic operation leaves an undefined value: its operands are, or what it changes.
pub(crate) fn updated(warp: &Warp, env: &Env<'_>, inst: &Inst, replaces: bool) -> u32 {
    let operands = warp.taint.of(Place::Slot(inst.b)) | warp.taint.of(Place::Slot(inst.m));
    match &env.undefined {
        Some(undefined) if !replaces => operands | lanes_in(&undefined.bytes),
        _ => operands,
    }
}

/// Reports undefined values that a store or an atomic operation of the lanes `mask` puts into device memory.
pub(crate) fn published(warp: &Warp, env: &mut Env<'_>, mask: u32) {
    let (bad, origin) = warp.taint.union(env.kernel.flows.values(env.pc), mask);
    if let Some(origin) = origin {
        report(warp, env, &origin, bad, "is stored to device memory");
    } else if let Some(Undefined { origin, .. }) = env.undefined.take() {
        report(warp, env, &origin, origin.lanes, "is updated in device memory");
    }
}

/// An undefined value matters in the lanes `bad` of the instruction that is about to run.
fn report(warp: &Warp, env: &mut Env<'_>, origin: &Origin, bad: u32, what: &str) {
    let use_at = env.at(warp, bad.trailing_zeros() % LANES as u32);
    let (at, other) = match origin.read {
        Some(_) => {
            let at = env.kernel.describe(origin.pc, origin.cta, origin.warp, origin.lanes.trailing_zeros());
            (at, Some(use_at))
        }
        None => (use_at, None),
    };
    let text = format!("{}, and {what} in {}", describe(env, origin), lanes(bad));
    let address = origin.read.map(|read| read.address);
    env.find(Finding { address, other, ..Finding::new(Detector::Uninitialised, at, text) });
}

/// The read in words.
fn describe(env: &Env<'_>, origin: &Origin) -> String {
    let Some(Read { window, address, bytes }) = origin.read else {
        return "a register holds a value that no instruction wrote".to_string();
    };
    let who = lanes(origin.lanes);
    match window {
        Window::Shared(at) => {
            let name = env.shared.name(at);
            format!("load of {bytes} bytes of shared memory that no thread wrote, {name} ({who} of the warp)")
        }
        Window::Local(at) => {
            format!("load of {bytes} bytes of local memory that its thread never wrote, at offset {at} ({who})")
        }
        _ => {
            let place = env.launch.memory.describe(address);
            format!("load of {bytes} bytes at {address:#x} that nobody wrote, {place} ({who} of the warp)")
        }
    }
}
