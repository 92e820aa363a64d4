//! What a check found, in words that can be acted on.

use crate::launch::Where;
use std::fmt;

/// The checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Detector {
    /// A read of bytes that nobody wrote.
    Uninitialised,
    /// Two accesses of shared memory without order between them, one of them a write.
    SharedRace,
    /// Two accesses of global memory by threads of one CTA without order between them, one of them a write.
    GlobalRace,
    /// An access outside the shared array it began in, or outside shared memory.
    SharedBounds,
    /// A warp-wide operation that names or reads a lane that does not take part.
    InactiveLane,
    /// A barrier that not every thread reaches, or not together.
    BarrierDivergence,
    /// Bytes of an asynchronous copy touched before the wait for it, or its source changed.
    AsyncCopy,
    /// An `mbarrier` that is used where there is none, overwritten, or counted beyond what it expects.
    MemoryBarrier,
    /// Bytes written by threads that something beside them reads, with no proxy fence between.
    ProxyFence,
    /// Registers of a product that is under way, or that were changed before it with no `wgmma.fence` between; or
    /// products that the warps of a warpgroup do not have in common.
    Product,
    /// Every warp waits.
    Deadlock,
    /// A watched output that was not written exactly once, or a store outside all watched outputs.
    WriteOnce,
}

impl Detector {
    /// The words a report begins with.
    pub fn name(self) -> &'static str {
        match self {
            Detector::Uninitialised => "uninitialised read",
            Detector::SharedRace => "race on shared memory",
            Detector::GlobalRace => "race on global memory",
            Detector::SharedBounds => "shared memory out of bounds",
            Detector::InactiveLane => "inactive lane",
            Detector::BarrierDivergence => "divergent barrier",
            Detector::AsyncCopy => "unfinished asynchronous copy",
            Detector::MemoryBarrier => "misused mbarrier",
            Detector::ProxyFence => "missing proxy fence",
            Detector::Product => "warpgroup product",
            Detector::Deadlock => "deadlock",
            Detector::WriteOnce => "output not written exactly once",
        }
    }
}

/// Something that hardware would not have noticed.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Which check found it.
    pub detector: Detector,
    /// What happened, in one sentence.
    pub text: String,
    /// Where.
    pub at: Where,
    /// The address, in the space the text names.
    pub address: Option<u64>,
    /// The other party of a race.
    pub other: Option<Where>,
    /// The seed of the schedule that showed it.
    pub seed: u64,
    /// How often it was seen between the same two instructions; the rest describes the first time.
    pub times: u64,
}

impl Finding {
    /// A finding without an address or a second party.
    pub fn new(detector: Detector, at: Where, text: String) -> Finding {
        Finding { detector, text, at, address: None, other: None, seed: 0, times: 1 }
    }

    /// Whether another finding is the same mistake seen again.
    fn repeats(&self, other: &Finding) -> bool {
        let pc = |finding: &Finding| finding.other.as_ref().map(|place| place.pc);
        self.detector == other.detector && self.at.pc == other.at.pc && pc(self) == pc(other)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n  in {}", self.detector.name(), self.text, self.at)?;
        if let Some(other) = &self.other {
            write!(f, "\n  and {other}")?;
        }
        if let Some(address) = self.address {
            write!(f, "\n  address {address:#x}")?;
        }
        write!(f, "\n  seed {}", self.seed)?;
        if self.times > 1 {
            write!(f, ", seen {} times", self.times)?;
        }
        Ok(())
    }
}

/// Appends a finding, or counts it where the same one is there already.
pub(crate) fn record(findings: &mut Vec<Finding>, finding: Finding) {
    match findings.iter_mut().find(|old| old.repeats(&finding)) {
        Some(old) => old.times += finding.times,
        None => findings.push(finding),
    }
}

/// Lanes of a mask in words: "lanes 0-7, 9".
pub(crate) fn lanes(mask: u32) -> String {
    let mut parts = Vec::new();
    let mut lane = 0;
    while lane < 32 {
        if mask >> lane & 1 == 0 {
            lane += 1;
            continue;
        }
        let first = lane;
        while lane < 32 && mask >> lane & 1 != 0 {
            lane += 1;
        }
        parts.push(if lane - first == 1 { format!("{first}") } else { format!("{first}-{}", lane - 1) });
    }
    let noun = if mask.count_ones() == 1 { "lane" } else { "lanes" };
    format!("{noun} {}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_read_as_ranges() {
        assert_eq!(lanes(1), "lane 0");
        assert_eq!(lanes(0x8000_0000), "lane 31");
        assert_eq!(lanes(u32::MAX), "lanes 0-31");
        assert_eq!(lanes(0b1011_0001), "lanes 0, 4-5, 7");
    }

    #[test]
    fn the_same_mistake_is_one_finding() {
        let at = |pc, lane| Where {
            kernel: "k".into(),
            place: "k.cu:3".into(),
            statement: "st.shared.u32 [%r1], %r2".into(),
            pc,
            cta: [1, 2, 3],
            warp: 4,
            lane,
        };
        let mut findings = Vec::new();
        record(&mut findings, Finding::new(Detector::Uninitialised, at(7, 0), "first".into()));
        record(&mut findings, Finding::new(Detector::Uninitialised, at(7, 1), "again".into()));
        record(&mut findings, Finding::new(Detector::Uninitialised, at(8, 1), "elsewhere".into()));
        assert_eq!(findings.len(), 2);
        assert_eq!(
            findings[0].to_string(),
            "uninitialised read: first\n  in k at k.cu:3: `st.shared.u32 [%r1], %r2` (pc 7), CTA (1, 2, 3), \
             warp 4, lane 0\n  seed 0, seen 2 times"
        );
    }
}
