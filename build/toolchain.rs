//! Where nvcc and libclang are: a fixed order of places, each with the reason it was looked at.

use super::Failure;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The oldest nvcc that can choose how an image is compressed (`--compress-mode`).
const OLDEST: (u32, u32) = (12, 8);

/// The nvcc that was chosen.
pub struct Nvcc {
    /// The program.
    pub path: PathBuf,
    /// Why this one: a variable's name, a folder's role.
    pub why: String,
    /// What `nvcc --version` printed; a part of every image's key, so a new compiler rebuilds the images.
    pub version: String,
}

/// One place where nvcc may be.
struct Candidate {
    nvcc: PathBuf,
    why: String,
}

impl Candidate {
    /// The nvcc of a toolkit's folder.
    fn toolkit(root: impl AsRef<Path>, why: impl Into<String>) -> Candidate {
        Candidate { nvcc: root.as_ref().join("bin/nvcc"), why: why.into() }
    }
}

/// Everything the search depends on, read once.
pub struct Places {
    candidates: Vec<Candidate>,
    /// Folders that tools/cuda.sh fills, nearest first.
    fetched: Vec<PathBuf>,
}

impl Places {
    /// `root` is the crate's folder, `out` cargo's output folder for this build.
    pub fn new(root: &Path, out: &Path) -> Places {
        // Beside the crate and in its two parents for a workspace; above OUT_DIR for a program that depends on the
        // published crate, and for `cargo package`, which builds inside target/package.
        let mut fetched: Vec<PathBuf> = Vec::new();
        for folder in root.ancestors().take(3).chain(out.ancestors()) {
            let folder = folder.join(".cuda");
            if !fetched.contains(&folder) {
                fetched.push(folder);
            }
        }

        let mut candidates = Vec::new();
        for variable in ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"] {
            if let Some(root) = path_variable(variable) {
                candidates.push(Candidate::toolkit(root, variable));
            }
        }
        for folder in &fetched {
            candidates.push(Candidate::toolkit(folder.join("nvidia/cu13"), "tools/cuda.sh"));
        }
        for variable in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
            let Some(prefix) = path_variable(variable) else { continue };
            for python in children(&prefix.join("lib")) {
                let root = python.join("site-packages/nvidia/cu13");
                if root.is_dir() {
                    candidates.push(Candidate::toolkit(root, format!("wheels in {variable}")));
                }
            }
            candidates.push(Candidate::toolkit(prefix, variable));
        }
        for folder in env::split_paths(&env::var_os("PATH").unwrap_or_default()) {
            candidates.push(Candidate { nvcc: folder.join("nvcc"), why: "PATH".to_string() });
        }
        for root in ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda"] {
            candidates.push(Candidate::toolkit(root, "usual place"));
        }
        Places { candidates, fetched }
    }
}

/// The first nvcc in the order of [`Places`], checked to be new enough.
pub fn find_nvcc(places: &Places) -> Result<Nvcc, Failure> {
    let mut looked = Vec::new();
    for candidate in &places.candidates {
        let path = candidate.nvcc.clone();
        if !path.is_file() {
            looked.push(format!("  {} ({})", path.display(), candidate.why));
            continue;
        }
        // A variable that was set and names no toolkit is a mistake worth a word, even when the search goes on well.
        for missed in places.candidates.iter().take(looked.len()).filter(|missed| missed.why.starts_with("CUDA_")) {
            println!(
                "cargo::warning={} is set, but there is no {}: {} is used (found through {})",
                missed.why,
                missed.nvcc.display(),
                path.display(),
                candidate.why
            );
        }
        let version = version_text(&path, &candidate.why)?;
        let nvcc = Nvcc { path, why: candidate.why.clone(), version };
        return new_enough(&nvcc).map(|()| nvcc);
    }
    looked.insert(0, "nvcc not found. Looked in:".to_string());
    looked.push("Fix: run tools/cuda.sh in the sumexp folder, or set CUDA_HOME to a CUDA toolkit >= 12.8.".to_string());
    Err(looked)
}

fn version_text(nvcc: &Path, why: &str) -> Result<String, Failure> {
    let output = Command::new(nvcc).arg("--version").output();
    match output {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => Err(vec![format!(
            "{} (found through {why}) --version failed: {}",
            nvcc.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        )]),
        Err(error) => Err(vec![format!("{} (found through {why}) cannot be run: {error}", nvcc.display())]),
    }
}

fn new_enough(nvcc: &Nvcc) -> Result<(), Failure> {
    let name = format!("{} (found through {})", nvcc.path.display(), nvcc.why);
    let Some((major, minor)) = release(&nvcc.version) else {
        return Err(vec![format!("{name} does not say its release: {}", nvcc.version.trim())]);
    };
    if (major, minor) >= OLDEST {
        return Ok(());
    }
    let fix = match nvcc.why.as_str() {
        why if why.starts_with("CUDA_") => format!("set {why} to a CUDA toolkit >= 12.8, or unset it and"),
        _ => "set CUDA_HOME to a CUDA toolkit >= 12.8, or".to_string(),
    };
    Err(vec![
        format!("{name} is release {major}.{minor}, and sumexp needs 12.8 or newer."),
        format!("Fix: {fix} run tools/cuda.sh in the sumexp folder."),
    ])
}

/// `(13, 0)` out of `... release 13.0, V13.0.88`.
fn release(version: &str) -> Option<(u32, u32)> {
    let number = version.split("release ").nth(1)?.split(',').next()?;
    let (major, minor) = number.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Points bindgen at libclang: `LIBCLANG_PATH` if the user set it, else what tools/cuda.sh fetched, else nothing, so
/// that bindgen looks in the system's folders. Returns the folder it chose, if any. Call before any thread starts.
pub fn choose_libclang(places: &Places) -> Result<Option<PathBuf>, Failure> {
    if let Some(path) = path_variable("LIBCLANG_PATH") {
        if holds_libclang(&path) {
            return Ok(Some(path));
        }
        return Err(vec![
            format!("LIBCLANG_PATH is {}, where there is no libclang.", path.display()),
            "Fix: unset it, or set it to the folder of libclang.so.".to_string(),
        ]);
    }
    let found = places.fetched.iter().map(|folder| folder.join("clang/native")).find(|folder| holds_libclang(folder));
    if let Some(folder) = &found {
        // SAFETY: the build script has started no thread yet (its caller `run` does so only while compiling, later),
        // so nothing reads the environment at the same time.
        unsafe { env::set_var("LIBCLANG_PATH", folder) };
    }
    Ok(found)
}

/// Whether `path` is a libclang library or a folder that contains one.
fn holds_libclang(path: &Path) -> bool {
    let named = |path: &Path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.starts_with("libclang") && (name.contains(".so") || name.contains(".dylib"))
    };
    if path.is_file() { named(path) } else { children(path).iter().any(|child| named(child)) }
}

/// The entries of a folder in a fixed order; nothing if it cannot be read.
fn children(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    entries.sort();
    entries
}

/// A variable that is set and not empty.
fn path_variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
