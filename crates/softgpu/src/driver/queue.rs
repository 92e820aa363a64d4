//! Streams as queues of work, and the three ways of running them.
//!
//! Every operation names what it comes after: its predecessor in the stream, and positions in other streams (a waited-for
//! event, the rules of the legacy default stream). Running one first runs exactly those. `sync` runs an operation when it
//! is submitted; `late` leaves it until something must wait for it; `seeded` also runs random ready ones at each call.

use super::call::Call;
use super::capture::{self, Joined};
use super::code::Code;
use super::state::{self, DeviceId, Guard, HandleKind, State};
use super::thread::HostThread;
use super::work::{self, Work};
use crate::ctl::types::{Detector, Finding, Streams};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The identity of a stream: its handle, or a number no program sees for the default streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// For each stream, the position up to which its work comes before something.
pub type Clock = BTreeMap<StreamId, u64>;

/// After this many answers "not ready" in a row the work asked about is run: hardware finishes some time.
const PATIENCE: u32 = 8;

/// One stream.
pub struct Stream {
    /// The device it belongs to.
    pub device: DeviceId,
    /// Whether it is ordered with the legacy default stream.
    pub blocking: bool,
    /// As asked for at creation.
    pub priority: i32,
    /// For reports.
    pub name: String,
    /// Which stream it is, for reports.
    pub order: u64,
    /// The thread that made it, in words.
    pub thread: String,
    /// Its handle was destroyed; what is queued still runs.
    pub destroyed: bool,
    /// Its part in a capture: what is pushed into it does not run then.
    pub capture: Option<Joined>,
    queue: VecDeque<Operation>,
    /// Position of the last operation submitted.
    pub submitted: u64,
    done: u64,
    running: bool,
    clock: Clock,
    unanswered: u32,
}

/// Who made a stream, for reports.
pub struct Made {
    /// What it is called.
    pub name: String,
    /// Which stream it is.
    pub order: u64,
    /// The thread that made it, in words.
    pub thread: String,
}

impl Made {
    /// A default stream, which nobody made.
    pub fn by_default(name: String) -> Made {
        Made { name, order: 0, thread: String::from("the driver") }
    }
}

/// One operation in a stream.
pub struct Operation {
    /// Its position in the stream, from 1.
    pub position: u64,
    /// Positions in other streams that it comes after.
    waits: Vec<(StreamId, u64)>,
    /// Where it runs: the device of its stream, unless a graph says otherwise.
    device: DeviceId,
    /// What to do.
    pub work: Work,
    /// Who submitted it.
    pub owner: Arc<HostThread>,
    /// For reports: `cuMemcpyHtoDAsync_v2 #12 on stream 3`.
    pub label: String,
    /// A finding about its memory was reported already.
    pub reported: bool,
}

impl State {
    /// Makes a stream.
    pub fn new_stream(&mut self, device: DeviceId, blocking: bool, priority: i32, made: Made) -> StreamId {
        let Made { name, order, thread } = made;
        let id = StreamId(self.new_handle(HandleKind::Stream));
        let stream = Stream {
            device,
            blocking,
            priority,
            name,
            order,
            thread,
            destroyed: false,
            capture: None,
            queue: VecDeque::new(),
            submitted: 0,
            done: 0,
            running: false,
            clock: Clock::new(),
            unanswered: 0,
        };
        self.streams.insert(id, stream);
        id
    }

    /// Whether a position of a stream has been reached. A stream that is gone has finished.
    pub fn is_done(&self, stream: StreamId, position: u64) -> bool {
        self.streams.get(&stream).is_none_or(|stream| stream.done >= position)
    }

    /// What comes before the next operation of a stream, and everything that this implies.
    fn order_of_next(&self, id: StreamId, after: &[(StreamId, u64)], known: &Clock) -> (Vec<(StreamId, u64)>, Clock) {
        let stream = &self.streams[&id];
        let mut waits = after.to_vec();
        let mut clock = stream.clock.clone();
        merge(&mut clock, known);
        let legacy = self.device(stream.device).legacy;
        if id == legacy {
            for (other_id, other) in &self.streams {
                if *other_id != id && other.blocking && other.device == stream.device {
                    waits.push((*other_id, other.submitted));
                }
            }
        } else if stream.blocking {
            waits.push((legacy, self.streams[&legacy].submitted));
        }
        for (on, position) in &waits {
            if let Some(on) = self.streams.get(on) {
                merge(&mut clock, &on.clock);
            }
            clock.entry(*on).and_modify(|known| *known = (*known).max(*position)).or_insert(*position);
        }
        waits.retain(|(on, position)| !self.is_done(*on, *position));
        clock.retain(|on, position| !self.is_done(*on, *position));
        clock.insert(id, stream.submitted);
        (waits, clock)
    }

    /// Puts work at the end of a stream, after the positions `after` of other streams and all that `known` says.
    pub fn submit_after(
        &mut self,
        call: &Call,
        id: StreamId,
        work: Work,
        after: &[(StreamId, u64)],
        known: &Clock,
    ) -> u64 {
        if self.streams[&id].capture.is_some() {
            self.add_node(call, id, capture::node_of(work));
            // Nothing runs: the position in front of the stream's first operation is reached.
            return 0;
        }
        let order = self.order_of_next(id, after, known);
        let name = format!("{}{}", call.name, work.subject());
        let device = self.streams[&id].device;
        self.push(call, id, device, work, order, &name)
    }

    /// Puts work of a graph at the end of a stream, under a name of its own and for a device that may be another one.
    pub fn submit_named(&mut self, call: &Call, id: StreamId, device: DeviceId, work: Work, name: &str) -> u64 {
        let order = self.order_of_next(id, &[], &Clock::new());
        self.push(call, id, device, work, order, name)
    }

    /// Puts work at the end of a stream, after what `order` says.
    fn push(
        &mut self,
        call: &Call,
        id: StreamId,
        device: DeviceId,
        work: Work,
        order: (Vec<(StreamId, u64)>, Clock),
        name: &str,
    ) -> u64 {
        let (waits, mut clock) = order;
        let label = format!("{name} #{} on {}", self.new_order(), self.streams[&id].name);
        let reported = self.check_order(call, &work, &clock, &label);
        let stream = self.streams.get_mut(&id).expect("resolved before");
        stream.submitted += 1;
        let position = stream.submitted;
        clock.insert(id, position);
        stream.clock = clock;
        stream.unanswered = 0;
        let owner = call.thread.clone();
        stream.queue.push_back(Operation { position, waits, device, work, owner, label, reported });
        position
    }

    /// Puts work at the end of a stream.
    pub fn submit(&mut self, call: &Call, id: StreamId, work: Work) -> u64 {
        self.submit_after(call, id, work, &[], &Clock::new())
    }

    /// The clock of a stream as it is after its last operation.
    pub fn clock_of(&self, id: StreamId) -> Clock {
        self.streams[&id].clock.clone()
    }

    /// The last operation submitted to a stream, in words. Only right after a submission.
    pub fn last_label(&self, id: StreamId) -> String {
        self.streams[&id].queue.back().map_or_else(String::new, |operation| operation.label.clone())
    }

    /// Reports memory that is used before its allocation is ordered, or after its release was submitted.
    fn check_order(&mut self, call: &Call, work: &Work, clock: &Clock, label: &str) -> bool {
        let mut problems = Vec::new();
        for address in work.addresses() {
            let Some((base, origin)) = self.origin(address) else { continue };
            let described = || state::describe(base);
            if let Some(freeing) = &origin.freeing {
                problems
                    .push((Detector::USE_AFTER_FREE, format!("uses {} after {freeing} was submitted", described())));
            }
            if let Some((stream, position, _)) = origin.ordered
                && !self.is_done(stream, position)
                && clock.get(&stream).is_none_or(|known| *known < position)
            {
                let made = self.streams.get(&stream).map_or("another stream", |stream| &stream.name);
                let text = format!("uses {}, but nothing orders it after {} on {made}", described(), origin.by);
                problems.push((Detector::STREAM_ORDER, text));
            }
        }
        let found = !problems.is_empty();
        for (detector, text) in problems {
            self.report(call, detector, format!("{label} {text}"));
        }
        found
    }

    /// Reports pending work on an allocation that is about to be freed. `clock` says what comes before the release.
    pub fn check_release(&mut self, call: &Call, base: u64, bytes: u64, clock: Option<&Clock>, label: &str) {
        let mut problems = Vec::new();
        for (id, stream) in &mut self.streams {
            let ordered = clock.and_then(|clock| clock.get(id)).copied().unwrap_or(0);
            for operation in stream.queue.iter_mut().filter(|operation| operation.position > ordered) {
                let touches = |address: u64| address >= base && address - base < bytes.max(1);
                if !operation.reported && operation.work.addresses().into_iter().any(touches) {
                    operation.reported = true;
                    problems.push(operation.label.clone());
                }
            }
        }
        for pending in problems {
            let place = state::describe(base);
            let text = format!("{label} releases {place} while {pending} still uses it");
            self.report(call, Detector::USE_AFTER_FREE, text);
        }
    }

    /// Records a finding of the driver; it fails the context unless findings are only recorded.
    pub fn report(&mut self, call: &Call, detector: Detector, text: String) {
        let fails = call.thread.report(Finding { detector, text, at: None, submission: None });
        if let (true, Some(device)) = (fails, call.thread.current_context()) {
            self.device_mut(device).sticky.get_or_insert(Code::LAUNCH_FAILED);
        }
    }

    /// Whether a stream has nothing left to do. After enough answers "no" in a row the work is to be run.
    pub fn ask(&mut self, id: StreamId, position: u64) -> Answer {
        if self.is_done(id, position) {
            return Answer::Done;
        }
        let stream = self.streams.get_mut(&id).expect("a stream that is gone is done");
        stream.unanswered += 1;
        if stream.unanswered <= PATIENCE { Answer::NotYet } else { Answer::RunNow }
    }

    /// Positions that stand for everything submitted to a device so far.
    pub fn everything(&self, device: DeviceId) -> Vec<(StreamId, u64)> {
        let of_device = self.streams.iter().filter(|(_, stream)| stream.device == device);
        let mut all: Vec<_> = of_device.map(|(id, stream)| (stream.destroyed, *id, stream.submitted)).collect();
        // Streams that the program can no longer name run last: that is when forgotten work shows.
        all.sort();
        all.into_iter().map(|(_, id, position)| (id, position)).collect()
    }

    /// The positions that synchronising a stream waits for.
    pub fn all_of(&self, id: StreamId) -> Vec<(StreamId, u64)> {
        let stream = &self.streams[&id];
        if id != self.device(stream.device).legacy {
            return vec![(id, stream.submitted)];
        }
        let of_device = self.streams.iter().filter(|(_, other)| other.device == stream.device && other.blocking);
        of_device.map(|(id, stream)| (*id, stream.submitted)).collect()
    }

    /// Lets go of a stream's handle. Queued work stays.
    pub fn retire(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.destroyed = true;
            if stream.queue.is_empty() && !stream.running {
                self.streams.remove(&id);
            }
        }
    }

    /// The first position a stream's head waits for and has not reached.
    fn unmet(&self, id: StreamId) -> Option<(StreamId, u64)> {
        let head = self.streams.get(&id)?.queue.front()?;
        head.waits.iter().copied().find(|(on, position)| !self.is_done(*on, *position))
    }
}

/// What [`State::ask`] answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Reached.
    Done,
    /// Not reached.
    NotYet,
    /// Not reached, and asked often enough.
    RunNow,
}

fn merge(into: &mut Clock, from: &Clock) {
    for (stream, position) in from {
        into.entry(*stream).and_modify(|known| *known = (*known).max(*position)).or_insert(*position);
    }
}

/// Runs a stream up to a position, and what that comes after.
pub fn drive(mut state: Guard, id: StreamId, position: u64) -> Guard {
    loop {
        if state.is_done(id, position) {
            return state;
        }
        if state.streams[&id].running {
            state = state::wait_for_progress(state);
        } else if let Some((on, upto)) = state.unmet(id) {
            // Waits point to earlier submissions, so this comes to an end.
            state = drive(state, on, upto);
        } else {
            state = run_head(state, id);
        }
    }
}

/// Runs several streams up to positions.
pub fn drive_all(mut state: Guard, positions: &[(StreamId, u64)]) -> Guard {
    for (id, position) in positions {
        state = drive(state, *id, *position);
    }
    state
}

/// After a submission: runs it at once where the thread's streams are synchronous. Answers the context's error.
pub fn settle(call: &Call, mut state: Guard, id: StreamId, position: u64) -> super::code::Result {
    let device = state.streams[&id].device;
    let mode = call.thread.inner().streams;
    if mode == Streams::Sync {
        state = drive(state, id, position);
    }
    state.verdict(device)
}

/// Runs the head of a stream, which waits for nothing.
fn run_head(mut state: Guard, id: StreamId) -> Guard {
    let Some(stream) = state.streams.get_mut(&id) else { return state };
    let Some(operation) = stream.queue.pop_front() else { return state };
    let (device, position) = (operation.device, operation.position);
    stream.running = true;
    let failed = state.device(device).sticky.is_some();
    drop(state);
    let outcome = catch_unwind(AssertUnwindSafe(|| work::execute(&operation, device, failed)));
    let result = outcome.unwrap_or_else(|_| {
        eprintln!("softgpu: {}: internal error, please report it", operation.label);
        Err(Code::UNKNOWN)
    });
    let mut state = state::lock();
    if let Err(code) = result {
        state.note_failure(device, code);
    }
    if let Some(stream) = state.streams.get_mut(&id) {
        stream.running = false;
        stream.done = position;
        stream.unanswered = 0;
        if stream.destroyed && stream.queue.is_empty() {
            state.streams.remove(&id);
        }
    }
    state::announce_progress();
    state
}

/// In seeded mode: runs a few ready operations of the calling thread, chosen at random.
pub fn advance_at_random(call: &Call) {
    if call.thread.inner().streams != Streams::Seeded {
        return;
    }
    for _ in 0..call.thread.random(4) {
        let state = state::lock();
        let mine = |stream: &Stream| {
            let head = stream.queue.front().filter(|_| !stream.running)?;
            (head.owner.number == call.thread.number).then_some(head.position)
        };
        let ready: Vec<(StreamId, u64)> = state
            .streams
            .iter()
            .filter_map(|(id, stream)| mine(stream).map(|position| (*id, position)))
            .filter(|(id, _)| state.unmet(*id).is_none())
            .collect();
        if ready.is_empty() {
            return;
        }
        let (id, position) = ready[call.thread.random(ready.len() as u64) as usize];
        drop(drive(state, id, position));
    }
}
