//! Mapping granted frames.

use dom0_abi::addr::{GuestAddr, Maddr, Mfn};
use dom0_abi::grant_table::{
    GNTMAP_GUEST_AVAIL_MASK, GrantFlags, GrantStatus, MapFlags, MapGrantRef,
};
use dom0_abi::ids::DomId;

use super::entry::Access;
use super::handles;
use super::op::{Refused, status_of};
use super::table::Use;
use super::track::{Parts, Track};
use super::unmap::granter;
use crate::domain::Domain;
use crate::frame::{FrameRef, Memory};
use crate::guest_access::GuestPtr;
use crate::hypercall::CallCtx;
use crate::mmu::granted::{self, Place};
use crate::page_type::entry::{Entry, bits};
use crate::page_type::hold::Reach;
use crate::page_type::{PageType, Stop, TypeRef};

/// What mapping costs beside what is paid for on the way, in units of the budget.
const MAP: u32 = 8;

/// Maps the frame of a grant: for CPUs by an entry of a page table, for devices by saying its address.
///
/// [`GrantStatus::BadGntref`]: neither is asked for, or the granter has no such entry; [`GrantStatus::BadDomain`]: there is no such
/// granter; [`GrantStatus::NoSpace`]: there is no handle left; [`GrantStatus::BadPage`]: the frame is not the granter's;
/// [`GrantStatus::GeneralError`]: the grant does not allow it, or the frame is used as something else, or there is no table for the
/// entry. Nothing has changed then. `EFAULT`: the operation cannot be read, or the result not written.
/// ABI: `public/grant_table.h`, `GNTTABOP_map_grant_ref`.
#[doc(alias = "GNTTABOP_map_grant_ref")]
pub(super) fn map_grant_ref(
    ctx: &mut CallCtx<'_>,
    place: GuestPtr<MapGrantRef>,
) -> Result<(), Stop> {
    let mut op = place.read(ctx.cpu)?;
    let result = map(ctx, &op).map(|mapped| {
        (op.handle, op.dev_bus_addr) = (mapped.handle, mapped.mfn.start().get());
    });
    op.status = status_of(result)?;
    place.write(ctx.cpu, &op)?;
    Ok(())
}

struct Mapped {
    handle: u32,
    mfn: Mfn,
}

fn map(ctx: &mut CallCtx<'_>, op: &MapGrantRef) -> Result<Mapped, Refused> {
    let flags = MapFlags::from_bits_truncate(op.flags);
    let parts = Parts {
        host: flags.contains(MapFlags::HOST_MAP),
        device: flags.contains(MapFlags::DEVICE_MAP),
    };
    if !parts.any() {
        return Err(GrantStatus::BadGntref.into());
    }
    let access = if flags.contains(MapFlags::READONLY) {
        Access::Read
    } else {
        Access::Write
    };
    ctx.budget.pay(MAP);
    let host = ctx.host;
    let (memory, domain, vcpu) = (ctx.memory(), ctx.domain, ctx.vcpu);
    let granter = granter(&host.domains, domain, op.dom).ok_or(GrantStatus::BadDomain)?;
    let handles = &domain.grants.handles;
    let handle = match handles.take(&memory, domain, vcpu, &mut ctx.budget) {
        Ok(Some(handle)) => handle,
        Ok(None) | Err(Stop::Refused(_)) => return Err(GrantStatus::NoSpace.into()),
        Err(Stop::Again) => return Err(Refused::Again),
    };
    match map_with(ctx, &memory, op, granter.domain(), parts, access) {
        Ok(mfn) => {
            let is_by_entry = is_by_entry(op);
            let track = Track::new(op.dom, op.grant_ref, parts, access, is_by_entry, vcpu.id);
            handle.set(track);
            Ok(Mapped {
                handle: handle.number(),
                mfn,
            })
        }
        Err(refused) => {
            handles::give_back(domain, vcpu.id, handle);
            Err(refused)
        }
    }
}

/// Takes all that a map has, for whoever has a handle for it.
#[inline(always)]
fn map_with(
    ctx: &mut CallCtx<'_>,
    memory: &Memory<'_>,
    op: &MapGrantRef,
    granter: &Domain,
    parts: Parts,
    access: Access,
) -> Result<Mfn, Refused> {
    let each_part = Use {
        mapper: ctx.domain.id,
        reference: op.grant_ref,
        access,
        count: parts.count(),
        is_map: true,
    };
    let pin = granter.grants.pin(memory, granter.id, each_part)?;
    let mfn = pin.mfn();
    let device = match parts.device {
        true => Some(DeviceMap::take(*memory, mfn, granter.id, access)?),
        false => None,
    };
    if parts.host {
        let mut entry = entry(mfn, op.flags, access, pin.cache());
        if ctx.host.machine.paging().has_nx {
            entry.0 |= bits::NO_EXECUTE;
        }
        let reach = Reach {
            tables: ctx.domain.id,
            ..Reach::own(ctx.host, granter)
        };
        let place = place(op.host_addr, is_by_entry(op));
        match granted::put(ctx, memory, &reach, place, entry) {
            Ok(true) => {}
            Ok(false) | Err(Stop::Refused(_)) => return Err(GrantStatus::GeneralError.into()),
            Err(Stop::Again) => return Err(Refused::Again),
        }
    }
    if let Some(device) = device {
        device.into_track();
    }
    pin.into_track();
    Ok(mfn)
}

/// Whether the caller names the entry itself.
const fn is_by_entry(op: &MapGrantRef) -> bool {
    op.flags & MapFlags::CONTAINS_PTE.bits() != 0
}

/// Where the entry is meant to be: at a machine address, or where it maps an address.
pub(super) fn place(host_addr: u64, is_by_entry: bool) -> Place {
    if is_by_entry {
        Place::Entry(Maddr::new(host_addr))
    } else {
        Place::Address(GuestAddr::new(host_addr))
    }
}

/// The entry that maps a granted frame. `cache`: the granter's entry, of which the cache mode is taken.
fn entry(mfn: Mfn, flags: u32, access: Access, cache: u64) -> Entry {
    let mut entry = mfn.start().get() | bits::PRESENT | bits::ACCESSED | bits::DIRTY;
    if access == Access::Write {
        entry |= bits::WRITABLE;
    }
    if flags & MapFlags::APPLICATION_MAP.bits() != 0 {
        entry |= bits::USER;
    }
    // The lowest three of them are the bits that every entry has.
    let available = u64::from((flags & GNTMAP_GUEST_AVAIL_MASK) >> 16);
    entry |= available << 9 & 7 << 9;
    for (flag, bit) in [
        (GrantFlags::PWT, bits::WRITE_THROUGH),
        (GrantFlags::PCD, bits::CACHE_DISABLE),
        (GrantFlags::PAT, bits::PAT),
    ] {
        if cache & u64::from(flag.bits()) != 0 {
            entry |= bit;
        }
    }
    Entry(entry)
}

/// What a map for devices holds of a frame: that it stays writable, or stays at all. Without an IOMMU that is all that it is.
pub(super) enum DeviceMap<'m> {
    /// For reading.
    Frame(FrameRef<'m>),
    /// For writing.
    Writable(TypeRef<'m>),
}

impl<'m> DeviceMap<'m> {
    fn take(memory: Memory<'m>, mfn: Mfn, owner: DomId, access: Access) -> Result<Self, Refused> {
        let taken = match access {
            Access::Read => memory
                .acquire(mfn, owner)
                .map(Self::Frame)
                .map_err(Stop::from),
            Access::Write => TypeRef::writable(memory, mfn, owner).map(Self::Writable),
        };
        taken.map_err(|stop: Stop| match stop {
            Stop::Refused(_) => GrantStatus::GeneralError.into(),
            Stop::Again => Refused::Again,
        })
    }

    /// Leaves it to a handle.
    fn into_track(self) {
        match self {
            Self::Frame(frame) => {
                frame.into_raw();
            }
            Self::Writable(page) => {
                let _ = page.into_held();
            }
        }
    }

    /// Takes it back from a handle whose map for devices ends, once.
    pub(super) fn from_track(memory: Memory<'m>, mfn: Mfn, access: Access) -> Self {
        match access {
            Access::Read => Self::Frame(FrameRef::from_raw(memory, mfn)),
            Access::Write => Self::Writable(TypeRef::counted(memory, mfn, PageType::Writable)),
        }
    }
}
