//! What an instruction is, and how long it keeps the units of a multiprocessor busy.
//!
//! Clocks are those of four warps that each execute it once, one warp per scheduler: of a warpgroup. Then an instruction takes one
//! clock of issue. Rates are those of NVIDIA's programming guide (instructions per clock and multiprocessor) and tuning guides;
//! that of minima, comparisons and packed conversions on sm_90 is assumed to be that of integers, as on sm_80.

use crate::listing::Instruction;

/// What kind of work an instruction is; the columns of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Tensor,
    Special,
    Float,
    Half,
    Double,
    Integer,
    Shared,
    Global,
    Warp,
    Control,
    Uniform,
}

impl Class {
    pub const ALL: [(Class, &str); 11] = [
        (Class::Tensor, "tensor"),
        (Class::Special, "MUFU"),
        (Class::Float, "f32"),
        (Class::Half, "f16, convert"),
        (Class::Double, "f64"),
        (Class::Integer, "integer"),
        (Class::Shared, "shared"),
        (Class::Global, "global"),
        (Class::Warp, "warp"),
        (Class::Control, "control"),
        (Class::Uniform, "uniform"),
    ];

    /// `None` for an instruction that this table does not know.
    pub fn of(instruction: &Instruction) -> Option<Class> {
        let name = instruction.name();
        Some(match name {
            "HMMA" | "HGMMA" | "IMMA" | "IGMMA" | "QGMMA" | "DMMA" | "BMMA" => Class::Tensor,
            "MUFU" => Class::Special,
            "FADD" | "FMUL" | "FFMA" | "FMNMX" | "FSEL" | "FSET" | "FSETP" | "FCHK" | "FSWZADD" => Class::Float,
            "HADD2" | "HMUL2" | "HFMA2" | "HMNMX2" | "VHMNMX" | "HSET2" | "HSETP2" => Class::Half,
            "F2F" | "F2FP" | "F2I" | "F2IP" | "I2F" | "I2FP" | "I2I" | "I2IP" | "FRND" => Class::Half,
            "DADD" | "DMUL" | "DFMA" | "DSETP" | "DMNMX" => Class::Double,
            "IADD" | "IADD3" | "IMAD" | "IMUL" | "LEA" | "LOP" | "LOP3" | "SHF" | "SHL" | "SHR" | "ISETP" | "IMNMX"
            | "IABS" | "IDP" | "SEL" | "PRMT" | "MOV" | "POPC" | "FLO" | "BREV" | "BMSK" | "SGXT" | "PLOP3" | "P2R"
            | "R2P" | "CS2R" | "S2R" | "VIADD" | "VIMNMX" | "VIMNMX3" | "VIADDMNMX" | "VABSDIFF" | "LDC" => {
                Class::Integer
            }
            "LDS" | "STS" | "LDSM" | "STSM" | "ATOMS" | "STAS" | "REDAS" => Class::Shared,
            "LDG" | "STG" | "LDGSTS" | "LD" | "ST" | "LDL" | "STL" | "ATOM" | "ATOMG" | "RED" | "REDG" | "CCTL"
            | "CCTLL" | "CCTLT" => Class::Global,
            "UBLKCP" | "UBLKRED" | "UBLKPF" | "UTMALDG" | "UTMASTG" | "UTMAREDG" | "UTMAPF" | "UTMACMDFLUSH"
            | "UTMACCTL" => Class::Global,
            "SHFL" | "VOTE" | "VOTEU" | "MATCH" | "REDUX" | "ELECT" => Class::Warp,
            "BRA" | "BRX" | "BRXU" | "JMP" | "JMX" | "JMXU" | "CALL" | "RET" | "EXIT" | "KILL" | "BPT" | "BSSY"
            | "BSYNC" | "BREAK" | "BMOV" | "B2R" | "R2B" | "BAR" | "WARPSYNC" | "ENDCOLLECTIVE" | "NOP" | "YIELD"
            | "NANOSLEEP" | "DEPBAR" | "LDGDEPBAR" | "ERRBAR" | "MEMBAR" | "FENCE" | "SYNCS" | "WARPGROUP"
            | "WARPGROUPSET" | "USETMAXREG" | "ACQBULK" | "PREEXIT" | "ARRIVES" | "UCGABAR_ARV" | "UCGABAR_WAIT"
            | "CGAERRBAR" => Class::Control,
            "R2UR" | "S2UR" | "R2CUR" | "REDUXU" => Class::Uniform,
            _ if name.starts_with('U') => Class::Uniform,
            _ => return None,
        })
    }
}

/// What limits how fast instructions go; the columns of clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    Issue,
    Tensor,
    Special,
    /// Multiplications and f32 additions.
    Multiply,
    /// Integers, comparisons and conversions.
    Logic,
    /// Shared memory, the L1 and shuffles, which are one path.
    Shared,
    Memory,
}

impl Unit {
    pub const ALL: [(Unit, &str); 7] = [
        (Unit::Issue, "issue"),
        (Unit::Tensor, "tensor cores"),
        (Unit::Special, "MUFU unit"),
        (Unit::Multiply, "FMA"),
        (Unit::Logic, "ALU"),
        (Unit::Shared, "shared memory"),
        (Unit::Memory, "memory"),
    ];
}

/// Lanes of a warpgroup.
const LANES: f64 = 128.0;
/// Bytes a clock of shared memory and the L1.
const SHARED: f64 = 128.0;
/// Bytes a clock from the L2 to a multiprocessor.
const L2: f64 = 64.0;

/// What one multiprocessor does in a clock.
pub struct Machine {
    /// Operations of products of 16-bit numbers; those of TF32 take twice as long.
    tensor: f64,
    /// f32 multiplications and additions.
    float: f64,
    double: f64,
    /// Its share of the bytes of the GPU's memory.
    memory: f64,
}

/// An A100 of 80 GB: 108 multiprocessors at 1.41 GHz, 2.04 TB/s.
const A100: Machine = Machine { tensor: 2048.0, float: 64.0, double: 32.0, memory: 2.04e12 / 108.0 / 1.41e9 };
/// An H200: 132 multiprocessors at 1.75 GHz, 4.8 TB/s.
const H200: Machine = Machine { tensor: 4096.0, float: 128.0, double: 64.0, memory: 4.8e12 / 132.0 / 1.75e9 };

/// The numbers of a shape: `64x128x16` of HGMMA, `16816` of HMMA.
fn shape(instruction: &Instruction) -> Option<[f64; 3]> {
    let first = instruction.opcode.split('.').nth(1)?;
    let numbers: Vec<f64> = first.split('x').filter_map(|number| number.parse().ok()).collect();
    match (first, &numbers[..]) {
        ("16816", _) => Some([16.0, 8.0, 16.0]),
        ("1688", _) => Some([16.0, 8.0, 8.0]),
        ("1684", _) => Some([16.0, 8.0, 4.0]),
        (_, [m, n, k]) => Some([*m, *n, *k]),
        _ => None,
    }
}

impl Machine {
    pub fn of(arch: &str) -> &'static Machine {
        if arch == "sm_80" { &A100 } else { &H200 }
    }

    /// Bytes of a clock from where operands come: products read the same ones again and again, from the L2; everything else
    /// comes from memory.
    pub fn bytes(&self, products: bool) -> f64 {
        if products { L2 } else { self.memory }
    }

    /// Clocks that an instruction keeps a unit busy. [`Unit::Memory`] is counted in bytes.
    pub fn clocks(&self, instruction: &Instruction) -> Vec<(Unit, f64)> {
        let name = instruction.name();
        let bytes = LANES * instruction.width() as f64;
        let mut clocks = vec![(Unit::Issue, 1.0)];
        match name {
            "HGMMA" | "HMMA" => {
                let [m, n, k] = shape(instruction).unwrap_or_else(|| panic!("the shape of {}", instruction.opcode));
                // A warpgroup executes an HGMMA together, and each of its warps an HMMA of its own.
                let each = if name == "HMMA" { 4.0 } else { 1.0 };
                let slower = if instruction.has("TF32") { 2.0 } else { 1.0 };
                clocks.push((Unit::Tensor, each * 2.0 * m * n * k * slower / self.tensor));
                if name == "HGMMA" {
                    // The right operand lies in shared memory, and so does the left one unless it stands in registers.
                    let in_registers =
                        instruction.operands.split(", ").nth(1).is_some_and(|left| left.starts_with('R'));
                    let left = if in_registers { 0.0 } else { m };
                    let width = if instruction.has("TF32") { 4.0 } else { 2.0 };
                    clocks.push((Unit::Shared, (left + n) * k * width / SHARED));
                }
            }
            "MUFU" => clocks.push((Unit::Special, LANES / 16.0)),
            "FADD" | "FMUL" | "FFMA" => clocks.push((Unit::Multiply, LANES / self.float)),
            "HADD2" | "HMUL2" | "HFMA2" => clocks.push((Unit::Multiply, LANES / 128.0)),
            "IMAD" => clocks.push((Unit::Multiply, LANES / 64.0)),
            "DADD" | "DMUL" | "DFMA" | "DSETP" | "DMNMX" => clocks.push((Unit::Multiply, LANES / self.double)),
            "SHFL" => clocks.push((Unit::Shared, 4.0)),
            "LDSM" | "STSM" => {
                let matrices = [1.0, 2.0, 4.0].into_iter().find(|n| instruction.has(&n.to_string())).unwrap_or(1.0);
                clocks.push((Unit::Shared, 4.0 * matrices * 128.0 / SHARED));
            }
            // A warp takes a clock at the least.
            "LDS" | "STS" | "ATOMS" | "LDL" | "STL" => clocks.push((Unit::Shared, (bytes / SHARED).max(4.0))),
            "LDG" | "STG" | "LDGSTS" | "RED" | "REDG" | "ATOMG" => {
                clocks.push((Unit::Shared, (bytes / SHARED).max(4.0)));
                clocks.push((Unit::Memory, bytes));
            }
            _ => {}
        }
        let class = Class::of(instruction);
        if clocks.len() == 1 && matches!(class, Some(Class::Float | Class::Half | Class::Integer)) && name != "LDC" {
            clocks.push((Unit::Logic, LANES / 64.0));
        }
        clocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::snippet;

    fn one(text: &'static str) -> Instruction<'static> {
        snippet(text).code[0]
    }

    fn busy(text: &'static str, unit: Unit, machine: &Machine) -> f64 {
        let clocks = machine.clocks(&one(text));
        clocks.iter().filter(|(of, _)| *of == unit).map(|(_, clocks)| clocks).sum()
    }

    #[test]
    fn instructions_have_a_class() {
        for (text, class) in [
            ("HMMA.16816.F32 R4, R8, R12, R4", Class::Tensor),
            ("@P0 MUFU.EX2 R4, R4", Class::Special),
            ("FMNMX R4, R5, R6, !PT", Class::Float),
            ("F2FP.BF16.PACK_AB R4, R5, R6", Class::Half),
            ("DADD R4, R4, R6", Class::Double),
            ("IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28]", Class::Integer),
            ("LDSM.16.M88.4 R4, [R2]", Class::Shared),
            ("LDGSTS.E.BYPASS.LTC128B.128 [R2], desc[UR4][R4.64]", Class::Global),
            ("UTMALDG.4D [UR8], [UR4], desc[UR6]", Class::Global),
            ("SHFL.BFLY PT, R4, R5, 0x1, 0x1f", Class::Warp),
            ("SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R2", Class::Control),
            ("R2UR UR4, R2", Class::Uniform),
            ("UIADD3 UR4, UR4, 0x1, URZ", Class::Uniform),
        ] {
            assert_eq!(Class::of(&one(text)), Some(class), "{text}");
        }
        assert_eq!(Class::of(&one("XYZZY R0")), None);
    }

    #[test]
    fn products_take_what_they_multiply() {
        // One of each of four warps: 4 * 4096 operations.
        assert_eq!(busy("HMMA.16816.F32 R4, R8, R12, R4", Unit::Tensor, &A100), 8.0);
        assert_eq!(busy("HMMA.16816.F32.BF16 R4, R8, R12, R4", Unit::Tensor, &H200), 4.0);
        assert_eq!(busy("HMMA.1688.F32.TF32 R4, R8, R12, R4", Unit::Tensor, &A100), 8.0);
        // Half of N per step of 16, from registers and from shared memory.
        let (a, b) =
            ("HGMMA.64x128x16.F32 R24, gdesc[UR8], R24", "HGMMA.64x128x16.F32 R24, R4, gdesc[UR8].tnspB, R24, gsb0");
        assert_eq!((busy(a, Unit::Tensor, &H200), busy(b, Unit::Tensor, &H200)), (64.0, 64.0));
        assert_eq!((busy(a, Unit::Shared, &H200), busy(b, Unit::Shared, &H200)), (48.0, 32.0));
        assert_eq!(busy("HGMMA.64x16x8.F32.TF32 R24, gdesc[UR8], R24", Unit::Tensor, &H200), 8.0);
    }

    #[test]
    fn units_take_what_they_move() {
        for (text, unit, clocks) in [
            ("MUFU.EX2 R4, R4", Unit::Special, 8.0),
            ("FFMA R4, R4, R5, R6", Unit::Multiply, 1.0),
            ("IMAD R4, R4, R5, R6", Unit::Multiply, 2.0),
            ("FMNMX R4, R5, R6, !PT", Unit::Logic, 2.0),
            ("FMNMX R4, R5, R6, !PT", Unit::Multiply, 0.0),
            ("LOP3.LUT R4, R5, R6, RZ, 0xc0, !PT", Unit::Logic, 2.0),
            ("LDS.128 R4, [R2]", Unit::Shared, 16.0),
            ("STS.U16 [R2], R4", Unit::Shared, 4.0),
            ("LDSM.16.MT88.4 R4, [R2]", Unit::Shared, 16.0),
            ("SHFL.BFLY PT, R4, R5, 0x1, 0x1f", Unit::Shared, 4.0),
            ("LDG.E.64 R4, desc[UR4][R2.64]", Unit::Memory, 1024.0),
            ("BRA 0x0", Unit::Issue, 1.0),
        ] {
            assert_eq!(busy(text, unit, &H200), clocks, "{text}");
        }
        assert_eq!(busy("FFMA R4, R4, R5, R6", Unit::Multiply, &A100), 2.0);
    }
}
