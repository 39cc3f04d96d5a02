//! `mmu_update`: entries of page tables, by their machine address, and of the machine-to-physical table.

use dom0_abi::addr::{Maddr, Mfn, Pfn};
use dom0_abi::errno::Errno;
use dom0_abi::handle::GuestHandle;
use dom0_abi::ids::DomId;
use dom0_abi::xen::{MmuCommand, MmuUpdate};
use oxen_arch::memory::BadFrame;

use super::list::List;
use super::owners::{self, Named, Owner};
use super::update::replace;
use crate::frame::Memory;
use crate::frame::type_word::TypeState;
use crate::hypercall::continuation::Continuation;
use crate::hypercall::{CallCtx, HypercallResult};
use crate::page_type::entry::{Entry, bits};
use crate::page_type::hold::Reach;
use crate::page_type::{Level, PageType, Stop, TypeRef};

/// Bits of a request's address that say what it is.
const COMMAND: u64 = 7;

/// Carries out requests in order.
///
/// `foreign`: whose pages are mapped (low half) and whose tables are changed (high half: 0 for the caller's own, else the
/// domain's number plus one). `EINVAL`: an address is not that of an entry, or the entry is not allowed; `EBUSY`: it maps a page
/// that is not the owner's, or is used as something else; `EPERM`: the caller may not act for a domain, or not map a device;
/// `ESRCH`: no such domain; `ENOSYS`: no such command; `EFAULT`: the list is out of reach.
/// Requests before the one that failed have been carried out, the failed one has changed nothing.
/// ABI: `public/xen.h`, `HYPERVISOR_mmu_update`.
#[inline(never)]
pub fn mmu_update(
    ctx: &mut CallCtx<'_>,
    requests: GuestHandle<MmuUpdate>,
    count: u32,
    done: GuestHandle<u32>,
    foreign: u32,
) -> HypercallResult {
    let list = List {
        requests,
        count,
        done,
        foreign,
    };
    if let Some(reply) = list.settled() {
        return Ok(reply);
    }
    let tables = match (foreign >> 16).checked_sub(1) {
        None => Named::Own(ctx.domain),
        Some(id) if DomId::new(id as u16) == ctx.domain.id => Named::Own(ctx.domain),
        Some(id) if DomId::new(id as u16) == DomId::SELF => return Err(Errno::ESRCH),
        Some(id) => owners::domain(ctx, DomId::new(id as u16))?,
    };
    let owner =
        owners::owner(ctx, DomId::new(foreign as u16)).inspect_err(|_| list.tell(ctx, 0))?;
    let reach = owners::reach(ctx, tables.domain().id, &owner);
    // Requests come in runs for the same table.
    let mut table = None;
    list.run(
        ctx,
        |rest| Continuation::MmuUpdate {
            requests: rest.requests,
            count: rest.count,
            done: rest.done,
            foreign: rest.foreign,
        },
        |ctx, request| one(ctx, &reach, &owner, &mut table, request),
    )
}

fn one<'a>(
    ctx: &mut CallCtx<'a>,
    reach: &Reach<'_>,
    owner: &Owner<'_>,
    table: &mut Option<TypeRef<'a>>,
    request: MmuUpdate,
) -> Result<(), Stop> {
    let at = Maddr::new(request.ptr & !COMMAND);
    match MmuCommand::try_from(request.ptr & COMMAND).map_err(|_| Errno::ENOSYS)? {
        MmuCommand::Normal | MmuCommand::NoTranslate => {
            write(ctx, reach, table, at, Entry(request.val), 0)
        }
        MmuCommand::PreserveAd => {
            let kept = bits::ACCESSED | bits::DIRTY;
            write(ctx, reach, table, at, Entry(request.val), kept)
        }
        MmuCommand::MachPhys => {
            let Owner::Domain(named) = owner else {
                return Err(Errno::EINVAL.into());
            };
            rename(ctx.memory(), named, at.mfn(), Pfn::new(request.val))
        }
    }
}

/// Writes an entry, of which the bits in `kept` stay as they are.
fn write<'a>(
    ctx: &mut CallCtx<'a>,
    reach: &Reach<'_>,
    table: &mut Option<TypeRef<'a>>,
    at: Maddr,
    entry: Entry,
    kept: u64,
) -> Result<(), Stop> {
    let memory = ctx.memory();
    let mfn = at.mfn();
    if table.as_ref().is_none_or(|table| table.mfn() != mfn) {
        // The old one first: it may be the last reference, and the new one may wait for what follows.
        *table = None;
        // As a rule it is an L1 table.
        let l1 = PageType::Table(Level::L1);
        *table = TypeRef::share_at_once(memory, mfn, l1, reach.tables);
        if table.is_none() {
            *table = other_table(memory, mfn, reach.tables)?;
        }
    }
    let Some(table) = table else {
        // Not a table: memory like any other, if it can be written to.
        return store(memory, reach.tables, at, entry.0);
    };
    let index = (at.offset() / 8) as u16;
    replace(memory, reach, table, index, &mut ctx.budget, |old| {
        Some(Entry(entry.0 | old.0 & kept))
    })?;
    Ok(())
}

/// Finds out which table a frame is, if it is one. `EINVAL`: it is not the domain's.
#[inline(never)]
fn other_table<'m>(
    memory: Memory<'m>,
    mfn: Mfn,
    owner: DomId,
) -> Result<Option<TypeRef<'m>>, Stop> {
    match memory.frames.type_state(mfn) {
        Some(TypeState::InUse {
            ty: ty @ PageType::Table(_),
            ..
        }) => TypeRef::share(memory, mfn, ty, owner).map(Some),
        Some(TypeState::Undoing { .. } | TypeState::Changing { .. }) => Err(Stop::Again),
        _ => Ok(None),
    }
}

/// Writes a word to a page of a domain that is no table.
#[inline(never)]
fn store(memory: Memory<'_>, owner: DomId, at: Maddr, word: u64) -> Result<(), Stop> {
    let page = TypeRef::writable(memory, at.mfn(), owner)?;
    let stored = memory.mem().store_u64(at, word);
    drop(page);
    stored.map_err(|BadFrame| Stop::Refused(Errno::EINVAL))
}

/// Changes what a frame of a domain is called by it.
fn rename(memory: Memory<'_>, owner: &Named<'_>, mfn: Mfn, pfn: Pfn) -> Result<(), Stop> {
    let frame = memory.acquire(mfn, owner.domain().id)?;
    memory.machine.m2p().set(frame.mfn(), Some(pfn));
    Ok(())
}
