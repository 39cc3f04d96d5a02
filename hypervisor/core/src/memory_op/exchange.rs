//! `exchange`: frames given for others, in larger extents or smaller, or at lower addresses.
//!
//! It goes in *steps*: as many extents of the finer side as make up one of the other. A step is done as a whole or not at all:
//! first there are the new frames, zeroed; then the old ones are taken, and come back by themselves if anything fails; then the
//! caller is told; what follows cannot fail. Between steps the call may give way, and says how far it came where the caller
//! asked for it.
//!
//! INVARIANT: all elements from the first step on are checked to be in the guest's range before anything else is done, and each
//! again where it is touched (XSA-29, XSA-212).

use core::mem::offset_of;

use arrayvec::ArrayVec;
use dom0_abi::addr::{GuestAddr, Mfn, Pfn};
use dom0_abi::errno::Errno;
use dom0_abi::memory::{MemoryCommand, MemoryExchange, MemoryReservation};
use oxen_arch::guest_range::check_guest_range;

use super::{afford, max_order, placement, target};
use crate::frame::{CleanFrames, Placement, TakenFrames};
use crate::guest_access::GuestPtr;
use crate::hypercall::continuation::Continuation;
use crate::hypercall::{CallCtx, HypercallResult, Reply};
use crate::mmu::owners::Named;
use crate::page_type::Stop;

/// The largest step: 2 MiB, which is what kernels ask for at most.
const MAX_STEP_ORDER: u32 = 9;
/// Blocks that the new frames of a step may come in.
const MAX_BLOCKS: usize = 64;
type Blocks<'m> = ArrayVec<CleanFrames<'m>, MAX_BLOCKS>;
/// What a frame costs beside being zeroed, in units of the budget.
const FRAME: u64 = 2;

const DONE: u64 = offset_of!(MemoryExchange, nr_exchanged) as u64;

/// Exchanges frames of the caller, or of a domain that it controls.
///
/// `EPERM`: an order is above what the caller may name. `EINVAL`: the two sides differ in domain or size, more is said to be done
/// than there is, or a frame to be given is not the domain's or in use. `EFAULT`: an element of a list cannot be a guest's, or
/// not be read, or a result not be written. `ENOMEM`: there are no such frames. Steps before the one that failed are done,
/// and counted in `nr_exchanged`; of the failed one nothing is.
/// ABI: `public/memory.h`, `XENMEM_exchange`.
#[doc(alias = "XENMEM_exchange")]
pub(super) fn exchange(ctx: &mut CallCtx<'_>, arg: GuestAddr) -> HypercallResult {
    let place = GuestPtr::<MemoryExchange>::new(arg);
    let argument = place.read(ctx.cpu)?;
    let exchange = Exchange::check(ctx, &argument)?;
    let mut done = exchange.first;
    let result = loop {
        if done >= exchange.input.count {
            break Ok(Reply::DONE);
        }
        let step = if done > exchange.first && ctx.must_leave() {
            Err(Stop::Again)
        } else {
            exchange.step(ctx, done)
        };
        match step {
            Ok(()) => done = done.saturating_add(exchange.input.per_step()),
            Err(Stop::Refused(errno)) => break Err(errno),
            Err(Stop::Again) => {
                let command = MemoryCommand::Exchange as u64;
                break ctx.goes_on(Continuation::MemoryOp { command, arg });
            }
        }
    };
    if done > exchange.first {
        place.offset::<u64>(DONE).write(ctx.cpu, &done)?;
    }
    result
}

/// One side.
struct Side {
    list: GuestPtr<u64>,
    count: u64,
    order: u32,
    /// Binary logarithm of the number of its extents in a step.
    step: u32,
}

impl Side {
    fn new(side: &MemoryReservation, other: &MemoryReservation) -> Self {
        Self {
            list: side.extent_start.into(),
            count: side.nr_extents,
            order: side.extent_order,
            step: other.extent_order.saturating_sub(side.extent_order),
        }
    }

    /// Extents of a step.
    fn per_step(&self) -> u64 {
        1_u64.wrapping_shl(self.step)
    }

    /// Frames of an extent.
    fn size(&self) -> u64 {
        1_u64.wrapping_shl(self.order)
    }

    /// All frames, if they can be counted.
    fn total(&self) -> Result<u64, Errno> {
        self.count.checked_mul(self.size()).ok_or(Errno::EINVAL)
    }

    /// Checks that all elements from `first` on can be a guest's.
    fn check_range(&self, first: u64) -> Result<(), Errno> {
        let count = self.count.saturating_sub(first);
        let bytes = count
            .checked_mul(size_of::<u64>() as u64)
            .and_then(|bytes| usize::try_from(bytes).ok())
            .ok_or(Errno::EFAULT)?;
        check_guest_range(self.list.element(first).addr(), bytes).map_err(|_| Errno::EFAULT)
    }
}

struct Exchange<'a> {
    domain: Named<'a>,
    input: Side,
    output: Side,
    placement: Placement,
    /// The extent of the input that begins the first step to be done.
    first: u64,
}

impl<'a> Exchange<'a> {
    fn check(ctx: &CallCtx<'a>, argument: &MemoryExchange) -> Result<Self, Errno> {
        let most = max_order(ctx);
        let sides = (&argument.input, &argument.output);
        if sides.0.extent_order > most || sides.1.extent_order > most {
            return Err(Errno::EPERM);
        }
        let input = Side::new(sides.0, sides.1);
        let output = Side::new(sides.1, sides.0);
        if argument.nr_exchanged > input.count
            || sides.0.domid != sides.1.domid
            || input.total()? != output.total()?
        {
            return Err(Errno::EINVAL);
        }
        let steps = argument.nr_exchanged >> input.step;
        let first = steps.wrapping_shl(input.step);
        input.check_range(first)?;
        output.check_range(steps.wrapping_shl(output.step))?;
        Ok(Self {
            domain: target(ctx, sides.0.domid)?,
            placement: placement(sides.1.mem_flags).ok_or(Errno::ENOMEM)?,
            input,
            output,
            first,
        })
    }

    /// Exchanges the extents of one step, which begins with number `done` of the input.
    fn step(&self, ctx: &mut CallCtx<'_>, done: u64) -> Result<(), Stop> {
        let memory = ctx.memory();
        let mut blocks = Blocks::new();
        self.allocate(ctx, &mut blocks)?;
        let frames = self.input.size().saturating_mul(self.input.per_step());
        if !afford(ctx, frames.saturating_mul(FRAME).saturating_add(FRAME)) {
            return Err(Stop::Again);
        }
        let taken = self.take(ctx, TakenFrames::new(memory, self.domain.domain().id), done)?;
        let steps = done >> self.input.step;
        self.tell(ctx, &blocks, steps.wrapping_shl(self.output.step))?;
        let mut charge = taken.free();
        while let Some(block) = blocks.pop() {
            memory.assign_clean(block, &mut charge);
        }
        Ok(())
    }

    /// Finds the new frames of a step: all in a row if that is to be had, which is quickest, else in smaller blocks.
    fn allocate<'m>(&self, ctx: &mut CallCtx<'m>, blocks: &mut Blocks<'m>) -> Result<(), Stop> {
        let memory = ctx.memory();
        let mut order = self.input.order.max(self.output.order);
        if order > MAX_STEP_ORDER {
            return Err(Errno::ENOMEM.into());
        }
        let mut left = 1_u64.wrapping_shl(order);
        while left > 0 {
            match memory.alloc_clean(order as u8, self.placement, &mut ctx.budget) {
                Ok(Some(block)) => {
                    left = left.saturating_sub(block.range().len());
                    blocks.try_push(block).map_err(|_| Errno::ENOMEM)?;
                }
                Ok(None) => return Err(Stop::Again),
                Err(Errno::ENOMEM) if order > self.output.order => {
                    order = order.saturating_sub(1);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Takes the frames of a step from the domain.
    fn take<'m>(
        &self,
        ctx: &CallCtx<'m>,
        mut taken: TakenFrames<'m>,
        done: u64,
    ) -> Result<TakenFrames<'m>, Errno> {
        for extent in 0..self.input.per_step() {
            let at = self.input.list.element(done.wrapping_add(extent));
            let start = at.read(ctx.cpu)?;
            for offset in 0..self.input.size() {
                let mfn = start.checked_add(offset).ok_or(Errno::EINVAL)?;
                taken.take(Mfn::new(mfn)).map_err(|_| Errno::EINVAL)?;
            }
        }
        Ok(taken)
    }

    /// Gives the new frames the pfns that the caller has for them, and tells it where they are. On failure what was told is
    /// unsaid, as far as that can be written.
    fn tell(&self, ctx: &CallCtx<'_>, blocks: &[CleanFrames<'_>], first: u64) -> Result<(), Errno> {
        let list = self.output.list.element(first);
        for (index, extent) in (0..self.output.count).zip(self.extents(blocks)) {
            let at = list.element(index);
            let told = at.read(ctx.cpu).and_then(|pfn| {
                self.name(ctx, extent, Some(pfn));
                at.write(ctx.cpu, &extent.get())
            });
            if let Err(errno) = told {
                for (earlier, extent) in (0..=index).zip(self.extents(blocks)) {
                    let pfn = ctx.host.machine.m2p().get(extent);
                    let pfn = pfn.map_or(dom0_abi::arch::INVALID_M2P_ENTRY, Pfn::get);
                    // Of the last one it may not even be known what was there.
                    if earlier < index {
                        let _ = list.element(earlier).write(ctx.cpu, &pfn);
                    }
                    self.name(ctx, extent, None);
                }
                return Err(errno);
            }
        }
        Ok(())
    }

    /// The first frames of the new extents.
    fn extents<'b>(&self, blocks: &'b [CleanFrames<'_>]) -> impl Iterator<Item = Mfn> + 'b {
        let order = self.output.order;
        blocks.iter().flat_map(move |block| {
            let range = block.range();
            let count = range.len() >> order;
            (0..count).map(move |index| {
                let offset = index.wrapping_shl(order);
                Mfn::new(range.start.get().saturating_add(offset))
            })
        })
    }

    /// Gives the frames of a new extent pfns in a row, or none.
    fn name(&self, ctx: &CallCtx<'_>, first: Mfn, pfn: Option<u64>) {
        for offset in 0..self.output.size() {
            let mfn = Mfn::new(first.get().saturating_add(offset));
            let pfn = pfn.map(|pfn| Pfn::new(pfn.wrapping_add(offset)));
            ctx.host.machine.m2p().set(mfn, pfn);
        }
    }
}
