//! The device address space as host code sees it.

use softgpu::mem::{Background, FreeError, MemoryFaultKind, OutOfMemory, Poison, Space};

const MIB: u64 = 1 << 20;

#[test]
fn bases_are_aligned_to_256_and_to_nothing_better() {
    let space = Space::new();
    for bytes in [1, 255, 256, 257, 4096, MIB + 3] {
        let base = space.alloc(bytes, 0, Poison::Nan).unwrap();
        assert_eq!(base % 512, 256, "{bytes} bytes at {base:#x}");
    }
}

#[test]
fn a_gap_of_a_mebibyte_follows_every_allocation() {
    let space = Space::new();
    let first = space.alloc(1000, 0, Poison::Nan).unwrap();
    let second = space.alloc(1, 0, Poison::Nan).unwrap();
    assert!(second - (first + 1000) >= MIB);
}

#[test]
fn an_address_is_never_given_out_twice() {
    let space = Space::new();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..100 {
        let base = space.alloc(64, 0, Poison::Nan).unwrap();
        assert!(seen.insert(base));
        space.free(base, "cuMemFree_v2").unwrap();
    }
}

#[test]
fn fresh_memory_holds_the_poison_of_its_seed() {
    let space = Space::new();
    for (seed, byte) in [(0, 0xFF), (1, 0x7F), (2, 0xFF), (7, 0x7F)] {
        let base = space.alloc(10, 0, Poison::of_seed(seed)).unwrap();
        let mut out = [0; 10];
        space.read(base, &mut out).unwrap();
        assert_eq!(out, [byte; 10], "seed {seed}");
    }
}

#[test]
fn bounds_are_exact_to_the_byte() {
    let space = Space::new();
    let base = space.alloc(10, 3, Poison::Nan).unwrap();
    space.write(base, &[1; 10]).unwrap();
    assert!(space.write(base + 10, &[]).is_ok(), "nothing at the very end is inside");
    let fault = space.write(base, &[1; 11]).unwrap_err();
    assert_eq!(fault.kind, MemoryFaultKind::OutOfBounds);
    assert!(fault.place.contains("offset 0, the last 1 of 11 bytes lie past allocation 1 of 10 bytes"), "{fault}");
    let fault = space.read(base + 58, &mut [0]).unwrap_err();
    assert!(fault.place.contains("48 bytes past the end of allocation 1 of 10 bytes"), "{fault}");
    assert!(fault.place.contains("on device 3"), "{fault}");
    let fault = space.read(base - 4, &mut [0; 4]).unwrap_err();
    assert!(fault.place.starts_with("4 bytes before allocation 1"), "{fault}");
    assert_eq!(space.fill(base + 2, &[0, 0], 5).unwrap_err().kind, MemoryFaultKind::OutOfBounds);
    assert_eq!(space.fill(base, &[0; 4], u64::MAX).unwrap_err().kind, MemoryFaultKind::OutOfBounds);
    assert_eq!(space.copy(base + 1, base, 10).unwrap_err().address, base + 1);
}

#[test]
fn null_host_and_unknown_pointers_are_told_apart() {
    let space = Space::new();
    space.alloc(8, 0, Poison::Nan).unwrap();
    let fault = |address| space.read(address, &mut [0; 4]).unwrap_err();
    assert_eq!((fault(0).kind, fault(0).place.as_str()), (MemoryFaultKind::Null, "a null pointer"));
    assert_eq!(fault(24).place, "null plus 24 bytes");
    let host = Box::new(1u32);
    let fault = fault(&raw const *host as u64);
    assert_eq!(fault.kind, MemoryFaultKind::Unmapped);
    assert!(fault.place.contains("host pointer"), "{fault}");
    assert!(space.read(u64::MAX, &mut [0; 4]).is_err());
}

#[test]
fn use_after_free_and_double_free_are_explained() {
    let space = Space::new();
    let base = space.alloc(100, 0, Poison::Nan).unwrap();
    space.free(base, "cuMemFreeAsync").unwrap();
    let fault = space.write(base + 40, &[0; 4]).unwrap_err();
    assert_eq!(fault.kind, MemoryFaultKind::Freed);
    assert!(fault.place.starts_with("offset 40 of allocation 1 of 100 bytes"), "{fault}");
    assert!(fault.place.ends_with("freed by cuMemFreeAsync"), "{fault}");
    match space.free(base, "cuMemFree_v2").unwrap_err() {
        FreeError::AlreadyFreed(info) => assert_eq!(info.order, 1),
        other => panic!("{other}"),
    }
    let base = space.alloc(100, 0, Poison::Nan).unwrap();
    match space.free(base + 4, "cuMemFree_v2").unwrap_err() {
        FreeError::NotAnAllocation(what) => assert!(what.starts_with("offset 4 of allocation 2"), "{what}"),
        other => panic!("{other}"),
    }
}

#[test]
fn the_limit_counts_requested_bytes_per_device() {
    let space = Space::new();
    space.set_limit(0, 1000);
    let base = space.alloc(600, 0, Poison::Nan).unwrap();
    let full = OutOfMemory { requested: 401, used: 600, limit: 1000 };
    assert_eq!(space.alloc(401, 0, Poison::Nan), Err(full));
    assert_eq!(full.to_string(), "out of memory: 401 bytes requested, 600 of 1000 in use");
    space.alloc(401, 1, Poison::Nan).unwrap();
    space.alloc(400, 0, Poison::Nan).unwrap();
    space.free(base, "cuMemFree_v2").unwrap();
    assert_eq!(space.usage(0), (400, 1000));
    assert!(space.alloc(u64::MAX, 1, Poison::Nan).is_err());
    assert_eq!(space.live().iter().map(|info| info.order).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn what_was_never_written_is_known_and_survives_a_copy() {
    let space = Space::new();
    let a = space.alloc(64, 0, Poison::Nan).unwrap();
    let b = space.alloc(64, 0, Poison::Nan).unwrap();
    space.fill(b, &[0], 64).unwrap();
    assert_eq!(space.first_uninitialised(b, 64), Ok(None));
    space.write(a, &[7; 5]).unwrap();
    space.fill(a + 8, &[1, 2], 3).unwrap();
    assert_eq!(space.first_uninitialised(a, 64), Ok(Some(a + 5)));
    assert_eq!(space.first_uninitialised(a + 8, 6), Ok(None));
    space.copy(b + 16, a, 16).unwrap();
    let mut out = [0; 16];
    space.read(b + 16, &mut out).unwrap();
    assert_eq!(out, [7, 7, 7, 7, 7, 255, 255, 255, 1, 2, 1, 2, 1, 2, 255, 255]);
    assert_eq!(space.first_uninitialised(b, 64), Ok(Some(b + 21)));
    assert_eq!(space.first_uninitialised(b + 24, 6), Ok(None));
    assert_eq!(space.first_uninitialised(b + 30, 34), Ok(Some(b + 30)));
    assert_eq!(space.first_uninitialised(b + 32, 32), Ok(None));
}

#[test]
fn overlapping_copies_move_every_byte_once() {
    let space = Space::new();
    const LEN: u64 = 200_000;
    let data: Vec<u8> = (0..LEN).map(|i| (i * 7 % 251) as u8).collect();
    for shift in [1, 4, 70_000] {
        let base = space.alloc(LEN, 0, Poison::Nan).unwrap();
        space.write(base, &data).unwrap();
        space.copy(base + shift, base, LEN - shift).unwrap();
        let mut out = vec![0; LEN as usize];
        space.read(base, &mut out).unwrap();
        assert!(out[shift as usize..] == data[..(LEN - shift) as usize], "up by {shift}");
        space.write(base, &data).unwrap();
        space.copy(base, base + shift, LEN - shift).unwrap();
        space.read(base, &mut out).unwrap();
        assert!(out[..(LEN - shift) as usize] == data[shift as usize..], "down by {shift}");
    }
}

#[test]
fn a_sparse_allocation_costs_nothing_until_it_is_written() {
    let space = Space::new();
    const HUGE: u64 = 4 << 33;
    let base = space.alloc(HUGE, 0, Poison::Huge).unwrap();
    let mut out = [0; 8];
    space.read(base + HUGE - 8, &mut out).unwrap();
    assert_eq!(out, [0x7F; 8]);
    assert_eq!(space.first_uninitialised(base + (1 << 33), HUGE / 2), Ok(Some(base + (1 << 33))));
    // A write over a page boundary makes two pages, and only its own bytes become valid.
    let edge = base + (1 << 32) * 4;
    space.write(edge - 2, &[1, 2, 3, 4]).unwrap();
    space.read(edge - 4, &mut out).unwrap();
    assert_eq!(out, [0x7F, 0x7F, 1, 2, 3, 4, 0x7F, 0x7F]);
    assert_eq!(space.first_uninitialised(edge - 2, 4), Ok(None));
    assert_eq!(space.first_uninitialised(edge - 2, 5), Ok(Some(edge + 2)));
    // A fill of everything keeps untouched pages untouched, and overwrites the others.
    space.fill(base, &[5, 0, 0, 0], HUGE / 4).unwrap();
    space.read(edge - 4, &mut out).unwrap();
    assert_eq!(out, [5, 0, 0, 0, 5, 0, 0, 0]);
    space.read(base + HUGE - 3, &mut out[..3]).unwrap();
    assert_eq!(out[..3], [0, 0, 0]);
    assert_eq!(space.first_uninitialised(base, HUGE), Ok(None));
    assert!(space.read(base + HUGE - 3, &mut out[..4]).is_err());
}

#[test]
fn a_generated_input_reads_the_same_before_and_after_its_page_is_made() {
    let space = Space::new();
    const HUGE: u64 = 1 << 34;
    let base = space.alloc(HUGE, 0, Poison::Nan).unwrap();
    space.generate(base, HUGE, Background::Hash(9)).unwrap();
    let at = base + HUGE / 2 + 64;
    let (mut before, mut after) = ([0; 64], [0; 64]);
    space.read(at, &mut before).unwrap();
    space.write(at - 4, &[0; 4]).unwrap();
    space.read(at, &mut after).unwrap();
    assert_eq!(before, after);
    assert_ne!(before[..4], before[4..8]);
    assert_eq!(space.first_uninitialised(base, HUGE), Ok(None));
}
