//! Commands that are not for paravirtual guests, or about what does not exist here; and frames of the hypervisor's that the toolstack
//! maps. Arguments are read and domains looked for
//! all the same: callers learn what they would have to put right first.

use dom0_abi::addr::GuestAddr;
use dom0_abi::errno::Errno;
use dom0_abi::ids::DomId;
use dom0_abi::memory::{
    AcquireResource, AddToPhysmap, AddToPhysmapBatch, GRANT_TABLE_ID_SHARED, MapSpace, MemAccessOp,
    PodTarget, RDM_ALL, RemoveFromPhysmap, ReservedDeviceMemoryMap, ResourceType,
    VnumaTopologyInfo,
};

use super::target;
use crate::guest_access::GuestPtr;
use crate::hypercall::continuation::Continuation;
use crate::hypercall::{CallCtx, HypercallResult, Reply};
use crate::page_type::Stop;

/// So many frames of a table are told for one unit of the budget.
const FRAMES_PER_UNIT: u32 = 4;

/// Entries of a batch; progress beyond that cannot be.
const MAX_BATCH: u64 = u16::MAX as u64;

/// Refuses: only guests with translated memory have something to add to.
///
/// `EDOM`: progress that cannot be; `ENOSYS`: frames of others in a call of one; `EACCES`: the domain is paravirtual.
/// ABI: `public/memory.h`, `XENMEM_add_to_physmap`.
#[doc(alias = "XENMEM_add_to_physmap")]
pub(super) fn add_to_physmap(ctx: &CallCtx<'_>, progress: u64, arg: GuestAddr) -> HypercallResult {
    let argument: AddToPhysmap = GuestPtr::new(arg).read(ctx.cpu)?;
    if progress > MAX_BATCH {
        return Err(Errno::EDOM);
    }
    if argument.space == MapSpace::GmfnForeign as u32 {
        return Err(Errno::ENOSYS);
    }
    untranslated(ctx, argument.domid)
}

/// Refuses as [`add_to_physmap`]. `EOPNOTSUPP`: a range in a batch. ABI: `public/memory.h`, `XENMEM_add_to_physmap_batch`.
#[doc(alias = "XENMEM_add_to_physmap_batch")]
pub(super) fn add_to_physmap_batch(
    ctx: &CallCtx<'_>,
    progress: u64,
    arg: GuestAddr,
) -> HypercallResult {
    let argument: AddToPhysmapBatch = GuestPtr::new(arg).read(ctx.cpu)?;
    if progress > MAX_BATCH {
        return Err(Errno::EDOM);
    }
    if u32::from(argument.space) == MapSpace::GmfnRange as u32 {
        return Err(Errno::EOPNOTSUPP);
    }
    untranslated(ctx, argument.domid)
}

/// Refuses: `EACCES`, the domain is paravirtual. ABI: `public/memory.h`, `XENMEM_remove_from_physmap`.
#[doc(alias = "XENMEM_remove_from_physmap")]
pub(super) fn remove_from_physmap(ctx: &CallCtx<'_>, arg: GuestAddr) -> HypercallResult {
    let argument: RemoveFromPhysmap = GuestPtr::new(arg).read(ctx.cpu)?;
    untranslated(ctx, argument.domid)
}

fn untranslated(ctx: &CallCtx<'_>, id: DomId) -> HypercallResult {
    target(ctx, id)?;
    Err(Errno::EACCES)
}

/// Refuses: `EINVAL`, no domain is populated on demand. `EPERM`: the caller controls nothing. ABI: `public/memory.h`,
/// `XENMEM_set_pod_target`, `XENMEM_get_pod_target`.
#[doc(alias = "XENMEM_set_pod_target")]
#[doc(alias = "XENMEM_get_pod_target")]
pub(super) fn pod_target(ctx: &CallCtx<'_>, arg: GuestAddr) -> HypercallResult {
    let argument: PodTarget = GuestPtr::new(arg).read(ctx.cpu)?;
    if !ctx.is_control() {
        return Err(Errno::EPERM);
    }
    target(ctx, argument.domid)?;
    Err(Errno::EINVAL)
}

/// Refuses: `EPERM`, rights of access are for guests with translated memory. ABI: `public/memory.h`, `XENMEM_access_op`.
#[doc(alias = "XENMEM_access_op")]
pub(super) fn access_op(ctx: &CallCtx<'_>, arg: GuestAddr) -> HypercallResult {
    let argument: MemAccessOp = GuestPtr::new(arg).read(ctx.cpu)?;
    target(ctx, argument.domid)?;
    Err(Errno::EPERM)
}

/// Refuses: `EOPNOTSUPP`, no domain has a topology. `EINVAL`: the padding is not zero. ABI: `public/memory.h`,
/// `XENMEM_get_vnumainfo`.
#[doc(alias = "XENMEM_get_vnumainfo")]
pub(super) fn get_vnumainfo(ctx: &CallCtx<'_>, arg: GuestAddr) -> HypercallResult {
    let argument: VnumaTopologyInfo = GuestPtr::new(arg).read(ctx.cpu)?;
    if argument.pad != 0 {
        return Err(Errno::EINVAL);
    }
    target(ctx, argument.domid)?;
    Err(Errno::EOPNOTSUPP)
}

/// Tells that there is no region that firmware reserves for a device: without an IOMMU nothing depends on them. `EINVAL`:
/// unknown flags. ABI: `public/memory.h`, `XENMEM_reserved_device_memory_map`.
#[doc(alias = "XENMEM_reserved_device_memory_map")]
pub(super) fn reserved_device_memory_map(ctx: &CallCtx<'_>, arg: GuestAddr) -> HypercallResult {
    let place = GuestPtr::<ReservedDeviceMemoryMap>::new(arg);
    let mut argument = place.read(ctx.cpu)?;
    if argument.flags & !RDM_ALL != 0 {
        return Err(Errno::EINVAL);
    }
    argument.nr_entries = 0;
    place.write(ctx.cpu, &argument)?;
    Ok(Reply::DONE)
}

/// Tells frames of another domain's grant table, which grows to as many as are asked for: then the caller can map them as that
/// domain's. Without a list it tells how many there can be.
///
/// `EINVAL`: the padding is not zero, or the frames cannot be counted, or there cannot be so many, or it is another resource, of
/// which no domain has any; `ESRCH`: there is no such domain, or the caller calls itself by the special number; `EPERM`: the domain is
/// the caller's own, or the caller controls nothing; `ENOMEM`: there is no memory for the frames; `EFAULT`: the caller cannot be told,
/// and the table has grown. ABI: `public/memory.h`, `XENMEM_acquire_resource`.
#[doc(alias = "XENMEM_acquire_resource")]
pub(super) fn acquire_resource(
    ctx: &mut CallCtx<'_>,
    command: u64,
    arg: GuestAddr,
) -> HypercallResult {
    let place = GuestPtr::<AcquireResource>::new(arg);
    let mut argument = place.read(ctx.cpu)?;
    let end = argument.frame.checked_add(argument.nr_frames.into());
    let end = end.and_then(|end| u32::try_from(end).ok());
    let (0, Some(end)) = (argument.pad, end) else {
        return Err(Errno::EINVAL);
    };
    if !ctx.is_control() || argument.domid == ctx.domain.id {
        return Err(Errno::EPERM);
    }
    let host = ctx.host;
    let domain = host.domains.get(argument.domid).ok_or(Errno::ESRCH)?;
    let is_table = argument.kind == ResourceType::GrantTable as u16;
    if !is_table || argument.id != GRANT_TABLE_ID_SHARED {
        return Err(Errno::EINVAL);
    }
    let list = GuestPtr::from(argument.frame_list);
    if list.is_null() {
        if argument.nr_frames != 0 {
            return Err(Errno::EINVAL);
        }
        argument.nr_frames = domain.grants.max_frames();
        place.write(ctx.cpu, &argument)?;
        return Ok(Reply::DONE);
    }
    let memory = ctx.memory();
    match domain.grants.grow(memory, domain.id, end, &mut ctx.budget) {
        Ok(()) => {}
        Err(Stop::Refused(errno)) => return Err(errno),
        Err(Stop::Again) => return ctx.goes_on(Continuation::MemoryOp { command, arg }),
    }
    ctx.budget.pay(argument.nr_frames / FRAMES_PER_UNIT);
    for (place, index) in (0..).zip((0..end).skip(argument.frame as usize)) {
        let mfn = domain
            .grants
            .frame(host.mem(), index)
            .ok_or(Errno::EINVAL)?;
        list.element(place).write(ctx.cpu, &mfn.get())?;
    }
    Ok(Reply::DONE)
}
