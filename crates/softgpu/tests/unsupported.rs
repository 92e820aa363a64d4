//! What is not implemented stops with its own message, and says where.

mod program;

use cudarc::driver::sys;
use program::{FILL, load, open};
use std::ffi::c_void;

/// The error code of loading an image, and why.
fn load_error(image: &[u8]) -> (u32, String) {
    let gpu = open();
    let mut module = std::ptr::null_mut();
    // SAFETY: the images below are whole: a fatbin of the declared size, an ELF header, or NUL-terminated text.
    let code = unsafe { sys::cuModuleLoadData(&mut module, image.as_ptr().cast()) };
    (code as u32, gpu.last_error())
}

/// The error code of the first launch, and why.
fn launch_error(text: &str) -> (u32, String) {
    let gpu = open();
    let kernel = load(text, "fill").expect("one kernel that cannot run does not fail its module");
    let (mut out, mut n, mut value) = (0u64, 0u32, 0f32);
    let arguments: &mut [*mut c_void] = &mut [(&raw mut out).cast(), (&raw mut n).cast(), (&raw mut value).cast()];
    let error = kernel.launch(1, 32, std::ptr::null_mut(), arguments).unwrap_err();
    (error.0 as u32, gpu.last_error())
}

/// The kernel with another line in front of its store, and line information.
fn with_statement(statement: &str) -> String {
    let text = FILL.replace("    st.global", &format!("    .loc 1 42 5\n    {statement}\n    st.global"));
    format!("{text}\n.file 1 \"/home/somebody/kernels/fill.cu\"\n")
}

#[test]
fn a_made_up_opcode_is_named_with_its_place() {
    let (code, why) = launch_error(&with_statement("frobnicate.f32 %f1, %f1;"));
    assert_eq!(code, 801);
    assert!(why.contains("fill.cu:42") && why.contains("frobnicate.f32"), "{why}");
}

#[test]
fn an_unknown_modifier_is_named_with_its_place() {
    let (code, why) = launch_error(&with_statement("add.rz.sideways.f32 %f1, %f1, %f1;"));
    assert_eq!(code, 801);
    assert!(why.contains("fill.cu:42") && why.contains("sideways"), "{why}");
}

#[test]
fn a_kernel_that_cannot_run_does_not_stop_its_neighbours() {
    let broken = FILL.replace("st.global.f32 [%rd3], %f1", "frobnicate.f32 %f1, %f1").replace("fill", "broken");
    let body = &broken[broken.find(".visible").unwrap()..];
    open();
    let kernel = load(&format!("{FILL}\n{body}"), "fill").unwrap();
    let (mut out, mut n, mut value) = (0u64, 0u32, 0f32);
    let arguments: &mut [*mut c_void] = &mut [(&raw mut out).cast(), (&raw mut n).cast(), (&raw mut value).cast()];
    kernel.launch(1, 32, std::ptr::null_mut(), arguments).unwrap();
}

#[test]
fn what_nobody_supplies_is_named_with_the_line_of_its_call() {
    let gpu = open();
    let source = include_str!("foreign/calls.cu");
    let line = 1 + source.lines().position(|line| line.contains("malloc(")).unwrap();
    let kernel = load(include_str!("foreign/calls_sm80.ptx"), "allocates").unwrap();
    let (mut x, mut y) = (0u64, 0u64);
    let error = kernel.launch(1, 1, std::ptr::null_mut(), &mut [(&raw mut x).cast(), (&raw mut y).cast()]).unwrap_err();
    let why = gpu.last_error();
    assert_eq!(error.0 as u32, 801);
    assert!(
        why.contains(&format!("calls.cu:{line}")) && why.contains("heap of the device") && why.contains("malloc"),
        "{why}"
    );
    let external = ".extern .func (.param .b32 r) outside(.param .b32 p);";
    let call = "{ .param .b32 q; .param .b32 s; st.param.b32 [q], %r1; call (s), outside, (q); }";
    let (code, why) = launch_error(&with_statement(call).replace(".visible", &format!("{external}\n.visible")));
    assert_eq!(code, 801);
    assert!(why.contains("fill.cu:42") && why.contains("outside has no body in this module"), "{why}");
}

#[test]
fn calls_that_cannot_be_made_say_why() {
    for (declared, statement, words) in [
        ("f(.param .b64 p) { ret; }", ".param .b32 q; call f, (q);", "arguments of [4] bytes where [8] are declared"),
        ("f(.reg .b32 %a) { ret; }", ".param .b32 q; call f, (q);", "parameters in registers"),
        ("f(.param .b32 p) { ret; }", "call f, (%r1);", "only .param variables"),
        ("f() { ret; }", "call %rd1, ();", "without a prototype"),
        (
            "f(.param .b32 p) { .reg .b32 %q; ld.param.b32 %q, [p+4]; ret; }",
            ".param .b32 q; call f, (q);",
            "which has 4",
        ),
        ("f() { ret; }", "mov.u64 %rd1, f+8;", "the address of f plus an offset"),
    ] {
        let text = with_statement(&format!("{{ {statement} }}"));
        let (code, why) = launch_error(&text.replace(".visible", &format!(".func {declared}\n.visible")));
        assert_eq!(code, 801, "{statement}: {why}");
        assert!(why.contains(words), "{statement}: {why}");
    }
}

/// A fatbin of one entry.
fn fatbin(kind: u16, flags: u64, payload: &[u8]) -> Vec<u8> {
    let mut image = 0xBA55_ED50u32.to_le_bytes().to_vec();
    image.extend_from_slice(&[1, 0, 16, 0]);
    image.extend_from_slice(&(64 + payload.len() as u64).to_le_bytes());
    let mut header = [0u8; 64];
    header[0..2].copy_from_slice(&kind.to_le_bytes());
    header[4] = 64;
    header[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    header[16..20].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    header[28] = 80;
    header[40..48].copy_from_slice(&flags.to_le_bytes());
    header[56] = 100;
    image.extend_from_slice(&header);
    image.extend_from_slice(payload);
    image
}

#[test]
fn a_package_that_does_not_open_is_an_invalid_image() {
    let (code, why) = load_error(&fatbin(1, 0x8011, b"no frame of Zstandard"));
    assert_eq!(code, 200);
    assert!(why.contains("malformed"), "{why}");
}

#[test]
fn a_cubin_alone_is_refused() {
    for image in [fatbin(2, 0x11, b"\x7fELF\x02\x01\x01A"), b"\x7fELF\x02\x01\x01A\0".to_vec()] {
        let (code, why) = load_error(&image);
        assert_eq!(code, 209);
        assert!(why.contains("cubin only: ship PTX beside it"), "{why}");
    }
}

#[test]
fn other_images_have_other_reasons() {
    for (image, expected, words) in [
        (FILL.replace("9.0", "9.9") + "\0", 222, "version 9.9"),
        (FILL.replace("sm_80", "sm_100") + "\0", 209, "sm_100"),
        (FILL.replace(".target sm_80", "") + "\0", 218, ".target"),
        (FILL.replace(".b32 %r<6>", ".b32 %r<") + "\0", 218, "PTX line"),
        ("\u{1}\u{2}\u{3}\u{4}\0".to_string(), 200, "neither"),
    ] {
        let (code, why) = load_error(image.as_bytes());
        assert_eq!(code, expected, "{why}");
        assert!(why.contains(words), "{why}");
    }
}

#[test]
fn calls_that_are_not_implemented_say_so() {
    let gpu = open();
    // SAFETY: the call looks at nothing.
    let code = unsafe { sys::cuGraphClone(std::ptr::null_mut(), std::ptr::null_mut()) };
    assert_eq!(code as u32, 801);
    assert!(gpu.last_error().contains("cuGraphClone"), "{}", gpu.last_error());
    let mut table = std::ptr::null();
    // SAFETY: the pointer may be written, the name is 16 bytes.
    let code = unsafe { sys::cuGetExportTable(&mut table, &sys::CUuuid { bytes: [0; 16] }) };
    assert_eq!(code as u32, 500);
}
