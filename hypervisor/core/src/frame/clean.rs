//! Frames as a domain may get them: zeroed, and forgotten by every CPU (I11).
//!
//! To zero a large block takes longer than an entry of a guest may last. The work may stop after any frame: the block goes
//! back to the free ones, which keep in mind how far it came, and whoever wants a block next finds that much done. So nothing
//! of an unfinished call is kept for its caller, and the work is never lost but when somebody frees frames beside the block
//! at the wrong moment.

use core::mem;

use dom0_abi::addr::Mfn;
use dom0_abi::errno::Errno;
use oxen_arch::boot::MfnRange;

use super::owners::Paid;
use super::{Charge, Frames, Memory, Placement};
use crate::budget::Budget;

/// Frames that no domain gets, for the objects that the hypervisor makes: 2 MiB.
pub const RESERVE: u64 = 512;

/// What zeroing a frame costs, in units of the budget.
const FRAME: u32 = 7;
/// So many frames are forgotten and zeroed together.
const CHUNK: u32 = 16;

/// Frames in a row that are held, zeroed, and that no CPU has a way to. Dropping the handle frees them, and they stay clean.
#[must_use = "dropping the handle frees the frames"]
pub struct CleanFrames<'f> {
    frames: &'f Frames,
    range: MfnRange,
    /// The first that is not clean yet. Outside of this file: the end.
    next: Mfn,
}

/// Frames of a [`CleanFrames`] that live in what outlives a call. They have to come back by [`CleanFrames::from_held`], or
/// they are lost to everybody.
#[derive(Debug)]
#[must_use = "frames that do not come back are lost"]
pub struct HeldFrames(MfnRange);

impl<'m> CleanFrames<'m> {
    /// Takes them back.
    pub fn from_held(memory: Memory<'m>, HeldFrames(range): HeldFrames) -> Self {
        Self {
            frames: memory.frames,
            range,
            next: range.end,
        }
    }

    /// The first frame.
    pub fn start(&self) -> Mfn {
        self.range.start
    }

    /// The frames.
    pub fn range(&self) -> MfnRange {
        self.range
    }

    /// Takes the handle apart: the first `nr_frames` frames (or all), and the rest, which may be none.
    pub fn split(self, nr_frames: u64) -> (Self, Self) {
        let frames = self.frames;
        let (first, rest) = self.into_range().split(nr_frames);
        let clean = |range: MfnRange| Self {
            frames,
            range,
            next: range.end,
        };
        (clean(first), clean(rest))
    }

    /// Leaves the frames to something that outlives the call.
    pub fn into_held(self) -> HeldFrames {
        HeldFrames(self.into_range())
    }

    fn into_range(self) -> MfnRange {
        let range = self.range;
        mem::forget(self);
        range
    }
}

impl Drop for CleanFrames<'_> {
    fn drop(&mut self) {
        let clean = self.next.get().saturating_sub(self.range.start.get());
        self.frames.put(self.range, clean);
    }
}

impl<'m> Memory<'m> {
    /// Allocates 2^`order` frames as a domain may get them, aligned to their number. `None`: the budget was spent; there is less
    /// to do now. `ENOMEM`: there is no such block, or it is needed as [`RESERVE`]; `EIO`: a frame cannot be zeroed.
    pub fn alloc_clean(
        &self,
        order: u8,
        placement: Placement,
        budget: &mut Budget,
    ) -> Result<Option<CleanFrames<'m>>, Errno> {
        let frames = self.frames;
        let mut lists = frames.lists.lock();
        let size = 1_u64.checked_shl(order.into()).ok_or(Errno::ENOMEM)?;
        if !lists.can_spare(size) {
            return Err(Errno::ENOMEM);
        }
        let bits = placement.address_bits();
        let (index, clean) = lists
            .free
            .take(frames.table(), order, bits)
            .ok_or(Errno::ENOMEM)?;
        drop(lists);
        let start = index.mfn();
        let mut block = CleanFrames {
            frames,
            range: MfnRange::of(start, size).ok_or(Errno::ENOMEM)?,
            next: Mfn::new(start.get().saturating_add(clean.into())),
        };
        let end = block.range.end;
        while block.next < end {
            let left = end.get().saturating_sub(block.next.get());
            let affordable = u64::from((budget.units() / FRAME).min(CHUNK)).min(left);
            if affordable == 0 || !budget.take((affordable as u32).saturating_mul(FRAME)) {
                return Ok(None);
            }
            let chunk = MfnRange::of(block.next, affordable).ok_or(Errno::ENOMEM)?;
            self.forget_uses(chunk);
            for mfn in chunk.iter() {
                self.mem().zero_frame(mfn).map_err(|_| Errno::EIO)?;
            }
            block.next = chunk.end;
        }
        Ok(Some(block))
    }

    /// Gives clean frames to a domain that is charged for them: each gets an owner and one reference, that of its being
    /// allocated.
    pub fn assign_clean(&self, frames: CleanFrames<'_>, charge: &mut Charge<'_>) -> MfnRange {
        let range = frames.into_range();
        let (table, owner) = (self.frames.table(), charge.owner());
        self.frames.owners.own(table, owner, range, Paid::Before);
        charge.spend(range.len());
        range
    }
}
