//! A program in C, compiled against the header as C99 and as C++, linked with the shared and with the static library, and run on
//! the host and on the GPU that the tests use.

mod library;

use library::{built, folder, library_path, root, run};
use std::process::Command;
use std::{env, fs};

const SOURCES: [&str; 8] = ["attention", "inference", "layouts", "loss", "main", "refusals", "softmax", "threads"];

/// Compiles and links the program, and runs it on both devices.
fn program(name: &str, compiler: &str, language: &[&str], link: &[&str]) {
    let folder = folder(name);
    fs::copy(built("libsumexp_capi", "so"), folder.join("libsumexp.so")).unwrap();
    let archive = folder.join("libsumexp.a");
    fs::hard_link(built("libsumexp_capi", "a"), &archive).unwrap();
    let program = folder.join("program");
    let mut compile = Command::new(compiler);
    compile.args(language).args(["-Wall", "-Wextra", "-Werror", "-O1", "-I"]).arg(root().join("include"));
    compile.args(SOURCES.map(|source| root().join("tests/c").join(source).with_extension("c")));
    compile.arg(root().join("tests/c/world.c")).args(["-x", "none", "-o"]).arg(&program).arg("-L").arg(&folder);
    run(compile.args(link).args(["-lpthread", "-ldl", "-lm"]));
    let needs_library = run(Command::new("readelf").arg("-d").arg(&program)).contains("[libsumexp.so]");
    assert_eq!(needs_library, link.contains(&"-lsumexp"), "{name} is linked as asked");

    // The software GPU goes by the driver's name in a folder; a real driver is found where it always is.
    let soft = matches!(env::var("SUMEXP_TEST_DEVICE").as_deref(), Err(_) | Ok("soft"));
    let driver = folder.join("driver");
    fs::create_dir(&driver).unwrap();
    if soft {
        fs::copy(built("libsoftgpu", "so"), driver.join("libcuda.so")).unwrap();
    }
    for (kind, folders) in [("cpu", &[&folder][..]), ("gpu", &[&folder, &driver][..])] {
        let mut command = Command::new(&program);
        command.arg(kind).env("LD_LIBRARY_PATH", library_path(folders));
        if soft {
            // Work runs as late as streams allow: what a call forgets to wait for has not happened.
            command.env("SOFTGPU_STREAMS", "late");
        }
        // What the checks of the software GPU find is printed, and fails a call.
        assert_eq!(run(&mut command), format!("{kind}: all is right\n"), "{name}");
    }
}

#[test]
fn c99_with_the_shared_library() {
    program("c-shared", "cc", &["-std=c99", "-pedantic"], &["-lsumexp"]);
}

#[test]
fn c99_with_the_static_library() {
    program("c-static", "cc", &["-std=c99", "-pedantic"], &["-l:libsumexp.a"]);
}

#[test]
fn cpp_with_the_shared_library() {
    program("cpp-shared", "c++", &["-x", "c++"], &["-lsumexp"]);
}

#[test]
fn cpp_with_the_static_library() {
    program("cpp-static", "c++", &["-x", "c++"], &["-l:libsumexp.a"]);
}

/// The library adds nothing else to a program's names, can be found by its name, and stays when it is closed: its threads would
/// be left without code.
#[test]
fn the_shared_library_exports_the_header_alone() {
    let library = built("libsumexp_capi", "so");
    let names = run(Command::new("nm").args(["-D", "--defined-only", "--format=posix"]).arg(&library));
    let mut exported: Vec<&str> = names.lines().filter_map(|line| line.split(' ').next()).collect();
    exported.sort_unstable();
    let header = fs::read_to_string(root().join("include/sumexp.h")).unwrap();
    let mut declared: Vec<&str> = header
        .split(|c: char| !c.is_alphanumeric() && c != '_' && c != '(')
        .filter_map(|word| word.split_once("(").map(|(name, _)| name).filter(|name| name.starts_with("sumexp_")))
        .collect();
    declared.sort_unstable();
    assert_eq!(exported, declared);
    assert!(exported.len() > 20);
    let dynamic = run(Command::new("readelf").arg("-d").arg(&library));
    assert!(dynamic.contains("soname: [libsumexp.so]"), "{dynamic}");
    assert!(dynamic.contains("NODELETE"), "{dynamic}");
}

/// The example of the README compiles and prints what it should.
#[test]
fn the_example_of_the_readme_runs() {
    let folder = folder("readme");
    let readme = fs::read_to_string(root().join("../../README.md")).unwrap();
    let example = readme.split_once("```c\n").unwrap().1.split_once("```").unwrap().0;
    fs::write(folder.join("example.c"), example).unwrap();
    fs::copy(built("libsumexp_capi", "so"), folder.join("libsumexp.so")).unwrap();
    let mut compile = Command::new("cc");
    compile.current_dir(&folder).args(["-Wall", "-Wextra", "-Werror", "example.c", "-I"]).arg(root().join("include"));
    run(compile.args(["-L.", "-lsumexp"]));
    let said = run(Command::new(folder.join("a.out")).env("LD_LIBRARY_PATH", library_path(&[&folder])));
    assert_eq!(said, "0.665241\n");
}

/// With DLPack's own header in front, its structs are taken, in C and in C++.
#[test]
fn dlpacks_own_header_goes_first() {
    let folder = folder("dlpack");
    // As DLPack 1.0 declares them, with members that this interface does not name.
    let dlpack = r#"
        #ifndef DLPACK_DLPACK_H_
        #define DLPACK_DLPACK_H_
        #include <stddef.h>
        #include <stdint.h>
        #ifdef __cplusplus
        typedef enum : int32_t {
        #else
        typedef enum {
        #endif
          kDLCPU = 1, kDLCUDA = 2, kDLCUDAHost = 3, kDLOpenCL = 4, kDLCUDAManaged = 13
        } DLDeviceType;
        typedef struct { DLDeviceType device_type; int32_t device_id; } DLDevice;
        typedef enum { kDLInt = 0U, kDLUInt = 1U, kDLFloat = 2U, kDLBfloat = 4U, kDLComplex = 5U, kDLBool = 6U } DLDataTypeCode;
        typedef struct { uint8_t code; uint8_t bits; uint16_t lanes; } DLDataType;
        typedef struct {
          void* data; DLDevice device; int32_t ndim; DLDataType dtype; int64_t* shape; int64_t* strides; uint64_t byte_offset;
        } DLTensor;
        typedef struct DLManagedTensor { DLTensor dl_tensor; void* manager_ctx; void (*deleter)(struct DLManagedTensor*); } DLManagedTensor;
        #endif
    "#;
    fs::write(folder.join("dlpack.h"), dlpack).unwrap();
    let program = |first: &str| {
        format!(
            "{first}\n#include \"sumexp.h\"\n\
             typedef char tensor_size[sizeof(DLTensor) == 48 ? 1 : -1];\n\
             int32_t call(const DLTensor *x);\n\
             int32_t call(const DLTensor *x) {{ return sumexp_softmax(x, -1, 1, 0, x, 0); }}\n"
        )
    };
    for (name, first) in [("alone", ""), ("behind", "#include \"dlpack.h\"")] {
        for (compiler, extension) in [("cc", "c"), ("c++", "cpp")] {
            let file = folder.join(name).with_extension(extension);
            fs::write(&file, program(first)).unwrap();
            let mut compile = Command::new(compiler);
            compile.args(["-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I"]).arg(root().join("include"));
            run(compile.arg("-I").arg(&folder).arg(&file));
        }
    }
}
