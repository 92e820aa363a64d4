//! What a real GPU answered: one line for each form, with digests of its results, or the results themselves where they
//! are compared within a tolerance.

use super::gpu::Gpu;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Rows that share a digest.
const ROWS: usize = 64;

/// The answers of one device.
#[derive(Default)]
pub struct Goldens {
    /// Where they come from.
    pub device: String,
    lines: BTreeMap<String, String>,
}

/// Where goldens are kept: beside this source, or in the folder that `SOFTGPU_CONFORMANCE_WRITE` names.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/goldens")
}

/// FNV-1a over columns of a run of rows.
fn digest(columns: &[Vec<u64>], rows: std::ops::Range<usize>) -> u32 {
    let mut hash = 0x811c_9dc5u32;
    for column in columns {
        for byte in column[rows.clone()].iter().flat_map(|value| value.to_le_bytes()) {
            hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        }
    }
    hash
}

/// Digests of the results: one for every 64 rows.
pub fn digests(columns: &[Vec<u64>]) -> String {
    let rows = columns.first().map_or(0, Vec::len);
    let starts = (0..rows).step_by(ROWS);
    starts.fold(String::from("d "), |mut line, start| {
        let _ = write!(line, "{:08x}", digest(columns, start..(start + ROWS).min(rows)));
        line
    })
}

/// One number for any bytes.
pub fn digest_of(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    format!("{hash:08x}")
}

/// The results in full.
pub fn values(columns: &[Vec<u64>]) -> String {
    columns.iter().flatten().fold(String::from("v "), |mut line, value| {
        let _ = write!(line, "{value:x},");
        line
    })
}

impl Goldens {
    /// None yet, of a device.
    pub fn new(device: &str) -> Goldens {
        Goldens { device: device.into(), ..Goldens::default() }
    }

    /// The recorded answers of a family, one for each device. A real device is not compared with others.
    pub fn recorded(gpu: &Gpu, family: &str) -> Vec<Goldens> {
        let Ok(entries) = std::fs::read_dir(folder()) else { return Vec::new() };
        let end = format!("-{family}.txt");
        let ours = |path: &PathBuf| gpu.software && path.to_string_lossy().ends_with(&end);
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(ours);
        paths.filter_map(|path| Some(Goldens::parse(&std::fs::read_to_string(path).ok()?))).collect()
    }

    /// What a file holds.
    pub fn parse(text: &str) -> Goldens {
        let mut goldens = Goldens::default();
        for line in text.lines() {
            if let Some(device) = line.strip_prefix("device ") {
                goldens.device = device.into();
            } else if let Some((form, answer)) = line.split_once('\t') {
                goldens.lines.insert(form.into(), answer.into());
            }
        }
        goldens
    }

    /// Puts the answer to a form.
    pub fn put(&mut self, form: &str, answer: String) {
        self.lines.insert(form.into(), answer);
    }

    /// What is recorded of a form.
    pub fn get(&self, form: &str) -> Option<&str> {
        self.lines.get(form).map(String::as_str)
    }

    /// In words how an answer differs from what is recorded, to the bit.
    pub fn differs(&self, form: &str, answer: &str) -> Option<String> {
        let recorded = self.get(form)?;
        (recorded != answer).then(|| format!("`{form}` differs from {}", self.device))
    }

    /// The recorded results, where they are kept in full.
    pub fn values(&self, form: &str) -> Option<Vec<u64>> {
        let list = self.get(form)?.strip_prefix("v ")?;
        Some(list.split_terminator(',').filter_map(|value| u64::from_str_radix(value, 16).ok()).collect())
    }

    /// Writes the file for a family, named after the device.
    pub fn write(&self, family: &str) {
        let Ok(folder) = std::env::var("SOFTGPU_CONFORMANCE_WRITE") else { return };
        let slug: String = self.device.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let mut text = format!("device {}\n", self.device);
        for (form, answer) in &self.lines {
            text += &format!("{form}\t{answer}\n");
        }
        std::fs::create_dir_all(&folder).expect("the folder for goldens can be made");
        let path = Path::new(&folder).join(format!("{slug}-{family}.txt"));
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        println!("{} written", path.display());
    }
}

#[test]
fn a_changed_result_changes_its_digest_and_no_other() {
    let mut columns = vec![(0..200).collect::<Vec<u64>>(), vec![7; 200]];
    let before = digests(&columns);
    columns[1][70] = 8;
    let after = digests(&columns);
    let differ: Vec<bool> =
        before.as_bytes()[2..].chunks(8).zip(after.as_bytes()[2..].chunks(8)).map(|(a, b)| a != b).collect();
    assert_eq!(differ, [false, true, false, false]);
    let goldens = Goldens::parse(&format!("device x\nadd\t{before}\nex2\t{}\n", values(&[vec![1, 0xab]])));
    assert_eq!((goldens.device.as_str(), goldens.get("add")), ("x", Some(before.as_str())));
    assert_eq!(goldens.values("ex2"), Some(vec![1, 0xab]));
}
