//! `make install`: what a program finds through pkg-config, and the example for programs that use the CUDA driver themselves.

mod library;

use library::{built, folder, library_path, root, run};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Runs the script that `make install` runs, with what cargo built beside this test.
fn install(to: &Path, destdir: Option<&Path>) -> std::process::Output {
    let from = to.join("built");
    fs::create_dir_all(&from).unwrap();
    fs::copy(built("libsumexp_capi", "so"), from.join("libsumexp.so")).unwrap();
    fs::copy(built("libsumexp_capi", "a"), from.join("libsumexp.a")).unwrap();
    fs::copy(root().join("include/sumexp.h"), from.join("sumexp.h")).unwrap();
    let mut script = Command::new(root().join("../../tools/install_capi.sh"));
    script.arg(&from).env_remove("DESTDIR");
    match destdir {
        None => script.arg(to),
        Some(destdir) => script.arg("/opt/sumexp").env("DESTDIR", destdir),
    };
    script.output().unwrap()
}

/// What pkg-config says of the library in a prefix, in words.
fn pkg_config(prefix: &Path, question: &[&str]) -> Vec<String> {
    let mut command = Command::new("pkg-config");
    // The folder of the file, and no rule that takes out folders where a compiler looks anyway.
    command.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")).env("PKG_CONFIG_ALLOW_SYSTEM_LIBS", "1");
    run(command.args(question).arg("sumexp")).split_whitespace().map(str::to_string).collect()
}

/// The folder with cuda.h of the toolkit that this build found.
fn toolkit() -> PathBuf {
    let variables = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(|name| Some(PathBuf::from(env::var_os(name)?)));
    let above = root().ancestors().map(|folder| folder.join(".cuda/nvidia/cu13"));
    let system = ["/usr/local/cuda", "/usr"].map(PathBuf::from);
    let mut folders = variables.chain(above).chain(system).map(|folder| folder.join("include"));
    folders.find(|folder| folder.join("cuda.h").exists()).expect("a CUDA toolkit has cuda.h")
}

#[test]
fn the_example_is_built_through_pkg_config_and_runs() {
    let prefix = folder("prefix");
    let output = install(&prefix, None);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(pkg_config(&prefix, &["--modversion"]), [env!("CARGO_PKG_VERSION")]);
    let shared = pkg_config(&prefix, &["--cflags", "--libs"]);
    let whole = pkg_config(&prefix, &["--cflags", "--libs", "--static"]);
    assert!(whole.contains(&"-lpthread".to_string()) && !shared.contains(&"-lpthread".to_string()), "{whole:?}");

    // The software GPU goes by the driver's name, also for the linker.
    let driver = prefix.join("driver");
    fs::create_dir(&driver).unwrap();
    let real = env::var("SUMEXP_TEST_DEVICE").is_ok_and(|device| device == "cuda");
    if !real {
        fs::copy(built("libsoftgpu", "so"), driver.join("libcuda.so")).unwrap();
    }
    let statically =
        whole.iter().map(|flag| if flag == "-lsumexp" { "-l:libsumexp.a" } else { flag }).map(str::to_string);
    for (name, flags) in [("shared", shared), ("static", statically.collect())] {
        let program = prefix.join(name);
        let mut compile = Command::new("cc");
        compile
            .args(["-std=c99", "-Wall", "-Wextra", "-Werror"])
            .arg(root().join("examples/driver.c"))
            .arg("-I")
            .arg(toolkit());
        run(compile.args(&flags).arg("-L").arg(&driver).args(["-lcuda", "-lm", "-o"]).arg(&program));
        let mut command = Command::new(&program);
        command.env("LD_LIBRARY_PATH", library_path(&[&prefix.join("lib"), &driver])).env("SOFTGPU_STREAMS", "late");
        let said = run(&mut command);
        assert_eq!(said, "loss 5.926661, by hand 5.926661\ngradient -0.326764, by hand -0.326764\n", "{name}");
    }
}

/// A package is made under DESTDIR, and says where it will be.
#[test]
fn packages() {
    let package = folder("package");
    assert!(install(&package, Some(&package)).status.success());
    let said = fs::read_to_string(package.join("opt/sumexp/lib/pkgconfig/sumexp.pc")).unwrap();
    assert!(said.contains("prefix=/opt/sumexp\n") && !said.contains('@'), "{said}");
    assert!(package.join("opt/sumexp/include/sumexp.h").exists());
}

#[test]
fn a_prefix_begins_at_the_root() {
    let output =
        Command::new(root().join("../../tools/install_capi.sh")).args(["nowhere", "relative"]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("relative"));
}
