//! What reports say about an instruction: its place in the source and the statement it came from.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use crate::ptx::{Function, Module};

/// The statements of one kernel. Places and texts are put together only when a report asks for them.
#[derive(Clone, Default)]
pub struct Text {
    /// The text of the kernel's body.
    body: String,
    /// Each distinct place.
    places: Vec<String>,
    /// Per instruction: its place, and start and end of its text.
    statements: Vec<(u32, u32, u32)>,
    /// The same put together: every launch needs them for its counters.
    lines: OnceLock<Vec<[Arc<str>; 2]>>,
}

impl Text {
    /// Of the statements of `function`.
    pub fn new(module: &Module, function: &Function) -> Text {
        let start = function.statements.first().map_or(0, |s| s.span.0);
        let end = function.statements.last().map_or(0, |s| s.span.1);
        let mut text =
            Text { body: module.source.get(start as usize..end as usize).unwrap_or("").to_string(), ..Text::default() };
        let mut seen = HashMap::new();
        for statement in &function.statements {
            // Without a place, the line of the PTX tells statements apart.
            let key = if statement.place.0 == 0 { (0, statement.line) } else { (statement.place.0, 0) };
            let place = *seen.entry(key).or_insert_with(|| {
                text.places.push(module.place(function, statement));
                text.places.len() as u32 - 1
            });
            text.statements.push((place, statement.span.0 - start, statement.span.1 - start));
        }
        text
    }

    /// `file.cu:line` and the statement of instruction `pc`.
    pub fn at(&self, pc: u32) -> (String, String) {
        let Some((place, start, end)) = self.statements.get(pc as usize) else {
            return (self.places.last().cloned().unwrap_or_default(), "the end of the kernel".into());
        };
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
