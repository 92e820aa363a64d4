//! Repeating work under many schedules: whatever the order of warps, blocks and lanes, the bits must be the same.

use super::client::Gpu;
use std::fmt;

/// Where two schedules gave different bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The seed whose outputs the others are compared with.
    pub first_seed: u64,
    /// The first seed that gave others.
    pub seed: u64,
    /// Which output, by position.
    pub output: usize,
    /// The first byte that differs; the length of the shorter one where one ends.
    pub byte: usize,
    /// That byte under the first and under the other seed; `None` past an end.
    pub values: [Option<u8>; 2],
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |value: Option<u8>| value.map_or_else(|| "nothing".to_string(), |value| format!("{value:#04x}"));
        let [a, b] = self.values.map(show);
        let Difference { first_seed, seed, output, byte, .. } = self;
        write!(f, "byte {byte} of output {output} is {a} under seed {first_seed} and {b} under seed {seed}")
    }
}

impl std::error::Error for Difference {}

impl Gpu {
    /// Runs `work` once under each seed and compares the bits of the outputs it returns; answers how many schedules
    /// agreed. A seed draws the order of warps, of blocks and of lanes that went apart, the length of turns, the poison
    /// of fresh memory, and when asynchronous copies land. `work` must not depend on what an earlier run left behind,
    /// and returns when its outputs are there. The seed is afterwards what it was.
    pub fn schedules<O: AsRef<[u8]>>(
        &self,
        seeds: impl IntoIterator<Item = u64>,
        mut work: impl FnMut(u64) -> Vec<O>,
    ) -> Result<u64, Difference> {
        let mut before = 0;
        self.change(|settings| before = settings.seed);
        let result = (|| {
            let mut first: Option<(u64, Vec<O>)> = None;
            let mut runs = 0;
            for seed in seeds {
                self.seed(seed);
                let outputs = work(seed);
                match &first {
                    Some((first_seed, wanted)) => compare(*first_seed, wanted, seed, &outputs)?,
                    None => first = Some((seed, outputs)),
                }
                runs += 1;
            }
            Ok(runs)
        })();
        self.seed(before);
        result
    }

    /// As [`Gpu::schedules`], for outputs that lie in device memory: an address and a number of bytes each. They hold
    /// before every run what they held before the first one.
    pub fn schedules_of(
        &self,
        seeds: impl IntoIterator<Item = u64>,
        outputs: &[(u64, u64)],
        mut work: impl FnMut(u64),
    ) -> Result<u64, Difference> {
        let read = || outputs.iter().map(|&(address, bytes)| self.read(address, bytes)).collect::<Vec<_>>();
        let before = read();
        self.schedules(seeds, |seed| {
            for (&(address, _), bytes) in outputs.iter().zip(&before) {
                self.write(address, bytes);
            }
            work(seed);
            read()
        })
    }
}

fn compare<O: AsRef<[u8]>>(first_seed: u64, wanted: &[O], seed: u64, outputs: &[O]) -> Result<(), Difference> {
    for output in 0..wanted.len().max(outputs.len()) {
        let bytes = |list: &[O]| list.get(output).map(|bytes| bytes.as_ref().to_vec()).unwrap_or_default();
        let (a, b) = (bytes(wanted), bytes(outputs));
        if a != b {
            let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
            let values = [a.get(same).copied(), b.get(same).copied()];
            return Err(Difference { first_seed, seed, output, byte: same, values });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        let first: [&[u8]; 2] = [&[1, 2], &[3, 4, 5]];
        assert_eq!(compare(0, &first, 7, &first), Ok(()));
        let difference = compare(0, &first, 7, &[&[1, 2], &[3, 9, 9]]).unwrap_err();
        assert_eq!(difference.to_string(), "byte 1 of output 1 is 0x04 under seed 0 and 0x09 under seed 7");
        let shorter = compare(0, &first, 8, &[&[1, 2], &[3, 4]]).unwrap_err();
        assert_eq!((shorter.output, shorter.byte, shorter.values), (1, 2, [Some(5), None]));
        let fewer = compare(0, &first, 9, &[&[1u8, 2][..]]).unwrap_err();
        assert_eq!((fewer.output, fewer.byte), (1, 0));
    }
}
