//! The page of text.

use super::{ExplainedKernel, ExplainedPass, Explanation, RejectedPlan};
use std::fmt;

/// A number with a prefix for a power of ten: `1.07 G`.
struct Decimal(u64);

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefixes = [(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
        let value = self.0 as f64;
        match prefixes.into_iter().find(|(power, _)| value >= *power) {
            Some((power, prefix)) => write!(f, "{:.2} {prefix}", value / power),
            None => write!(f, "{} ", self.0),
        }
    }
}

/// The percentage that one number is of another.
fn percent(part: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { 100.0 * part as f64 / all as f64 }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.call)?;
        let Self { pairs, visible, .. } = self;
        writeln!(
            f,
            "{visible} of {pairs} pairs of a query and a key are visible ({:.1} %)",
            percent(*visible, *pairs)
        )?;
        write!(f, "forward: {}backward: {}", self.forward, self.backward)
    }
}

impl fmt::Display for ExplainedPass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (flops, executed, bytes) = (Decimal(self.flops), Decimal(self.executed_flops()), Decimal(self.bytes));
        writeln!(f, "{flops}FLOP for what is visible, {executed}FLOP on tensor cores; {bytes}B at least")?;
        for kernel in &self.kernels {
            writeln!(f, "  {kernel}")?;
        }
        if self.kernels.is_empty() {
            writeln!(f, "  nothing to launch")?;
        }
        if self.workspace > 0 {
            writeln!(f, "  workspace: {}B", Decimal(self.workspace))?;
        }
        self.rejected.iter().try_for_each(|rejected| writeln!(f, "  not {rejected}"))
    }
}

impl fmt::Display for ExplainedKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { symbol, grid: [x, y, z], threads, shared, plan, .. } = self;
        write!(f, "{symbol}<<<({x}, {y}, {z}), {threads}, {shared}>>>: {plan}")?;
        if let Some(tiles) = &self.tiles {
            let (computed, all) = (tiles.computed(), tiles.computed() + tiles.skipped);
            write!(
                f,
                "\n    {computed} of {all} tiles computed, {} with a mask, {} skipped",
                tiles.masked, tiles.skipped
            )?;
            write!(f, "; {}FLOP, {}B asked for", Decimal(self.flops), Decimal(self.bytes_read))?;
        }
        Ok(())
    }
}

impl fmt::Display for RejectedPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.plan, self.reason)
    }
}
