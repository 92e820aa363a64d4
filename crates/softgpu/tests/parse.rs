//! Reading PTX: what nvcc writes, and what nobody should write.

use softgpu::ptx::{Operand, parse};

const SOFTMAX: &str = include_str!("ptx/softmax_sm80.ptx");
const FORMS: &str = include_str!("ptx/forms_sm80.ptx");

#[test]
fn kernels_params_and_places() {
    let module = parse(SOFTMAX).unwrap();
    assert_eq!((module.version, module.target.as_str()), ((9, 0), "sm_80"));
    let names: Vec<_> = module.functions.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["warp_rows", "block_rows"]);
    let warp = module.kernel("warp_rows").unwrap();
    assert_eq!((warp.params[0].size, warp.params[0].align), (32, 8));
    let shuffle = warp.statements.iter().find(|s| s.op() == "shfl").unwrap();
    assert_eq!(
        module.place(warp, shuffle),
        "sm_30_intrinsics.hpp:449, inlined at softmax.cu:14, inlined at softmax.cu:30"
    );
    assert_eq!(module.text(shuffle), "shfl.sync.bfly.b32 \t%r20|%p4, %r16, %r18, %r17, %r19;");
    assert!(matches!(shuffle.operands[0], Operand::Pair(..)));
    let block = module.kernel("block_rows").unwrap();
    assert_eq!(block.variables.iter().map(|v| v.size).collect::<Vec<_>>(), [128, 128]);
}

#[test]
fn asm_blocks_reuse_labels_and_registers() {
    let module = parse(FORMS).unwrap();
    let forms = module.kernel("forms").unwrap();
    let labels: Vec<_> = forms
        .statements
        .iter()
        .filter(|s| s.op() == "bra")
        .filter_map(|s| match s.operands[..] {
            [Operand::Label(at)] => Some((s.guard.is_some(), at)),
            _ => None,
        })
        .collect();
    // Two asm blocks in a row, each with `@p bra W; bra D;`: four different targets.
    let conditional: Vec<_> = labels.iter().take(4).map(|(_, at)| *at).collect();
    assert!(conditional.windows(2).all(|w| w[0] < w[1]), "{conditional:?}");
    assert_eq!(forms.max_threads, Some([256, 1, 1]));
    assert_eq!(forms.min_blocks, Some(2));
    assert_eq!(module.variables[0].init[..8], [0, 0, 128, 63, 0, 0, 0, 64]);
    assert_eq!(module.variables[1].init, 7u32.to_le_bytes());
    assert_eq!((module.shared[0].name.as_str(), module.shared[0].size, module.shared[0].align), ("dyn", 0, 16));
    assert!(!module.functions.iter().find(|f| f.name == "_Z1ffi").unwrap().entry);
}

/// Every call has a scope of its own with a `param0`: four calls, four variables and one prototype.
#[test]
fn variables_of_call_sequences_are_told_apart() {
    let module = parse(include_str!("foreign/calls_sm80.ptx")).unwrap();
    let kernel = module.kernel("indirect").unwrap();
    let mut names: Vec<_> = kernel.variables.iter().map(|v| v.name.as_str()).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "{names:?}");
    assert!(names.iter().any(|name| name.starts_with("param0@")), "{names:?}");
    let prototype = &kernel.prototypes[0];
    assert_eq!((prototype.params.len(), prototype.results.len(), prototype.params[0].size), (1, 1, 4));
}

#[test]
fn errors_name_the_line() {
    let text = |body: &str| format!(".version 9.0\n.target sm_80\n.entry k()\n{{\n{body}\n}}\n");
    for (body, why) in [
        ("bra nowhere;", "PTX line 5: unknown label nowhere"),
        ("@%p1 ret;", "PTX line 5: %p1 is not a register here"),
        ("mov.b32 %r1 %r2;", "PTX line 5: %r2 where ; is expected"),
        (".reg .b32 %r<4294967296>;", "PTX line 5: more than 1048576 registers"),
        ("L: L: ret;", "PTX line 5: label L stands twice in one scope"),
        (".loc 1 99999999999 2", "PTX line 5: a .loc beyond 32 bits"),
        (".shared .align 3 .b8 x[4];", "PTX line 5: an alignment of 3"),
    ] {
        assert_eq!(parse(&text(body)).unwrap_err().to_string(), why);
    }
    assert_eq!(parse(".target sm_80").unwrap_err().to_string(), "PTX line 1: no .version");
}

/// Cuts, doubled and swapped pieces, and random bytes: an error or a module, never a panic.
#[test]
fn mutated_text_never_panics() {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = move |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n as u64) as usize
    };
    let pieces =
        ["{", "}", "(", ")", "[", "]", ";", ",", "0x", "0f", "@", "-", "\"", "%r<9>", ".reg", ".loc 1 2 3", "|"];
    let mut refused = 0;
    for round in 0..1500 {
        let source = if round % 2 == 0 { SOFTMAX } else { FORMS };
        let mut bytes = source.as_bytes().to_vec();
        for _ in 0..1 + random(4) {
            let at = random(bytes.len());
            match random(4) {
                0 => bytes[at] = random(128) as u8,
                1 => {
                    let end = (at + 1 + random(40)).min(bytes.len());
                    bytes.drain(at..end);
                }
                2 => drop(bytes.splice(at..at, pieces[random(pieces.len())].bytes())),
                _ if random(8) == 0 => bytes.truncate(at.max(1)),
                _ => bytes.swap(at, 0),
            }
        }
        refused += usize::from(parse(&String::from_utf8(bytes).unwrap()).is_err());
    }
    assert!((500..1500).contains(&refused), "{refused} of 1500 were refused");
}
