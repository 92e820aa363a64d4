//! What settings, findings and records look like on both sides of the C ABI.

use crate::check;
use crate::launch::Where;
use std::fmt;

/// When the queued work of a stream runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Streams {
    /// When it is submitted: a legal schedule, and the easiest to follow.
    #[default]
    Sync = 0,
    /// Only when something must wait for it: what a program forgot to wait for has not happened yet.
    Late = 1,
    /// As `Late`, and random ready operations of the calling thread at each driver call, by its seed.
    Seeded = 2,
}

impl Streams {
    /// The mode of a number or of a name as in `SOFTGPU_STREAMS`.
    pub fn parse(text: &str) -> Option<Streams> {
        [Streams::Sync, Streams::Late, Streams::Seeded]
            .into_iter()
            .find(|mode| text == (*mode as u32).to_string() || text.eq_ignore_ascii_case(&format!("{mode:?}")))
    }
}

/// The kind of a finding, as a report begins with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Detector(pub std::borrow::Cow<'static, str>);

macro_rules! detectors {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal;)*) => {
        impl Detector {
            $($(#[doc = $doc])* pub const $name: Detector = Detector(std::borrow::Cow::Borrowed($text));)*
        }
    };
}

detectors! {
    /// Memory used after it was freed, freed while work on it is pending, or freed twice.
    USE_AFTER_FREE = "use after free";
    /// A range that does not lie in one allocation.
    OUT_OF_BOUNDS = "out of bounds";
    /// Work on different streams that nothing puts in order.
    STREAM_ORDER = "missing stream order";
    /// Bytes copied to the host that nobody wrote.
    UNINITIALISED = "uninitialised read";
    /// Pinned host memory used after it was freed.
    PINNED_MEMORY = "pinned memory";
    /// A launch ended as it would on hardware: a bad address, a trap, a limit.
    FAULT = "fault";
}

impl From<check::Detector> for Detector {
    fn from(detector: check::Detector) -> Detector {
        Detector(detector.name().into())
    }
}

impl fmt::Display for Detector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Something a program or a kernel did wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its kind.
    pub detector: Detector,
    /// What happened, with everything that is known; several lines for a kernel.
    pub text: String,
    /// Where in a kernel.
    pub at: Option<Where>,
    /// The operation in words, where it is not part of the text: `cuLaunchKernel of softmax #12 on stream 3`.
    pub submission: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The report of a kernel begins with its detector already.
        if !self.text.starts_with(&*self.detector.0) {
            write!(f, "{}: ", self.detector)?;
        }
        f.write_str(&self.text)?;
        if let Some(submission) = &self.submission {
            write!(f, "\n  by {submission}")?;
        }
        Ok(())
    }
}

impl From<&check::Finding> for Finding {
    fn from(finding: &check::Finding) -> Finding {
        let (detector, at) = (finding.detector.into(), Some(finding.at.clone()));
        Finding { detector, text: finding.to_string(), at, submission: None }
    }
}

/// A launch that was executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchRecord {
    /// The kernel's symbol.
    pub kernel: String,
    /// CTAs.
    pub grid: [u32; 3],
    /// Threads per CTA.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// The seed of its schedule.
    pub seed: u64,
    /// Which PTX of the image ran. A driver with a GPU would have taken a cubin if there is one.
    pub image: String,
    /// The error it ended with; 0 for none.
    pub code: u32,
}

impl fmt::Display for LaunchRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LaunchRecord { kernel, grid, block, dynamic_shared, seed, image, code } = self;
        write!(f, "{kernel} {grid:?} x {block:?}, {dynamic_shared} bytes dynamic, seed {seed}, {image}")?;
        if *code != 0 { write!(f, ", error {code}") } else { Ok(()) }
    }
}

/// Kinds of things that can be left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum LeakKind {
    /// Device memory.
    Memory = 0,
    /// Pinned host memory.
    Pinned = 1,
    /// A stream.
    Stream = 2,
    /// An event.
    Event = 3,
    /// A module.
    Module = 4,
    /// A graph.
    Graph = 5,
    /// An executable graph.
    Exec = 6,
}

impl LeakKind {
    /// The kind of a number.
    pub fn from_number(number: u32) -> Option<LeakKind> {
        use LeakKind::*;
        [Memory, Pinned, Stream, Event, Module, Graph, Exec].into_iter().find(|kind| *kind as u32 == number)
    }
}

/// Something that is live and was not given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    /// Its kind.
    pub kind: LeakKind,
    /// Which one it is.
    pub order: u64,
    /// Its length, for memory.
    pub bytes: u64,
    /// The host thread that made it.
    pub made_by: String,
    /// The thing in words.
    pub what: String,
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, made by {}", self.what, self.made_by)
    }
}
