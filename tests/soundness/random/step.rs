//! What a random program may do. A step is plain data: a seed says all steps, and a program can be printed and run again.

use super::model::{COLUMNS, Forward, Look, ROWS};
use crate::common::random::Random;

/// One step. Numbers that pick a tensor or a device are taken modulo what there is, so every list of steps is a program.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// A tensor from elements of the host.
    Upload { device: usize, elements: u64 },
    /// A copy on the same stream, usually still queued when it is used next.
    Copy { from: usize },
    /// `to_device`: other streams, the other GPU, the host, and back.
    Send { from: usize, device: usize },
    /// `copy_from_slice`.
    Write { to: usize, elements: u64 },
    /// `copy_from` another tensor of the same device.
    Overwrite { to: usize, from: usize },
    /// A forward operation on a view, with a mask that is dropped at once.
    Forward { from: usize, what: Forward, look: Look, dim: usize, mask: Option<u64> },
    /// A softmax into a tensor that exists.
    Into { from: usize, to: usize },
    /// A softmax and the gradient through it; the probabilities are dropped at once.
    Backward { from: usize, upstream: usize, dim: usize },
    /// The gradient of a softmax from whatever tensor could be its result.
    BackwardOf { from: usize, upstream: usize, dim: usize },
    /// Losses and gradient; targets and what is saved in between are dropped at once. `bad` plants a target that is no class.
    CrossEntropy { from: usize, targets: u64, bad: bool },
    /// A softmax that is captured in a graph, which is launched twice and dropped.
    Capture { from: usize, dim: usize },
    /// Copies to the host and compares.
    Read { from: usize },
    /// The same through a view.
    ReadView { from: usize, look: Look },
    /// Drops a tensor.
    Drop { from: usize },
    /// Drops a device and goes on with a new stream of the same GPU.
    Restart { device: usize },
    /// Waits for a device.
    Synchronize { device: usize },
    /// Asks a device for reports.
    Check { device: usize },
    /// Gives a tensor to another lane of the program.
    Give { from: usize },
    /// Lets another lane read a tensor that this one keeps.
    Lend { from: usize },
    /// Takes what another lane gave or lent, if there is something.
    Take,
}

impl Step {
    /// A random step. Programs of one lane have nobody to give anything to. Only they plant bad targets, since which lane
    /// would hear of them is not known beforehand, and only they capture, since a capture refuses what other lanes do.
    pub fn random(random: &mut Random, lanes: usize) -> Step {
        let mut pick = || random.below(1 << 16);
        let (from, to, device) = (pick(), pick(), pick());
        let look = match random.below(4) {
            0 => Look::Transposed,
            1 => Look::Row(random.below(ROWS)),
            2 => Look::Column(random.below(COLUMNS)),
            _ => Look::Whole,
        };
        let what = [Forward::Softmax, Forward::Softmin, Forward::LogSoftmax, Forward::LogSumExp][random.below(4)];
        let (dim, elements) = (random.below(2), random.bits());
        match random.below(100) {
            0..12 => Step::Upload { device, elements },
            12..20 => Step::Copy { from },
            20..36 => Step::Send { from, device },
            36..41 => Step::Write { to, elements },
            41..48 => Step::Overwrite { to, from },
            48..56 => Step::Forward { from, what, look, dim, mask: (elements & 3 == 0).then_some(elements) },
            56..60 => Step::Into { from, to },
            60..63 => Step::Backward { from, upstream: to, dim },
            63..65 => Step::BackwardOf { from, upstream: to, dim },
            65..68 => Step::CrossEntropy { from, targets: elements, bad: lanes == 1 && elements & 7 == 0 },
            68..71 => Step::Read { from },
            71..73 => Step::ReadView { from, look },
            73..87 => Step::Drop { from },
            87..90 => Step::Restart { device },
            90 => Step::Synchronize { device },
            91 => Step::Check { device },
            _ if lanes == 1 && elements & 1 == 0 => Step::Capture { from, dim },
            _ if lanes == 1 => Step::Send { from, device },
            92..95 => Step::Give { from },
            95..97 => Step::Lend { from },
            _ => Step::Take,
        }
    }

    /// All steps of a lane.
    pub fn program(random: &mut Random, lanes: usize, steps: usize) -> Vec<Step> {
        (0..steps).map(|_| Step::random(random, lanes)).collect()
    }
}
