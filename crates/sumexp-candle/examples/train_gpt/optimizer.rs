//! AdamW, with averages that can be saved.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};

const BETA: (f64, f64) = (0.9, 0.95);
const DECAY: f64 = 0.1;

/// Averages of the gradients and of their squares, a pair for each parameter in its order.
pub struct AdamW {
    pub averages: Vec<(Tensor, Tensor)>,
}

impl AdamW {
    pub fn new(parameters: &[(String, &Var)]) -> Result<AdamW> {
        let zeros = |parameter: &Var| Ok((parameter.zeros_like()?, parameter.zeros_like()?));
        let averages = parameters.iter().map(|(_, parameter)| zeros(parameter)).collect::<Result<_>>()?;
        Ok(AdamW { averages })
    }

    /// Moves every parameter by its gradient; `number` counts the steps from 1.
    pub fn step(
        &mut self,
        parameters: &[(String, &Var)],
        gradients: &GradStore,
        rate: f64,
        number: usize,
    ) -> Result<()> {
        let unbiased = |beta: f64| 1.0 / (1.0 - beta.powi(number as i32));
        for ((name, parameter), (mean, square)) in parameters.iter().zip(&mut self.averages) {
            let Some(gradient) = gradients.get(parameter) else {
                candle_core::bail!("no gradient reaches {name}");
            };
            *mean = (mean.affine(BETA.0, 0.0)? + gradient.affine(1.0 - BETA.0, 0.0)?)?.detach();
            *square = (square.affine(BETA.1, 0.0)? + gradient.sqr()?.affine(1.0 - BETA.1, 0.0)?)?.detach();
            let scale = square.affine(unbiased(BETA.1), 0.0)?.sqrt()?.affine(1.0, 1e-8)?;
            let update = mean.affine(rate * unbiased(BETA.0), 0.0)?.div(&scale)?;
            // Matrices shrink; scales of a normalisation do not.
            let decay = if parameter.rank() > 1 { rate * DECAY } else { 0.0 };
            parameter.set(&parameter.as_detached_tensor().affine(1.0 - decay, 0.0)?.sub(&update)?)?;
        }
        Ok(())
    }
}
