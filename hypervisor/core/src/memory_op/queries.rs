//! What there is to know about memory: of the machine, of a domain, and of the machine-to-physical table.

use core::mem::offset_of;

use dom0_abi::addr::{GuestAddr, PAGE_SIZE};
use dom0_abi::arch::{
    ArchSharedInfo, MACH2PHYS_NR_ENTRIES, MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START,
};
use dom0_abi::errno::Errno;
use dom0_abi::memory::{MachphysMapping, MachphysMfnList, MemoryDomain, MemoryReservation};
use dom0_abi::xen::SharedInfo;
use oxen_arch::sync::atomic::Ordering;

use super::target;
use crate::domain::Capabilities;
use crate::guest_access::GuestPtr;
use crate::hypercall::{CallCtx, HypercallResult, Reply};
use crate::mmu::owners::Named;

/// Frames of the machine-to-physical table that are told as one: 2 MiB.
const TABLE_EXTENT: u64 = 512;

/// Returns the last frame of RAM. ABI: `public/memory.h`, `XENMEM_maximum_ram_page`.
#[doc(alias = "XENMEM_maximum_ram_page")]
pub(super) fn maximum_ram_page(ctx: &CallCtx<'_>) -> HypercallResult {
    Ok(Reply::Value(last_frame(ctx)))
}

fn last_frame(ctx: &CallCtx<'_>) -> u64 {
    ctx.host.machine.max_mfn().get().saturating_sub(1)
}

/// The domain that such a query names.
fn named<'a>(ctx: &CallCtx<'a>, arg: GuestAddr) -> Result<Named<'a>, Errno> {
    let argument: MemoryDomain = GuestPtr::new(arg).read(ctx.cpu)?;
    target(ctx, argument.domid)
}

/// Returns how many pages a domain has; those that it gave back and that are still in use count. ABI: `public/memory.h`,
/// `XENMEM_current_reservation`.
#[doc(alias = "XENMEM_current_reservation")]
pub(super) fn current_reservation(ctx: &CallCtx<'_>, arg: GuestAddr) -> HypercallResult {
    let pages = named(ctx, arg)?.domain().nr_pages(&ctx.host.frames);
    Ok(Reply::Value(pages))
}

/// Returns how many pages a domain may have. ABI: `public/memory.h`, `XENMEM_maximum_reservation`.
#[doc(alias = "XENMEM_maximum_reservation")]
pub(super) fn maximum_reservation(ctx: &CallCtx<'_>, arg: GuestAddr) -> HypercallResult {
    let named = named(ctx, arg)?;
    let limit = named.domain().memory.limit.load(Ordering::Relaxed);
    Ok(Reply::Value(limit))
}

/// Returns the highest pfn that a domain says it uses, in the page that it shares; 0 if it says nothing. ABI:
/// `public/memory.h`, `XENMEM_maximum_gpfn`.
#[doc(alias = "XENMEM_maximum_gpfn")]
pub(super) fn maximum_gpfn(ctx: &CallCtx<'_>, arg: GuestAddr) -> HypercallResult {
    const MAX_PFN: usize = offset_of!(SharedInfo, arch) + offset_of!(ArchSharedInfo, max_pfn);
    let named = named(ctx, arg)?;
    let at = named.domain().shared_info.at(MAX_PFN);
    let pages = ctx.host.mem().load_u64(at).map_err(|_| Errno::EFAULT)?;
    Ok(Reply::Value(pages.saturating_sub(1)))
}

/// Tells the first frame of each 2 MiB of the machine-to-physical table, as many as there is room for. `EFAULT`: an element
/// cannot be written; the number is not told then. ABI: `public/memory.h`, `XENMEM_machphys_mfn_list`.
#[doc(alias = "XENMEM_machphys_mfn_list")]
pub(super) fn machphys_mfn_list(ctx: &mut CallCtx<'_>, arg: GuestAddr) -> HypercallResult {
    let place = GuestPtr::<MachphysMfnList>::new(arg);
    let mut argument = place.read(ctx.cpu)?;
    let table = ctx.host.machine.m2p_frames();
    let list = GuestPtr::from(argument.extent_start);
    let extents = table.iter().step_by(TABLE_EXTENT as usize);
    let mut count = 0_u32;
    for mfn in extents.take(argument.max_extents as usize) {
        ctx.budget.pay(1);
        list.element(count.into()).write(ctx.cpu, &mfn.get())?;
        count = count.saturating_add(1);
    }
    argument.nr_extents = count;
    place.write(ctx.cpu, &argument)?;
    Ok(Reply::DONE)
}

/// Tells where the machine-to-physical table is and which frames it speaks of. To a domain without devices that is as many as
/// ever can be: it may go on on a larger machine. ABI: `public/memory.h`, `XENMEM_machphys_mapping`.
#[doc(alias = "XENMEM_machphys_mapping")]
pub(super) fn machphys_mapping(ctx: &CallCtx<'_>, arg: GuestAddr) -> HypercallResult {
    let has_devices = ctx.domain.capabilities.contains(Capabilities::HARDWARE);
    let answer = MachphysMapping {
        v_start: MACH2PHYS_VIRT_START,
        v_end: MACH2PHYS_VIRT_END,
        max_mfn: if has_devices {
            last_frame(ctx)
        } else {
            MACH2PHYS_NR_ENTRIES - 1
        },
    };
    GuestPtr::new(arg).write(ctx.cpu, &answer)?;
    Ok(Reply::DONE)
}

/// Says whether a domain that is to have so many pages in all could get them now. Nothing is put aside for it.
///
/// `EPERM`: the caller controls nothing. `EINVAL`: there is no domain of this number, it has as many or may not have so many, or
/// a field that means nothing here is not 0. `ENOMEM`: so many are not free. ABI: `public/memory.h`, `XENMEM_claim_pages`.
#[doc(alias = "XENMEM_claim_pages")]
pub(super) fn claim_pages(ctx: &CallCtx<'_>, arg: GuestAddr) -> HypercallResult {
    if !ctx.is_control() {
        return Err(Errno::EPERM);
    }
    let argument: MemoryReservation = GuestPtr::new(arg).read(ctx.cpu)?;
    if !argument.extent_start.is_null() || argument.extent_order != 0 || argument.mem_flags != 0 {
        return Err(Errno::EINVAL);
    }
    let domain = ctx.host.domains.get(argument.domid).ok_or(Errno::EINVAL)?;
    let pages = argument.nr_extents;
    if pages == 0 {
        return Ok(Reply::DONE);
    }
    let more = pages
        .checked_sub(domain.nr_pages(&ctx.host.frames))
        .filter(|&more| more > 0)
        .ok_or(Errno::EINVAL)?;
    if pages > domain.memory.limit.load(Ordering::Relaxed) {
        return Err(Errno::EINVAL);
    }
    if !ctx.host.frames.can_spare(more) {
        return Err(Errno::ENOMEM);
    }
    Ok(Reply::DONE)
}

const _: () = assert!(PAGE_SIZE as u64 * TABLE_EXTENT == 2 << 20);
