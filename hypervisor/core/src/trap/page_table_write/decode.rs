//! The decoder of instructions that write to memory the ways kernels write to page tables: a fixed list of forms, in 64-bit
//! code, and nothing else.
//!
//! Whatever is not on the list gives `None`, and the guest its page fault; so do the prefixes that no form needs: 0x67 and
//! both repeat prefixes. The few forms that kernels use all the time have a short way ([`quick`]), which the general one
//! agrees with. Tests compare every form with two independent decoders.
//!
//! SPEC: Intel SDM volume 2, chapter 2 and the pages of the instructions; AMD APM volume 3, chapter 1.

use dom0_abi::arch::CpuUserRegs;

use crate::trap::instruction::{Gpr, Input, REX_B, REX_R, REX_W, REX_X, Segment};

/// What becomes of the operand in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// `mov`.
    Move,
    /// `xchg`.
    Exchange,
    /// `and`.
    And,
    /// `or`.
    Or,
    /// `xor`.
    Xor,
    /// `add`.
    Add,
    /// `sub`.
    Subtract,
    /// `xadd`.
    ExchangeAdd,
    /// `cmpxchg`.
    CompareExchange,
    /// `bts`.
    SetBit,
    /// `btr`.
    ResetBit,
}

/// The size of the operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// One byte.
    Byte,
    /// Two bytes.
    Word,
    /// Four bytes.
    Dword,
    /// Eight bytes.
    Qword,
}

impl Size {
    /// How many bytes that is, as a power of two.
    const fn shift(self) -> u32 {
        match self {
            Self::Byte => 0,
            Self::Word => 1,
            Self::Dword => 2,
            Self::Qword => 3,
        }
    }

    /// How many bytes.
    pub const fn bytes(self) -> u64 {
        1 << self.shift()
    }

    /// How many bits.
    pub const fn bits(self) -> u32 {
        8 << self.shift()
    }

    /// All bits of a value.
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64_u32.wrapping_sub(self.bits()) & 63)
    }
}

/// The operand that is not in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The lowest bits of a register.
    Register(Gpr),
    /// Bits 8 to 15 of rax, rcx, rdx or rbx.
    HighByte(Gpr),
    /// Part of the instruction, with its sign extended.
    Immediate(i32),
}

/// What the address of the memory operand counts from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Base {
    /// 0.
    Zero,
    /// A register.
    Register(Gpr),
    /// The end of the instruction.
    NextInstruction,
}

/// What is added to it: a register times a power of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Index {
    /// The register.
    pub register: Gpr,
    /// The power: 0 to 3.
    pub shift: u8,
}

/// A memory operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory {
    /// Where it counts from.
    pub base: Base,
    /// A register on top of that.
    pub index: Option<Index>,
    /// A number on top of that.
    pub displacement: i32,
    /// Whose base comes on top of that.
    pub segment: Segment,
}

/// An instruction that writes to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageTableWrite {
    /// What it does.
    pub operation: Operation,
    /// With how many bytes.
    pub size: Size,
    /// With what.
    pub source: Source,
    /// Where.
    pub memory: Memory,
    /// How long the instruction is.
    pub length: u8,
}

impl PageTableWrite {
    /// The value of the operand that is not in memory; only as many bits as the size has mean anything.
    pub fn source(&self, regs: &CpuUserRegs) -> u64 {
        match self.source {
            Source::Register(gpr) => gpr.read(regs),
            Source::HighByte(gpr) => gpr.read(regs) >> 8,
            Source::Immediate(value) => i64::from(value).cast_unsigned(),
        }
    }

    /// The linear address of the operand in memory, for the registers that the instruction was to run with.
    pub fn address(&self, regs: &CpuUserRegs, segment_base: impl FnOnce(Segment) -> u64) -> u64 {
        let Memory {
            base,
            index,
            displacement,
            segment,
        } = self.memory;
        let mut address = match base {
            Base::Register(gpr) => gpr.read(regs),
            Base::Zero => 0,
            Base::NextInstruction => regs.rip.wrapping_add(u64::from(self.length)),
        };
        address = address.wrapping_add_signed(i64::from(displacement));
        if let Some(Index { register, shift }) = index {
            address = address.wrapping_add(register.read(regs) << (shift & 3));
        }
        if segment != Segment::Flat {
            address = address.wrapping_add(segment_base(segment));
        }
        if matches!(self.operation, Operation::SetBit | Operation::ResetBit)
            && let Source::Register(gpr) = self.source
        {
            // A bit number in a register is one of a bit string, which reaches as far as the number does, either way.
            let spare = 64_u32.wrapping_sub(self.size.bits()) & 63;
            let bit = (gpr.read(regs) << spare).cast_signed() >> spare;
            let operands = bit.wrapping_shr(self.size.shift().wrapping_add(3));
            address = address.wrapping_add_signed(operands.wrapping_shl(self.size.shift()));
        }
        address
    }
}

/// Decodes the forms that compilers and kernels make of writes to entries, with LOCK, without, and with 0x3e in its place (as
/// Linux patches it for one CPU): of 64 bits, `mov`, `xchg`, `cmpxchg`, `bts` and `btr` from a register, and the latter two with
/// an immediate; arithmetic and logic of a byte with an immediate. The address is a register, or a register and a byte.
///
/// `head`: the first eight bytes, of which these forms never have more. `None`: it is another instruction.
#[inline(always)]
pub(super) fn quick(mut head: u64) -> Option<PageTableWrite> {
    // Opcode and ModRM.
    let mut length: u8 = 2;
    let prefix = head as u8;
    if matches!(prefix, LOCK | DS) {
        head >>= 8;
        length = length.wrapping_add(1);
    }
    let mut rex = 0;
    if head & 0xf0 == 0x40 {
        rex = head as u8;
        head >>= 8;
        length = length.wrapping_add(1);
    }
    let is_escaped = head as u8 == 0x0f;
    if is_escaped {
        head >>= 8;
        length = length.wrapping_add(1);
    }
    let (opcode, mod_rm) = (head as u8, (head >> 8) as u8);
    head >>= 16;
    // A SIB byte would follow, or the address be relative to the instruction.
    if mod_rm & 7 == 4 || mod_rm & 0xc7 == 5 {
        return None;
    }
    let displacement = match mod_rm >> 6 {
        0 => 0,
        1 => {
            let byte = head as i8;
            head >>= 8;
            length = length.wrapping_add(1);
            i32::from(byte)
        }
        _ => return None,
    };
    let reg = (mod_rm >> 3) & 7;
    let is_wide = rex & REX_W != 0;
    let (operation, has_register) = match (is_escaped, opcode) {
        (false, 0x80) => (arithmetic(reg)?, false),
        _ if !is_wide => return None,
        (false, 0x89) if prefix != LOCK => (Operation::Move, true),
        (false, 0x87) => (Operation::Exchange, true),
        (true, 0xb1) => (Operation::CompareExchange, true),
        (true, 0xb3) => (Operation::ResetBit, true),
        (true, 0xab) => (Operation::SetBit, true),
        (true, 0xba) if reg == 6 => (Operation::ResetBit, false),
        (true, 0xba) if reg == 5 => (Operation::SetBit, false),
        _ => return None,
    };
    let source = if has_register {
        Source::Register(extended(reg, rex & REX_R))
    } else {
        length = length.wrapping_add(1);
        Source::Immediate(i32::from(head as i8))
    };
    let is_byte = opcode == 0x80;
    Some(PageTableWrite {
        operation,
        size: if is_byte { Size::Byte } else { Size::Qword },
        source,
        memory: Memory {
            base: Base::Register(extended(mod_rm & 7, rex & REX_B)),
            index: None,
            displacement,
            segment: Segment::Flat,
        },
        length,
    })
}

const LOCK: u8 = 0xf0;
const DS: u8 = 0x3e;

/// The register with this number, and a bit of REX on top of it.
const fn extended(number: u8, rex_bit: u8) -> Gpr {
    Gpr::new(if rex_bit != 0 { number | 8 } else { number })
}

/// Decodes everything on the list; `None` if the instruction at the start of `bytes` is not on it, is longer than one can be or does
/// not end within `bytes`.
#[inline(never)]
pub(super) fn general(bytes: &[u8]) -> Option<PageTableWrite> {
    let mut input = Input::new(bytes);
    let (prefixes, opcode) = Prefixes::read(&mut input)?;
    let form = Form::of(&mut input, opcode)?;
    let mod_rm = input.byte()?;
    let reg = (mod_rm >> 3) & 7;
    let operation = form.operation(reg)?;
    if prefixes.lock && operation == Operation::Move {
        return None;
    }
    let size = prefixes.size(form.is_byte);
    let memory = prefixes.memory(&mut input, mod_rm)?;
    let source = match form.operand {
        Operand::Register if size == Size::Byte && prefixes.rex.is_none() && reg >= 4 => {
            Source::HighByte(Gpr::new(reg & 3))
        }
        Operand::Register => Source::Register(extended(reg, prefixes.rex_bit(REX_R))),
        Operand::Byte => Source::Immediate(i32::from(input.byte()? as i8)),
        Operand::Full => Source::Immediate(match size {
            Size::Byte => i32::from(input.byte()? as i8),
            Size::Word => i32::from(i16::from_le_bytes(input.take()?)),
            Size::Dword | Size::Qword => i32::from_le_bytes(input.take()?),
        }),
    };
    Some(PageTableWrite {
        operation,
        size,
        source,
        memory,
        length: input.length(),
    })
}

/// What an opcode says.
struct Form {
    /// The operation, or that the ModRM byte says which.
    group: Group,
    is_byte: bool,
    operand: Operand,
}

#[derive(Clone, Copy)]
enum Group {
    /// The opcode means this operation.
    One(Operation),
    /// Arithmetic and logic, by their numbers. SPEC: Intel SDM volume 2, table A-6, group 1.
    Arithmetic,
    /// Bits. SPEC: group 8.
    Bits,
    /// `mov`. SPEC: group 11.
    Moves,
}

#[derive(Clone, Copy)]
enum Operand {
    /// A register.
    Register,
    /// An immediate byte.
    Byte,
    /// An immediate of the operand's size, or of four bytes for eight.
    Full,
}

impl Form {
    /// The form for an opcode, whose second byte is taken from `input`.
    fn of(input: &mut Input<'_>, opcode: u8) -> Option<Self> {
        use Operand::{Byte, Full, Register};
        let mut is_byte = opcode & 1 == 0;
        let (group, operand) = match opcode {
            // Those of the first eight rows whose operand is in memory.
            0x00..=0x3f if opcode & 6 == 0 => (Group::One(arithmetic(opcode >> 3)?), Register),
            0x80 | 0x83 => (Group::Arithmetic, Byte),
            0x81 => (Group::Arithmetic, Full),
            0x86 | 0x87 => (Group::One(Operation::Exchange), Register),
            0x88 | 0x89 => (Group::One(Operation::Move), Register),
            0xc6 | 0xc7 => (Group::Moves, Full),
            0x0f => {
                let opcode = input.byte()?;
                is_byte = matches!(opcode, 0xb0 | 0xc0);
                match opcode {
                    0xab => (Group::One(Operation::SetBit), Register),
                    0xb3 => (Group::One(Operation::ResetBit), Register),
                    0xba => (Group::Bits, Byte),
                    0xb0 | 0xb1 => (Group::One(Operation::CompareExchange), Register),
                    0xc0 | 0xc1 => (Group::One(Operation::ExchangeAdd), Register),
                    _ => return None,
                }
            }
            _ => return None,
        };
        Some(Self {
            group,
            is_byte,
            operand,
        })
    }

    /// The operation, for the middle field of the ModRM byte.
    fn operation(&self, reg: u8) -> Option<Operation> {
        match (self.group, reg) {
            (Group::One(operation), _) => Some(operation),
            (Group::Arithmetic, number) => arithmetic(number),
            (Group::Bits, 5) => Some(Operation::SetBit),
            (Group::Bits, 6) => Some(Operation::ResetBit),
            (Group::Moves, 0) => Some(Operation::Move),
            (Group::Bits | Group::Moves, _) => None,
        }
    }
}

/// The operation with this number. `adc` and `sbb` are not on the list, `cmp` does not write.
fn arithmetic(number: u8) -> Option<Operation> {
    match number {
        0 => Some(Operation::Add),
        1 => Some(Operation::Or),
        4 => Some(Operation::And),
        5 => Some(Operation::Subtract),
        6 => Some(Operation::Xor),
        _ => None,
    }
}

struct Prefixes {
    lock: bool,
    operand_size: bool,
    segment: Segment,
    rex: Option<u8>,
}

impl Prefixes {
    /// Reads all prefixes and the first byte of the opcode behind them. `None` for those that no form takes, and for a REX
    /// that is not the last prefix: it would mean nothing, and no assembler writes one.
    fn read(input: &mut Input<'_>) -> Option<(Self, u8)> {
        let mut prefixes = Self {
            lock: false,
            operand_size: false,
            segment: Segment::Flat,
            rex: None,
        };
        loop {
            match input.byte()? {
                0x66 => prefixes.operand_size = true,
                LOCK => prefixes.lock = true,
                // The four segments without a base are ignored: they do not take back fs or gs.
                0x26 | 0x2e | 0x36 | DS => {}
                0x64 => prefixes.segment = Segment::Fs,
                0x65 => prefixes.segment = Segment::Gs,
                rex @ 0x40..=0x4f => {
                    prefixes.rex = Some(rex);
                    // Whatever follows is taken for an opcode; no prefix is one.
                    return Some((prefixes, input.byte()?));
                }
                // 0x67, 0xf2 and 0xf3 too: no opcode on the list.
                opcode => return Some((prefixes, opcode)),
            }
        }
    }

    fn rex_bit(&self, bit: u8) -> u8 {
        self.rex.unwrap_or(0) & bit
    }

    fn size(&self, is_byte: bool) -> Size {
        if is_byte {
            Size::Byte
        } else if self.rex_bit(REX_W) != 0 {
            Size::Qword
        } else if self.operand_size {
            Size::Word
        } else {
            Size::Dword
        }
    }

    /// The memory operand that begins with this ModRM byte; `None` if it is a register.
    fn memory(&self, input: &mut Input<'_>, mod_rm: u8) -> Option<Memory> {
        let (mode, low) = (mod_rm >> 6, mod_rm & 7);
        if mode == 3 {
            return None;
        }
        let mut base = Base::Register(extended(low, self.rex_bit(REX_B)));
        let mut index = None;
        // With no displacement, number 5 is no register, whatever REX says.
        let mut has_no_base = mode == 0 && low == 5;
        if low == 4 {
            let sib = input.byte()?;
            let register = extended((sib >> 3) & 7, self.rex_bit(REX_X));
            // The stack pointer is no index.
            if register.number() != 4 {
                index = Some(Index {
                    register,
                    shift: sib >> 6,
                });
            }
            base = Base::Register(extended(sib & 7, self.rex_bit(REX_B)));
            if mode == 0 && sib & 7 == 5 {
                base = Base::Zero;
                has_no_base = true;
            }
        } else if has_no_base {
            base = Base::NextInstruction;
        }
        let displacement = match mode {
            _ if has_no_base => i32::from_le_bytes(input.take()?),
            0 => 0,
            1 => i32::from(input.byte()? as i8),
            _ => i32::from_le_bytes(input.take()?),
        };
        Some(Memory {
            base,
            index,
            displacement,
            segment: self.segment,
        })
    }
}

#[cfg(test)]
mod tests;
