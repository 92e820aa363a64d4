//! DLPack: tensors of other libraries in, tensors of this one out, without a copy.
//!
//! DLPack is a few structs that PyTorch, JAX, CuPy, NumPy, TVM and others exchange; they are declared here as the standard's 1.1
//! has them. [`Import`] owns a tensor of somebody else until it is dropped, and then calls its deleter, once. [`Export`] gives a
//! [`Tensor`](crate::Tensor) away; whoever takes it calls the deleter, from any thread.
//!
//! ```
//! use sumexp::interop::dlpack::{Export, Import};
//! use sumexp::{Device, Dim, SoftmaxOptions, Tensor, softmax};
//!
//! let device = Device::cpu();
//! let given = Export::new(Tensor::from_slice(&device, &[1, 2], &[0.0f32, 0.0])?)?.into_raw();
//! // Here it would go through another library. What comes back is taken over.
//! // SAFETY: the pointer comes from an export, and nobody else uses it.
//! let taken = unsafe { Import::versioned(given, &device) }?;
//! let y = softmax(taken.view::<f32>()?, Dim::LAST, &SoftmaxOptions::default())?;
//! assert_eq!(y.to_vec()?, [0.5, 0.5]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Streams
//! The standard leaves it to the two libraries to order their streams before the tensor is handed over: the consumer names its
//! stream, and the producer makes that stream wait. An import is used on the device that it is made with, whose stream is the one to
//! name. An export is ready in the order of its tensor's stream: for a consumer on another one, export
//! [`tensor.to_device(&consumer)`](crate::Tensor::to_device), which lets the consumer's stream wait and copies nothing on one GPU.

mod abi;
mod export;
mod import;

pub use abi::{
    DLDataType, DLDevice, DLManagedTensor, DLManagedTensorVersioned, DLPackVersion, DLTensor, FLAG_IS_COPIED,
    FLAG_READ_ONLY, device_type, type_code,
};
pub use export::Export;
pub use import::{Import, Refused};
