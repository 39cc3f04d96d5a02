//! `update_va_mapping` and `update_va_mapping_otherdomain`: the L1 entry for an address of the caller's own, with a flush.

use dom0_abi::addr::{GuestAddr, Mfn};
use dom0_abi::errno::Errno;
use dom0_abi::handle::GuestHandle;
use dom0_abi::ids::DomId;
use dom0_abi::xen::{UVMF_ALL, UVMF_FLUSHTYPE_MASK, UVMF_INVLPG, UVMF_NONE, UVMF_TLB_FLUSH};
use oxen_arch::registers::Attempt;
use oxen_arch::tlb::Flush;

use super::flush::{self, Whose};
use super::list::with_undone;
use super::owners;
use super::update::{replace, replace_at_once};
use super::walk::{l1_slot, l1_slot_at_once};
use crate::frame::Memory;
use crate::hypercall::at_once::Way;
use crate::hypercall::continuation::Continuation;
use crate::hypercall::{CallCtx, HypercallResult, Reply};
use crate::page_type::Stop;
use crate::page_type::entry::Entry;
use crate::page_type::hold::Reach;

/// Writes the L1 entry that maps `va` under the caller's kernel root, and flushes as the flags say.
///
/// `EINVAL`: no table of the caller's maps the address, or the entry is not allowed; `EBUSY`: it maps a page that is not the
/// caller's, or is used as something else; `EPERM`: it maps a device that the caller may not reach; nothing has changed then.
/// `EFAULT`: the map of vCPUs to flush cannot be read; the entry has been written.
/// ABI: `public/xen.h`, `HYPERVISOR_update_va_mapping`, `UVMF_*`.
#[inline(never)]
pub fn update_va_mapping(
    ctx: &mut CallCtx<'_>,
    va: GuestAddr,
    entry: u64,
    flags: u64,
) -> HypercallResult {
    let reach = Reach::own(ctx.host, ctx.domain);
    if write_at_once(
        &ctx.memory(),
        ctx.state.kernel_root(),
        &reach,
        va,
        Entry(entry),
    ) {
        return flush(ctx, va, flags);
    }
    match write(ctx, va, Entry(entry), reach) {
        Ok(()) => flush(ctx, va, flags),
        Err(Stop::Refused(errno)) => Err(errno),
        Err(Stop::Again) => ctx.goes_on(Continuation::UpdateVaMapping { va, entry, flags }),
    }
}

/// Whether flags ask for nothing, or for a flush of the page on the caller's own CPU.
#[inline(always)]
pub(crate) const fn is_nobody_elses(flags: u64) -> bool {
    matches!(flags, UVMF_NONE | UVMF_INVLPG)
}

/// The same on the straight way, with [flags that concern nobody else](is_nobody_elses).
#[inline(never)]
pub(crate) fn update_va_mapping_at_once(
    way: Way<'_>,
    va: GuestAddr,
    entry: u64,
    flags: u64,
) -> Attempt {
    way.go(|caller| {
        let reach = Reach::own(caller.host, caller.domain);
        if !write_at_once(&caller.memory(), caller.root(), &reach, va, Entry(entry)) {
            return None;
        }
        if flags == UVMF_INVLPG {
            // The walk has found it: it is canonical.
            let _: u32 = caller.cpu.flush_page(va);
        }
        Some(0)
    })
}

/// The same for a page of another domain, or of none. Fails further as `mmu_update` does for its owner.
/// ABI: `public/xen.h`, `HYPERVISOR_update_va_mapping_otherdomain`.
#[inline(never)]
pub fn update_va_mapping_otherdomain(
    ctx: &mut CallCtx<'_>,
    va: GuestAddr,
    entry: u64,
    flags: u64,
    id: DomId,
) -> HypercallResult {
    let owner = owners::owner(ctx, id)?;
    let reach = owners::reach(ctx, ctx.domain.id, &owner);
    match write(ctx, va, Entry(entry), reach) {
        Ok(()) => flush(ctx, va, flags),
        Err(Stop::Refused(errno)) => Err(errno),
        Err(Stop::Again) => ctx.goes_on(Continuation::UpdateVaMappingOtherdomain {
            va,
            entry,
            flags,
            owner: id,
        }),
    }
}

/// Writes the entry if nothing is out of the ordinary.
#[inline(always)]
fn write_at_once(
    memory: &Memory<'_>,
    root: Option<Mfn>,
    reach: &Reach<'_>,
    va: GuestAddr,
    entry: Entry,
) -> bool {
    let slot = root.and_then(|root| l1_slot_at_once(memory, root, reach.tables, va));
    slot.is_some_and(|(table, index)| {
        replace_at_once(&table, reach, index, |_| Some(entry)).is_some()
    })
}

/// Writes the entry.
#[inline(never)]
fn write(ctx: &mut CallCtx<'_>, va: GuestAddr, entry: Entry, reach: Reach<'_>) -> Result<(), Stop> {
    with_undone(ctx, |ctx| {
        let memory = ctx.memory();
        let root = ctx.state.kernel_root().ok_or(Errno::EINVAL)?;
        let slot = l1_slot(memory, root, reach.tables, va)?;
        let (table, index) = slot.ok_or(Errno::EINVAL)?;
        let (budget, wanted) = (&mut ctx.budget, |_| Some(entry));
        replace(memory, &reach, table.held(), index, budget, wanted).map(|_| ())
    })
}

/// Flushes as the flags say: what, in the lowest bits; whose, in the others.
#[inline(always)]
fn flush(ctx: &mut CallCtx<'_>, va: GuestAddr, flags: u64) -> HypercallResult {
    let what = match flags & UVMF_FLUSHTYPE_MASK {
        UVMF_NONE => return Ok(Reply::DONE),
        UVMF_TLB_FLUSH => Some(Flush::All),
        UVMF_INVLPG => flush::of_page(va),
        // A type that means nothing.
        _ => return Ok(Reply::DONE),
    };
    let whose = match flags & !UVMF_FLUSHTYPE_MASK {
        0 => Whose::Own,
        UVMF_ALL => Whose::All,
        map => Whose::Map(GuestHandle::new(GuestAddr::new(map))),
    };
    flush::flush(ctx, whose, what).map(|()| Reply::DONE)
}
