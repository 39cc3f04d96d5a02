//! `set_trap_table`.

use dom0_abi::arch::TrapInfo;
use dom0_abi::errno::Errno;
use dom0_abi::handle::GuestHandle;
use oxen_arch::guest_range::is_canonical;

use super::continuation::Continuation;
use super::{CallCtx, HypercallResult, Reply};
use crate::domain::trap_table::TrapEntry;
use crate::guest_access::GuestPtr;

/// Sets the entries of a list, which ends at the first one whose address is 0; no list clears the whole table.
///
/// `EFAULT`: an entry could not be read. `EINVAL`: an address is not canonical (XSA-7 class: it would be loaded into rip).
/// In both cases the entries before it are set. ABI: `public/arch-x86/xen.h`, `trap_info`.
#[inline(never)]
pub fn set_trap_table(ctx: &mut CallCtx<'_>, traps: GuestHandle<TrapInfo>) -> HypercallResult {
    if traps.is_null() {
        ctx.state.traps.clear();
        return Ok(Reply::DONE);
    }
    let list = GuestPtr::from(traps);
    let mut index = 0_u64;
    loop {
        let place = list.element(index);
        if index > 0 && !ctx.budget.spend() {
            return ctx.goes_on(Continuation::SetTrapTable {
                traps: GuestHandle::new(place.addr()),
            });
        }
        let info = place.read(ctx.cpu)?;
        if info.address == 0 {
            return Ok(Reply::DONE);
        }
        if !is_canonical(info.address) {
            return Err(Errno::EINVAL);
        }
        ctx.state.traps.set(info.vector, TrapEntry::of(&info));
        index = index.wrapping_add(1);
    }
}
