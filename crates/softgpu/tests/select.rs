//! The ways to select the software GPU: for one process from within, and for any program through the library path.

mod program;

use softgpu::InstallError;
use softgpu::ctl::ConnectError;
use std::ffi::CStr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Tells a child process which case it runs.
const CASE: &str = "TEST_CASE_OF_CHILD";

/// A folder of this test's own, empty.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Compiles a C source.
fn compile(source: &Path, text: &str, arguments: &[&str]) {
    std::fs::write(source, text).unwrap();
    let output = Command::new("cc").args(arguments).arg(source).arg("-ldl").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A driver that is none: it has the SONAME of one, and says that no device is available.
fn pretended_driver(folder: &Path) -> PathBuf {
    let library = folder.join("libcuda.so");
    let text = "int cuInit(unsigned flags) { return (int)flags + 46; }\n";
    compile(
        &folder.join("driver.c"),
        text,
        &["-shared", "-fPIC", "-Wl,-soname,libcuda.so", "-o", library.to_str().unwrap()],
    );
    library
}

/// The shared library as cargo has built it for these tests.
fn built() -> PathBuf {
    std::env::current_exe().unwrap().with_file_name("libsoftgpu.so")
}

/// Runs a test of this file again in a process of its own; true in that process.
fn in_child(case: &str, library_path: Option<&Path>) -> bool {
    if std::env::var(CASE).is_ok_and(|running| running == case) {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", case, "--nocapture"]).env(CASE, case);
    if let Some(path) = library_path {
        command.env("LD_LIBRARY_PATH", path);
    }
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
    false
}

/// The answer of `cuInit` in what a name loads.
fn cu_init(name: &CStr) -> u32 {
    // SAFETY: the libraries here have no initialisation with preconditions, and cuInit takes a number.
    unsafe {
        let library = libc::dlopen(name.as_ptr(), libc::RTLD_NOW);
        assert!(!library.is_null());
        let symbol = libc::dlsym(library, c"cuInit".as_ptr());
        std::mem::transmute::<*mut libc::c_void, unsafe extern "C" fn(u32) -> u32>(symbol)(0)
    }
}

const PROGRAM: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
typedef unsigned long long address;
int main(void) {
    void *first = dlopen("libcuda.so", RTLD_NOW), *second = dlopen("libcuda.so.1", RTLD_NOW);
    if (!first || !second) { puts(dlerror()); return 1; }
    int (*init)(unsigned) = (int (*)(unsigned))dlsym(first, "cuInit");
    int (*count)(int *) = (int (*)(int *))dlsym(second, "cuDeviceGetCount");
    int (*retain)(void **, int) = (int (*)(void **, int))dlsym(first, "cuDevicePrimaryCtxRetain");
    int (*current)(void *) = (int (*)(void *))dlsym(second, "cuCtxSetCurrent");
    int (*take)(address *, unsigned long) = (int (*)(address *, unsigned long))dlsym(first, "cuMemAlloc_v2");
    int (*give)(address) = (int (*)(address))dlsym(second, "cuMemFree_v2");
    unsigned (*abi)(void) = (unsigned (*)(void))dlsym(second, "softgpu_abi");
    if (!init || !count || !retain || !current || !take || !give || !abi) { puts("a symbol is missing"); return 1; }
    int devices = 0;
    void *context;
    address memory;
    int before = count(&devices);
    int codes[] = { init(0), count(&devices), retain(&context, 0), current(context), take(&memory, 64), give(memory) };
    printf("before %d, then", before);
    for (int i = 0; i < 6; ++i) printf(" %d", codes[i]);
    printf(", devices %d, abi %u\n", devices, abi());
    return 0;
}
"#;

#[test]
fn both_names_in_a_folder_are_one_driver_with_one_state() {
    for (way, link) in [("symbolic", true), ("hard", false)] {
        let folder = folder(&format!("select-{way}"));
        let (first, second) = (folder.join("libcuda.so"), folder.join("libcuda.so.1"));
        std::fs::copy(built(), &first).unwrap();
        match link {
            true => symlink("libcuda.so", &second).unwrap(),
            false => std::fs::hard_link(&first, &second).unwrap(),
        }
        let program = folder.join("program");
        compile(&folder.join("program.c"), PROGRAM, &["-o", program.to_str().unwrap()]);
        let output = Command::new(&program).env("LD_LIBRARY_PATH", &folder).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(out, "before 3, then 0 0 0 0 0 0, devices 1, abi 1\n", "{way} link: {err}");
    }
}

#[test]
fn install_wins_against_another_driver_on_the_path() {
    const NAME: &str = "install_wins_against_another_driver_on_the_path";
    let on_path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("select-shadow");
    if std::env::var_os(CASE).is_none() {
        pretended_driver(&folder("select-shadow"));
    }
    if in_child(NAME, Some(&on_path)) {
        softgpu::install().unwrap();
        assert_eq!(cu_init(c"libcuda.so"), 0);
        softgpu::install().expect("installing again does no harm");
        assert!(softgpu::ctl::connect().is_ok());
    }
}

#[test]
fn install_never_replaces_a_driver_that_is_loaded() {
    const NAME: &str = "install_never_replaces_a_driver_that_is_loaded";
    let on_path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("select-loaded");
    if std::env::var_os(CASE).is_none() {
        pretended_driver(&folder("select-loaded"));
    }
    if in_child(NAME, Some(&on_path)) {
        assert_eq!(softgpu::ctl::connect().err(), Some(ConnectError::NoDriver));
        assert_eq!(cu_init(c"libcuda.so"), 46);
        assert_eq!(softgpu::install(), Err(InstallError::DriverLoaded { name: "libcuda.so".to_string() }));
        assert_eq!(softgpu::ctl::connect().err(), Some(ConnectError::RealDriver));
        assert_eq!(cu_init(c"libcuda.so"), 46);
    }
}

#[test]
fn nothing_is_selected_by_accident() {
    const NAME: &str = "nothing_is_selected_by_accident";
    if in_child(NAME, None) {
        // Linking the crate is not using it.
        assert_eq!(softgpu::ctl::connect().err(), Some(ConnectError::NoDriver));
    }
}
