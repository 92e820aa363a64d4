//! What masks save: the tiles of queries and keys that the attention kernel skips, computes with a mask and computes without.
//! `cargo run --release --example mask_tiles [FILE.svg]`

use std::fmt::Write as _;
use sumexp::mask::{Align, Band, Bits, Entries, Pattern, Rule, TileClass};
use sumexp::{DType, Polarity, plan};

/// Queries, and as many keys.
const LENGTH: usize = 1024;

/// Every eighth query is drawn, so high.
const STEP: usize = 8;

/// A pattern and its tiles as SVG, from (`left`, `top`) on. Two positions take a pixel.
fn draw(
    svg: &mut String,
    [left, top]: [usize; 2],
    title: &str,
    pattern: &Pattern,
    tile: [usize; 2],
) -> std::fmt::Result {
    let all = pattern.tiles(0, 0, tile[0], tile[1]);
    let computed = all.full + all.mixed;
    let words = format!("{title}: {computed} of {} tiles computed, {} with a mask", computed + all.hidden, all.mixed);
    println!("{words}");
    writeln!(svg, "<g transform=\"translate({left} {top}) scale(0.5)\">")?;
    for query in (0..LENGTH).step_by(tile[0]) {
        for key in (0..LENGTH).step_by(tile[1]) {
            let colour = match pattern.class(0, 0, query..query + tile[0], key..key + tile[1]) {
                TileClass::Hidden => "#f4f4f4",
                TileClass::Mixed => "#fc9",
                TileClass::Full => "#9d9",
            };
            let [height, width] = tile;
            let size = format!("width=\"{width}\" height=\"{height}\"");
            writeln!(
                svg,
                "<rect x=\"{key}\" y=\"{query}\" {size} fill=\"{colour}\" stroke=\"white\" stroke-width=\"2\"/>"
            )?;
        }
    }
    // The visible pairs themselves: runs of keys.
    for query in (0..LENGTH).step_by(STEP) {
        let visible: Vec<bool> = (0..LENGTH).map(|key| pattern.visible(0, 0, query, key)).collect();
        let mut key = 0;
        for run in visible.chunk_by(|left, right| left == right) {
            if run[0] {
                let size = format!("width=\"{}\" height=\"{STEP}\"", run.len());
                writeln!(svg, "<rect x=\"{key}\" y=\"{query}\" {size} fill=\"#258\" opacity=\"0.35\"/>")?;
            }
            key += run.len();
        }
    }
    writeln!(svg, "<text y=\"-14\" font-size=\"26\">{words}</text></g>")
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The tiles of the kernel for f16 and heads of 64.
    let tiles = plan::attention::tiles_for(64, DType::F16);
    let tile = [tiles.queries() as usize, tiles.keys as usize];
    println!("tiles of {} queries and {} keys", tile[0], tile[1]);

    let causal = Rule::Band(Band::causal(Align::TopLeft));
    let window = Rule::Band(Band { left: Some(255), right: Some(0), align: Align::TopLeft });
    // Four documents, one behind the other.
    let document = |position: usize| [200, 520, 760].iter().filter(|end| position >= **end).count() as i32;
    let documents: Vec<i32> = (0..LENGTH).map(document).collect();
    let ids = Entries { data: &documents[..], strides: [0, 1] };
    // Neighbours, the first 64 keys, and a few blocks: what no rule says takes a byte for each pair.
    let shown = |query: usize, key: usize| {
        query.abs_diff(key) <= 64 || key < 64 || (query / 64 * 5 + key / 64 * 11).is_multiple_of(13)
    };
    let bytes: Vec<u8> = (0..LENGTH * LENGTH).map(|n| u8::from(shown(n / LENGTH, n % LENGTH))).collect();
    let pairs = Entries { data: &bytes[..], strides: [0, 0, LENGTH as u64, 1] };

    let mut svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 1110 1140\" font-family=\"sans-serif\">\n\
                   <rect width=\"1110\" height=\"1140\" fill=\"white\"/>\n"
        .to_owned();
    let masks: [(&str, &[Rule]); 4] = [
        ("causal", &[causal]),
        ("a window of 256", &[window]),
        ("causal documents", &[causal, Rule::Segments { q: ids, k: ids }]),
        ("bytes", &[Rule::Visible(Bits { bytes: pairs, polarity: Polarity::Keep })]),
    ];
    for (n, (title, rules)) in masks.into_iter().enumerate() {
        let pattern = Pattern { queries: LENGTH, keys: LENGTH, rules };
        draw(&mut svg, [25 + n % 2 * 548, 40 + n / 2 * 560], title, &pattern, tile)?;
    }
    svg += "</svg>\n";
    let file = std::env::args().nth(1).unwrap_or_else(|| "target/mask_tiles.svg".to_owned());
    std::fs::write(&file, svg)?;
    println!("picture in {file}: grey tiles are skipped, orange ones masked, green ones computed whole");
    Ok(())
}
