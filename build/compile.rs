//! From `kernels/*.cu` to images: which sources there are, what each depends on, and nvcc for those that changed.

use super::Failure;
use super::resources::{self, Kernel};
use super::shared::Shared;
use super::toolchain::Nvcc;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, thread};

/// The architectures of a release build: 80 for every GPU from Ampere on, 90a for Hopper.
const ARCHS: [&str; 2] = ["80", "90a"];

/// How the names of kernel files end that only Hopper can run, and that a build without it leaves out.
const HOPPER: &str = "_sm90a";

/// Flags from CUDA C++ to PTX.
const TO_PTX: [&str; 5] = ["-ptx", "-O3", "-std=c++17", "-Werror=all-warnings", "-Ikernels"];

/// Flags from PTX to an image. Compression makes it a ninth as large; the driver unpacks it when it is loaded.
const TO_IMAGE: [&str; 5] = ["-fatbin", "-O3", "-Werror=all-warnings", "--compress-mode=size", "-Xptxas=-v"];

/// Which code knows the lines of its sources. They cost no speed but many bytes, most of them in machine code, so they follow
/// the Rust profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Lines {
    /// Built without debug information.
    Nowhere,
    /// Built with debug information: the software GPU names lines.
    Ptx,
    /// A release with debug information: profilers do, too.
    Everywhere,
}

impl Lines {
    fn of_profile() -> Lines {
        let is = |variable, value| env::var(variable).is_ok_and(|text| text == value);
        match env::var("DEBUG") {
            Ok(debug) if debug != "false" && debug != "0" => {
                if is("PROFILE", "release") {
                    Lines::Everywhere
                } else {
                    Lines::Ptx
                }
            }
            _ => Lines::Nowhere,
        }
    }

    fn of_ptx(self) -> Option<&'static str> {
        (self != Lines::Nowhere).then_some("-lineinfo")
    }

    fn of_image(self) -> Option<&'static str> {
        match self {
            Lines::Nowhere => None,
            Lines::Ptx => Some("-Xptxas=--suppress-debug-info"),
            Lines::Everywhere => Some("-lineinfo"),
        }
    }
}

/// One kernel file.
pub struct Source {
    /// The file's name without folder and extension: the image's name.
    pub stem: String,
    path: PathBuf,
}

impl Source {
    /// The machine code for `archs`, and the architecture of the PTX that it is made from. Kernels for every GPU are translated to PTX
    /// once; the driver translates that for GPUs that are newer than all machine code, and the software GPU runs nothing else.
    fn targets(&self, archs: &[&str]) -> [String; 2] {
        if self.stem.ends_with(HOPPER) {
            return ["sm_90a,".to_string(), "90a".to_string()];
        }
        // Machine code with an `a` is what only kernels with an `a` need.
        let machine: Vec<String> = archs.iter().map(|arch| format!("sm_{},", arch.trim_end_matches('a'))).collect();
        [machine.concat(), "80".to_string()]
    }
}

/// Every `kernels/*.cu` that one of `archs` can run, by name.
pub fn sources(kernels: &Path, archs: &[&str]) -> Result<Vec<Source>, Failure> {
    let entries = fs::read_dir(kernels).map_err(|error| vec![format!("cannot read {}: {error}", kernels.display())])?;
    let mut sources: Vec<Source> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .map(|path| Source { stem: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), path })
        .filter(|source| archs.contains(&"90a") || !source.stem.ends_with(HOPPER))
        .collect();
    sources.sort_by(|a, b| a.stem.cmp(&b.stem));
    Ok(sources)
}

/// The architectures to compile for: all, or those that `SUMEXP_CUDA_ARCHS` names.
pub fn archs(wanted: Option<&str>) -> Result<Vec<&'static str>, Failure> {
    let Some(wanted) = wanted.filter(|wanted| !wanted.trim().is_empty()) else { return Ok(ARCHS.to_vec()) };
    let mut chosen = Vec::new();
    for name in wanted.split(',').map(str::trim) {
        match ARCHS.iter().find(|arch| **arch == name) {
            Some(arch) => chosen.push(*arch),
            None => {
                return Err(vec![
                    format!("SUMEXP_CUDA_ARCHS is \"{wanted}\": \"{name}\" is not one of {}.", ARCHS.join(", ")),
                    "Fix: unset it for all architectures, or name some of these, separated by commas.".to_string(),
                ]);
            }
        }
    }
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}

/// Compiles what changed and returns what every kernel of every source uses.
pub fn all(nvcc: &Nvcc, archs: &[&str], root: &Path, out: &Path, sources: &[Source]) -> Result<Vec<Kernel>, Failure> {
    let build = Build { nvcc, archs, root, out, lines: Lines::of_profile(), shared: Shared::new(root, out) };
    let mut pending = Vec::new();
    for source in sources {
        let key = build.key(source)?;
        if !build.is_current(source, &key) {
            pending.push((source, key));
        }
    }

    // Cargo's own limit on parallel work. With fewer files than cores nvcc takes the architectures side by side.
    let cores = env::var("NUM_JOBS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_usize).max(1);
    let workers = cores.min(pending.len());
    let threads = cores.checked_div(workers).unwrap_or(1);
    let next = AtomicUsize::new(0);
    let failures: Mutex<Vec<(usize, Failure)>> = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((index, (source, key))) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    pending.get(index).map(|job| (index, job))
                } {
                    if let Err(lines) = build.compile(source, key, threads) {
                        failures.lock().expect("no worker panics").push((index, lines));
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().expect("no worker panics");
    failures.sort_by_key(|(index, _)| *index);
    let failures: Failure = failures.into_iter().flat_map(|(_, lines)| lines).collect();
    if !failures.is_empty() {
        return Err(failures);
    }

    let mut kernels = Vec::new();
    for source in sources {
        kernels.extend(build.inspect(source)?);
    }
    Ok(kernels)
}

/// What is common to all compilations of one run.
struct Build<'a> {
    nvcc: &'a Nvcc,
    archs: &'a [&'a str],
    root: &'a Path,
    out: &'a Path,
    lines: Lines,
    shared: Shared,
}

impl Build<'_> {
    fn output(&self, source: &Source, extension: &str) -> PathBuf {
        self.out.join(format!("{}.{extension}", source.stem))
    }

    /// Everything an image depends on, in one number: the compiler, the flags, the source and its headers.
    fn key(&self, source: &Source) -> Result<String, Failure> {
        let mut hasher = DefaultHasher::new();
        (&self.nvcc.version, source.targets(self.archs), TO_PTX, TO_IMAGE, self.lines).hash(&mut hasher);
        for variable in ["NVCC_CCBIN", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"] {
            env::var_os(variable).hash(&mut hasher);
        }
        let mut files = BTreeSet::new();
        headers(&source.path, &self.root.join("kernels"), &mut files)?;
        for file in &files {
            let name = file.strip_prefix(self.root).unwrap_or(file);
            (name, read(file)?).hash(&mut hasher);
        }
        Ok(format!("{:016x}", hasher.finish()))
    }

    fn is_current(&self, source: &Source, key: &str) -> bool {
        // The key is written after everything else, so where it is right the rest is complete.
        self.output(source, "fatbin").is_file()
            && fs::read_to_string(self.output(source, "key")).is_ok_and(|kept| kept == key)
    }

    fn compile(&self, source: &Source, key: &str, threads: usize) -> Result<(), Failure> {
        // An interrupted run must not leave an old key beside a new image.
        let _ = fs::remove_file(self.output(source, "key"));
        if self.shared.take(&source.stem, key, self.out) {
            self.inspect(source)?;
        } else {
            self.call_nvcc(source, threads)?;
            self.inspect(source)?;
            self.shared.keep(&source.stem, key, self.out);
        }
        super::write(&self.output(source, "key"), key)
    }

    fn call_nvcc(&self, source: &Source, threads: usize) -> Result<(), Failure> {
        let [machine, ptx] = source.targets(self.archs);
        let (text, image) = (self.output(source, "ptx"), self.output(source, "fatbin"));
        let mut compile = Command::new(&self.nvcc.path);
        compile.args(TO_PTX).args(self.lines.of_ptx()).arg(format!("-arch=compute_{ptx}")).arg("-o").arg(&text);
        compile.arg(source.path.strip_prefix(self.root).unwrap_or(&source.path));
        self.run(source, compile)?;

        let mut assemble = Command::new(&self.nvcc.path);
        assemble.args(TO_IMAGE).args(self.lines.of_image()).arg(format!("--threads={threads}"));
        assemble.arg("-gencode").arg(format!("arch=compute_{ptx},code=[{machine}compute_{ptx}]"));
        assemble.arg("-o").arg(image).arg(&text);
        let mut report = self.run(source, assemble)?;
        // What the image holds of it is compressed.
        report += &resources::block_sizes(&read(&text)?);
        let _ = fs::remove_file(text);
        super::write(&self.output(source, "ptxas"), &report)
    }

    /// Runs nvcc in the crate's folder and returns what it printed.
    fn run(&self, source: &Source, mut nvcc: Command) -> Result<String, Failure> {
        let output = nvcc.current_dir(self.root).output();
        let output = output.map_err(|error| vec![format!("{} cannot be run: {error}", self.nvcc.path.display())])?;
        let log = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(log.into_owned()) } else { Err(self.failed(source, &log)) }
    }

    fn failed(&self, source: &Source, log: &str) -> Failure {
        let name = self.nvcc.path.display();
        let mut lines = vec![format!("{name} (found through {}) failed on {}:", self.nvcc.why, source.path.display())];
        // What ptxas says of the kernels that did compile would bury the reason.
        lines.extend(log.lines().filter(|line| !resources::is_usage(line)).map(str::to_string));
        if ["host compiler", "cc1plus", "gcc"].iter().any(|word| log.contains(word)) {
            lines.push(
                "Fix: install a C++ host compiler (Debian/Ubuntu: apt install g++); nvcc needs it even for device code."
                    .to_string(),
            );
        }
        lines
    }

    /// Reads what the compiler reported of one image and refuses what must not ship.
    fn inspect(&self, source: &Source) -> Result<Vec<Kernel>, Failure> {
        let log = read(&self.output(source, "ptxas"))?;
        let kernels = resources::kernels(&source.stem, &log);
        resources::gate(&source.stem, &read(&source.path)?, &log, &kernels, self.archs.len() == ARCHS.len())?;
        Ok(kernels)
    }
}

/// Adds `file` and every file it includes by `#include "..."`, looked up as nvcc does: beside the including file, then
/// in `kernels`. Conditions are not evaluated, so the set may be too large but never too small.
fn headers(file: &Path, kernels: &Path, files: &mut BTreeSet<PathBuf>) -> Result<(), Failure> {
    if !files.insert(file.to_path_buf()) {
        return Ok(());
    }
    for line in read(file)?.lines() {
        let Some(rest) = line.trim_start().strip_prefix('#') else { continue };
        let Some(rest) = rest.trim_start().strip_prefix("include") else { continue };
        let Some(name) = rest.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next()) else { continue };
        let beside = file.parent().unwrap_or(kernels).join(name);
        let found = [beside, kernels.join(name)].into_iter().find(|path| path.is_file());
        // A name that neither folder has is nvcc's to explain.
        if let Some(path) = found.and_then(|path| path.canonicalize().ok()) {
            headers(&path, kernels, files)?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| vec![format!("cannot read {}: {error}", path.display())])
}

/// `images.rs`: the images by name. Aligned, because the driver reads an image's header as 8-byte words.
pub fn index(sources: &[Source]) -> String {
    let mut text = "#[repr(C, align(64))]\nstruct Aligned<B: ?Sized>(B);\n".to_string();
    for Source { stem, .. } in sources {
        text += &format!(
            "static {}: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{stem}.fatbin\")));\n",
            stem.to_uppercase()
        );
    }
    text += "/// The compiled kernel files: name of the file without its extension, fatbin.\n";
    text += "pub static IMAGES: &[(&str, &[u8])] = &[";
    for Source { stem, .. } in sources {
        text += &format!("(\"{stem}\", &{}.0), ", stem.to_uppercase());
    }
    text + "];\n"
}
