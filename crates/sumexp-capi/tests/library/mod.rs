//! What the tests of the C library share: the libraries that cargo built, folders, and commands.

#![allow(dead_code)] // Every test file is a program of its own and uses a part of this.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What cargo built beside this test: a library, under its plain name or the newest with a hash.
pub fn built(name: &str, extension: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    let matching = fs::read_dir(test.parent().unwrap()).unwrap().flatten().filter(|entry| {
        let path = entry.path();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        path.extension() == Some(OsStr::new(extension))
            && stem.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    });
    let newest = matching.max_by_key(|entry| entry.metadata().unwrap().modified().unwrap());
    newest.unwrap_or_else(|| panic!("cargo builds {name}.{extension} before this test")).path()
}

/// An empty folder of this test.
pub fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// The output of a command that must succeed.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    text.into_owned()
}

/// Folders, and those where libraries are looked for already.
pub fn library_path(folders: &[&PathBuf]) -> OsString {
    let others = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    env::join_paths(folders.iter().map(|folder| folder.to_path_buf()).chain(env::split_paths(&others))).unwrap()
}
