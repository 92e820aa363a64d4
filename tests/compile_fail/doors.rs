//! What is closed, and what opens with `unsafe` only. A line that must not compile says with which error; everything else
//! must compile.
#![allow(unused)]

use sumexp::interop::*;
use sumexp::*;

fn tensor() -> Result<Tensor<f32>> {
    Tensor::zeros(&Device::cpu(), &[2, 3])
}

fn streams_of_others_need_a_promise() -> Result<()> {
    let stream = std::ptr::null_mut();
    Device::from_stream(0, stream)?; //~ E0133
    // SAFETY: the null stream is always valid.
    unsafe { Device::from_stream(0, stream) }?;
    Ok(())
}

fn memory_of_others_needs_a_promise(device: &Device) -> Result<()> {
    let mut memory = [0.0f32; 4];
    let address = memory.as_mut_ptr().expose_provenance() as u64;
    view_from_raw::<f32>(device, address, 4, &[4], &[1])?; //~ E0133
    view_mut_from_raw::<f32>(device, address, 4, &[4], &[1])?; //~ E0133
    // SAFETY: the array holds four numbers, and lives longer than the view.
    drop(unsafe { view_from_raw::<f32>(device, address, 4, &[4], &[1]) }?);
    Ok(())
}

fn memory_is_reached_through_views_only() -> Result<()> {
    let mut x = tensor()?;
    x.buffer; //~ E0616
    x.view().span; //~ E0616
    x.view_mut().span; //~ E0616
    raw_address(&x.view());
    x.view().address(); //~ E0624
    x.view().on_host(); //~ E0624
    x.view_mut().address("mine", "it"); //~ E0624
    Ok(())
}

fn memory_is_never_handed_out_unfilled(shape: Shape) -> Result<()> {
    Tensor::<f32>::zeros(&Device::cpu(), shape.dims())?;
    Tensor::<f32>::unfilled("mine", &Device::cpu(), shape)?; //~ E0624
    Ok(())
}

fn layouts_are_checked(x: &Tensor<f32>, shape: Shape) -> Result<()> {
    let layout = Layout::contiguous(shape);
    layout.strides();
    layout.strides; //~ E0616
    x.view().layout().span();
    View::<f32>::from_parts(unreachable!(), layout); //~ E0624
    Ok(())
}

fn streams_and_waits_are_not_for_sale(device: &Device) {
    device.raw_stream();
    device.stream(); //~ E0624
    device.error_slot("mine"); //~ E0624
}
