//! Frames that are taken from a domain which may get them back: the one side of an exchange.
//!
//! INVARIANT: they are in the one list that begins here, by the links of their records, and in no other. Nobody refers to
//! them, but CPUs may still have translations, so they are not zeroed and not given to anybody else. Their domain stays charged
//! for them, and their entries of the machine-to-physical table stay as they were.

use core::mem;

use dom0_abi::addr::Mfn;
use dom0_abi::errno::Errno;
use dom0_abi::ids::DomId;
use oxen_arch::boot::MfnRange;

use super::owners::Paid;
use super::table::{FrameIndex, Links};
use super::word::Event;
use super::{Charge, Memory};

/// The frames. Dropping it gives them back to their domain, as they were.
#[must_use = "dropping it gives the frames back to their domain"]
pub struct TakenFrames<'m> {
    memory: Memory<'m>,
    owner: DomId,
    last: Option<FrameIndex>,
    count: u64,
}

impl<'m> TakenFrames<'m> {
    /// None yet.
    pub fn new(memory: Memory<'m>, owner: DomId) -> Self {
        Self {
            memory,
            owner,
            last: None,
            count: 0,
        }
    }

    /// Takes one more frame, to which nobody refers and which has no type. `EINVAL`: it is not the domain's; `EBUSY`: somebody
    /// refers to it. It is as before then.
    pub fn take(&mut self, mfn: Mfn) -> Result<(), Errno> {
        let frames = self.memory.frames;
        let index = FrameIndex::new(mfn.get()).ok_or(Errno::EINVAL)?;
        frames.event(mfn, Event::Take(self.owner))?;
        frames.owners.unlist(frames.table(), self.owner, index);
        self.memory.leave(mfn);
        let next = self.last.replace(index);
        if let Some(record) = frames.table().of(mfn) {
            record.set_links(Links {
                previous: None,
                next,
            });
        }
        self.count = self.count.saturating_add(1);
        Ok(())
    }

    /// Frees the frames, which are nobody's from now on; their domain stays charged for as many.
    pub fn free(mut self) -> Charge<'m> {
        let frames = self.memory.frames;
        let charge = Charge::of_taken(&frames.owners, self.owner, self.count);
        // Frames that were taken in a row go back as one block, which is much cheaper.
        let mut run = MfnRange::EMPTY;
        loop {
            let next = self.pop();
            if let Some(mfn) = next {
                self.memory.machine.m2p().set(mfn, None);
                if !run.is_empty() && mfn.get().checked_add(1) == Some(run.start.get()) {
                    run.start = mfn;
                    continue;
                }
            }
            frames.put(run, 0);
            let Some(mfn) = next else {
                break;
            };
            run = MfnRange::one(mfn);
        }
        mem::forget(self);
        charge
    }

    fn pop(&mut self) -> Option<Mfn> {
        let index = self.last?;
        let record = self.memory.frames.table().get(index);
        self.last = record.and_then(|record| record.links().next);
        Some(index.mfn())
    }
}

impl Drop for TakenFrames<'_> {
    fn drop(&mut self) {
        let frames = self.memory.frames;
        while let Some(mfn) = self.pop() {
            let (table, range) = (frames.table(), MfnRange::one(mfn));
            frames.owners.own(table, self.owner, range, Paid::Before);
        }
    }
}
