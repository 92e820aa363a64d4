//! A call of cross-entropy: its checks, its way to the kernels and to the reference.

use super::super::super::check;
use super::super::targets::{ProbabilityTargets, Targets};
use super::super::write;
use super::options::{CrossEntropy, CrossEntropyInto, CrossEntropySaved, TokenStatisticsInto};
use crate::device::Device;
use crate::dtype::{Element, Float};
use crate::error::{Error, Result};
use crate::kernels::loss::{
    Call, CallTargets, STATE, cross_entropy_backward as launch_backward, cross_entropy_forward as launch_forward,
};
use crate::reference::cross_entropy::{Batch, Index, RowLoss, Targets as RowTargets, Terms};
use crate::reference::{self, Operand, Output};
use crate::shape::{Dim, Layout, Rows, Shape};
use crate::tensor::{View, ViewMut};
use std::ops::Range;

/// A call whose logits, targets and options fit together.
pub(super) struct Checked<'a, T> {
    pub(super) op: &'static str,
    pub(super) logits: View<'a, T>,
    pub(super) targets: Targets<'a>,
    pub(super) options: CrossEntropy<'a>,
    pub(super) rows: Rows,
    /// The shape of what there is one of per row.
    pub(super) sizes: Shape,
}

impl<'a, T: Float> Checked<'a, T> {
    pub(super) fn new(
        op: &'static str,
        logits: View<'a, T>,
        dim: Dim,
        targets: Targets<'a>,
        options: &CrossEntropy<'a>,
    ) -> Result<Self> {
        let rows = logits.shape().rows(op, dim)?;
        let sizes = logits.shape().without(rows.position);
        check::temperature(op, options.temperature)?;
        Device::same(op, ("logits", logits.device()), &[("targets", targets.device())])?;
        match targets {
            Targets::Probabilities(_) => {
                check::same_shape(op, ("targets", targets.shape()), ("logits", logits.shape()))?;
                if let Some(index @ 0..) = options.ignore_index {
                    let wanted = "below 0, or none, with targets that are probabilities";
                    return Err(Error::Option { op, option: "ignore_index", value: index as f64, wanted });
                }
                if options.statistics {
                    let wanted = "false (0) with targets that are probabilities";
                    return Err(Error::Option { op, option: "statistics", value: 1.0, wanted });
                }
            }
            _ => check::same_shape(op, ("targets", targets.shape()), ("logits without their class dim", &sizes))?,
        }
        at_least_0(op, "z_loss", options.z_loss)?;
        if !(0.0..=1.0).contains(&options.label_smoothing) {
            let value = options.label_smoothing.into();
            return Err(Error::Option { op, option: "label_smoothing", value, wanted: "from 0 to 1" });
        }
        if let Some(weights) = &options.class_weights {
            check::same_shape(
                op,
                ("class_weights", weights.shape()),
                ("one number per class", &Shape::new(op, &[rows.len as usize])?),
            )?;
            Device::same(op, ("logits", logits.device()), &[("class_weights", weights.device())])?;
        }
        options.reduction.check(op, ("logits", logits.device()))?;
        if rows.len == 0 && rows.count() > 0 {
            return Err(Error::NoClasses { op, shape: logits.dims().to_vec(), dim: rows.position });
        }
        Ok(Self { op, logits, targets, options: *options, rows, sizes })
    }

    pub(super) fn loss_shape(&self) -> Result<Shape> {
        self.options.reduction.loss_shape(self.op, &self.sizes)
    }

    pub(super) fn one_number(&self) -> Result<Shape> {
        Shape::new(self.op, &[])
    }

    pub(super) fn saved_shape(&self) -> Result<Shape> {
        Shape::new(self.op, &[CrossEntropySaved::elements(self.rows.count() as usize)])
    }

    pub(super) fn call(&self) -> Call<'_, T> {
        let (address, layout, dtype) = (self.targets.address(), self.targets.layout(), self.targets.dtype());
        let targets = CallTargets { address, layout, dtype, ignore_index: self.options.ignore_index };
        Call {
            op: self.op,
            logits: self.logits,
            targets,
            rows: self.rows,
            class_weights: self.options.class_weights,
            label_smoothing: self.options.label_smoothing,
            z_loss: self.options.z_loss,
            temperature: self.options.temperature,
        }
    }

    pub(super) fn inputs(&self) -> Vec<(&'static str, Range<u64>)> {
        let mut inputs = vec![("logits", self.logits.addresses()), ("targets", self.targets.addresses())];
        inputs.extend(self.options.class_weights.map(|weights| ("class_weights", weights.addresses())));
        inputs.extend(self.options.reduction.input());
        inputs
    }

    /// Refuses outputs that cannot be written.
    pub(super) fn check_outputs(&self, outputs: &CrossEntropyInto) -> Result<()> {
        let (op, device, inputs) = (self.op, self.logits.device(), self.inputs());
        let devices = [
            ("loss", outputs.loss.device()),
            ("lse", outputs.lse.device()),
            ("count", outputs.count.device()),
            ("saved", outputs.saved.device()),
        ];
        Device::same(op, ("logits", device), &devices)?;
        outputs.loss.check_output(op, "loss", ("the loss", &self.loss_shape()?), &inputs)?;
        outputs.lse.check_output(op, "lse", ("logits without their class dim", &self.sizes), &inputs)?;
        outputs.count.check_output(op, "count", ("one number", &self.one_number()?), &inputs)?;
        outputs.saved.check_output(
            op,
            "saved",
            ("four numbers per row and one more", &self.saved_shape()?),
            &inputs,
        )?;
        self.check_statistics(&outputs.statistics, &inputs)
    }

    pub(super) fn forward(&self, mut outputs: CrossEntropyInto) -> Result<()> {
        self.check_outputs(&outputs)?;
        if self.logits.device().is_cpu() {
            return self.on_host(|batch| self.forward_on_host(batch, &mut outputs));
        }
        launch_forward(&self.call(), self.options.reduction.into(), outputs.into())
    }

    /// Refuses statistics that nobody asked for or that have no place, and places that cannot be written.
    fn check_statistics(
        &self,
        statistics: &Option<TokenStatisticsInto>,
        inputs: &[(&'static str, Range<u64>)],
    ) -> Result<()> {
        let op = self.op;
        let Some(to) = statistics else {
            if self.options.statistics {
                let wanted = "false (0) without outputs for them";
                return Err(Error::Option { op, option: "statistics", value: 1.0, wanted });
            }
            return Ok(());
        };
        if !self.options.statistics {
            let wanted = "true (1) with outputs for them";
            return Err(Error::Option { op, option: "statistics", value: 0.0, wanted });
        }
        let devices = [
            ("nll", to.nll.device()),
            ("entropy", to.entropy.device()),
            ("argmax", to.argmax.device()),
            ("correct", to.correct.device()),
            ("rank", to.rank.device()),
        ];
        Device::same(op, ("logits", self.logits.device()), &devices)?;
        let sizes = ("logits without their class dim", &self.sizes);
        to.nll.check_output(op, "nll", sizes, inputs)?;
        to.entropy.check_output(op, "entropy", sizes, inputs)?;
        to.argmax.check_output(op, "argmax", sizes, inputs)?;
        to.correct.check_output(op, "correct", sizes, inputs)?;
        to.rank.check_output(op, "rank", sizes, inputs)
    }

    pub(super) fn backward(&self, saved: View<f32>, upstream: View<f32>, mut dlogits: ViewMut<T>) -> Result<()> {
        let (op, device) = (self.op, self.logits.device());
        let devices = [("saved", saved.device()), ("upstream", upstream.device()), ("dlogits", dlogits.device())];
        Device::same(op, ("logits", device), &devices)?;
        check::same_shape(op, ("saved", saved.shape()), ("what forward saves", &self.saved_shape()?))?;
        check::same_shape(op, ("upstream", upstream.shape()), ("the loss", &self.loss_shape()?))?;
        if !saved.layout().is_contiguous() {
            let (shape, strides) = (saved.dims().to_vec(), saved.layout().strides().to_vec());
            return Err(Error::NotContiguous { op, output: "saved", shape, strides });
        }
        let mut inputs = self.inputs();
        inputs.extend([("saved", saved.addresses()), ("upstream", upstream.addresses())]);
        dlogits.check_output(op, "dlogits", ("logits", self.logits.shape()), &inputs)?;
        if self.logits.shape().is_empty() {
            return Ok(());
        }
        // The one upstream gradient of a sum or a mean is that of every row.
        let upstream_layout = upstream.layout().broadcast(op, "upstream", &self.sizes)?;
        if device.is_cpu() {
            return self.on_host(|batch| self.backward_on_host(batch, upstream, &upstream_layout, &mut dlogits));
        }
        launch_backward(&self.call(), saved, Some((upstream.address(), &upstream_layout)), dlogits)
    }

    /// Gives `act` the call as the reference takes it; an error for the first bad target.
    fn on_host(&self, act: impl FnOnce(&Batch<T>) -> Result<()>) -> Result<()> {
        let rows = self.reference_rows();
        match &self.targets {
            Targets::I64(view) => self.with_classes(&self.classes(view), act),
            Targets::I32(view) => self.with_classes(&self.classes(view), act),
            Targets::U32(view) => self.with_classes(&self.classes(view), act),
            Targets::Probabilities(ProbabilityTargets::F32(view)) => self.with_probabilities(view, &rows, act),
            Targets::Probabilities(ProbabilityTargets::F16(view)) => self.with_probabilities(view, &rows, act),
            Targets::Probabilities(ProbabilityTargets::BF16(view)) => self.with_probabilities(view, &rows, act),
        }
    }

    fn classes<I: Element + Index>(&self, view: &View<I>) -> Vec<i64> {
        let (rows, strides) = (self.reference_rows(), self.per_row(view.layout()));
        let targets = Operand { data: on_host(view), strides: &strides };
        (0..rows.count()).map(|row| targets.at(&rows, row).to_i64()).collect()
    }

    fn with_classes(&self, values: &[i64], act: impl FnOnce(&Batch<T>) -> Result<()>) -> Result<()> {
        self.with_targets(RowTargets::Classes { values, ignore_index: self.options.ignore_index }, act)
    }

    fn with_probabilities<P: Float>(
        &self,
        view: &View<P>,
        rows: &reference::Rows,
        act: impl FnOnce(&Batch<T>) -> Result<()>,
    ) -> Result<()> {
        let targets = Operand { data: on_host(view), strides: view.layout().strides() };
        let of_row = |row| targets.row(rows, row).map(Float::to_f64).collect();
        self.with_targets(RowTargets::Probabilities(&of_row), act)
    }

    fn with_targets(&self, targets: RowTargets, act: impl FnOnce(&Batch<T>) -> Result<()>) -> Result<()> {
        let rows = self.reference_rows();
        let weights: Option<Vec<f64>> = self.options.class_weights.map(|weights| {
            let (data, step) = (on_host(&weights), weights.layout().strides()[0]);
            (0..self.rows.len).map(|class| f64::from(data[(class * step) as usize])).collect()
        });
        let batch = Batch {
            logits: Operand { data: on_host(&self.logits), strides: self.logits.layout().strides() },
            targets,
            terms: Terms {
                tau: f64::from(self.options.temperature),
                label_smoothing: f64::from(self.options.label_smoothing),
                class_weights: weights.as_deref(),
                z_loss: f64::from(self.options.z_loss),
            },
        };
        match batch.first_bad(&rows) {
            None => act(&batch),
            Some((row, value)) => Err(Error::Target { op: self.op, row: row as u64, value, classes: self.rows.len }),
        }
    }

    fn reference_rows(&self) -> reference::Rows<'_> {
        reference::Rows { shape: self.logits.dims(), dim: self.rows.position }
    }

    /// Strides over the logits' shape of an operand that has one element per row.
    fn per_row(&self, layout: &Layout) -> Vec<u64> {
        let mut strides = layout.strides().to_vec();
        strides.insert(self.rows.position, 0);
        strides
    }

    fn forward_on_host(&self, batch: &Batch<T>, outputs: &mut CrossEntropyInto) -> Result<()> {
        let (op, rows) = (self.op, self.reference_rows());
        let results = batch.rows(&rows);
        let losses: Vec<f64> = results.iter().map(|row| row.loss).collect();
        let counted = batch.weight(&rows);
        if let Some(to) = &mut outputs.statistics {
            let of_rows = batch.statistics(&rows);
            write(op, "nll", &mut to.nll, of_rows.iter().map(|row| row.nll as f32))?;
            write(op, "entropy", &mut to.entropy, of_rows.iter().map(|row| row.entropy as f32))?;
            write(op, "argmax", &mut to.argmax, of_rows.iter().map(|row| row.argmax))?;
            write(op, "correct", &mut to.correct, of_rows.iter().map(|row| u8::from(row.rank == 0)))?;
            write(op, "rank", &mut to.rank, of_rows.iter().map(|row| row.rank))?;
        }
        write(op, "lse", &mut outputs.lse, results.iter().map(|row| row.lse as f32))?;
        write(op, "count", &mut outputs.count, [batch.count(&rows) as i64])?;
        self.options.reduction.write_on_host(op, &mut outputs.loss, &losses, counted)?;
        let planes: [fn(&RowLoss) -> f64; STATE] =
            [|row| row.state.max, |row| row.state.others, |row| row.on_target, |row| row.spread];
        let states = planes.iter().flat_map(|plane| results.iter().map(|row| plane(row) as f32));
        write(op, "saved", &mut outputs.saved, states.chain([self.options.reduction.scale_on_host(counted) as f32]))
    }

    fn backward_on_host(
        &self,
        batch: &Batch<T>,
        upstream: View<f32>,
        upstream_layout: &Layout,
        dlogits: &mut ViewMut<T>,
    ) -> Result<()> {
        let rows = self.reference_rows();
        let scale = self.options.reduction.scale_on_host(batch.weight(&rows));
        let strides = self.per_row(upstream_layout);
        let upstream = Operand { data: on_host(&upstream), strides: &strides };
        let strides = dlogits.layout().strides().to_vec();
        let data = dlogits.on_host(self.op, "dlogits")?.expect(ONE_DEVICE);
        let output = Output { data, strides: &strides };
        batch.backward(&rows, |row| f64::from(upstream.at(&rows, row)) * scale, output);
        Ok(())
    }
}

/// Refuses an option that is negative or not finite.
fn at_least_0(op: &'static str, option: &'static str, value: f32) -> Result<()> {
    let wanted = "finite and at least 0";
    if value.is_finite() && value >= 0.0 {
        Ok(())
    } else {
        Err(Error::Option { op, option, value: value.into(), wanted })
    }
}

/// Why the operands and outputs of a call whose logits are on the host are there too.
const ONE_DEVICE: &str = "devices are compared before anything is computed";

fn on_host<'a, U: Element>(view: &View<'a, U>) -> &'a [U] {
    view.on_host().expect(ONE_DEVICE)
}
