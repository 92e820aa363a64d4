//! Tensor copies: boxes over every edge, in every swizzle, against a definition by elements; and what maps refuse.

mod program;
mod support;

use cudarc::driver::sys;
use softgpu::check::Detector;
use softgpu::driver::tensor::{NoMap, Tiled, encode};
use support::{Args, Gpu, load};

const TENSOR: &str = include_str!("hopper/tensor.ptx");
const F16: u32 = 6;
const F32: u32 = 7;

fn bytes(map: &Tiled) -> Vec<u8> {
    encode(map).unwrap().iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A matrix of 16-bit numbers.
fn matrix(address: u64, rows: u64, columns: u64, pitch: u64, extent: [u32; 2]) -> Tiled {
    Tiled {
        kind: F16,
        address,
        sizes: vec![columns, rows],
        strides: vec![pitch],
        extent: extent.to_vec(),
        steps: vec![1, 1],
        ..Tiled::default()
    }
}

/// Where element (row, column) of a tile of 16-bit numbers lies, by the manual's pictures: units of 16 bytes in a row are
/// exchanged by the number of the row (with spans of 64 and 32 bytes: of each pair, of each four).
fn position(swizzle: u32, width: u32, row: u32, column: u32) -> u32 {
    let (unit, rest) = (column / 8, column % 8);
    let unit = match swizzle {
        3 => unit ^ (row % 8),
        2 => unit ^ (row / 2 % 4),
        1 => unit ^ (row / 4 % 2),
        _ => unit,
    };
    row * width * 2 + unit * 16 + rest * 2
}

#[test]
fn boxes_in_every_swizzle_over_every_edge() {
    const ROWS: i64 = 21;
    const COLUMNS: i64 = 70;
    const PITCH: i64 = 80;
    for (swizzle, width) in [(0, 24), (0, 64), (1, 16), (2, 32), (3, 64)] {
        for (n, (x, y)) in
            [(0, 0), (8, 3), (-5, -2), (60, 15), (69, 20), (70, 0), (0, 21), (-64, 0)].into_iter().enumerate()
        {
            for fill in [0, 1] {
                let gpu = Gpu::new(n as u64 % 3);
                let data: Vec<u16> = (0..ROWS * PITCH).map(|i| i as u16 + 1).collect();
                let all: Vec<u8> = data.iter().flat_map(|v| v.to_le_bytes()).collect();
                let from = gpu.upload_bytes(&all);
                let to = gpu.upload_bytes(&vec![0; all.len()]);
                let extent = [width, 12];
                let size = width * 12 * 2;
                let map = |at| Tiled { swizzle, ..matrix(at, ROWS as u64, COLUMNS as u64, PITCH as u64 * 2, extent) };
                let seen = gpu.alloc(size as usize);
                let args = Args::default()
                    .bytes(&bytes(&Tiled { fill, ..map(from) }), 128)
                    .bytes(&bytes(&map(to)), 128)
                    .u64(seen)
                    .i32(size as i32)
                    .i32(x)
                    .i32(y)
                    .i32(x + 1)
                    .i32(y - 1);
                let run = gpu.launch(&load(TENSOR), "box", 1, 64, 0, args);
                run.assert_clean();
                let tile = gpu.bytes(seen, size as usize);
                let outside = if fill == 1 { 0x7FFF } else { 0 };
                let mut back = vec![0u16; data.len()];
                for row in 0..12 {
                    for column in 0..width {
                        let (r, c) = (i64::from(y) + i64::from(row), i64::from(x) + i64::from(column));
                        let inside = (0..ROWS).contains(&r) && (0..COLUMNS).contains(&c);
                        let value = if inside { data[(r * PITCH + c) as usize] } else { outside };
                        let at = position(swizzle, width, row, column) as usize;
                        let got = u16::from_le_bytes([tile[at], tile[at + 1]]);
                        assert_eq!(got, value, "swizzle {swizzle}, box ({x}, {y}), row {row}, column {column}");
                        let (r, c) = (r - 1, c + 1);
                        if (0..ROWS).contains(&r) && (0..COLUMNS).contains(&c) {
                            back[(r * PITCH + c) as usize] = value;
                        }
                    }
                }
                let stored: Vec<u8> = back.iter().flat_map(|v| v.to_le_bytes()).collect();
                assert_eq!(gpu.bytes(to, stored.len()), stored, "what lies outside is not stored");
            }
        }
    }
}

#[test]
fn one_three_four_and_five_dimensions() {
    let gpu = Gpu::new(1);
    let data: Vec<f32> = (0..4096).map(|i| i as f32).collect();
    let from = gpu.upload(&data);
    let map = |sizes: &[u64], extent: &[u32], steps: &[u32]| {
        let strides: Vec<u64> =
            sizes.iter().scan(4, |stride, size| Some(std::mem::replace(stride, *stride * size))).collect();
        let (sizes, extent, steps) = (sizes.to_vec(), extent.to_vec(), steps.to_vec());
        Tiled { kind: F32, address: from, strides: strides[1..].to_vec(), sizes, extent, steps, ..Tiled::default() }
    };
    let maps = [
        map(&[100], &[32], &[1]),
        map(&[8, 8, 64], &[4, 4, 2], &[1, 1, 1]),
        map(&[8, 8, 8, 8], &[4, 4, 2, 2], &[1, 2, 1, 1]),
        map(&[4, 8, 8, 4, 4], &[4, 2, 2, 1, 2], &[1, 1, 1, 1, 1]),
    ];
    let seen = gpu.alloc(512);
    let mut args = Args::default();
    for map in &maps {
        args = args.bytes(&bytes(map), 128);
    }
    let run = gpu.launch(&load(TENSOR), "dimensions", 1, 32, 0, args.u64(seen));
    run.assert_clean();
    let got: Vec<f32> = gpu.words(seen, 128).into_iter().map(f32::from_bits).collect();
    for i in 0..32usize {
        assert_eq!(got[i], (4 + i) as f32);
        let (a, b, c) = (i % 4, i / 4 % 4, i / 16);
        assert_eq!(got[32 + i], ((c + 2) * 64 + (b + 1) * 8 + a) as f32);
        // Every second row of four: two.
        let (a, b, c, d) = (i % 4, i / 4 % 2, i / 8 % 2, i / 16);
        assert_eq!(got[64 + i], ((d + 1) * 512 + (c + 1) * 64 + (1 + 2 * b) * 8 + a) as f32, "{i}");
        let (a, b, c, e) = (i % 4, i / 4 % 2, i / 8 % 2, i / 16);
        let wanted = if e == 0 { 0 } else { 256 + c * 32 + (b + 1) * 4 + a };
        assert_eq!(got[96 + i], wanted as f32, "{i}");
    }
}

#[test]
fn reductions_of_boxes() {
    let gpu = Gpu::new(0);
    let to = gpu.upload(&[100.0; 32 * 6]);
    let map = Tiled {
        kind: F32,
        address: to,
        sizes: vec![32, 6],
        strides: vec![128],
        extent: vec![16, 4],
        steps: vec![1, 1],
        ..Tiled::default()
    };
    gpu.launch(&load(TENSOR), "add", 1, 64, 0, Args::default().bytes(&bytes(&map), 128).i32(24).i32(-1)).assert_clean();
    for (i, bits) in gpu.words(to, 32 * 6).into_iter().enumerate() {
        let (row, column) = (i / 32, i % 32);
        let added = if row < 3 && column >= 24 { (16 * (row + 1) + column - 24) as f32 } else { 0.0 };
        assert_eq!(f32::from_bits(bits), 100.0 + added, "row {row}, column {column}");
    }
}

#[test]
fn maps_that_are_none_are_refused_where_they_are_used() {
    let gpu = Gpu::new(0);
    let data = gpu.upload(&[0.0; 4096]);
    let good = bytes(&matrix(data, 20, 64, 128, [64, 8]));
    let mut overwritten = good.clone();
    overwritten[40] ^= 4;
    let three = Tiled {
        sizes: vec![64, 4, 4],
        strides: vec![128, 512],
        extent: vec![64, 2, 2],
        steps: vec![1; 3],
        ..matrix(data, 0, 0, 0, [0, 0])
    };
    for (map, code, words) in [
        (vec![0; 128], 715, "not a tensor map"),
        (overwritten, 715, "overwritten"),
        (bytes(&three), 715, "3 dimensions, and the copy has 2"),
        (bytes(&matrix(data, 2000, 64, 128, [64, 8])), 700, "out of bounds"),
        (bytes(&matrix(data, 20, 64, 128, [64, 80])), 719, "the last 2048 outside"),
    ] {
        let y = if code == 700 { 1900 } else { 0 };
        let args = Args::default().bytes(&map, 128).bytes(&good, 128).u64(data).i32(1024).i32(0).i32(y).i32(0).i32(0);
        let run = gpu.launch(&load(TENSOR), "box", 1, 64, 0, args);
        let fault = run.fault.unwrap_or_else(|| panic!("{words}: silent"));
        assert_eq!(fault.code, code, "{}", fault.text);
        assert!(fault.text.contains(words), "{}", fault.text);
    }
}

#[test]
fn a_copy_that_counts_other_bytes_than_expected_hangs_with_the_barrier_named() {
    let gpu = Gpu::new(0);
    let data = gpu.upload(&[0.0; 4096]);
    let map = bytes(&matrix(data, 20, 64, 128, [64, 8]));
    let args = Args::default().bytes(&map, 128).bytes(&map, 128).u64(data).i32(1040).i32(0).i32(0).i32(0).i32(0);
    let run = gpu.launch(&load(TENSOR), "box", 1, 64, 0, args);
    let fault = run.fault.unwrap();
    assert_eq!(fault.code, 702);
    assert!(fault.text.contains("an mbarrier in phase 0, with 0 of 1 arrivals and 16 bytes missing"), "{}", fault.text);
    assert_eq!(run.findings[0].detector, Detector::Deadlock);
    assert!(run.findings[0].at.place.contains("tensor.cu:"), "{}", run.findings[0]);
}

#[test]
fn arguments_are_refused_as_the_driver_does() {
    type Change = fn(&mut Tiled);
    let good = matrix(1 << 20, 64, 64, 128, [64, 64]);
    assert!(encode(&good).is_ok());
    let with = |change: Change| {
        let mut other = good.clone();
        change(&mut other);
        encode(&other)
    };
    let wrong: [(Change, &str); 15] = [
        (|t| t.address += 8, "multiple of 16"),
        (|t| t.address = 0, "multiple of 16"),
        (|t| t.sizes[1] = 0, "1 to 2^32"),
        (|t| t.sizes[0] = (1 << 32) + 1, "1 to 2^32"),
        (|t| t.strides[0] = 136, "stride of 136 bytes"),
        (|t| t.strides[0] = 1 << 40, "stride"),
        (|t| t.extent[1] = 257, "257 elements"),
        (|t| t.extent[1] = 0, "0 elements"),
        (|t| t.extent[0] = 12, "rows of 24 bytes"),
        (|t| t.steps[1] = 9, "steps of 9"),
        (|t| t.swizzle = 2, "more than the 64"),
        (|t| t.swizzle = 7, "swizzle 7"),
        (|t| t.kind = 16, "type 16"),
        (|t| (t.kind, t.fill) = (1, 1), "no floats"),
        (|t| t.promotion = 4, "promotion 4"),
    ];
    for (change, words) in wrong {
        match with(change) {
            Err(NoMap::Invalid(why)) => assert!(why.contains(words), "{why}"),
            other => panic!("{words}: {other:?}"),
        }
    }
    assert!(matches!(with(|t| t.interleave = 1), Err(NoMap::Unsupported(_))));
}

#[test]
fn the_driver_encodes_what_kernels_read() {
    let gpu = program::open();
    #[repr(align(128))]
    struct Aligned([u64; 17]);
    let mut map = Aligned([0; 17]);
    let encode = |at: *mut u64, rank: u32| {
        let (sizes, strides, extent, steps) = ([64u64, 8], [128u64], [64u32, 8], [1u32, 1]);
        // SAFETY: the lists have as many entries as the rank says, and the map has room for 128 bytes.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                at.cast(),
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                rank,
                (1usize << 20) as *mut _,
                sizes.as_ptr(),
                strides.as_ptr(),
                extent.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            ) as u32
        }
    };
    assert_eq!(encode(map.0.as_mut_ptr(), 2), 0);
    let same = Tiled { swizzle: 3, promotion: 3, ..matrix(1 << 20, 8, 64, 128, [64, 8]) };
    assert_eq!(map.0[..16], softgpu::driver::tensor::encode(&same).unwrap());
    assert_eq!(encode(map.0[1..].as_mut_ptr(), 2), 1);
    assert!(gpu.last_error().contains("aligned to 64 bytes"), "{}", gpu.last_error());
    assert_eq!(encode(map.0.as_mut_ptr(), 6), 1);
    assert!(gpu.last_error().contains("1 to 5"), "{}", gpu.last_error());
}
