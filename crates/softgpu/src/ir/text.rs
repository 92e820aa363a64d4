//! What reports say about an instruction: its place in the source and the statement it came from.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use crate::ptx::{Function, Module};

/// The statements of one kernel and of the functions it calls. Places and texts are put together only when a report asks
/// for them.
#[derive(Clone, Default)]
pub struct Text {
    /// The text of the bodies.
    body: String,
    /// Each distinct place.
    places: Vec<String>,
    /// Per instruction: its place, and start and end of its text; an empty text at the end of a function.
    statements: Vec<(u32, u32, u32)>,
    /// The same put together: every launch needs them for its counters.
    lines: OnceLock<Vec<[Arc<str>; 2]>>,
}

impl Text {
    /// Adds the statements of `function` and its end.
    pub fn add(&mut self, module: &Module, function: &Function, kernel: bool) {
        let start = function.statements.first().map_or(0, |s| s.span.0);
        let end = function.statements.last().map_or(0, |s| s.span.1);
        let base = self.body.len() as u32;
        self.body += module.source.get(start as usize..end as usize).unwrap_or("");
        // Without line information, the name tells where in the program a device function's statement is.
        let suffix = if kernel { String::new() } else { format!(" in {}", function.name) };
        let mut seen = HashMap::new();
        for statement in &function.statements {
            // Without a place, the line of the PTX tells statements apart.
            let key = if statement.place.0 == 0 { (0, statement.line) } else { (statement.place.0, 0) };
            let place = *seen.entry(key).or_insert_with(|| {
                self.places.push(module.place(function, statement) + &suffix);
                self.places.len() as u32 - 1
            });
            self.statements.push((place, base + statement.span.0 - start, base + statement.span.1 - start));
        }
        if self.places.is_empty() {
            self.places.push(String::new());
        }
        self.statements.push((self.places.len() as u32 - 1, 0, 0));
    }

    /// `file.cu:line` and the statement of instruction `pc`.
    pub fn at(&self, pc: u32) -> (String, String) {
        let Some((place, start, end)) = self.statements.get(pc as usize) else { return Default::default() };
        if start == end {
            return (self.places[*place as usize].clone(), "the end of the function".into());
        }
        let words: Vec<&str> = self.body.get(*start as usize..*end as usize).unwrap_or("").split_whitespace().collect();
        (self.places[*place as usize].clone(), words.join(" "))
    }

    /// The same for all of `count` instructions.
    pub fn lines(&self, count: usize) -> &[[Arc<str>; 2]] {
        self.lines.get_or_init(|| {
            let one = |pc| {
                let (place, statement) = self.at(pc as u32);
                [place.into(), statement.into()]
            };
            (0..count).map(one).collect()
        })
    }
}
