//! Tensors in files of the [safetensors](https://huggingface.co/docs/safetensors) format (feature `safetensors`).
//!
//! ```
//! use sumexp::interop::safetensors::{Builder, TensorFile};
//! use sumexp::{Device, Tensor};
//! let weights = Tensor::from_slice(&Device::cpu(), &[2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0])?;
//! let bytes = Builder::new().add("weights", &weights)?.to_bytes()?;
//! let file = TensorFile::from_bytes(bytes)?;
//! assert_eq!(file.dims("weights"), Some(&[2, 3][..]));
//! let back: Tensor<f32> = file.tensor("weights", &Device::cpu())?;
//! assert_eq!(back.to_vec()?, weights.to_vec()?);
//! # Ok::<(), sumexp::interop::safetensors::FileError>(())
//! ```
//!
//! Elements are little-endian in files and row-major, whatever the strides in memory. Types that this crate has no tensors of stay
//! in the file; truth values are read as u8.

use crate::device::Device;
use crate::dtype::{DType, Element};
use crate::error::Error;
use crate::tensor::{Tensor, View};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorView};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io, ptr};

#[cfg(target_endian = "big")]
compile_error!("the feature safetensors reads and writes little-endian elements as they are in memory");

/// Why a file was not read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The file system refused.
    #[error("{} cannot be {done}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `"read"` or `"written"`.
        done: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The bytes are not those of a safetensors file: cut off, a header that is none, tensors that overlap or leave gaps.
    #[error("no safetensors file: {reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// A name that the file does not have.
    #[error("the file has no tensor \"{name}\"")]
    Missing {
        /// The name asked for.
        name: String,
    },
    /// A tensor of another element type than the one asked for.
    #[error("tensor \"{name}\" is {found}, not {wanted}")]
    Type {
        /// The tensor.
        name: String,
        /// The type in the file.
        found: String,
        /// The type asked for.
        wanted: &'static str,
    },
    /// A name that was given to two tensors.
    #[error("there are two tensors \"{name}\"")]
    Twice {
        /// The name.
        name: String,
    },
    /// The tensor could not be made or read.
    #[error(transparent)]
    Tensor(#[from] Error),
}

/// The type of our tensors that holds elements of this type.
fn dtype(of_file: Dtype) -> Option<DType> {
    Some(match of_file {
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::I32 => DType::I32,
        Dtype::I64 => DType::I64,
        Dtype::U32 => DType::U32,
        Dtype::U8 | Dtype::BOOL => DType::U8,
        _ => return None,
    })
}

/// The type in files.
fn in_file(dtype: DType) -> Dtype {
    match dtype {
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        DType::I32 => Dtype::I32,
        DType::I64 => Dtype::I64,
        DType::U32 => Dtype::U32,
        DType::U8 => Dtype::U8,
    }
}

/// The whole of a file, checked: every tensor lies in it, and none over another.
#[derive(Debug)]
pub struct TensorFile {
    metadata: Metadata,
    bytes: Vec<u8>,
    /// Where the elements of the first tensor are.
    first: usize,
}

impl TensorFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`FileError::Io`], [`FileError::Malformed`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let path = path.as_ref();
        let failed = |source| FileError::Io { path: path.to_path_buf(), done: "read", source };
        Self::from_bytes(fs::read(path).map_err(failed)?)
    }

    /// What such a file holds.
    ///
    /// # Errors
    /// [`FileError::Malformed`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, FileError> {
        let malformed = |error| FileError::Malformed { reason: format!("{error}") };
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(malformed)?;
        Ok(Self { metadata, bytes, first: size_of::<u64>() + header })
    }

    /// The names of all tensors, in the order in which they lie in the file.
    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// The shape of a tensor, if there is one of this name.
    pub fn dims(&self, name: &str) -> Option<&[usize]> {
        self.metadata.info(name).map(|info| &info.shape[..])
    }

    /// The element type that [`TensorFile::tensor`] takes for a tensor, if there is one of this name and this crate has its type.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        self.metadata.info(name).and_then(|info| dtype(info.dtype))
    }

    /// What the file says beside its tensors: names and values.
    pub fn notes(&self) -> BTreeMap<&str, &str> {
        let notes = self.metadata.metadata().iter().flatten();
        notes.map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    /// A tensor on `device`, contiguous.
    ///
    /// # Errors
    /// [`FileError::Missing`], [`FileError::Type`]; [`FileError::Tensor`] if the device has no memory for it, or the shape more than
    /// eight dims.
    pub fn tensor<T: Element>(&self, name: &str, device: &Device) -> Result<Tensor<T>, FileError> {
        let Some(info) = self.metadata.info(name) else { return Err(FileError::Missing { name: name.to_string() }) };
        if dtype(info.dtype) != Some(T::DTYPE) {
            let (found, wanted) = (info.dtype.to_string().to_lowercase(), T::DTYPE.name());
            return Err(FileError::Type { name: name.to_string(), found, wanted });
        }
        let bytes = &self.bytes[self.first..][info.data_offsets.0..info.data_offsets.1];
        let mut elements = vec![T::default(); bytes.len() / size_of::<T>()];
        // SAFETY: `elements` has at least as many bytes as are copied, cut off above to whole elements, and both are apart. Every bit
        // pattern is an element of any type that `Element` is sealed to: integers and floating-point numbers.
        unsafe {
            let to = elements.as_mut_ptr().cast::<u8>();
            ptr::copy_nonoverlapping(bytes.as_ptr(), to, elements.len() * size_of::<T>());
        }
        Ok(Tensor::from_slice(device, &info.shape, &elements)?)
    }
}

/// Tensors on their way into a file.
#[derive(Debug, Default)]
pub struct Builder {
    tensors: BTreeMap<String, (DType, Vec<usize>, Vec<u8>)>,
    notes: BTreeMap<String, String>,
}

impl Builder {
    /// Without any tensor.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tensor, of any strides. Its elements are copied to the host, which waits for them.
    ///
    /// # Errors
    /// [`FileError::Twice`]; [`FileError::Tensor`] as [`View::to_vec`].
    pub fn add<'a, T: Element>(
        &mut self,
        name: impl Into<String>,
        tensor: impl Into<View<'a, T>>,
    ) -> Result<&mut Self, FileError> {
        let (name, view) = (name.into(), tensor.into());
        if self.tensors.contains_key(&name) {
            return Err(FileError::Twice { name });
        }
        let elements = view.to_vec()?;
        let mut bytes = vec![0u8; elements.len() * size_of::<T>()];
        // SAFETY: both have so many bytes and are apart; an element has no byte that is not initialised.
        unsafe { ptr::copy_nonoverlapping(elements.as_ptr().cast::<u8>(), bytes.as_mut_ptr(), bytes.len()) };
        self.tensors.insert(name, (T::DTYPE, view.dims().to_vec(), bytes));
        Ok(self)
    }

    /// Adds a name and a value that stand in the file beside the tensors. The last value of a name counts.
    pub fn note(&mut self, name: impl Into<String>, value: impl Into<String>) -> &mut Self {
        self.notes.insert(name.into(), value.into());
        self
    }

    /// The bytes of the file.
    ///
    /// # Errors
    /// [`FileError::Malformed`] if the header would be longer than the format allows (100 MB).
    pub fn to_bytes(&self) -> Result<Vec<u8>, FileError> {
        let malformed = |error| FileError::Malformed { reason: format!("{error}") };
        let mut views = Vec::with_capacity(self.tensors.len());
        for (name, (dtype, dims, bytes)) in &self.tensors {
            views.push((name, TensorView::new(in_file(*dtype), dims.clone(), bytes).map_err(malformed)?));
        }
        let notes = self.notes.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        safetensors::serialize(views, (!self.notes.is_empty()).then_some(notes)).map_err(malformed)
    }

    /// Writes the file. Whoever reads it while this runs, or after it was interrupted, finds the old file or the new one.
    ///
    /// # Errors
    /// [`FileError::Io`]; [`FileError::Malformed`] as [`Builder::to_bytes`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), FileError> {
        let path = path.as_ref();
        let bytes = self.to_bytes()?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}", std::process::id()));
        let written = fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, path));
        written.map_err(|source| {
            let _ = fs::remove_file(&beside);
            FileError::Io { path: path.to_path_buf(), done: "written", source }
        })
    }
}
