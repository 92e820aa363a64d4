//! Slots for registers: linear scan over their spans, apart for predicates, single slots and pairs.

use super::live::Span;
use crate::ptx::Type;

/// The result: a number per register, counted from 0 within its kind, and how many of each kind there are.
#[derive(Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Per register; 0 for registers that nobody names.
    pub number: Vec<usize>,
    /// Predicates in use at once, at most.
    pub preds: usize,
    /// Single slots.
    pub singles: usize,
    /// Pairs.
    pub pairs: usize,
}

/// The three kinds of register storage.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// One mask.
    Pred,
    /// One slot.
    Single,
    /// Two adjacent slots.
    Pair,
}

/// Which storage a register of type `ty` has.
pub fn storage(ty: Type) -> Storage {
    match ty.bits() {
        1 => Storage::Pred,
        64.. => Storage::Pair,
        _ => Storage::Single,
    }
}

/// Assigns the lowest free number at each start. A register that dies where another is born does not hand over its
/// slot at that very instruction: operations with several results may write one before they have read all sources.
pub fn assign(types: &[Type], spans: &[Option<Span>]) -> Assignment {
    let mut number = vec![0; types.len()];
    let mut scan = |kind: Storage| {
        let mut order: Vec<(Span, usize)> =
            (0..types.len()).filter(|r| storage(types[*r]) == kind).filter_map(|r| spans[r].map(|s| (s, r))).collect();
        order.sort_by_key(|(s, r)| (s.start, *r));
        // By number: the end of the span that holds it.
        let mut held: Vec<u32> = Vec::new();
        for (span, reg) in order {
            let free = held.iter().position(|end| *end < span.start);
            number[reg] = free.unwrap_or(held.len());
            match free {
                Some(n) => held[n] = span.end,
                None => held.push(span.end),
            }
        }
        held.len()
    };
    let (preds, singles, pairs) = (scan(Storage::Pred), scan(Storage::Single), scan(Storage::Pair));
    Assignment { number, preds, singles, pairs }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_that_meet_do_not_share() {
        let types = [Type::B32, Type::F32, Type::U32, Type::U64, Type::Pred];
        let span = |start, end| Some(Span { start, end });
        let a = assign(&types, &[span(0, 3), span(3, 5), span(4, 4), span(0, 9), None]);
        assert_eq!((a.preds, a.singles, a.pairs), (0, 2, 1));
        assert_ne!(a.number[0], a.number[1]);
        assert_eq!(a.number[0], a.number[2]);
    }
}
