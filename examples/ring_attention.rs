//! A sequence too long for one GPU: each of several devices has a part of the queries, keys and values. Keys and values go round in a
//! ring, every device attends to what it has at the moment, and the results are merged. `cargo run --release --example ring_attention`
//!
//! Without as many GPUs as parts, streams of one GPU or the host take their places.

use sumexp::attention::{Attention, AttentionOutput, forward, merge};
use sumexp::mask::Align;
use sumexp::{Device, Dim, Mask, Result, Tensor, View};

const PARTS: usize = 4;
/// Positions of a part.
const LENGTH: usize = 256;
const HEADS: usize = 2;
const SIZE: usize = 64;

/// Any numbers: smooth, and different for every row.
fn wave(device: &Device, phase: f32) -> Result<Tensor<f32>> {
    let length = PARTS * LENGTH;
    let values: Vec<f32> = (0..HEADS * length * SIZE).map(|i| (i as f32 * 0.37 + phase).sin()).collect();
    Tensor::from_slice(device, &[1, HEADS, length, SIZE], &values)
}

/// The positions of a part, copied to where it lives.
fn part(whole: View<f32>, number: usize, device: &Device) -> Result<Tensor<f32>> {
    let positions = whole.slice(Dim::front(2), number * LENGTH..(number + 1) * LENGTH)?;
    Tensor::from_slice(device, &[1, HEADS, LENGTH, SIZE], &positions.to_vec()?)
}

fn main() -> Result<()> {
    let main = Device::cuda(0).unwrap_or(Device::cpu());
    let device = |n: usize| Device::cuda(n).or_else(|_| main.with_new_stream()).unwrap_or(Device::cpu());
    let devices: Vec<Device> = (0..PARTS).map(device).collect();
    let [q, k, v] = [wave(&main, 0.1)?, wave(&main, 2.0)?, wave(&main, 4.0)?];

    let of_part = |x: &Tensor<f32>| (0..PARTS).map(|n| part(x.view(), n, &devices[n])).collect::<Result<Vec<_>>>();
    let queries = of_part(&q)?;
    let mut ring: Vec<_> = of_part(&k)?.into_iter().zip(of_part(&v)?).collect();
    // Who has seen no key yet.
    let empty = |device| AttentionOutput::<f32>::empty(device, &[1, HEADS, LENGTH, SIZE]);
    let mut outputs = devices.iter().map(empty).collect::<Result<Vec<_>>>()?;

    let whole = Attention::default();
    let diagonal = Attention { mask: Mask::Causal(Align::TopLeft), ..whole };
    for round in 0..PARTS {
        for n in 0..PARTS {
            // Whose keys are here after so many rounds. Earlier ones are visible, one's own are causal, later ones are hidden.
            let owner = (n + PARTS - round) % PARTS;
            if owner <= n {
                let (k, v) = &ring[n];
                let seen = forward(&queries[n], k, v, if owner == n { &diagonal } else { &whole })?;
                outputs[n] = merge(&outputs[n], &seen)?;
            }
        }
        let next = |n: usize| -> Result<(Tensor<f32>, Tensor<f32>)> {
            let (k, v) = &ring[(n + PARTS - 1) % PARTS];
            Ok((k.to_device(&devices[n])?, v.to_device(&devices[n])?))
        };
        ring = (0..PARTS).map(next).collect::<Result<_>>()?;
    }

    // The same on one device.
    let want = forward(&q, &k, &v, &diagonal)?;
    let mut largest = 0f32;
    for (n, output) in outputs.iter().enumerate() {
        let positions = want.out.view().slice(Dim::front(2), n * LENGTH..(n + 1) * LENGTH)?;
        let differences =
            output.out.to_vec()?.into_iter().zip(positions.to_vec()?).map(|(got, want)| (got - want).abs());
        largest = differences.fold(largest, f32::max);
    }
    println!("{PARTS} parts of {LENGTH} positions: within {largest:.1e} of one device");
    assert!(largest < 1e-5);
    Ok(())
}
