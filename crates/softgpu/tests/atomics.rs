//! Atomic operations on several elements, and what is said to the caches.

mod common;

use common::Machine;
use softgpu::launch::Outcome;

/// A kernel of one warp; `%rd0` is the address of 64 words, `%rd1` that of 32 words for results.
fn kernel(body: &str) -> String {
    format!(
        ".version 9.0
.target sm_90
.address_size 64
.visible .entry k(.param .u64 data, .param .u64 out)
{{
    .reg .pred %p<4>;
    .reg .b16 %h<10>;
    .reg .b32 %r<10>;
    .reg .f32 %f<10>;
    .reg .b64 %rd<10>;
    mov.u32 %r0, %tid.x;
    ld.param.u64 %rd0, [data];
    ld.param.u64 %rd1, [out];
    mad.wide.u32 %rd1, %r0, 4, %rd1;
{body}
    ret;
}}
"
    )
}

fn run(body: &str, start: u32) -> (Outcome, Vec<u32>, Vec<u32>) {
    let machine = Machine::new();
    let (data, out) = (machine.upload(&[start; 64]), machine.upload(&[0u32; 32]));
    let params: Vec<u8> = [data, out].iter().flat_map(|at| at.to_le_bytes()).collect();
    let outcome = machine.run(&kernel(body), "k", 1, 32, &params);
    (outcome, machine.words(data, 64), machine.words(out, 32))
}

#[track_caller]
fn clean(body: &str, start: u32) -> (Vec<u32>, Vec<u32>) {
    let (outcome, data, out) = run(body, start);
    assert_eq!((outcome.fault, outcome.findings), (None, vec![]), "{body}");
    (data, out)
}

#[test]
fn sums_of_several_floats() {
    // All lanes add (1, 2, 4, 8) to the same four words.
    let values = "mov.f32 %f1, 0f3F800000; mov.f32 %f2, 0f40000000; mov.f32 %f3, 0f40800000; mov.f32 %f4, 0f41000000;";
    for order in ["", ".relaxed.gpu", ".release.sys"] {
        let red = format!("{values} red{order}.global.add.v4.f32 [%rd0+16], {{%f1, %f2, %f3, %f4}};");
        let (data, _) = clean(&red, 0);
        let floats: Vec<f32> = data[..9].iter().map(|bits| f32::from_bits(*bits)).collect();
        assert_eq!(floats, [0.0, 0.0, 0.0, 0.0, 32.0, 64.0, 128.0, 256.0, 0.0]);
    }
    let two = format!("{values} red.global.add.v2.f32 [%rd0+8], {{%f1, %f4}};");
    assert_eq!(clean(&two, 0).0[..5], [0, 0, 32f32.to_bits(), 256f32.to_bits(), 0]);
    // The old values are what each lane found.
    let atom = format!(
        "{values} atom.global.add.v4.f32 {{%f5, %f6, %f7, %f8}}, [%rd0], {{%f1, %f2, %f3, %f4}};
        sub.f32 %f6, %f6, %f5; sub.f32 %f6, %f6, %f5; st.global.f32 [%rd1], %f5; @%p1 st.global.f32 [%rd1], %f6;"
    );
    let (_, out) = clean(&format!("setp.eq.u32 %p1, %r0, 31; {atom}"), 0);
    assert_eq!(out[5], 5f32.to_bits());
    assert_eq!(out[31], 0, "the second element is twice the first");
}

#[test]
fn sums_of_several_halves() {
    // f16: 1, 2 in one register, 4, 8 in the other; bf16 the same.
    for (ty, one, two, four, eight) in
        [("f16", 0x3C00, 0x4000, 0x4400, 0x4800), ("bf16", 0x3F80, 0x4000, 0x4080, 0x4100)]
    {
        let sum = |half: u32| if ty == "f16" { half + (5 << 10) } else { half + (5 << 7) };
        let wanted = [sum(one) | sum(two) << 16, sum(four) | sum(eight) << 16];
        let packed = format!(
            "mov.b32 %r1, {}; mov.b32 %r2, {}; red.global.add.noftz.v2.{ty}x2 [%rd0], {{%r1, %r2}};",
            one | two << 16,
            four | eight << 16
        );
        assert_eq!(clean(&packed, 0).0[..3], [wanted[0], wanted[1], 0], "{ty}");
        let single = format!(
            "mov.b16 %h1, {one}; mov.b16 %h2, {two}; mov.b16 %h3, {four}; mov.b16 %h4, {eight};
            red.global.add.noftz.v4.{ty} [%rd0], {{%h1, %h2, %h3, %h4}};"
        );
        assert_eq!(clean(&single, 0).0[..3], [wanted[0], wanted[1], 0], "{ty}");
        let eight = single.replace("v4", "v8").replace("%h4};", "%h4, %h1, %h2, %h3, %h4};");
        assert_eq!(clean(&eight, 0).0[..5], [wanted[0], wanted[1], wanted[0], wanted[1], 0], "{ty}");
    }
}

#[test]
fn the_whole_vector_is_aligned() {
    let (outcome, ..) = run("mov.f32 %f1, 0f3F800000; red.global.add.v4.f32 [%rd0+8], {%f1, %f1, %f1, %f1};", 0);
    let fault = outcome.fault.unwrap();
    assert!(fault.code == 716 && fault.text.contains("16 bytes"), "{fault:?}");
    let (outcome, ..) = run("mov.f32 %f1, 0f3F800000; red.global.add.v4.f32 [%rd0+256], {%f1, %f1, %f1, %f1};", 0);
    assert_eq!(outcome.fault.unwrap().code, 700);
}

#[test]
fn vectors_need_their_target() {
    let text = kernel("red.global.add.v2.f32 [%rd0], {%f1, %f2};").replace("sm_90", "sm_80");
    let refused = softgpu::ir::Kernel::lower(&softgpu::ptx::parse(&text).unwrap(), "k", true).err().unwrap();
    assert!(refused.why.contains("sm_90"), "{refused}");
    for bad in [
        "red.shared.add.v2.f32 [%r1], {%f1, %f2};",
        "red.global.add.v8.f32 [%rd0], {%f1, %f2, %f1, %f2, %f1, %f2, %f1, %f2};",
        "red.global.add.v2.u32 [%rd0], {%r1, %r2};",
        "red.global.add.v4.f32 [%rd0], {%f1, %f2};",
    ] {
        let module = softgpu::ptx::parse(&kernel(bad)).unwrap();
        assert!(softgpu::ir::Kernel::lower(&module, "k", true).is_err(), "{bad}");
    }
}

/// Hints and policies change nothing; a policy is asked for exactly where the hint is.
#[test]
fn hints_change_no_value() {
    let body = "prefetch.global.L2::evict_last [%rd0]; prefetch.global.L2 [%rd0+1048576]; prefetchu.L1 [%rd0];
        applypriority.global.L2::evict_normal [%rd0], 128;
        createpolicy.fractional.L2::evict_last.b64 %rd2, 0f3F000000;
        createpolicy.range.global.L2::evict_last.L2::evict_unchanged.b64 %rd3, [%rd0], 4096, 8192;
        createpolicy.cvt.L2.b64 %rd3, %rd2;
        ld.global.L1::evict_first.L2::cache_hint.u32 %r1, [%rd0], %rd2;
        red.global.add.L2::cache_hint.u32 [%rd0+4], 1, %rd2;
        st.global.L2::cache_hint.u32 [%rd1], %r1, %rd2;";
    let (data, out) = clean(body, 7);
    assert_eq!((data[0], data[1], out[31]), (7, 39, 7));
    for bad in [
        "ld.global.u32 %r1, [%rd0], %rd2;",
        "ld.global.L2::cache_hint.u32 %r1, [%rd0];",
        "ld.global.L1::sideways.u32 %r1, [%rd0];",
        "atom.global.ca.add.u32 %r1, [%rd0], 1;",
        "prefetch.shared.L1 [%rd0];",
        "prefetch.global.L3 [%rd0];",
        "createpolicy.fractional.L2::sideways.b64 %rd2;",
        "applypriority.global.L2::evict_normal [%rd0], 64;",
    ] {
        let module = softgpu::ptx::parse(&kernel(bad)).unwrap();
        assert!(softgpu::ir::Kernel::lower(&module, "k", true).is_err(), "{bad}");
    }
}

/// Discarded bytes count as never written, and an aligned whole line is asked for.
#[test]
fn discarded_bytes_are_undefined() {
    let body = "setp.eq.u32 %p1, %r0, 0; @%p1 discard.global.L2 [%rd0], 128; bar.sync 0;
        ld.global.u32 %r1, [%rd0+AT]; st.global.u32 [%rd1], %r1;";
    clean(&body.replace("AT", "128"), 7);
    let (outcome, data, _) = run(&body.replace("AT", "124"), 7);
    assert_eq!(outcome.findings[0].detector, softgpu::check::Detector::Uninitialised, "{:?}", outcome.findings);
    assert_eq!(data[32], 7);
    let (outcome, ..) = run("discard.global.L2 [%rd0+64], 128;", 7);
    assert_eq!(outcome.fault.unwrap().code, 716);
    let (outcome, ..) = run("discard.global.L2 [%rd0+256], 128;", 7);
    assert_eq!(outcome.fault.unwrap().code, 700);
}
