//! The calls that change descriptor tables.

use arrayvec::ArrayVec;
use dom0_abi::addr::{GuestAddr, Maddr, Mfn, PAGE_SIZE};
use dom0_abi::arch::FIRST_RESERVED_GDT_ENTRY;
use dom0_abi::errno::Errno;
use dom0_abi::handle::GuestHandle;
use oxen_arch::descriptor_window::{GDT_PAGES, LDT_PAGES, PAGE_ENTRIES};
use oxen_arch::guest_range::check_guest_range;
use oxen_arch::memory::BadFrame;

use super::check::check;
use super::fault::map_ldt_page;
use super::tables::{Pages, Place, Tables};
use crate::guest_access::GuestPtr;
use crate::hypercall::continuation::Continuation;
use crate::hypercall::{CallCtx, HypercallResult, Reply};
use crate::mmu::with_undone;
use crate::page_type::hold::Reach;
use crate::page_type::{HeldType, PageType, Stop, TypeRef, promote};

/// What each page of a table costs that is taken and loaded, beside its being checked, in units of the budget.
const PAGE: u32 = 4;

/// Makes frames of the caller's its global descriptor table, of so many descriptors; none takes it away.
///
/// `EINVAL`: too many descriptors, or a frame is not the caller's, is used as something else, or holds a descriptor that is not
/// allowed. `EFAULT`: the list could not be read. The table is as before then. ABI: `public/xen.h`, `HYPERVISOR_set_gdt`.
#[doc(alias = "HYPERVISOR_set_gdt")]
#[inline(never)]
pub fn set_gdt(ctx: &mut CallCtx<'_>, frames: GuestHandle<u64>, entries: u32) -> HypercallResult {
    let count = usize::try_from(entries)
        .ok()
        .filter(|&count| count <= FIRST_RESERVED_GDT_ENTRY)
        .ok_or(Errno::EINVAL)?;
    // All of the list before any of its frames: that is the order of errors that guests know.
    let mut list = [Mfn::new(0); GDT_PAGES];
    let pages = count.div_ceil(PAGE_ENTRIES);
    let mut next = core::mem::take(&mut ctx.state.tables.next_gdt);
    let taken = match list.get_mut(..pages) {
        Some(list) => read_list(ctx, frames.into(), list)
            .map_err(Stop::Refused)
            .and_then(|()| take_gdt(ctx, &mut next, list)),
        None => Err(Errno::EINVAL.into()),
    };
    ctx.budget.pay(PAGE.saturating_mul(pages as u32));
    match taken {
        Ok(()) => {
            let tables = &mut ctx.state.tables;
            core::mem::swap(&mut tables.gdt, &mut next);
            tables.load_gdt(ctx.cpu);
            // That is the old one now.
            forget(ctx, &mut next, 0);
            Ok(Reply::DONE)
        }
        Err(Stop::Refused(errno)) => {
            forget(ctx, &mut next, 0);
            Err(errno)
        }
        Err(Stop::Again) => {
            ctx.state.tables.next_gdt = next;
            ctx.goes_on(Continuation::SetGdt { frames, entries })
        }
    }
}

/// Gives a vCPU of the caller's domain that has never run the tables that it begins with. What was taken before [`Stop::Again`] stays in
/// `tables`, for the next attempt or for [`Tables::release`].
///
/// `EINVAL`: as for [`set_gdt`] and [`set_ldt`].
pub fn give_tables(
    ctx: &mut CallCtx<'_>,
    tables: &mut Tables,
    (frames, entries): (&[u64; GDT_PAGES_OF_CONTEXT], u64),
    (ldt_base, ldt_entries): (GuestAddr, u64),
) -> Result<(), Stop> {
    let count = usize::try_from(entries)
        .ok()
        .filter(|&count| count <= FIRST_RESERVED_GDT_ENTRY)
        .ok_or(Errno::EINVAL)?;
    let ldt_entries = ldt_entries_at(ldt_base, ldt_entries)?;
    let mut list = ArrayVec::<Mfn, GDT_PAGES>::new();
    list.extend(
        frames
            .iter()
            .take(count.div_ceil(PAGE_ENTRIES))
            .map(|&mfn| Mfn::new(mfn)),
    );
    take_gdt(ctx, &mut tables.next_gdt, &list)?;
    core::mem::swap(&mut tables.gdt, &mut tables.next_gdt);
    forget(ctx, &mut tables.next_gdt, 0);
    (tables.ldt.base, tables.ldt.entries) = (ldt_base, ldt_entries);
    Ok(())
}

/// How many frames of a GDT a vCPU's first context names; the last two of a table are the hypervisor's.
const GDT_PAGES_OF_CONTEXT: usize = 16;

fn read_list(ctx: &CallCtx<'_>, frames: GuestPtr<u64>, list: &mut [Mfn]) -> Result<(), Errno> {
    for (index, mfn) in (0..).zip(list) {
        *mfn = Mfn::new(frames.element(index).read(ctx.cpu)?);
    }
    Ok(())
}

/// Takes the pages of a new GDT, beside the old one. Those that an unfinished call of before has taken need not be taken
/// again, if the list still names them.
fn take_gdt(ctx: &mut CallCtx<'_>, next: &mut Pages, list: &[Mfn]) -> Result<(), Stop> {
    for (index, &mfn) in list.iter().enumerate() {
        let taken = next.get(index).map(HeldType::mfn);
        if taken != Some(mfn) {
            forget(ctx, next, index);
            let page = with_undone(ctx, |ctx| acquire(ctx, mfn))?.into_held();
            // There are never more pages than fit.
            next.try_push(page).map_err(|refused| {
                drop(TypeRef::from_held(ctx.memory(), refused.element()));
                Errno::EINVAL
            })?;
        }
    }
    forget(ctx, next, list.len());
    Ok(())
}

/// Gives back the pages of a GDT from `index` on.
fn forget(ctx: &CallCtx<'_>, pages: &mut Pages, index: usize) {
    while pages.len() > index {
        if let Some(held) = pages.pop() {
            drop(TypeRef::from_held(ctx.memory(), held));
        }
    }
}

/// Makes a frame of the caller's a page of descriptors, or finds it so. Fails as `promote::acquire`.
pub(super) fn acquire<'a>(ctx: &mut CallCtx<'a>, mfn: Mfn) -> Result<TypeRef<'a>, Stop> {
    let reach = Reach::own(ctx.host, ctx.domain);
    let (memory, ty) = (ctx.memory(), PageType::Descriptors);
    promote::acquire(memory, &reach, mfn, ty, &mut ctx.budget)
}

/// Writes one descriptor into a page of the caller's: one of descriptors, or one that it could write to itself.
///
/// `EINVAL`: the address is not that of a descriptor, the descriptor is not allowed (wherever it would go to), or the frame
/// is not the caller's or used as something else; nothing has changed. ABI: `public/xen.h`, `HYPERVISOR_update_descriptor`.
#[doc(alias = "HYPERVISOR_update_descriptor")]
#[inline(never)]
pub fn update_descriptor(ctx: &mut CallCtx<'_>, maddr: u64, descriptor: u64) -> HypercallResult {
    match update(ctx, Maddr::new(maddr), descriptor) {
        Ok(()) => Ok(Reply::DONE),
        Err(Stop::Refused(errno)) => Err(errno),
        Err(Stop::Again) => ctx.goes_on(Continuation::UpdateDescriptor { maddr, descriptor }),
    }
}

fn update(ctx: &mut CallCtx<'_>, at: Maddr, raw: u64) -> Result<(), Stop> {
    if !at.get().is_multiple_of(size_of::<u64>() as u64) {
        return Err(Errno::EINVAL.into());
    }
    let descriptor = check(raw).map_err(Errno::from)?;
    let page = with_undone(ctx, |ctx| {
        let (memory, owner) = (ctx.memory(), ctx.domain.id);
        match TypeRef::share(memory, at.mfn(), PageType::Descriptors, owner) {
            Err(Stop::Refused(_)) => TypeRef::writable(memory, at.mfn(), owner),
            other => other,
        }
    })?;
    // As a whole: another CPU may be loading it.
    let stored = ctx.host.mem().store_u64(at, descriptor);
    drop(page);
    stored.map_err(|BadFrame| Stop::Refused(Errno::EINVAL))
}

/// Makes what lies at an address of the caller's its local descriptor table, of so many descriptors; none takes it away. Its
/// pages are looked for when they are needed.
///
/// `EINVAL`: there are too many, or no table can be there; the table is as before. ABI: `public/xen.h`, `MMUEXT_SET_LDT`.
#[doc(alias = "MMUEXT_SET_LDT")]
pub fn set_ldt(ctx: &mut CallCtx<'_>, base: GuestAddr, entries: u32) -> Result<(), Errno> {
    let entries = ldt_entries_at(base, entries.into())?;
    let memory = ctx.memory();
    let ldt = &mut ctx.state.tables.ldt;
    (ldt.base, ldt.entries) = (base, entries);
    ctx.cpu.load_ldt(entries);
    for (index, page) in ldt.pages.iter_mut().enumerate() {
        if let Some(held) = page.take() {
            ctx.cpu.map_ldt_page(index, None);
            drop(TypeRef::from_held(memory, held));
        }
    }
    Ok(())
}

/// Checks where an LDT is to be, and how many descriptors it has.
fn ldt_entries_at(base: GuestAddr, entries: u64) -> Result<u16, Errno> {
    const MOST: u16 = (LDT_PAGES * PAGE_ENTRIES) as u16;
    let entries = u16::try_from(entries)
        .ok()
        .filter(|&entries| entries <= MOST)
        .ok_or(Errno::EINVAL)?;
    let is_aligned = base.get().is_multiple_of(PAGE_SIZE as u64);
    if entries > 0 && !(is_aligned && check_guest_range(base, 1).is_ok()) {
        return Err(Errno::EINVAL);
    }
    Ok(entries)
}

/// Loads the GS of user mode. A selector that cannot be loaded counts as 0. [`Stop::Again`]: the page of the LDT that it
/// leads to is not ready yet. ABI: `public/arch-x86/xen-x86_64.h`, `SEGBASE_GS_USER_SEL`.
pub fn set_user_gs_selector(ctx: &mut CallCtx<'_>, selector: u16) -> Result<(), Stop> {
    if let Some(Place::Ldt { page, .. }) = ctx.state.tables.locate(selector)
        && let Err(Stop::Again) = map_ldt_page(ctx, page)
    {
        return Err(Stop::Again);
    }
    ctx.cpu.load_user_gs_selector(selector);
    Ok(())
}
