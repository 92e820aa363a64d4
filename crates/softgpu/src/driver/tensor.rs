//! Tensor maps, which say where tensor copies find their boxes.

use super::call::{In, Out, entry};
use super::code::{Code, Result};
use crate::exec::hopper::tensor::Map;
use crate::exec::hopper::tile::Swizzle;

/// Bytes of an element, by `CUtensorMapDataType`.
const ELEMENTS: [u32; 13] = [1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4];
/// The float types among them.
const FLOATS: [u32; 7] = [6, 7, 8, 9, 10, 11, 12];
/// What the elements outside of a tensor of floats become when NaN is asked for.
const NAN: [u32; 2] = [0x7FFF_7FFF, 0x7FFF_FFFF];

/// The arguments of `cuTensorMapEncodeTiled`, with the values that its header gives them.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Tiled {
    pub kind: u32,
    pub address: u64,
    /// Elements of each dimension, the contiguous one first.
    pub sizes: Vec<u64>,
    /// Bytes from one to the next, of each dimension but the first.
    pub strides: Vec<u64>,
    /// Elements of a box.
    pub extent: Vec<u32>,
    /// Steps of a box.
    pub steps: Vec<u32>,
    pub interleave: u32,
    pub swizzle: u32,
    pub promotion: u32,
    pub fill: u32,
}

/// Why there is no map: the arguments are wrong, or it is not implemented.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoMap {
    /// What no driver accepts.
    Invalid(String),
    /// What this one does not do.
    Unsupported(String),
}

/// The 128 bytes of a map.
pub fn encode(tiled: &Tiled) -> std::result::Result<[u64; 16], NoMap> {
    let Tiled { kind, address, sizes, strides, extent, steps, interleave, swizzle, promotion, fill } = tiled;
    let invalid = |text: String| Err(NoMap::Invalid(text));
    let rank = sizes.len();
    if !(1..=5).contains(&rank) {
        return invalid(format!("a tensor of {rank} dimensions, 1 to 5 are possible"));
    }
    let Some(element) = ELEMENTS.get(*kind as usize).copied() else {
        return match kind {
            13..=15 => {
                Err(NoMap::Unsupported(format!("elements of type {kind} (less than a byte) are not implemented")))
            }
            _ => invalid(format!("element type {kind} is not known")),
        };
    };
    if *interleave > 2 || *promotion > 3 || *fill > 1 {
        return invalid(format!("interleave {interleave}, L2 promotion {promotion} or fill {fill} is not known"));
    }
    if *swizzle > 3 {
        return match swizzle {
            4..=6 => {
                Err(NoMap::Unsupported(format!("swizzle {swizzle}, of units larger than 16 bytes, is not implemented")))
            }
            _ => invalid(format!("swizzle {swizzle} is not known")),
        };
    }
    if *interleave != 0 {
        return Err(NoMap::Unsupported("interleaved layouts are not implemented".to_string()));
    }
    if *address == 0 || !address.is_multiple_of(16) {
        return invalid(format!("the tensor begins at {address:#x}, which is no multiple of 16"));
    }
    for (i, size) in sizes.iter().enumerate() {
        if *size == 0 || *size > 1 << 32 {
            return invalid(format!("dimension {i} has {size} elements, 1 to 2^32 are possible"));
        }
    }
    for (i, stride) in strides.iter().enumerate() {
        if !stride.is_multiple_of(16) || *stride >= 1 << 40 {
            let i = i + 1;
            return invalid(format!("dimension {i} has a stride of {stride} bytes: not a multiple of 16 below 2^40"));
        }
    }
    for (i, extent) in extent.iter().enumerate() {
        if *extent == 0 || *extent > 256 {
            return invalid(format!("a box of {extent} elements in dimension {i}, 1 to 256 are possible"));
        }
    }
    for (i, step) in steps.iter().enumerate() {
        if *step == 0 || *step > 8 {
            return invalid(format!("steps of {step} elements in dimension {i}, 1 to 8 are possible"));
        }
    }
    let (row, span) = (extent[0] * element, [0, 32, 64, 128][*swizzle as usize]);
    if !row.is_multiple_of(16) {
        return invalid(format!("a box with rows of {row} bytes, which is no multiple of 16"));
    }
    if span != 0 && row > span {
        return invalid(format!("a box with rows of {row} bytes, more than the {span} of its swizzle"));
    }
    if *fill == 1 && !FLOATS.contains(kind) {
        return invalid("NaN is asked for where elements are no floats".to_string());
    }
    let fill = match (fill, element) {
        (0, _) => 0,
        (_, 2) => NAN[0],
        _ => NAN[1],
    };
    let map = Map {
        address: *address,
        sizes: sizes.clone(),
        strides: strides.clone(),
        extent: extent.clone(),
        steps: steps.clone(),
        kind: *kind as u8,
        element,
        fill,
        swizzle: Swizzle::of_span(span),
    };
    Ok(map.encode())
}

entry! {
    fn cuTensorMapEncodeTiled(
        call, out: Out<[u64; 16]>, kind: u32, rank: u32, address: u64, sizes: In<u64>, strides: In<u64>, extent: In<u32>,
        steps: In<u32>, interleave: u32, swizzle: u32, promotion: u32, fill: u32
    ) {
        drop(call.state()?);
        out.check(call)?;
        if !out.is_aligned(64) {
            return Err(call.invalid("a tensor map that is not aligned to 64 bytes"));
        }
        let rank = rank.min(6) as usize;
        let list = |from: In<u64>, count: usize| (0..count).map(|i| from.get_at(call, i)).collect::<Result<Vec<u64>>>();
        let small = |from: In<u32>| (0..rank).map(|i| from.get_at(call, i)).collect::<Result<Vec<u32>>>();
        let tiled = Tiled {
            kind,
            address,
            sizes: if rank > 5 { vec![0; rank] } else { list(sizes, rank)? },
            strides: if rank > 5 { Vec::new() } else { list(strides, rank.saturating_sub(1))? },
            extent: if rank > 5 { Vec::new() } else { small(extent)? },
            steps: if rank > 5 { Vec::new() } else { small(steps)? },
            interleave,
            swizzle,
            promotion,
            fill,
        };
        match encode(&tiled) {
            Ok(words) => out.set(call, words),
            Err(NoMap::Invalid(why)) => Err(call.invalid(&why)),
            Err(NoMap::Unsupported(why)) => Err(call.unsupported(Code::NOT_SUPPORTED, &why)),
        }
    }
}
