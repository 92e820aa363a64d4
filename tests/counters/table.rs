//! The table: one line per call and kernel, as people read it and as the comparison does.

use std::collections::BTreeMap;

/// What is counted, and whether it depends on the compiler that made the PTX.
pub const COLUMNS: [(&str, bool); 15] = [
    ("bytes / least", false),
    ("sectors / bytes asked for", false),
    ("bank conflicts", false),
    ("float", true),
    ("int", true),
    ("special", true),
    ("memory", true),
    ("warp", true),
    ("control", true),
    ("instructions", true),
    ("of the budget", true),
    ("products / needed", false),
    ("barriers per block", true),
    ("registers", true),
    ("warps that do not fit", true),
];

/// A line's figures; `None` where one means nothing.
pub type Figures = [Option<f64>; COLUMNS.len()];

/// The lines, by call and kernel.
pub type Table = BTreeMap<(String, String), Figures>;

fn text(figure: Option<f64>) -> String {
    match figure {
        None => "–".to_string(),
        Some(x) if x == x.trunc() && x.abs() < 1e15 => format!("{x}"),
        Some(x) if x.abs() >= 100.0 => format!("{x:.0}"),
        Some(x) => format!("{x:.3}"),
    }
}

/// As Markdown.
pub fn print(table: &Table) -> String {
    let head: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
    let mut page = format!("| call | kernel | {} |\n|{}\n", head.join(" | "), " --- |".repeat(COLUMNS.len() + 2));
    for ((call, kernel), figures) in table {
        let figures: Vec<String> = figures.iter().map(|figure| text(*figure)).collect();
        page += &format!("| {call} | {kernel} | {} |\n", figures.join(" | "));
    }
    page
}

/// What [`print()`] wrote, wherever it stands on a page.
pub fn read(page: &str) -> Table {
    let mut table = Table::new();
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        let fields: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [call, kernel, figures @ ..] = &fields[..] else { continue };
        let numbers: Vec<Option<f64>> = figures.iter().map(|text| text.parse().ok()).collect();
        if let Ok(figures) = Figures::try_from(numbers)
            && figures.iter().any(Option::is_some)
        {
            table.insert((call.to_string(), kernel.to_string()), figures);
        }
    }
    table
}

/// What of `new` is worse than in `old`, or not there. `compiled_alike` says whether what depends on the compiler can be compared.
pub fn worse(old: &Table, new: &Table, compiled_alike: bool) -> Vec<String> {
    let mut all = Vec::new();
    for (key @ (call, kernel), figures) in new {
        let Some(known) = old.get(key) else {
            all.push(format!("{call}, {kernel}: not in the table"));
            continue;
        };
        for (((name, of_compiler), figure), known) in COLUMNS.iter().zip(figures).zip(known) {
            // As it would be printed: the other one was.
            let figure: Option<f64> = text(*figure).parse().ok();
            let more = |a: f64, b: f64| a > b * 1.002 + 0.001;
            let is_worse = match (figure, known) {
                (Some(figure), Some(known)) => more(figure, *known),
                (figure, known) => figure.is_some() != known.is_some(),
            };
            if is_worse && (compiled_alike || !of_compiler) {
                all.push(format!("{call}, {kernel}: {name} is {}, was {}", text(figure), text(*known)));
            }
        }
    }
    all
}

#[test]
fn what_is_printed_is_read_again() {
    let mut figures: Figures = [None; COLUMNS.len()];
    (figures[0], figures[3], figures[13], figures[14]) = (Some(1.0), Some(2.3456), Some(100.49), Some(1234.5));
    let table = Table::from([(("softmax f32 [2, 3]".to_string(), "softmax_f32_1x1".to_string()), figures)]);
    let again = read(&format!("# A title\n\n{}\n| not | a | line |\n", print(&table)));
    assert_eq!(again.len(), 1);
    let read = again.values().next().unwrap();
    assert_eq!((read[0], read[1], read[3], read[14]), (Some(1.0), None, Some(2.346), Some(1234.0)));
    assert!(worse(&again, &table, true).is_empty(), "rounding is not worse");
}

#[test]
fn every_way_to_be_worse_is_noticed() {
    let key = ("call".to_string(), "kernel".to_string());
    let of = |figures: Figures| Table::from([(key.clone(), figures)]);
    let base = [Some(2.0); COLUMNS.len()];
    for (at, (name, of_compiler)) in COLUMNS.iter().enumerate() {
        for (figure, is_worse) in [(Some(2.1), true), (None, true), (Some(1.9), false), (Some(2.0), false)] {
            let mut figures = base;
            figures[at] = figure;
            let found = worse(&of(base), &of(figures), true);
            assert_eq!(found.len(), usize::from(is_worse), "{name}: {found:?}");
            assert!(found.iter().all(|text| text.contains(name) && text.contains("was 2")), "{found:?}");
            assert_eq!(worse(&of(base), &of(figures), false).len(), usize::from(is_worse && !of_compiler), "{name}");
        }
    }
    assert_eq!(worse(&Table::new(), &of(base), true), ["call, kernel: not in the table"]);
    assert!(worse(&of(base), &Table::new(), true).is_empty(), "a kernel that is not built");
}
