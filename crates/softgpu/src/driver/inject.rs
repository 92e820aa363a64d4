//! Driver calls that fail on request.

use super::code::Code;
use std::collections::HashMap;

/// Which calls of one host thread fail.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    rules: Vec<Rule>,
    counts: HashMap<&'static str, u64>,
    total: u64,
}

#[derive(Clone, Debug)]
struct Rule {
    /// The entry, or `None` for every entry.
    name: Option<String>,
    /// Which call fails, counted from 1 from the moment the rule was made.
    call: u64,
    code: Code,
}

impl Plan {
    /// Lets the `nth` call of `name` from now on fail with `code`, once. `*` counts the calls of every entry.
    pub fn fail(&mut self, name: &str, nth: u64, code: Code) {
        let (name, made) = match name {
            "*" => (None, self.total),
            name => (Some(name.to_string()), self.counts.get(name).copied().unwrap_or(0)),
        };
        self.rules.push(Rule { name, call: made.saturating_add(nth), code });
    }

    /// Forgets every rule that has not fired.
    pub fn clear(&mut self) {
        self.rules.clear();
    }

    /// How many calls were counted: of one entry, or of all with `*`.
    pub fn calls(&self, name: &str) -> u64 {
        if name == "*" { self.total } else { self.counts.get(name).copied().unwrap_or(0) }
    }

    /// How many rules have not fired yet.
    pub fn waiting(&self) -> usize {
        self.rules.len()
    }

    /// Counts a call, and answers with what code it shall fail.
    pub fn next(&mut self, name: &'static str) -> Option<Code> {
        // Bindings ask for the words of an error whenever one is printed: such calls are nobody's n-th.
        if !name.starts_with("cuGetError") {
            self.total += 1;
        }
        let count = self.counts.entry(name).or_insert(0);
        *count += 1;
        let (count, total) = (*count, self.total);
        let fires = |rule: &Rule| match &rule.name {
            Some(wanted) => wanted == name && rule.call == count,
            None => rule.call == total,
        };
        let index = self.rules.iter().position(fires)?;
        Some(self.rules.remove(index).code)
    }

    /// Adds rules written as `name:n:code`, separated by commas; the text names the first that is not one.
    pub fn parse(&mut self, text: &str) -> Result<(), String> {
        for rule in text.split(',').map(str::trim).filter(|rule| !rule.is_empty()) {
            let mut parts = rule.split(':');
            let (name, nth, code) = (parts.next(), parts.next(), parts.next());
            match (name, nth.and_then(|n| n.parse::<u64>().ok()), code.and_then(Code::parse), parts.next()) {
                (Some(name), Some(nth @ 1..), Some(code), None) => self.fail(name, nth, code),
                _ => return Err(format!("`{rule}` is not name:n:code, as in cuMemAllocAsync:3:OUT_OF_MEMORY")),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_fire_once_and_count_from_when_they_were_made() {
        let mut plan = Plan::default();
        assert_eq!(plan.next("cuMemAlloc_v2"), None);
        plan.parse("cuMemAlloc_v2:2:OUT_OF_MEMORY, *:4:999").unwrap();
        assert_eq!(plan.next("cuMemAlloc_v2"), None);
        assert_eq!(plan.next("cuMemAlloc_v2"), Some(Code::OUT_OF_MEMORY));
        assert_eq!(plan.next("cuMemAlloc_v2"), None);
        assert_eq!(plan.next("cuInit"), Some(Code::UNKNOWN));
        assert_eq!(plan.next("cuInit"), None);
        assert_eq!((plan.calls("cuMemAlloc_v2"), plan.calls("*"), plan.waiting()), (4, 6, 0));
    }

    #[test]
    fn a_rule_that_is_none_is_named() {
        assert!(Plan::default().parse("cuInit:0:2").unwrap_err().contains("cuInit:0:2"));
        assert!(Plan::default().parse("cuInit:1:NO_SUCH_CODE").is_err());
    }
}
