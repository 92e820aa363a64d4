//! What can go wrong. Every message is one sentence that names the operation, the operands and both values.

mod code;
mod device_name;

pub use device_name::DeviceName;

/// A [`std::result::Result`] whose error is [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation was refused or failed.
///
/// An error about an argument is returned before anything is launched or written. Shapes are carried as plain
/// numbers, so that a program can act on them without parsing the message.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two operands had to have the same shape.
    #[error("{op}: shapes differ: {left_shape:?} in {left}, {right_shape:?} in {right}")]
    Shapes {
        /// The operation that refused.
        op: &'static str,
        /// Name of the first operand.
        left: &'static str,
        /// Its shape.
        left_shape: Vec<usize>,
        /// Name of the second operand.
        right: &'static str,
        /// Its shape.
        right_shape: Vec<usize>,
    },

    /// An operand with another number of dims than the operation takes.
    #[error("{op}: {operand} must have the dims {wanted}, but has shape {shape:?}")]
    OperandRank {
        /// The operation that refused.
        op: &'static str,
        /// Name of the operand.
        operand: &'static str,
        /// The dims it must have, by name.
        wanted: &'static str,
        /// Its shape.
        shape: Vec<usize>,
    },

    /// Sizes of two operands that do not go together.
    #[error("{op}: {rule}: {left_size} in {left}, {right_size} in {right}")]
    Sizes {
        /// The operation that refused.
        op: &'static str,
        /// What is wrong with them, in words.
        rule: &'static str,
        /// Name of the first operand.
        left: &'static str,
        /// Its size.
        left_size: usize,
        /// Name of the second operand.
        right: &'static str,
        /// Its size.
        right_size: usize,
    },

    /// Two operands of which one has to have the element type of the other.
    #[error("{op}: {} is {}, {} is {}", operands[0].0, operands[0].1, operands[1].0, operands[1].1)]
    Types {
        /// The operation that refused.
        op: &'static str,
        /// Their names and types.
        operands: [(&'static str, &'static str); 2],
    },

    /// A mask that says nothing about the operation it is used with, or more than the operation can take.
    #[error("{op}: {mask} mask: {reason}")]
    Mask {
        /// The operation that refused.
        op: &'static str,
        /// The kind of mask.
        mask: &'static str,
        /// Why, in words.
        reason: &'static str,
    },

    /// An operand cannot be broadcast to the shape it is used with.
    #[error("{op}: {operand} of shape {shape:?} does not broadcast to {target:?}")]
    Broadcast {
        /// The operation that refused.
        op: &'static str,
        /// Name of the operand.
        operand: &'static str,
        /// Its shape.
        shape: Vec<usize>,
        /// The shape it had to fit.
        target: Vec<usize>,
    },

    /// A dimension that the shape does not have.
    #[error("{op}: dim {end}({index}) is out of range for shape {shape:?}")]
    Dim {
        /// The operation that refused.
        op: &'static str,
        /// `"front"` or `"back"`: the end from which `index` counts.
        end: &'static str,
        /// The index asked for.
        index: usize,
        /// The shape it was asked of.
        shape: Vec<usize>,
    },

    /// More dimensions than a shape can have.
    #[error("{op}: {rank} dims were given, at most {max} are possible")]
    Rank {
        /// The operation that refused.
        op: &'static str,
        /// Number of dimensions given.
        rank: usize,
        /// Largest number of dimensions.
        max: usize,
    },

    /// The size of a shape does not fit the address space.
    #[error("{op}: shape {shape:?} of {dtype} elements needs more than {max} bytes")]
    TooLarge {
        /// The operation that refused.
        op: &'static str,
        /// The shape.
        shape: Vec<usize>,
        /// Name of the element type.
        dtype: &'static str,
        /// The largest size in bytes.
        max: u64,
    },

    /// A slice of elements does not have the length its shape asks for.
    #[error("{op}: shape {shape:?} holds {wanted} elements, {found} were given")]
    Length {
        /// The operation that refused.
        op: &'static str,
        /// The shape.
        shape: Vec<usize>,
        /// Elements in that shape.
        wanted: u64,
        /// Elements given.
        found: u64,
    },

    /// A range that leaves its dimension, or that ends before it starts.
    #[error("{op}: range {start}..{end} does not fit dim {dim} of length {len}")]
    Range {
        /// The operation that refused.
        op: &'static str,
        /// Position of the dimension, counted from the front.
        dim: usize,
        /// First index of the range.
        start: usize,
        /// First index behind the range.
        end: usize,
        /// Length of the dimension.
        len: usize,
    },

    /// A list of dimensions that does not name each dimension exactly once.
    #[error("{op}: {dims:?} is not a permutation of the {rank} dims of the tensor")]
    Permutation {
        /// The operation that refused.
        op: &'static str,
        /// The list given.
        dims: Vec<usize>,
        /// Number of dimensions of the tensor.
        rank: usize,
    },

    /// A new shape with another number of elements.
    #[error("{op}: shape {from:?} holds {from_elements} elements, {to:?} holds {to_elements}")]
    Reshape {
        /// The operation that refused.
        op: &'static str,
        /// Shape of the view.
        from: Vec<usize>,
        /// Its number of elements.
        from_elements: u64,
        /// Shape asked for.
        to: Vec<usize>,
        /// Its number of elements.
        to_elements: u64,
    },

    /// A new shape that no strides can express without a copy.
    #[error("{op}: shape {from:?} with strides {strides:?} cannot become {to:?} without a copy")]
    ReshapeStrides {
        /// The operation that refused.
        op: &'static str,
        /// Shape of the view.
        from: Vec<usize>,
        /// Strides of the view in elements.
        strides: Vec<u64>,
        /// Shape asked for.
        to: Vec<usize>,
    },

    /// Number of strides and number of dimensions differ.
    #[error("{op}: {strides} strides were given for {dims} dims")]
    StrideCount {
        /// The operation that refused.
        op: &'static str,
        /// Number of strides.
        strides: usize,
        /// Number of dimensions.
        dims: usize,
    },

    /// A stride that runs backwards.
    #[error("{op}: stride {stride} of dim {dim} is negative; strides are at least 0")]
    NegativeStride {
        /// The operation that refused.
        op: &'static str,
        /// Position of the dimension, counted from the front.
        dim: usize,
        /// The stride in elements.
        stride: i64,
    },

    /// Strides that lead out of the memory they describe.
    #[error("{op}: shape {shape:?} with strides {strides:?} reaches element {last}, the memory holds {available}")]
    OutOfBounds {
        /// The operation that refused.
        op: &'static str,
        /// The shape.
        shape: Vec<usize>,
        /// The strides in elements.
        strides: Vec<u64>,
        /// Index of the furthest element reached.
        last: u64,
        /// Elements in the memory.
        available: u64,
    },

    /// A raw address that is not a multiple of the size of its elements.
    #[error("{op}: address {address:#x} is not a multiple of {align}, the size of a {dtype}")]
    Misaligned {
        /// The operation that refused.
        op: &'static str,
        /// The address.
        address: u64,
        /// The alignment it needs.
        align: usize,
        /// Name of the element type.
        dtype: &'static str,
    },

    /// An operand, or a dim of one, whose elements are not stored one behind the other in row-major order.
    #[error("{op}: {output} must be contiguous, but has shape {shape:?} with strides {strides:?}")]
    NotContiguous {
        /// The operation that refused.
        op: &'static str,
        /// Name of the output.
        output: &'static str,
        /// Its shape.
        shape: Vec<usize>,
        /// Its strides in elements.
        strides: Vec<u64>,
    },

    /// An output that shares memory with an input.
    #[error(
        "{op}: {output} overlaps {input}: bytes {output_start:#x}..{output_end:#x} and {input_start:#x}..{input_end:#x}"
    )]
    Overlap {
        /// The operation that refused.
        op: &'static str,
        /// Name of the output.
        output: &'static str,
        /// Name of the input.
        input: &'static str,
        /// First byte of the output.
        output_start: u64,
        /// First byte behind the output.
        output_end: u64,
        /// First byte of the input.
        input_start: u64,
        /// First byte behind the input.
        input_end: u64,
    },

    /// An output whose memory is also held by a tensor on another stream.
    #[error("{op}: {output} shares its memory with {others} other tensor(s) made by to_device and cannot be written")]
    Shared {
        /// The operation that refused.
        op: &'static str,
        /// Name of the output.
        output: &'static str,
        /// Number of other tensors that hold the memory.
        others: usize,
    },

    /// Operands of one operation live on different devices or streams.
    #[error("{op}: devices differ: {left} is on {left_device}, {right} is on {right_device}; use to_device")]
    DifferentDevices {
        /// The operation that refused.
        op: &'static str,
        /// Name of the first operand.
        left: &'static str,
        /// Where it is.
        left_device: DeviceName,
        /// Name of the second operand.
        right: &'static str,
        /// Where it is.
        right_device: DeviceName,
    },

    /// A temperature that is not a finite number above 0.
    #[error("{op}: temperature is {temperature}, it must be finite and above 0")]
    Temperature {
        /// The operation that refused.
        op: &'static str,
        /// The temperature given.
        temperature: f32,
    },

    /// An option outside of the values that it can have.
    #[error("{op}: {option} is {value}, it must be {wanted}")]
    Option {
        /// The operation that refused.
        op: &'static str,
        /// Name of the option.
        option: &'static str,
        /// The value given.
        value: f64,
        /// What it must be, in words.
        wanted: &'static str,
    },

    /// More of something asked for than there is or can be.
    #[error("{op}: {option} is {value}, at most {max} is possible")]
    TooMany {
        /// The operation that refused.
        op: &'static str,
        /// Name of the option.
        option: &'static str,
        /// The value given.
        value: u64,
        /// The largest possible.
        max: u64,
    },

    /// Rows to be classified, but no classes.
    #[error("{op}: logits of shape {shape:?} have rows but no classes along dim {dim}")]
    NoClasses {
        /// The operation that refused.
        op: &'static str,
        /// Shape of the logits.
        shape: Vec<usize>,
        /// Position of the class dim.
        dim: usize,
    },

    /// A loss that is to be minimised, and has no minimum.
    #[error("{op}: the loss has no minimum: {reason}")]
    NoMinimum {
        /// The operation that looked for it.
        op: &'static str,
        /// Why, in words.
        reason: &'static str,
    },

    /// Offsets that do not say where packed sequences start and end.
    #[error("{op}: {operand}: {reason}")]
    Offsets {
        /// The operation that refused.
        op: &'static str,
        /// Name of the offsets.
        operand: &'static str,
        /// What is wrong with them.
        reason: String,
    },

    /// A target that is no class and is not the ignored index.
    #[error("{op}: target {value} in row {row} is not a class: there are {classes} classes")]
    Target {
        /// The operation that met it.
        op: &'static str,
        /// The row, counted over the flattened batch.
        row: u64,
        /// The target found there.
        value: i64,
        /// Number of classes.
        classes: u64,
    },

    /// No CUDA driver could be loaded.
    #[error(
        "no CUDA driver: none of {tried} could be loaded; install the NVIDIA driver, put libcuda on the library path, or use Device::cpu()"
    )]
    NoDriver {
        /// The names of the libraries that were tried.
        tried: &'static str,
    },

    /// The CUDA driver lacks a function that every supported version has.
    #[error("the CUDA driver has no {function}; a driver for CUDA 12.4 or newer is needed")]
    DriverTooOld {
        /// The missing function.
        function: &'static str,
    },

    /// A GPU that does not exist.
    #[error("there is no GPU {ordinal}: the driver offers {count}")]
    NoSuchDevice {
        /// The number asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },

    /// The device has no memory left for an allocation.
    #[error("{device} is out of memory: an allocation of {bytes} bytes failed")]
    OutOfMemory {
        /// The device.
        device: DeviceName,
        /// Bytes asked for.
        bytes: u64,
    },

    /// Something that cannot happen while a graph is captured.
    #[error("{what} is refused: {device} is capturing a graph")]
    Capturing {
        /// What was asked for.
        what: &'static str,
        /// The device.
        device: DeviceName,
    },

    /// A graph of the host.
    #[error("graphs are captured on a GPU: the host runs each operation at once")]
    NoGraphs,

    /// A call of the CUDA driver failed.
    #[error("{call} failed: {} ({code})", code::name(*code))]
    Driver {
        /// The function called.
        call: &'static str,
        /// Its result, a `CUresult`.
        code: u32,
    },

    /// A stream that cannot be adopted.
    #[error("the per-thread default stream cannot be adopted: its handle means another stream on every thread")]
    PerThreadStream,

    /// A stream that belongs to another GPU than the one it was adopted for.
    #[error("the stream to adopt does not belong to the primary context of GPU {ordinal}")]
    ForeignContext {
        /// The GPU named by the caller.
        ordinal: usize,
    },

    /// The program was built without the image that holds a kernel.
    #[error("kernel {symbol}: this build of the crate holds no image named {image}")]
    NoImage {
        /// The kernel.
        symbol: String,
        /// The image it should be in.
        image: &'static str,
    },

    /// The loaded kernel and the Rust side disagree about the size of its parameters.
    #[error("kernel {symbol}: its image takes {found} bytes of parameters, this program passes {wanted}")]
    KernelParams {
        /// The kernel.
        symbol: String,
        /// Bytes that this program passes.
        wanted: usize,
        /// Bytes that the image declares.
        found: usize,
    },

    /// A launch outside the limits of the device.
    #[error("kernel {symbol}: {what} is {value}, at most {max} is possible")]
    Launch {
        /// The kernel.
        symbol: String,
        /// The quantity that is too large.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The limit.
        max: u64,
    },

    /// A GPU that this build has no code for.
    #[error("GPU {ordinal} has compute capability {}.{}, at least {}.{} is needed", found.0, found.1, needed.0, needed.1)]
    Capability {
        /// The GPU.
        ordinal: usize,
        /// Its capability, major and minor number.
        found: (u32, u32),
        /// What is needed.
        needed: (u32, u32),
    },
}
