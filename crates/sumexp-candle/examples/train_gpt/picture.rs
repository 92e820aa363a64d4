//! The loss curve as an SVG file, and the progress bar.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::Path;
use std::time::Instant;

/// A horizontal line to compare with: its height and what it means.
pub struct Level {
    pub bits: f64,
    pub label: String,
}

/// Draws `curve` (step, bits per character) over `levels`.
pub fn draw(curve: &[(usize, f64)], held_out: &[(usize, f64)], levels: &[Level]) -> String {
    const SIZE: (f64, f64) = (720.0, 400.0);
    const MARGIN: (f64, f64) = (56.0, 40.0);
    let last = curve.last().map_or(1, |(step, _)| *step).max(1) as f64;
    let heights = curve.iter().chain(held_out).map(|(_, bits)| *bits).chain(levels.iter().map(|level| level.bits));
    let (low, high) = heights.fold((f64::INFINITY, 0.0_f64), |(low, high), bits| (low.min(bits), high.max(bits)));
    let (low, high) = (low.floor(), high.ceil().max(low.floor() + 1.0));
    let x = |step: f64| MARGIN.0 + step / last * (SIZE.0 - 2.0 * MARGIN.0);
    let y = |bits: f64| MARGIN.1 + (high - bits) / (high - low) * (SIZE.1 - 2.0 * MARGIN.1);

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {h}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{w}\" height=\"{h}\" fill=\"white\"/>\n",
        w = SIZE.0,
        h = SIZE.1
    );
    let mut text = |x: f64, y: f64, anchor: &str, text: &str| {
        let escaped = text.replace('&', "&amp;").replace('<', "&lt;");
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{escaped}</text>").unwrap();
    };
    text(SIZE.0 / 2.0, 22.0, "middle", "loss in bits per character");
    text(SIZE.0 / 2.0, SIZE.1 - 8.0, "middle", "training steps");
    for bits in low as i32..=high as i32 {
        text(MARGIN.0 - 8.0, y(f64::from(bits)) + 4.0, "end", &bits.to_string());
    }
    for quarter in 0..=4 {
        let step = last * f64::from(quarter) / 4.0;
        text(x(step), SIZE.1 - MARGIN.1 + 16.0, "middle", &format!("{step:.0}"));
    }
    for level in levels {
        text(SIZE.0 - MARGIN.0, y(level.bits) - 5.0, "end", &level.label);
    }
    text(SIZE.0 - MARGIN.0, MARGIN.1 + 4.0, "end", "grey: each training batch; black: held-out text");
    for bits in low as i32..=high as i32 {
        let y = y(f64::from(bits));
        writeln!(svg, "<path d=\"M{} {y:.1}H{}\" stroke=\"#ddd\"/>", MARGIN.0, SIZE.0 - MARGIN.0).unwrap();
    }
    for level in levels {
        let y = y(level.bits);
        let (left, right) = (MARGIN.0, SIZE.0 - MARGIN.0);
        writeln!(svg, "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#a33\" stroke-dasharray=\"5 4\"/>").unwrap();
    }
    for (points, color, width) in [(curve, "#999", 1.0), (held_out, "#000", 2.0)] {
        let points: Vec<String> =
            points.iter().map(|(step, bits)| format!("{:.1},{:.1}", x(*step as f64), y(*bits))).collect();
        let points = points.join(" ");
        writeln!(svg, "<polyline points=\"{points}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"{width}\"/>")
            .unwrap();
    }
    svg + "</svg>\n"
}

/// Writes a whole file or none: an interrupt never leaves half of one.
pub fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let part = path.with_extension("part");
    std::fs::write(&part, text)?;
    std::fs::rename(&part, path)
}

/// A bar on a terminal, a line for every tenth elsewhere. Never hides the cursor, so an interrupt leaves nothing odd.
pub struct Progress {
    total: usize,
    begun: usize,
    start: Instant,
    terminal: bool,
    shown: usize,
}

impl Progress {
    /// Of `total` steps, `begun` were done by an earlier run.
    pub fn new(begun: usize, total: usize) -> Progress {
        Progress { total, begun, start: Instant::now(), terminal: std::io::stderr().is_terminal(), shown: 0 }
    }

    /// Shows that `done` steps of `tokens` each are done; `note` is what to say beside the bar.
    pub fn show(&mut self, done: usize, tokens: usize, note: &str) {
        let parts = if self.terminal { 200 } else { 10 };
        let part = done * parts / self.total;
        if part == self.shown {
            return;
        }
        self.shown = part;
        let seconds = self.start.elapsed().as_secs_f64();
        let here = (done - self.begun) as f64;
        let (left, rate) = (seconds / here * (self.total - done) as f64, here * tokens as f64 / seconds);
        let filled = 30 * done / self.total;
        let bar = "#".repeat(filled) + &".".repeat(30 - filled);
        let line = format!("[{bar}] {done}/{} {note}  {rate:.0} tokens/s  {left:3.0} s left", self.total);
        // A closed stderr is no reason to stop training.
        let mut stderr = std::io::stderr();
        let _ = if self.terminal { write!(stderr, "\r{line}\x1b[K") } else { writeln!(stderr, "{line}") };
        if self.terminal && done == self.total {
            let _ = writeln!(stderr);
        }
    }
}
