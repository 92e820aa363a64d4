//! Machine code as `nvdisasm -c` prints it: functions, their instructions and labels.

use std::collections::BTreeMap;

/// One instruction, `@!P0 LDG.E.128 R4, desc[UR4][R2.64]` for example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction<'a> {
    /// `@!P0`: only lanes of which that is true execute it.
    pub guarded: bool,
    /// `LDG.E.128`
    pub opcode: &'a str,
    pub operands: &'a str,
}

impl<'a> Instruction<'a> {
    fn parse(line: &'a str) -> Option<Instruction<'a>> {
        let (_, rest) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
        let text = rest.trim().trim_end_matches(';').trim_end();
        let (guarded, text) = match text.strip_prefix('@') {
            Some(guard) => (true, guard.split_once(' ')?.1.trim_start()),
            None => (false, text),
        };
        let (opcode, operands) = text.split_once(' ').unwrap_or((text, ""));
        Some(Instruction { guarded, opcode, operands: operands.trim() })
    }

    /// `LDG` of `LDG.E.128`.
    pub fn name(&self) -> &'a str {
        self.opcode.split('.').next().unwrap_or_default()
    }

    /// Whether it has this modifier: `128` of `LDG.E.128`.
    pub fn has(&self, modifier: &str) -> bool {
        self.opcode.split('.').skip(1).any(|part| part == modifier)
    }

    /// Bytes that each lane moves: `LDG.E.128` 16, `STS.U16` 2, `LDS` 4.
    pub fn width(&self) -> u64 {
        let of = |modifier: &str| match modifier {
            "U8" | "S8" => Some(1),
            "U16" | "S16" => Some(2),
            "64" | "F32x2" => Some(8),
            "128" | "F32x4" => Some(16),
            _ => None,
        };
        self.opcode.split('.').skip(1).find_map(of).unwrap_or(4)
    }
}

/// The machine code of one kernel.
#[derive(Debug, Default)]
pub struct Function<'a> {
    pub name: &'a str,
    pub code: Vec<Instruction<'a>>,
    /// By label, the number of the instruction behind it.
    pub labels: BTreeMap<&'a str, usize>,
}

/// Every function of a listing, in its order.
pub fn functions(listing: &str) -> Vec<Function<'_>> {
    let mut functions = Vec::<Function>::new();
    for line in listing.lines() {
        if let Some(name) = line.strip_prefix(".text.") {
            functions.push(Function { name: name.trim_end_matches(':'), ..Function::default() });
            continue;
        }
        let Some(function) = functions.last_mut() else { continue };
        if let Some(instruction) = Instruction::parse(line) {
            function.code.push(instruction);
        } else if let Some(label) = line.strip_suffix(':').filter(|label| label.starts_with(['.', '$'])) {
            function.labels.insert(label, function.code.len());
        }
    }
    functions
}

/// A function of instructions and labels, one per line.
#[cfg(test)]
pub fn snippet(text: &str) -> Function<'static> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: String = lines
        .map(|line| if line.ends_with(':') { format!("{line}\n") } else { format!("        /*0000*/  {line} ;\n") })
        .collect();
    functions(format!(".text.snippet:\n{lines}").leak()).remove(0)
}

#[test]
fn a_listing_is_read() {
    let listing = "\
\t.target\tsm_80

//--------------------- .text.first --------------------------
\t.section\t.text.first,\"ax\",@progbits
        .global         first
        .size           first,(.L_x_1 - first)
first:
.text.first:
        /*0000*/                   IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ;
.L_x_0:
        /*0010*/              @!P0 LDG.E.128.CONSTANT R4, [R2.64] ;
        /*0020*/                   BRXU UR8 -0x30        (*\"BRANCH_TARGETS .L_x_0,.L_x_1\"*);
.L_x_1:
        /*0030*/                   EXIT ;
.L_x_2:

//--------------------- .text.second --------------------------
second:
.text.second:
        /*0000*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24 ;
";
    let functions = functions(listing);
    let names: Vec<_> = functions.iter().map(|function| (function.name, function.code.len())).collect();
    assert_eq!(names, [("first", 4), ("second", 1)]);
    assert_eq!(functions[0].labels, BTreeMap::from([(".L_x_0", 1), (".L_x_1", 3), (".L_x_2", 4)]));
    let load = functions[0].code[1];
    assert_eq!(load, Instruction { guarded: true, opcode: "LDG.E.128.CONSTANT", operands: "R4, [R2.64]" });
    assert_eq!((load.name(), load.has("E"), load.has("LDG"), load.width()), ("LDG", true, false, 16));
    assert_eq!(functions[0].code[2].operands, "UR8 -0x30        (*\"BRANCH_TARGETS .L_x_0,.L_x_1\"*)");
    assert_eq!(functions[0].code[3].opcode, "EXIT");
    assert_eq!(functions[1].code[0].operands, "R24, gdesc[UR8], R24");
}
