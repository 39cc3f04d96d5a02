//! The handles of a domain: names of the grants that it maps.
//!
//! Each vCPU has free handles of its own, so mapping and unmapping take no lock of the domain. A handle goes back to the vCPU that took
//! it; a vCPU without any takes some that nobody ever had, then those of a further frame, then one of another vCPU's.
//!
//! INVARIANT: a handle below `fresh` is a map, or in one stack. The others were never used.

use dom0_abi::addr::Mfn;
use dom0_abi::ids::VcpuId;
use oxen_arch::memory::PhysMem;
use oxen_arch::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use oxen_arch::sync::{Rank, SpinLock};

use super::directory::{Directory, ROOM};
use super::handle::{FreeHandles, Handle};
use super::track::{Parts, Track};
use crate::budget::Budget;
use crate::domain::Domain;
use crate::domain::teardown::FRAME;
use crate::domain::vcpu::Vcpu;
use crate::frame::Memory;
use crate::page_type::Stop;

/// Handles in a frame.
pub(super) const PER_FRAME: u32 = 512;
/// Handles in what the ABI calls a frame.
const PER_ABI_FRAME: u32 = 256;
/// So many fresh ones a vCPU takes at a time.
const CHUNK: u32 = 16;
/// What it costs to look for one at another vCPU, in units of the budget: so many are looked at for one.
const VCPUS_PER_UNIT: usize = 8;

/// The handles of a domain.
#[derive(Debug)]
pub(super) struct Handles {
    /// The most that there may be.
    limit: u32,
    frames: Directory,
    /// The first that was never used.
    fresh: AtomicU32,
    /// There will be no further frame.
    is_closed: AtomicBool,
    /// LOCK: rank `Grants`.
    growth: SpinLock<()>,
}

impl Handles {
    /// None, and room for so many frames of them, as the ABI counts.
    pub(super) const fn new(max_frames: u32) -> Self {
        let limit = max_frames.saturating_mul(PER_ABI_FRAME);
        let most = ROOM.saturating_mul(PER_FRAME);
        Self {
            limit: if limit < most { limit } else { most },
            frames: Directory::new(),
            fresh: AtomicU32::new(0),
            is_closed: AtomicBool::new(false),
            growth: SpinLock::new(Rank::Grants, ()),
        }
    }

    /// Takes a free handle for a vCPU. `None`: there is none left, or no memory for more. [`Stop::Again`]: the budget was spent.
    #[inline(always)]
    pub(super) fn take<'m>(
        &self,
        memory: &Memory<'m>,
        domain: &Domain,
        vcpu: &Vcpu,
        budget: &mut Budget,
    ) -> Result<Option<Handle<'m>>, Stop> {
        match vcpu.handles.pop(self.finder(memory.mem())) {
            None => self.take_further(memory, domain, vcpu, budget),
            taken => Ok(taken),
        }
    }

    /// The same for a vCPU that has none.
    #[cold]
    #[inline(never)]
    fn take_further<'m>(
        &self,
        memory: &Memory<'m>,
        domain: &Domain,
        vcpu: &Vcpu,
        budget: &mut Budget,
    ) -> Result<Option<Handle<'m>>, Stop> {
        let mem = memory.mem();
        // Another vCPU may take what a further frame brings, but not time and again.
        for _ in 0..2 {
            if let Some((first, end)) = self.take_fresh() {
                for number in (first.saturating_add(1)..end).rev() {
                    if let Some(handle) = self.handle(mem, number) {
                        vcpu.handles.push(handle);
                    }
                }
                budget.pay(CHUNK.div_ceil(8));
                return Ok(self.handle(mem, first));
            }
            match self.grow(*memory, budget) {
                Ok(true) => {}
                Ok(false) | Err(Stop::Refused(_)) => break,
                Err(Stop::Again) => return Err(Stop::Again),
            }
        }
        for (index, other) in domain.vcpus().enumerate() {
            if index.is_multiple_of(VCPUS_PER_UNIT) {
                budget.pay(1);
            }
            if let Some(handle) = other.handles.pop(self.finder(mem)) {
                return Ok(Some(handle));
            }
        }
        Ok(None)
    }

    /// Some handles that were never used: the first, and the one behind the last.
    fn take_fresh(&self) -> Option<(u32, u32)> {
        let there = self
            .frames
            .count()
            .saturating_mul(PER_FRAME)
            .min(self.limit);
        let mut first = self.fresh.load(Ordering::Acquire);
        loop {
            let end = first.saturating_add(CHUNK).min(there);
            if first >= end {
                return None;
            }
            match self
                .fresh
                .compare_exchange_weak(first, end, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Some((first, end)),
                Err(now) => first = now,
            }
        }
    }

    /// Adds a frame, unless another CPU has just done so. `false`: there must be no more.
    fn grow(&self, memory: Memory<'_>, budget: &mut Budget) -> Result<bool, Stop> {
        let count = self.frames.count();
        if count >= ROOM || count.saturating_mul(PER_FRAME) >= self.limit {
            return Ok(false);
        }
        self.frames.prepare(memory, budget)?;
        let frame = memory.keep(memory.clean_frame(budget)?);
        let growth = self.growth.lock();
        let is_open = !self.is_closed.load(Ordering::Relaxed);
        let is_added = is_open && self.frames.push(memory.mem(), count, frame.get());
        drop(growth);
        if !is_added {
            memory.end_kept(frame);
        }
        Ok(is_open)
    }

    /// The handle of a number. `None`: there never was one.
    #[inline(always)]
    pub(super) fn handle<'m>(&self, mem: &'m PhysMem, number: u32) -> Option<Handle<'m>> {
        let frame = Mfn::new(self.frames.get(mem, number / PER_FRAME)?);
        let index = (number % PER_FRAME) as usize;
        let word = mem.page(frame).ok()?.word(index).ok()?;
        Some(Handle::new(number, word))
    }

    #[inline(always)]
    fn finder<'m>(&self, mem: &'m PhysMem) -> impl Fn(u32) -> Option<Handle<'m>> {
        |number| self.handle(mem, number)
    }

    /// The map of a handle. `None`: there is none.
    pub(super) fn get(&self, mem: &PhysMem, number: u32) -> Option<Track> {
        self.handle(mem, number)?.track()
    }

    /// Ends parts of a map whose end was begun when it was this; with the last one the handle is free.
    #[inline(always)]
    pub(super) fn end(
        &self,
        mem: &PhysMem,
        domain: &Domain,
        number: u32,
        track: Track,
        parts: Parts,
    ) {
        let Some(handle) = self.handle(mem, number) else {
            debug_assert!(false, "handle {number} was there");
            return;
        };
        if handle.end(track, parts) {
            give_back(domain, track.home(), handle);
        }
    }

    /// Adds no frame from now on.
    pub(super) fn close(&self) {
        let growth = self.growth.lock();
        self.is_closed.store(true, Ordering::Relaxed);
        drop(growth);
    }

    /// How many handles were ever used.
    pub(super) fn used(&self) -> u32 {
        self.fresh.load(Ordering::Acquire)
    }

    /// Gives the last frame back. No handle is used any more. `false`: there is none.
    pub(super) fn end_frame(&self, memory: Memory<'_>) -> bool {
        let frame = self.frames.pop(memory.mem());
        if let Some(frame) = frame {
            self.fresh.store(0, Ordering::Release);
            memory.end_kept(Mfn::new(frame));
        }
        frame.is_some()
    }

    /// Gives the frames back, as far as the budget goes; `true`: all of them. Nobody refers to the domain.
    pub(super) fn end_frames(&self, memory: Memory<'_>, budget: &mut Budget) -> bool {
        while self.frames.count() > 0 {
            if !budget.take(FRAME) {
                return false;
            }
            self.end_frame(memory);
        }
        self.frames.end(memory);
        true
    }

    /// How many free handles a vCPU has, while nothing moves.
    pub(super) fn count_free(&self, mem: &PhysMem, free: &FreeHandles) -> u32 {
        // No stack is longer than what there is, whatever became of it.
        let most = self.used().saturating_add(1) as usize;
        u32::try_from(free.iter(self.finder(mem)).take(most).count()).unwrap_or(u32::MAX)
    }
}

/// Gives a handle back that was taken and is no map, or not any more.
#[inline(always)]
pub(super) fn give_back(domain: &Domain, home: VcpuId, handle: Handle<'_>) {
    match domain.vcpu(home) {
        Some(vcpu) => vcpu.handles.push(handle),
        None => debug_assert!(false, "handle {} has no home", handle.number()),
    }
}
