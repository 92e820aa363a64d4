//! A crate made for one test, with a compiler that only records what it was asked.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Left by the build script: its own path, the nvcc it used, the folder of libclang (empty: the system's).
const BUILT_BY: &str = include_str!(concat!(env!("OUT_DIR"), "/build_script.txt"));

pub const VERSION: &str = "Cuda compilation tools, release 13.0, V13.0.88";

/// What the fake compiler leaves as an image.
pub const IMAGE: &str = "an image";

/// What it keeps on the way: PTX that knows the block size of one kernel, for every GPU and for Hopper.
const PTX: [&str; 2] = [
    ".target sm_80\n.entry first(\n)\n.maxntid 128, 2, 1\n{\n}\n",
    ".target sm_90a\n.entry first(\n)\n.reqntid 384\n{\n}\n",
];

/// A usage report in ptxas's words.
pub fn report(stores: u32, loads: u32) -> String {
    let of = |arch| {
        format!(
            "ptxas info    : 0 bytes gmem\n\
             ptxas info    : Compiling entry function 'first' for '{arch}'\n\
             ptxas info    : Function properties for first\n    \
             16 bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads\n\
             ptxas info    : Used 40 registers, used 1 barriers, 512 bytes smem, 376 bytes cmem[0]\n\
             ptxas info    : Compile time = 1.000 ms\n"
        )
    };
    of("sm_80") + &of("sm_90")
}

/// A crate, two folders deep in a temporary folder that goes when this is dropped.
pub struct House {
    top: PathBuf,
    pub variables: BTreeMap<&'static str, String>,
}

/// What one run of the build script did.
pub struct Run {
    pub ok: bool,
    pub stdout: String,
    /// The arguments of each compilation to PTX, sorted.
    pub calls: Vec<String>,
    /// Those of each translation of PTX to an image, sorted.
    pub images: Vec<String>,
}

impl Run {
    /// The lines of all errors.
    pub fn errors(&self) -> String {
        assert!(!self.ok, "the build succeeded: {}", self.stdout);
        let lines = self.stdout.lines().filter_map(|line| line.strip_prefix("cargo::error="));
        lines.map(|line| format!("{line}\n")).collect()
    }

    /// The files compiled, sorted.
    #[track_caller]
    pub fn compiled(&self) -> Vec<&str> {
        assert!(self.ok, "{}", self.stdout);
        let mut files: Vec<&str> = self.calls.iter().filter_map(|call| call.rsplit(' ').next()).collect();
        files.sort_unstable();
        files
    }
}

impl House {
    /// Two kernel files that share a header, and a compiler under `CUDA_HOME`.
    pub fn new() -> House {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let top = std::env::temp_dir().join(format!("sumexp-build-script-{}-{number}", std::process::id()));
        let mut house = House { top, variables: BTreeMap::new() };
        house.file(
            "kernels/params.h",
            "#include <stdint.h>\nstruct P {\n  /// Rows.\n  uint64_t rows;\n  float *x;\n};\n",
        );
        house.file("kernels/common/state.cuh", "// State.\n#include \"deeper.cuh\"\n");
        house.file("kernels/common/deeper.cuh", "// Deeper.\n");
        house.file("kernels/a.cu", "// A.\n#include \"common/state.cuh\"\n#include \"params.h\"\n");
        house.file("kernels/b.cu", "// B.\n#include <stdint.h>\n  # include \"params.h\"\n");
        house.file("out/.keep", "");
        house.nvcc("cuda");
        house.set("CUDA_HOME", "cuda");
        house.variables.insert("NUM_JOBS", "2".to_string());
        house
    }

    /// A path in the crate's folder.
    pub fn path(&self, path: &str) -> PathBuf {
        self.top.join("workspace/crate").join(path)
    }

    pub fn file(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Puts a compiler into `folder/bin`. It is a link, since a program that was just written may still be busy.
    pub fn nvcc(&self, folder: &str) {
        for (name, text) in [
            ("version", VERSION),
            ("log", &report(0, 0)),
            ("code", "0\n"),
            ("image", IMAGE),
            ("ptx_80", PTX[0]),
            ("ptx_90a", PTX[1]),
        ] {
            self.file(&format!("{folder}/{name}"), text);
        }
        fs::create_dir_all(self.path(&format!("{folder}/running"))).unwrap();
        fs::create_dir_all(self.path(&format!("{folder}/bin"))).unwrap();
        let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/build_script/fake_nvcc.sh");
        std::os::unix::fs::symlink(fake, self.path(&format!("{folder}/bin/nvcc"))).unwrap();
    }

    /// Sets a variable to a folder of the crate.
    pub fn set(&mut self, variable: &'static str, folder: &str) {
        let folder = self.path(folder).display().to_string();
        self.variables.insert(variable, folder);
    }

    pub fn run(&self) -> Run {
        let mut built_by = BUILT_BY.lines();
        let mut command = Command::new(built_by.next().unwrap());
        let libclang = built_by.nth(1).unwrap_or_default();
        command.env_clear().env("CARGO_MANIFEST_DIR", self.path("")).env("OUT_DIR", self.path("out"));
        if !libclang.is_empty() {
            command.env("LIBCLANG_PATH", libclang);
        }
        let output = command.envs(&self.variables).output().unwrap();
        let calls = fs::read_to_string(self.path("cuda/calls")).unwrap_or_default();
        let _ = fs::remove_file(self.path("cuda/calls"));
        let mut calls: Vec<String> = calls.lines().map(str::to_string).collect();
        calls.sort();
        let (calls, images) = calls.into_iter().partition(|call| call.ends_with(".cu"));
        Run { ok: output.status.success(), stdout: String::from_utf8(output.stdout).unwrap(), calls, images }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.top);
    }
}
