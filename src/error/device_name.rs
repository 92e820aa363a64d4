//! Names of devices.

/// A device as messages name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceName {
    /// The host.
    Cpu,
    /// One stream of one GPU.
    Cuda {
        /// Number of the GPU.
        ordinal: usize,
        /// Number of the stream, counted over the life of the process from 0.
        stream: u64,
    },
}

impl std::fmt::Display for DeviceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda { ordinal, stream } => write!(f, "cuda:{ordinal} (stream {stream})"),
        }
    }
}
