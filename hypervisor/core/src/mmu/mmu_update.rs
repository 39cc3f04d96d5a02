//! `mmu_update`: entries of page tables, by their machine address, and of the machine-to-physical table.

use dom0_abi::addr::{Maddr, Mfn, Pfn};
use dom0_abi::errno::Errno;
use dom0_abi::handle::GuestHandle;
use dom0_abi::ids::DomId;
use dom0_abi::xen::{MmuCommand, MmuUpdate};
use oxen_arch::memory::BadFrame;
use oxen_arch::registers::Attempt;

use super::list::{self, List, with_undone};
use super::owners::{self, Named, Owner};
use super::update::{replace, replace_at_once};
use crate::domain::Domain;
use crate::frame::Memory;
use crate::frame::type_word::TypeState;
use crate::guest_access::GuestPtr;
use crate::hypercall::at_once::Way;
use crate::hypercall::continuation::Continuation;
use crate::hypercall::{CallCtx, HypercallResult};
use crate::page_type::entry::{Entry, bits};
use crate::page_type::hold::Reach;
use crate::page_type::{PageType, Stop, TypeRef, UsedL1};

/// Bits of a request's address that say what it is.
const COMMAND: u64 = 7;
/// What a write leaves as it is that keeps what the CPU has set.
const KEPT: u64 = bits::ACCESSED | bits::DIRTY;
const KEEPS_BITS: u64 = MmuCommand::PreserveAd.get();

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
    if foreign == u32::from(DomId::SELF.get()) {
        let (reach, domain) = (Reach::own(ctx.host, ctx.domain), ctx.domain);
        return carry_out(ctx, list, reach, || Some(domain));
    }
    for_others(ctx, list)
}

/// Whether a list has one request, about the caller's own tables and pages.
#[inline(always)]
pub(crate) const fn is_one_of_own(count: u32, foreign: u32) -> bool {
    count == 1 && foreign == DomId::SELF.get() as u32
}

/// The same on the straight way, for [one request of the caller's own](is_one_of_own).
#[inline(never)]
pub(crate) fn mmu_update_at_once(
    way: Way<'_>,
    requests: GuestHandle<MmuUpdate>,
    done: GuestHandle<u32>,
) -> Attempt {
    way.go(|caller| {
        // The general way reads it again: what was read here is forgotten then.
        let request = GuestPtr::from(requests).read(caller.cpu).ok()?;
        let (memory, reach) = (caller.memory(), Reach::own(caller.host, caller.domain));
        let (at, kept) = ordinary(request)?;
        let table = UsedL1::at_once(&memory, at.mfn(), reach.tables)?;
        replace_at_once(&table, &reach, index(at), wanted(request, kept))?;
        drop(table);
        list::tell(caller.cpu, done, 1);
        Some(0)
    })
}

/// Carries out requests that are about another domain's pages or tables, or about nobody's pages.
#[inline(never)]
fn for_others(ctx: &mut CallCtx<'_>, list: List<MmuUpdate>) -> HypercallResult {
    let foreign = list.foreign;
    let tables = match (foreign >> 16).checked_sub(1) {
        None => Named::Own(ctx.domain),
        Some(id) if DomId::new(id as u16) == ctx.domain.id => Named::Own(ctx.domain),
        Some(id) if DomId::new(id as u16) == DomId::SELF => return Err(Errno::ESRCH),
        Some(id) => owners::domain(ctx, DomId::new(id as u16))?,
    };
    let owner = owners::owner(ctx, DomId::new(foreign as u16))
        .inspect_err(|_| list::tell(ctx.cpu, list.done, 0))?;
    let reach = owners::reach(ctx, tables.domain().id, &owner);
    carry_out(ctx, list, reach, || match &owner {
        Owner::Domain(named) => Some(named.domain()),
        Owner::Devices | Owner::Hypervisor => None,
    })
}

/// Carries out requests. `named`: the domain whose frames may be renamed; each caller's is another one, so that each has a loop
/// of its own, made for what it knows.
#[inline(always)]
fn carry_out<'d>(
    ctx: &mut CallCtx<'_>,
    list: List<MmuUpdate>,
    reach: Reach<'_>,
    named: impl Fn() -> Option<&'d Domain>,
) -> HypercallResult {
    let memory = ctx.memory();
    // Requests come in runs for the same table, which is held meanwhile.
    let mut held = None;
    list.run(
        ctx,
        |rest| Continuation::MmuUpdate {
            requests: rest.requests,
            count: rest.count,
            done: rest.done,
            foreign: rest.foreign,
        },
        |ctx, request| {
            if one_at_once(&memory, &reach, &mut held, request) {
                return Ok(());
            }
            // It may be the last reference, and the request may wait for what follows.
            drop(held.take());
            one(ctx, reach, named(), request)
        },
    )
}

/// Carries a request out if it is an ordinary write to an L1 table and nothing stands in its way.
#[inline(always)]
fn one_at_once<'m>(
    memory: &'m Memory<'m>,
    reach: &Reach<'_>,
    held: &mut Option<UsedL1<'m>>,
    request: MmuUpdate,
) -> bool {
    let Some((at, kept)) = ordinary(request) else {
        return false;
    };
    if held.as_ref().is_none_or(|table| table.mfn() != at.mfn()) {
        // The old one first, as above.
        drop(held.take());
        *held = UsedL1::at_once(memory, at.mfn(), reach.tables);
    }
    let wanted = wanted(request, kept);
    held.as_ref()
        .is_some_and(|table| replace_at_once(table, reach, index(at), wanted).is_some())
}

/// Where a request writes, and which bits stay as they are, if it is a write to an entry.
#[inline(always)]
fn ordinary(request: MmuUpdate) -> Option<(Maddr, u64)> {
    let kept = match request.ptr & COMMAND {
        0 => 0,
        KEEPS_BITS => KEPT,
        _ => return None,
    };
    Some((Maddr::new(request.ptr & !COMMAND), kept))
}

/// Which entry of its table is at an address.
fn index(at: Maddr) -> u16 {
    (at.offset() / 8) as u16
}

/// What a request makes of an entry, of which the bits in `kept` stay as they are.
fn wanted(request: MmuUpdate, kept: u64) -> impl Fn(Entry) -> Option<Entry> {
    move |old| Some(Entry(request.val | old.0 & kept))
}

/// Carries a request out.
#[inline(never)]
fn one(
    ctx: &mut CallCtx<'_>,
    reach: Reach<'_>,
    named: Option<&Domain>,
    request: MmuUpdate,
) -> Result<(), Stop> {
    with_undone(ctx, |ctx| attempt(ctx, &reach, named, request))
}

fn attempt(
    ctx: &mut CallCtx<'_>,
    reach: &Reach<'_>,
    named: Option<&Domain>,
    request: MmuUpdate,
) -> Result<(), Stop> {
    let memory = ctx.memory();
    let at = Maddr::new(request.ptr & !COMMAND);
    let kept = match MmuCommand::try_from(request.ptr & COMMAND).map_err(|_| Errno::ENOSYS)? {
        MmuCommand::Normal | MmuCommand::NoTranslate => 0,
        MmuCommand::PreserveAd => KEPT,
        MmuCommand::MachPhys => {
            let named = named.ok_or(Errno::EINVAL)?;
            return rename(memory, named, at.mfn(), Pfn::new(request.val));
        }
    };
    let Some(table) = table(memory, at.mfn(), reach.tables)? else {
        // Memory like any other, if it can be written to.
        return store(memory, reach.tables, at, request.val);
    };
    let (budget, wanted) = (&mut ctx.budget, wanted(request, kept));
    replace(memory, reach, table.held(), index(at), budget, wanted).map(|_| ())
}

/// Finds out which table a frame is, if it is one. `EINVAL`: it is not the domain's.
fn table<'m>(memory: Memory<'m>, mfn: Mfn, owner: DomId) -> Result<Option<TypeRef<'m>>, Stop> {
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
fn store(memory: Memory<'_>, owner: DomId, at: Maddr, word: u64) -> Result<(), Stop> {
    let page = TypeRef::writable(memory, at.mfn(), owner)?;
    let stored = memory.mem().store_u64(at, word);
    drop(page);
    stored.map_err(|BadFrame| Stop::Refused(Errno::EINVAL))
}

/// Changes what a frame of a domain is called by it.
fn rename(memory: Memory<'_>, owner: &Domain, mfn: Mfn, pfn: Pfn) -> Result<(), Stop> {
    let frame = memory.acquire(mfn, owner.id)?;
    memory.machine.m2p().set(frame.mfn(), Some(pfn));
    Ok(())
}
