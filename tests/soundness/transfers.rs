//! Host memory in transfers: waited for, or never given back.

use crate::common::gpu::World;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use sumexp::{Error, Tensor};

/// Counts the bytes that a thread has allocated and not freed.
struct Counting;

thread_local! {
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

fn count(bytes: i64) {
    // A thread that is ending has no counter any more, and nobody to read it.
    let _ = LIVE.try_with(|live| live.set(live.get() + bytes));
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: as above.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LEN: usize = 1 << 18;
const BYTES: i64 = 4 << 18;

/// What `work` leaves allocated on the host.
fn left<R>(work: impl FnOnce() -> R) -> (R, i64) {
    let before = LIVE.get();
    let result = work();
    (result, LIVE.get() - before)
}

#[test]
fn memory_of_a_transfer_that_was_not_awaited_is_never_freed() {
    let world = World::late();
    let Some(gpu) = world.gpu() else { return println!("skipped: a real GPU does not fail on request") };
    let device = world.device();
    let ones = vec![1u32; LEN];
    let x = Tensor::from_slice(&device, &[LEN], &ones).unwrap();

    let (back, kept) = left(|| x.to_vec().unwrap());
    assert_eq!((kept, back == ones), (BYTES, true));
    drop(back);

    // The wait fails, so a late copy could still hit the vector that `to_vec` had made: it must stay.
    let failure = Error::Driver { call: "cuStreamSynchronize", code: 999 };
    let (error, kept) = left(|| {
        gpu.fail("cuStreamSynchronize", 1, 999);
        x.to_vec().unwrap_err()
    });
    assert_eq!(error, failure);
    assert!((BYTES..BYTES + 4096).contains(&kept), "{kept} bytes of {BYTES}");

    // As must the staging memory of an upload. The caller's slice is its own: nothing on the GPU knows it.
    let (error, kept) = left(|| {
        gpu.fail("cuStreamSynchronize", 1, 999);
        Tensor::from_slice(&device, &[LEN], &ones).unwrap_err()
    });
    assert_eq!(error, failure);
    assert!((BYTES..BYTES + 4096).contains(&kept), "{kept} bytes of {BYTES}");

    // A copy that failed to start has a wait too, and that one succeeds: nothing stays.
    let (error, kept) = left(|| {
        gpu.fail("cuMemcpyDtoHAsync_v2", 1, 999);
        x.to_vec().unwrap_err()
    });
    assert_eq!(error, Error::Driver { call: "cuMemcpyDtoHAsync_v2", code: 999 });
    assert!(kept < 4096, "{kept} bytes");
}

#[test]
fn transfers_wait() {
    let world = World::late();
    let Some(gpu) = world.gpu() else { return println!("skipped: a real GPU does not count calls") };
    let device = world.device();
    let waits = || gpu.calls("cuStreamSynchronize");
    // 16 MiB of staging at a time: this takes two rounds.
    let numbers: Vec<u32> = (0..(5 << 20)).collect();
    let before = waits();
    let mut x = Tensor::from_slice(&device, &[numbers.len()], &numbers).unwrap();
    assert_eq!(waits(), before + 2);
    assert_eq!(x.to_vec().unwrap(), numbers);
    assert_eq!(waits(), before + 3);
    let numbers: Vec<u32> = numbers.iter().map(|n| !n).collect();
    x.copy_from_slice(&numbers).unwrap();
    assert_eq!(waits(), before + 5);
    assert_eq!(x.to_vec().unwrap(), numbers);
    let enqueued = waits();
    let mut y = Tensor::zeros(&device, &[numbers.len()]).unwrap();
    y.copy_from(&x).unwrap();
    drop((x, y));
    assert_eq!(waits(), enqueued, "work on the device is only enqueued");
}
