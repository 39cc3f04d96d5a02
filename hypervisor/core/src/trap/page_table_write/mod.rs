//! Writes of a guest's kernel to page tables, as if they were memory. Xen carries them out whether the guest has asked for it
//! (`vm_assist`, writable page tables) or not, and so do we.
//!
//! A page table is mapped read-only, so such a write traps. The instruction is decoded ([`decode`]), its result is computed
//! ([`apply`]), and the entry is replaced with the checks of `mmu_update` ([`crate::mmu::trapped`]). What is not carried out
//! is the guest's own page fault.
//!
//! INVARIANT: an entry changes by compare-exchange alone, so no accessed or dirty bit is lost, and the guest gets the value that
//! its write replaced.
//! INVARIANT (I12): the instruction is read once; what was decoded is what is carried out (XSA-202).

pub mod apply;
pub mod decode;

#[cfg(test)]
mod tests;

use dom0_abi::addr::GuestAddr;
use dom0_abi::errno::Errno;
use zerocopy::IntoBytes;

use super::exception::{Exception, PageFaultCode};
use super::instruction::complete;
use super::instruction::fetch::Fetched;
use crate::domain::vcpu::GuestMode;
use crate::hypercall::CallCtx;
use crate::mmu::trapped::TrappedEntry;
use crate::mmu::update::Replaced;
use crate::page_type::entry::Entry;
use crate::page_type::{Stop, undo};
use apply::{Exchanged, Write};
use decode::PageTableWrite;

/// A write, by what runs as user mode for the CPU, to a page that is there: no other bit is set.
const WRITE_TO_READ_ONLY: u32 = PageFaultCode::PRESENT | PageFaultCode::WRITE | PageFaultCode::USER;

/// Carries out the write that raised a page fault at `fault_address`, if it is one to a page table of the guest's.
///
/// `None`: it is the guest's own page fault, and nothing has changed; so it is if `mmu_update` would refuse the new entry.
/// `Some(Err)`: it has been carried out, and the guest is single-stepping. `Some(Ok)`: the guest goes on behind the
/// instruction, or at it again if the table or the entry was changing all the time.
/// ABI: `public/xen.h`, `VMASST_TYPE_writable_pagetables`.
#[doc(alias = "VMASST_TYPE_writable_pagetables")]
pub fn carry_out(ctx: &mut CallCtx<'_>, fault_address: u64) -> Option<Result<(), Exception>> {
    let may_be_one = ctx.regs.error_code == WRITE_TO_READ_ONLY
        && ctx.vcpu.mode() == GuestMode::Kernel
        && (ctx.state.tables).is_64bit_code(ctx.host.mem(), ctx.regs.cs);
    if !may_be_one {
        return None;
    }
    let instruction = decode(ctx)?;
    let address = instruction.address(ctx.regs, |segment| segment.base(ctx.cpu));
    // Else these are not the bytes that the CPU ran into.
    if fault_address.wrapping_sub(address) >= instruction.size.bytes() {
        return None;
    }
    let write = Write::new(&instruction, ctx.regs, address)?;
    let at = GuestAddr::new(address);
    let wanted = |old: Entry| write.replacement(old.0).map(Entry);
    let replaced = match TrappedEntry::replace_at_once(ctx, at, wanted) {
        Some(old) => Ok(old),
        None => replace(ctx, &write, at),
    };
    // What the write may have waited for, or taken out of use.
    if !ctx.vcpu.undo.is_empty() {
        undo::drain(ctx.memory(), &mut ctx.budget);
    }
    match replaced {
        Ok(old) => {
            write.finish(ctx.regs, old.0);
            let state = &mut ctx.state.privileged;
            Some(complete(ctx.regs, state, instruction.length))
        }
        Err(Stop::Again) => Some(Ok(())),
        Err(Stop::Refused(_)) => None,
    }
}

/// Decodes the instruction that the guest is at.
#[inline(always)]
fn decode(ctx: &CallCtx<'_>) -> Option<PageTableWrite> {
    let at = GuestAddr::new(ctx.regs.rip);
    match ctx.cpu.read_guest::<[u64; 2]>(at) {
        Ok([head, tail]) => {
            decode::quick(head).or_else(|| decode::general([head, tail].as_bytes()))
        }
        Err(_) => at_an_end(ctx),
    }
}

/// The same at the end of what can be read.
#[inline(never)]
fn at_an_end(ctx: &CallCtx<'_>) -> Option<PageTableWrite> {
    let read = |at, into: &mut [u8]| ctx.cpu.read_guest_bytes(at, into);
    decode::general(Fetched::read(ctx.regs.rip, read).bytes())
}

/// Replaces the entry that a write is about, and returns what it was.
///
/// `EFAULT`: there is no table that the guest could write to; else as `mmu_update`. [`Stop::Again`] also if others write to the
/// entry all the time.
#[inline(never)]
fn replace(ctx: &mut CallCtx<'_>, write: &Write, at: GuestAddr) -> Result<Entry, Stop> {
    let entry = TrappedEntry::find(ctx, at)?.ok_or(Errno::EFAULT)?;
    let first = entry.load(ctx).0;
    let old = write.exchange(first, |old, new| {
        entry
            .exchange(ctx, Entry(old), Entry(new))
            .map(|replaced| match replaced {
                Replaced::Done => Exchanged::Done,
                Replaced::Kept(now) => Exchanged::Changed(now.0),
            })
    })?;
    old.map(Entry).ok_or(Stop::Again)
}
