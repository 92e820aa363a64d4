//! Broken input: PTX of every kind changed byte by byte and token by token, broken fatbins, and launches of any shape end in
//! an error or in a normal run, never in a panic.
//!
//! `SOFTGPU_MUTANTS=n` sets the number of changed texts; the seed is printed, and `SOFTGPU_MUTANTS_SEED` repeats it.

mod common;

use common::Machine;
use softgpu::driver::tensor::{Tiled, encode};
use softgpu::launch::{Launch, Limits, Settings, run};
use softgpu::module::image::Capability;
use softgpu::module::load::{LoadError, load};
use std::sync::Arc;

const TEXTS: [&str; 11] = [
    include_str!("ptx/softmax_sm80.ptx"),
    include_str!("ptx/forms_sm80.ptx"),
    include_str!("foreign/calls_sm80.ptx"),
    include_str!("foreign/memory_sm80.ptx"),
    include_str!("foreign/cooperative_sm80.ptx"),
    include_str!("detectors/legal.ptx"),
    include_str!("hopper/ring.ptx"),
    include_str!("hopper/tensor.ptx"),
    include_str!("hopper/product.ptx"),
    include_str!("hopper/cluster.ptx"),
    include_str!("hopper/attention.ptx"),
];
const SM_90: Capability = Capability { major: 9, minor: 0 };

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
    fn word(&mut self) -> u64 {
        // Small numbers, limits, and anything.
        match self.below(4) {
            0 => self.below(9) as u64,
            1 => u64::MAX << self.below(64),
            2 => 1u64 << self.below(64),
            _ => self.0,
        }
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// Start and end of every token.
fn tokens(text: &str) -> Vec<(usize, usize)> {
    let word = |c: char| c.is_ascii_alphanumeric() || "_$%.".contains(c);
    let mut spans = Vec::new();
    let mut start = None;
    for (at, c) in text.char_indices() {
        if word(c) {
            start.get_or_insert(at);
            continue;
        }
        spans.extend(start.take().map(|from| (from, at)));
        if !c.is_whitespace() {
            spans.push((at, at + c.len_utf8()));
        }
    }
    spans
}

/// The text of one kernel's module with a few changes, made where most of it still means something.
fn mutate(text: &str, spans: &[(usize, usize)], random: &mut Random) -> Vec<u8> {
    let mut edits: Vec<(usize, usize, Vec<u8>)> = Vec::new();
    for _ in 0..1 + random.below(3) {
        let (from, to) = spans[random.below(spans.len())];
        let other = spans[random.below(spans.len())];
        let new = match random.below(16) {
            0 => Vec::new(),
            1 => text.as_bytes()[other.0..other.1].to_vec(),
            2 => text[from..to].repeat(2).into_bytes(),
            3 => (random.word() as i64).to_string().into_bytes(),
            4 => [&b"{"[..], b"}", b"(", b")", b"[", b"]", b";", b",", b"@", b"!", b"|", b"_", b"-", b"0f7fffffff"]
                [random.below(14)]
            .to_vec(),
            // A token of the same first letter: mostly of the same kind.
            5..15 => {
                let like = |span: &&(usize, usize)| text.as_bytes()[span.0] == text.as_bytes()[from];
                let near = &spans[random.below(spans.len())..];
                near.iter().find(like).map_or(Vec::new(), |span| text.as_bytes()[span.0..span.1].to_vec())
            }
            _ => {
                let mut bytes = text.as_bytes()[from..to].to_vec();
                let at = random.below(bytes.len());
                bytes[at] = random.below(256) as u8;
                bytes
            }
        };
        edits.push((from, to, new));
    }
    let mut bytes = text.as_bytes().to_vec();
    edits.sort_by_key(|(from, ..)| std::cmp::Reverse(*from));
    let mut last = usize::MAX;
    for (from, to, new) in edits {
        if to <= last {
            bytes.splice(from..to, new);
            last = from;
        }
    }
    bytes
}

/// Runs a kernel of a loaded module on parameters that are pointers, numbers, or nonsense.
fn launch(machine: &Machine, image: &[u8], name: &str, random: &mut Random) -> Option<bool> {
    let (program, _) = load(image, SM_90, false).ok()?;
    // What no memory holds is refused by the driver before anything is initialised.
    if program.variables().iter().map(|variable| variable.size).max().unwrap_or(0) > 1 << 20 {
        return None;
    }
    let globals: Arc<[u64]> = program.variables().iter().map(|variable| machine.alloc(variable.size.max(1))).collect();
    program.initialise(&globals, &machine.space).ok()?;
    let kernel = program.kernel(name).ok()?;
    let data = machine.upload(&[7u8; 1024]);
    let mut params: Vec<u8> = (0..kernel.param_bytes.div_ceil(8)).flat_map(|_| data.to_le_bytes()).collect();
    let map = Tiled {
        kind: 6,
        address: data,
        sizes: vec![16, 32],
        strides: vec![32],
        extent: vec![16, 8],
        steps: vec![1, 1],
        ..Tiled::default()
    };
    let map: Vec<u8> = encode(&map).ok()?.iter().flat_map(|word| word.to_le_bytes()).collect();
    for param in kernel.params.iter().filter(|param| param.size as usize == map.len()) {
        params[param.offset as usize..][..map.len()].copy_from_slice(&map);
    }
    if random.below(4) == 0 {
        for chunk in params.chunks_mut(4) {
            if random.below(3) == 0 {
                chunk.copy_from_slice(&(random.word() as u32).to_le_bytes()[..chunk.len()]);
            }
        }
    }
    params.truncate(kernel.param_bytes as usize);
    let cluster = kernel.cluster.filter(|sizes| sizes.iter().product::<u32>() <= 16).unwrap_or([1; 3]);
    let block = match random.below(4) {
        0 => kernel.max_threads.unwrap_or([128, 1, 1]),
        n => [[32, 1, 1], [70, 1, 1], [3, 5, 2]][n - 1],
    };
    let outcome = run(&Launch {
        kernel,
        grid: cluster,
        block,
        cluster,
        dynamic_shared: [0, 512][random.below(2)],
        params,
        globals,
        memory: machine.space.snapshot(),
        settings: machine.settings.clone(),
        limits: Limits::default(),
    });
    Some(outcome.fault.is_some())
}

#[test]
fn changed_ptx_ends_in_an_error_or_a_run() {
    let seed = setting("SOFTGPU_MUTANTS_SEED", 20_251_122);
    let count = setting("SOFTGPU_MUTANTS", 1500);
    println!("SOFTGPU_MUTANTS_SEED={seed}");
    let mut random = Random(seed | 1);
    let parsed: Vec<_> = TEXTS
        .iter()
        .map(|text| {
            let (program, _) = load(text.as_bytes(), SM_90, false).unwrap();
            (*text, tokens(text), program.kernel_names().map(String::from).collect::<Vec<_>>())
        })
        .collect();
    let (mut loaded, mut ran, mut failed) = (0u64, 0u64, 0u64);
    for round in 0..count {
        let (text, spans, names) = &parsed[random.below(parsed.len())];
        let image = mutate(text, spans, &mut random);
        // A text ends at its NUL, as for the driver.
        loaded += u64::from(!matches!(load(&image, SM_90, false), Err(LoadError::Ptx(_) | LoadError::Image(_))));
        let mut machine = Machine::seeded(round % 3);
        machine.settings.step_limit = 4000;
        let name = &names[random.below(names.len())];
        if let Some(fault) = launch(&machine, &image, name, &mut random) {
            (ran, failed) = (ran + 1, failed + u64::from(fault));
        }
    }
    // The changes must reach every stage, or this test shows nothing.
    assert!(
        loaded > count / 5 && ran > count / 6 && failed > count / 40,
        "{loaded} loaded, {ran} ran, {failed} failed"
    );
}

#[test]
fn broken_containers_are_errors() {
    let ptx = TEXTS[3].as_bytes();
    let mut image = 0xBA55_ED50u32.to_le_bytes().to_vec();
    image.extend([1, 0, 16, 0]);
    image.extend((2 * 64 + 2 * ptx.len() as u64).to_le_bytes());
    for arch in [80u32, 90] {
        let mut header = [0u8; 64];
        header[0] = 1;
        header[4] = 64;
        header[8..16].copy_from_slice(&(ptx.len() as u64).to_le_bytes());
        header[28..32].copy_from_slice(&arch.to_le_bytes());
        image.extend(header);
        image.extend(ptx);
    }
    assert!(load(&image, SM_90, false).is_ok());
    let mut random = Random(77);
    let mut refused = 0;
    for _ in 0..3000 {
        let mut broken = image.clone();
        for _ in 0..1 + random.below(3) {
            // Headers of the container and of both entries, more often than the text between them.
            let at = match random.below(8) {
                0 => random.below(image.len()),
                1..4 => random.below(16),
                4..6 => 16 + random.below(64),
                _ => 80 + ptx.len() + random.below(64),
            };
            broken[at] = if random.below(2) == 0 { random.below(256) as u8 } else { broken[at] ^ 1 << random.below(8) };
        }
        if random.below(4) == 0 {
            broken.truncate(random.below(image.len()));
        }
        refused += usize::from(load(&broken, SM_90, false).is_err());
    }
    assert!((300..3000).contains(&refused), "{refused} of 3000 were refused");
}

#[test]
fn launches_of_any_shape_are_refused_or_run() {
    let (program, _) = load(TEXTS[3].as_bytes(), SM_90, false).unwrap();
    let mut random = Random(99);
    let (mut refused, mut faulted, mut clean) = (0, 0, 0);
    for round in 0..600u64 {
        let machine = Machine::seeded(round % 3);
        let globals: Arc<[u64]> = program.variables().iter().map(|variable| machine.alloc(variable.size)).collect();
        program.initialise(&globals, &machine.space).unwrap();
        let kernel = program.kernel(["statics", "locals", "dynamic_shared"][random.below(3)]).unwrap();
        let (x, y) = (machine.upload(&[3u32; 64]), machine.alloc(1024));
        let mut params: Vec<u8> = [x, y].iter().flat_map(|address| address.to_le_bytes()).collect();
        match random.below(6) {
            0 => params.truncate(random.below(17)),
            1 => params.extend([0; 5]),
            2 => params[..8].copy_from_slice(&random.word().to_le_bytes()),
            _ => {}
        }
        let mut side = |most: u64| match random.below(3) {
            0 => (random.word() % most) as u32,
            1 => random.word() as u32,
            _ => 1,
        };
        let (grid, block) = ([side(3), side(2), side(2)], [side(65), side(5), side(3)]);
        let settings =
            Settings { step_limit: 20_000, only_ctas: Some([0, random.word(), 1].into()), ..machine.settings };
        let dynamic_shared = random.word() as u32 >> random.below(32);
        let memory = machine.space.snapshot();
        let limits = Limits::default();
        let cluster = [1; 3];
        let outcome =
            run(&Launch { kernel, grid, block, cluster, dynamic_shared, params, globals, memory, settings, limits });
        match outcome.fault {
            None => clean += 1,
            Some(fault) if fault.at.is_none() => refused += 1,
            Some(_) => faulted += 1,
        }
    }
    assert!(refused > 100 && faulted > 10 && clean > 10, "{refused} refused, {faulted} faulted, {clean} clean");
}
