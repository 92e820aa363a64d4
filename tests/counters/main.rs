//! `make counters`: what every kernel asks of a GPU, as the software GPU counts it, beside what it could do with at the least.
//!
//! The table stands in `benches/counters.md`. A figure that gets worse than there fails this test; `make counters ACCEPT=1` writes the
//! new ones. Counted are the kernels for sm_80, and those that exist for newer GPUs alone.

mod calls;
#[path = "../common/mod.rs"]
mod common;
#[path = "../../tools/occupancy.rs"]
mod occupancy;
mod table;

use calls::{Call, attentions, calls};
use common::gpu::{Chosen, chosen, ptx};
use occupancy::{Occupancy, multiprocessor};
use softgpu::count::Counters;
use softgpu::ctl::{Gpu, LaunchRecord, Profile};
use softgpu::ir::Class;
use softgpu::module::image::{Capability, choose};
use std::collections::{BTreeMap, BTreeSet};
use std::{env, fs};
use sumexp::kernels::{KernelId, images};
use sumexp::{Device, bf16, f16};
use table::{Figures, Table, print, read, worse};

/// Written by the build script: one line per kernel and architecture.
const RESOURCES: &str = include_str!(concat!(env!("OUT_DIR"), "/resources.tsv"));
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/counters.md");

/// Instructions of a thread that an H200 issues in the time in which its memory moves a byte: 132 multiprocessors of four schedulers
/// of 32 lanes at 1.75 GHz, 4.8 TB/s.
const INSTRUCTIONS_PER_BYTE: f64 = 132.0 * 4.0 * 32.0 * 1.75e9 / 4.8e12;

/// Threads, registers and static shared memory of a kernel on an architecture.
fn resources(kernel: &str, arch: &str) -> Option<[u32; 3]> {
    let fields = RESOURCES.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let line = fields.into_iter().find(|fields| fields[1] == kernel && fields[2] == arch)?;
    Some([3, 4, 5].map(|at| line[at].parse().expect("a number")))
}

/// The figures of one kernel in one call.
fn figures(call: &Call, counters: &Counters, launches: &[&LaunchRecord], arch: &str) -> Figures {
    let elements = call.least.elements as f64;
    let each =
        |classes: &[Class]| classes.iter().map(|class| counters.class(*class).thread as f64).sum::<f64>() / elements;
    let traffic = counters.global_loads.sectors + counters.global_stores.sectors;
    let asked = counters.global_loads.minimum + counters.global_stores.minimum;
    let instructions = counters.thread_instructions as f64 / elements;
    let budget = call.least.bytes as f64 * INSTRUCTIONS_PER_BYTE / elements;
    let blocks: u64 = launches.iter().map(|launch| launch.grid.map(u64::from).iter().product::<u64>()).sum();
    let [threads, registers, shared] = resources(&launches[0].kernel, arch).map_or([0; 3], |found| found);
    let dynamic = launches.iter().map(|launch| launch.dynamic_shared).max().unwrap_or(0);
    let occupancy = (threads > 0).then(|| Occupancy::of(&multiprocessor(arch), threads, registers, shared + dynamic));
    let of_products = call.least.flops > 0 && counters.matrix_flops > 0;
    // f32 is made of three products of halves.
    let parts = if launches[0].kernel.contains("_f32") { 3.0 } else { 1.0 };
    [
        None,
        (asked > 0).then(|| traffic as f64 / asked as f64),
        Some(counters.shared.bank_conflicts() as f64),
        Some(each(&[Class::Float, Class::Half])),
        Some(each(&[Class::Int, Class::Convert])),
        Some(each(&[Class::Special])),
        Some(each(&[Class::Memory, Class::Atomic])),
        Some(each(&[Class::Warp])),
        Some(each(&[Class::Control, Class::Barrier])),
        Some(instructions),
        (call.least.flops == 0).then_some(instructions / budget),
        of_products.then(|| counters.matrix_flops as f64 / parts / call.least.flops as f64),
        Some(counters.barriers() as f64 / blocks as f64 / f64::from(launches[0].block[0].div_ceil(32))),
        (threads > 0).then_some(f64::from(registers)),
        occupancy.map(|occupancy| f64::from(occupancy.of - occupancy.warps)),
    ]
}

/// Runs calls and adds the lines of kernels that `wanted` wants.
fn count(soft: &Gpu, calls: Vec<Call>, arch: &str, wanted: &dyn Fn(&str) -> bool, table: &mut Table) {
    for call in calls {
        soft.reset_counters();
        soft.take_launches();
        (call.run)();
        let launches = soft.take_launches();
        assert!(soft.take_findings().is_empty(), "{}", call.name);
        let mut by_kernel: BTreeMap<&str, Vec<&LaunchRecord>> = BTreeMap::new();
        launches.iter().for_each(|launch| by_kernel.entry(&launch.kernel).or_default().push(launch));
        // All kernels of a call together move what it needs, at the least.
        let counters = |kernel: &str| soft.counters(kernel).expect("it was launched");
        let moved = |counters: Counters| 32 * (counters.global_loads.sectors + counters.global_stores.sectors);
        let bytes: u64 = by_kernel.keys().map(|kernel| moved(counters(kernel))).sum();
        for (number, (kernel, launches)) in by_kernel.iter().filter(|(kernel, _)| wanted(kernel)).enumerate() {
            let mut figures = figures(&call, &counters(kernel), launches, arch);
            figures[0] = (number == 0 && call.least.flops == 0).then_some(bytes as f64 / call.least.bytes as f64);
            table.insert((call.name.clone(), kernel.to_string()), figures);
        }
    }
}

/// The version of PTX, which tells releases of nvcc apart.
fn compiler() -> String {
    let ptx = ptx(images()[0].1);
    let version = ptx.lines().find_map(|line| line.strip_prefix(".version ")).expect("PTX has a version");
    format!("Compiled to PTX {}.", version.trim())
}

fn page(table: &Table) -> String {
    format!(
        "# Counters\n\n\
         What kernels ask of a GPU, counted by the software GPU on small representative calls; `make counters` prints it, a test holds\n\
         every figure, and `make counters ACCEPT=1` writes this page. Smaller is better everywhere.\n\n\
         - **bytes / least**: bytes of the sectors that all kernels of the call touch, over those of its operands and results, each once.\n\
         - **sectors / bytes asked for**: sectors of 32 bytes that requests touch, over the fewest that would hold their bytes.\n\
         - **float to control, instructions**: PTX instructions of all threads per element of the largest operand, or per visible pair\n  \
           of attention. **of the budget**: over those that an H200 issues while its memory moves the least bytes ({INSTRUCTIONS_PER_BYTE:.1} \
         per byte); below 1 the\n  kernel waits for memory.\n\
         - **products / needed**: operations on tensor cores over those of visible pairs; those of f32 are a third of its TF32 products.\n\
         - **registers**, and of 64 **warps** those **that do not fit** on a multiprocessor beside each other, by ptxas.\n\n\
         {}\n\n{}",
        compiler(),
        print(table)
    )
}

#[test]
fn no_figure_is_worse() {
    if chosen() == Chosen::Cuda {
        return;
    }
    let soft = softgpu::ctl::connect().expect("the software GPU is the driver of this process");
    soft.devices(&[Profile::Sm80, Profile::Sm90]);
    let has = |image: &[u8], major| choose(image, Capability { major, minor: 0 }).is_ok();
    let old: BTreeSet<&str> = images().iter().filter(|(_, image)| has(image, 8)).map(|(name, _)| *name).collect();
    assert!(!old.is_empty(), "counted are kernels for sm_80: build with SUMEXP_CUDA_ARCHS=80 or all of them");
    let image_of: BTreeMap<String, &str> = KernelId::all().map(|id| (id.symbol(), id.image())).collect();
    let (mut table, everything) = (Table::new(), |_: &str| true);
    let (sm_80, sm_90) = (Device::cuda(0).unwrap(), Device::cuda(1).unwrap());
    count(&soft, calls::<f32>(&sm_80), "sm_80", &everything, &mut table);
    count(&soft, calls::<f16>(&sm_80), "sm_80", &everything, &mut table);
    count(&soft, calls::<bf16>(&sm_80), "sm_80", &everything, &mut table);
    // Built for newer GPUs alone.
    let newer = |kernel: &str| !old.contains(image_of[kernel]);
    if images().iter().any(|(_, image)| !has(image, 8)) {
        count(&soft, attentions::<f16>(&sm_90), "sm_90a", &newer, &mut table);
        count(&soft, attentions::<bf16>(&sm_90), "sm_90a", &newer, &mut table);
    }
    let counted: BTreeSet<&str> = table.keys().map(|(_, kernel)| image_of[kernel]).collect();
    let missing: Vec<&str> = images().iter().map(|(name, _)| *name).filter(|name| !counted.contains(name)).collect();
    assert!(missing.is_empty(), "no call in tests/counters/calls.rs launches a kernel of {missing:?}");

    let page = page(&table);
    println!("{page}");
    if env::var("SUMEXP_COUNTERS_ACCEPT").is_ok_and(|accept| accept == "1") {
        return fs::write(PAGE, page).expect("benches/counters.md can be written");
    }
    let known = fs::read_to_string(PAGE).unwrap_or_default();
    let worse = worse(&read(&known), &table, known.contains(&compiler()));
    assert!(
        worse.is_empty(),
        "{} figures are worse than in benches/counters.md (`make counters ACCEPT=1` writes the new ones):\n{}",
        worse.len(),
        worse.join("\n")
    );
}
