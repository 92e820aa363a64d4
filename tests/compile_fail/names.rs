//! Names that do not exist outside. A line that must not compile says with which error; everything else must compile.
#![allow(unused)]

use sumexp::Tensor;
use sumexp::device::Stream; //~ E0603
use sumexp::dtype::sealed::Sealed; //~ E0603
use sumexp::kernels::launch::launch; //~ E0603
use sumexp::memory::Buffer; //~ E0603
use sumexp::tensor::View; //~ E0603

fn results_are_made_by_name(tensor: Tensor<f32>) {
    sumexp::Probabilities::from_tensor(tensor);
    sumexp::Probabilities(tensor); //~ E0423
    sumexp::CrossEntropySaved(tensor); //~ E0423
    sumexp::Device(0); //~ E0423
}
