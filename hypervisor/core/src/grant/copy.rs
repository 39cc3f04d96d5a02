//! Copies between frames that are granted, or the caller's own.

use dom0_abi::addr::{Mfn, PAGE_SIZE};
use dom0_abi::grant_table::{CopyFlags, CopyPtr, GrantCopy, GrantStatus};
use dom0_abi::ids::{DomId, GrantRef};
use oxen_arch::memory::BadFrame;

use super::entry::Access;
use super::op::{Refused, status_of};
use super::table::{Pin, Use};
use crate::domain::Domain;
use crate::frame::FrameRef;
use crate::guest_access::GuestPtr;
use crate::host::Host;
use crate::hypercall::CallCtx;
use crate::mmu::owners::Named;
use crate::page_type::{Stop, TypeRef};

/// What a copy costs beside its bytes, in units of the budget, and how many bytes cost one more.
const COPY: u32 = 12;
const BYTES_PER_UNIT: u32 = 512;

/// Copies bytes from one frame to another. Both are held for the time, and what is copied is what lies there meanwhile, if anybody
/// writes to it.
///
/// [`GrantStatus::PermissionDenied`]: a frame is named that is not granted, and not the caller's; [`GrantStatus::BadDomain`]: there
/// is no such domain; [`GrantStatus::BadGntref`], [`GrantStatus::BadPage`]: there is no such entry, or its frame is not the
/// granter's; [`GrantStatus::GeneralError`]: the grant does not allow it, or the destination is used as something else;
/// [`GrantStatus::BadCopyArg`]: an end goes beyond its frame. Nothing has changed then. `EFAULT`: the operation cannot be read, or
/// its status not written. ABI: `public/grant_table.h`, `GNTTABOP_copy`.
#[doc(alias = "GNTTABOP_copy")]
pub(super) fn copy(ctx: &mut CallCtx<'_>, place: GuestPtr<GrantCopy>) -> Result<(), Stop> {
    let mut op = place.read(ctx.cpu)?;
    op.status = status_of(copy_one(ctx, &op))?;
    place.write(ctx.cpu, &op)?;
    Ok(())
}

fn copy_one(ctx: &mut CallCtx<'_>, op: &GrantCopy) -> Result<(), Refused> {
    ctx.budget.pay(COPY);
    let flags = CopyFlags::from_bits_truncate(op.flags);
    let (from_grant, to_grant) = (
        flags.contains(CopyFlags::SOURCE_GREF),
        flags.contains(CopyFlags::DEST_GREF),
    );
    let from = owner(ctx, op.source.domid, from_grant)?;
    let to = owner(ctx, op.dest.domid, to_grant)?;
    let source = End::new(ctx, from.domain(), &op.source, from_grant, Access::Read)?;
    let dest = End::new(ctx, to.domain(), &op.dest, to_grant, Access::Write)?;
    let memory = ctx.memory();
    let writable = TypeRef::writable(memory, dest.mfn(), to.domain().id);
    let _writable = writable.map_err(|stop| match stop {
        Stop::Refused(_) => GrantStatus::GeneralError.into(),
        Stop::Again => Refused::Again,
    })?;
    let len = usize::from(op.len);
    for offset in [op.source.offset, op.dest.offset] {
        if len.saturating_add(offset.into()) > PAGE_SIZE {
            return Err(GrantStatus::BadCopyArg.into());
        }
    }
    ctx.budget.pay(u32::from(op.len) / BYTES_PER_UNIT);
    let at = |end: &End<'_, '_>, ptr: &CopyPtr| end.mfn().at(ptr.offset.into());
    let copied = memory
        .mem()
        .copy_bytes(at(&source, &op.source), at(&dest, &op.dest), len);
    // A frame of a domain is RAM.
    copied.map_err(|BadFrame| GrantStatus::GeneralError.into())
}

/// The domain whose frame is meant.
fn owner<'a>(ctx: &CallCtx<'a>, id: DomId, is_grant: bool) -> Result<Named<'a>, Refused> {
    let host: &'a Host = ctx.host;
    match id {
        DomId::SELF => Ok(Named::Own(ctx.domain)),
        _ if !is_grant => Err(GrantStatus::PermissionDenied.into()),
        id => match host.domains.get(id) {
            Some(domain) => Ok(Named::Other(domain)),
            None => Err(GrantStatus::BadDomain.into()),
        },
    }
}

/// One end of a copy, held.
enum End<'t, 'm> {
    Grant(Pin<'t, 'm>),
    Own(FrameRef<'m>),
}

impl<'t, 'm> End<'t, 'm> {
    fn new(
        ctx: &CallCtx<'m>,
        owner: &'t Domain,
        ptr: &CopyPtr,
        is_grant: bool,
        access: Access,
    ) -> Result<Self, Refused> {
        let memory = ctx.memory();
        if is_grant {
            // The lower half.
            let reference = GrantRef::new(ptr.u as u32);
            let one = Use {
                mapper: ctx.domain.id,
                reference,
                access,
                count: 1,
                is_map: false,
            };
            return Ok(Self::Grant(owner.grants.pin(&memory, owner.id, one)?));
        }
        match memory.acquire(Mfn::new(ptr.u), owner.id) {
            Ok(frame) => Ok(Self::Own(frame)),
            Err(_) => Err(GrantStatus::BadPage.into()),
        }
    }

    fn mfn(&self) -> Mfn {
        match self {
            Self::Grant(pin) => pin.mfn(),
            Self::Own(frame) => frame.mfn(),
        }
    }
}
