//! Mutates a corpus, keeps what is new, and saves what fails.

use crate::common::random::Random;
use std::collections::HashSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The longest input.
const LONGEST: usize = 1 << 15;
/// The most inputs from which others are made.
const POOL: usize = 4096;
/// An input that takes longer counts as one that hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes for a target, read from the front; zeros when they are used up.
pub struct Bytes<'a>(pub &'a [u8]);

impl Bytes<'_> {
    pub fn byte(&mut self) -> u8 {
        let (&first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        first
    }

    /// A number from 0 to `end - 1`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    pub fn word(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An outcome as a number.
pub fn outcome(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// A text without what differs from input to input: numbers and quoted words.
pub fn gist(text: &str) -> String {
    let unquoted = text.split(['`', '"']).step_by(2).collect::<String>();
    unquoted.chars().filter(|c| !c.is_ascii_digit()).collect()
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not `{text}`")))
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Runs one input.
fn run(target: &str, body: fn(&[u8]) -> u64, input: &[u8]) -> u64 {
    let start = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| body(input)));
    let slow = start.elapsed() > PATIENCE;
    if let (false, Ok(outcome)) = (slow, &result) {
        return *outcome;
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{target}-{:016x}", outcome(input)));
    fs::write(&file, input).unwrap();
    eprintln!("{}: this input fails; put it into tests/fuzz/corpus/{target}", file.display());
    match result {
        Ok(_) => panic!("it takes {:?}", start.elapsed()),
        Err(panic) => resume_unwind(panic),
    }
}

/// Where the next line begins.
fn line_after(input: &[u8], at: usize) -> usize {
    input[at..].iter().position(|&c| c == b'\n').map_or(input.len(), |line| at + line + 1)
}

/// Changes an input at a few places.
fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        let at = random.below(input.len() + 1);
        let longest = [4, 16, 256][random.below(3)];
        let length = 1 + random.below(longest);
        let end = (at + length).min(input.len());
        match random.below(9) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.bits() as u8,
            2 if at < input.len() => input[at] = [0, 1, 0x7f, 0x80, 0xff, b'0', b'-', b';'][random.below(8)],
            3 => drop(input.drain(at..end)),
            4 => drop(input.splice(at..at, (0..length).map(|_| random.bits() as u8))),
            5 => {
                let copied = input[at..end].to_vec();
                let to = random.below(input.len() + 1);
                input.splice(to..to, copied);
            }
            6 if !other.is_empty() => {
                let from = random.below(other.len());
                let until = (from + length).min(other.len());
                input.splice(at..end, other[from..until].iter().copied());
            }
            7 => {
                // Lines are the statements of a text.
                let from = line_after(input, at);
                let line: Vec<u8> = input.drain(from..line_after(input, from)).collect();
                let to = line_after(input, random.below(input.len() + 1));
                input.splice(to..to, line);
            }
            8 => {
                // A number that is near the end of something.
                let number: &[u8] =
                    [&b"4294967295"[..], b"18446744073709551615", b"-1", b"0x80000000", b"65536"][random.below(5)];
                let digits = (at..input.len()).find(|&at| input[at].is_ascii_digit());
                if let Some(from) = digits {
                    let until = (from..input.len()).find(|&at| !input[at].is_ascii_digit()).unwrap_or(input.len());
                    input.splice(from..until, number.iter().copied());
                }
            }
            _ => {}
        }
    }
    input.truncate(LONGEST);
}

/// Runs the corpus, and so many mutations of it, or as many as the environment gives time for.
pub fn fuzz(target: &str, body: fn(&[u8]) -> u64, executions: u64) {
    let (seconds, seed) = (number("SUMEXP_FUZZ_SECONDS"), number("SUMEXP_FUZZ_SEED").unwrap_or(1));
    let mut random = Random::new(seed);
    let mut pool = corpus(target);
    assert!(!pool.is_empty(), "{target} has no corpus");
    let mut seen: HashSet<u64> = pool.iter().map(|input| run(target, body, input)).collect();
    let (start, mut done) = (Instant::now(), pool.len() as u64);
    while seconds.map_or(done < executions, |seconds| start.elapsed() < Duration::from_secs(seconds)) {
        let mut input = pool[random.below(pool.len())].clone();
        let other = &pool[random.below(pool.len())];
        mutate(&mut input, other, &mut random);
        if seen.insert(run(target, body, &input)) && pool.len() < POOL {
            pool.push(input);
        }
        done += 1;
    }
    println!("{target}: {done} executions from seed {seed} on, {} outcomes", seen.len());
    assert!(seen.len() > 1, "every input of {target} has the same outcome: it shows nothing");
}
