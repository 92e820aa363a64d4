//! Result codes of the driver API, with the names and sentences that `cuGetErrorName` and `cuGetErrorString` answer.

use std::ffi::CStr;
use std::fmt;

/// A `CUresult`. Zero is success; everything else is an error that a driver entry returns.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub u32);

/// What the body of a driver entry returns.
pub type Result<T = ()> = std::result::Result<T, Code>;

/// Declares the codes that this driver itself returns, and one table of names for them and for the codes
/// that only fault injection can produce.
macro_rules! codes {
    (
        returned { $($constant:ident = $value:literal $name:literal $text:literal;)* }
        only_named { $($other:literal $other_name:literal $other_text:literal;)* }
    ) => {
        impl Code {
            $(
                #[doc = concat!("`", stringify!($constant), "`, ", stringify!($value), ".")]
                pub const $constant: Code = Code($value);
            )*
        }
        static TABLE: &[(u32, &CStr, &CStr)] = &[
            $(($value, $name, $text),)*
            $(($other, $other_name, $other_text),)*
        ];
    };
}

codes! {
    returned {
    SUCCESS = 0 c"CUDA_SUCCESS" c"no error";
    INVALID_VALUE = 1 c"CUDA_ERROR_INVALID_VALUE" c"invalid argument";
    OUT_OF_MEMORY = 2 c"CUDA_ERROR_OUT_OF_MEMORY" c"out of memory";
    NOT_INITIALIZED = 3 c"CUDA_ERROR_NOT_INITIALIZED" c"initialization error: cuInit has not been called";
    DEINITIALIZED = 4 c"CUDA_ERROR_DEINITIALIZED" c"driver shutting down";
    NO_DEVICE = 100 c"CUDA_ERROR_NO_DEVICE" c"no CUDA-capable device is detected";
    INVALID_DEVICE = 101 c"CUDA_ERROR_INVALID_DEVICE" c"invalid device ordinal";
    INVALID_IMAGE = 200 c"CUDA_ERROR_INVALID_IMAGE" c"device kernel image is invalid";
    INVALID_CONTEXT = 201 c"CUDA_ERROR_INVALID_CONTEXT" c"invalid device context";
    NO_BINARY_FOR_GPU = 209 c"CUDA_ERROR_NO_BINARY_FOR_GPU" c"no kernel image is available for execution on the device";
    UNSUPPORTED_LIMIT = 215 c"CUDA_ERROR_UNSUPPORTED_LIMIT" c"limit is not supported on this architecture";
    INVALID_PTX = 218 c"CUDA_ERROR_INVALID_PTX" c"a PTX JIT compilation failed";
    UNSUPPORTED_PTX_VERSION = 222 c"CUDA_ERROR_UNSUPPORTED_PTX_VERSION" c"the provided PTX was compiled with an unsupported toolchain";
    FILE_NOT_FOUND = 301 c"CUDA_ERROR_FILE_NOT_FOUND" c"file not found";
    INVALID_HANDLE = 400 c"CUDA_ERROR_INVALID_HANDLE" c"invalid resource handle";
    ILLEGAL_STATE = 401 c"CUDA_ERROR_ILLEGAL_STATE" c"the operation cannot be performed in the present state";
    NOT_FOUND = 500 c"CUDA_ERROR_NOT_FOUND" c"named symbol not found";
    NOT_READY = 600 c"CUDA_ERROR_NOT_READY" c"device not ready";
    ILLEGAL_ADDRESS = 700 c"CUDA_ERROR_ILLEGAL_ADDRESS" c"an illegal memory access was encountered";
    LAUNCH_OUT_OF_RESOURCES = 701 c"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES" c"too many resources requested for launch";
    LAUNCH_TIMEOUT = 702 c"CUDA_ERROR_LAUNCH_TIMEOUT" c"the launch timed out and was terminated";
    PRIMARY_CONTEXT_ACTIVE = 708 c"CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE" c"cannot set while device is active in this process";
    CONTEXT_IS_DESTROYED = 709 c"CUDA_ERROR_CONTEXT_IS_DESTROYED" c"context is destroyed";
    ASSERT = 710 c"CUDA_ERROR_ASSERT" c"device-side assert triggered";
    HARDWARE_STACK_ERROR = 714 c"CUDA_ERROR_HARDWARE_STACK_ERROR" c"hardware stack error";
    ILLEGAL_INSTRUCTION = 715 c"CUDA_ERROR_ILLEGAL_INSTRUCTION" c"an illegal instruction was encountered";
    MISALIGNED_ADDRESS = 716 c"CUDA_ERROR_MISALIGNED_ADDRESS" c"misaligned address";
    INVALID_ADDRESS_SPACE = 717 c"CUDA_ERROR_INVALID_ADDRESS_SPACE" c"operation not supported on global/shared address space";
    INVALID_PC = 718 c"CUDA_ERROR_INVALID_PC" c"invalid program counter";
    LAUNCH_FAILED = 719 c"CUDA_ERROR_LAUNCH_FAILED" c"unspecified launch failure";
    COOPERATIVE_LAUNCH_TOO_LARGE = 720 c"CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE" c"too many blocks in cooperative launch";
    NOT_PERMITTED = 800 c"CUDA_ERROR_NOT_PERMITTED" c"operation not permitted";
    NOT_SUPPORTED = 801 c"CUDA_ERROR_NOT_SUPPORTED" c"operation not supported";
    STREAM_CAPTURE_UNSUPPORTED = 900 c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" c"operation not permitted when stream is capturing";
    STREAM_CAPTURE_INVALIDATED = 901 c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED" c"operation failed due to a previous error during capture";
    STREAM_CAPTURE_MERGE = 902 c"CUDA_ERROR_STREAM_CAPTURE_MERGE" c"operation would result in a merge of separate capture sequences";
    STREAM_CAPTURE_UNMATCHED = 903 c"CUDA_ERROR_STREAM_CAPTURE_UNMATCHED" c"capture was not ended in the same stream as it began";
    STREAM_CAPTURE_UNJOINED = 904 c"CUDA_ERROR_STREAM_CAPTURE_UNJOINED" c"capturing stream has unjoined work";
    STREAM_CAPTURE_ISOLATION = 905 c"CUDA_ERROR_STREAM_CAPTURE_ISOLATION" c"dependency created on uncaptured work in another stream";
    STREAM_CAPTURE_IMPLICIT = 906 c"CUDA_ERROR_STREAM_CAPTURE_IMPLICIT" c"operation would make the legacy stream depend on a capturing blocking stream";
    CAPTURED_EVENT = 907 c"CUDA_ERROR_CAPTURED_EVENT" c"operation not permitted on an event last recorded in a capturing stream";
    STREAM_CAPTURE_WRONG_THREAD = 908 c"CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD" c"attempt to terminate a thread-local capture sequence from another thread";
    INVALID_CLUSTER_SIZE = 912 c"CUDA_ERROR_INVALID_CLUSTER_SIZE" c"cluster misconfiguration";
    UNKNOWN = 999 c"CUDA_ERROR_UNKNOWN" c"unknown error";
    }
    only_named {
    5 c"CUDA_ERROR_PROFILER_DISABLED" c"profiler disabled while using external profiling tool";
    34 c"CUDA_ERROR_STUB_LIBRARY" c"CUDA driver is a stub library";
    46 c"CUDA_ERROR_DEVICE_UNAVAILABLE" c"CUDA-capable device(s) is/are busy or unavailable";
    102 c"CUDA_ERROR_DEVICE_NOT_LICENSED" c"device is not licensed";
    205 c"CUDA_ERROR_MAP_FAILED" c"mapping of buffer object failed";
    206 c"CUDA_ERROR_UNMAP_FAILED" c"unmapping of buffer object failed";
    208 c"CUDA_ERROR_ALREADY_MAPPED" c"resource already mapped";
    211 c"CUDA_ERROR_NOT_MAPPED" c"resource not mapped";
    214 c"CUDA_ERROR_ECC_UNCORRECTABLE" c"uncorrectable ECC error encountered";
    216 c"CUDA_ERROR_CONTEXT_ALREADY_IN_USE" c"exclusive-thread device already in use by a different thread";
    217 c"CUDA_ERROR_PEER_ACCESS_UNSUPPORTED" c"peer access is not supported between these two devices";
    221 c"CUDA_ERROR_JIT_COMPILER_NOT_FOUND" c"PTX JIT compiler library not found";
    223 c"CUDA_ERROR_JIT_COMPILATION_DISABLED" c"PTX JIT compilation was disabled";
    300 c"CUDA_ERROR_INVALID_SOURCE" c"device kernel image is invalid";
    302 c"CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND" c"shared object symbol not found";
    303 c"CUDA_ERROR_SHARED_OBJECT_INIT_FAILED" c"shared object initialization failed";
    304 c"CUDA_ERROR_OPERATING_SYSTEM" c"OS call failed or operation not supported on this OS";
    704 c"CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED" c"peer access is already enabled";
    705 c"CUDA_ERROR_PEER_ACCESS_NOT_ENABLED" c"peer access has not been enabled";
    711 c"CUDA_ERROR_TOO_MANY_PEERS" c"peer mapping resources exhausted";
    712 c"CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED" c"part or all of the requested memory range is already mapped";
    713 c"CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED" c"pointer does not correspond to a registered memory region";
    802 c"CUDA_ERROR_SYSTEM_NOT_READY" c"system not yet initialized";
    803 c"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH" c"system has unsupported display driver / cuda driver combination";
    909 c"CUDA_ERROR_TIMEOUT" c"wait operation timed out";
    910 c"CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE" c"the graph update was not performed because it included changes which violated constraints";
    911 c"CUDA_ERROR_EXTERNAL_DEVICE" c"an async error has occurred in external entity outside of CUDA";
    }
}

impl Code {
    /// The name as `cuGetErrorName` gives it, or `None` for a number the driver does not know.
    pub fn name(self) -> Option<&'static CStr> {
        TABLE.iter().find(|row| row.0 == self.0).map(|row| row.1)
    }

    /// The sentence as `cuGetErrorString` gives it, or `None` for a number the driver does not know.
    pub fn text(self) -> Option<&'static CStr> {
        TABLE.iter().find(|row| row.0 == self.0).map(|row| row.2)
    }

    /// The code of a name such as `OUT_OF_MEMORY` or `CUDA_ERROR_OUT_OF_MEMORY`, or of a decimal number.
    pub fn parse(text: &str) -> Option<Code> {
        if let Ok(number) = text.parse::<u32>() {
            return Some(Code(number));
        }
        let matches = |row: &&(u32, &CStr, &CStr)| {
            let name = row.1.to_str().unwrap_or_default();
            name == text || name.strip_prefix("CUDA_ERROR_") == Some(text)
        };
        TABLE.iter().find(matches).map(|row| Code(row.0))
    }

    /// Whether the error belongs to the context: after it, every call on that context returns it again.
    pub fn is_sticky(self) -> bool {
        matches!(
            self,
            Code::ILLEGAL_ADDRESS
                | Code::LAUNCH_TIMEOUT
                | Code::ASSERT
                | Code::HARDWARE_STACK_ERROR
                | Code::ILLEGAL_INSTRUCTION
                | Code::MISALIGNED_ADDRESS
                | Code::INVALID_ADDRESS_SPACE
                | Code::INVALID_PC
                | Code::LAUNCH_FAILED
                // An operation that panicked: nobody knows what it has done.
                | Code::UNKNOWN
        )
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name().and_then(|name| name.to_str().ok()) {
            Some(name) => write!(f, "{} {}", self.0, name.trim_start_matches("CUDA_ERROR_")),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_parse_to_the_same_code() {
        for text in ["OUT_OF_MEMORY", "CUDA_ERROR_OUT_OF_MEMORY", "2"] {
            assert_eq!(Code::parse(text), Some(Code::OUT_OF_MEMORY));
        }
        assert_eq!(Code::parse("OUT_OF_LUCK"), None);
    }

    #[test]
    fn no_number_is_listed_twice() {
        let mut numbers: Vec<u32> = TABLE.iter().map(|row| row.0).collect();
        numbers.sort_unstable();
        let listed = numbers.len();
        numbers.dedup();
        assert_eq!(numbers.len(), listed);
    }
}
