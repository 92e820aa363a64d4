//! Which types may leave their thread and be used by several: all public ones, and by construction.
//!
//! What must *not* compile stands in `tests/compile_fail`.

use sumexp::{
    BoolTensor, CrossEntropy, CrossEntropyInto, CrossEntropyOutput, CrossEntropySaved, DType, Device, DeviceName, Dim,
    Error, Graph, Layout, LogProbabilities, Lse, Mask, Polarity, Probabilities, Reduction, Rows, Runs, Shape,
    SoftmaxOptions, Targets, Tensor, View, ViewMut, bf16, f16,
};

const fn on_any_thread<T: Send + Sync>() {}
const fn without_borrows<T: 'static>() {}
const fn copied<T: Copy>() {}

const _: () = {
    on_any_thread::<Device>();
    on_any_thread::<Graph>();
    on_any_thread::<Tensor<f32>>();
    on_any_thread::<Tensor<f16>>();
    on_any_thread::<Tensor<bf16>>();
    on_any_thread::<Tensor<i64>>();
    on_any_thread::<Tensor<u8>>();
    on_any_thread::<Probabilities<f32>>();
    on_any_thread::<LogProbabilities<f32>>();
    on_any_thread::<Lse>();
    on_any_thread::<CrossEntropyOutput>();
    on_any_thread::<CrossEntropySaved>();
    on_any_thread::<CrossEntropyInto<'_>>();
    on_any_thread::<View<'_, f32>>();
    on_any_thread::<ViewMut<'_, f32>>();
    on_any_thread::<BoolTensor<'_>>();
    on_any_thread::<Mask<'_>>();
    on_any_thread::<Targets<'_>>();
    on_any_thread::<SoftmaxOptions<'_>>();
    on_any_thread::<CrossEntropy>();
    on_any_thread::<Reduction>();
    on_any_thread::<Error>();
    on_any_thread::<Shape>();
    on_any_thread::<Layout>();
    on_any_thread::<Rows>();
    on_any_thread::<Runs>();
    on_any_thread::<Dim>();
    on_any_thread::<DType>();
    on_any_thread::<DeviceName>();
    on_any_thread::<Polarity>();
    // What owns memory borrows nothing, so it may be kept for any time and dropped at any.
    without_borrows::<Device>();
    without_borrows::<Graph>();
    without_borrows::<Tensor<f32>>();
    without_borrows::<Probabilities<f32>>();
    without_borrows::<CrossEntropyOutput>();
    without_borrows::<Error>();
    // Reading is shared, writing is not: `ViewMut` is no `Copy`, see `tests/compile_fail/types.rs`.
    copied::<View<'_, f32>>();
    copied::<Mask<'_>>();
    copied::<Targets<'_>>();
};

/// An error is passed on as any other.
#[test]
fn errors_are_errors() {
    let boxed: Box<dyn std::error::Error + Send + Sync> = Box::new(Error::NoGraphs);
    assert_eq!(boxed.to_string(), Error::NoGraphs.to_string());
}
