//! Launch plans: pure functions from a shape and the capabilities of a GPU to how a kernel is launched.

pub mod attention;
pub mod elementwise;
pub mod inference;
pub mod loss;
mod piece;
pub mod sample;
pub mod softmax;

pub use piece::Piece;

/// What a plan may know of a GPU. A plain value, so that plans are tested without a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caps {
    /// Compute capability, major and minor: (9, 0) is Hopper.
    pub compute_capability: (u32, u32),
    /// Number of streaming multiprocessors.
    pub sm_count: u32,
    /// Threads that one multiprocessor can hold.
    pub max_threads_per_sm: u32,
    /// Bytes of shared memory of one multiprocessor.
    pub shared_per_sm: u32,
    /// Largest bytes of shared memory of one block, static and dynamic together, with the opt-in attribute set.
    pub max_shared_optin: u32,
    /// Bytes of L2 cache.
    pub l2_bytes: u64,
}
