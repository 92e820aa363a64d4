//! What the benchmarks share: the device, its clock, its copy bandwidth, and the run of a case.
//!
//! A case states its work: the bytes that any implementation must move once, or the operations of its products. Time is the
//! device's own, between two events on its stream; on the host it is the clock's. With `--test` each case runs once, at a
//! small size, on the device of the tests, and its result is compared with the CPU device's.
#![allow(dead_code)] // Each benchmark is a program of its own and uses a part of this.

#[path = "../../tests/common/mod.rs"]
pub mod tests;

use criterion::measurement::{Measurement, ValueFormatter};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use std::io::Write as _;
use std::time::{Duration, Instant};
use sumexp::{DType, Device, DeviceName, Element, Float, Result, Tensor, ViewMut, bf16, f16};
use tests::random::Random;

/// Measurements per case.
const SAMPLES: usize = 10;

/// Nanoseconds on the device.
pub struct DeviceTime;

impl Measurement for DeviceTime {
    type Intermediate = Instant;
    type Value = f64;

    // Criterion calls these around host code only; every case here goes through `iter_custom`.
    fn start(&self) -> Instant {
        Instant::now()
    }
    fn end(&self, start: Instant) -> f64 {
        start.elapsed().as_nanos() as f64
    }
    fn add(&self, a: &f64, b: &f64) -> f64 {
        a + b
    }
    fn zero(&self) -> f64 {
        0.0
    }
    fn to_f64(&self, value: &f64) -> f64 {
        *value
    }
    fn formatter(&self) -> &dyn ValueFormatter {
        self
    }
}

impl ValueFormatter for DeviceTime {
    fn scale_values(&self, typical: f64, values: &mut [f64]) -> &'static str {
        let (factor, unit) = if typical < 1e6 { (1e-3, "us") } else { (1e-6, "ms") };
        values.iter_mut().for_each(|value| *value *= factor);
        unit
    }
    fn scale_throughputs(&self, _: f64, throughput: &Throughput, values: &mut [f64]) -> &'static str {
        let (amount, unit) = match throughput {
            Throughput::Bytes(bytes) => (*bytes as f64, "GB/s"),
            Throughput::Elements(flop) => (*flop as f64 * 1e-3, "TFLOP/s"),
            _ => unreachable!("every case states its bytes or operations"),
        };
        values.iter_mut().for_each(|value| *value = amount / *value);
        unit
    }
    fn scale_for_machines(&self, _: &mut [f64]) -> &'static str {
        "ns"
    }
}

/// Where the benchmarks run, and what they are compared with.
pub struct Machine {
    pub device: Device,
    /// Whether every case runs once only, to be checked.
    pub testing: bool,
    /// Bytes per second of the device's own copy, read and write counted; 0 while testing.
    copy: f64,
}

impl Machine {
    /// The GPU if there is one, else the CPU; `SUMEXP_BENCH_DEVICE=cpu` asks for the CPU. While testing, the device of the
    /// tests.
    pub fn open() -> Machine {
        // As criterion decides it: cargo passes `--bench` to benchmarks and nothing to tests.
        let has = |flag: &str| std::env::args().any(|argument| argument == flag);
        let testing = has("--test") || !has("--bench");
        if testing {
            return Machine { device: tests::gpu::device(), testing, copy: 0.0 };
        }
        let device = match std::env::var("SUMEXP_BENCH_DEVICE").as_deref() {
            Ok("cpu") => Device::cpu(),
            Ok(other) => panic!("SUMEXP_BENCH_DEVICE is \"{other}\", want cpu or nothing"),
            Err(_) => Device::cuda(0).unwrap_or_else(|error| {
                eprintln!("timing the CPU: {error}");
                Device::cpu()
            }),
        };
        let name = device.description();
        assert!(!name.to_lowercase().contains("softgpu"), "{name} interprets kernels: its time says nothing");
        let copy = copy_bandwidth(&device);
        println!("{name}: copy {:.1} GB/s, read and write counted", copy / 1e9);
        Machine { device, testing, copy }
    }

    /// Bytes of the largest operand of a case: on a GPU several times its L2, so that every run reads memory; on the CPU
    /// what the float64 reference does in about a tenth of a second; for a test what the software GPU does at once.
    fn budget(&self) -> usize {
        match self.device.name() {
            _ if self.testing => 1 << 10,
            DeviceName::Cpu => 1 << 20,
            _ => 1 << 28,
        }
    }

    /// How many rows of `length` elements of `T` a case has: as many as the budget holds, but not one alone.
    pub fn rows<T: Float>(&self, length: usize) -> usize {
        (self.budget() / size_of::<T>() / length).max(2)
    }
}

/// Median of ten copies of memory that no cache holds.
fn copy_bandwidth(device: &Device) -> f64 {
    // On the CPU each core copies its own pair, as one core alone does not fill the memory's bandwidth.
    let (pairs, bytes) = if device.is_cpu() { (rayon::current_num_threads(), 64 << 20) } else { (1, 1 << 30) };
    let zeros = || Tensor::<u8>::zeros(device, &[bytes]).expect("memory for the copy");
    let mut memory: Vec<_> = (0..pairs).map(|_| (zeros(), zeros())).collect();
    let times = (0..10).map(|_| {
        let mut copy = || -> Result<()> {
            use rayon::prelude::*;
            memory.par_iter_mut().try_for_each(|(to, from)| to.copy_from(from))
        };
        device.time(&mut copy).expect("a copy on the device").1.as_secs_f64()
    });
    2.0 * (pairs * bytes) as f64 / median(times.collect())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The inputs of a case, by element type.
pub struct Operands<T> {
    pub x: Vec<Tensor<T>>,
    pub f32: Vec<Tensor<f32>>,
    pub i64: Vec<Tensor<i64>>,
}

impl<T: Float> Operands<T> {
    /// Inputs of the case's own type.
    pub fn of(x: Vec<Tensor<T>>) -> Operands<T> {
        Operands { x, f32: Vec::new(), i64: Vec::new() }
    }

    fn bytes(&self) -> u64 {
        let x: u64 = self.x.iter().map(|x| x.elements() * size_of::<T>() as u64).sum();
        let f32: u64 = self.f32.iter().map(|x| x.elements() * 4).sum();
        x + f32 + self.i64.iter().map(|x| x.elements() * 8).sum::<u64>()
    }

    fn to_device(&self, device: &Device) -> Result<Operands<T>> {
        Ok(Operands {
            x: self.x.iter().map(|x| x.to_device(device)).collect::<Result<_>>()?,
            f32: self.f32.iter().map(|x| x.to_device(device)).collect::<Result<_>>()?,
            i64: self.i64.iter().map(|x| x.to_device(device)).collect::<Result<_>>()?,
        })
    }
}

/// The value of an element of any type that operations write, for a comparison.
fn number<T: Element>(value: T) -> f64 {
    let value: &dyn std::any::Any = &value;
    let floats = [
        value.downcast_ref().map(|x: &f32| f64::from(*x)),
        value.downcast_ref().map(|x: &f16| x.to_f64()),
        value.downcast_ref().map(|x: &bf16| x.to_f64()),
        value.downcast_ref().map(|index: &i64| *index as f64),
    ];
    floats.into_iter().flatten().next().expect("an f32, f16, bf16 or i64")
}

/// What an operation has to do at the least.
#[derive(Clone, Copy)]
pub enum Work {
    /// Bytes that must be moved.
    Bytes(u64),
    /// Multiplications and additions of its products.
    Flop(u64),
}

/// One benchmark.
pub struct Case<'a> {
    pub machine: &'a Machine,
    /// The operation: `softmax`, `softmax_backward`.
    pub op: &'a str,
    /// Its shape and dim, for people.
    pub shape: String,
}

impl Case<'_> {
    /// Times `op`, which reads `operands` and fills a tensor of shape `out`; or while testing calls it once on this device
    /// and once on the CPU and compares.
    ///
    /// Its traffic is every operand read once and the output written once.
    pub fn measure<T: Float, O: Element>(
        self,
        criterion: &mut Criterion<DeviceTime>,
        operands: &Operands<T>,
        out: &[usize],
        op: impl FnMut(&Operands<T>, ViewMut<O>) -> Result<()>,
    ) {
        let name = format!("{} {} {}", self.op, T::DTYPE, self.shape);
        let done = if self.machine.testing {
            self.check(&name, operands, out, op)
        } else {
            self.time(criterion, operands, out, op)
        };
        done.unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    fn check<T: Float, O: Element>(
        self,
        name: &str,
        operands: &Operands<T>,
        out: &[usize],
        mut op: impl FnMut(&Operands<T>, ViewMut<O>) -> Result<()>,
    ) -> Result<()> {
        let cpu = Device::cpu();
        let (mut got, mut want) = (Tensor::<O>::zeros(&self.machine.device, out)?, Tensor::<O>::zeros(&cpu, out)?);
        op(operands, got.view_mut())?;
        op(&operands.to_device(&cpu)?, want.view_mut())?;
        assert_close(name, &got.to_vec()?, &want.to_vec()?);
        println!("{name}: right");
        Ok(())
    }

    fn time<T: Float, O: Element>(
        self,
        criterion: &mut Criterion<DeviceTime>,
        operands: &Operands<T>,
        out: &[usize],
        mut op: impl FnMut(&Operands<T>, ViewMut<O>) -> Result<()>,
    ) -> Result<()> {
        let mut output = Tensor::<O>::zeros(&self.machine.device, out)?;
        let bytes = operands.bytes() + output.elements() * size_of::<O>() as u64;
        self.clock(criterion, T::DTYPE, Work::Bytes(bytes), || op(operands, output.view_mut()))
    }

    /// Times anything that runs on the machine's device.
    pub fn clock(
        self,
        criterion: &mut Criterion<DeviceTime>,
        dtype: DType,
        work: Work,
        mut run: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let Case { machine, op: name, shape } = self;
        let (mut times, mut failed) = (Vec::new(), None);
        let mut group = criterion.benchmark_group(name);
        let throughput = match work {
            Work::Bytes(bytes) => Throughput::Bytes(bytes),
            Work::Flop(flop) => Throughput::Elements(flop),
        };
        // Each sample has the same number of runs: the median below weighs all alike.
        group.throughput(throughput).sampling_mode(SamplingMode::Flat);
        group.bench_function(BenchmarkId::new(dtype.name(), &shape), |bencher| {
            bencher.iter_custom(|iterations| match machine.device.time(|| (0..iterations).try_for_each(|_| run())) {
                Ok(((), time)) => {
                    times.push(time.as_secs_f64() / iterations as f64);
                    time.as_nanos() as f64
                }
                Err(error) => {
                    failed = Some(error);
                    // Criterion wants a number; the error ends the program right after this case.
                    1.0
                }
            });
        });
        group.finish();
        if let Some(error) = failed {
            return Err(error);
        }
        // A filter on the command line may have left this case out.
        if !times.is_empty() {
            // The last ones are the measurement; those before warmed the device up.
            let seconds = median(times.split_off(times.len().saturating_sub(SAMPLES)));
            report(machine, name, dtype.name(), &shape, work, seconds);
        }
        Ok(())
    }
}

/// One line for people, and one of JSON in the file that `SUMEXP_BENCH_JSON` names.
fn report(machine: &Machine, op: &str, dtype: &str, shape: &str, work: Work, seconds: f64) {
    let device = machine.device.description();
    let milliseconds = seconds * 1e3;
    let (words, json) = match work {
        Work::Bytes(bytes) => {
            let speed = bytes as f64 / seconds;
            let percent = 100.0 * speed / machine.copy;
            let (speed, copy) = (speed / 1e9, machine.copy / 1e9);
            (
                format!("{:.1} MB moved, {speed:.2} GB/s, {percent:.1} % of the copy", bytes as f64 / 1e6),
                format!(
                    "\"bytes\":{bytes},\"gb_per_s\":{speed:.3},\"copy_gb_per_s\":{copy:.3},\"percent_of_copy\":{percent:.2}"
                ),
            )
        }
        Work::Flop(flop) => {
            let speed = flop as f64 / seconds / 1e12;
            let words = format!("{:.3} GFLOP, {speed:.4} TFLOP/s", flop as f64 / 1e9);
            (words, format!("\"flop\":{flop},\"tflop_per_s\":{speed:.5}"))
        }
    };
    println!("{op} {dtype} {shape}: {milliseconds:.4} ms, {words}\n");
    let Some(path) = std::env::var_os("SUMEXP_BENCH_JSON") else { return };
    let line = format!(
        "{{\"device\":\"{device}\",\"op\":\"{op}\",\"dtype\":\"{dtype}\",\"shape\":\"{shape}\",{json},\"seconds\":{seconds:e}}}"
    );
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| writeln!(file, "{line}")).expect("SUMEXP_BENCH_JSON names a file that can be written");
}

/// A criterion that knows the device's clock. What it takes for a case bounds a whole run.
pub fn criterion() -> Criterion<DeviceTime> {
    Criterion::default()
        .with_measurement(DeviceTime)
        .sample_size(SAMPLES)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .without_plots()
        .configure_from_args()
}

/// Random normal numbers: zeros would draw less power than real inputs and look faster.
pub fn normal<T: Float>(device: &Device, dims: &[usize], seed: u64) -> Tensor<T> {
    let elements: usize = dims.iter().product();
    // A block of random numbers, repeated: drawing all of them would take longer than measuring.
    let mut random = Random::new(seed);
    let block: Vec<T> = (0..elements.min(1 << 20)).map(|_| T::from_f64(random.normal())).collect();
    let values: Vec<T> = block.iter().copied().cycle().take(elements).collect();
    Tensor::from_slice(device, dims, &values).expect("memory for the inputs")
}

/// Panics unless `got` is what the CPU device computed, up to a few units in the last place of the largest value of the row.
#[track_caller]
pub fn assert_close<T: Element>(case: &str, got: &[T], want: &[T]) {
    assert_eq!(got.len(), want.len(), "{case}: different lengths");
    let digits = match size_of::<T>() {
        4 => 1e-5,
        _ => 1e-2,
    };
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let (got, want) = (number(*got), number(*want));
        let right = (got - want).abs() <= digits * (want.abs() + 1e-4);
        assert!(right, "{case}: element {i} is {got:e}, the CPU device has {want:e}");
    }
}
