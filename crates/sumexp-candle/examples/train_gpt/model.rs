//! A small GPT: embeddings of characters and positions, blocks of causal attention and a two-layer network, each behind a
//! normalisation, and logits through the embedding again.

use crate::random::Random;
use candle_core::{Device, Result, Tensor, Var};
use sumexp_candle::{Align, Attention, Mask, attention_weights, scaled_dot_product_attention};

/// Characters that the model looks back on.
pub const CONTEXT: usize = 64;
const WIDTH: usize = 96;
pub const HEADS: usize = 4;
pub const LAYERS: usize = 3;

struct Block {
    norm_attention: Var,
    /// Queries, keys and values side by side.
    qkv: Var,
    projection: Var,
    norm_network: Var,
    up: Var,
    down: Var,
}

/// A model over `classes` characters.
pub struct Gpt {
    embedding: Var,
    positions: Var,
    blocks: Vec<Block>,
    norm: Var,
}

impl Gpt {
    pub fn new(classes: usize, random: &mut Random, device: &Device) -> Result<Gpt> {
        // Uniform numbers with this standard deviation. What is added to the residual stream begins smaller.
        let mut matrix = |rows: usize, columns: usize, deviation: f32| {
            let limit = deviation * 3f32.sqrt();
            let numbers: Vec<f32> = (0..rows * columns).map(|_| random.symmetric(limit)).collect();
            Var::from_vec(numbers, (rows, columns), device)
        };
        let ones = || Var::ones(WIDTH, candle_core::DType::F32, device);
        let deviation = |inputs: usize| (inputs as f32).sqrt().recip();
        let residual = (2.0 * LAYERS as f32).sqrt().recip();
        let embedding = matrix(classes, WIDTH, 0.05)?;
        let positions = matrix(CONTEXT, WIDTH, 0.02)?;
        let mut blocks = Vec::new();
        for _ in 0..LAYERS {
            blocks.push(Block {
                norm_attention: ones()?,
                qkv: matrix(WIDTH, 3 * WIDTH, deviation(WIDTH))?,
                projection: matrix(WIDTH, WIDTH, residual * deviation(WIDTH))?,
                norm_network: ones()?,
                up: matrix(WIDTH, 4 * WIDTH, deviation(WIDTH))?,
                down: matrix(4 * WIDTH, WIDTH, residual * deviation(4 * WIDTH))?,
            });
        }
        Ok(Gpt { embedding, positions, blocks, norm: ones()? })
    }

    /// Everything that is trained, by name, always in the same order.
    pub fn parameters(&self) -> Vec<(String, &Var)> {
        let mut all = vec![("embedding".to_string(), &self.embedding), ("positions".to_string(), &self.positions)];
        for (number, block) in self.blocks.iter().enumerate() {
            for (name, parameter) in [
                ("norm_attention", &block.norm_attention),
                ("qkv", &block.qkv),
                ("projection", &block.projection),
                ("norm_network", &block.norm_network),
                ("up", &block.up),
                ("down", &block.down),
            ] {
                all.push((format!("blocks.{number}.{name}"), parameter));
            }
        }
        all.push(("norm".to_string(), &self.norm));
        all
    }

    /// Number of trained numbers.
    pub fn size(&self) -> usize {
        self.parameters().iter().map(|(_, parameter)| parameter.elem_count()).sum()
    }

    /// Logits `[batch * length, classes]` for what follows each of the characters `[batch, length]`, at most [`CONTEXT`] in a row.
    pub fn forward(&self, characters: &Tensor) -> Result<Tensor> {
        self.run(characters, |_, _, _| Ok(()))
    }

    /// The attention weights of every block, `[batch, HEADS, length, length]`.
    pub fn attention(&self, characters: &Tensor) -> Result<Vec<Tensor>> {
        let mut all = Vec::new();
        self.run(characters, |q, k, options| {
            all.push(attention_weights(q, k, options)?);
            Ok(())
        })?;
        Ok(all)
    }

    /// The logits; `look` sees the queries and keys of every block.
    fn run(
        &self,
        characters: &Tensor,
        mut look: impl FnMut(&Tensor, &Tensor, &Attention) -> Result<()>,
    ) -> Result<Tensor> {
        let (batch, length) = characters.dims2()?;
        let rows = batch * length;
        let options = Attention { mask: Some(Mask::Causal(Align::TopLeft)), ..Attention::default() };
        let x = self.embedding.index_select(&characters.flatten_all()?, 0)?.reshape((batch, length, WIDTH))?;
        let mut x = x.broadcast_add(&self.positions.narrow(0, 0, length)?)?.reshape((rows, WIDTH))?;
        for block in &self.blocks {
            let qkv = normalised(&x, &block.norm_attention)?.matmul(&block.qkv)?;
            let qkv = qkv.reshape((batch, length, 3, HEADS, WIDTH / HEADS))?;
            // [batch, HEADS, length, WIDTH / HEADS] each, where they lie: attention takes the strides.
            let part = |index: usize| qkv.narrow(2, index, 1)?.squeeze(2)?.transpose(1, 2);
            let (q, k, v) = (part(0)?, part(1)?, part(2)?);
            look(&q, &k, &options)?;
            let seen = scaled_dot_product_attention(&q, &k, &v, &options)?;
            let seen = seen.transpose(1, 2)?.reshape((rows, WIDTH))?;
            x = (x + seen.matmul(&block.projection)?)?;
            let hidden = normalised(&x, &block.norm_network)?.matmul(&block.up)?.relu()?;
            x = (x + hidden.matmul(&block.down)?)?;
        }
        normalised(&x, &self.norm)?.matmul(&self.embedding.t()?)
    }
}

/// Every row with mean 0 and variance 1, times `weights`.
fn normalised(x: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(1)?)?;
    let variance = centred.sqr()?.mean_keepdim(1)?;
    centred.broadcast_div(&(variance + 1e-5)?.sqrt()?)?.broadcast_mul(weights)
}
