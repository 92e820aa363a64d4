//! Files of tensors: what is written is read again, other programs' files too, and what is no such file is refused.
#![cfg(feature = "safetensors")]

use std::path::PathBuf;
use sumexp::interop::safetensors::{Builder, FileError, TensorFile};
use sumexp::{DType, Device, Dim, Element, Tensor, bf16, f16};

mod common;
use common::device::devices;

/// A file with this header, and so many bytes of data, all 1.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend(std::iter::repeat_n(1, data));
    bytes
}

#[track_caller]
fn malformed(bytes: Vec<u8>) {
    match TensorFile::from_bytes(bytes) {
        Err(FileError::Malformed { reason }) => assert!(!reason.is_empty()),
        other => panic!("{other:?}"),
    }
}

fn round_trip<T: Element>(values: &[T]) {
    for device in devices() {
        let tensor = Tensor::from_slice(&device, &[2, 3], values).unwrap();
        // Of any strides, and without elements.
        let turned = tensor.view().permute(&[1, 0]).unwrap();
        let empty = Tensor::<T>::zeros(&device, &[0, 4]).unwrap();
        let mut builder = Builder::new();
        builder.add("plain", &tensor).unwrap().add("turned", turned).unwrap().add("empty", &empty).unwrap();
        let read = TensorFile::from_bytes(builder.to_bytes().unwrap()).unwrap();
        let back = |name: &str| read.tensor::<T>(name, &device).unwrap();
        assert_eq!((back("plain").to_vec().unwrap(), back("plain").dims()), (values.to_vec(), &[2, 3][..]));
        assert_eq!((back("turned").to_vec().unwrap(), back("turned").dims()), (turned.to_vec().unwrap(), &[3, 2][..]));
        assert_eq!((back("empty").to_vec().unwrap(), back("empty").dims()), (vec![], &[0, 4][..]));
        assert_eq!((read.dtype("plain"), read.dims("turned")), (Some(T::DTYPE), Some(&[3, 2][..])));
    }
}

#[test]
fn what_is_written_is_read() {
    let floats = [1.5f32, -0.0, f32::INFINITY, f32::MIN_POSITIVE, 1e-45, -7.25];
    round_trip(&floats);
    round_trip(&floats.map(f64::from));
    round_trip(&floats.map(f16::from_f32));
    round_trip(&floats.map(bf16::from_f32));
    round_trip(&[i32::MIN, -1, 0, 1, 2, i32::MAX]);
    round_trip(&[i64::MIN, -1, 0, 1, 2, i64::MAX]);
    round_trip(&[0u32, 1, 2, 3, 4, u32::MAX]);
    round_trip(&[0u8, 1, 2, 3, 4, 255]);
}

/// The bytes as the format defines them.
#[test]
fn a_file_by_hand() {
    let header = r#"{"__metadata__":{"by":"hand"},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},"a":{"dtype":"BOOL","shape":[4],"data_offsets":[0,4]}}"#;
    let read = TensorFile::from_bytes(file(header, 12)).unwrap();
    assert_eq!(read.names(), ["a", "b"]);
    assert_eq!(read.notes().into_iter().collect::<Vec<_>>(), [("by", "hand")]);
    assert_eq!(read.tensor::<u8>("a", &Device::cpu()).unwrap().to_vec().unwrap(), [1; 4]);
    assert_eq!(read.tensor::<f32>("b", &Device::cpu()).unwrap().to_vec().unwrap(), [f32::from_bits(0x0101_0101); 2]);

    let of_one = Tensor::from_slice(&Device::cpu(), &[1], &[1.0f32]).unwrap();
    let bytes = Builder::new().add("x", &of_one).unwrap().to_bytes().unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&bytes[8..8 + length]).unwrap().trim_end();
    assert_eq!(header, r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#);
    assert_eq!(bytes[8 + length..], 1.0f32.to_le_bytes());
}

#[test]
fn what_is_no_such_file_is_refused() {
    let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let whole = file(header, 8);
    assert!(TensorFile::from_bytes(whole.clone()).is_ok());
    // Cut off anywhere, and with something behind it.
    (0..whole.len()).for_each(|length| malformed(whole[..length].to_vec()));
    malformed(file(header, 9));
    for header in [
        // A shape that the bytes are not.
        r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#,
        r#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,8]}}"#,
        // A size beyond what a number of bytes can be.
        r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#,
        // Out of the file, backwards, over each other, with a gap.
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
        // No type, and no object.
        r#"{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}"#,
        r#"{"a":{"shape":[2],"data_offsets":[0,8]}}"#,
        r#"["a"]"#,
        "",
        "\u{fffd}",
    ] {
        malformed(file(header, 8));
    }
    // A header as long as memory is not.
    let mut bytes = u64::MAX.to_le_bytes().to_vec();
    bytes.extend([b'{'; 100]);
    malformed(bytes);
}

#[test]
fn names_and_types_that_do_not_fit() {
    let text = |error: FileError| error.to_string();
    let tensor = Tensor::<f32>::zeros(&Device::cpu(), &[2]).unwrap();
    let mut builder = Builder::new();
    builder.add("x", &tensor).unwrap();
    assert_eq!(text(builder.add("x", &tensor).unwrap_err()), "there are two tensors \"x\"");
    let read = TensorFile::from_bytes(builder.to_bytes().unwrap()).unwrap();
    let of = |name: &str| read.tensor::<bf16>(name, &Device::cpu()).map(|_| ());
    assert_eq!(text(of("y").unwrap_err()), "the file has no tensor \"y\"");
    assert_eq!(text(of("x").unwrap_err()), "tensor \"x\" is f32, not bf16");
    assert_eq!((read.dtype("y"), read.dims("y"), read.dtype("x")), (None, None, Some(DType::F32)));
    // A type that there are no tensors of.
    let header = r#"{"a":{"dtype":"I16","shape":[2],"data_offsets":[0,4]}}"#;
    let read = TensorFile::from_bytes(file(header, 4)).unwrap();
    assert_eq!((read.dtype("a"), read.dims("a")), (None, Some(&[2][..])));
    assert_eq!(text(read.tensor::<u32>("a", &Device::cpu()).map(|_| ()).unwrap_err()), "tensor \"a\" is i16, not u32");
    // More dims than a tensor can have.
    let header = r#"{"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}}"#;
    let read = TensorFile::from_bytes(file(header, 1)).unwrap();
    assert!(matches!(read.tensor::<u8>("a", &Device::cpu()), Err(FileError::Tensor(sumexp::Error::Rank { .. }))));
}

#[test]
fn files() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("safetensors-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("a.safetensors");
    let of = |value: f32| Tensor::from_slice(&Device::cpu(), &[2], &[value, 2.0]).unwrap();
    for value in [1.0, 3.0] {
        Builder::new()
            .note("step", "7")
            .add("x", of(value).view().slice(Dim::LAST, 0..1).unwrap())
            .unwrap()
            .write(&path)
            .unwrap();
        let read = TensorFile::read(&path).unwrap();
        assert_eq!(read.tensor::<f32>("x", &Device::cpu()).unwrap().to_vec().unwrap(), [value]);
        assert_eq!(read.notes()["step"], "7");
    }
    // Nothing is left beside it.
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    let missing = TensorFile::read(folder.join("b")).map(|_| ()).unwrap_err().to_string();
    assert!(missing.contains("b cannot be read: "), "{missing}");
    let nowhere = Builder::new().write(folder.join("no/such/folder")).unwrap_err().to_string();
    assert!(nowhere.contains("folder cannot be written: "), "{nowhere}");
    std::fs::remove_dir_all(&folder).unwrap();
}
