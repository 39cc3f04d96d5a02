//! What the instructions do, to an entry that others may change at the same time.
//!
//! The operand is part of one entry. A new entry is made of the one that is there, and replaces it only if it still is
//! there; registers and flags are changed after that, to what the instruction gives for the entry that it replaced. So a write
//! that is refused has changed nothing.
//!
//! SPEC: Intel SDM volume 2, the pages of the instructions.

use dom0_abi::arch::CpuUserRegs;

use super::decode::{Operation, PageTableWrite, Size, Source};
use crate::trap::flags::{AF, CF, OF, PF, SF, ZF};
use crate::trap::instruction::Gpr;

/// How often an entry may change under our hands before the guest has to try again: the other CPUs of a guest must not keep
/// us here (I18).
pub const ATTEMPTS: u32 = 16;

/// What became of an exchange.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exchanged {
    /// The new entry is in place.
    Done,
    /// The entry was another one, this.
    Changed(u64),
}

/// An instruction with the values that it works with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Write {
    operation: Operation,
    size: Size,
    destination: Source,
    /// Value of the operand that is not in memory.
    source: u64,
    /// Value of rax.
    accumulator: u64,
    /// Where in its entry the operand begins, in bits.
    shift: u32,
}

impl Write {
    /// What an instruction does with these registers to the operand at `address`; `None` if that is not within one entry.
    pub fn new(write: &PageTableWrite, regs: &CpuUserRegs, address: u64) -> Option<Self> {
        let offset = address & 7;
        (offset.wrapping_add(write.size.bytes()) <= 8).then(|| Self {
            operation: write.operation,
            size: write.size,
            destination: write.source,
            source: write.source(regs) & write.size.mask(),
            accumulator: regs.rax & write.size.mask(),
            shift: (offset as u32).wrapping_mul(8),
        })
    }

    /// The entry that is to replace `old`; `None` if `old` stays.
    pub fn replacement(&self, old: u64) -> Option<u64> {
        let before = self.operand(old);
        let after = match self.operation {
            Operation::Move | Operation::Exchange => self.source,
            Operation::And => before & self.source,
            Operation::Or => before | self.source,
            Operation::Xor => before ^ self.source,
            Operation::Add | Operation::ExchangeAdd => before.wrapping_add(self.source),
            Operation::Subtract => before.wrapping_sub(self.source),
            Operation::CompareExchange if before == self.accumulator => self.source,
            Operation::CompareExchange => return None,
            Operation::SetBit => before | self.bit(),
            Operation::ResetBit => before & !self.bit(),
        };
        let mask = self.size.mask();
        let (mask_in_place, after_in_place) = (
            mask.wrapping_shl(self.shift),
            (after & mask).wrapping_shl(self.shift),
        );
        Some(old & !mask_in_place | after_in_place)
    }

    /// Replaces an entry, which was `first` when it was looked at, by way of `exchange`, and returns the one that was replaced,
    /// or left because nothing was to be written. `None`: the entry changes all the time.
    ///
    /// Fails as `exchange` does; the entry is not replaced then.
    pub fn exchange<E>(
        &self,
        first: u64,
        mut exchange: impl FnMut(u64, u64) -> Result<Exchanged, E>,
    ) -> Result<Option<u64>, E> {
        let mut old = first;
        for _ in 0..ATTEMPTS {
            let Some(new) = self.replacement(old) else {
                return Ok(Some(old));
            };
            match exchange(old, new)? {
                Exchanged::Done => return Ok(Some(old)),
                Exchanged::Changed(now) => old = now,
            }
        }
        Ok(None)
    }

    /// Gives registers and flags what the instruction leaves in them, for the entry that it found. The rest of what an
    /// instruction does is [`complete`](crate::trap::instruction::complete).
    #[inline(always)]
    pub fn finish(&self, regs: &mut CpuUserRegs, old: u64) {
        // Nothing, for the commonest of all.
        if self.operation != Operation::Move {
            self.leave(regs, old);
        }
    }

    fn leave(&self, regs: &mut CpuUserRegs, old: u64) {
        let before = self.operand(old);
        match self.operation {
            Operation::Move => {}
            Operation::Exchange => self.store(regs, self.destination, before),
            Operation::And => self.logic_flags(regs, before & self.source),
            Operation::Or => self.logic_flags(regs, before | self.source),
            Operation::Xor => self.logic_flags(regs, before ^ self.source),
            Operation::Add => self.sum_flags(regs, before),
            Operation::ExchangeAdd => {
                self.sum_flags(regs, before);
                self.store(regs, self.destination, before);
            }
            Operation::Subtract => self.difference_flags(regs, before, self.source),
            Operation::CompareExchange => {
                self.difference_flags(regs, self.accumulator, before);
                if before != self.accumulator {
                    self.store(regs, Source::Register(Gpr::RAX), before);
                }
            }
            // The other flags are undefined, but for ZF, which stays.
            Operation::SetBit | Operation::ResetBit => {
                regs.rflags = regs.rflags & !CF | when(before & self.bit() != 0, CF);
            }
        }
    }

    fn operand(&self, entry: u64) -> u64 {
        entry.wrapping_shr(self.shift) & self.size.mask()
    }

    /// The bit that an instruction of bits is about. What is above the operand's size in its number has become part of
    /// the address, or means nothing.
    fn bit(&self) -> u64 {
        1_u64.wrapping_shl(self.source as u32 & self.size.bits().wrapping_sub(1))
    }

    /// Sets part of a register, or all of it: 32 bits clear the upper half.
    fn store(&self, regs: &mut CpuUserRegs, to: Source, value: u64) {
        let (gpr, kept, shift) = match (to, self.size) {
            (Source::HighByte(gpr), _) => (gpr, !0xff00, 8),
            (Source::Register(gpr), Size::Byte | Size::Word) => (gpr, !self.size.mask(), 0),
            (Source::Register(gpr), Size::Dword | Size::Qword) => (gpr, 0, 0),
            (Source::Immediate(_), _) => return,
        };
        gpr.write(regs, gpr.read(regs) & kept | value << shift);
    }

    /// Leaves AF, which is undefined.
    fn logic_flags(&self, regs: &mut CpuUserRegs, result: u64) {
        regs.rflags = regs.rflags & !(CF | OF | SF | ZF | PF) | self.result_flags(result);
    }

    fn sum_flags(&self, regs: &mut CpuUserRegs, before: u64) {
        let result = before.wrapping_add(self.source) & self.size.mask();
        let overflow = (before ^ result) & (self.source ^ result);
        let carry = result < before;
        self.arithmetic_flags(regs, before ^ self.source, result, carry, overflow);
    }

    fn difference_flags(&self, regs: &mut CpuUserRegs, from: u64, what: u64) {
        let result = from.wrapping_sub(what) & self.size.mask();
        let overflow = (from ^ what) & (from ^ result);
        self.arithmetic_flags(regs, from ^ what, result, from < what, overflow);
    }

    fn arithmetic_flags(
        &self,
        regs: &mut CpuUserRegs,
        without_carries: u64,
        result: u64,
        carry: bool,
        overflow: u64,
    ) {
        regs.rflags = regs.rflags & !(CF | OF | SF | ZF | PF | AF)
            | self.result_flags(result)
            | when(carry, CF)
            | when(self.is_negative(overflow), OF)
            | (without_carries ^ result) & AF;
    }

    /// SF, ZF and PF.
    fn result_flags(&self, result: u64) -> u64 {
        // A bit for each number of four bits: whether an even number of them is set.
        const EVEN: u64 = 0x9669;
        let parity = EVEN >> ((result ^ result >> 4) & 15) & 1;
        when(self.is_negative(result), SF) | when(result == 0, ZF) | when(parity != 0, PF)
    }

    fn is_negative(&self, value: u64) -> bool {
        value.wrapping_shr(self.size.bits().wrapping_sub(1)) & 1 != 0
    }
}

const fn when(condition: bool, flag: u64) -> u64 {
    if condition { flag } else { 0 }
}

#[cfg(test)]
mod tests;
