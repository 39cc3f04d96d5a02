//! Faults in the window: the CPU loads a selector and does not find the page of the table.
//!
//! The page is looked for where the guest's kernel maps it, and mapped for the CPU if it can be a page of descriptors; then
//! the instruction is executed again. Otherwise the guest has the page fault that it would have had without a hypervisor, at
//! its own address.

use dom0_abi::addr::{GuestAddr, PAGE_SIZE};
use dom0_abi::errno::Errno;
use oxen_arch::TableOffset;
use oxen_arch::guest_range::is_canonical;

use super::calls::acquire;
use crate::hypercall::CallCtx;
use crate::mmu::{l1_entry, with_undone};
use crate::page_type::Stop;
use crate::trap::dispatch::page_fault_code;
use crate::trap::exception::{Exception, PageFaultCode};

/// Handles a page fault in this CPU's window, if it is one. `Err`: what the guest gets. `Ok`: it goes on where it was.
///
/// Only accesses that the CPU makes by itself, with the rights of the supervisor, are selectors being loaded; a guest that
/// tries the address of the window has an ordinary page fault.
pub fn window_fault(ctx: &mut CallCtx<'_>) -> Option<Result<(), Exception>> {
    let code = ctx.regs.error_code;
    if code & (PageFaultCode::USER | PageFaultCode::RESERVED) != 0 {
        return None;
    }
    Some(match ctx.cpu.table_offset_of(ctx.cpu.fault_address())? {
        TableOffset::Gdt(offset) => Err(Exception::gp(selector_code(offset))),
        TableOffset::Ldt(offset) => ldt_fault(ctx, offset),
    })
}

/// The error code that names a descriptor by its place.
fn selector_code(offset: u16) -> u32 {
    u32::from(offset & !7)
}

fn ldt_fault(ctx: &mut CallCtx<'_>, offset: u16) -> Result<(), Exception> {
    const LOCAL: u32 = 4;
    // Addresses wrap, as they do for the CPU.
    let address = ctx.state.tables.ldt.base.get().wrapping_add(offset.into());
    if !is_canonical(address) {
        return Err(Exception::gp(selector_code(offset) | LOCAL));
    }
    match map_ldt_page(ctx, usize::from(offset) / PAGE_SIZE) {
        // In the second case it comes here again, with a new budget, until the page is ready.
        Ok(()) | Err(Stop::Again) => Ok(()),
        Err(Stop::Refused(_)) => Err(Exception::pf(address, page_fault_code(ctx))),
    }
}

/// Finds a page of the LDT in the guest's kernel half and maps it, unless it is mapped already.
///
/// `EINVAL`: there is none, or it cannot be a page of descriptors.
pub(super) fn map_ldt_page(ctx: &mut CallCtx<'_>, page: usize) -> Result<(), Stop> {
    let ldt = &ctx.state.tables.ldt;
    match ldt.pages.get(page) {
        Some(None) => {}
        Some(Some(_)) => return Ok(()),
        None => return Err(Errno::EINVAL.into()),
    }
    let offset = page.wrapping_mul(PAGE_SIZE) as u64;
    let address = GuestAddr::new(ldt.base.get().wrapping_add(offset));
    let root = ctx.state.kernel_root().ok_or(Errno::EINVAL)?;
    let found = with_undone(ctx, |ctx| {
        let entry = l1_entry(ctx.memory(), root, ctx.domain.id, address)?;
        if !entry.is_present() {
            return Err(Errno::EINVAL.into());
        }
        acquire(ctx, entry.mfn())
    })?;
    ctx.cpu.map_ldt_page(page, Some(found.mfn()));
    if let Some(place) = ctx.state.tables.ldt.pages.get_mut(page) {
        *place = Some(found.into_held());
    }
    Ok(())
}
