//! `memory_op`: which frames a domain has, and what there is to know about memory.
//!
//! | file | what |
//! |---|---|
//! | `reservation` | frames that a domain gets, and gives back |
//! | `exchange`, `pending` | frames given for others |
//! | `map` | memory maps, the machine's and those of domains |
//! | `queries` | numbers, and the machine-to-physical table |
//! | `others` | what is for translated guests, or does not exist here; frames of grant tables |
//!
//! INVARIANT (I11): a domain gets frames only zeroed, and only when no CPU has a way to them from before.
//! INVARIANT: a domain is charged for frames before it gets them, never above its limit, and until they are free.
//! INVARIANT: a frame that is free has no pfn; it loses it before it is free.
//! INVARIANT (I18): a call gives way between extents and, where that takes long, within one; how far it came is in the command's
//! upper bits, or where the caller asked for it, and within a large step of an exchange in the domain. The former are the caller's to
//! change: what they say is where the call goes on, and nothing that was checked before counts (XSA-212).

mod exchange;
pub mod map;
mod others;
mod pending;
mod queries;
mod reservation;

#[cfg(test)]
mod tests;

pub use exchange::HeldExchange;
pub use pending::PendingExchange;

use dom0_abi::addr::GuestAddr;
use dom0_abi::errno::Errno;
use dom0_abi::ids::DomId;
use dom0_abi::memory::{ADDRESS_BITS_MASK, CONTINUATION_SHIFT, MemoryCommand, MemoryFlags};

use crate::budget::Budget;
use crate::frame::Placement;
use crate::hypercall::{CallCtx, HypercallResult, Reply};
use crate::mmu::owners::{self, Named};

/// Bits of a command that say which it is.
const NUMBER: u64 = (1 << CONTINUATION_SHIFT) - 1;

/// The largest extent that a domain which controls others may name.
const MAX_ORDER_OF_CONTROL: u32 = 18;
/// The largest that others may.
const MAX_ORDER: u32 = 9;

/// Carries out a command.
///
/// `ENOSYS`: there is no such command; `EFAULT`: its argument cannot be read, or what it tells not be written; `EPERM`: the
/// caller may not; `ESRCH`: there is no such domain; `EINVAL` and `ENOSYS`: the upper bits of the command speak of progress that
/// this command does not make. For the rest see each command. ABI: `public/memory.h`, `HYPERVISOR_memory_op`.
#[doc(alias = "HYPERVISOR_memory_op")]
#[inline(never)]
pub fn memory_op(ctx: &mut CallCtx<'_>, command: u64, arg: GuestAddr) -> HypercallResult {
    use MemoryCommand as Cmd;
    let progress = command >> CONTINUATION_SHIFT;
    let whole = command;
    let command = Cmd::try_from((command & NUMBER) as u32).map_err(|_| Errno::ENOSYS)?;
    if let (1.., Some(errno)) = (progress, no_progress(command)) {
        return Err(errno);
    }
    match command {
        Cmd::IncreaseReservation | Cmd::DecreaseReservation | Cmd::PopulatePhysmap => {
            reservation::change(ctx, command, progress, arg)
        }
        Cmd::Exchange => exchange::exchange(ctx, arg),
        Cmd::MaximumRamPage => queries::maximum_ram_page(ctx),
        Cmd::CurrentReservation => queries::current_reservation(ctx, arg),
        Cmd::MaximumReservation => queries::maximum_reservation(ctx, arg),
        Cmd::MaximumGpfn => queries::maximum_gpfn(ctx, arg),
        Cmd::MachphysMfnList => queries::machphys_mfn_list(ctx, arg),
        Cmd::MachphysMapping => queries::machphys_mapping(ctx, arg),
        Cmd::ClaimPages => queries::claim_pages(ctx, arg),
        Cmd::MemoryMap => map::memory_map(ctx, arg),
        Cmd::SetMemoryMap => map::set_memory_map(ctx, arg),
        Cmd::MachineMemoryMap => map::machine_memory_map(ctx, arg),
        Cmd::AddToPhysmap => others::add_to_physmap(ctx, progress, arg),
        Cmd::AddToPhysmapBatch => others::add_to_physmap_batch(ctx, progress, arg),
        Cmd::RemoveFromPhysmap => others::remove_from_physmap(ctx, arg),
        Cmd::SetPodTarget | Cmd::GetPodTarget => others::pod_target(ctx, arg),
        Cmd::AccessOp => others::access_op(ctx, arg),
        Cmd::GetVnumainfo => others::get_vnumainfo(ctx, arg),
        Cmd::ReservedDeviceMemoryMap => others::reserved_device_memory_map(ctx, arg),
        Cmd::AcquireResource => others::acquire_resource(ctx, whole, arg),
        // No page is shared, so none is saved.
        Cmd::GetSharingFreedPages | Cmd::GetSharingSharedPages => Ok(Reply::Value(0)),
        Cmd::PagingOp | Cmd::SharingOp => Err(Errno::ENOSYS),
        Cmd::MachphysCompatMfnList => Err(Errno::EOPNOTSUPP),
    }
}

/// What a command answers to progress that it does not make; `None` if it makes some, or does not care.
const fn no_progress(command: MemoryCommand) -> Option<Errno> {
    use MemoryCommand as Cmd;
    match command {
        Cmd::IncreaseReservation
        | Cmd::DecreaseReservation
        | Cmd::PopulatePhysmap
        | Cmd::AddToPhysmap
        | Cmd::AddToPhysmapBatch
        | Cmd::AccessOp
        | Cmd::AcquireResource => None,
        Cmd::MaximumRamPage
        | Cmd::CurrentReservation
        | Cmd::MaximumReservation
        | Cmd::MaximumGpfn
        | Cmd::Exchange
        | Cmd::RemoveFromPhysmap
        | Cmd::ClaimPages
        | Cmd::GetVnumainfo
        | Cmd::ReservedDeviceMemoryMap => Some(Errno::EINVAL),
        Cmd::MachphysMfnList
        | Cmd::MemoryMap
        | Cmd::MachineMemoryMap
        | Cmd::MachphysMapping
        | Cmd::SetMemoryMap
        | Cmd::SetPodTarget
        | Cmd::GetPodTarget
        | Cmd::GetSharingFreedPages
        | Cmd::GetSharingSharedPages
        | Cmd::PagingOp
        | Cmd::SharingOp
        | Cmd::MachphysCompatMfnList => Some(Errno::ENOSYS),
    }
}

/// Finds the domain that a command is about: the caller's own, by either name, or one that it controls. `EPERM` and `ESRCH` as
/// [`owners::domain`].
fn target<'a>(ctx: &CallCtx<'a>, id: DomId) -> Result<Named<'a>, Errno> {
    if id == ctx.domain.id {
        return Ok(Named::Own(ctx.domain));
    }
    owners::domain(ctx, id)
}

/// The order of the largest extents that the caller may name (XSA-31, XSA-158).
fn max_order(ctx: &CallCtx<'_>) -> u32 {
    if ctx.is_control() {
        MAX_ORDER_OF_CONTROL
    } else {
        MAX_ORDER
    }
}

/// Takes what a piece of work costs that cannot stop in the middle. It may cost more than an entry has, if the entry has done
/// nothing else.
fn afford(ctx: &mut CallCtx<'_>, units: u64) -> bool {
    if ctx.budget.take(u32::try_from(units).unwrap_or(u32::MAX)) {
        return true;
    }
    let is_untouched = ctx.budget == ctx.host.entry_budget();
    if is_untouched {
        ctx.budget = Budget::SPENT;
    }
    is_untouched
}

/// Where frames may lie that a caller asks for. The machine is one node: which a caller prefers makes no difference, unless it
/// insists. `None`: nowhere.
fn placement(flags: u32) -> Option<Placement> {
    /// More nodes no machine has.
    const MAX_NODES: u32 = 64;
    // The field is the node's number plus one, or 0.
    let node = (flags >> 8) & 0xff;
    let is_exact = flags & MemoryFlags::EXACT_NODE_REQUEST.bits() != 0;
    if node > MAX_NODES || is_exact && node > 1 {
        return None;
    }
    Some(match (flags & ADDRESS_BITS_MASK) as u8 {
        0 => Placement::Anywhere,
        bits => Placement::AddressBits(bits),
    })
}
