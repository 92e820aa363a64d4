//! Slots that have their value before a warp starts.

use crate::exec::{LANES, Warp};
use crate::ir::{Kernel, Source, Special};
use crate::launch::Launch;

/// Fills all of them. `launch` was checked: parameters and module variables are there.
pub fn fill(warp: &mut Warp, kernel: &Kernel, launch: &Launch) {
    for (slot, fill) in &kernel.fills {
        match fill.source {
            Source::Const(value) => write(warp, *slot, fill.pair, |_| value),
            Source::Param { offset, bytes, signed } => {
                let value = param(&launch.params, offset as usize, usize::from(bytes), signed);
                write(warp, *slot, fill.pair, |_| value);
            }
            Source::Global { index, offset } => {
                let value = launch.globals[index as usize].wrapping_add_signed(offset);
                write(warp, *slot, fill.pair, |_| value);
            }
            // Each call fills its own.
            Source::Frame { .. } => {}
            Source::Special(special) if of_cta(special, launch, [0; 3]).is_some() => {}
            Source::Special(special) => {
                let index = warp.index;
                write(warp, *slot, fill.pair, |lane| u64::from(fixed(special, launch, kernel, index, lane)));
            }
        }
    }
}

/// Fills those that name the CTA.
pub fn fill_cta(warp: &mut Warp, kernel: &Kernel, launch: &Launch, cta: [u32; 3]) {
    for (slot, fill) in &kernel.fills {
        if let Source::Special(special) = fill.source
            && let Some(value) = of_cta(special, launch, cta)
        {
            write(warp, *slot, fill.pair, |_| u64::from(value));
        }
    }
}

/// The value of a special register that names the CTA or its place in the cluster; `None` of any other.
fn of_cta(special: Special, launch: &Launch, cta: [u32; 3]) -> Option<u32> {
    let within = |axis: usize| cta[axis] % launch.cluster[axis];
    Some(match special {
        Special::Ctaid(axis) => cta[usize::from(axis)],
        Special::ClusterCtaid(axis) => within(usize::from(axis)),
        Special::ClusterId(axis) => cta[usize::from(axis)] / launch.cluster[usize::from(axis)],
        Special::ClusterCtaRank => within(0) + launch.cluster[0] * (within(1) + launch.cluster[1] * within(2)),
        _ => return None,
    })
}

fn write(warp: &mut Warp, slot: u16, pair: bool, value: impl Fn(u32) -> u64) {
    for lane in 0..LANES {
        let v = value(lane as u32);
        if pair {
            warp.r64_mut(slot)[lane] = v;
        } else {
            warp.r32_mut(slot)[lane] = v as u32;
        }
    }
}

fn param(params: &[u8], offset: usize, bytes: usize, signed: bool) -> u64 {
    let mut raw = [0u8; 8];
    raw[..bytes].copy_from_slice(&params[offset..offset + bytes]);
    let value = u64::from_le_bytes(raw);
    let unused = 64 - 8 * bytes as u32;
    if signed { ((value << unused) as i64 >> unused) as u64 } else { value }
}

fn fixed(special: Special, launch: &Launch, kernel: &Kernel, warp: u32, lane: u32) -> u32 {
    let [x, y, z] = launch.block;
    let thread = warp * LANES as u32 + lane;
    let threads = x * y * z;
    let statics = kernel.shared.static_bytes;
    match special {
        Special::Tid(0) => thread % x,
        Special::Tid(1) => thread / x % y,
        Special::Tid(_) => thread / (x * y),
        Special::Ntid(axis) => launch.block[usize::from(axis)],
        Special::Nctaid(axis) => launch.grid[usize::from(axis)],
        // Those of the CTA are filled for each CTA.
        Special::Ctaid(_) | Special::ClusterCtaid(_) | Special::ClusterId(_) | Special::ClusterCtaRank => 0,
        Special::ClusterNctaid(axis) => launch.cluster[usize::from(axis)],
        Special::NclusterId(axis) => launch.grid[usize::from(axis)] / launch.cluster[usize::from(axis)],
        Special::ClusterNctaRank => launch.cluster.iter().product(),
        Special::LaneId => lane,
        Special::WarpId => warp,
        Special::NwarpId => threads.div_ceil(LANES as u32),
        Special::LaneMaskEq => 1 << lane,
        Special::LaneMaskLt => (1 << lane) - 1,
        Special::LaneMaskLe => (2u64 << lane).wrapping_sub(1) as u32,
        Special::LaneMaskGt => !((2u64 << lane).wrapping_sub(1) as u32),
        Special::LaneMaskGe => !((1u32 << lane) - 1),
        Special::DynamicSharedSize => launch.dynamic_shared,
        Special::TotalSharedSize => statics.next_multiple_of(16) + launch.dynamic_shared,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_extend_as_their_type_says() {
        let params = [0xFE, 0xFF, 0x80, 0, 0, 0, 0, 0, 1];
        assert_eq!(param(&params, 0, 2, false), 0xFFFE);
        assert_eq!(param(&params, 0, 2, true) as i64, -2);
        assert_eq!(param(&params, 2, 1, true) as i64, -128);
        assert_eq!(param(&params, 1, 8, false), 0x0100_0000_0000_80FF);
    }
}
