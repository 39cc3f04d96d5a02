//! The commands about a table as a whole: its size, its frames, its version, and two entries that are swapped.

use dom0_abi::addr::Mfn;
use dom0_abi::errno::Errno;
use dom0_abi::grant_table::{
    GetStatusFrames, GetVersion, GrantStatus, QuerySize, SetVersion, SetupTable, SwapGrantRef,
};
use dom0_abi::ids::DomId;

use super::op::{Refused, status_of};
use crate::guest_access::GuestPtr;
use crate::hypercall::CallCtx;
use crate::mmu::owners::{self, Named};
use crate::page_type::Stop;

/// The only version of grant tables.
const VERSION: u32 = 1;
/// What it costs to tell the number of a frame, in units of the budget: so many are told for one.
const FRAMES_PER_UNIT: u32 = 4;

/// Tells the frames of a table, which grows to as many as are asked for.
///
/// [`GrantStatus::BadDomain`]: there is no such domain; [`GrantStatus::PermissionDenied`]: the caller does not control it;
/// [`GrantStatus::GeneralError`]: it must not have so many, or there is no memory for them. `EFAULT`: the operation cannot be read,
/// or the frames or the status not be told; the table has grown. ABI: `public/grant_table.h`, `GNTTABOP_setup_table`.
#[doc(alias = "GNTTABOP_setup_table")]
pub(super) fn setup_table(ctx: &mut CallCtx<'_>, place: GuestPtr<SetupTable>) -> Result<(), Stop> {
    let mut op = place.read(ctx.cpu)?;
    let list = GuestPtr::from(op.frame_list);
    if !list.row_can_be_guests(op.nr_frames) {
        return Err(Errno::EFAULT.into());
    }
    let named = target(ctx, op.dom);
    let grown = match &named {
        Ok(named) => grow(ctx, named, op.nr_frames),
        Err(status) => Err((*status).into()),
    };
    op.status = status_of(grown)?;
    if let (Ok(named), Ok(())) = (&named, grown) {
        for index in 0..op.nr_frames {
            let mfn = named.domain().grants.frame(ctx.host.mem(), index);
            // None of a domain that ends.
            let mfn = mfn.unwrap_or(Mfn::new(u64::MAX));
            list.element(index.into()).write(ctx.cpu, &mfn.get())?;
        }
    }
    place.write(ctx.cpu, &op)?;
    Ok(())
}

/// Makes a table so large, and pays for telling its frames.
fn grow(ctx: &mut CallCtx<'_>, named: &Named<'_>, nr_frames: u32) -> Result<(), Refused> {
    let (memory, domain) = (ctx.memory(), named.domain());
    let grants = &domain.grants;
    match grants.grow(memory, domain.id, nr_frames, &mut ctx.budget) {
        Ok(()) => {
            ctx.budget.pay(nr_frames / FRAMES_PER_UNIT);
            Ok(())
        }
        Err(Stop::Refused(_)) => Err(GrantStatus::GeneralError.into()),
        Err(Stop::Again) => Err(Refused::Again),
    }
}

/// Tells how many frames a table has and can have. Statuses but the last, and errors, as [`setup_table`].
/// ABI: `public/grant_table.h`, `GNTTABOP_query_size`.
#[doc(alias = "GNTTABOP_query_size")]
pub(super) fn query_size(ctx: &mut CallCtx<'_>, place: GuestPtr<QuerySize>) -> Result<(), Stop> {
    let mut op = place.read(ctx.cpu)?;
    let told = target(ctx, op.dom).map(|named| {
        let grants = &named.domain().grants;
        // The first is there as soon as somebody looks.
        op.nr_frames = grants.nr_frames().max(1);
        op.max_nr_frames = grants.max_frames();
    });
    op.status = status_of(told.map_err(Refused::from))?;
    place.write(ctx.cpu, &op)?;
    Ok(())
}

/// Leaves the version as it is, and tells it. `EINVAL`: there is no such version; `ENOSYS`: it is version 2, which is not here;
/// `EFAULT`: the operation cannot be read, or the version not be told. ABI: `public/grant_table.h`, `GNTTABOP_set_version`.
#[doc(alias = "GNTTABOP_set_version")]
pub(super) fn set_version(ctx: &mut CallCtx<'_>, place: GuestPtr<SetVersion>) -> Result<(), Stop> {
    let wanted = place.read(ctx.cpu)?.version;
    let result = match wanted {
        VERSION => Ok(()),
        2 => Err(Errno::ENOSYS.into()),
        _ => Err(Errno::EINVAL.into()),
    };
    place.write(ctx.cpu, &SetVersion { version: VERSION })?;
    result
}

/// Tells the version of a table. `ESRCH`: there is no such domain; `EPERM`: the caller does not control it; `EFAULT` as
/// [`set_version`]. ABI: `public/grant_table.h`, `GNTTABOP_get_version`.
#[doc(alias = "GNTTABOP_get_version")]
pub(super) fn get_version(ctx: &mut CallCtx<'_>, place: GuestPtr<GetVersion>) -> Result<(), Stop> {
    let mut op = place.read(ctx.cpu)?;
    target(ctx, op.dom).map_err(|status| match status {
        GrantStatus::BadDomain => Errno::ESRCH,
        _ => Errno::EPERM,
    })?;
    op.version = VERSION;
    place.write(ctx.cpu, &op)?;
    Ok(())
}

/// Tells no frame: tables of version 1 have none for the status of grants. [`GrantStatus::GeneralError`]: some are asked for; else as
/// [`setup_table`]. ABI: `public/grant_table.h`, `GNTTABOP_get_status_frames`.
#[doc(alias = "GNTTABOP_get_status_frames")]
pub(super) fn get_status_frames(
    ctx: &mut CallCtx<'_>,
    place: GuestPtr<GetStatusFrames>,
) -> Result<(), Stop> {
    let mut op = place.read(ctx.cpu)?;
    if !GuestPtr::from(op.frame_list).row_can_be_guests(op.nr_frames) {
        return Err(Errno::EFAULT.into());
    }
    let told = match target(ctx, op.dom) {
        Ok(_) if op.nr_frames > 0 => Err(GrantStatus::GeneralError),
        Ok(_) => Ok(()),
        Err(status) => Err(status),
    };
    op.status = status_of(told.map_err(Refused::from))?;
    place.write(ctx.cpu, &op)?;
    Ok(())
}

/// Swaps two entries of the caller's table. [`GrantStatus::BadGntref`]: there is no such entry; [`GrantStatus::Eagain`]: one is in
/// use. `EFAULT`: the operation cannot be read, or its status not written. ABI: `public/grant_table.h`, `GNTTABOP_swap_grant_ref`.
#[doc(alias = "GNTTABOP_swap_grant_ref")]
pub(super) fn swap_grant_ref(
    ctx: &mut CallCtx<'_>,
    place: GuestPtr<SwapGrantRef>,
) -> Result<(), Stop> {
    let mut op = place.read(ctx.cpu)?;
    let grants = &ctx.domain.grants;
    let swapped = grants.swap(ctx.host.mem(), op.ref_a, op.ref_b);
    op.status = status_of(swapped.map_err(Refused::from))?;
    place.write(ctx.cpu, &op)?;
    Ok(())
}

/// The domain whose table is meant: the caller's own, by either name, or one that it controls.
fn target<'a>(ctx: &CallCtx<'a>, id: DomId) -> Result<Named<'a>, GrantStatus> {
    if id == ctx.domain.id {
        return Ok(Named::Own(ctx.domain));
    }
    // Whether there is such a domain is asked first, as the ABI has it.
    if id != DomId::SELF && ctx.host.domains.get(id).is_none() {
        return Err(GrantStatus::BadDomain);
    }
    owners::domain(ctx, id).map_err(|errno| match errno {
        Errno::ESRCH => GrantStatus::BadDomain,
        _ => GrantStatus::PermissionDenied,
    })
}
