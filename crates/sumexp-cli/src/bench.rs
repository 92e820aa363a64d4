//! `sumexp bench`: how long an operation takes.

use crate::arguments::{Call, Operation};
use crate::problem::{Failure, Inputs, Problem};
use std::io::{IsTerminal, Write};
use std::time::Duration;
use sumexp::attention;
use sumexp::{Device, Float, Tensor};

/// Measurements go on until this is over.
const LEAST: Duration = Duration::from_millis(1);

/// What an operation has to do at the least.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// Bytes read and written once.
    Bytes(u64),
    /// Multiplications and additions of the products of visible pairs.
    Flop(u64),
}

/// Quartiles of measurements.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

impl Spread {
    fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        let at = |part: usize| seconds[(seconds.len() - 1) * part / 4];
        Self { low: at(1), median: at(2), high: at(3) }
    }
}

/// Times the operation and prints a table of one line.
pub fn run<T: Float>(call: &Call, repeat: u32, device: &Device, out: &mut impl Write) -> Result<(), Failure> {
    let problem = Problem::<T>::new(call, device)?;
    let work = work(&problem)?;
    let copy = copy_bandwidth(device)?;
    // The first run loads kernels and fills pools; the second says how many make a measurement.
    timed(device, &problem, 1)?;
    let once = timed(device, &problem, 1)?;
    let runs = (LEAST.as_secs_f64() / once.max(1e-9)).ceil().clamp(1.0, 1e4) as u32;
    let bar = Bar::new();
    let mut seconds = Vec::with_capacity(repeat as usize);
    for done in 0..repeat {
        bar.draw(done, repeat);
        seconds.push(timed(device, &problem, runs)? / f64::from(runs));
    }
    bar.erase();
    let io = |error: std::io::Error| Failure::Usage(format!("cannot print: {error}"));
    let text = report(call, T::DTYPE.name(), device.description(), work, copy, Spread::of(seconds), (repeat, runs));
    out.write_all(text.as_bytes()).map_err(io)
}

/// The lines that are printed.
fn report(
    call: &Call,
    dtype: &str,
    device: &str,
    work: Work,
    copy: f64,
    time: Spread,
    (repeat, runs): (u32, u32),
) -> String {
    let unit = |seconds: f64| match seconds {
        s if s < 1e-3 => format!("{:.2} us", s * 1e6),
        s if s < 1.0 => format!("{:.3} ms", s * 1e3),
        s => format!("{s:.3} s"),
    };
    let speed = match work {
        Work::Bytes(bytes) => {
            let rate = bytes as f64 / time.median;
            let percent = 100.0 * rate / copy;
            format!(
                "{:.3} MB moved at the least, {:.2} GB/s, {percent:.1} % of the copy",
                bytes as f64 / 1e6,
                rate / 1e9
            )
        }
        Work::Flop(flop) => {
            format!("{:.3} GFLOP, {:.4} TFLOP/s", flop as f64 / 1e9, flop as f64 / time.median / 1e12)
        }
    };
    format!(
        "{} {:?} of {dtype} on {device} (copy {:.1} GB/s, read and write counted)\n\
         median {}, quartiles {} to {}, {repeat} measurements of {runs} runs that allocate their results\n{speed}\n",
        call.operation.name(),
        call.shape.0,
        copy / 1e9,
        unit(time.median),
        unit(time.low),
        unit(time.high),
    )
}

/// Seconds on the device for so many runs, one behind the other.
fn timed<T: Float>(device: &Device, problem: &Problem<T>, runs: u32) -> Result<f64, Failure> {
    let mut failed = None;
    let ((), time) = device.time(|| {
        failed = (0..runs).try_for_each(|_| problem.run().map(drop)).err();
        Ok(())
    })?;
    failed.map_or(Ok(time.as_secs_f64()), Err)
}

/// Bytes per second of the device's own copy, read and write counted: the median of ten, of memory that no cache holds.
pub fn copy_bandwidth(device: &Device) -> Result<f64, Failure> {
    let bytes = if device.is_cpu() { 64 << 20 } else { 512 << 20 };
    let (from, mut to) = (Tensor::<u8>::zeros(device, &[bytes])?, Tensor::<u8>::zeros(device, &[bytes])?);
    let copy = |to: &mut Tensor<u8>| Ok::<_, Failure>(device.time(|| to.copy_from(&from))?.1.as_secs_f64());
    let times = (0..10).map(|_| copy(&mut to)).collect::<Result<Vec<_>, _>>()?;
    Ok(2.0 * bytes as f64 / Spread::of(times).median)
}

/// What the operation has to do at the least.
pub fn work<T: Float>(problem: &Problem<T>) -> Result<Work, Failure> {
    if let Inputs::Attention { qkv, .. } = &problem.inputs {
        let [q, k, v] = &**qkv;
        let explanation = attention::explain(q, k, v, &problem.call.attention())?;
        let backward = problem.call.operation == Operation::AttentionBackward;
        return Ok(Work::Flop(if backward { explanation.backward.flops } else { explanation.forward.flops }));
    }
    let rows = (problem.rows.outer * problem.rows.inner) as u64;
    let elements = rows * problem.rows.len as u64 * size_of::<T>() as u64;
    Ok(Work::Bytes(match problem.call.operation {
        Operation::Softmax | Operation::LogSoftmax => 2 * elements,
        Operation::SoftmaxBackward | Operation::LogSoftmaxBackward => 3 * elements,
        Operation::Logsumexp => elements + 4 * rows,
        Operation::LogsumexpBackward => 2 * elements + 4 * rows,
        // Class, loss and lse; class, upstream gradient and what was saved.
        Operation::CrossEntropy => elements + 16 * rows,
        Operation::CrossEntropyBackward => 2 * elements + 28 * rows,
        Operation::Attention | Operation::AttentionBackward => unreachable!("returned above"),
    }))
}

/// A progress bar, where somebody looks.
struct Bar(bool);

impl Bar {
    const WIDTH: u32 = 40;

    fn new() -> Self {
        Self(std::io::stderr().is_terminal())
    }

    fn draw(&self, done: u32, all: u32) {
        if self.0 {
            let full = (u64::from(done) * u64::from(Self::WIDTH) / u64::from(all.max(1))) as usize;
            eprint!("\r[{}{}] {done}/{all}", "#".repeat(full), ".".repeat(Self::WIDTH as usize - full));
        }
    }

    fn erase(&self) {
        if self.0 {
            eprint!("\r{}\r", " ".repeat(Self::WIDTH as usize + 24));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles() {
        let spread = Spread::of(vec![5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!(spread, Spread { low: 2.0, median: 3.0, high: 4.0 });
        assert_eq!(Spread::of(vec![7.0]), Spread { low: 7.0, median: 7.0, high: 7.0 });
    }
}
