//! Memory: the device address space, shared memory, and what is known about each byte.

pub mod allocation;
pub(crate) mod block;
pub mod shared;
pub mod space;
pub mod windows;

pub use allocation::{Allocation, Background, Poison};
pub use shared::Shared;
pub use space::{AllocationInfo, FreeError, MemoryFault, MemoryFaultKind, OutOfMemory, Snapshot, Space};
