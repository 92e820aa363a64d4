//! What the types refuse. A line that must not compile says with which error; everything else here must compile.
#![allow(unused)]

use sumexp::*;

fn device() -> Device {
    Device::cpu()
}

fn tensor<T: Element>() -> Result<Tensor<T>> {
    Tensor::zeros(&device(), &[2, 3])
}

fn plain<'a>() -> SoftmaxOptions<'a> {
    SoftmaxOptions::default()
}

fn probabilities_are_no_logits() -> Result<()> {
    let (x, targets) = (tensor::<f32>()?, Tensor::<i64>::zeros(&device(), &[2])?);
    let p = softmax(&x, Dim::LAST, &plain())?;
    cross_entropy(&x, Dim::LAST, &targets, &CrossEntropy::default())?;
    cross_entropy(&p, Dim::LAST, &targets, &CrossEntropy::default())?; //~ E0277
    cross_entropy(p.view_values(), Dim::LAST, &targets, &CrossEntropy::default())?;
    softmax(&p, Dim::LAST, &plain())?; //~ E0277
    log_softmax(&p, Dim::LAST, &plain())?; //~ E0277
    logsumexp(&p, Dim::LAST, &plain())?; //~ E0277
    softmin(&p, Dim::LAST, &plain())?; //~ E0277
    Ok(())
}

fn logarithms_are_no_logits() -> Result<()> {
    let (x, targets) = (tensor::<f32>()?, Tensor::<i64>::zeros(&device(), &[2])?);
    let log = log_softmax(&x, Dim::LAST, &plain())?;
    cross_entropy(&log, Dim::LAST, &targets, &CrossEntropy::default())?; //~ E0277
    softmax(&log, Dim::LAST, &plain())?; //~ E0277
    let lse = logsumexp(&x, Dim::LAST, &plain())?;
    softmax(&lse, Dim::LAST, &plain())?; //~ E0277
    softmax(lse.view_values(), Dim::LAST, &plain())?;
    Ok(())
}

fn gradients_take_the_result_of_their_own_operation() -> Result<()> {
    let (x, dy) = (tensor::<f32>()?, tensor::<f32>()?);
    let (p, log) = (softmax(&x, Dim::LAST, &plain())?, log_softmax(&x, Dim::LAST, &plain())?);
    softmax_backward(&p, &dy, Dim::LAST, &plain())?;
    log_softmax_backward(&log, &dy, Dim::LAST, &plain())?;
    softmax_backward(&log, &dy, Dim::LAST, &plain())?; //~ E0308
    log_softmax_backward(&p, &dy, Dim::LAST, &plain())?; //~ E0308
    softmax_backward(&x, &dy, Dim::LAST, &plain())?; //~ E0308
    softmax_backward(&p, &log, Dim::LAST, &plain())?; //~ E0277
    Ok(())
}

fn what_forward_saves_is_not_its_lse() -> Result<()> {
    let (x, targets) = (tensor::<f32>()?, Tensor::<i64>::zeros(&device(), &[2])?);
    let options = CrossEntropy::default();
    let output = cross_entropy(&x, Dim::LAST, &targets, &options)?;
    cross_entropy_backward(&x, Dim::LAST, &targets, &output.saved, &output.loss, &options)?;
    cross_entropy_backward(&x, Dim::LAST, &targets, &output.lse, &output.loss, &options)?; //~ E0308
    cross_entropy_backward(&x, Dim::LAST, &targets, &output.saved, &tensor::<f16>()?, &options)?; //~ E0277
    Ok(())
}

fn a_dim_is_named() -> Result<()> {
    let x = tensor::<f32>()?;
    softmax(&x, Dim::front(1), &plain())?;
    softmax(&x, 1, &plain())?; //~ E0308
    softmax(&x, -1, &plain())?; //~ E0308
    softmax(&x, 1usize.into(), &plain())?; //~ E0277
    softmax(&x, Dim::default(), &plain())?; //~ E0599
    softmax(&x, &plain())?; //~ E0061
    Dim::back(-1); //~ E0600
    Ok(())
}

fn logits_are_of_three_types() -> Result<()> {
    softmax(&tensor::<f16>()?, Dim::LAST, &plain())?;
    softmax(&tensor::<bf16>()?, Dim::LAST, &plain())?;
    softmax(&tensor::<f32>()?, Dim::LAST, &plain())?;
    softmax(&tensor::<f64>()?, Dim::LAST, &plain())?; //~ E0277
    softmax(&tensor::<i32>()?, Dim::LAST, &plain())?; //~ E0277
    softmax(&tensor::<u8>()?, Dim::LAST, &plain())?; //~ E0277
    Ok(())
}

fn targets_are_of_three_types() -> Result<()> {
    let (x, options) = (tensor::<f32>()?, CrossEntropy::default());
    cross_entropy(&x, Dim::LAST, &tensor::<i64>()?, &options)?;
    cross_entropy(&x, Dim::LAST, &tensor::<i32>()?, &options)?;
    cross_entropy(&x, Dim::LAST, &tensor::<u32>()?, &options)?;
    cross_entropy(&x, Dim::LAST, &tensor::<f32>()?, &options)?; //~ E0277
    cross_entropy(&x, Dim::LAST, &tensor::<u8>()?, &options)?; //~ E0277
    Ok(())
}

fn a_mask_is_bytes_and_says_what_they_mean() -> Result<()> {
    let bytes = tensor::<u8>()?;
    let options = SoftmaxOptions { mask: keep(&bytes).into(), ..plain() };
    let options = SoftmaxOptions { mask: &bytes, ..plain() }; //~ E0308
    let options = SoftmaxOptions { mask: true, ..plain() }; //~ E0308
    keep(&tensor::<f32>()?); //~ E0277
    hide(&tensor::<i32>()?); //~ E0277
    Ok(())
}

fn outputs_have_the_type_of_the_result_and_can_be_written() -> Result<()> {
    let (x, mut y) = (tensor::<f16>()?, tensor::<f16>()?);
    softmax_into(&x, Dim::LAST, &plain(), &mut y)?;
    softmax_into(&x, Dim::LAST, &plain(), &y)?; //~ E0277
    softmax_into(&x, Dim::LAST, &plain(), y.view())?; //~ E0277
    softmax_into(&x, Dim::LAST, &plain(), &mut tensor::<f32>()?)?; //~ E0277
    logsumexp_into(&x, Dim::LAST, &plain(), &mut tensor::<f32>()?)?;
    logsumexp_into(&x, Dim::LAST, &plain(), &mut tensor::<f16>()?)?; //~ E0277
    Ok(())
}

fn options_are_those_of_the_operation() -> Result<()> {
    let (x, targets) = (tensor::<f32>()?, Tensor::<i64>::zeros(&device(), &[2])?);
    softmax(&x, Dim::LAST, &CrossEntropy::default())?; //~ E0308
    cross_entropy(&x, Dim::LAST, &targets, &plain())?; //~ E0308
    CrossEntropy { mask: Mask::None, ..CrossEntropy::default() }; //~ E0560
    SoftmaxOptions { reduction: Reduction::Sum, ..plain() }; //~ E0560
    CrossEntropy { reduction: "mean", ..CrossEntropy::default() }; //~ E0308
    CrossEntropy { reduction: Reduction::Sum, ..CrossEntropy::default() };
    CrossEntropy { ignore_index: -100, ..CrossEntropy::default() }; //~ E0308
    CrossEntropy { ignore_index: Some(-100), ..CrossEntropy::default() };
    SoftmaxOptions { temperature: 0.5f64, ..plain() }; //~ E0308
    SoftmaxOptions { temperature: 0.5, ..plain() };
    Ok(())
}

fn elements_have_no_invalid_bits() -> Result<()> {
    tensor::<u8>()?;
    tensor::<bool>()?; //~ E0277
    tensor::<char>()?; //~ E0277
    tensor::<&str>()?; //~ E0277
    tensor::<Box<u8>>()?; //~ E0277
    tensor::<Option<u8>>()?; //~ E0277
    Ok(())
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Mine(u8);

// The set of element types is closed: the traits are sealed.
impl Element for Mine { //~ E0277
    const DTYPE: DType = DType::U8;
}

fn elements_are_not_converted() -> Result<()> {
    let x = Tensor::<f32>::from_slice(&device(), &[1], &[1.0])?;
    Tensor::<f32>::from_slice(&device(), &[1], &[1i32])?; //~ E0308
    let same: Vec<f32> = x.to_vec()?;
    let other: Vec<f64> = x.to_vec()?; //~ E0308
    tensor::<f32>()?.copy_from(&tensor::<i32>()?)?; //~ E0308
    Tensor::<f32>::zeros(&device(), &[-1])?; //~ E0600
    Device::cuda(-1)?; //~ E0600
    Ok(())
}

fn results_are_no_plain_tensors() -> Result<()> {
    let mut p = softmax(&tensor::<f32>()?, Dim::LAST, &plain())?;
    p.view_values().to_vec()?;
    p.view(); //~ E0599
    p.view_mut(); //~ E0599
    p.copy_from_slice(&[0.0; 6])?; //~ E0599
    Ok(())
}

fn owners_are_not_copied_by_accident() -> Result<()> {
    let mut x = tensor::<f32>()?;
    x.clone(); //~ E0599
    x.view().clone();
    x.view_mut().clone(); //~ E0599
    Ok(())
}

fn what_may_grow_is_matched_with_a_rest(error: Error, mask: Mask) {
    match error { //~ E0004
        Error::NoDriver { .. } => {}
    }
    match error {
        Error::NoDriver { .. } => {}
        _ => {}
    }
    match mask { //~ E0004
        Mask::None => {}
        Mask::Visible(_) => {}
    }
    match mask {
        Mask::None => {}
        _ => {}
    }
}

fn is_send<T: Send>() {}

fn what_belongs_to_a_thread_makes_nothing_else_stay_there() {
    is_send::<Tensor<f32>>();
    is_send::<std::rc::Rc<Tensor<f32>>>(); //~ E0277
    is_send::<std::sync::MutexGuard<'static, Tensor<f32>>>(); //~ E0277
}
