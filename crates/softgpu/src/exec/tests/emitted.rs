//! Every register form that nvcc was seen to emit decodes and runs.

use super::*;

/// Statement by statement; inputs are random bits, and what is asked is only that nothing stops the host.
#[test]
fn every_form_of_the_compiler_decodes_and_runs() {
    let (mut forms, mut random) = (0, Random(3));
    for line in include_str!("emitted.txt").lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.splitn(4, ' ');
        let [_targets, outs, ins, text] = std::array::from_fn(|_| words.next().expect("four fields"));
        let [outs, ins] = [outs, ins].map(|letters| letters.trim_start_matches('-'));
        for wide in [true, false] {
            let form = Form::decode(text, outs, ins, wide).unwrap_or_else(|why| panic!("`{text}`: {why}"));
            let rows: Vec<Vec<u64>> = (0..LANES)
                .map(|_| ins.chars().map(|letter| random.next() >> if letter == 'p' { 63 } else { 0 }).collect())
                .collect();
            assert_eq!(form.run(&rows, u32::MAX).len(), LANES);
        }
        forms += 1;
    }
    assert!(forms > 300, "the list has only {forms} forms");
}
