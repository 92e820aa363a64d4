//! Memory: the device address space, shared memory, and what is known about each byte.

pub mod allocation;
pub(crate) mod block;
pub mod history;
pub mod shared;
pub mod space;
pub mod windows;

pub use allocation::{Allocation, Background, Poison};
pub use history::AllocationInfo;
pub use shared::Shared;
pub use space::{FreeError, MemoryFault, MemoryFaultKind, OutOfMemory, ReviveError, Snapshot, Space};
