//! `make resources`: what every kernel uses, as ptxas reported it during the build, and the occupancy that allows.

mod occupancy;

use occupancy::{Occupancy, multiprocessor};

/// Written by the build script: one line per kernel and architecture.
const TABLE: &str = include_str!(concat!(env!("OUT_DIR"), "/resources.tsv"));

fn main() {
    println!(
        "{:<44} {:<7} {:>7} {:>9} {:>7} {:>8} {:>6} {:>6}  occupancy without dynamic shared memory (limited by)",
        "kernel", "arch", "threads", "registers", "shared", "barriers", "stack", "spills"
    );
    let mut spilling = 0;
    let mut kernels = 0;
    for line in TABLE.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let numbers: Vec<u32> = fields[3..].iter().map(|field| field.parse().expect("a number")).collect();
        let &[threads, registers, shared, barriers, stack, stores, loads] = numbers.as_slice() else {
            panic!("resources.tsv has a line with {} columns: {line}", fields.len());
        };
        let occupancy = match threads {
            0 => "unknown: the kernel has no launch bounds".to_string(),
            _ => Occupancy::of(&multiprocessor(fields[2]), threads, registers, shared).to_string(),
        };
        println!(
            "{:<44} {:<7} {threads:>7} {registers:>9} {shared:>7} {barriers:>8} {stack:>6} {:>6}  {occupancy}",
            fields[1],
            fields[2],
            stores + loads
        );
        kernels += 1;
        spilling += u32::from(stores + loads > 0);
    }
    println!("{kernels} kernels, {spilling} of them spill registers to memory");
}
