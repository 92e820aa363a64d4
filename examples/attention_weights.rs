//! Where heads look: three made by hand read a line of text, and a heat map shows the weights of their attention.
//! `cargo run --release --example attention_weights [FILE.svg]`

use std::fmt::Write as _;
use sumexp::attention::{Attention, forward, weights};
use sumexp::mask::Align;
use sumexp::{Device, Mask, Tensor};

const TEXT: &[u8] = b"the cat sat on the mat, the cat ran to the man";
const SIZE: usize = 64;
const HEADS: [&str; 3] = ["the same letter", "what followed the letter", "what followed the two letters"];

/// A direction for a letter, nearly orthogonal to those of others and of other `places`: signs from SplitMix64. Nothing before the
/// beginning.
fn letter(place: u64, position: Option<usize>) -> [f32; SIZE] {
    let Some(position) = position else { return [0.0; SIZE] };
    let mut bits = (u64::from(TEXT[position]) << 8 | place).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    std::array::from_fn(|n| if bits >> n & 1 == 1 { 1.0 } else { -1.0 })
}

/// What is asked for at a position, or found there: the letters that are `back` positions before it, each with its place.
fn row(position: usize, back: &[usize]) -> [f32; SIZE] {
    let mut row = [0.0; SIZE];
    for (place, back) in back.iter().enumerate() {
        let letter = letter(place as u64, position.checked_sub(*back));
        row.iter_mut().zip(letter).for_each(|(sum, x)| *sum += x);
    }
    row
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::cuda(0).unwrap_or(Device::cpu());
    let dims = [1, HEADS.len(), TEXT.len(), SIZE];
    let tensor = |back: [&[usize]; 3]| {
        let rows = back.into_iter().flat_map(|back| (0..TEXT.len()).flat_map(move |position| row(position, back)));
        Tensor::from_slice(&device, &dims, &rows.collect::<Vec<f32>>())
    };
    // A query asks for this letter, or these two; a key has that of its own position, or those before it.
    let q = tensor([&[0], &[0], &[0, 1]])?;
    let k = tensor([&[0], &[1], &[1, 2]])?;
    let options = Attention { mask: Mask::Causal(Align::TopLeft), ..Attention::default() };
    // The lse of the forward pass makes weights of scores, for any rows of interest; here for all.
    let lse = forward(&q, &k, &k, &options)?.lse;
    let weights = weights(&q, &k, &lse, 0..TEXT.len(), &options)?.to_vec()?;

    let side = 10 * TEXT.len();
    let (width, height) = (HEADS.len() * (side + 40) + 20, side + 80);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"monospace\">\n"
    );
    writeln!(svg, "<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>")?;
    for (head, (title, weights)) in HEADS.iter().zip(weights.chunks(TEXT.len() * TEXT.len())).enumerate() {
        let left = 35 + head * (side + 40);
        writeln!(svg, "<g transform=\"translate({left} 50)\"><text y=\"-25\" font-size=\"16\">{title}</text>")?;
        for (n, byte) in TEXT.iter().enumerate() {
            let (letter, place) = (char::from(*byte), 10 * n + 8);
            writeln!(svg, "<text x=\"-10\" y=\"{place}\" font-size=\"10\">{letter}</text>")?;
            writeln!(svg, "<text x=\"{}\" y=\"-4\" font-size=\"10\">{letter}</text>", 10 * n + 2)?;
        }
        // Weights too small to be seen take no space in the file.
        for (n, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight >= 0.005) {
            let (x, y) = (n % TEXT.len() * 10, n / TEXT.len() * 10);
            writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"10\" height=\"10\" fill=\"#258\" opacity=\"{weight:.3}\"/>"
            )?;
        }
        writeln!(svg, "<path d=\"M0 0V{side}H{side}V0Z\" fill=\"none\" stroke=\"#999\"/></g>")?;
        let last = &weights[weights.len() - TEXT.len()..];
        let most = (0..TEXT.len()).max_by(|a, b| last[*a].total_cmp(&last[*b])).expect("a letter");
        let (before, found) = (String::from_utf8_lossy(&TEXT[..most]), char::from(TEXT[most]));
        println!("{title}: at the end {:.2} of the weight is on the \"{found}\" after \"{before}\"", last[most]);
    }
    svg += "</svg>\n";
    let file = std::env::args().nth(1).unwrap_or_else(|| "target/attention_weights.svg".to_owned());
    std::fs::write(&file, svg)?;
    println!("heat map in {file}: a row for each query, a column for each key");
    Ok(())
}
