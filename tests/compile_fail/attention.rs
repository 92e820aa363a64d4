//! What types and borrows refuse in attention. A line that must not compile says with which error; everything else must compile.
#![allow(unused)]

use sumexp::attention::*;
use sumexp::mask::Align;
use sumexp::*;

fn tensor<T: Element>() -> Result<Tensor<T>> {
    Tensor::zeros(&Device::cpu(), &[1, 1, 2, 8])
}

fn operands_have_one_type() -> Result<()> {
    let (x, half) = (tensor::<f32>()?, tensor::<f16>()?);
    forward(x.view(), x.view(), x.view(), &Attention::default())?;
    forward::<f32>(&x, &half, &x, &Attention::default())?; //~ E0277
    forward::<f32>(&x, &x, &half, &Attention::default())?; //~ E0277
    forward::<i32>(&x, &x, &x, &Attention::default())?; //~ E0277
    Ok(())
}

fn a_causal_mask_says_where_it_begins() {
    let mask = Mask::Causal(Align::TopLeft);
    let mask: Mask = Mask::Causal; //~ E0308
    let mask = Mask::Window { left: Some(3), right: Some(0), align: Align::TopLeft };
    let mask = Mask::Window { left: Some(3), right: Some(0) }; //~ E0063
}

fn bytes_say_what_they_mean() -> Result<()> {
    let bytes = tensor::<u8>()?;
    let mask: Mask = keep(&bytes).into();
    let mask: Mask = (&bytes).into(); //~ E0277
    let mask = Mask::Visible(hide(&bytes));
    let mask = Mask::Visible(bytes.view()); //~ E0308
    Ok(())
}

fn a_bias_has_floats() -> Result<()> {
    let bias = Bias::from(&tensor::<bf16>()?);
    let (integers, bytes) = (tensor::<i32>()?, tensor::<u8>()?);
    let bias: Bias = (&integers).into(); //~ E0277
    let bias: Bias = (&bytes).into(); //~ E0277
    Ok(())
}

fn lengths_and_segments_are_integers() -> Result<()> {
    let (lengths, floats) = (tensor::<i32>()?, tensor::<f32>()?);
    let mask = Mask::KeyLengths(lengths.view());
    let mask = Mask::KeyLengths(floats.view()); //~ E0308
    let mask = Mask::Segments { q: lengths.view(), k: lengths.view() };
    let mask = Mask::Segments { q: lengths.view(), k: floats.view() }; //~ E0308
    Ok(())
}

fn an_lse_is_no_other_tensor() -> Result<()> {
    let x = tensor::<f32>()?;
    let output = forward(&x, &x, &x, &Attention::default())?;
    weights(&x, &x, &output.lse, 0..1, &Attention::default())?;
    weights(&x, &x, &output.out, 0..1, &Attention::default())?; //~ E0308
    let part = Partial::new(&output.out, &output.lse);
    let part = Partial::new(&output.out, &output.out); //~ E0308
    merge(&output, &output)?;
    merge(&output.out, &output)?; //~ E0277
    Ok(())
}

fn options_do_not_outlive_what_they_refer_to() -> Result<()> {
    let (x, bytes) = (tensor::<f32>()?, Tensor::<u8>::zeros(&Device::cpu(), &[2])?);
    let options = Attention { mask: keep(&bytes).into(), ..Attention::default() };
    drop(bytes); //~ E0505
    forward(&x, &x, &x, &options)?;
    let bias = tensor::<f32>()?;
    let options = Attention { bias: Some((&bias).into()), ..Attention::default() };
    drop(bias); //~ E0505
    forward(&x, &x, &x, &options)?;
    let mask = {
        let both = [Mask::Causal(Align::TopLeft), Mask::Causal(Align::BottomRight)];
        let scale = Attention { mask: Mask::All(&both), ..Attention::default() }.scale;
        Mask::All(&both) //~ E0597
    };
    forward(&x, &x, &x, &Attention { mask, ..Attention::default() })?;
    Ok(())
}

fn offsets_are_borrowed() -> Result<()> {
    let offsets = PackedOffsets::from_lengths(&Device::cpu(), &[2])?;
    let kept: Offsets = (&offsets).into();
    drop(offsets); //~ E0505
    let again = kept;
    Ok(())
}

fn offsets_are_integers() -> Result<()> {
    let (integers, floats) = (tensor::<i32>()?, tensor::<f32>()?);
    let kept: Offsets = (&integers).into();
    let kept: Offsets = (&floats).into(); //~ E0277
    Ok(())
}

fn results_are_not_operands() -> Result<()> {
    let (mut x, y) = (tensor::<f32>()?, tensor::<f32>()?);
    forward_into(&y, &y, &y, &Attention::default(), AttentionInto { out: x.view_mut(), lse: None })?;
    forward_into(&x, &y, &y, &Attention::default(), AttentionInto { out: x.view_mut(), lse: None })?; //~ E0502
    Ok(())
}

fn results_are_written() -> Result<()> {
    let y = tensor::<f32>()?;
    forward_into(&y, &y, &y, &Attention::default(), AttentionInto { out: y.view(), lse: None })?; //~ E0308
    Ok(())
}
