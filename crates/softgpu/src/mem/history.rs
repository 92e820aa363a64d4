//! What is remembered of every allocation, so that a bad address can be explained.

use super::space::MemoryFaultKind;
use super::windows::{self, Window};
use std::collections::BTreeMap;
use std::fmt;

/// Unmapped bytes after each allocation: an overrun of up to this much cannot land in a neighbour.
pub(super) const GAP: u64 = 1 << 20;
/// Records of freed allocations that are kept for explanations.
pub(super) const REMEMBERED: usize = 1 << 16;

/// What is remembered of an allocation after it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocationInfo {
    /// Its lowest address.
    pub base: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its number among all allocations, from 1.
    pub order: u64,
    /// The device that owns it.
    pub device: u32,
    /// Who freed it, if it was freed.
    pub freed_by: Option<&'static str>,
}

impl fmt::Display for AllocationInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "allocation {} of {} bytes at {:#x} on device {}", self.order, self.bytes, self.base, self.device)?;
        match self.freed_by {
            Some(by) => write!(f, ", freed by {by}"),
            None => Ok(()),
        }
    }
}

/// Every allocation that ever was, by address.
#[derive(Default)]
pub(super) struct History {
    pub(super) by_base: BTreeMap<u64, AllocationInfo>,
    pub(super) freed: std::collections::VecDeque<u64>,
}

impl History {
    /// What lies at `address`, and what is wrong with an access of `bytes` bytes there.
    pub(super) fn describe(&self, address: u64, bytes: u64) -> (MemoryFaultKind, String) {
        use MemoryFaultKind::*;
        if address < windows::NULL_BELOW {
            return (Null, if address == 0 { "a null pointer".into() } else { format!("null plus {address} bytes") });
        }
        match windows::classify(address) {
            Window::Shared(at) => return (Unmapped, format!("a generic address of shared memory (offset {at})")),
            Window::Local(at) => return (Unmapped, format!("a generic address of local memory (offset {at})")),
            Window::Param(at) => return (Unmapped, format!("a generic address of a parameter (offset {at})")),
            Window::Global => {}
        }
        let before = self.by_base.range(..=address).next_back().map(|(_, info)| info);
        let after = self.by_base.range(address..).next().map(|(_, info)| info);
        if let Some(info) = before {
            let offset = address - info.base;
            let kind = if info.freed_by.is_some() { Freed } else { OutOfBounds };
            if offset < info.bytes {
                let left = info.bytes - offset;
                if bytes > left && kind == OutOfBounds {
                    let over = bytes - left;
                    return (kind, format!("offset {offset}, the last {over} of {bytes} bytes lie past {info}"));
                }
                return (kind, format!("offset {offset} of {info}"));
            }
            if offset - info.bytes < GAP {
                return (kind, format!("{} bytes past the end of {info}", offset - info.bytes));
            }
        }
        if let Some(info) = after
            && info.base - address < GAP
        {
            let kind = if info.freed_by.is_some() { Freed } else { OutOfBounds };
            return (kind, format!("{} bytes before {info}", info.base - address));
        }
        let text = if (0x5500_0000_0000..0x8000_0000_0000).contains(&address) {
            "no device memory lies there; it looks like a host pointer"
        } else {
            "no device memory lies there"
        };
        (Unmapped, text.into())
    }
}
