//! What the borrow checker refuses. A line that must not compile says with which error; everything else must compile.
#![allow(unused)]

use std::thread;
use sumexp::*;

fn tensor() -> Result<Tensor<f32>> {
    Tensor::zeros(&Device::cpu(), &[2, 3])
}

fn plain<'a>() -> SoftmaxOptions<'a> {
    SoftmaxOptions::default()
}

fn a_view_does_not_outlive_its_tensor() -> Result<()> {
    let x = tensor()?;
    let view = x.view();
    drop(x); //~ E0505
    view.to_vec()?;
    let x = tensor()?;
    x.view().to_vec()?;
    drop(x);
    Ok(())
}

fn a_view_is_not_returned_without_its_tensor<'a>() -> Result<View<'a, f32>> {
    let x = tensor()?;
    Ok(x.view()) //~ E0515
}

fn a_view_of_an_argument_is_returned(x: &Tensor<f32>) -> View<'_, f32> {
    x.view()
}

fn a_view_does_not_last_for_ever() -> Result<()> {
    let x = tensor()?;
    let view: View<'static, f32> = x.view(); //~ E0597
    let mut y = tensor()?;
    let view: ViewMut<'static, f32> = y.view_mut(); //~ E0597
    Ok(())
}

fn a_tensor_is_not_written_while_it_is_viewed() -> Result<()> {
    let mut x = tensor()?;
    let view = x.view();
    x.copy_from_slice(&[1.0; 6])?; //~ E0502
    view.to_vec()?;
    x.copy_from_slice(&[1.0; 6])?;
    Ok(())
}

fn a_tensor_is_not_written_through_two_views() -> Result<()> {
    let mut x = tensor()?;
    let first = x.view_mut();
    let second = x.view_mut(); //~ E0499
    drop((first, second));
    drop(x.view_mut());
    drop(x.view_mut());
    Ok(())
}

fn a_tensor_is_not_read_while_a_view_writes() -> Result<()> {
    let mut x = tensor()?;
    let out = x.view_mut();
    x.to_vec()?; //~ E0502
    softmax_into(&tensor()?, Dim::LAST, &plain(), out)?;
    x.to_vec()?;
    Ok(())
}

fn an_output_is_not_an_input() -> Result<()> {
    let (mut x, mut y) = (tensor()?, tensor()?);
    softmax_into(&x, Dim::LAST, &plain(), &mut y)?;
    softmax_into(&x, Dim::LAST, &plain(), &mut x)?; //~ E0502
    Ok(())
}

fn a_gradient_is_not_its_own_upstream() -> Result<()> {
    let (x, mut dy, mut dx) = (tensor()?, tensor()?, tensor()?);
    softmax_backward_into(&x, &dy, Dim::LAST, &plain(), &mut dx)?;
    softmax_backward_into(&x, &dy, Dim::LAST, &plain(), &mut dy)?; //~ E0502
    Ok(())
}

fn a_tensor_is_not_copied_over_itself() -> Result<()> {
    let (mut x, y) = (tensor()?, tensor()?);
    x.copy_from(&y)?;
    x.copy_from(&x)?; //~ E0502
    Ok(())
}

fn outputs_are_not_each_other(count: &mut Tensor<i64>) -> Result<()> {
    let (mut loss, mut lse, mut saved) = (tensor()?, tensor()?, tensor()?);
    let statistics = None;
    CrossEntropyInto {
        loss: loss.view_mut(),
        lse: lse.view_mut(),
        count: count.view_mut(),
        saved: saved.view_mut(),
        statistics,
    };
    let out = CrossEntropyInto {
        loss: loss.view_mut(),
        lse: loss.view_mut(), //~ E0499
        count: count.view_mut(),
        saved: saved.view_mut(),
        statistics: None,
    };
    Ok(())
}

fn a_mask_lives_as_long_as_the_options() -> Result<()> {
    let (x, mask) = (tensor()?, Tensor::<u8>::zeros(&Device::cpu(), &[3])?);
    let options = SoftmaxOptions { mask: keep(&mask).into(), ..plain() };
    softmax(&x, Dim::LAST, &options)?;
    drop(mask); //~ E0505
    softmax(&x, Dim::LAST, &options)?;
    Ok(())
}

fn a_mask_is_no_temporary() -> Result<()> {
    let x = tensor()?;
    let options = SoftmaxOptions { mask: keep(&Tensor::<u8>::zeros(&Device::cpu(), &[3])?).into(), ..plain() }; //~ E0716
    softmax(&x, Dim::LAST, &options)?;
    Ok(())
}

fn targets_live_as_long_as_the_call() -> Result<()> {
    let (x, classes) = (tensor()?, Tensor::<i64>::zeros(&Device::cpu(), &[2])?);
    let targets = Targets::from(&classes);
    drop(classes); //~ E0505
    cross_entropy(&x, Dim::LAST, targets, &CrossEntropy::default())?;
    Ok(())
}

fn a_reshaped_tensor_is_the_only_one() -> Result<()> {
    let x = tensor()?;
    let y = x.reshape(&[6])?;
    x.to_vec()?; //~ E0382
    y.to_vec()?;
    Ok(())
}

fn a_mutable_view_is_cut_once() -> Result<()> {
    let mut x = tensor()?;
    let whole = x.view_mut();
    let first = whole.slice(Dim::front(0), 0..1)?;
    let second = whole.slice(Dim::front(0), 0..1)?; //~ E0382
    drop((first, second));
    Ok(())
}

fn a_mutable_view_is_lent_once() -> Result<()> {
    let mut x = tensor()?;
    let mut whole = x.view_mut();
    let lent = whole.reborrow();
    whole.reborrow(); //~ E0499
    drop(lent);
    whole.reborrow();
    Ok(())
}

fn a_mutable_view_is_not_lent_while_it_is_read() -> Result<()> {
    let mut x = tensor()?;
    let mut whole = x.view_mut();
    let seen = whole.as_view();
    whole.reborrow(); //~ E0502
    seen.to_vec()?;
    whole.reborrow();
    Ok(())
}

fn a_tensor_that_is_only_borrowed_is_not_written(x: &Tensor<f32>) {
    x.view();
    x.view_mut(); //~ E0596
}

fn values_are_not_viewed_after_the_type_is_given_up() -> Result<()> {
    let p = softmax(&tensor()?, Dim::LAST, &plain())?;
    let values = p.view_values();
    let plain = p.into_tensor(); //~ E0505
    values.to_vec()?;
    plain.to_vec()?;
    Ok(())
}

fn a_device_seen_through_a_tensor_lives_as_long() -> Result<()> {
    let x = tensor()?;
    let device = x.device().clone();
    let borrowed = x.view().device();
    drop(x); //~ E0505
    borrowed.synchronize()?;
    device.synchronize()?;
    Ok(())
}

fn a_view_does_not_leave_for_a_free_thread() -> Result<()> {
    let x = tensor()?;
    let view = x.view(); //~ E0597
    thread::spawn(move || view.to_vec());
    let y = tensor()?;
    thread::scope(|scope| scope.spawn(|| y.view().to_vec()).join()).unwrap()?;
    thread::spawn(move || y.to_vec());
    Ok(())
}

fn a_tensor_does_not_leave_under_its_view() -> Result<()> {
    let x = tensor()?;
    let view = x.view();
    thread::spawn(move || drop(x)); //~ E0505
    view.to_vec()?;
    Ok(())
}

fn one_thread_writes_at_a_time() -> Result<()> {
    let mut x = tensor()?;
    thread::scope(|scope| {
        scope.spawn(|| x.copy_from_slice(&[1.0; 6]));
        scope.spawn(|| x.copy_from_slice(&[2.0; 6])); //~ E0499
    });
    thread::scope(|scope| {
        scope.spawn(|| x.to_vec());
        scope.spawn(|| x.to_vec());
    });
    Ok(())
}

fn what_was_sent_is_gone(sender: std::sync::mpsc::Sender<Tensor<f32>>) -> Result<()> {
    let x = tensor()?;
    sender.send(x);
    x.to_vec()?; //~ E0382
    Ok(())
}
