//! The table: one line per main loop, as people read it and as the comparison does.

use crate::listing::Instruction;
use crate::model::{Class, Machine, Unit};
use std::collections::BTreeMap;

/// Architecture, kernel, and which of its main loops.
pub type Key = (String, String, usize);

/// What one way round a loop consists of, and how long it keeps each unit busy, in clocks of a multiprocessor for four warps.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub counts: [f64; Class::ALL.len()],
    pub clocks: [f64; Unit::ALL.len()],
}

pub type Table = BTreeMap<Key, Line>;

impl Line {
    pub fn of(way: &[Instruction], machine: &Machine) -> Line {
        let mut line = Line { counts: [0.0; _], clocks: [0.0; _] };
        for instruction in way {
            let class = Class::of(instruction);
            let class = class.unwrap_or_else(|| panic!("tests/sass/model.rs does not know {}", instruction.opcode));
            line.counts[class as usize] += 1.0;
            for (unit, clocks) in machine.clocks(instruction) {
                line.clocks[unit as usize] += clocks;
            }
        }
        let products = line.clocks[Unit::Tensor as usize] > 0.0;
        line.clocks[Unit::Memory as usize] /= machine.bytes(products);
        line.clocks = line.clocks.map(f64::round);
        line
    }

    fn longest(&self) -> f64 {
        self.clocks.into_iter().fold(0.0, f64::max)
    }

    /// What is compared, over the clocks of the unit that should limit the loop: tensor cores if it has products, else memory.
    fn compared(&self) -> [(&'static str, f64); 3] {
        let of = |unit: Unit| self.clocks[unit as usize];
        let least = if of(Unit::Tensor) > 0.0 { of(Unit::Tensor) } else { of(Unit::Memory) }.max(1.0);
        [("the longest", self.longest()), ("issue", of(Unit::Issue)), ("shared memory", of(Unit::Shared))]
            .map(|(name, clocks)| (name, clocks / least))
    }
}

/// As Markdown. The unit that takes longest is bold.
pub fn print(table: &Table) -> String {
    let names = Class::ALL.iter().map(|(_, name)| *name).chain(Unit::ALL.iter().map(|(_, name)| *name));
    let names: Vec<&str> = names.collect();
    let mut page = format!("| arch | kernel | loop | {} |\n|{}\n", names.join(" | "), " --- |".repeat(names.len() + 3));
    for ((arch, kernel, number), line) in table {
        let counts = line.counts.iter().map(|count| format!("{count}"));
        let clocks = line.clocks.iter().map(|clocks| match *clocks {
            clocks if clocks == line.longest() => format!("**{clocks}**"),
            clocks => format!("{clocks}"),
        });
        let figures: Vec<String> = counts.chain(clocks).collect();
        page += &format!("| {arch} | {kernel} | {number} | {} |\n", figures.join(" | "));
    }
    page
}

/// What [`print()`] wrote, wherever it stands on a page.
pub fn read(page: &str) -> Table {
    let mut table = Table::new();
    for line in page.lines().filter(|line| line.starts_with("| sm_")) {
        let fields: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [arch, kernel, number, figures @ ..] = &fields[..] else { continue };
        let figures: Option<Vec<f64>> = figures.iter().map(|text| text.trim_matches('*').parse().ok()).collect();
        let Some((counts, clocks)) = figures.as_deref().and_then(|figures| figures.split_at_checked(Class::ALL.len()))
        else {
            continue;
        };
        if let (Ok(number), Ok(counts), Ok(clocks)) = (number.parse(), counts.try_into(), clocks.try_into()) {
            table.insert((arch.to_string(), kernel.to_string(), number), Line { counts, clocks });
        }
    }
    table
}

/// What of `new` is worse than in `old`, or not there.
pub fn worse(old: &Table, new: &Table) -> Vec<String> {
    let mut all = Vec::new();
    for (key @ (arch, kernel, number), line) in new {
        let Some(known) = old.get(key) else {
            all.push(format!("{kernel}, loop {number} on {arch}: not in the table"));
            continue;
        };
        for ((name, new), (_, old)) in line.compared().into_iter().zip(known.compared()) {
            // A few instructions more or less are the compiler's mood.
            if new > old * 1.01 + 0.001 {
                all.push(format!(
                    "{kernel}, loop {number} on {arch}: {name} takes {new:.3} of what it should wait for, was {old:.3}"
                ));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::snippet;

    fn line(text: &str) -> Line {
        Line::of(&snippet(text).code, Machine::of("sm_90a"))
    }

    fn of(line: Line) -> Table {
        Table::from([(("sm_90a".to_string(), "kernel".to_string(), 1), line)])
    }

    #[test]
    fn a_way_is_summed_up() {
        let line =
            line("HGMMA.64x128x16.F32 R24, gdesc[UR8], R24\nMUFU.EX2 R4, R4\nMUFU.EX2 R5, R5\nLDG.E R4, [R2.64]");
        let counts: Vec<_> = Class::ALL.iter().zip(line.counts).filter(|(_, n)| *n > 0.0).collect();
        let expected =
            [((Class::Tensor, "tensor"), 1.0), ((Class::Special, "MUFU"), 2.0), ((Class::Global, "global"), 1.0)];
        assert_eq!(counts, expected.each_ref().map(|(class, n)| (class, *n)));
        // Issue, tensor cores, MUFU, FMA, ALU, shared memory with the L1, the L2.
        assert_eq!(line.clocks, [4.0, 64.0, 16.0, 0.0, 0.0, 52.0, 8.0]);
        // What has no products waits for memory: 2 KB at 20.8 bytes a clock.
        assert_eq!(self::line("LDG.E.128 R4, [R2.64]").clocks[6], 99.0);
    }

    #[test]
    fn what_is_printed_is_read_again() {
        let table = of(line("HGMMA.64x128x16.F32 R24, gdesc[UR8], R24\nMUFU.EX2 R4, R4"));
        let page = print(&table);
        assert!(page.contains("| **64** |"), "{page}");
        assert_eq!(read(&format!("# A title\n\n{page}\n| sm_80 | not | a | line |\n")), table);
    }

    #[test]
    fn every_way_to_be_worse_is_noticed() {
        let products = "HGMMA.64x128x16.F32 R24, gdesc[UR8], R24\n";
        let slower = |text: &str, known: &str| worse(&of(line(known)), &of(line(text)));
        let with = |text: &str, times| products.to_string() + &text.repeat(times);
        let issue = slower(&with("NOP\n", 9), products);
        assert_eq!(issue.len(), 1);
        assert!(issue[0].contains("issue takes 0.156 of what it should wait for, was 0.016"), "{issue:?}");
        let shared = slower(&with("LDS.128 R4, [R2]\n", 1), products);
        assert!(shared.iter().any(|text| text.contains("shared memory takes 1.000")), "{shared:?}");
        let special = slower(&with("MUFU.EX2 R4, R4\n", 9), &with("NOP\n", 9));
        assert!(special.iter().any(|text| text.contains("the longest takes 1.125")), "{special:?}");
        // Twice the work in twice the time, and less of something, is no worse.
        assert!(slower(&with("", 0).repeat(2), products).is_empty());
        assert!(slower(products, &with("NOP\n", 9)).is_empty());
        assert_eq!(worse(&Table::new(), &of(line(products))), ["kernel, loop 1 on sm_90a: not in the table"]);
        assert!(worse(&of(line(products)), &Table::new()).is_empty(), "a kernel that is not built");
    }
}
