//! The handles of a domain: names of the grants that it maps.
//!
//! Each vCPU has free handles of its own, as a stack that begins in the vCPU and goes on from word to word. So mapping and
//! unmapping take no lock of the domain. A handle goes back to the vCPU that took it; a vCPU without any takes some that nobody ever
//! had, then those of a further frame, then one of another vCPU's.
//!
//! INVARIANT: a handle below `fresh` is a map, or in one stack. The others were never used.

use core::iter;

use dom0_abi::addr::Maddr;
use oxen_arch::memory::PhysMem;
use oxen_arch::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use oxen_arch::sync::{Rank, SpinLock};

use dom0_abi::addr::Mfn;
use dom0_abi::ids::VcpuId;

use super::directory::{Directory, ROOM};
use super::track::{Parts, Track};
use crate::budget::Budget;
use crate::domain::Domain;
use crate::domain::teardown::FRAME;
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

/// The free handles of a vCPU: the first of them, and above it a number that changes each time one is taken.
#[derive(Debug)]
pub struct FreeHandles(AtomicU64);

const NONE: u32 = u32::MAX;

impl FreeHandles {
    /// None.
    pub const fn new() -> Self {
        Self(AtomicU64::new(NONE as u64))
    }

    fn pop(&self, handles: &Handles, mem: &PhysMem) -> Option<u32> {
        let mut top = self.0.load(Ordering::Acquire);
        loop {
            let handle = top as u32;
            if handle == NONE {
                return None;
            }
            // If another CPU takes it first this is anything, and the number above has changed.
            let next = handles.load(mem, handle)?.next();
            let number = (top >> 32).wrapping_add(1);
            let new = number << 32 | u64::from(next);
            match self
                .0
                .compare_exchange_weak(top, new, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Some(handle),
                Err(now) => top = now,
            }
        }
    }

    fn push(&self, handles: &Handles, mem: &PhysMem, handle: u32) {
        let mut top = self.0.load(Ordering::Acquire);
        loop {
            handles.store(mem, handle, Track::free(top as u32));
            let new = top & !u64::from(u32::MAX) | u64::from(handle);
            match self
                .0
                .compare_exchange_weak(top, new, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }
}

impl Default for FreeHandles {
    fn default() -> Self {
        Self::new()
    }
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
    pub(super) fn take(
        &self,
        memory: Memory<'_>,
        domain: &Domain,
        vcpu: VcpuId,
        budget: &mut Budget,
    ) -> Result<Option<u32>, Stop> {
        let mem = memory.mem();
        let own = domain.vcpu(vcpu).map(|vcpu| &vcpu.handles);
        if let Some(handle) = own.and_then(|own| own.pop(self, mem)) {
            return Ok(Some(handle));
        }
        // Another vCPU may take what a further frame brings, but not time and again.
        for _ in 0..2 {
            if let Some((first, end)) = self.take_fresh() {
                for handle in (first.saturating_add(1)..end).rev() {
                    match own {
                        Some(own) => own.push(self, mem, handle),
                        None => self.store(mem, handle, Track::free(NONE)),
                    }
                }
                budget.pay(CHUNK.div_ceil(8));
                return Ok(Some(first));
            }
            match self.grow(memory, budget) {
                Ok(true) => {}
                Ok(false) | Err(Stop::Refused(_)) => break,
                Err(Stop::Again) => return Err(Stop::Again),
            }
        }
        let mut others = domain.vcpus();
        let looked_at = others.by_ref().enumerate();
        for (index, other) in looked_at {
            if index.is_multiple_of(VCPUS_PER_UNIT) {
                budget.pay(1);
            }
            if let Some(handle) = other.handles.pop(self, mem) {
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

    /// Gives a handle back that was taken and is no map.
    pub(super) fn give_back(&self, mem: &PhysMem, domain: &Domain, home: VcpuId, handle: u32) {
        match domain.vcpu(home) {
            Some(vcpu) => vcpu.handles.push(self, mem, handle),
            None => debug_assert!(false, "handle {handle} has no home"),
        }
    }

    /// Makes a handle that was taken a map.
    pub(super) fn set(&self, mem: &PhysMem, handle: u32, track: Track) {
        self.store(mem, handle, track);
    }

    /// The map of a handle. `None`: there is none.
    pub(super) fn get(&self, mem: &PhysMem, handle: u32) -> Option<Track> {
        self.load(mem, handle).filter(|track| track.is_used())
    }

    /// Begins to end parts of a map that is this. `false`: it is another one by now, or none, or the parts are not mapped.
    pub(super) fn begin_end(&self, mem: &PhysMem, handle: u32, track: Track, parts: Parts) -> bool {
        let new = track.ending(parts);
        new.is_some_and(|new| self.exchange(mem, handle, track, new).is_ok())
    }

    /// Makes parts mapped again whose end was begun.
    pub(super) fn undo_end(&self, mem: &PhysMem, handle: u32, parts: Parts) {
        self.update(mem, handle, |track| track.restored(parts));
    }

    /// Ends parts whose end was begun; with the last one the handle is free.
    pub(super) fn end(&self, mem: &PhysMem, domain: &Domain, handle: u32, parts: Parts) {
        let left = self.update(mem, handle, |track| track.ended(parts));
        if let Some(left) = left.filter(|left| !left.is_used()) {
            self.give_back(mem, domain, left.home(), handle);
        }
    }

    /// Makes a handle no map: it is not free either, and nobody uses it again. Of a domain that ends.
    pub(super) fn forget(&self, mem: &PhysMem, handle: u32) {
        self.store(mem, handle, Track::free(NONE));
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
        let next = |handle: u32| (handle != NONE).then_some(handle);
        let first = next(free.0.load(Ordering::Acquire) as u32);
        let stack = iter::successors(first, |&handle| next(self.load(mem, handle)?.next()));
        // No stack is longer than what there is, whatever became of it.
        let most = self.used().saturating_add(1) as usize;
        u32::try_from(stack.take(most).count()).unwrap_or(NONE)
    }

    fn update(&self, mem: &PhysMem, handle: u32, new: impl Fn(Track) -> Track) -> Option<Track> {
        let mut old = self.load(mem, handle)?;
        loop {
            let new = new(old);
            match self.exchange(mem, handle, old, new) {
                Ok(()) => return Some(new),
                Err(now) => old = now?,
            }
        }
    }

    fn exchange(
        &self,
        mem: &PhysMem,
        handle: u32,
        old: Track,
        new: Track,
    ) -> Result<(), Option<Track>> {
        let at = self.place(mem, handle).ok_or(None)?;
        match mem.compare_exchange_u64(at, old.0, new.0) {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(now)) => Err(Some(Track(now))),
            Err(_) => Err(None),
        }
    }

    fn load(&self, mem: &PhysMem, handle: u32) -> Option<Track> {
        mem.load_u64(self.place(mem, handle)?).ok().map(Track)
    }

    fn store(&self, mem: &PhysMem, handle: u32, track: Track) {
        let stored = self.place(mem, handle).map(|at| mem.store_u64(at, track.0));
        debug_assert!(matches!(stored, Some(Ok(()))));
    }

    fn place(&self, mem: &PhysMem, handle: u32) -> Option<Maddr> {
        let frame = self.frames.get(mem, handle / PER_FRAME)?;
        Some(Mfn::new(frame).word((handle % PER_FRAME) as usize))
    }
}
