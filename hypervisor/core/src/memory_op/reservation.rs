//! Frames that a domain gets, and gives back: `increase_reservation`, `populate_physmap`, `decrease_reservation`.
//!
//! These calls know no errors: they return how many extents are done, those of before that the caller speaks of included. The
//! first extent that cannot be done ends the list. What cannot be told to the caller is not done.

use dom0_abi::addr::{GuestAddr, Mfn, Pfn};
use dom0_abi::errno::Errno;
use dom0_abi::memory::{CONTINUATION_SHIFT, MemoryCommand, MemoryFlags, MemoryReservation};

use super::{afford, max_order, placement, target};
use crate::domain::Domain;
use crate::frame::type_word::TypeState;
use crate::frame::{Memory, Placement, Unpaid};
use crate::guest_access::GuestPtr;
use crate::hypercall::continuation::Continuation;
use crate::hypercall::{CallCtx, HypercallResult, Reply};
use crate::mmu::owners::Named;
use crate::page_type::{PageType, Stop};

/// Bits of the progress that count extents; those above count frames of one that is being given back.
const EXTENT_BITS: u32 = 26;
/// The largest block that frames are made ready for a domain in. What follows when all are zeroed cannot stop in the middle.
const MAX_BLOCK_ORDER: u8 = 9;
/// What an extent costs that is given, beside its frames, in units of the budget.
const EXTENT: u64 = 9;
/// What a frame costs that is given back, beside becoming free.
const GIVEN_BACK: u64 = 4;

struct Extents<'a> {
    command: MemoryCommand,
    domain: Named<'a>,
    list: GuestPtr<u64>,
    count: u64,
    order: u8,
    placement: Placement,
}

/// Carries out one of the three commands from where `progress` says that it is.
///
/// Returns the number of extents done, or `progress` if the argument is not what it should be: out of reach, of a domain that is
/// not there or not the caller's to change, with a count, an order or flags that cannot be.
/// ABI: `public/memory.h`, `XENMEM_increase_reservation`, `XENMEM_decrease_reservation`, `XENMEM_populate_physmap`.
#[doc(alias = "XENMEM_increase_reservation")]
#[doc(alias = "XENMEM_decrease_reservation")]
#[doc(alias = "XENMEM_populate_physmap")]
pub(super) fn change(
    ctx: &mut CallCtx<'_>,
    command: MemoryCommand,
    progress: u64,
    arg: GuestAddr,
) -> HypercallResult {
    let Some(extents) = Extents::read(ctx, command, arg) else {
        return Ok(Reply::Value(progress));
    };
    let first = progress & ((1 << EXTENT_BITS) - 1);
    let mut part = progress >> EXTENT_BITS;
    if first >= extents.count || part > 0 && !extents.has_part(part) {
        return Ok(Reply::Value(progress));
    }
    let mut unpaid = Unpaid::new(&ctx.vcpu.undo);
    for index in first..extents.count {
        unpaid.pay(&mut ctx.budget);
        let at = extents.list.element(index);
        let done = if index > first && ctx.must_leave() {
            Err(Stop::Again)
        } else if command == MemoryCommand::DecreaseReservation {
            extents.take_back(ctx, at, &mut part, &mut unpaid)
        } else {
            extents.give(ctx, at)
        };
        match done {
            Ok(()) => part = 0,
            Err(Stop::Refused(_)) => return Ok(Reply::Value(index)),
            Err(Stop::Again) => {
                let progress = part << EXTENT_BITS | index;
                let command = command as u64 | progress << CONTINUATION_SHIFT;
                return ctx.goes_on(Continuation::MemoryOp { command, arg });
            }
        }
    }
    Ok(Reply::Value(extents.count))
}

impl<'a> Extents<'a> {
    /// `None`: it makes no sense, or the caller may not.
    fn read(ctx: &CallCtx<'a>, command: MemoryCommand, arg: GuestAddr) -> Option<Self> {
        let argument: MemoryReservation = GuestPtr::new(arg).read(ctx.cpu).ok()?;
        let order = argument.extent_order;
        if argument.nr_extents >> EXTENT_BITS != 0 || order > max_order(ctx) {
            return None;
        }
        let flags = argument.mem_flags;
        let placement = match command {
            MemoryCommand::DecreaseReservation => Placement::Anywhere,
            MemoryCommand::PopulatePhysmap
                if flags & MemoryFlags::POPULATE_ON_DEMAND.bits() != 0 =>
            {
                return None;
            }
            _ => placement(flags)?,
        };
        Some(Self {
            command,
            domain: target(ctx, argument.domid).ok()?,
            list: argument.extent_start.into(),
            count: argument.nr_extents,
            order: order as u8,
            placement,
        })
    }

    /// Frames of an extent.
    fn size(&self) -> u64 {
        1_u64.wrapping_shl(self.order.into())
    }

    /// Whether a call can have come so far within an extent.
    fn has_part(&self, part: u64) -> bool {
        self.command == MemoryCommand::DecreaseReservation && part < self.size()
    }

    /// Gives the domain one extent. `ENOMEM`: there is no such block, or the domain may not have it; `EFAULT`: the caller could
    /// not be told. Nothing has changed then.
    fn give(&self, ctx: &mut CallCtx<'_>, at: GuestPtr<u64>) -> Result<(), Stop> {
        if self.order > MAX_BLOCK_ORDER {
            return Err(Errno::ENOMEM.into());
        }
        let (memory, domain) = (ctx.memory(), self.domain.domain());
        let pfn = match self.command {
            MemoryCommand::PopulatePhysmap => Some(at.read(ctx.cpu)?),
            _ => None,
        };
        let limit = domain.highest_charge();
        let mut charge = memory.frames.charge(domain.id, self.size(), limit)?;
        let block = memory
            .alloc_clean(self.order, self.placement, &mut ctx.budget)?
            .ok_or(Stop::Again)?;
        // A hundred instructions for each frame.
        if !afford(ctx, EXTENT.saturating_add(self.size())) {
            return Err(Stop::Again);
        }
        // Who gets frames and does not want to know which has no list.
        if pfn.is_some() || !self.list.is_null() {
            at.write(ctx.cpu, &block.start().get())?;
        }
        if let Some(pfn) = pfn {
            for (offset, mfn) in (0..self.size()).zip(block.range().iter()) {
                let pfn = Pfn::new(pfn.wrapping_add(offset));
                memory.machine.m2p().set(mfn, Some(pfn));
            }
        }
        memory.assign_clean(block, &mut charge);
        Ok(())
    }

    /// Takes one extent back, from its frame number `part` on. Frames before the first that cannot be taken are gone.
    fn take_back(
        &self,
        ctx: &mut CallCtx<'_>,
        at: GuestPtr<u64>,
        part: &mut u64,
        unpaid: &mut Unpaid<'_>,
    ) -> Result<(), Stop> {
        let first: u64 = at.read(ctx.cpu)?;
        while *part < self.size() {
            unpaid.pay(&mut ctx.budget);
            if !afford(ctx, GIVEN_BACK) {
                return Err(Stop::Again);
            }
            let mfn = first.checked_add(*part).ok_or(Errno::EINVAL)?;
            release(ctx.memory(), self.domain.domain(), Mfn::new(mfn))?;
            *part = part.saturating_add(1);
        }
        Ok(())
    }
}

/// Takes one frame from a domain that gives it back. What still refers to it, keeps it; it counts until then.
///
/// `EINVAL`: it is not the domain's. `EBUSY`: it is the page that the domain shares with the hypervisor, or a page table or
/// descriptors, which would be no use to the domain any more but stay in use (XSA-252).
fn release(memory: Memory<'_>, domain: &Domain, mfn: Mfn) -> Result<(), Errno> {
    if mfn == domain.shared_info {
        return Err(Errno::EBUSY);
    }
    match memory.frames.type_state(mfn) {
        Some(
            TypeState::None { .. }
            | TypeState::Undoing { .. }
            | TypeState::InUse {
                ty: PageType::Writable,
                ..
            }
            | TypeState::Changing {
                ty: PageType::Writable,
            },
        )
        | None => memory.release_domain_frame(mfn, domain.id),
        Some(_) => Err(Errno::EBUSY),
    }
}
