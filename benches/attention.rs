//! Attention: time over head sizes and lengths at a constant number of tokens, causal and not.

mod common;

use common::{Case, DeviceTime, Machine, Operands, criterion, normal};
use criterion::Criterion;
use sumexp::attention::{Attention, AttentionInto, forward_into};
use sumexp::mask::Align;
use sumexp::{Float, Mask, bf16, f16, sigmoid};

/// Columns of all heads together.
const HIDDEN: usize = 2048;

fn main() {
    let machine = Machine::open();
    let mut criterion = criterion();
    each_shape::<f16>(&mut criterion, &machine);
    each_shape::<bf16>(&mut criterion, &machine);
    criterion.final_summary();
}

fn each_shape<T: Float>(criterion: &mut Criterion<DeviceTime>, machine: &Machine) {
    // While testing, one small call of each kernel is enough.
    let (tokens, lengths): (usize, &[usize]) =
        if machine.testing { (200, &[200]) } else { (16 << 10, &[512, 1024, 2048, 4096, 8192, 16 << 10]) };
    for head in [64, 128, 256] {
        for length in lengths {
            let heads = if machine.testing { 2 } else { HIDDEN / head };
            let dims = [tokens / length, heads, *length, head];
            let mut x: Vec<_> = (0..3).map(|seed| normal::<T>(&machine.device, &dims, seed)).collect();
            // Values above 0, so that relative errors say something.
            x[2] = sigmoid(&x[2]).expect("a legal call");
            let operands = Operands::of(x);
            for (op, mask) in [("attention", Mask::None), ("attention_causal", Mask::Causal(Align::BottomRight))] {
                let options = Attention { mask, ..Attention::default() };
                Case { machine, op, shape: format!("{dims:?}") }.measure(criterion, &operands, &dims, |o, out| {
                    forward_into(&o.x[0], &o.x[1], &o.x[2], &options, AttentionInto { out, lse: None })
                });
            }
        }
    }
}
