//! A launch: its shape checked, its CTAs started in order, kept resident and run to their end.

use std::collections::VecDeque;

use super::cluster::Cluster;
use super::cta::{Body, Slice};
use super::random::{Order, Random};
use crate::check;
use crate::count::Counters;
use crate::exec::Env;
use crate::ir::{Kernel, Source};
use crate::launch::{Fault, Launch, Outcome, code};

/// Instructions that a CTA may run before another one is started beside it: a CTA that waits for one that has not
/// started would wait for ever, and one that does not wait has ended by then.
const SLICE: u64 = 1 << 20;
/// Repeated polls without any change after which polling is a hang: more than any loop that gives up by itself.
const ENOUGH: u64 = 1 << 16;

/// Runs a launch to its end.
pub fn run(launch: &Launch) -> Outcome {
    let kernel = &*launch.kernel;
    if let Some(text) = refuse(launch, kernel) {
        let fault = Fault { code: code::INVALID_VALUE, text: format!("{}: {text}", kernel.name), at: None };
        return Outcome { fault: Some(fault), ..Outcome::default() };
    }
    let mut env = Env::new(launch);
    ctas(launch, &mut env);
    if env.fault.is_none() {
        check::finish(&mut env);
    }
    std::mem::take(&mut env.global).end();
    let counters = Counters::fold(&env.tally, kernel);
    let mut fault = env.fault;
    if let (None, true, Some(finding)) = (&fault, launch.settings.findings_fail, env.findings.first()) {
        fault = Some(Fault { code: code::LAUNCH_FAILED, text: finding.to_string(), at: Some(finding.at.clone()) });
    }
    Outcome { fault, findings: env.findings, printed: env.printed, counters }
}

/// What is wrong with the launch's shape.
fn refuse(launch: &Launch, kernel: &Kernel) -> Option<String> {
    let ([gx, gy, gz], [bx, by, bz]) = (launch.grid, launch.block);
    let threads = u64::from(bx) * u64::from(by) * u64::from(bz);
    if gx == 0 || gy == 0 || gz == 0 || gx > i32::MAX as u32 || gy > 65_535 || gz > 65_535 {
        return Some(format!("a grid of ({gx}, {gy}, {gz}) where at most (2147483647, 65535, 65535) is allowed"));
    }
    if threads == 0 || threads > 1024 || bz > 64 {
        return Some(format!("a block of ({bx}, {by}, {bz}) where at most 1024 threads, 64 in z, are allowed"));
    }
    if let Some([x, y, z]) = kernel.max_threads {
        let most = u64::from(x) * u64::from(y) * u64::from(z);
        if threads > most {
            return Some(format!("a block of {threads} threads where .maxntid allows {most}"));
        }
    }
    if let Some(required) = kernel.required_threads.filter(|r| *r != launch.block) {
        return Some(format!("a block of {:?} where .reqntid asks for {required:?}", launch.block));
    }
    let shared = u64::from(kernel.shared.static_bytes) + u64::from(launch.dynamic_shared);
    if shared > u64::from(launch.limits.shared_per_block) {
        return Some(format!("{shared} bytes of shared memory where {} are allowed", launch.limits.shared_per_block));
    }
    if (0..3).any(|axis| launch.cluster[axis] == 0 || !launch.grid[axis].is_multiple_of(launch.cluster[axis])) {
        return Some(format!("a grid of {:?} in clusters of {:?}", launch.grid, launch.cluster));
    }
    if launch.params.len() != kernel.param_bytes as usize {
        return Some(format!("{} bytes of parameters where {} are declared", launch.params.len(), kernel.param_bytes));
    }
    let missing = kernel.fills.iter().any(|(_, fill)| match fill.source {
        Source::Global { index, .. } => index as usize >= launch.globals.len(),
        Source::Param { offset, bytes, .. } => u64::from(offset) + u64::from(bytes) > u64::from(kernel.param_bytes),
        _ => false,
    });
    missing.then(|| "a module variable without an address, or a parameter outside the block".to_string())
}

/// CTAs that the device holds at once.
fn residents(launch: &Launch) -> usize {
    let threads: u32 = launch.block.iter().product();
    let shared = launch.kernel.shared.static_bytes + launch.dynamic_shared + 1024;
    let per_unit = (2048 / threads).min(32).min(launch.limits.shared_per_unit / shared).max(1);
    (per_unit * launch.limits.units) as usize
}

fn ctas(launch: &Launch, env: &mut Env<'_>) {
    let settings = &launch.settings;
    let product = |sizes: &[u32]| sizes.iter().map(|n| u64::from(*n)).product::<u64>();
    let size = product(&launch.cluster);
    let total = product(&launch.grid) / size;
    let chosen = settings.only_ctas.as_deref().map(|ctas| clusters(launch, ctas));
    let count = chosen.as_ref().map_or(total, |chosen| chosen.len() as u64);
    let mut random = (settings.seed != 0).then(|| Random::new(settings.seed));
    let order = Order::new(count, random.as_mut());
    let (most, mut next) = ((residents(launch) / size as usize).max(1), 0);
    let mut resident: VecDeque<Cluster> = VecDeque::new();
    let mut spare: Vec<Body> = Vec::new();
    // CTAs at the front that had their slice since the last one started or ended.
    let mut waited = 0;
    // CTAs in a row that did nothing but poll.
    let mut polling = 0;
    loop {
        if waited >= resident.len() && next < count && resident.len() < most {
            let number = chosen.as_ref().map_or(order.at(next), |chosen| chosen[order.at(next) as usize]);
            next += 1;
            resident.push_front(Cluster::new(launch, number, || spare.pop().unwrap_or_else(|| Body::new(launch))));
            waited = 0;
        }
        let Some(mut cluster) = resident.pop_front() else { return };
        let until = (env.clock + SLICE).min(settings.step_limit);
        let changes = env.spins.changes;
        match cluster.run(env, random.as_mut(), until) {
            Slice::Fault => return,
            Slice::Done => {
                spare.extend(cluster.into_bodies());
                waited = resident.len();
            }
            Slice::Over | Slice::Polls if env.clock >= settings.step_limit => return overtime(&cluster, env),
            Slice::Over => {
                resident.push_back(cluster);
                waited += 1;
                polling = 0;
            }
            Slice::Polls => {
                polling = if env.spins.changes == changes { polling + 1 } else { 1 };
                let full = next >= count || resident.len() + 1 >= most;
                if full && polling > resident.len() && env.spins.repeated >= ENOUGH {
                    return cluster.hang(env, resident.len() + 1, count - next);
                }
                resident.push_back(cluster);
                waited += 1;
            }
        }
    }
}

/// The numbers of the clusters of some CTAs, each once; CTAs that do not exist have none.
fn clusters(launch: &Launch, ctas: &[u64]) -> Vec<u64> {
    let total: u64 = launch.grid.iter().map(|n| u64::from(*n)).product();
    let mut numbers = Vec::with_capacity(ctas.len());
    for number in ctas.iter().filter(|cta| **cta < total).map(|cta| Cluster::of_cta(launch, *cta)) {
        if launch.cluster == [1; 3] || !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    numbers
}

fn overtime(cluster: &Cluster, env: &mut Env<'_>) {
    let warps = cluster.unfinished().map_or(&[][..], |cta| &cta.warps);
    let Some(running) = warps.iter().find(|r| !r.splits.is_empty()) else { return };
    let text = format!("still running after {} warp instructions: {}", env.clock, running.describe(env));
    env.pc = running.splits[0].pc;
    env.fault(&running.warp, running.splits[0].mask.trailing_zeros(), code::TIMEOUT, text);
}
