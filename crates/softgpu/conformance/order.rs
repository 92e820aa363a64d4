//! Barriers and fences: threads hand words to each other through shared memory, and the statement is all that orders them.

use super::cell::operands;
use super::golden::{self, Goldens};
use super::inputs::Random;
use super::{table, with_gpu};

/// The other side of an arrival, or of half a fence.
struct Sides {
    first: String,
    second: String,
}

/// A kernel in which each thread puts its input into shared memory, runs `body`, and gives word `%r5` and `%p1`.
fn kernel(body: &str) -> String {
    format!(
        ".version 8.6
.target TARGET
.address_size 64
.visible .entry k(.param .u64 in, .param .u64 out, .param .u32 n)
{{
    .reg .pred %p<10>, %half;
    .reg .b32 %r<20>, %own, %n;
    .reg .b64 %rd<12>, %x<2>, %in, %out, %step;
    .shared .align 16 .b8 tile[512];
    .shared .align 4 .b8 flag[4];
    ld.param.u64 %in, [in];
    ld.param.u64 %out, [out];
    ld.param.u32 %n, [n];
    mul.wide.u32 %step, %n, 8;
    mov.u32 %r10, %ctaid.x;
    mov.u32 %r11, %ntid.x;
    mov.u32 %r0, %tid.x;
    mad.lo.u32 %r10, %r10, %r11, %r0;
    mad.wide.u32 %in, %r10, 8, %in;
    mad.wide.u32 %out, %r10, 8, %out;
    mov.u32 %r1, tile;
    mad.lo.u32 %own, %r0, 4, %r1;
    add.u32 %r12, %r0, 37;
    rem.u32 %r12, %r12, %r11;
    mad.lo.u32 %r12, %r12, 4, %r1;
    mov.u32 %r3, -1;
    mov.u32 %r4, 2;
    mov.u32 %r5, 0;
    ld.global.u64 %x0, [%in];
    cvt.u32.u64 %r6, %x0;
    setp.lt.s32 %p1, %r6, 0;
    setp.lt.s32 %p2, %r6, 0;
    setp.ge.u32 %half, %r0, 32;
    st.volatile.shared.u32 [flag], 0;
    bar.sync 15;
{body}
    cvt.u64.u32 %x0, %r7;
    st.global.u64 [%out], %x0;
    add.u64 %out, %out, %step;
    cvt.u64.u32 %x0, %r5;
    st.global.u64 [%out], %x0;
    ret;
}}
"
    )
}

/// What a thread of a block must hold, of the inputs of the block.
type Rule = Box<dyn Fn(&[u64], usize) -> [u64; 2]>;

/// Threads of a block, what it runs, and what each thread must hold: the word it reads and the result of a reduction.
struct Case {
    block: usize,
    body: String,
    rule: Rule,
}

fn negative(value: u64) -> bool {
    (value as u32 as i32) < 0
}

const STORE: &str = "    st.shared.u32 [%own], %r6;\n";
const LOAD: &str = "    ld.shared.u32 %r7, [%r12];\n";

/// All threads of the block meet: each reads what its neighbour stored.
fn meeting(text: &str, rest: &str) -> Case {
    let operands = operands(rest);
    let mut counts = operands.iter().filter_map(|operand| operand.parse::<usize>().ok()).filter(|count| *count >= 32);
    let block = if text.starts_with("bar.warp") { 32 } else { counts.next_back().unwrap_or(96) };
    let reduces = text.contains(".red.");
    let to = if reduces && operands[0] == "%p1" { "    selp.u32 %r5, 1, 0, %p1;\n" } else { "" };
    let (and, or, not) = (text.contains(".and"), text.contains(".or"), text.contains("!%p"));
    let rule = move |inputs: &[u64], thread: usize| {
        let holds = inputs.iter().filter(|value| negative(**value) != not).count();
        let reduced = match (and, or) {
            (true, _) => usize::from(holds == inputs.len()),
            (_, true) => usize::from(holds > 0),
            _ => holds,
        };
        [inputs[(thread + 37) % inputs.len()], if reduces { reduced as u64 } else { 0 }]
    };
    Case { block, body: format!("{STORE}    {text}\n{to}{LOAD}"), rule: Box::new(rule) }
}

/// The first warp stores and goes on; the second one reads what it stored.
fn handing_over(sides: &Sides) -> Case {
    let body = format!(
        "    mov.u32 %r7, %r6;
    @%half bra SECOND;
{STORE}    {}
    bra DONE;
SECOND:
    sub.u32 %r12, %own, 128;
    {}
{LOAD}DONE:
",
        sides.first, sides.second
    );
    Case { block: 64, body, rule: Box::new(|inputs, thread| [inputs[thread % 32], 0]) }
}

fn case(text: &str) -> Case {
    let (opcode, rest) = text.trim_end_matches(';').split_once(' ').unwrap_or((text.trim_end_matches(';'), ""));
    if opcode.contains(".arrive") {
        let all = rest.split_once(',').expect("a count").0;
        return handing_over(&Sides { first: text.into(), second: format!("barrier.sync {all}, 64;") });
    }
    if opcode.starts_with("fence") || opcode.starts_with("membar") {
        // Half a fence has the other half on the other side.
        let whole = "fence.acq_rel.cta;";
        let (first, second) = match opcode {
            half if half.contains(".acquire") => (whole, text),
            half if half.contains(".release") => (text, whole),
            _ => (text, text),
        };
        let told = "setp.eq.u32 %p3, %r0, 0;\n    bar.warp.sync -1;";
        return handing_over(&Sides {
            first: format!("bar.warp.sync -1;\n    {first}\n    {told}\n    @%p3 st.relaxed.cta.shared.u32 [flag], 1;"),
            second: format!(
                "WAIT:\n    ld.relaxed.cta.shared.u32 %r8, [flag];\n    setp.eq.u32 %p4, %r8, 0;\n    @%p4 bra WAIT;\n    {second}"
            ),
        });
    }
    if opcode.starts_with("griddepcontrol") {
        return meeting(&format!("{text}\n    bar.sync 0;"), "0");
    }
    meeting(text, rest)
}

#[test]
fn threads_meet_as_the_manual_says() {
    with_gpu(|gpu| {
        let goldens = Goldens::recorded(gpu, "order");
        let mut written = Goldens::new(&gpu.name);
        let (forms, mut failures) = (table::forms_of("order"), Vec::new());
        for text in &forms {
            let case = case(text);
            let mut random = Random(text.len() as u64);
            // Blocks whose predicates hold for some threads, for none, for all.
            let value = |word: u64, i: usize| match i / case.block {
                2 => word & 0x7fff_ffff,
                3 => word & 0xffff_ffff | 0x8000_0000,
                _ => word & 0xffff_ffff,
            };
            let inputs: Vec<u64> = (0..4 * case.block).map(|i| value(random.next(), i)).collect();
            let ptx = kernel(&case.body);
            let outputs =
                match gpu.run_in_blocks(&ptx, std::slice::from_ref(&inputs), 2, inputs.len(), case.block as u32) {
                    Ok(outputs) => outputs,
                    Err(why) if !gpu.software => {
                        println!("not on this device: `{text}`: {why}");
                        continue;
                    }
                    Err(why) => panic!("`{text}` does not load: {why}\n{ptx}"),
                };
            for (block, values) in inputs.chunks(case.block).enumerate() {
                for thread in 0..case.block {
                    let got = [0, 1].map(|column: usize| outputs[column][case.block * block + thread]);
                    let expected = (case.rule)(values, thread);
                    if got != expected {
                        failures
                            .push(format!("`{text}`: block {block} thread {thread} has {got:x?}, not {expected:x?}"));
                    }
                }
            }
            let answer = golden::digests(&outputs);
            failures.extend(goldens.iter().filter_map(|golden| golden.differs(text, &answer)));
            written.put(text, answer);
        }
        written.write("order");
        println!("{}: {} forms of barriers and fences", gpu.name, forms.len());
        assert!(failures.is_empty(), "{} failures, the first: {}", failures.len(), failures[0]);
        assert!(forms.len() > 60, "only {} forms were found", forms.len());
    });
}
