//! The network: the last characters, embedded -> hidden layer (ReLU) -> one logit per character. Adam trains it.

use crate::matrix::{add_product, transposed};
use crate::random::Random;
use rayon::prelude::*;

/// Characters the model looks back.
pub const CONTEXT: usize = 12;
const EMBEDDING: usize = 24;
const INPUT: usize = CONTEXT * EMBEDDING;
const HIDDEN: usize = 384;

/// One weight matrix with its gradient and Adam's two averages.
struct Weights {
    value: Vec<f32>,
    gradient: Vec<f32>,
    mean: Vec<f32>,
    square: Vec<f32>,
}

impl Weights {
    fn new(len: usize, limit: f32, random: &mut Random) -> Weights {
        let value = (0..len).map(|_| random.symmetric(limit)).collect();
        Weights { value, gradient: vec![0.0; len], mean: vec![0.0; len], square: vec![0.0; len] }
    }

    /// One step of Adam with decoupled weight decay; clears the gradient.
    fn step(&mut self, rate: f32, decay: f32, number: i32) {
        const BETA: (f32, f32) = (0.9, 0.99);
        let (bias_mean, bias_square) = (1.0 - BETA.0.powi(number), 1.0 - BETA.1.powi(number));
        let both = self.value.par_iter_mut().zip(&mut self.gradient);
        both.zip(&mut self.mean).zip(&mut self.square).with_min_len(4096).for_each(|(((value, g), m), s)| {
            *m += (1.0 - BETA.0) * (*g - *m);
            *s += (1.0 - BETA.1) * (*g * *g - *s);
            *value -= rate * (*m / bias_mean / ((*s / bias_square).sqrt() + 1e-8) + decay * *value);
            *g = 0.0;
        });
    }
}

/// A character model over `classes` characters.
pub struct Model {
    classes: usize,
    embedding: Weights,
    hidden: Weights,
    hidden_bias: Weights,
    output: Weights,
    output_bias: Weights,
    steps: i32,
}

/// What the backward pass needs of a forward pass.
pub struct Activations {
    contexts: Vec<u32>,
    input: Vec<f32>,
    hidden: Vec<f32>,
    /// [rows, classes], row-major.
    pub logits: Vec<f32>,
}

impl Model {
    pub fn new(classes: usize, random: &mut Random) -> Model {
        let limit = |inputs: usize| (3.0 / inputs as f32).sqrt();
        Model {
            classes,
            embedding: Weights::new(classes * EMBEDDING, 0.5, random),
            hidden: Weights::new(INPUT * HIDDEN, limit(INPUT), random),
            hidden_bias: Weights::new(HIDDEN, 0.0, random),
            output: Weights::new(HIDDEN * classes, limit(HIDDEN), random),
            output_bias: Weights::new(classes, 0.0, random),
            steps: 0,
        }
    }

    /// Number of trained numbers.
    pub fn size(&self) -> usize {
        let parts = [&self.embedding, &self.hidden, &self.hidden_bias, &self.output, &self.output_bias];
        parts.iter().map(|weights| weights.value.len()).sum()
    }

    /// Logits for `contexts` [rows, CONTEXT], oldest character first.
    pub fn forward(&self, contexts: Vec<u32>) -> Activations {
        let rows = contexts.len() / CONTEXT;
        let mut input = Vec::with_capacity(rows * INPUT);
        for character in &contexts {
            input.extend_from_slice(&self.embedding.value[*character as usize * EMBEDDING..][..EMBEDDING]);
        }
        let mut hidden = self.hidden_bias.value.repeat(rows);
        add_product(&mut hidden, &input, &self.hidden.value, INPUT, HIDDEN);
        hidden.iter_mut().for_each(|h| *h = h.max(0.0));
        let mut logits = self.output_bias.value.repeat(rows);
        add_product(&mut logits, &hidden, &self.output.value, HIDDEN, self.classes);
        Activations { contexts, input, hidden, logits }
    }

    /// Adds the gradients that follow from the gradient of the logits.
    pub fn backward(&mut self, forward: &Activations, dlogits: &[f32]) {
        let rows = forward.contexts.len() / CONTEXT;
        add_product(&mut self.output.gradient, &transposed(&forward.hidden, HIDDEN), dlogits, rows, self.classes);
        add_rows(&mut self.output_bias.gradient, dlogits);

        let mut dhidden = vec![0.0; rows * HIDDEN];
        add_product(&mut dhidden, dlogits, &transposed(&self.output.value, self.classes), self.classes, HIDDEN);
        for (d, h) in dhidden.iter_mut().zip(&forward.hidden) {
            *d = if *h > 0.0 { *d } else { 0.0 };
        }
        add_product(&mut self.hidden.gradient, &transposed(&forward.input, INPUT), &dhidden, rows, HIDDEN);
        add_rows(&mut self.hidden_bias.gradient, &dhidden);

        let mut dinput = vec![0.0; rows * INPUT];
        add_product(&mut dinput, &dhidden, &transposed(&self.hidden.value, HIDDEN), HIDDEN, INPUT);
        for (character, d) in forward.contexts.iter().zip(dinput.chunks_exact(EMBEDDING)) {
            let gradient = &mut self.embedding.gradient[*character as usize * EMBEDDING..][..EMBEDDING];
            gradient.iter_mut().zip(d).for_each(|(g, d)| *g += d);
        }
    }

    /// Moves every weight by its gradient.
    pub fn step(&mut self, rate: f32) {
        self.steps += 1;
        let decayed = [(&mut self.embedding, 0.0), (&mut self.hidden, 0.5), (&mut self.output, 0.5)];
        let plain = [(&mut self.hidden_bias, 0.0), (&mut self.output_bias, 0.0)];
        for (weights, decay) in decayed.into_iter().chain(plain) {
            weights.step(rate, decay, self.steps);
        }
    }
}

/// `sum += ` every row of `rows`.
fn add_rows(sum: &mut [f32], rows: &[f32]) {
    for row in rows.chunks_exact(sum.len()) {
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
}
