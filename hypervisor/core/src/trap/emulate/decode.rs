//! The decoder of privileged instructions: a fixed list of forms, in 64-bit code, and nothing else.
//!
//! It is no general decoder. Whatever is not on the list gives `None`, and the guest its #GP; so do prefixes that the
//! architecture leaves undefined for a form. Tests compare every form with two independent decoders.
//!
//! Not on the list although privileged, because a paravirtual kernel has no use for them: `hlt`, `invd`, `invlpg`,
//! `lmsw`, `rdpmc`, `swapgs`, `sysret`, `mov cr8`, and all that load or store descriptor tables.
//!
//! SPEC: Intel SDM volume 2, chapter 2 and the pages of the instructions; AMD APM volume 3, chapter 1.

use dom0_abi::arch::EMULATE_PREFIX;
use oxen_arch::PortWidth;

use crate::trap::instruction::{Gpr, Input, REX_B, REX_R, REX_W, Segment};

/// Length of the forced form of `cpuid`, its prefix included.
pub const FORCED_CPUID_LENGTH: u8 = 7;

/// The control registers that can be read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlRegister {
    /// CR0.
    Cr0,
    /// CR2.
    Cr2,
    /// CR3.
    Cr3,
    /// CR4.
    Cr4,
}

/// One of DR0 to DR7.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DebugRegister(u8);

impl DebugRegister {
    /// The register with this number; only the low three bits count.
    pub const fn new(number: u8) -> Self {
        Self(number & 7)
    }

    /// Its number, below 8.
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// Where `in` and `out` have the port number from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortOperand {
    /// A byte of the instruction.
    Immediate(u8),
    /// DX.
    Dx,
}

/// Whether an instruction moves data to the CPU or away from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// `in`, `ins`.
    In,
    /// `out`, `outs`.
    Out,
}

/// `ins` or `outs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StringIo {
    /// `ins` or `outs`.
    pub direction: Direction,
    /// Size of an element.
    pub width: PortWidth,
    /// Repeated, with the count in rCX.
    pub repeated: bool,
    /// Address and count have 32 bits instead of 64.
    pub address_32: bool,
    /// Segment of the memory operand; always [`Segment::Flat`] for `ins`.
    pub segment: Segment,
}

/// A privileged instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Instruction {
    /// `cpuid`.
    Cpuid,
    /// `rdmsr`.
    Rdmsr,
    /// `wrmsr`.
    Wrmsr,
    /// `rdtsc`.
    Rdtsc,
    /// `rdtscp`.
    Rdtscp,
    /// `mov` from a control register.
    ReadControl(ControlRegister, Gpr),
    /// `mov` to a control register.
    WriteControl(ControlRegister, Gpr),
    /// `mov` from a debug register.
    ReadDebug(DebugRegister, Gpr),
    /// `mov` to a debug register.
    WriteDebug(DebugRegister, Gpr),
    /// `clts`.
    Clts,
    /// `cli`.
    Cli,
    /// `sti`.
    Sti,
    /// `wbinvd`.
    Wbinvd,
    /// `xsetbv`.
    Xsetbv,
    /// `in` or `out`.
    PortIo(Direction, PortOperand, PortWidth),
    /// `ins` or `outs`.
    StringIo(StringIo),
}

/// An instruction and how many bytes it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decoded {
    /// What it does.
    pub instruction: Instruction,
    /// Its length, at most [`MAX_LENGTH`](crate::trap::instruction::MAX_LENGTH).
    pub length: u8,
}

/// Whether the bytes start with the forced form of `cpuid`.
///
/// ABI: `public/arch-x86/xen.h`, `XEN_CPUID`.
#[doc(alias = "XEN_CPUID")]
pub fn is_forced_cpuid(bytes: &[u8]) -> bool {
    bytes
        .strip_prefix(&EMULATE_PREFIX)
        .is_some_and(|rest| rest.starts_with(&[0x0f, 0xa2]))
}

/// Decodes the instruction at the start of `bytes`; `None` if it is not on the list, is longer than [`MAX_LENGTH`](crate::trap::instruction::MAX_LENGTH) or
/// does not end within `bytes`.
pub fn decode(bytes: &[u8]) -> Option<Decoded> {
    let mut input = Input::new(bytes);
    let (prefixes, opcode) = Prefixes::read(&mut input)?;
    let instruction = match opcode {
        0x0f => two_byte(&mut input, &prefixes)?,
        0x6c..=0x6f => string_io(opcode, &prefixes)?,
        0xe4..=0xe7 => {
            let port = PortOperand::Immediate(input.byte()?);
            PortIo(direction(opcode), port, prefixes.port_width(opcode)?)
        }
        0xec..=0xef => PortIo(
            direction(opcode),
            PortOperand::Dx,
            prefixes.port_width(opcode)?,
        ),
        0xfa => Cli,
        0xfb => Sti,
        _ => return None,
    };
    Some(Decoded {
        instruction,
        length: input.length(),
    })
}

use Instruction::*;

#[derive(Default)]
struct Prefixes {
    operand_size: bool,
    address_size: bool,
    /// 0xf2 or 0xf3, whichever came last; 0 for neither.
    repeat: u8,
    segment: Option<Segment>,
    rex: u8,
}

impl Prefixes {
    /// Reads all prefixes and the opcode behind them. `None` for LOCK, which no form of the list takes, and for a REX that
    /// is not the last prefix: it would mean nothing, and no assembler writes one.
    fn read(input: &mut Input<'_>) -> Option<(Self, u8)> {
        let mut prefixes = Self::default();
        loop {
            match input.byte()? {
                0x66 => prefixes.operand_size = true,
                0x67 => prefixes.address_size = true,
                repeat @ (0xf2 | 0xf3) => prefixes.repeat = repeat,
                // The four segments without a base are ignored: they do not take back fs or gs.
                0x26 | 0x2e | 0x36 | 0x3e => {}
                0x64 => prefixes.segment = Some(Segment::Fs),
                0x65 => prefixes.segment = Some(Segment::Gs),
                0xf0 => return None,
                rex @ 0x40..=0x4f => {
                    prefixes.rex = rex;
                    // Whatever follows is taken for an opcode; no prefix is one.
                    return Some((prefixes, input.byte()?));
                }
                opcode => return Some((prefixes, opcode)),
            }
        }
    }

    const fn has_rex(&self, bit: u8) -> bool {
        self.rex & bit != 0
    }

    /// `None` for 0x66 together with REX.W: manuals say little about it, and decoders differ.
    fn port_width(&self, opcode: u8) -> Option<PortWidth> {
        if opcode & 1 == 0 {
            Some(PortWidth::Byte)
        } else if !self.operand_size {
            Some(PortWidth::Dword)
        } else {
            (!self.has_rex(REX_W)).then_some(PortWidth::Word)
        }
    }
}

const fn direction(opcode: u8) -> Direction {
    if opcode & 2 == 0 {
        Direction::In
    } else {
        Direction::Out
    }
}

fn string_io(opcode: u8, prefixes: &Prefixes) -> Option<Instruction> {
    let direction = direction(opcode);
    let segment = match direction {
        // The destination of `ins` is es whatever the prefixes say.
        Direction::In => Segment::Flat,
        Direction::Out => prefixes.segment.unwrap_or(Segment::Flat),
    };
    let repeated = match prefixes.repeat {
        0 => false,
        0xf3 => true,
        // Reserved for instructions that do not compare.
        _ => return None,
    };
    Some(StringIo(self::StringIo {
        direction,
        width: prefixes.port_width(opcode)?,
        repeated,
        address_32: prefixes.address_size,
        segment,
    }))
}

fn two_byte(input: &mut Input<'_>, prefixes: &Prefixes) -> Option<Instruction> {
    let opcode = input.byte()?;
    let instruction = match opcode {
        0x01 => return group_7(input, prefixes),
        0x06 => Clts,
        0x09 => Wbinvd,
        0x20..=0x23 => return move_special(opcode, input.byte()?, prefixes),
        0x30 => Wrmsr,
        0x31 => Rdtsc,
        0x32 => Rdmsr,
        0xa2 => Cpuid,
        _ => return None,
    };
    // Repeat prefixes select other instructions, now or on a CPU to come (0xf3 makes `wbnoinvd` of `wbinvd`).
    (prefixes.repeat == 0).then_some(instruction)
}

fn group_7(input: &mut Input<'_>, prefixes: &Prefixes) -> Option<Instruction> {
    if prefixes.repeat != 0 {
        return None;
    }
    match input.byte()? {
        0xd1 if !prefixes.operand_size => Some(Xsetbv),
        0xf9 => Some(Rdtscp),
        _ => None,
    }
}

fn move_special(opcode: u8, mod_rm: u8, prefixes: &Prefixes) -> Option<Instruction> {
    if prefixes.repeat != 0 {
        return None;
    }
    // The mod field is ignored: both operands are registers.
    let special = (mod_rm >> 3) & 7;
    let low = mod_rm & 7;
    let gpr = Gpr::new(if prefixes.has_rex(REX_B) {
        low | 8
    } else {
        low
    });
    if prefixes.has_rex(REX_R) {
        // CR8 to CR15 and DR8 to DR15: refused or not existent.
        return None;
    }
    let control = || match special {
        0 => Some(ControlRegister::Cr0),
        2 => Some(ControlRegister::Cr2),
        3 => Some(ControlRegister::Cr3),
        4 => Some(ControlRegister::Cr4),
        _ => None,
    };
    match opcode {
        0x20 => Some(ReadControl(control()?, gpr)),
        0x22 => Some(WriteControl(control()?, gpr)),
        0x21 => Some(ReadDebug(DebugRegister::new(special), gpr)),
        0x23 => Some(WriteDebug(DebugRegister::new(special), gpr)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
