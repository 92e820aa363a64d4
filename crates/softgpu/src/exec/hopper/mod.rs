//! What the newer targets add: memory barriers, copies in bulk, tensor copies, products of warpgroups.
//!
//! Whatever works beside the threads is late here: it happens when somebody has to wait for it, and under other seeds than
//! 0 also at any moment before. Until then its bytes and registers belong to nobody, and whoever touches them is reported.

pub mod bulk;
pub mod cluster;
pub mod flight;
pub mod mbarrier;
pub mod product;
pub mod registers;
pub mod tensor;
pub mod tile;
pub mod wgmma;

use super::access::flags;
use super::{Env, LANES, Warp};
use crate::ir::Inst;
use crate::launch::code;
use crate::mem::windows::{self, Window};

/// Bit of the field `c`: the address is generic.
pub const GENERIC: u16 = flags::READ_ONLY;

/// What works beside the threads of one CTA.
#[derive(Default)]
pub struct Beside {
    /// Memory barriers.
    pub(crate) barriers: mbarrier::Barriers,
    /// Copies that are not done.
    pub(crate) flights: flight::Flights,
    /// What the warps of each warpgroup have multiplied together.
    products: Vec<product::Common>,
    /// Registers that warps gave away or took.
    registers: registers::Registers,
}

/// All threads of the CTA have exited: what was left undone.
pub(crate) fn end(env: &mut Env<'_>) {
    flight::end(env);
    wgmma::end(env);
    registers::end(env);
    cluster::end(env);
}

/// The addresses of `inst` as offsets in the shared memory that is looked at; `None` after a fault.
pub(super) fn shared_addresses(warp: &Warp, env: &mut Env<'_>, inst: &Inst, mask: u32) -> Option<[u64; LANES]> {
    let access = super::access::Access::new::<1>(warp, inst, mask);
    let mut address = access.address;
    if inst.c & GENERIC != 0 {
        for lane in access.lanes() {
            let Window::Shared(at) = windows::classify(address[lane]) else {
                let text = format!("{:#x} is not an address in shared memory", address[lane]);
                env.fault(warp, lane as u32, code::ILLEGAL_ADDRESS, text);
                return None;
            };
            address[lane] = u64::from(at);
        }
    }
    for lane in access.lanes() {
        let Some(at) = env.cluster.offset(address[lane]) else {
            let text = format!("{:#x} lies in another CTA's shared memory, where this is not possible", address[lane]);
            env.fault(warp, lane as u32, code::ILLEGAL_ADDRESS, text);
            return None;
        };
        address[lane] = at;
    }
    Some(address)
}
