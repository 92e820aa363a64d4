//! Where the heads look, as an SVG file: a grid per block and head, a row for each character, a column for each one it sees.

use std::fmt::Write as _;

/// Side of a cell.
const CELL: usize = 7;

/// Draws `weights` `[heads, length, length]` of every block over the characters of a line.
pub fn draw(line: &[char], blocks: &[Vec<Vec<Vec<f32>>>]) -> String {
    let side = CELL * line.len();
    let heads = blocks.first().map_or(0, Vec::len);
    let (width, height) = (heads * (side + 40) + 20, blocks.len() * (side + 60) + 20);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"monospace\" \
         font-size=\"{CELL}\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (block, grids) in blocks.iter().enumerate() {
        for (head, grid) in grids.iter().enumerate() {
            let (left, top) = (30 + head * (side + 40), 45 + block * (side + 60));
            writeln!(svg, "<g transform=\"translate({left} {top})\">").unwrap();
            writeln!(svg, "<text y=\"-18\" font-size=\"12\">block {}, head {}</text>", block + 1, head + 1).unwrap();
            for (n, c) in line.iter().enumerate().filter(|(_, c)| !c.is_whitespace()) {
                let letter = match c {
                    '&' => "&amp;".to_string(),
                    '<' => "&lt;".to_string(),
                    c => c.to_string(),
                };
                let place = CELL * n;
                writeln!(svg, "<text x=\"-7\" y=\"{}\">{letter}</text>", place + CELL - 1).unwrap();
                writeln!(svg, "<text x=\"{}\" y=\"-3\">{letter}</text>", place + 1).unwrap();
            }
            for (row, weights) in grid.iter().enumerate() {
                // Weights too small to be seen take no space in the file.
                for (column, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight >= 0.01) {
                    let (x, y) = (CELL * column, CELL * row);
                    writeln!(
                        svg,
                        "<rect x=\"{x}\" y=\"{y}\" width=\"{CELL}\" height=\"{CELL}\" fill=\"#258\" opacity=\"{weight:.2}\"/>"
                    )
                    .unwrap();
                }
            }
            writeln!(svg, "<path d=\"M0 0V{side}H{side}V0Z\" fill=\"none\" stroke=\"#999\"/></g>").unwrap();
        }
    }
    svg + "</svg>\n"
}
