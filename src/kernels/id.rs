//! The names of all kernels, in the one place where they are written.

/// One entry point of the compiled kernel files: which operation, for which element type, in which variant.
///
/// A test compares [`KernelId::all`] with the compiled images: every name exists there, and nothing there is without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KernelId {}

impl KernelId {
    /// The name of the entry point.
    pub fn symbol(self) -> String {
        match self {}
    }

    /// The kernel file that defines it, without its extension.
    pub fn image(self) -> &'static str {
        match self {}
    }

    /// Every entry point.
    pub fn all() -> impl Iterator<Item = Self> {
        std::iter::empty()
    }
}
