//! A call of the divergence, checked and carried out.

use super::super::super::check;
use super::super::super::common::operand;
use super::{Direction, KlDivergence};
use crate::device::Device;
use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::kernels::inference::{Input, top_k};
use crate::kernels::loss::{
    Divergence, DivergenceCall, divergence_backward as launch_backward, divergence_forward as launch_forward,
    divergence_pick, divergence_place,
};
use crate::plan::inference::TOP_K_MOST;
use crate::reference::divergence::{Direction as Reference, Lessons};
use crate::reference::{self, Operand, Output};
use crate::shape::{Dim, Layout, Rows, Shape};
use crate::tensor::{Tensor, View, ViewMut};
use std::ops::Range;

/// A call whose logits and options fit together.
pub(super) struct Checked<'a, T> {
    op: &'static str,
    student: View<'a, T>,
    teacher: View<'a, T>,
    options: KlDivergence<'a>,
    /// What every loss is multiplied by.
    factor: f64,
    rows: Rows,
    /// The shape of what there is one of per row.
    sizes: Shape,
}

impl<'a, T: Float> Checked<'a, T> {
    pub(super) fn new(
        op: &'static str,
        student: View<'a, T>,
        teacher: View<'a, T>,
        dim: Dim,
        options: &KlDivergence<'a>,
        factor: f64,
    ) -> Result<Self> {
        check::same_shape(op, ("teacher", teacher.shape()), ("student", student.shape()))?;
        Device::same(op, ("student", student.device()), &[("teacher", teacher.device())])?;
        let rows = student.shape().rows(op, dim)?;
        check::temperature(op, options.temperature)?;
        if let Direction::JensenShannon { beta } = options.direction
            && !(beta > 0.0 && beta < 1.0)
        {
            return Err(Error::Option { op, option: "beta", value: beta.into(), wanted: "above 0 and below 1" });
        }
        options.reduction.check(op, ("student", student.device()))?;
        if rows.len == 0 && rows.count() > 0 {
            return Err(Error::NoClasses { op, shape: student.dims().to_vec(), dim: rows.position });
        }
        let sizes = student.shape().without(rows.position);
        let checked = Self { op, student, teacher, options: *options, factor, rows, sizes };
        checked.check_top_k()?;
        Ok(checked)
    }

    fn check_top_k(&self) -> Result<()> {
        let Some(k) = self.options.top_k else { return Ok(()) };
        let (op, len) = (self.op, self.rows.len);
        if k == 0 {
            return Err(Error::Option { op, option: "top_k", value: 0.0, wanted: "at least 1" });
        }
        let too_many = |option, value, max| Err(Error::TooMany { op, option, value, max });
        if len > u64::from(u32::MAX) {
            return too_many("the length of the dim", len, u64::from(u32::MAX));
        }
        let most = len.min(TOP_K_MOST);
        if k as u64 > most && self.rows.count() > 0 { too_many("top_k", k as u64, most) } else { Ok(()) }
    }

    /// How many classes count, if not all do.
    fn top_k(&self) -> Option<u64> {
        self.options.top_k.map(|k| k as u64).filter(|k| *k != self.rows.len)
    }

    fn loss_shape(&self) -> Result<Shape> {
        self.options.reduction.loss_shape(self.op, &self.sizes)
    }

    fn inputs(&self) -> Vec<(&'static str, Range<u64>)> {
        let mut inputs = vec![("student", self.student.addresses()), ("teacher", self.teacher.addresses())];
        inputs.extend(self.options.reduction.input());
        inputs
    }

    pub(super) fn allocate_loss(&self) -> Result<Tensor<f32>> {
        let mut loss = Tensor::unfilled(self.op, self.student.device(), self.loss_shape()?)?;
        self.forward(loss.view_mut())?;
        Ok(loss)
    }

    pub(super) fn forward_into(&self, loss: ViewMut<f32>) -> Result<()> {
        Device::same(self.op, ("student", self.student.device()), &[("loss", loss.device())])?;
        loss.check_output(self.op, "loss", ("the loss", &self.loss_shape()?), &self.inputs())?;
        self.forward(loss)
    }

    pub(super) fn allocate_gradient(&self, upstream: View<f32>) -> Result<Tensor<T>> {
        let layout = self.upstream(&upstream)?;
        let mut dstudent = Tensor::unfilled(self.op, self.student.device(), *self.student.shape())?;
        self.backward(upstream, &layout, dstudent.view_mut())?;
        Ok(dstudent)
    }

    pub(super) fn backward_into(&self, upstream: View<f32>, dstudent: ViewMut<T>) -> Result<()> {
        let layout = self.upstream(&upstream)?;
        Device::same(self.op, ("student", self.student.device()), &[("dstudent", dstudent.device())])?;
        let mut inputs = self.inputs();
        inputs.push(("upstream", upstream.addresses()));
        dstudent.check_output(self.op, "dstudent", ("student", self.student.shape()), &inputs)?;
        self.backward(upstream, &layout, dstudent)
    }

    /// The layout of the gradient of the loss over the rows: the one of a sum or a mean is that of every row.
    fn upstream(&self, upstream: &View<f32>) -> Result<Layout> {
        check::same_shape(self.op, ("upstream", upstream.shape()), ("the loss", &self.loss_shape()?))?;
        Device::same(self.op, ("student", self.student.device()), &[("upstream", upstream.device())])?;
        upstream.layout().broadcast(self.op, "upstream", &self.sizes)
    }

    /// The call of the kernels, on all classes.
    fn call(&self) -> DivergenceCall<'_, T> {
        DivergenceCall {
            op: self.op,
            student: self.student,
            teacher: self.teacher,
            rows: self.rows,
            divergence: match self.options.direction {
                Direction::Forward => Divergence::Forward,
                Direction::Reverse => Divergence::Reverse,
                Direction::JensenShannon { beta } => Divergence::JensenShannon(beta),
            },
            temperature: self.options.temperature,
            factor: self.factor,
        }
    }

    /// The call as the reference takes it; none if it is not on the host.
    fn on_host(&self) -> Option<Lessons<'_, T>> {
        Some(Lessons {
            student: operand(&self.student)?,
            teacher: operand(&self.teacher)?,
            direction: match self.options.direction {
                Direction::Forward => Reference::Forward,
                Direction::Reverse => Reference::Reverse,
                Direction::JensenShannon { beta } => Reference::JensenShannon { beta: beta.into() },
            },
            tau: self.options.temperature.into(),
            factor: self.factor,
            top_k: self.options.top_k,
        })
    }

    fn reference_rows(&self) -> reference::Rows<'_> {
        reference::Rows { shape: self.student.dims(), dim: self.rows.position }
    }

    fn forward(&self, mut loss: ViewMut<f32>) -> Result<()> {
        let reduction = &self.options.reduction;
        let Some(lessons) = self.on_host() else {
            let Some(k) = self.top_k() else { return launch_forward(&self.call(), (*reduction).into(), loss) };
            return launch_forward(&Chosen::of(self, k)?.call(self), (*reduction).into(), loss);
        };
        let losses = lessons.losses(&self.reference_rows());
        reduction.write_on_host(self.op, &mut loss, &losses, losses.len() as f64)
    }

    fn backward(&self, upstream: View<f32>, layout: &Layout, mut dstudent: ViewMut<T>) -> Result<()> {
        if self.student.shape().is_empty() {
            return Ok(());
        }
        let (Some(lessons), Some(data)) = (self.on_host(), upstream.on_host()) else {
            let (reduce, upstream) = (self.options.reduction.into(), (upstream.address(), layout));
            let Some(k) = self.top_k() else { return launch_backward(&self.call(), reduce, upstream, dstudent) };
            let chosen = Chosen::of(self, k)?;
            let mut slopes = Tensor::unfilled(self.op, self.student.device(), *chosen.student.shape())?;
            launch_backward(&chosen.call(self), reduce, upstream, slopes.view_mut())?;
            return divergence_place(self.op, &slopes.view(), &self.rows, &chosen.indices.view(), dstudent);
        };
        let rows = self.reference_rows();
        let scale = self.options.reduction.scale_on_host(self.rows.count() as f64);
        // One per row: of no length along the dim.
        let mut strides = layout.strides().to_vec();
        strides.insert(self.rows.position, 0);
        let upstream = Operand { data, strides: &strides };
        let strides = dstudent.layout().strides().to_vec();
        let data = dstudent.on_host(self.op, "dstudent")?.expect("dstudent is where the student is");
        let output = Output { data, strides: &strides };
        lessons.backward(&rows, |row| f64::from(upstream.at(&rows, row)) * scale, output);
        Ok(())
    }
}

/// The teacher's largest logits of every row, largest first, and the student's of the same classes: of the shape of the logits with
/// `k` in the place of the length of their dim.
struct Chosen<T: Float> {
    student: Tensor<T>,
    teacher: Tensor<T>,
    indices: Tensor<i64>,
}

impl<T: Float> Chosen<T> {
    fn of(checked: &Checked<T>, k: u64) -> Result<Self> {
        let (op, device, rows) = (checked.op, checked.student.device(), &checked.rows);
        let shape = checked.student.shape().with(rows.position, if rows.count() == 0 { 0 } else { k as usize });
        let mut chosen = Self {
            student: Tensor::unfilled(op, device, shape)?,
            teacher: Tensor::unfilled(op, device, shape)?,
            indices: Tensor::unfilled(op, device, shape)?,
        };
        if rows.count() > 0 {
            let input = Input { op, x: checked.teacher, rows: *rows };
            top_k(&input, k, chosen.teacher.view_mut(), chosen.indices.view_mut())?;
            divergence_pick(op, &checked.student, rows, &chosen.indices.view(), chosen.student.view_mut())?;
        }
        Ok(chosen)
    }

    /// The same call on the chosen classes.
    fn call<'a>(&'a self, checked: &'a Checked<T>) -> DivergenceCall<'a, T> {
        let rows = Rows { len: self.student.dims()[checked.rows.position] as u64, ..checked.rows };
        DivergenceCall { student: self.student.view(), teacher: self.teacher.view(), rows, ..checked.call() }
    }
}
