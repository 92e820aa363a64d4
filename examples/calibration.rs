//! Calibration: a classifier that claims too much, the temperature that corrects it, and reliability diagrams of both.
//! `cargo run --release --example calibration [FILE.svg]`

use std::fmt::Write as _;
use sumexp::{
    CalibrationError, CalibrationOptions, Device, Dim, FitTemperature, Tensor, expected_calibration_error,
    fit_temperature,
};

const CLASSES: usize = 4;
const ROWS: usize = 4000;

/// What the classifier multiplies its logits by: at this temperature its claims would be right.
const TOO_SURE: f64 = 2.5;

/// SplitMix64, uniform in [0, 1).
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Logits that are too large, and classes drawn from the probabilities that would have been right.
fn claims(device: &Device, random: &mut Random) -> sumexp::Result<(Tensor<f32>, Tensor<i64>)> {
    let (mut logits, mut classes) = (Vec::new(), Vec::new());
    for _ in 0..ROWS {
        let honest: [f64; CLASSES] = std::array::from_fn(|_| 5.0 * random.unit() - 2.5);
        let weights = honest.map(f64::exp);
        let mut left = random.unit() * weights.iter().sum::<f64>();
        let class = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        classes.push(class.unwrap_or(0) as i64);
        logits.extend(honest.map(|logit| (TOO_SURE * logit) as f32));
    }
    Ok((Tensor::from_slice(device, &[ROWS, CLASSES], &logits)?, Tensor::from_slice(device, &[ROWS], &classes)?))
}

/// A diagram as SVG, from `left` on: bars of accuracy over confidence, and the diagonal on which they should end.
fn draw(svg: &mut String, left: f64, title: &str, error: &CalibrationError) {
    const SIZE: f64 = 260.0;
    let (bottom, width) = (SIZE + 50.0, SIZE / error.bins.len() as f64);
    let mut line = |text: String| writeln!(svg, "{text}").expect("a string has room");
    line(format!("<text x=\"{:.0}\" y=\"30\" text-anchor=\"middle\">{title}</text>", left + SIZE / 2.0));
    for (i, bin) in error.bins.iter().enumerate().filter(|(_, bin)| bin.count > 0) {
        let (x, height) = (left + i as f64 * width, SIZE * bin.accuracy);
        let (y, width) = (bottom - height, width - 2.0);
        line(format!("<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"#47a\"/>"));
        let claim = bottom - SIZE * bin.confidence;
        line(format!("<path d=\"M{x:.1} {claim:.1}h{width:.1}\" stroke=\"#a33\" stroke-width=\"2\"/>"));
    }
    let (right, top) = (left + SIZE, bottom - SIZE);
    line(format!("<path d=\"M{left} {bottom}L{right} {top}\" stroke=\"#999\" stroke-dasharray=\"5 4\"/>"));
    line(format!("<path d=\"M{left} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"black\"/>"));
    let caption = "confidence (red) and accuracy (blue)";
    line(format!(
        "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{caption}</text>",
        left + SIZE / 2.0,
        bottom + 20.0
    ));
}

/// The same for a terminal.
fn print(error: &CalibrationError) {
    println!("  confidence  accuracy   rows");
    for bin in error.bins.iter().filter(|bin| bin.count > 0) {
        let bar = "#".repeat((40.0 * bin.accuracy).round() as usize);
        println!("  {:10.3}  {:8.3}  {:5}  {bar}", bin.confidence, bin.accuracy, bin.count);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::cuda(0).unwrap_or(Device::cpu());
    let mut random = Random(1);
    // The temperature is fitted on rows that are not those it is judged by.
    let (held_out, held_out_classes) = claims(&device, &mut random)?;
    let temperature = fit_temperature(&held_out, Dim::LAST, &held_out_classes, &FitTemperature::default())?;
    println!("fitted temperature: {temperature:.3} (the logits are {TOO_SURE} times too large)");

    let (logits, classes) = claims(&device, &mut random)?;
    let options = CalibrationOptions { bins: 10, ..CalibrationOptions::default() };
    let before = expected_calibration_error(&logits, Dim::LAST, &classes, &options)?;
    let options = CalibrationOptions { temperature, ..options };
    let after = expected_calibration_error(&logits, Dim::LAST, &classes, &options)?;
    for (when, error) in [("as it is", &before), ("with the temperature", &after)] {
        println!("\n{when}: expected calibration error {:.4}", error.ece);
        print(error);
    }

    let mut svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 660 350\" font-family=\"sans-serif\" font-size=\"12\">\n\
                   <rect width=\"660\" height=\"350\" fill=\"white\"/>\n"
        .to_owned();
    draw(&mut svg, 40.0, &format!("as it is: error {:.4}", before.ece), &before);
    draw(&mut svg, 360.0, &format!("temperature {temperature:.2}: error {:.4}", after.ece), &after);
    svg += "</svg>\n";
    let file = std::env::args().nth(1).unwrap_or_else(|| "target/reliability.svg".to_owned());
    std::fs::write(&file, svg)?;
    println!("\ndiagrams in {file}");
    Ok(())
}
