//! The build script, run by hand in folders made for the purpose, with a compiler that only records what it was asked.
//!
//! The fake compiler is `fake_nvcc.sh`. libclang is the one that built these tests.

mod house;

use std::fs;
use std::path::{Path, PathBuf};

use house::{House, IMAGE, VERSION, report};

#[test]
fn each_kernel_file_becomes_one_image() {
    let house = House::new();
    let run = house.run();
    assert_eq!(run.compiled(), ["kernels/a.cu", "kernels/b.cu"]);
    assert_eq!(run.images.len(), 2);
    for words in ["-ptx ", "-Werror=all-warnings", "-arch=compute_80 "] {
        assert!(run.calls.iter().all(|call| call.contains(words)), "{words}: {:?}", run.calls);
    }
    for words in ["-fatbin ", "--compress-mode=size", "-gencode arch=compute_80,code=[sm_80,sm_90,compute_80] "] {
        assert!(run.images.iter().all(|call| call.contains(words)), "{words}: {:?}", run.images);
    }
    assert!(![&run.calls[0], &run.images[0]].iter().any(|call| call.contains("-lineinfo") || call.contains("debug")));
    let images = house.text("out/images.rs");
    assert!(images.contains(r#"pub static IMAGES: &[(&str, &[u8])] = &[("a", &A.0), ("b", &B.0), ];"#), "{images}");
    assert!(images.contains(r#"include_bytes!(concat!(env!("OUT_DIR"), "/a.fatbin"))"#), "{images}");
    assert_eq!(house.text("out/a.fatbin"), IMAGE);
    assert!(!house.path("out/a.ptx").exists(), "what nvcc made on the way is gone");
    assert_eq!(
        house.text("out/resources.tsv").lines().take(3).collect::<Vec<_>>(),
        [
            "image\tkernel\tarch\tthreads\tregisters\tshared\tbarriers\tstack\tspill stores\tspill loads",
            "a\tfirst\tsm_80\t256\t40\t512\t1\t16\t0\t0",
            "a\tfirst\tsm_90\t256\t40\t512\t1\t16\t0\t0",
        ]
    );
}

#[test]
fn parameter_blocks_are_bound_without_a_default() {
    let house = House::new();
    assert!(house.run().ok);
    let params = house.text("out/params.rs");
    for words in ["pub struct P", "pub rows : u64", " Rows.", "size_of :: < P > ()"] {
        assert!(loose(&params, words), "`{words}` is missing in {params}");
    }
    assert!(!params.contains("Default"), "{params}");

    house.file("kernels/params.h", "struct P { unknown x; };\n");
    let errors = house.run().errors();
    assert!(errors.contains("kernels/params.h") && errors.contains("unknown type name"), "{errors}");
}

/// Whether `text` contains `words`, spaces aside.
fn loose(text: &str, words: &str) -> bool {
    let tight =
        |text: &str| text.replace(char::is_whitespace, "").replace("::core::mem::", "").replace("::std::mem::", "");
    tight(text).contains(&tight(words))
}

#[test]
fn only_what_changed_is_compiled() {
    let mut house = House::new();
    assert_eq!(house.run().compiled(), ["kernels/a.cu", "kernels/b.cu"]);
    assert_eq!(house.run().compiled(), [""; 0]);

    house.file("kernels/b.cu", "// B, changed.\n#include \"params.h\"\n");
    assert_eq!(house.run().compiled(), ["kernels/b.cu"]);
    house.file("kernels/common/deeper.cuh", "// Deeper, changed.\n");
    assert_eq!(house.run().compiled(), ["kernels/a.cu"]);
    house.file("kernels/params.h", "#include <stdint.h>\nstruct P { uint64_t rows; };\n");
    assert_eq!(house.run().compiled(), ["kernels/a.cu", "kernels/b.cu"]);

    fs::remove_file(house.path("out/a.fatbin")).unwrap();
    assert_eq!(house.run().compiled(), ["kernels/a.cu"]);
    house.file("kernels/c.cu", "// C.\n");
    assert_eq!(house.run().compiled(), ["kernels/c.cu"]);

    house.variables.insert("SUMEXP_CUDA_ARCHS", "80".to_string());
    assert_eq!(house.run().compiled(), ["kernels/a.cu", "kernels/b.cu", "kernels/c.cu"]);
    house.variables.insert("NVCC_APPEND_FLAGS", "-DX".to_string());
    assert_eq!(house.run().compiled().len(), 3);
    house.variables.insert("DEBUG", "true".to_string());
    let run = house.run();
    assert_eq!(run.compiled().len(), 3);
    assert!(run.calls[0].contains(" -lineinfo ") && run.images[0].contains("--suppress-debug-info"));
    house.variables.insert("PROFILE", "release".to_string());
    let run = house.run();
    assert!(run.calls[0].contains(" -lineinfo ") && run.images[0].contains(" -lineinfo "), "for profilers");
    house.variables.remove("PROFILE");
    assert_eq!(house.run().compiled().len(), 3);
    house.file("cuda/version", &VERSION.replace("88", "99"));
    assert_eq!(house.run().compiled().len(), 3);
    assert_eq!(house.run().compiled(), [""; 0]);

    // What failed once is tried again, also when the image of a time before is still there.
    house.file("kernels/c.cu", "// C, broken.\n");
    house.file("cuda/code", "1\n");
    assert!(!house.run().ok);
    house.file("cuda/code", "0\n");
    assert_eq!(house.run().compiled(), ["kernels/c.cu"]);
}

#[test]
fn profiles_share_their_images() {
    let mut house = House::new();
    house.file("target/CACHEDIR.TAG", "");
    for profile in ["debug", "release", "other"] {
        house.file(&format!("target/{profile}/out/.keep"), "");
    }
    house.set("OUT_DIR", "target/debug/out");
    assert_eq!(house.run().compiled(), ["kernels/a.cu", "kernels/b.cu"]);
    let table = house.text("target/debug/out/resources.tsv");
    assert_eq!(table.lines().count(), 5);

    // Another profile has all that a compilation leaves, and takes it for current the next time.
    house.set("OUT_DIR", "target/release/out");
    for _ in 0..2 {
        assert_eq!(house.run().compiled(), [""; 0]);
        assert_eq!(house.text("target/release/out/a.fatbin"), IMAGE);
        assert_eq!(house.text("target/release/out/resources.tsv"), table);
    }

    // What the profile changes is compiled anew, and so is an image of which a part was lost.
    house.set("OUT_DIR", "target/other/out");
    house.variables.insert("DEBUG", "true".to_string());
    assert_eq!(house.run().compiled(), ["kernels/a.cu", "kernels/b.cu"]);
    house.variables.remove("DEBUG");
    let entries = || {
        let entries = fs::read_dir(house.path("target/sumexp-images")).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("a-")).collect::<Vec<_>>()
    };
    for entry in entries() {
        fs::remove_file(entry.join("ptxas")).unwrap();
    }
    assert_eq!(house.run().compiled(), ["kernels/a.cu"]);

    // A refused image is not kept.
    house.file("kernels/a.cu", "// A, spills.\n");
    house.file("cuda/log", &report(8, 4));
    let kept = entries().len();
    assert!(house.run().errors().contains("first spills"));
    assert_eq!(entries().len(), kept);
    house.file("cuda/log", &report(0, 0));
    assert_eq!(house.run().compiled(), ["kernels/a.cu"]);

    // Old images go.
    for edit in 0..6 {
        house.file("kernels/a.cu", &format!("// A, edit {edit}.\n"));
        assert_eq!(house.run().compiled(), ["kernels/a.cu"]);
    }
    assert_eq!(entries().len(), 4);
    house.set("OUT_DIR", "target/debug/out");
    assert_eq!(house.run().compiled(), [""; 0], "the last edit is one of those that stayed");
}

#[test]
fn compilations_run_side_by_side_within_the_limit() {
    let mut house = House::new();
    for name in ["c", "d", "e"] {
        house.file(&format!("kernels/{name}.cu"), "// Another.\n");
    }
    assert_eq!(house.run().compiled().len(), 5);
    let peak = |house: &House| house.text("cuda/side_by_side").lines().map(|n| n.parse().unwrap()).max();
    assert_eq!(peak(&house), Some(2), "NUM_JOBS is 2");

    house.file("cuda/side_by_side", "");
    house.file("kernels/params.h", "struct P { float x; };\n");
    house.variables.insert("NUM_JOBS", "1".to_string());
    assert_eq!(house.run().compiled().len(), 2);
    assert_eq!(peak(&house), Some(1), "NUM_JOBS is 1");

    // Fewer files than cores: the architectures of a file share what is left.
    house.file("kernels/a.cu", "// A, changed.\n");
    house.variables.insert("NUM_JOBS", "4".to_string());
    assert!(house.run().images[0].contains("--threads=4"));
}

#[test]
fn architectures_can_be_narrowed() {
    let mut house = House::new();
    house.variables.insert("SUMEXP_CUDA_ARCHS", "80".to_string());
    let run = house.run();
    assert!(run.images[0].contains("arch=compute_80,code=[sm_80,compute_80] "), "{:?}", run.images);
    house.variables.insert("SUMEXP_CUDA_ARCHS", "90a".to_string());
    let run = house.run();
    assert!(run.images[0].contains("arch=compute_80,code=[sm_90,compute_80] "), "{:?}", run.images);

    house.variables.insert("SUMEXP_CUDA_ARCHS", "80, sm_75".to_string());
    assert_eq!(
        house.run().errors(),
        "SUMEXP_CUDA_ARCHS is \"80, sm_75\": \"sm_75\" is not one of 80, 90a.\n\
         Fix: unset it for all architectures, or name some of these, separated by commas.\n"
    );
}

#[test]
fn files_for_hopper_alone_are_left_out_without_it() {
    let mut house = House::new();
    house.file("kernels/c_sm90a.cu", "// C.\n");
    house.variables.insert("SUMEXP_CUDA_ARCHS", "80".to_string());
    assert_eq!(house.run().compiled(), ["kernels/a.cu", "kernels/b.cu"]);
    assert!(!house.text("out/images.rs").contains("c_sm90a"));

    house.variables.remove("SUMEXP_CUDA_ARCHS");
    let run = house.run();
    assert_eq!(run.compiled(), ["kernels/a.cu", "kernels/b.cu", "kernels/c_sm90a.cu"]);
    assert!(run.calls.iter().any(|call| call.contains("-arch=compute_90a ") && call.ends_with("c_sm90a.cu")));
    let image = run.images.iter().find(|call| call.ends_with("c_sm90a.ptx")).unwrap();
    assert!(image.contains("arch=compute_90a,code=[sm_90a,compute_90a] "), "{image}");
    assert!(house.text("out/images.rs").contains(r#"("c_sm90a", &C_SM90A.0)"#));
    assert!(house.text("out/resources.tsv").contains("c_sm90a\tfirst\tsm_90\t384\t"));
    // It does not depend on what else is built.
    house.variables.insert("SUMEXP_CUDA_ARCHS", "90a".to_string());
    assert_eq!(house.run().compiled(), ["kernels/a.cu", "kernels/b.cu"]);
}

#[test]
fn nvcc_is_searched_in_a_fixed_order() {
    let mut house = House::new();
    let places = [
        ("CUDA_HOME", "one"),
        ("CUDA_PATH", "two"),
        ("CUDA_ROOT", "three"),
        ("CUDA_TOOLKIT_ROOT_DIR", "four"),
        ("tools/cuda.sh", ".cuda/nvidia/cu13"),
        ("tools/cuda.sh", "../.cuda/nvidia/cu13"),
        ("tools/cuda.sh", "../../.cuda/nvidia/cu13"),
        ("VIRTUAL_ENV", "venv/lib/python3.11/site-packages/nvidia/cu13"),
        ("VIRTUAL_ENV", "venv"),
        ("CONDA_PREFIX", "conda/lib/python3.12/site-packages/nvidia/cu13"),
        ("CONDA_PREFIX", "conda"),
        ("PATH", "on_path"),
    ];
    for (variable, folder) in places {
        house.nvcc(folder);
        match variable {
            "tools/cuda.sh" => {}
            "VIRTUAL_ENV" => house.set(variable, "venv"),
            "CONDA_PREFIX" => house.set(variable, "conda"),
            "PATH" => house.set(variable, "on_path/bin"),
            _ => house.set(variable, folder),
        }
    }
    for (why, folder) in places {
        let run = house.run();
        assert!(run.ok, "{why}: {}", run.stdout);
        let used = house.text("out/build_script.txt").lines().nth(1).map(PathBuf::from);
        let nvcc = house.path(&format!("{folder}/bin/nvcc"));
        assert_eq!(used.unwrap().canonicalize().unwrap(), nvcc.canonicalize().unwrap());
        let calls = house.path(&format!("{folder}/calls"));
        // The first compiles; later ones report the same version, so the images are current.
        assert_eq!(calls.exists(), folder == "one", "{folder}");
        fs::remove_file(nvcc).unwrap();
    }
}

#[test]
fn a_variable_that_names_no_toolkit_is_reported() {
    let mut house = House::new();
    house.set("CUDA_PATH", "cuda");
    house.set("CUDA_HOME", "nowhere");
    let run = house.run();
    let warning = format!(
        "cargo::warning=CUDA_HOME is set, but there is no {}: {} is used (found through CUDA_PATH)\n",
        house.path("nowhere/bin/nvcc").display(),
        house.path("cuda/bin/nvcc").display()
    );
    assert!(run.ok && run.stdout.contains(&warning), "{}", run.stdout);
}

#[test]
fn a_missing_nvcc_is_one_clear_error() {
    let mut house = House::new();
    house.set("CUDA_HOME", "nowhere");
    house.set("PATH", "empty");
    let run = house.run();
    if ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda"].iter().any(|root| Path::new(root).join("bin/nvcc").exists()) {
        // This machine has a toolkit that no variable can hide; the build must have found it.
        assert!(!run.stdout.contains("nvcc not found"), "{}", run.stdout);
        return;
    }
    let errors = run.errors();
    assert!(errors.starts_with("nvcc not found. Looked in:\n"), "{errors}");
    for place in [
        format!("  {} (CUDA_HOME)\n", house.path("nowhere/bin/nvcc").display()),
        format!("  {} (tools/cuda.sh)\n", house.path(".cuda/nvidia/cu13/bin/nvcc").display()),
        format!("  {} (PATH)\n", house.path("empty/nvcc").display()),
        "  /usr/local/cuda/bin/nvcc (usual place)\n".to_string(),
    ] {
        assert!(errors.contains(&place), "{place} is missing in {errors}");
    }
    let fix = "Fix: run tools/cuda.sh in the sumexp folder, or set CUDA_HOME to a CUDA toolkit >= 12.8.\n";
    assert!(errors.ends_with(fix), "{errors}");
}

#[test]
fn an_old_nvcc_is_refused() {
    let house = House::new();
    house.file("cuda/version", "Cuda compilation tools, release 12.4, V12.4.131");
    assert_eq!(
        house.run().errors(),
        format!(
            "{} (found through CUDA_HOME) is release 12.4, and sumexp needs 12.8 or newer.\n\
             Fix: set CUDA_HOME to a CUDA toolkit >= 12.8, or unset it and run tools/cuda.sh in the sumexp folder.\n",
            house.path("cuda/bin/nvcc").display()
        )
    );
    house.file("cuda/version", "Cuda compilation tools, release 12.8, V12.8.61");
    assert!(house.run().ok);
}

#[test]
fn a_failed_compilation_shows_the_compilers_words_and_the_fix() {
    let house = House::new();
    fs::remove_file(house.path("kernels/b.cu")).unwrap();
    house.file("cuda/code", "2\n");
    house.file("cuda/log", &(report(0, 0) + "kernels/a.cu(3): error: identifier \"x\" is undefined\n"));
    let found = format!(
        "{} (found through CUDA_HOME) failed on {}:\n",
        house.path("cuda/bin/nvcc").display(),
        house.path("kernels/a.cu").display()
    );
    assert_eq!(house.run().errors(), format!("{found}kernels/a.cu(3): error: identifier \"x\" is undefined\n"));

    house.file(
        "cuda/log",
        "gcc: No such file or directory\nnvcc fatal   : Failed to preprocess host compiler properties.\n",
    );
    assert_eq!(
        house.run().errors(),
        found
            + "gcc: No such file or directory\nnvcc fatal   : Failed to preprocess host compiler properties.\n\
               Fix: install a C++ host compiler (Debian/Ubuntu: apt install g++); nvcc needs it even for device code.\n"
    );
}

#[test]
fn a_wrong_libclang_path_is_an_error() {
    let mut house = House::new();
    house.set("LIBCLANG_PATH", "out");
    assert_eq!(
        house.run().errors(),
        format!(
            "LIBCLANG_PATH is {}, where there is no libclang.\n\
             Fix: unset it, or set it to the folder of libclang.so.\n",
            house.path("out").display()
        )
    );
}

#[test]
fn a_missing_libclang_is_one_clear_error() {
    let mut house = House::new();
    // Empty counts as unset: what is left is the system's libclang, which a test cannot take away.
    house.variables.insert("LIBCLANG_PATH", String::new());
    let run = house.run();
    if run.ok {
        assert!(house.text("out/params.rs").contains("struct P"));
        return;
    }
    let errors = run.errors();
    let fix = "Fix: run tools/cuda.sh, or install libclang (Debian/Ubuntu: apt install libclang-dev), or set \
               LIBCLANG_PATH to the folder of libclang.so.\n";
    assert!(errors.starts_with("libclang not found: ") && errors.ends_with(fix), "{errors}");
    assert_eq!(errors.lines().count(), 2, "{errors}");
}

#[test]
fn a_spill_is_refused_unless_the_source_allows_it() {
    let house = House::new();
    fs::remove_file(house.path("kernels/b.cu")).unwrap();
    house.file("cuda/log", &report(8, 4));
    let errors = house.run().errors();
    let spill = "kernels/a.cu: first spills on sm_80: 8 bytes stored and 4 loaded at 40 registers. Fix: ";
    assert!(errors.starts_with(spill), "{errors}");
    assert!(errors.contains("first spills on sm_90:"), "{errors}");
    // A refused image must not pass as current the next time.
    assert_eq!(house.run().errors(), errors);

    house.file("kernels/a.cu", "// A.\n// may spill: other: it is large\n");
    let errors = house.run().errors();
    assert!(errors.contains("first spills on sm_80") && errors.contains("other may spill, but does not"), "{errors}");
    house.file("kernels/a.cu", "// A.\n// may spill: first:\n");
    assert!(house.run().errors().contains("lacks its reason"));
    house.file("kernels/a.cu", "// A.\n// may spill: first: 300 sums are alive at once\n");
    assert_eq!(house.run().compiled(), ["kernels/a.cu"]);
    assert!(house.text("out/resources.tsv").contains("\t8\t4\n"));
}

#[test]
fn serialised_wgmma_is_refused() {
    let house = House::new();
    fs::remove_file(house.path("kernels/b.cu")).unwrap();
    let said = "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized";
    house.file("cuda/log", &format!("{}{said} in function 'first'\n", report(0, 0)));
    assert_eq!(house.run().errors(), format!("kernels/a.cu: ptxas serialises wgmma: {said} in function 'first'\n"));
    house.file("cuda/log", &format!("{}{}\n", report(0, 0), said.replace("C7510", "C7000")));
    assert!(house.run().ok);
}

#[test]
fn docs_rs_needs_no_compiler() {
    let mut house = House::new();
    house.variables.remove("CUDA_HOME");
    house.variables.insert("DOCS_RS", "1".to_string());
    let run = house.run();
    assert_eq!(run.compiled(), [""; 0]);
    assert_eq!(house.text("out/a.fatbin"), "");
    assert!(house.text("out/images.rs").contains("(\"b\", &B.0)"));
    // A later build in the same folder does not take the empty images for its own.
    house.set("CUDA_HOME", "cuda");
    house.variables.remove("DOCS_RS");
    assert_eq!(house.run().compiled(), ["kernels/a.cu", "kernels/b.cu"]);
    house.variables.insert("DOCS_RS", "1".to_string());
    assert_eq!(house.run().compiled(), [""; 0]);
    house.variables.remove("DOCS_RS");
    assert_eq!(house.run().compiled(), ["kernels/a.cu", "kernels/b.cu"]);
    assert!(house.text("out/params.rs").contains("struct P"));
}
