//! A student learns a teacher's probabilities: gradient descent on the logits themselves, in each of the directions.
//!
//! `cargo run --release --example distillation`

use sumexp::{Device, Dim, Direction, KlDivergence, SoftmaxOptions, Tensor};
use sumexp::{distillation_loss, distillation_loss_backward, softmax};

const CLASSES: usize = 8;

fn main() -> sumexp::Result<()> {
    let device = Device::cuda(0).unwrap_or(Device::cpu());
    // Two hills and a valley.
    let teacher: Vec<f32> = (0..CLASSES).map(|i| 3.0 * (i as f32 * 0.9).cos()).collect();
    let teacher = Tensor::from_slice(&device, &[1, CLASSES], &teacher)?;
    let one = Tensor::from_slice(&device, &[], &[1.0f32])?;
    print("teacher", &teacher)?;

    for (name, direction) in [
        ("forward", Direction::Forward),
        ("reverse", Direction::Reverse),
        ("Jensen-Shannon", Direction::JensenShannon { beta: 0.5 }),
    ] {
        let options = KlDivergence { direction, temperature: 2.0, ..KlDivergence::default() };
        let mut logits = vec![0.0f32; CLASSES];
        let mut student = Tensor::from_slice(&device, &[1, CLASSES], &logits)?;
        let before = distillation_loss(&student, &teacher, Dim::LAST, &options)?.to_vec()?[0];
        for _ in 0..200 {
            let slopes = distillation_loss_backward(&student, &teacher, Dim::LAST, &one, &options)?.to_vec()?;
            logits.iter_mut().zip(slopes).for_each(|(logit, slope)| *logit -= slope);
            student.copy_from_slice(&logits)?;
        }
        let after = distillation_loss(&student, &teacher, Dim::LAST, &options)?.to_vec()?[0];
        println!("{name}: loss {before:.4}, after 200 steps {after:.2e}");
        print("student", &student)?;
        assert!(after < before / 100.0, "the student has learned nothing");
        // Of a large vocabulary the teacher's first few classes are often enough: what is left of the loss there.
        let first = KlDivergence { top_k: Some(3), ..options };
        println!("  its three first: {:.2e}", distillation_loss(&student, &teacher, Dim::LAST, &first)?.to_vec()?[0]);
    }
    Ok(())
}

fn print(who: &str, logits: &Tensor<f32>) -> sumexp::Result<()> {
    let shares = softmax(logits, Dim::LAST, &SoftmaxOptions::default())?.to_vec()?;
    println!("  {who}: {}", shares.iter().map(|p| format!("{p:.3}")).collect::<Vec<_>>().join(" "));
    Ok(())
}
