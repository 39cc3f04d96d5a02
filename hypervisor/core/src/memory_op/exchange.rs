//! `exchange`: frames given for others, in larger extents or smaller, or at lower addresses.
//!
//! It goes in *steps*: as many extents of the finer side as make up one of the other. A step is done as a whole or not at all:
//! first there are the new frames, zeroed; then the old ones are taken, and come back by themselves if anything fails; then the
//! caller is told; what follows cannot fail. Between steps the call may give way, and says how far it came where the caller
//! asked for it.
//!
//! A large step takes longer than an entry may last and goes in *pieces*, each as a step is otherwise. All of it is looked at
//! before the first piece, so a piece fails only for who changes lists or uses frames while the call is under way, or names a
//! frame twice: then the pieces before it are done. Between pieces the domain keeps how far it came, and what is left of the new
//! extent: 2 MiB at most (`pending`).
//!
//! INVARIANT: all elements from the first step on are checked to be in the guest's range before anything else is done, and each
//! again where it is touched (XSA-29, XSA-212).

use core::mem::offset_of;

use arrayvec::ArrayVec;
use dom0_abi::addr::{GuestAddr, Mfn, PAGE_SIZE, Pfn};
use dom0_abi::errno::Errno;
use dom0_abi::ids::DomId;
use dom0_abi::memory::{MemoryCommand, MemoryExchange, MemoryReservation};
use oxen_arch::guest_range::check_guest_range;

use super::{afford, max_order, placement, target};
use crate::frame::{CleanFrames, HeldFrames, Memory, Placement, TakenFrames, Unpaid};
use crate::guest_access::GuestPtr;
use crate::hypercall::continuation::Continuation;
use crate::hypercall::{CallCtx, HypercallResult, Reply};
use crate::mmu::owners::Named;
use crate::page_type::Stop;

/// The largest step: 2 MiB, which is what kernels ask for at most.
const MAX_STEP_ORDER: u32 = 9;
/// The largest piece of one.
const PIECE_ORDER: u32 = 6;
const PIECE: u64 = 1 << PIECE_ORDER;
/// Blocks that the new frames of a step may come in.
const MAX_BLOCKS: usize = 64;
type Blocks<'m> = ArrayVec<CleanFrames<'m>, MAX_BLOCKS>;
/// What a frame costs beside being zeroed, in units of the budget.
const FRAME: u64 = 6;
/// What it costs to look at it before.
const LOOK: u64 = 1;

const DONE: u64 = offset_of!(MemoryExchange, nr_exchanged) as u64;

/// Exchanges frames of the caller, or of a domain that it controls.
///
/// `EPERM`: an order is above what the caller may name. `EINVAL`: the two sides differ in domain or size, more is said to be done
/// than there is, or a frame to be given is not the domain's or in use. `EFAULT`: an element of a list cannot be a guest's, or
/// not be read, or a result not be written. `ENOMEM`: there are no such frames. Steps before the one that failed are done,
/// and counted in `nr_exchanged`; of the failed one nothing is.
/// ABI: `public/memory.h`, `XENMEM_exchange`.
#[doc(alias = "XENMEM_exchange")]
#[inline(never)]
pub(super) fn exchange(ctx: &mut CallCtx<'_>, arg: GuestAddr) -> HypercallResult {
    let place = GuestPtr::<MemoryExchange>::new(arg);
    let argument = place.read(ctx.cpu)?;
    let exchange = Exchange::check(ctx, &argument)?;
    let mut done = exchange.first;
    let mut unpaid = Unpaid::new(&ctx.vcpu.undo);
    let mut result = Ok(());
    while result.is_ok() && done < exchange.input.count {
        unpaid.pay(&mut ctx.budget);
        result = if done > exchange.first && ctx.must_leave() {
            Err(Stop::Again)
        } else {
            exchange.step(ctx, arg, done)
        };
        if result.is_ok() {
            done = done.saturating_add(exchange.input.per_step());
        }
    }
    if done > exchange.first {
        place.offset::<u64>(DONE).write(ctx.cpu, &done)?;
    }
    match result {
        Ok(()) => Ok(Reply::DONE),
        Err(Stop::Refused(errno)) => Err(errno),
        Err(Stop::Again) => {
            let command = MemoryCommand::Exchange as u64;
            ctx.goes_on(Continuation::MemoryOp { command, arg })
        }
    }
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

/// A large step under way. It has to come back by [`HeldExchange::end`], or frames are lost to
/// everybody.
#[derive(Debug)]
#[must_use = "frames that do not come back are lost"]
pub struct HeldExchange {
    key: Key,
    /// So many frames are exchanged.
    done: u64,
    /// What the caller calls the first of the new extent, if that is larger than a piece.
    pfn: u64,
    /// What is left of that extent.
    rest: Option<HeldFrames>,
}

/// Which step of which call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    arg: GuestAddr,
    domain: DomId,
    orders: [u32; 2],
    step: u64,
}

impl HeldExchange {
    /// How many frames are exchanged.
    #[cfg(test)]
    pub(crate) fn done(&self) -> u64 {
        self.done
    }

    /// Gives up what is left to do.
    pub fn end(self, memory: Memory<'_>) {
        if let Some(rest) = self.rest {
            drop(CleanFrames::from_held(memory, rest));
        }
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
        let steps = argument.nr_exchanged.wrapping_shr(input.step);
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
    fn step(&self, ctx: &mut CallCtx<'_>, arg: GuestAddr, done: u64) -> Result<(), Stop> {
        let order = self.input.order.max(self.output.order);
        if order > PIECE_ORDER {
            return self.large_step(ctx, arg, done);
        }
        let mut blocks = Blocks::new();
        self.allocate(ctx, order, &mut blocks)?;
        self.swap(ctx, done, 0, blocks)
    }

    /// The same for one that goes in pieces.
    #[inline(never)]
    fn large_step(&self, ctx: &mut CallCtx<'_>, arg: GuestAddr, done: u64) -> Result<(), Stop> {
        let key = Key {
            arg,
            domain: self.domain.domain().id,
            orders: [self.input.order, self.output.order],
            step: done,
        };
        let (pending, vcpu) = (&ctx.domain.exchange, ctx.vcpu.id);
        let kept = pending.enter(vcpu)?;
        let (held, result) = match kept {
            Some(held) if held.key == key => self.go_on(ctx, held),
            other => {
                if let Some(other) = other {
                    other.end(ctx.memory());
                }
                match self.begin(ctx, key) {
                    Ok(held) => self.go_on(ctx, held),
                    Err(stop) => (None, Err(stop)),
                }
            }
        };
        match held {
            Some(held) => pending.keep(vcpu, held),
            None => pending.leave(),
        }
        result
    }

    /// Goes on with a large step, as far as the budget goes; what is to be kept of it comes back.
    fn go_on(
        &self,
        ctx: &mut CallCtx<'_>,
        mut held: HeldExchange,
    ) -> (Option<HeldExchange>, Result<(), Stop>) {
        while held.done < self.frames() {
            match self.piece(ctx, &mut held) {
                Ok(()) => held.done = held.done.saturating_add(PIECE),
                Err(Stop::Again) => return (Some(held), Err(Stop::Again)),
                Err(refused) => {
                    held.end(ctx.memory());
                    return (None, Err(refused));
                }
            }
        }
        held.end(ctx.memory());
        (None, Ok(()))
    }

    /// Frames of a step.
    fn frames(&self) -> u64 {
        self.input.size().saturating_mul(self.input.per_step())
    }

    /// Looks at all that a large step is about, and finds the new extent if it must be in a row.
    fn begin(&self, ctx: &mut CallCtx<'_>, key: Key) -> Result<HeldExchange, Stop> {
        if self.input.order.max(self.output.order) > MAX_STEP_ORDER {
            return Err(Errno::ENOMEM.into());
        }
        let memory = ctx.memory();
        let mut blocks = Blocks::new();
        if self.output.order > PIECE_ORDER {
            self.allocate(ctx, self.output.order, &mut blocks)?;
        }
        if !afford(ctx, self.frames().saturating_mul(LOOK)) {
            return Err(Stop::Again);
        }
        let owner = self.domain.domain().id;
        self.visit_inputs(ctx, key.step, 0, self.frames(), |mfn| {
            if memory.frames.can_be_taken(mfn, owner) {
                Ok(())
            } else {
                Err(Errno::EINVAL)
            }
        })?;
        let first = key
            .step
            .wrapping_shr(self.input.step)
            .wrapping_shl(self.output.step);
        /// What in an address says which word of a page it is.
        const IN_PAGE: u64 = PAGE_SIZE as u64 - 8;
        for index in 0..self.output.per_step() {
            // Whether they can be written is the same for all of a page. What is there stays there.
            let at = self.output.list.element(first.wrapping_add(index));
            if index == 0 || at.addr().get() & IN_PAGE == 0 {
                let pfn = at.read(ctx.cpu)?;
                at.write(ctx.cpu, &pfn)?;
            }
        }
        Ok(HeldExchange {
            key,
            done: 0,
            pfn: self.output.list.element(first).read(ctx.cpu)?,
            rest: blocks.pop().map(CleanFrames::into_held),
        })
    }

    /// Exchanges the next frames of a large step. [`Stop::Again`]: nothing has been done.
    fn piece(&self, ctx: &mut CallCtx<'_>, held: &mut HeldExchange) -> Result<(), Stop> {
        let memory = ctx.memory();
        let mut blocks = Blocks::new();
        if self.output.order <= PIECE_ORDER {
            self.allocate(ctx, PIECE_ORDER, &mut blocks)?;
            return self.swap(ctx, held.key.step, held.done, blocks);
        }
        if !self.afford(ctx, PIECE) {
            return Err(Stop::Again);
        }
        let taken = self.take(ctx, held.key.step, held.done, PIECE)?;
        let rest = held.rest.take().ok_or(Errno::ENOMEM)?;
        let (new, rest) = CleanFrames::from_held(memory, rest).split(PIECE);
        let pfn = held.pfn.wrapping_add(held.done);
        if rest.range().is_empty() {
            // That was the last: the caller gets to know where the first is.
            let start = new.start().get().saturating_sub(held.done);
            let steps = held.key.step.wrapping_shr(self.input.step);
            let first = steps.wrapping_shl(self.output.step);
            self.output.list.element(first).write(ctx.cpu, &start)?;
        }
        held.rest = Some(rest.into_held());
        for (offset, mfn) in (0..PIECE).zip(new.range().iter()) {
            let pfn = Pfn::new(pfn.wrapping_add(offset));
            ctx.host.machine.m2p().set(mfn, Some(pfn));
        }
        memory.assign_clean(new, &mut taken.free());
        Ok(())
    }

    /// Takes what it costs to exchange so many frames.
    fn afford(&self, ctx: &mut CallCtx<'_>, frames: u64) -> bool {
        afford(ctx, frames.saturating_mul(FRAME).saturating_add(FRAME))
    }

    /// Gives the caller new frames for those of a step from number `from` on, as extents that they hold as a whole.
    fn swap(
        &self,
        ctx: &mut CallCtx<'_>,
        done: u64,
        from: u64,
        mut blocks: Blocks<'_>,
    ) -> Result<(), Stop> {
        let frames = blocks.iter().fold(0_u64, |frames, block| {
            frames.saturating_add(block.range().len())
        });
        if !self.afford(ctx, frames) {
            return Err(Stop::Again);
        }
        let taken = self.take(ctx, done, from, frames)?;
        let steps = done.wrapping_shr(self.input.step);
        let first = steps.wrapping_shl(self.output.step);
        self.tell(
            ctx,
            &blocks,
            first.wrapping_add(from.wrapping_shr(self.output.order)),
        )?;
        let mut charge = taken.free();
        while let Some(block) = blocks.pop() {
            ctx.memory().assign_clean(block, &mut charge);
        }
        Ok(())
    }

    /// Finds 2^`order` new frames: all in a row if that is to be had, which is quickest, else in smaller blocks.
    fn allocate<'m>(
        &self,
        ctx: &mut CallCtx<'m>,
        mut order: u32,
        blocks: &mut Blocks<'m>,
    ) -> Result<(), Stop> {
        let memory = ctx.memory();
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

    /// Takes frames of a step from the domain, from number `from` on.
    fn take<'m>(
        &self,
        ctx: &CallCtx<'m>,
        done: u64,
        from: u64,
        count: u64,
    ) -> Result<TakenFrames<'m>, Errno> {
        let mut taken = TakenFrames::new(ctx.memory(), self.domain.domain().id);
        self.visit_inputs(ctx, done, from, count, |mfn| {
            taken.take(mfn).map_err(|_| Errno::EINVAL)
        })?;
        Ok(taken)
    }

    /// Visits frames of a step that are to be given, from number `from` on.
    fn visit_inputs(
        &self,
        ctx: &CallCtx<'_>,
        done: u64,
        from: u64,
        count: u64,
        mut visit: impl FnMut(Mfn) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let (order, size) = (self.input.order, self.input.size());
        let (mut frame, end) = (from, from.saturating_add(count));
        while frame < end {
            let extent = self
                .input
                .list
                .element(done.wrapping_add(frame.wrapping_shr(order)));
            let start = extent.read(ctx.cpu)?;
            let offset = frame & size.wrapping_sub(1);
            for offset in offset..size.min(offset.saturating_add(end.saturating_sub(frame))) {
                let mfn = start.checked_add(offset).ok_or(Errno::EINVAL)?;
                visit(Mfn::new(mfn))?;
                frame = frame.saturating_add(1);
            }
        }
        Ok(())
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
            let count = range.len().wrapping_shr(order);
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
