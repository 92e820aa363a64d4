//! Counters as a row of numbers, for the way through the C ABI. This is the order of `softgpu_counters`:
//!
//! | numbers | meaning |
//! |---|---|
//! | 0 to 5 | launches, warp instructions, thread instructions, bytes of local memory, divergent branches, flops of matrix products |
//! | 6 to 13 | loads from, then stores to device memory: requests, sectors, fewest sectors, bytes |
//! | 14 to 16 | shared memory: requests, wavefronts, fewest wavefronts |
//! | 17 and on | instructions by class, in the order of [`Class::ALL`]: warp, thread |
//!
//! A line has: warp, thread instructions, loads, stores, shared memory, as above.

use crate::count::{Counters, GlobalTraffic, Issued, Line, SharedTraffic};
use crate::ir::Class;

/// How many numbers counters have.
pub const COUNT: usize = 17 + 2 * Class::ALL.len();

fn of_global(traffic: &GlobalTraffic) -> [u64; 4] {
    [traffic.requests, traffic.sectors, traffic.minimum, traffic.bytes]
}

fn to_global(words: &[u64]) -> GlobalTraffic {
    GlobalTraffic { requests: words[0], sectors: words[1], minimum: words[2], bytes: words[3] }
}

fn of_shared(traffic: &SharedTraffic) -> [u64; 3] {
    [traffic.requests, traffic.wavefronts, traffic.minimum]
}

fn to_shared(words: &[u64]) -> SharedTraffic {
    SharedTraffic { requests: words[0], wavefronts: words[1], minimum: words[2] }
}

/// Counters to numbers.
pub fn of_counters(counters: &Counters) -> Vec<u64> {
    let Counters { launches, warp_instructions, thread_instructions, local_bytes, divergent_branches, .. } = *counters;
    let mut words = vec![launches, warp_instructions, thread_instructions, local_bytes, divergent_branches];
    words.push(counters.matrix_flops);
    words.extend(of_global(&counters.global_loads));
    words.extend(of_global(&counters.global_stores));
    words.extend(of_shared(&counters.shared));
    words.extend(counters.classes.iter().flat_map(|issued| [issued.warp, issued.thread]));
    words
}

/// Numbers to counters; there are [`COUNT`] of them.
pub fn to_counters(words: &[u64], lines: Vec<Line>) -> Counters {
    let mut counters = Counters {
        launches: words[0],
        warp_instructions: words[1],
        thread_instructions: words[2],
        local_bytes: words[3],
        divergent_branches: words[4],
        matrix_flops: words[5],
        global_loads: to_global(&words[6..]),
        global_stores: to_global(&words[10..]),
        shared: to_shared(&words[14..]),
        lines,
        ..Counters::default()
    };
    for (issued, words) in counters.classes.iter_mut().zip(words[17..].chunks_exact(2)) {
        *issued = Issued { warp: words[0], thread: words[1] };
    }
    counters
}

/// A line to numbers.
pub fn of_line(line: &Line) -> Vec<u64> {
    let mut words = vec![line.issued.warp, line.issued.thread];
    words.extend(of_global(&line.loads));
    words.extend(of_global(&line.stores));
    words.extend(of_shared(&line.shared));
    words
}

/// Numbers to a line.
pub fn to_line(words: &[u64], place: String, statement: String) -> Line {
    Line {
        place: place.into(),
        statement: statement.into(),
        issued: Issued { warp: words[0], thread: words[1] },
        loads: to_global(&words[2..]),
        stores: to_global(&words[6..]),
        shared: to_shared(&words[10..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_survive_the_way_there_and_back() {
        let numbers: Vec<u64> = (1..=COUNT as u64).collect();
        let line = to_line(&(1..=13).collect::<Vec<u64>>(), "k.cu:1".to_string(), "ret".to_string());
        let counters = to_counters(&numbers, vec![line.clone()]);
        assert_eq!(of_counters(&counters), numbers);
        assert_eq!(of_line(&line), (1..=13).collect::<Vec<u64>>());
        assert_eq!(to_counters(&of_counters(&counters), vec![line]), counters);
    }
}
