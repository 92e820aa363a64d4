//! The address map: where allocations begin, and the windows of the generic address space.
//!
//! A generic address names global, shared or local memory by its value alone. The windows lie apart from each other,
//! from every allocation, from null, and from the addresses Linux gives to host memory on x86-64.

/// Below this an address is a null pointer plus an offset.
pub const NULL_BELOW: u64 = 1 << 16;
/// Where the first allocation may lie.
pub const FIRST_ALLOCATION: u64 = 0x0A00_0000_0000;
/// No allocation lies at or above this.
pub const LAST_ALLOCATION: u64 = 0x4000_0000_0000;
/// Where shared memory lies in the generic address space.
pub const SHARED: u64 = 0x0100_0000_0000;
/// Where local memory lies in the generic address space.
pub const LOCAL: u64 = 0x0200_0000_0000;
/// Where parameters lie in the generic address space.
pub const PARAM: u64 = 0x0300_0000_0000;
/// Where the addresses of device functions lie. No data is there.
pub const CODE: u64 = 0x0400_0000_0000;
/// Bytes between the addresses of two functions.
pub const CODE_STEP: u64 = 16;
/// Bytes of each window.
pub const WINDOW_BYTES: u64 = 1 << 32;

/// The state space that a generic address names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Device memory, or an address that names nothing.
    Global,
    /// Shared memory at this offset.
    Shared(u32),
    /// Local memory at this offset.
    Local(u32),
    /// The kernel's parameters at this offset.
    Param(u32),
}

/// Which window a generic address lies in.
#[inline(always)]
pub fn classify(address: u64) -> Window {
    // The windows differ in the bits above the low 32 alone.
    let offset = address as u32;
    match address - u64::from(offset) {
        SHARED => Window::Shared(offset),
        LOCAL => Window::Local(offset),
        PARAM => Window::Param(offset),
        _ => Window::Global,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_do_not_overlap() {
        assert_eq!(classify(SHARED), Window::Shared(0));
        assert_eq!(classify(SHARED + WINDOW_BYTES - 1), Window::Shared(u32::MAX));
        assert_eq!(classify(SHARED + WINDOW_BYTES), Window::Global);
        assert_eq!(classify(LOCAL + 8), Window::Local(8));
        assert_eq!(classify(PARAM + 8), Window::Param(8));
        assert_eq!(classify(FIRST_ALLOCATION), Window::Global);
        assert_eq!(classify(0), Window::Global);
    }
}
