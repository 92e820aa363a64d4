//! Compressed fatbins as nvcc writes them: `nvcc -fatbin -O3 -std=c++17 -gencode ... --compress-mode=...` of `ptx/softmax.cu`.
//! `softmax_size.fatbin` holds PTX and cubins by Zstandard, `softmax_speed.fatbin` PTX by LZ4.

use softgpu::module::image::{Capability, choose, measure};

const PACKED: [(&str, &[u8]); 2] =
    [("size", include_bytes!("ptx/softmax_size.fatbin")), ("speed", include_bytes!("ptx/softmax_speed.fatbin"))];

const DEVICES: [(Capability, &str, &str); 2] = [
    (Capability { major: 8, minor: 0 }, "sm_80", include_str!("ptx/softmax_sm80.ptx")),
    (Capability { major: 9, minor: 0 }, "sm_90a", include_str!("ptx/softmax_sm90a.ptx")),
];

/// The statements of a text. Fatbins hold no comments and single spaces, and these were compiled without line information.
fn statements(ptx: &str) -> Vec<String> {
    let code = ptx.split("\t.section").next().unwrap_or_default().lines();
    let lines = code.map(|line| line.split_whitespace().collect::<Vec<_>>());
    let said = lines.filter(|words| words.first().is_some_and(|first| !["//", ".loc", ".file"].contains(first)));
    said.map(|words| words.join(" ")).collect()
}

#[test]
fn both_schemes_hold_the_text_that_was_compressed() {
    for (mode, image) in PACKED {
        assert_eq!(measure(|at| image[at]), Ok(image.len()));
        for (device, target, text) in DEVICES {
            let chosen = choose(image, device).unwrap_or_else(|error| panic!("{mode}, {target}: {error}"));
            assert_eq!(chosen.origin, format!("PTX for {target} of a fatbin"));
            assert_eq!(statements(&chosen.ptx), statements(text), "{mode}, {target}");
            assert!(statements(text).len() > 300);
        }
    }
}

#[test]
fn broken_packages_are_errors() {
    for (mode, image) in PACKED {
        for cut in 0..image.len() {
            assert!(choose(&image[..cut], DEVICES[0].0).is_err(), "{mode}, cut to {cut} bytes");
        }
        // The first entry that holds PTX: its header, and the stream behind it.
        let mut at = 16;
        while image[at] != 1 {
            at += 64 + u64::from_le_bytes(image[at + 8..at + 16].try_into().unwrap()) as usize;
        }
        for (place, value, reason) in [
            (at + 4, 48, "an entry's header is too small"),
            (at + 18, 0xFF, "a compressed entry is longer than its payload"),
            (at + 57, 0xFF, "an entry unpacks to fewer bytes than it claims"),
            (at + 57, 0x01, "a compressed entry cannot be unpacked"),
            (at + 60, 0x01, "an entry claims to unpack to more than 1 GiB"),
        ] {
            let mut broken = image.to_vec();
            assert_ne!(broken[place], value);
            broken[place] = value;
            let error = choose(&broken, DEVICES[0].0).expect_err(reason).to_string();
            assert_eq!(error, format!("the fatbin is malformed: {reason}"), "{mode}");
        }
        for place in at..image.len() {
            for flip in [0x01, 0x80, 0xFF] {
                let mut broken = image.to_vec();
                broken[place] ^= flip;
                // Any answer will do, as long as it is one: neither scheme has a check sum.
                let _ = choose(&broken, DEVICES[1].0).map(|chosen| chosen.ptx.len());
            }
        }
    }
}
