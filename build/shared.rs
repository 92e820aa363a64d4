//! Images that the profiles of one target folder share: `cargo test` after `cargo build --release` compiles no kernel again.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{fs, process};

/// What belongs to one image, by extension.
const PARTS: [&str; 2] = ["fatbin", "ptxas"];

/// Entries that stay of each image: one or two per edit of a kernel would fill the disk.
const ENTRIES: usize = 4;

/// A folder of images by their keys; without a folder nothing is shared.
pub struct Shared {
    folder: Option<PathBuf>,
    root: PathBuf,
}

impl Shared {
    /// `out` is cargo's output folder for this build. Cargo marks its target folder for backup programs, and that mark is
    /// how it is known from here; a build system that has none shares nothing.
    pub fn new(root: &Path, out: &Path) -> Shared {
        let target = out.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
        Shared { folder: target.map(|target| target.join("sumexp-images")), root: root.to_path_buf() }
    }

    /// The folder of one image. Line information holds the sources' paths, which the key does not know: checkouts that
    /// share a target folder keep apart.
    fn entry(&self, stem: &str, key: &str) -> Option<PathBuf> {
        let mut hasher = DefaultHasher::new();
        (key, &self.root).hash(&mut hasher);
        self.folder.as_ref().map(|folder| folder.join(format!("{stem}-{:016x}", hasher.finish())))
    }

    /// Copies the image with this key into `out`, if there is one. Whatever goes wrong, nvcc can still be asked.
    pub fn take(&self, stem: &str, key: &str, out: &Path) -> bool {
        let Some(entry) = self.entry(stem, key) else { return false };
        PARTS.iter().all(|part| fs::copy(entry.join(part), out.join(format!("{stem}.{part}"))).is_ok())
    }

    /// Keeps the image in `out` under this key. An entry appears complete or not at all; losing one costs time, nothing else.
    pub fn keep(&self, stem: &str, key: &str, out: &Path) {
        let Some(entry) = self.entry(stem, key) else { return };
        // An entry of this name that could not be taken lacks a part.
        let _ = fs::remove_dir_all(&entry);
        let unfinished = entry.with_extension(format!("{}", process::id()));
        let copied = fs::create_dir_all(&unfinished).is_ok()
            && PARTS.iter().all(|part| fs::copy(out.join(format!("{stem}.{part}")), unfinished.join(part)).is_ok());
        if !copied || fs::rename(&unfinished, &entry).is_err() {
            let _ = fs::remove_dir_all(&unfinished);
        }
        self.forget_old(stem);
    }

    fn forget_old(&self, stem: &str) {
        let Some(Ok(folder)) = self.folder.as_ref().map(fs::read_dir) else { return };
        let of_stem = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.rsplit_once('-').is_some_and(|(name, _)| name == stem)
        };
        let age = |path: &PathBuf| path.metadata().and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut entries: Vec<PathBuf> = folder.flatten().map(|entry| entry.path()).filter(of_stem).collect();
        entries.sort_by_key(age);
        for entry in entries.iter().rev().skip(ENTRIES) {
            let _ = fs::remove_dir_all(entry);
        }
    }
}
