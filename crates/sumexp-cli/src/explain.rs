//! `sumexp explain`: what an operation launches.

use crate::arguments::{Call, Operation};
use crate::problem::{Failure, Rows, elements};
use std::io::Write;
use sumexp::attention;
use sumexp::plan;
use sumexp::{Device, Float, Tensor};

/// Prints the plan.
pub fn run<T: Float>(call: &Call, device: &Device, out: &mut impl Write) -> Result<(), Failure> {
    call.check()?;
    let text = if call.operation.is_attention() { of_attention::<T>(call, device)? } else { of_rows::<T>(call)? };
    let io = |error: std::io::Error| Failure::Usage(format!("cannot print: {error}"));
    writeln!(out, "{}", text.trim_end()).map_err(io)
}

fn of_attention<T: Float>(call: &Call, device: &Device) -> Result<String, Failure> {
    let sizes = call.sizes()?;
    // Nobody reads what is explained, but it has an address.
    let of = |heads: usize, length: usize| -> Result<_, Failure> {
        let dims = [sizes.batch, heads, length, sizes.head];
        elements(&dims)?;
        Ok(Tensor::<T>::zeros(device, &dims)?)
    };
    let (q, k) = (of(sizes.heads, sizes.queries)?, of(sizes.kv_heads, sizes.keys)?);
    Ok(attention::explain(&q, &k, &k, &call.attention())?.to_string())
}

fn of_rows<T: Float>(call: &Call) -> Result<String, Failure> {
    let (_, Rows { outer, len, inner }) = call.rows()?;
    let position = call.shape.0.len() - 1;
    let rows = sumexp::Rows { position, outer: outer as u64, len: len as u64, inner: inner as u64 };
    let count = rows.count();
    if count == 0 {
        return Ok("nothing to launch: there are no rows".to_string());
    }
    // Contiguous operands: columns lie on 16 bytes where a row of them does.
    let wide = (inner * size_of::<T>()).is_multiple_of(16);
    let what = format!("{count} rows of {len} {}, {inner} apart", T::DTYPE);
    let plan = match call.operation {
        Operation::Softmax | Operation::LogSoftmax | Operation::Logsumexp => {
            plan::softmax::forward(&rows, T::DTYPE, wide).to_string()
        }
        Operation::SoftmaxBackward | Operation::LogSoftmaxBackward => {
            plan::softmax::backward(&rows, T::DTYPE, wide).to_string()
        }
        other => {
            return Err(Failure::Usage(format!(
                "{} has no plan to explain: its kernels are chosen by its length alone",
                other.name()
            )));
        }
    };
    Ok(format!("{what}\n{plan}"))
}
