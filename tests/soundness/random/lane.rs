//! A lane runs the steps of a program one after the other and holds what they make. A program has one lane or several
//! that run at the same time, on threads of their own, on the same devices.

use super::model::{COLUMNS, Forward, LEN, Look, ROWS, Values};
use super::step::Step;
use crate::common::gpu::undisturbed;
use crate::common::random::Random;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use sumexp::{
    CrossEntropy, Device, DeviceName, Dim, Error, Graph, Mask, Reduction, Result, SoftmaxOptions, Targets, Tensor,
    View, cross_entropy, cross_entropy_backward, hide, keep, log_softmax, logsumexp, softmax, softmax_backward,
    softmax_backward_into, softmax_into, softmin,
};

const SHAPE: [usize; 2] = [ROWS, COLUMNS];
/// More tensors than a lane holds for long.
const MANY: usize = 40;

/// A tensor and what the model says about it.
#[derive(Clone)]
pub struct Held {
    tensor: Arc<Tensor<f32>>,
    /// Unknown once a write failed half-way.
    values: Option<Arc<Values>>,
    /// As many as there are tensors with this memory. Behind the tensor, so that it is dropped after it.
    memory: Arc<()>,
}

/// Tensors on their way from one lane to another.
pub type Letters = Arc<Mutex<Vec<Held>>>;

/// What an operation reads, and what is known of it.
type Operand = (Arc<Tensor<f32>>, Option<Arc<Values>>);

/// One lane.
pub struct Lane {
    devices: Vec<Device>,
    held: Vec<Held>,
    letters: Letters,
    /// No other lane runs: what a write answers is known exactly.
    alone: bool,
    /// Driver calls fail on request: an error of the driver is an answer, and the program goes on without its result.
    tolerant: bool,
    /// Devices on which a kernel met a bad target that nobody has heard of.
    reports: HashSet<DeviceName>,
    planted: bool,
    /// Errors of the driver that were answered.
    pub errors: usize,
}

fn elements(seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..LEN).map(|_| random.between(-4.0, 4.0) as f32).collect()
}

fn dim(position: usize) -> Dim {
    if position == 0 { Dim::front(0) } else { Dim::LAST }
}

fn view(tensor: &Tensor<f32>, look: Look) -> View<'_, f32> {
    let whole = tensor.view();
    match look {
        Look::Whole => Ok(whole),
        Look::Transposed => whole.transpose(Dim::front(0), Dim::LAST),
        Look::Row(row) => whole.slice(Dim::front(0), row..row + 1).and_then(|row| row.expand(&SHAPE)),
        Look::Column(column) => whole.slice(Dim::LAST, column..column + 1).and_then(|column| column.expand(&SHAPE)),
    }
    .unwrap()
}

/// Whether `to_device` from one to the other gives the same memory.
fn shares(from: &Device, to: &Device) -> bool {
    match (from.name(), to.name()) {
        (DeviceName::Cpu, DeviceName::Cpu) => true,
        (DeviceName::Cuda { ordinal: from, .. }, DeviceName::Cuda { ordinal: to, .. }) => from == to,
        _ => false,
    }
}

impl Lane {
    /// The first device is the host.
    pub fn new(devices: &[Device], letters: &Letters, alone: bool, tolerant: bool) -> Self {
        let (devices, letters) = (devices.to_vec(), Arc::clone(letters));
        Self { devices, held: vec![], letters, alone, tolerant, reports: HashSet::new(), planted: false, errors: 0 }
    }

    /// The result, unless it is an error that is allowed here.
    fn ok<R>(&mut self, result: Result<R>) -> Option<R> {
        match result {
            Ok(value) => Some(value),
            Err(Error::Driver { .. } | Error::OutOfMemory { .. }) if self.tolerant => {
                self.errors += 1;
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Something that looks at a device's reports: it must give one exactly if one is due, and succeed the next time.
    fn hear<R>(&mut self, device: &Device, act: impl Fn() -> Result<R>) -> Option<R> {
        let due = !device.is_cpu() && self.reports.remove(&device.name());
        match act() {
            Err(Error::Target { .. }) if due || self.tolerant && self.planted => self.ok(act()),
            Ok(_) if due && !self.tolerant => panic!("a bad target on {device} was not reported"),
            result => self.ok(result),
        }
    }

    fn keep(&mut self, tensor: Tensor<f32>, values: Option<Values>) {
        let (tensor, values) = (Arc::new(tensor), values.map(Arc::new));
        self.held.push(Held { tensor, values, memory: Arc::new(()) });
    }

    fn at(&self, number: usize) -> Option<usize> {
        number.checked_rem(self.held.len())
    }

    fn device(&self, number: usize) -> Device {
        self.devices[number % self.devices.len()].clone()
    }

    /// A tensor on which a program may compute. Its values may be unknown.
    fn operand(&self, at: usize) -> Option<Operand> {
        let Held { tensor, values, .. } = &self.held[at];
        let fits = tensor.dims() == SHAPE && values.as_ref().is_none_or(|values| values.is_tame());
        fits.then(|| (Arc::clone(tensor), values.clone()))
    }

    /// Another tensor on the same device as that at `at`, and of its shape.
    fn partner(&self, at: usize, number: usize) -> Option<usize> {
        let this = &self.held[at].tensor;
        let fits = |other: &usize| {
            let tensor = &self.held[*other].tensor;
            *other != at && tensor.device() == this.device() && tensor.dims() == this.dims()
        };
        let others: Vec<usize> = (0..self.held.len()).filter(fits).collect();
        others.get(number.checked_rem(others.len())?).copied()
    }

    /// A write: refused exactly if another tensor has the memory.
    fn write(&mut self, at: usize, values: Option<Arc<Values>>, act: impl FnOnce(&mut Tensor<f32>) -> Result<()>) {
        let held = &mut self.held[at];
        let tensors = Arc::strong_count(&held.memory);
        // Lent to another lane: the type system refuses it.
        let Some(tensor) = Arc::get_mut(&mut held.tensor) else { return };
        match act(tensor) {
            Ok(()) => {
                assert!(!self.alone || tensors == 1, "written while {tensors} tensors had the memory");
                held.values = values;
            }
            // The second where the input is the other tensor.
            Err(Error::Shared { .. } | Error::Overlap { .. }) => {
                assert!(tensors > 1, "refused, but nobody has the memory too")
            }
            Err(error) => {
                held.values = None;
                self.ok::<()>(Err(error));
            }
        }
    }

    fn look(&mut self, at: usize, look: Option<Look>) {
        let Held { tensor, values, .. } = &self.held[at];
        let (tensor, values) = (Arc::clone(tensor), values.clone());
        let look = look.filter(|_| tensor.dims() == SHAPE);
        let found = match look {
            None => self.hear(tensor.device(), || tensor.to_vec()),
            Some(look) => self.hear(tensor.device(), || view(&tensor, look).to_vec()),
        };
        if let (Some(found), Some(values)) = (found, values) {
            let want = look.map_or_else(|| (*values).clone(), |look| look.through(&values));
            assert!(want.admit(&found), "{tensor:?} holds\n{found:?}\nand should hold\n{want:?}");
        }
    }

    /// Runs a step. `None` says that something was missing: nothing to take, or an error that is allowed.
    pub fn step(&mut self, step: Step) -> Option<()> {
        match step {
            Step::Upload { device, elements: seed } => {
                let elements = elements(seed);
                let made = Tensor::from_slice(&self.device(device), &SHAPE, &elements);
                let made = self.ok(made)?;
                self.keep(made, Some(Values::exact(&elements)));
            }
            Step::Copy { from } => {
                let Held { tensor, values, .. } = self.held[self.at(from)?].clone();
                let copied = Tensor::zeros(tensor.device(), tensor.dims());
                let mut copy = self.ok(copied)?;
                let copied = copy.copy_from(&tensor);
                self.ok(copied)?;
                self.keep(copy, values.map(|values| (*values).clone()));
            }
            Step::Send { from, device } => self.send(self.at(from)?, self.device(device))?,
            Step::Write { to, elements: seed } => {
                let at = self.at(to)?;
                let len = self.held[at].tensor.elements() as usize;
                let elements = &elements(seed)[..len];
                let values = Some(Arc::new(Values::exact(elements)));
                self.write(at, values, |tensor| tensor.copy_from_slice(elements));
            }
            Step::Overwrite { to, from } => {
                let to = self.at(to)?;
                let from = self.partner(to, from)?;
                let (source, values) = (Arc::clone(&self.held[from].tensor), self.held[from].values.clone());
                self.write(to, values, |tensor| tensor.copy_from(&source));
            }
            Step::Into { from, to } => {
                let at = self.at(from)?;
                let (x, values) = self.operand(at)?;
                let to = self.partner(at, to)?;
                let values = values.map(|x| Arc::new(x.forward(SHAPE, 1, Forward::Softmax, &|_| true)));
                self.write(to, values, |y| softmax_into(&*x, Dim::LAST, &SoftmaxOptions::default(), y));
            }
            Step::Forward { from, what, look, dim, mask } => self.forward(self.at(from)?, what, look, dim, mask)?,
            Step::Backward { from, upstream, dim } => self.backward(self.at(from)?, upstream, dim)?,
            Step::BackwardOf { from, upstream, dim } => self.backward_of(self.at(from)?, upstream, dim)?,
            Step::CrossEntropy { from, targets, bad } => self.cross_entropy(self.at(from)?, targets, bad)?,
            Step::Capture { from, dim } => self.capture(self.at(from)?, dim)?,
            Step::Read { from } => self.look(self.at(from)?, None),
            Step::ReadView { from, look } => self.look(self.at(from)?, Some(look)),
            Step::Drop { from } => drop(self.held.swap_remove(self.at(from)?)),
            Step::Restart { device } => {
                // The host has no streams.
                let at = 1 + device % (self.devices.len() - 1);
                let fresh = self.devices[at].with_new_stream();
                self.devices[at] = self.ok(fresh)?;
            }
            Step::Synchronize { device } => {
                let device = self.device(device);
                self.hear(&device, || device.synchronize())?;
            }
            Step::Check { device } => {
                let device = self.device(device);
                self.hear(&device, || device.check())?;
            }
            Step::Give { from } => {
                let held = self.held.swap_remove(self.at(from)?);
                self.letters.lock().unwrap_or_else(PoisonError::into_inner).push(held);
            }
            Step::Lend { from } => {
                let held = self.held[self.at(from)?].clone();
                self.letters.lock().unwrap_or_else(PoisonError::into_inner).push(held);
            }
            Step::Take => {
                let letter = self.letters.lock().unwrap_or_else(PoisonError::into_inner).pop();
                self.held.push(letter?);
            }
        }
        if self.held.len() > MANY {
            self.held.drain(..MANY / 2);
        }
        Some(())
    }

    fn send(&mut self, at: usize, device: Device) -> Option<()> {
        let Held { tensor, values, memory } = &self.held[at];
        let (tensor, values) = (Arc::clone(tensor), values.clone());
        let shared = shares(tensor.device(), &device).then(|| Arc::clone(memory));
        let sent = match device.is_cpu() {
            true => self.hear(tensor.device(), || tensor.to_device(&device)),
            false => self.ok(tensor.to_device(&device)),
        };
        let memory = shared.unwrap_or_default();
        self.held.push(Held { tensor: Arc::new(sent?), values, memory });
        Some(())
    }

    fn forward(&mut self, at: usize, what: Forward, look: Look, position: usize, mask: Option<u64>) -> Option<()> {
        let (x, values) = self.operand(at)?;
        // Any byte but 0 is true.
        let bytes: Vec<u8> = (0..LEN).map(|at| (mask.unwrap_or(0) >> at & 1) as u8 * 7).collect();
        let hides = mask.is_some_and(|mask| mask >> 40 & 1 == 1);
        let mask = match mask {
            None => None,
            Some(_) => {
                let made = Tensor::from_slice(x.device(), &look.dims(), &bytes);
                Some(self.ok(made)?)
            }
        };
        let bools = mask.as_ref().map_or(Mask::None, |mask| if hides { hide(mask) } else { keep(mask) }.into());
        let (options, dim) = (SoftmaxOptions { mask: bools, ..SoftmaxOptions::default() }, dim(position));
        let seen = view(&x, look);
        let result = match what {
            Forward::Softmax => softmax(seen, dim, &options).map(|y| y.into_tensor()),
            Forward::Softmin => softmin(seen, dim, &options).map(|y| y.into_tensor()),
            Forward::LogSoftmax => log_softmax(seen, dim, &options).map(|y| y.into_tensor()),
            Forward::LogSumExp => logsumexp(seen, dim, &options).map(|y| y.into_tensor()),
        };
        let result = self.ok(result)?;
        let visible = |at: usize| mask.is_none() || (bytes[at] != 0) != hides;
        let values = values.map(|x| look.through(&x).forward(look.dims(), position, what, &visible));
        let result = if what == Forward::LogSumExp { Ok(result) } else { result.reshape(&SHAPE) };
        self.keep(result.unwrap(), values);
        Some(())
    }

    fn capture(&mut self, at: usize, position: usize) -> Option<()> {
        let (x, values) = self.operand(at)?;
        if x.device().is_cpu() {
            return None;
        }
        let capture = |_: &Device| softmax(&*x, dim(position), &SoftmaxOptions::default());
        let captured = undisturbed(|| Graph::capture(x.device(), capture));
        let (graph, y) = self.ok(captured)?;
        // The second launch writes the same again, over what the first may still have to write.
        let launched = graph.launch().and_then(|()| graph.launch());
        self.ok(launched)?;
        self.keep(y.into_tensor(), values.map(|x| x.forward(SHAPE, position, Forward::Softmax, &|_| true)));
        Some(())
    }

    fn backward(&mut self, at: usize, upstream: usize, position: usize) -> Option<()> {
        let (x, x_values) = self.operand(at)?;
        let (dy, dy_values) = self.operand(self.partner(at, upstream)?)?;
        let options = SoftmaxOptions::default();
        let y = softmax(&*x, dim(position), &options);
        let y = self.ok(y)?;
        let dx = softmax_backward(&y, &*dy, dim(position), &options);
        let dx = self.ok(dx)?;
        let values = x_values.zip(dy_values).map(|(x, dy)| {
            let y = x.forward(SHAPE, position, Forward::Softmax, &|_| true);
            y.softmax_backward(SHAPE, position, &dy)
        });
        self.keep(dx, values);
        Some(())
    }

    fn backward_of(&mut self, at: usize, upstream: usize, position: usize) -> Option<()> {
        let (y, y_values) = self.operand(at)?;
        let (dy, dy_values) = self.operand(self.partner(at, upstream)?)?;
        if y_values.as_ref().is_some_and(|y| !y.is_unit()) {
            return None;
        }
        let made = Tensor::zeros(y.device(), &SHAPE);
        let mut dx = self.ok(made)?;
        let options = SoftmaxOptions::default();
        let written = softmax_backward_into(&*y, &*dy, dim(position), &options, &mut dx);
        self.ok(written)?;
        self.keep(dx, y_values.zip(dy_values).map(|(y, dy)| y.softmax_backward(SHAPE, position, &dy)));
        Some(())
    }

    fn cross_entropy(&mut self, at: usize, seed: u64, bad: bool) -> Option<()> {
        let (x, values) = self.operand(at)?;
        let device = x.device();
        let mut random = Random::new(seed);
        let mut classes: Vec<i64> = (0..ROWS).map(|_| random.below(COLUMNS) as i64).collect();
        if random.one_in(2) {
            classes[random.below(ROWS)] = -100;
        }
        if bad {
            classes[random.below(ROWS)] = [-1, COLUMNS as i64, 1 << 30][random.below(3)];
        }
        let narrow: Vec<i32> = classes.iter().map(|&class| class as i32).collect();
        let wide = Tensor::from_slice(device, &[ROWS], &classes);
        let wide = self.ok(wide)?;
        let narrow = Tensor::from_slice(device, &[ROWS], &narrow);
        let narrow = self.ok(narrow)?;
        let targets = || if seed & 1 == 0 { Targets::from(&wide) } else { Targets::from(&narrow) };
        let options = CrossEntropy { reduction: Reduction::None, ..CrossEntropy::default() };
        let output = match cross_entropy(&*x, Dim::LAST, targets(), &options) {
            Err(Error::Target { .. }) if bad && device.is_cpu() => return None,
            Ok(_) if bad && device.is_cpu() => panic!("a bad target was accepted"),
            output => self.ok(output),
        };
        if bad {
            // A launch that failed has nothing to report; one that was not asked to wait reports later.
            self.planted = true;
            self.reports.insert(device.name());
        }
        let output = output?;
        let one = Tensor::from_slice(device, &[], &[1.0f32]);
        let one = self.ok(one)?;
        let upstream = one.view().expand(&[ROWS]).unwrap();
        let gradient = cross_entropy_backward(&*x, Dim::LAST, targets(), &output.saved, upstream, &options);
        let values = values.map(|x| x.cross_entropy(&classes));
        self.keep(output.loss, values.as_ref().map(|(losses, _)| losses.clone()));
        let gradient = self.ok(gradient)?;
        self.keep(gradient, values.map(|(_, gradient)| gradient));
        Some(())
    }

    /// Looks at everything that is left.
    pub fn finish(&mut self) {
        (0..self.held.len()).for_each(|at| self.look(at, None));
    }
}
