//! One launch under many schedules: correct kernels give the same bits, others are told apart by seed and byte.

mod program;

use cudarc::driver::result;
use program::{Kernel, load, open_recording};
use std::ffi::c_void;

/// `k(u64 x, u64 y)` over 64 threads and four blocks; thread 0 of the grid's place in `%r1`, its words at `%rd3`, `%rd4`.
fn kernel(body: &str) -> Kernel {
    let text = format!(
        ".version 9.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 x, .param .u64 y)
{{
    .reg .pred %p<4>; .reg .b32 %r<10>; .reg .b64 %rd<10>;
    .shared .align 4 .b8 tile[256];
    ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y];
    mov.u32 %r0, %tid.x; mov.u32 %r2, %ctaid.x; mad.lo.u32 %r1, %r2, 64, %r0;
    mul.wide.u32 %rd5, %r1, 4; add.u64 %rd3, %rd1, %rd5; add.u64 %rd4, %rd2, %rd5;
    mov.u32 %r3, tile; shl.b32 %r4, %r0, 2; add.u32 %r3, %r3, %r4;
{body}
}}
"
    );
    load(&text, "k").unwrap()
}

const WORDS: usize = 256;

/// Runs a kernel on 0, 1, 2 … and zeros under many seeds; returns what the comparison says and the last output.
fn schedules(gpu: &softgpu::ctl::Gpu, body: &str, seeds: u64) -> (Result<u64, softgpu::ctl::Difference>, Vec<u32>) {
    let kernel = kernel(body);
    let input: Vec<u32> = (0..WORDS as u32).collect();
    // SAFETY: the sizes are those of the slices, and the arguments those that the kernel declares.
    unsafe {
        let (mut x, mut y) = (result::malloc_sync(4 * WORDS).unwrap(), result::malloc_sync(4 * WORDS).unwrap());
        result::memcpy_htod_sync(x, &input).unwrap();
        result::memset_d8_sync(y, 0, 4 * WORDS).unwrap();
        let bytes = 4 * WORDS as u64;
        let mut arguments: [*mut c_void; 2] = [(&raw mut x).cast(), (&raw mut y).cast()];
        let outcome = gpu.schedules_of(0..seeds, &[(x, bytes), (y, bytes)], |_| {
            kernel.launch(4, 64, std::ptr::null_mut(), &mut arguments).unwrap();
            result::ctx::synchronize().unwrap();
        });
        let last = gpu.read(y, bytes).chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
        result::free_sync(x).unwrap();
        result::free_sync(y).unwrap();
        (outcome, last)
    }
}

/// Exchange through shared memory behind a barrier, in place: a thousand interleavings, the same bits.
#[test]
fn a_thousand_interleavings_of_a_correct_kernel() {
    let gpu = open_recording();
    gpu.seed(5);
    let body = "ld.global.u32 %r5, [%rd3]; st.shared.u32 [%r3], %r5; bar.sync 0;
    xor.b32 %r6, %r4, 252; mov.u32 %r7, tile; add.u32 %r7, %r7, %r6; ld.shared.u32 %r8, [%r7];
    st.global.u32 [%rd3], %r8; st.global.u32 [%rd4], %r8;";
    let (outcome, last) = schedules(&gpu, body, 1000);
    assert_eq!(outcome, Ok(1000));
    assert_eq!((last[0], last[63], last[64]), (63, 0, 127));
    assert_eq!(gpu.take_findings(), vec![]);
    let seeds: Vec<u64> = gpu.take_launches().iter().map(|launch| launch.seed).collect();
    assert_eq!(seeds, (0..1000).collect::<Vec<_>>());
    // The seed is what it was.
    let (mut x, mut y) = (0u64, 0u64);
    kernel("ret;").launch(1, 1, std::ptr::null_mut(), &mut [(&raw mut x).cast(), (&raw mut y).cast()]).unwrap();
    assert_eq!(gpu.take_launches().last().unwrap().seed, 5);
}

/// Atomic tickets: no race, and yet the order shows in the bits. Every kind of order is drawn.
#[test]
fn results_that_depend_on_the_order_are_told() {
    let gpu = open_recording();
    // Warps of one block, blocks of the grid, lanes of one warp that went apart.
    let warps = "atom.global.add.u32 %r5, [%rd2], 1; setp.ne.u32 %p1, %r2, 0; @%p1 ret; st.global.u32 [%rd3], %r5;";
    let blocks = "setp.ne.u32 %p1, %r0, 0; @%p1 ret; atom.global.add.u32 %r5, [%rd2], 1; st.global.u32 [%rd3], %r5;";
    let lanes = "setp.ne.u32 %p1, %r2, 0; @%p1 ret; setp.gt.u32 %p1, %r0, 1; @%p1 ret;
    setp.eq.u32 %p2, %r0, 0; @%p2 bra FIRST;
    atom.global.add.u32 %r5, [%rd2], 1; bra END;
FIRST: atom.global.add.u32 %r5, [%rd2], 1;
END: st.global.u32 [%rd3], %r5;";
    for body in [warps, blocks, lanes] {
        let (outcome, _) = schedules(&gpu, body, 64);
        let difference = outcome.expect_err(body);
        assert_eq!((difference.first_seed, difference.output), (0, 0), "{difference}");
        assert!(difference.seed < 64 && difference.byte < 4 * WORDS, "{difference}");
        // The seed repeats it.
        let repeated = schedules(&gpu, body, difference.seed + 1).0.unwrap_err();
        assert_eq!(repeated, difference);
        assert_eq!(gpu.take_findings(), vec![], "{body}");
    }
}
