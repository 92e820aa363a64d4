//! DLPack: round trips, lifetimes, and structs that must be refused.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use sumexp::interop::dlpack::{
    DLDataType, DLDevice, DLManagedTensor, DLManagedTensorVersioned, DLPackVersion, DLTensor, Export, FLAG_IS_COPIED,
    FLAG_READ_ONLY, Import, Refused, device_type, type_code,
};
use sumexp::{DType, Device, Dim, Element, SoftmaxOptions, Tensor, softmax, softmax_into};

mod common;
use common::device::assert_no_findings;
use common::gpu::device;

/// What a producer keeps of a tensor that it gave away: how often it was given back.
struct Producer {
    shape: Vec<i64>,
    strides: Vec<i64>,
    data: Vec<f32>,
    deleted: AtomicUsize,
}

impl Producer {
    fn new(shape: &[i64], strides: &[i64], elements: usize) -> Self {
        let data = (0..elements).map(|i| i as f32).collect();
        Self { shape: shape.to_vec(), strides: strides.to_vec(), data, deleted: AtomicUsize::new(0) }
    }

    fn tensor(&mut self) -> DLTensor {
        DLTensor {
            data: self.data.as_mut_ptr().cast(),
            device: DLDevice { device_type: device_type::CPU, device_id: 0 },
            ndim: self.shape.len() as i32,
            dtype: DLDataType { code: type_code::FLOAT, bits: 32, lanes: 1 },
            shape: self.shape.as_mut_ptr(),
            strides: if self.strides.is_empty() { ptr::null_mut() } else { self.strides.as_mut_ptr() },
            byte_offset: 0,
        }
    }

    fn managed(&mut self, change: impl FnOnce(&mut DLManagedTensorVersioned)) -> DLManagedTensorVersioned {
        unsafe extern "C" fn delete(managed: *mut DLManagedTensorVersioned) {
            // SAFETY: the context is the counter of a producer, which outlives every import of these tests.
            unsafe { &*(*managed).manager_ctx.cast::<AtomicUsize>() }.fetch_add(1, Ordering::Relaxed);
        }
        let mut managed = DLManagedTensorVersioned {
            version: DLPackVersion { major: 1, minor: 1 },
            manager_ctx: (&raw mut self.deleted).cast::<c_void>(),
            deleter: Some(delete),
            flags: 0,
            dl_tensor: self.tensor(),
        };
        change(&mut managed);
        managed
    }
}

/// What becomes of an import of a struct that was changed; the deleter must have been called once, whatever it was.
fn refused(change: impl FnOnce(&mut DLManagedTensorVersioned)) -> String {
    let mut producer = Producer::new(&[2, 3], &[3, 1], 6);
    let mut managed = producer.managed(change);
    // SAFETY: the struct describes 6 numbers, or is changed so that it is refused before they are looked at.
    let import = unsafe { Import::versioned(&mut managed, &Device::cpu()) };
    let text = import.err().expect("it is refused").to_string();
    assert_eq!(producer.deleted.load(Ordering::Relaxed), 1, "{text}");
    text
}

#[test]
fn hostile_structs_are_refused_and_given_back() {
    let mut negative = [-1i64, 3];
    let mut huge = [1i64 << 40, 1 << 40];
    let mut backwards = [-3i64, 1];
    let mut far = [i64::MAX, 1];
    for (part, text) in [
        ("version 2.7", refused(|m| m.version = DLPackVersion { major: 2, minor: 7 })),
        ("version 0.8", refused(|m| m.version = DLPackVersion { major: 0, minor: 8 })),
        ("type 2 with number 0", refused(|m| m.dl_tensor.device.device_type = device_type::CUDA)),
        ("type 10", refused(|m| m.dl_tensor.device.device_type = 10)),
        ("type code 5, 32 bits", refused(|m| m.dl_tensor.dtype.code = 5)),
        ("4 bits", refused(|m| m.dl_tensor.dtype.bits = 4)),
        ("4 lanes", refused(|m| m.dl_tensor.dtype.lanes = 4)),
        ("-1 dims", refused(|m| m.dl_tensor.ndim = -1)),
        ("9 dims", refused(|m| m.dl_tensor.ndim = 9)),
        ("2147483647 dims", refused(|m| m.dl_tensor.ndim = i32::MAX)),
        ("the shape is null", refused(|m| m.dl_tensor.shape = ptr::null_mut())),
        ("the data is null", refused(|m| m.dl_tensor.data = ptr::null_mut())),
        ("dim 0 has length -1", refused(|m| m.dl_tensor.shape = negative.as_mut_ptr())),
        ("1099511627776", refused(|m| m.dl_tensor.shape = huge.as_mut_ptr())),
        ("-3", refused(|m| m.dl_tensor.strides = backwards.as_mut_ptr())),
        ("9223372036854775807", refused(|m| m.dl_tensor.strides = far.as_mut_ptr())),
        ("no memory lies there", refused(|m| m.dl_tensor.byte_offset = u64::MAX)),
        ("no memory lies there", refused(|m| m.dl_tensor.byte_offset = 1 << 63)),
        ("multiple of 4", refused(|m| m.dl_tensor.byte_offset = 2)),
    ] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    // SAFETY: null is allowed.
    let null = unsafe { Import::versioned(ptr::null_mut(), &Device::cpu()) };
    assert_eq!(null.err(), Some(Refused::Null { what: "the managed tensor" }));
    // SAFETY: as above.
    assert!(unsafe { Import::unversioned(ptr::null_mut(), &Device::cpu()) }.is_err());
}

#[test]
fn strides_offsets_and_flags_are_taken_as_they_are() {
    let mut producer = Producer::new(&[3, 2], &[1, 3], 7);
    let mut managed = producer.managed(|managed| {
        managed.dl_tensor.byte_offset = 4;
        managed.flags = FLAG_READ_ONLY | FLAG_IS_COPIED;
        managed.version.minor = 99;
    });
    // SAFETY: 7 numbers, of which the first is skipped; nobody else uses them.
    let mut import = unsafe { Import::versioned(&mut managed, &Device::cpu()) }.unwrap();
    assert_eq!((import.dims(), import.dtype()), (&[3, 2][..], DType::F32));
    assert!(import.is_read_only() && import.is_copied());
    assert_eq!(import.view::<f32>().unwrap().to_vec().unwrap(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    assert_eq!(import.view::<i32>().err(), Some(Refused::Element { found: DType::F32, wanted: DType::I32 }));
    // SAFETY: nobody else uses the memory.
    assert_eq!(unsafe { import.view_mut::<f32>() }.err(), Some(Refused::ReadOnly));
    assert_eq!(producer.deleted.load(Ordering::Relaxed), 0);
    drop(import);
    assert_eq!(producer.deleted.load(Ordering::Relaxed), 1);
}

/// A result is written into memory of somebody else, who may give no strides and no deleter, and whose struct may be an old one.
#[test]
fn results_go_into_memory_of_others() {
    let mut producer = Producer::new(&[2, 2], &[], 4);
    let mut managed = DLManagedTensor { dl_tensor: producer.tensor(), manager_ctx: ptr::null_mut(), deleter: None };
    let x = Tensor::from_slice(&Device::cpu(), &[2, 2], &[0.0f32; 4]).unwrap();
    {
        // SAFETY: 4 numbers that nobody else uses.
        let mut import = unsafe { Import::unversioned(&mut managed, &Device::cpu()) }.unwrap();
        // SAFETY: as above.
        let y = unsafe { import.view_mut::<f32>() }.unwrap();
        softmax_into(&x, Dim::LAST, &SoftmaxOptions::default(), y).unwrap();
    }
    assert_eq!(producer.data, [0.5; 4]);
}

#[test]
fn a_tensor_without_elements_needs_no_memory() {
    let mut producer = Producer::new(&[0, 3], &[3, 1], 0);
    let mut managed = producer.managed(|managed| managed.dl_tensor.data = ptr::null_mut());
    // SAFETY: there is nothing to read.
    let import = unsafe { Import::versioned(&mut managed, &Device::cpu()) }.unwrap();
    assert!(import.view::<f32>().unwrap().to_vec().unwrap().is_empty());
}

/// Every type there and back, on the host and on the GPU, and the deleter on another thread.
#[test]
fn round_trips() {
    fn trip<T: Element>(device: &Device, elements: &[T]) {
        let dims = [2, elements.len() / 2];
        let raw = Export::new(Tensor::from_slice(device, &dims, elements).unwrap()).unwrap().into_raw();
        // SAFETY: the struct comes from an export, and nobody else uses it.
        let import = unsafe { Import::versioned(raw, device) }.unwrap();
        assert!(!import.is_read_only() && !import.is_copied());
        assert_eq!((import.dims(), import.dtype()), (&dims[..], T::DTYPE));
        let turned = import.view::<T>().unwrap().transpose(Dim::front(0), Dim::front(1)).unwrap();
        let wanted: Vec<T> = (0..elements.len()).map(|i| elements[i % 2 * dims[1] + i / 2]).collect();
        assert_eq!(turned.to_vec().unwrap(), wanted);
        std::thread::spawn(move || drop(import)).join().unwrap();
        // SAFETY: as above.
        let old = unsafe {
            Import::unversioned(
                Export::unversioned(Tensor::from_slice(device, &dims, elements).unwrap()).unwrap(),
                device,
            )
        };
        assert_eq!(old.unwrap().view::<T>().unwrap().to_vec().unwrap(), elements);
    }
    for device in common::device::devices() {
        trip(&device, &[1.5f32, 2.5, 3.5, 4.5, 5.5, 6.5]);
        trip(&device, &[1.5f64, 2.5]);
        trip(&device, &[1i32, -2, 3, -4]);
        trip(&device, &[1i64, -2]);
        trip(&device, &[1u32, 2]);
        trip(&device, &[1u8, 2, 3, 4]);
        trip(&device, &[1.5, 2.5].map(sumexp::f16::from_f32));
        trip(&device, &[1.5, 2.5].map(sumexp::bf16::from_f32));
    }
}

/// An export on a GPU is used on another stream, in the order of both, and its memory outlives the work.
#[test]
fn streams() {
    let producer = device();
    let consumer = producer.with_new_stream().unwrap();
    let x = Tensor::from_slice(&producer, &[1, 1000], &[0.0f32; 1000]).unwrap();
    let y = softmax(&x, Dim::LAST, &SoftmaxOptions::default()).unwrap().into_tensor();
    let raw = Export::new(y.to_device(&consumer).unwrap()).unwrap().into_raw();
    // The memory has two holders now, so nobody may write it.
    // SAFETY: the struct comes from an export.
    assert_eq!(unsafe { (*raw).flags }, FLAG_READ_ONLY);
    assert!(Export::unversioned(y.to_device(&consumer).unwrap()).is_err());
    drop((x, y, producer));
    // SAFETY: the struct comes from an export on this stream, and nobody else uses it.
    let import = unsafe { Import::versioned(raw, &consumer) }.unwrap();
    let z = softmax(import.view::<f32>().unwrap(), Dim::LAST, &SoftmaxOptions::default()).unwrap();
    drop(import);
    assert_eq!(z.to_vec().unwrap(), [1e-3f32; 1000]);
    assert_no_findings(&"streams");
}

/// A tensor that is exported and not given away is freed; one of a GPU is refused on the host and on another GPU's number.
#[test]
fn exports_that_go_nowhere() {
    drop(Export::new(Tensor::<f32>::zeros(&Device::cpu(), &[3]).unwrap()).unwrap());
    let gpu = device();
    let raw = Export::new(Tensor::<f32>::zeros(&gpu, &[3]).unwrap()).unwrap().into_raw();
    // SAFETY: the struct comes from an export, and nobody else uses it.
    let refused = unsafe { Import::versioned(raw, &Device::cpu()) }.err().unwrap();
    assert!(matches!(refused, Refused::Device { device_type: device_type::CUDA, device_id: 0, .. }), "{refused}");
}
