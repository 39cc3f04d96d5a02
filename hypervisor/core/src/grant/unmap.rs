//! Ending maps.
//!
//! In batches: the entries of all are taken away, then every CPU that may remember one forgets it, and only then the granters are
//! told, and anything of the maps is given back (I19, I21). A batch never stays half-way: what was begun is ended before the call
//! returns, or gives way.

use arrayvec::ArrayVec;
use dom0_abi::addr::{GuestAddr, Mfn};
use dom0_abi::errno::Errno;
use dom0_abi::grant_table::{GrantStatus, UnmapAndReplace, UnmapGrantRef};
use dom0_abi::ids::DomId;
use oxen_arch::tlb::Flush;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::entry::Access;
use super::map::{self, DeviceMap};
use super::op::{List, Refused, status_of};
use super::track::{Parts, Track};
use crate::domain::Domain;
use crate::domain::table::DomainTable;
use crate::frame::{Memory, Unpaid};
use crate::guest_access::GuestPtr;
use crate::hypercall::{CallCtx, HypercallResult, Reply};
use crate::mmu::flush::{Whose, flush};
use crate::mmu::granted::{self, Meant};
use crate::mmu::owners::Named;
use crate::page_type::Stop;

/// Maps that end with one flush.
const BATCH: usize = 16;
/// What ending one costs, in units of the budget.
const UNMAP: u32 = 10;

/// Ends maps, or parts of them: the entry at an address, that for devices, or both.
///
/// [`GrantStatus::BadHandle`]: there is no such map; [`GrantStatus::BadDevAddr`]: the frame has another address;
/// [`GrantStatus::GeneralError`]: what is at the address is not an entry by which the grant is mapped. Nothing has changed then.
/// `EFAULT`: an operation cannot be read, or its status not written. ABI: `public/grant_table.h`, `GNTTABOP_unmap_grant_ref`.
#[doc(alias = "GNTTABOP_unmap_grant_ref")]
pub(super) fn unmap_grant_ref(ctx: &mut CallCtx<'_>, list: List) -> HypercallResult {
    run(ctx, list, |op: &UnmapGrantRef| Request {
        handle: op.handle,
        host_addr: op.host_addr,
        dev_bus_addr: op.dev_bus_addr,
        instead: None,
    })
}

/// Ends maps, and puts in the place of each entry the one of another address, which is empty then. Fails as [`unmap_grant_ref`].
/// ABI: `public/grant_table.h`, `GNTTABOP_unmap_and_replace`.
#[doc(alias = "GNTTABOP_unmap_and_replace")]
pub(super) fn unmap_and_replace(ctx: &mut CallCtx<'_>, list: List) -> HypercallResult {
    run(ctx, list, |op: &UnmapAndReplace| Request {
        handle: op.handle,
        host_addr: op.host_addr,
        dev_bus_addr: 0,
        instead: (op.new_addr != 0).then_some(GuestAddr::new(op.new_addr)),
    })
}

/// What is asked for.
struct Request {
    handle: u32,
    host_addr: u64,
    dev_bus_addr: u64,
    instead: Option<GuestAddr>,
}

/// Parts of a map whose end was begun: their entry is gone from memory.
struct Begun {
    handle: u32,
    track: Track,
    parts: Parts,
}

/// One operation of a batch.
trait Operation: FromBytes + IntoBytes + Immutable {
    fn set_status(&mut self, status: i16);
}

impl Operation for UnmapGrantRef {
    fn set_status(&mut self, status: i16) {
        self.status = status;
    }
}

impl Operation for UnmapAndReplace {
    fn set_status(&mut self, status: i16) {
        self.status = status;
    }
}

fn run<T: Operation>(
    ctx: &mut CallCtx<'_>,
    list: List,
    request: impl Fn(&T) -> Request,
) -> HypercallResult {
    let ops = list.all::<T>()?;
    let mut unpaid = Unpaid::new(&ctx.vcpu.undo);
    let mut done = 0;
    while done < list.count {
        let mut begun = ArrayVec::<Begun, BATCH>::new();
        let mut end = Ok(());
        while done < list.count && !begun.is_full() && end.is_ok() {
            unpaid.pay(&mut ctx.budget);
            if done > 0 && !ctx.budget.spend_request() {
                end = Err(Stop::Again);
                break;
            }
            end = one(ctx, ops.element(done.into()), &request, &mut begun);
            if end.is_ok() {
                done = done.saturating_add(1);
            }
        }
        finish(ctx, begun)?;
        match end {
            Ok(()) => {}
            Err(Stop::Refused(errno)) => return Err(errno),
            Err(Stop::Again) => return list.goes_on(ctx, ops.element(done.into()), done),
        }
    }
    Ok(Reply::DONE)
}

/// Begins one operation and says how it ends; it does end so, whatever becomes of the call.
fn one<T: Operation>(
    ctx: &mut CallCtx<'_>,
    place: GuestPtr<T>,
    request: &impl Fn(&T) -> Request,
    begun: &mut ArrayVec<Begun, BATCH>,
) -> Result<(), Stop> {
    let mut op = place.read(ctx.cpu)?;
    let result = begin(ctx, &request(&op));
    let status = status_of(result.as_ref().map(|_| ()).map_err(|&refused| refused))?;
    if let Ok(Some(part)) = result {
        // There is room: the caller has looked.
        let _ = begun.try_push(part);
    }
    op.set_status(status);
    place.write(ctx.cpu, &op)?;
    Ok(())
}

/// Takes away what leads to the frame. `None`: nothing of what the map has is asked for.
fn begin(ctx: &mut CallCtx<'_>, request: &Request) -> Result<Option<Begun>, Refused> {
    ctx.budget.pay(UNMAP);
    let (host, memory) = (ctx.host, ctx.memory());
    let mem = memory.mem();
    let number = request.handle;
    let handle = ctx.domain.grants.handles.handle(mem, number);
    let handle = handle.ok_or(GrantStatus::BadHandle)?;
    let track = handle.track().ok_or(GrantStatus::BadHandle)?;
    let asked = Parts {
        host: request.host_addr != 0,
        device: request.dev_bus_addr != 0,
    };
    let parts = asked.and(track.parts());
    if !parts.any() {
        // What another vCPU is about to end has not ended yet: nobody is told so but that one.
        return match asked.and(track.pinned()).any() {
            true => Err(GrantStatus::BadHandle.into()),
            false => Ok(None),
        };
    }
    if !handle.begin_end(track, parts) {
        // Another vCPU was faster.
        return Err(GrantStatus::BadHandle.into());
    }
    // Its pins are ours now, so the granter and the frame stay what they are.
    let granter = granter(&host.domains, ctx.domain, track.granter());
    let grants = granter.as_ref().map(|granter| &granter.domain().grants);
    let taken = match grants.and_then(|grants| grants.pinned_frame(mem, track.reference())) {
        Some(mfn) => take(ctx, &memory, request, track, parts, mfn),
        None => Err(GrantStatus::BadHandle.into()),
    };
    match taken {
        Ok(()) => Ok(Some(Begun {
            handle: number,
            track,
            parts,
        })),
        Err(refused) => {
            handle.undo_end(parts);
            Err(refused)
        }
    }
}

/// Checks what is asked for, and takes the entry away that leads to the frame.
#[inline(always)]
fn take(
    ctx: &mut CallCtx<'_>,
    memory: &Memory<'_>,
    request: &Request,
    track: Track,
    parts: Parts,
    mfn: Mfn,
) -> Result<(), Refused> {
    if parts.device && request.dev_bus_addr != mfn.start().get() {
        return Err(GrantStatus::BadDevAddr.into());
    }
    if !parts.host {
        return Ok(());
    }
    let place = map::place(request.host_addr, track.is_by_entry());
    if request.instead.is_some() && track.is_by_entry() {
        return Err(GrantStatus::GeneralError.into());
    }
    let meant = Meant {
        mfn,
        is_writable: track.access() == Access::Write,
    };
    match granted::take(ctx, memory, place, meant, request.instead) {
        Ok(true) => Ok(()),
        Ok(false) | Err(Stop::Refused(_)) => Err(GrantStatus::GeneralError.into()),
        Err(Stop::Again) => Err(Refused::Again),
    }
}

/// Ends what was begun, when no CPU remembers the entries any more.
fn finish(ctx: &mut CallCtx<'_>, begun: ArrayVec<Begun, BATCH>) -> Result<(), Errno> {
    if begun.iter().any(|part| part.parts.host) {
        // Of all addresses: the caller may have overwritten other entries that led to the same frames.
        flush(ctx, Whose::All, Some(Flush::All))?;
    }
    let (memory, domain) = (ctx.memory(), ctx.domain);
    let handles = &domain.grants.handles;
    for Begun {
        handle,
        track,
        parts,
    } in begun
    {
        release(memory, &ctx.host.domains, domain, track, parts);
        handles.end(memory.mem(), domain, handle, track, parts);
    }
    Ok(())
}

/// Gives back what parts of a map had beside their entries. Nobody reaches the frame by them any more.
pub(super) fn release(
    memory: Memory<'_>,
    domains: &DomainTable,
    mapper: &Domain,
    track: Track,
    parts: Parts,
) {
    let Some(granter) = granter(domains, mapper, track.granter()) else {
        debug_assert!(false, "a granter is gone of which somebody has a map");
        return;
    };
    let (grants, reference) = (&granter.domain().grants, track.reference());
    if parts.device
        && let Some(mfn) = grants.pinned_frame(memory.mem(), reference)
    {
        drop(DeviceMap::from_track(memory, mfn, track.access()));
    }
    grants.unpin(&memory, reference, track.access(), parts.count());
}

/// A granter, which may be the mapper.
#[inline(always)]
pub(super) fn granter<'a>(
    domains: &'a DomainTable,
    mapper: &'a Domain,
    id: DomId,
) -> Option<Named<'a>> {
    if id == mapper.id {
        return Some(Named::Own(mapper));
    }
    domains.get(id).map(Named::Other)
}
