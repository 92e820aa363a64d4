//! Shuffles, votes, matches and reductions of whole warps, against the manual's pseudocode.

use super::form::program;
use super::golden::{self, Goldens};
use super::inputs::Random;
use super::{table, with_gpu};

/// What lane `lane` gets of a warp's values `a` (and predicates, where the form votes).
type Rule = Box<dyn Fn(&[u64], usize) -> [u64; 2]>;

/// `shfl`: mode, distance or lane, clamp and segments.
fn shuffle(mode: &'static str, b: i64, c: i64) -> (String, Rule) {
    let text = format!(
        "    shfl.sync.{mode}.b32 %r5|%p1, %r6, {b}, {c}, -1;\n    cvt.u64.u32 %rd5, %r5;\n    selp.u64 %rd6, 1, 0, %p1;\n"
    );
    let rule = move |a: &[u64], lane: usize| {
        let (lane, bval, cval, segment) = (lane as i64, b & 31, c & 31, c >> 8 & 31);
        let (max, min) = (lane & segment | cval & !segment, lane & segment);
        let (from, inside) = match mode {
            "up" => (lane - bval, lane - bval >= max),
            "down" => (lane + bval, lane + bval <= max),
            "bfly" => (lane ^ bval, lane ^ bval <= max),
            _ => (min | bval & !segment, (min | bval & !segment) <= max),
        };
        [a[if inside { from } else { lane } as usize], u64::from(inside)]
    };
    (text, Box::new(rule))
}

fn one(text: &str, rule: impl Fn(&[u64], usize) -> [u64; 2] + 'static) -> (String, Rule) {
    let from = if text.contains("pred") || text.contains("%p2") { "    setp.lt.s32 %p2, %r6, 0;\n" } else { "" };
    let to = if text.contains(".pred %p1") { "    selp.u32 %r5, 1, 0, %p1;\n" } else { "" };
    let second = if text.contains("|%p1") { "selp.u64 %rd6, 1, 0, %p1" } else { "mov.u64 %rd6, 0" };
    (format!("{from}    {text}\n{to}    cvt.u64.u32 %rd5, %r5;\n    {second};\n"), Box::new(rule))
}

fn negative(value: u64) -> bool {
    (value as u32 as i32) < 0
}

fn cases() -> Vec<(String, Rule)> {
    let mut cases = Vec::new();
    for mode in ["up", "down", "bfly", "idx"] {
        for b in [0, 1, 5, 16, 31] {
            for c in [0, 0x1f, 0x0f, 0x181f, 0x1800, 0x1c03, 0x101f] {
                cases.push(shuffle(mode, b, c));
            }
        }
    }
    let ballot = |a: &[u64]| (0..32).filter(|l| negative(a[*l])).fold(0u64, |bits, l| bits | 1 << l);
    let truth = |value: bool| [u64::from(value), 0];
    cases.push(one("vote.sync.ballot.b32 %r5, %p2, -1;", move |a, _| [ballot(a), 0]));
    cases.push(one("vote.sync.ballot.b32 %r5, !%p2, -1;", move |a, _| [ballot(a) ^ 0xffff_ffff, 0]));
    cases.push(one("vote.sync.all.pred %p1, %p2, -1;", move |a, _| truth(ballot(a) == 0xffff_ffff)));
    cases.push(one("vote.sync.any.pred %p1, %p2, -1;", move |a, _| truth(ballot(a) != 0)));
    cases.push(one("vote.sync.uni.pred %p1, %p2, -1;", move |a, _| truth([0, 0xffff_ffff].contains(&ballot(a)))));
    let same = |a: &[u64], lane: usize| (0..32).filter(|l| a[*l] == a[lane]).fold(0u64, |bits, l| bits | 1 << l);
    cases.push(one("match.any.sync.b32 %r5, %r6, -1;", move |a, lane| [same(a, lane), 0]));
    cases.push(one("match.all.sync.b32 %r5|%p1, %r6, -1;", move |a, lane| {
        let all = same(a, lane) == 0xffff_ffff;
        [if all { 0xffff_ffff } else { 0 }, u64::from(all)]
    }));
    // 64 bits, of which the upper ones tell lanes apart.
    let wide = "    cvt.u64.u32 %rd6, %r6;\n    shl.b64 %rd6, %rd6, 32;\n";
    let widened = |(text, rule): (String, Rule)| (format!("{wide}{text}"), rule);
    cases.push(widened(one("match.any.sync.b64 %r5, %rd6, -1;", move |a, lane| [same(a, lane), 0])));
    cases.push(widened(one("match.all.sync.b64 %r5|%p1, %rd6, -1;", move |a, lane| {
        let all = same(a, lane) == 0xffff_ffff;
        [if all { 0xffff_ffff } else { 0 }, u64::from(all)]
    })));
    let fold = |name: &str, f: fn(u32, u32) -> u32| {
        one(&format!("redux.sync.{name} %r5, %r6, -1;"), move |a, _| {
            [u64::from(a.iter().map(|value| *value as u32).reduce(f).expect("32 lanes")), 0]
        })
    };
    cases.push(fold("add.u32", u32::wrapping_add));
    cases.push(fold("add.s32", u32::wrapping_add));
    cases.push(fold("min.u32", u32::min));
    cases.push(fold("max.u32", u32::max));
    cases.push(fold("min.s32", |a, b| (a as i32).min(b as i32) as u32));
    cases.push(fold("max.s32", |a, b| (a as i32).max(b as i32) as u32));
    cases.push(fold("and.b32", |a, b| a & b));
    cases.push(fold("or.b32", |a, b| a | b));
    cases.push(fold("xor.b32", |a, b| a ^ b));
    cases.push(one("activemask.b32 %r5;", |_, _| [0xffff_ffff, 0]));
    cases.push(one("movmatrix.sync.aligned.m8n8.trans.b16 %r5, %r6;", |a, lane| {
        let half = |row: usize, column: usize| a[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff;
        let (column, row) = (lane / 4, 2 * (lane % 4));
        [half(row, column) | half(row + 1, column) << 16, 0]
    }));
    cases
}

#[test]
fn warps_exchange_what_the_manual_says() {
    with_gpu(|gpu| {
        let goldens = Goldens::recorded(gpu, "warp");
        let mut written = Goldens::new(&gpu.name);
        let mut random = Random(5);
        // Warps of random words, of one word, of few words, of one sign.
        let mut a: Vec<u64> = (0..32).map(|_| random.next() & 0xffff_ffff).collect();
        a.extend([7u64; 32]);
        a.extend((0..32).map(|_| random.next() & 3));
        a.extend((0..32).map(|_| random.next() & 0xffff_ffff | 0x8000_0000));
        let (cases, mut failures) = (cases(), Vec::new());
        for (body, rule) in &cases {
            let text = program(&format!(
                "    ld.global.u64 %x0, [%in];\n    cvt.u32.u64 %r6, %x0;\n{body}    st.global.u64 [%out], %rd5;
    add.u64 %out, %out, %step;\n    st.global.u64 [%out], %rd6;\n"
            ));
            let outputs = gpu.run(&text, &[a.clone()], 2, a.len()).expect(body);
            for (n, values) in a.chunks(32).enumerate() {
                for lane in 0..32 {
                    let got = [0, 1].map(|column: usize| outputs[column][32 * n + lane]);
                    let expected = rule(values, lane);
                    if got != expected {
                        failures.push(format!("warp {n} lane {lane} has {got:x?}, not {expected:x?}, of\n{body}"));
                    }
                }
            }
            let name = body.split_whitespace().collect::<Vec<_>>().join(" ");
            let answer = golden::digests(&outputs);
            for golden in goldens.iter().filter(|golden| golden.get(&name).is_some()) {
                if golden.get(&name) != Some(answer.as_str()) {
                    failures.push(format!("differs from {}:\n{body}", golden.device));
                }
            }
            written.put(&name, answer);
        }
        written.write("warp");
        assert!(failures.is_empty(), "{} results, among them {}", failures.len(), failures[0]);
        // Every form of a whole warp in the table has a case.
        for form in table::forms_of("warp") {
            let opcode = form.split(' ').next().expect("an opcode");
            let known = opcode.starts_with("elect") || cases.iter().any(|(body, _)| body.contains(opcode));
            assert!(known, "no program runs {opcode}");
        }
    });
}

/// The manual does not say which lane is elected: it is one of those named, the same for all of them and each time.
#[test]
fn one_lane_is_elected() {
    with_gpu(|gpu| {
        let elect = |mask: &str| {
            format!(
                "    elect.sync %r5|%p1, {mask};\n    cvt.u64.u32 %rd5, %r5;\n    selp.u64 %rd6, 1, 0, %p1;
    elect.sync _|%p2, {mask};\n    selp.u64 %rd7, 2, 0, %p2;\n    or.b64 %rd6, %rd6, %rd7;\n"
            )
        };
        for (mask, members) in [("-1", 0..32), ("0xff00", 8..16)] {
            let body = format!(
                "    ld.global.u64 %x0, [%in];\n    cvt.u32.u64 %r6, %x0;\n    setp.ne.u32 %p3, %r6, 0;
    mov.u64 %rd5, 0;\n    mov.u64 %rd6, 0;\n    @!%p3 bra SKIP;\n{}SKIP:
    st.global.u64 [%out], %rd5;\n    add.u64 %out, %out, %step;\n    st.global.u64 [%out], %rd6;\n",
                elect(mask)
            );
            let named: Vec<u64> = (0..128).map(|i| u64::from(members.contains(&(i % 32)))).collect();
            let outputs = match gpu.run(&program(&body), &[named], 2, 128) {
                Err(why) if !gpu.software => return println!("not on this device: elect.sync: {why}"),
                outputs => outputs.expect("the program runs"),
            };
            for warp in 0..4 {
                let leader = outputs[0][32 * warp + members.start];
                assert!(members.contains(&(leader as usize)), "{leader}");
                for lane in members.clone() {
                    assert_eq!(outputs[0][32 * warp + lane], leader, "warp {warp} lane {lane}");
                    assert_eq!(outputs[1][32 * warp + lane], if lane as u64 == leader { 3 } else { 0 });
                }
            }
        }
    });
}
