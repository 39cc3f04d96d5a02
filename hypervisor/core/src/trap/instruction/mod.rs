//! What the two kinds of emulation have in common: of privileged instructions ([`super::emulate`]) and of writes to page
//! tables ([`super::page_table_write`]).

pub mod fetch;

use core::mem::offset_of;

use dom0_abi::arch::CpuUserRegs;
use oxen_arch::Cpu;

use super::exception::Exception;
use super::flags;
use crate::domain::privileged_state::{PrivilegedState, dr};

/// The longest instruction that exists, prefixes included.
pub const MAX_LENGTH: usize = 15;

/// A general register, by its number in an encoding; always below 16.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gpr(u8);

impl Gpr {
    /// rax, which some instructions use without naming it.
    pub const RAX: Self = Self(0);

    /// The register with this number; only the low four bits count.
    pub const fn new(number: u8) -> Self {
        Self(number & 15)
    }

    /// Its number, below 16.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Its value.
    pub fn read(self, regs: &CpuUserRegs) -> u64 {
        let words: &Words = zerocopy::transmute_ref!(regs);
        words.get(self.place()).copied().unwrap_or(0)
    }

    /// Sets all 64 bits of it.
    pub fn write(self, regs: &mut CpuUserRegs, value: u64) {
        let words: &mut Words = zerocopy::transmute_mut!(regs);
        if let Some(word) = words.get_mut(self.place()) {
            *word = value;
        }
    }

    /// The word of a guest's registers that it is. A table and no `match`: that would become a tree of branches.
    fn place(self) -> usize {
        let number = usize::from(self.0 & 15);
        usize::from(PLACES.get(number).copied().unwrap_or(0))
    }
}

type Words = [u64; size_of::<CpuUserRegs>() / 8];

macro_rules! places {
    ($($name:ident)*) => {
        [$((offset_of!(CpuUserRegs, $name) / 8) as u8),*]
    };
}

/// Which words of a guest's registers are the general ones, by their numbers.
const PLACES: [u8; 16] = places!(rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15);

/// The segment of a memory operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Segment {
    /// cs, ds, es or ss, which have base 0 in 64-bit code.
    Flat,
    /// fs.
    Fs,
    /// gs.
    Gs,
}

impl Segment {
    /// Its base in the guest that runs.
    pub fn base(self, cpu: &Cpu) -> u64 {
        match self {
            Self::Flat => 0,
            Self::Fs => cpu.fs_base(),
            Self::Gs => cpu.gs_base(),
        }
    }
}

/// REX: the operand has 64 bits.
pub const REX_W: u8 = 8;
/// REX: highest bit of the register's number.
pub const REX_R: u8 = 4;
/// REX: highest bit of the index register's number.
pub const REX_X: u8 = 2;
/// REX: highest bit of the number of the operand's, or base, register.
pub const REX_B: u8 = 1;

/// The bytes of an instruction, from first to last.
pub struct Input<'a> {
    rest: core::slice::Iter<'a, u8>,
    length: u8,
}

impl<'a> Input<'a> {
    /// The instruction at the start of `bytes`, which ends after [`MAX_LENGTH`] bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes.get(..MAX_LENGTH).unwrap_or(bytes).iter(),
            length: 0,
        }
    }

    /// The next byte. `None`: there is no further one.
    pub fn byte(&mut self) -> Option<u8> {
        let byte = *self.rest.next()?;
        self.length = self.length.saturating_add(1);
        Some(byte)
    }

    /// The next bytes. `None`: there are not so many.
    pub fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut taken = [0; N];
        for byte in &mut taken {
            *byte = self.byte()?;
        }
        Some(taken)
    }

    /// How many bytes were taken.
    pub const fn length(&self) -> u8 {
        self.length
    }
}

/// Moves on behind an instruction that has been carried out.
///
/// `Err`: the trap after it that a guest gets that is single-stepping; DR6 says so already.
pub fn complete(
    regs: &mut CpuUserRegs,
    state: &mut PrivilegedState,
    length: u8,
) -> Result<(), Exception> {
    regs.rip = regs.rip.wrapping_add(u64::from(length));
    regs.rflags &= !flags::RF;
    if regs.rflags & flags::TF == 0 {
        return Ok(());
    }
    state.record_debug_status(dr::DR6_SINGLE_STEP);
    Err(Exception::db())
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn registers_by_number() {
        let mut regs = CpuUserRegs::new_zeroed();
        for number in 0..16 {
            Gpr::new(number).write(&mut regs, u64::from(number) + 100);
        }
        let expected = CpuUserRegs {
            rax: 100,
            rcx: 101,
            rdx: 102,
            rbx: 103,
            rsp: 104,
            rbp: 105,
            rsi: 106,
            rdi: 107,
            r8: 108,
            r9: 109,
            r10: 110,
            r11: 111,
            r12: 112,
            r13: 113,
            r14: 114,
            r15: 115,
            ..CpuUserRegs::new_zeroed()
        };
        assert_eq!(regs, expected);
        for number in 0..=u8::MAX {
            let gpr = Gpr::new(number);
            assert_eq!(gpr.read(&regs), u64::from(number % 16) + 100);
        }
    }
}
