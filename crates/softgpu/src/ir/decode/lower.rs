//! What decoders ask for slots.

use std::collections::HashMap;

use super::{Reject, special};
use crate::exec::{Op, nothing};
use crate::ir::reach::Reach;
use crate::ir::{Class, Control, Fill, Inst, Kind, Source};
use crate::mem::windows;
use crate::ptx::{Base, Function, Operand, Prototype, Reg, Type};

/// State spaces of variables and addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// `.param`
    Param,
    /// `.shared`
    Shared,
    /// The function's frame: `.local`, and `.param` of device functions and of calls.
    Local,
    /// `.global` and `.const`: both live in device memory.
    Global,
    /// A device function.
    Code,
}

/// A decoded address: slot of the base and a constant offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addr {
    /// Slot of the base: an address register, or a constant slot with a symbol's address.
    pub slot: u16,
    /// Whether the base is a 64-bit pair; else 32 bits.
    pub wide: bool,
    /// Constant byte offset to add.
    pub offset: i64,
}

/// What a name in an operand stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Where it lives.
    pub space: Space,
    /// Its address in that space; for [`Space::Global`] the index of the module's variable, for
    /// [`Space::Code`] that of the module's function.
    pub at: u32,
    /// Bytes.
    pub size: u32,
}

/// A register's type and, in the second pass, its slot or predicate number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegInfo {
    /// Declared type.
    pub ty: Type,
    /// Slot, or predicate number for `.pred`; without meaning in the first pass.
    pub slot: u16,
}

/// Slots 0 and 1 take results that nobody wants.
pub const SINK_SLOT: u16 = 0;
/// Predicate 0 is always true.
pub const TRUE_PRED: u16 = 0;
/// Predicate 1 takes results that nobody wants.
pub const SINK_PRED: u16 = 1;
/// The first slot and the first predicate that may be assigned.
pub const FIRST_FREE: u16 = 2;

/// The functions of the kernel that is lowered, as seen from one of them.
pub struct Scene<'m> {
    /// Names of the module.
    pub symbols: &'m HashMap<String, Symbol>,
    /// Names of the current function.
    pub own: &'m HashMap<String, Symbol>,
    /// `.branchtargets` lists of the current function.
    pub tables: &'m [Vec<u32>],
    /// `.callprototype` of the current function.
    pub prototypes: &'m [Prototype],
    /// The current function: 0 is the kernel.
    pub routine: u32,
    /// Who calls whom; `None` where there is nobody to call.
    pub reach: Option<&'m Reach<'m>>,
}

impl<'m> Scene<'m> {
    /// Before the first function.
    pub fn module(
        symbols: &'m HashMap<String, Symbol>,
        own: &'m HashMap<String, Symbol>,
        reach: &'m Reach<'m>,
    ) -> Scene<'m> {
        Scene { symbols, own, tables: &[], prototypes: &[], routine: 0, reach: Some(reach) }
    }

    /// Goes on to function `number`.
    pub fn enter(&mut self, number: usize, function: &'m Function, own: &'m HashMap<String, Symbol>) {
        (self.routine, self.own) = (number as u32, own);
        (self.tables, self.prototypes) = (&function.tables, &function.prototypes);
    }
}

/// The state of lowering one kernel.
pub struct Lower<'m> {
    /// Registers by number.
    pub(crate) regs: Vec<RegInfo>,
    /// The function that is being lowered.
    pub(crate) scene: Scene<'m>,
    /// Registers read by the current statement.
    pub(crate) uses: Vec<Reg>,
    /// Which of `uses`, by position, are parts of addresses.
    pub(crate) addresses: Vec<usize>,
    /// Registers written by the current statement.
    pub(crate) defs: Vec<Reg>,
    /// Constant slots so far.
    pub(crate) fills: HashMap<Fill, u16>,
    /// The next constant slot.
    pub(crate) next_fill: usize,
    /// Operand lists.
    pub(crate) pool: Vec<u16>,
    /// Branches, exits and barriers.
    pub(crate) controls: Vec<Control>,
    /// Whether to choose the AVX2 build.
    pub(crate) wide: bool,
    /// The architecture that the module was compiled for: 80, 90.
    pub(crate) target: u32,
}

impl<'m> Lower<'m> {
    /// Before the first statement.
    pub fn new(scene: Scene<'m>, wide: bool, target: u32) -> Lower<'m> {
        Lower {
            regs: Vec::new(),
            scene,
            uses: Vec::new(),
            addresses: Vec::new(),
            defs: Vec::new(),
            fills: HashMap::new(),
            next_fill: usize::from(FIRST_FREE),
            pool: Vec::new(),
            controls: Vec::new(),
            wide,
            target,
        }
    }

    /// An unguarded [`Kind::Plain`] instruction of `op` with every operand 0; the guard is added by the caller.
    pub fn inst(&self, op: &Op, class: Class) -> Inst {
        Inst { run: op.pick(self.wide), ..Lower::empty(Kind::Plain, class) }
    }

    /// Refuses a form that the module's target does not have.
    pub fn needs(&self, target: u32) -> Result<(), Reject> {
        if self.target >= target {
            return Ok(());
        }
        Err(Reject(format!("this form needs .target sm_{target}, and the module has sm_{}", self.target)))
    }

    /// An instruction that the scheduler does itself.
    pub fn control(&mut self, control: Control, class: Class) -> Inst {
        self.controls.push(control);
        Inst { x: self.controls.len() as u32 - 1, ..Lower::empty(Kind::Control, class) }
    }

    /// The end of the current function.
    pub fn end(&mut self) -> Inst {
        let control = if self.scene.routine == 0 { Control::Exit } else { Control::Return };
        self.control(control, Class::Control)
    }

    fn empty(kind: Kind, class: Class) -> Inst {
        Inst {
            run: nothing,
            x: 0,
            y: 0,
            guard: TRUE_PRED,
            d: 0,
            a: 0,
            b: 0,
            c: 0,
            m: 0,
            kind,
            negate: false,
            watched: false,
            class,
        }
    }

    /// The declared type of a register operand: it may be wider than the instruction's type.
    pub fn reg_type(&self, operand: &Operand) -> Option<Type> {
        match operand {
            Operand::Reg(r) | Operand::Not(r) => self.regs.get(r.0 as usize).map(|i| i.ty),
            _ => None,
        }
    }

    /// The slot of an operand that is read as `ty`: a register, literal, special register or symbol address.
    /// 64-bit types get two adjacent slots; narrower ones one, and values of 8 and 16 bits are zero-extended in it.
    pub fn src(&mut self, operand: &Operand, ty: Type) -> Result<u16, Reject> {
        let wide = ty.bits() == 64;
        match operand {
            Operand::Reg(r) => self.register(*r, ty, false),
            Operand::Int(v) if ty.is_float() && ty.bits() >= 32 => {
                // Integer literals stand for bit patterns only where the type is untyped or a half.
                Err(Reject(format!("the integer literal {v} where .{} is expected", ty.name())))
            }
            Operand::Int(v) => {
                let bits = if ty.bits() < 64 { *v as u64 & ((1u64 << ty.bits()) - 1) } else { *v as u64 };
                self.fill(Source::Const(bits), wide)
            }
            Operand::F32(bits) if wide => self.fill(Source::Const(f64::from(f32::from_bits(*bits)).to_bits()), true),
            Operand::F32(bits) => self.fill(Source::Const(u64::from(*bits)), false),
            Operand::F64(bits) if wide => self.fill(Source::Const(*bits), true),
            Operand::F64(bits) if ty.bits() == 32 => {
                self.fill(Source::Const(u64::from((f64::from_bits(*bits) as f32).to_bits())), false)
            }
            Operand::Special(name) => self.special(name, ty),
            Operand::Symbol(name, offset) => self.symbol_address(name, *offset, wide),
            other => Err(Reject(format!("operand {other:?} where a value of type .{} is expected", ty.name()))),
        }
    }

    /// The slot of a register that is written as `ty`; `_` gets a slot that nobody reads.
    pub fn dst(&mut self, operand: &Operand, ty: Type) -> Result<u16, Reject> {
        match operand {
            Operand::Reg(r) => self.register(*r, ty, true),
            Operand::Sink => Ok(SINK_SLOT),
            other => Err(Reject(format!("operand {other:?} where a register is expected"))),
        }
    }

    /// A predicate that is read, and whether it is negated (`!p`).
    pub fn src_pred(&mut self, operand: &Operand) -> Result<(u16, bool), Reject> {
        match operand {
            Operand::Reg(r) => Ok((self.register(*r, Type::Pred, false)?, false)),
            Operand::Not(r) => Ok((self.register(*r, Type::Pred, false)?, true)),
            // Literals: the constant predicate, or its negation.
            Operand::Int(v) => Ok((TRUE_PRED, *v == 0)),
            other => Err(Reject(format!("operand {other:?} where a predicate is expected"))),
        }
    }

    /// A predicate that is written.
    pub fn dst_pred(&mut self, operand: &Operand) -> Result<u16, Reject> {
        match operand {
            Operand::Reg(r) => self.register(*r, Type::Pred, true),
            Operand::Sink => Ok(SINK_PRED),
            other => Err(Reject(format!("operand {other:?} where a predicate is expected"))),
        }
    }

    /// Slots of `{a, b, ...}` (or of a single operand) that are read as `ty`: start in the pool and count.
    pub fn src_list(&mut self, operand: &Operand, ty: Type) -> Result<(u32, u32), Reject> {
        self.list(operand, |lower, o| lower.src(o, ty))
    }

    /// Slots of `{a, b, ...}` (or of a single operand) that are written as `ty`: start in the pool and count.
    pub fn dst_list(&mut self, operand: &Operand, ty: Type) -> Result<(u32, u32), Reject> {
        self.list(operand, |lower, o| lower.dst(o, ty))
    }

    fn list(
        &mut self,
        operand: &Operand,
        mut one: impl FnMut(&mut Self, &Operand) -> Result<u16, Reject>,
    ) -> Result<(u32, u32), Reject> {
        let items = match operand {
            Operand::Vector(items) => items.as_slice(),
            single => std::slice::from_ref(single),
        };
        let mut slots = Vec::with_capacity(items.len());
        for item in items {
            slots.push(one(self, item)?);
        }
        Ok((self.put(&slots), slots.len() as u32))
    }

    /// Puts further operands into the pool; returns where they start. Operations read `env.kernel.pool`.
    pub fn put(&mut self, slots: &[u16]) -> u32 {
        let start = self.pool.len() as u32;
        self.pool.extend_from_slice(slots);
        start
    }

    /// Base and offset of `[...]`. A symbol's own address is in its space: for generic addresses PTX uses `cvta`.
    pub fn address(&mut self, operand: &Operand) -> Result<Addr, Reject> {
        let Operand::Address(address) = operand else {
            return Err(Reject(format!("operand {operand:?} where an address is expected")));
        };
        match &address.base {
            Base::Reg(r) => {
                let ty = self.regs.get(r.0 as usize).map_or(Type::B64, |i| i.ty);
                self.addresses.push(self.uses.len());
                let slot = self.register(*r, ty, false)?;
                Ok(Addr { slot, wide: ty.bits() == 64, offset: address.offset })
            }
            Base::Symbol(name) => {
                let slot = self.symbol_address(name, address.offset, true)?;
                Ok(Addr { slot, wide: true, offset: 0 })
            }
            Base::None => {
                let slot = self.fill(Source::Const(address.offset as u64), true)?;
                Ok(Addr { slot, wide: true, offset: 0 })
            }
        }
    }

    /// What `name` stands for.
    pub fn symbol(&self, name: &str) -> Option<Symbol> {
        self.scene.own.get(name).or_else(|| self.scene.symbols.get(name)).copied()
    }

    /// A slot that holds a value of the parameter block: `ld.param` with a constant address is a move from it.
    pub fn param(&mut self, offset: u32, ty: Type, pair: bool) -> Result<u16, Reject> {
        let bytes = ty.bytes() as u8;
        self.fill(Source::Param { offset, bytes, signed: ty.is_signed() }, pair)
    }

    fn symbol_address(&mut self, name: &str, offset: i64, pair: bool) -> Result<u16, Reject> {
        let symbol = self.symbol(name).ok_or_else(|| Reject(format!("unknown name {name}")))?;
        let source = match symbol.space {
            Space::Global => Source::Global { index: symbol.at, offset },
            Space::Local if self.scene.routine != 0 => {
                let offset = (i64::from(symbol.at) + offset) as u32;
                Source::Frame { routine: self.scene.routine, offset }
            }
            Space::Code if offset == 0 => Source::Const(windows::CODE + windows::CODE_STEP * u64::from(symbol.at)),
            Space::Code => return Err(Reject(format!("the address of {name} plus an offset"))),
            _ => Source::Const((i64::from(symbol.at) + offset) as u64),
        };
        self.fill(source, pair)
    }

    fn special(&mut self, name: &str, ty: Type) -> Result<u16, Reject> {
        let special =
            special::parse(name).ok_or_else(|| Reject(format!("special register {name} is not implemented")))?;
        if ty.bits() > 32 {
            return Err(Reject(format!("the 32-bit register {name} where .{} is expected", ty.name())));
        }
        self.fill(Source::Special(special), false)
    }

    fn register(&mut self, reg: Reg, ty: Type, write: bool) -> Result<u16, Reject> {
        let info = *self.regs.get(reg.0 as usize).ok_or("a register that is not declared")?;
        if info.ty.bits() > 64 {
            return Err("registers of 128 bits are not implemented".into());
        }
        let class = |t: Type| (t == Type::Pred, t.bits() == 64, t.bits() == 128);
        if class(info.ty) != class(ty) {
            return Err(Reject(format!("a register of type .{} where .{} is expected", info.ty.name(), ty.name())));
        }
        if write { &mut self.defs } else { &mut self.uses }.push(reg);
        Ok(info.slot)
    }

    fn fill(&mut self, source: Source, pair: bool) -> Result<u16, Reject> {
        let fill = Fill { source, pair };
        if let Some(slot) = self.fills.get(&fill) {
            return Ok(*slot);
        }
        let slot = u16::try_from(self.next_fill).map_err(|_| "more than 65535 constant slots")?;
        self.next_fill += 1 + usize::from(pair);
        self.fills.insert(fill, slot);
        Ok(slot)
    }
}
