//! `update_va_mapping` and `update_va_mapping_otherdomain`: the L1 entry for an address of the caller's own, with a flush.

use dom0_abi::addr::GuestAddr;
use dom0_abi::errno::Errno;
use dom0_abi::handle::GuestHandle;
use dom0_abi::ids::DomId;
use dom0_abi::xen::{UVMF_ALL, UVMF_FLUSHTYPE_MASK, UVMF_INVLPG, UVMF_TLB_FLUSH};
use oxen_arch::tlb::Flush;

use super::flush::{self, Whose};
use super::list::with_undone;
use super::owners::{self, Named, Owner};
use super::update::replace;
use super::walk::l1_slot;
use crate::hypercall::continuation::Continuation;
use crate::hypercall::{CallCtx, HypercallResult, Reply};
use crate::page_type::Stop;
use crate::page_type::entry::Entry;

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
    let owner = Owner::Domain(Named::Own(ctx.domain));
    let again = Continuation::UpdateVaMapping { va, entry, flags };
    update(ctx, va, Entry(entry), flags, &owner, again)
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
    let again = Continuation::UpdateVaMappingOtherdomain {
        va,
        entry,
        flags,
        owner: id,
    };
    update(ctx, va, Entry(entry), flags, &owner, again)
}

fn update(
    ctx: &mut CallCtx<'_>,
    va: GuestAddr,
    entry: Entry,
    flags: u64,
    owner: &Owner<'_>,
    again: Continuation,
) -> HypercallResult {
    let written = with_undone(ctx, |ctx| {
        let (memory, tables) = (ctx.memory(), ctx.domain.id);
        let root = ctx.state.kernel_root().ok_or(Errno::EINVAL)?;
        let slot = l1_slot(memory, root, tables, va)?;
        let (table, index) = slot.ok_or(Errno::EINVAL)?;
        let reach = owners::reach(ctx, tables, owner);
        replace(memory, &reach, &table, index, &mut ctx.budget, |_| {
            Some(entry)
        })
    });
    match written {
        Ok(_) => flush(ctx, va, flags).map(|()| Reply::DONE),
        Err(Stop::Refused(errno)) => Err(errno),
        Err(Stop::Again) => Ok(Reply::Continue(again)),
    }
}

/// Flushes as the flags say: what, in the lowest bits; whose, in the others.
fn flush(ctx: &mut CallCtx<'_>, va: GuestAddr, flags: u64) -> Result<(), Errno> {
    let what = match flags & UVMF_FLUSHTYPE_MASK {
        UVMF_TLB_FLUSH => Some(Flush::All),
        UVMF_INVLPG => flush::of_page(va),
        // None, and a type that means nothing.
        _ => return Ok(()),
    };
    let whose = match flags & !UVMF_FLUSHTYPE_MASK {
        0 => Whose::Own,
        UVMF_ALL => Whose::All,
        map => Whose::Map(GuestHandle::new(GuestAddr::new(map))),
    };
    flush::flush(ctx, whose, what)
}
