//! The shared library exports every name that the bindings can ask for: they panic where one is missing.

mod program;

use std::collections::BTreeSet;
use std::ffi::CString;
use std::path::PathBuf;
use std::process::Command;

/// The source folder of the bindings that this test is built with, as cargo knows it.
fn bindings() -> PathBuf {
    let output = Command::new(std::env::var_os("CARGO").expect("run by cargo"))
        .args(["metadata", "--format-version", "1", "--offline", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let manifests = text.split("\"manifest_path\":\"").skip(1).filter_map(|rest| rest.split('"').next());
    let manifest = manifests.into_iter().find(|path| path.contains("/cudarc-")).expect("cudarc is a dependency");
    PathBuf::from(manifest).with_file_name("src").join("driver")
}

/// Driver entries that a source file calls.
fn called(source: &str) -> BTreeSet<String> {
    let names = source.split("sys::cu").skip(1).filter(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()));
    names.map(|rest| format!("cu{}", rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap())).collect()
}

#[test]
fn every_name_that_the_bindings_can_ask_for_is_exported() {
    program::open();
    let folder = bindings();
    let mut wanted = called(&std::fs::read_to_string(folder.join("result.rs")).unwrap());
    for file in std::fs::read_dir(folder.join("safe")).unwrap() {
        wanted.extend(called(&std::fs::read_to_string(file.unwrap().path()).unwrap()));
    }
    assert!(wanted.len() >= 90, "only {} names found in {}", wanted.len(), folder.display());
    // SAFETY: the names are NUL-terminated; the library is loaded already.
    let missing: Vec<&String> = unsafe {
        let library = libc::dlopen(c"libcuda.so".as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        assert!(!library.is_null());
        wanted
            .iter()
            .filter(|name| libc::dlsym(library, CString::new(name.as_str()).unwrap().as_ptr()).is_null())
            .collect()
    };
    assert_eq!(missing, Vec::<&String>::new());
}

#[test]
fn revised_entries_are_found_under_their_plain_names() {
    program::open();
    use cudarc::driver::sys;
    for (name, found) in [(c"cuMemAlloc", true), (c"cuCtxSynchronize", true), (c"cuNoSuchEntry", false)] {
        let mut address = std::ptr::null_mut();
        let mut status = sys::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS;
        // SAFETY: the name is NUL-terminated and the results may be written.
        let code = unsafe { sys::cuGetProcAddress_v2(name.as_ptr(), &mut address, 13_000, 0, &mut status) };
        assert_eq!((code as u32 == 0, address.is_null()), (found, !found), "{name:?}");
    }
}
