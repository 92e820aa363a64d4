//! Classification with confidence: a linear classifier of points in the plane, which says how sure it is and passes on what it is
//! not sure of. `cargo run --release --example confidence`

use sumexp::{
    ConfidenceOptions, CrossEntropy, Device, Dim, Result, Tensor, argmax, confidence, cross_entropy,
    cross_entropy_backward, top_k,
};

/// Three overlapping clouds: where their centres are.
const CENTRES: [[f32; 2]; 3] = [[0.0, 1.5], [-1.3, -0.75], [1.3, -0.75]];
const CLASSES: usize = CENTRES.len();
const POINTS: usize = 600;

/// Below this probability a prediction is left to somebody else.
const SURE: f32 = 0.8;

/// The logits of points under the weights (x, y and a bias per class).
fn logits(device: &Device, points: &[[f32; 2]], weights: &[[f32; 3]; CLASSES]) -> Result<Tensor<f32>> {
    let of = |[x, y]: &[f32; 2]| weights.map(|[a, b, bias]| a * x + b * y + bias);
    let values: Vec<f32> = points.iter().flat_map(of).collect();
    Tensor::from_slice(device, &[points.len(), CLASSES], &values)
}

/// Gradient descent on the mean cross-entropy. The gradient by the logits comes from the library, the rest of the chain is two sums.
fn train(device: &Device, points: &[[f32; 2]], classes: &Tensor<i64>) -> Result<[[f32; 3]; CLASSES]> {
    let mut weights = [[0.0f32; 3]; CLASSES];
    let options = CrossEntropy::default();
    let one = Tensor::from_slice(device, &[], &[1.0f32])?;
    for step in 0..=100 {
        let x = logits(device, points, &weights)?;
        let forward = cross_entropy(&x, Dim::LAST, classes, &options)?;
        if step % 25 == 0 {
            println!("step {step:3}: loss {:.4}", forward.loss.to_vec()?[0]);
        }
        let slopes = cross_entropy_backward(&x, Dim::LAST, classes, &forward.saved, &one, &options)?.to_vec()?;
        for (point, slopes) in points.iter().zip(slopes.chunks(CLASSES)) {
            for (weights, slope) in weights.iter_mut().zip(slopes) {
                for (weight, input) in weights.iter_mut().zip([point[0], point[1], 1.0]) {
                    *weight -= slope * input;
                }
            }
        }
    }
    Ok(weights)
}

fn main() -> Result<()> {
    let device = Device::cuda(0).unwrap_or(Device::cpu());
    // Sums of uniform numbers are nearly normal; a multiplicative generator is random enough to scatter points.
    let mut state = 1u64;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    let mut scatter = |centre: f32| centre + (0..6).map(|_| uniform() - 0.5).sum::<f32>();
    let points: Vec<[f32; 2]> = (0..POINTS).map(|i| CENTRES[i % CLASSES].map(&mut scatter)).collect();
    let classes: Vec<i64> = (0..POINTS).map(|i| (i % CLASSES) as i64).collect();
    let weights = train(&device, &points, &Tensor::from_slice(&device, &[POINTS], &classes)?)?;

    let x = logits(&device, &points, &weights)?;
    let predicted = argmax(&x, Dim::LAST)?.to_vec()?;
    let sure = confidence(&x, Dim::LAST, &ConfidenceOptions::default())?.confidence.to_vec()?;
    let part = |wanted: bool| {
        let chosen: Vec<bool> =
            (0..POINTS).filter(|i| (sure[*i] >= SURE) == wanted).map(|i| predicted[i] == classes[i]).collect();
        let right = chosen.iter().filter(|right| **right).count();
        (chosen.len(), 100.0 * right as f32 / chosen.len().max(1) as f32)
    };
    println!("\nat least {SURE} sure: {} points, {:.1} % right", part(true).0, part(true).1);
    println!("less sure, passed on: {} points, {:.1} % right\n", part(false).0, part(false).1);

    // A point in a cloud, one between two, and one between all three.
    let asked = [[0.0, 2.0], [0.0, -0.9], [0.0, 0.0]];
    let x = logits(&device, &asked, &weights)?;
    let (best, sure) = (top_k(&x, Dim::LAST, 2)?, confidence(&x, Dim::LAST, &ConfidenceOptions::default())?);
    let (best, confidence) = (best.indices.to_vec()?, sure.confidence.to_vec()?);
    let (margin, entropy) = (sure.margin.to_vec()?, sure.entropy.to_vec()?);
    for (i, point) in asked.iter().enumerate() {
        println!(
            "{point:?}: class {} before {}, confidence {:.3}, margin {:.3}, entropy {:.3} of {:.3}",
            best[2 * i],
            best[2 * i + 1],
            confidence[i],
            margin[i],
            entropy[i],
            (CLASSES as f32).ln()
        );
    }
    Ok(())
}
