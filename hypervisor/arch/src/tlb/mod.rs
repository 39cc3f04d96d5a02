//! Who may still remember which translations, and how to make them forget: the clock of flushes, and a mailbox for each CPU.
//!
//! A full flush of a CPU (global entries, all PCIDs, the caches of upper entries) has a time: [`Tlb::flush_all`] moves the
//! clock before it and notes the new time for the CPU after it. Whoever has removed an entry from a page table takes a
//! [`TlbStamp`], the time of the clock. INVARIANT: a CPU whose noted time is above a stamp holds no translation that was
//! removed before the stamp was taken. So a frame needs no flush when it is freed or retyped, only a stamp, and who wants
//! to use it again asks then which CPUs are still to be flushed; mostly none.
//!
//! ORDERING: a removal is (R1) the store to the entry, (R2) a fence, (R3) the load of the clock. A flush is (F1) the
//! increment of the clock, (F2) a fence, (F3) the flush; walks come later. If R3 did not see the increment F1, then R2
//! comes before F2 in the one order of all sequentially consistent fences, so every walk behind F2 sees the store R1: what
//! it caches is not stale. If R3 did see it, the stamp is at least the flush's time and the CPU counts as stale. The time
//! is noted with Release behind the flush and read with Acquire: who sees it has the flush behind him. A stamp that
//! travels from CPU to CPU does so by Release and Acquire.
//!
//! A CPU that has no guest root loaded and has flushed since holds nothing; its time is [`EMPTY`], above all stamps.
//! ORDERING: before it loads a guest root it notes (L1) a new time of the clock, and passes (L2) a fence. Who still read
//! `EMPTY`, behind the fence R2, has R2 before L2: the walks see the removal. Who reads the new time compares as above.
//!
//! A mailbox is a word of what is wanted and two counters. ORDERING: the sender puts the request into the word and then
//! counts `posted` up (Release). The owner reads `posted` (Acquire), takes the word, flushes, and then says how far it has
//! `served` (Release): every request that was counted by then was in the word, or in what it had taken before. Senders
//! may be many; a page beside another page becomes a full flush, so the room is bounded. A CPU that waits for an answer
//! serves its own mailbox meanwhile, so no two CPUs ever wait for each other in vain.
#![forbid(unsafe_code)]

use core::fmt;
use core::ops::Deref;

use dom0_abi::addr::{GuestAddr, PAGE_SIZE};

use crate::boot::CpuId;
use crate::sync::atomic::{AtomicU64, Ordering, fence};
use crate::sync::{fence_behind_exchange, spin_loop};

mod cpu_set;
#[cfg(test)]
mod tests;

pub use cpu_set::CpuSet;

/// How the TLB tells address spaces apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlbMode {
    /// Guest user pages are global; every load of a root drops the others.
    Global,
    /// Each root has a PCID, and no guest entry is global.
    Pcid,
}

/// The number of an address space in the TLB of one CPU.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pcid(u8);

impl Pcid {
    /// How many are used. The hardware has more; but dropping a page goes over all that are live.
    pub const COUNT: u8 = 64;
    /// The one that roots have which are loaded without a number.
    pub const ZERO: Self = Self(0);

    /// The number, if it is below [`Self::COUNT`].
    pub const fn new(number: u8) -> Option<Self> {
        if number < Self::COUNT {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The bare number.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Its bit in a word of them.
    pub const fn bit(self) -> u64 {
        // Below 64 by construction.
        1_u64.wrapping_shl(self.0 as u32)
    }
}

/// When a translation was removed. Later stamps are greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TlbStamp(u64);

impl TlbStamp {
    /// How many bits a stamp takes.
    pub const BITS: u32 = 44;
    /// Nobody has ever held it: needs no flush.
    pub const NEVER: Self = Self(0);
    /// The clock has gone beyond what a stamp can say: every CPU that holds anything is to be flushed.
    pub const LAST: Self = Self((1 << Self::BITS) - 1);

    /// The stamp of these bits; what does not fit is [`Self::LAST`].
    pub const fn from_bits(bits: u64) -> Self {
        if bits < Self::LAST.0 {
            Self(bits)
        } else {
            Self::LAST
        }
    }

    /// The bits, to be kept in a word.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

/// What a CPU is to forget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush {
    /// All translations, global ones and those of all PCIDs.
    All,
    /// One page, global or of any PCID.
    Page(GuestAddr),
}

/// The time of a CPU that holds nothing.
pub const EMPTY: u64 = u64::MAX;

/// The words of a mailbox: a request, and in which of two forms. An address of a page leaves the low bits free.
const WANTS_PAGE: u64 = 1;
const WANTS_ALL: u64 = 2;

/// What all CPUs know of the TLB of one. Alone on its cache line, which senders write to.
#[repr(align(64))]
pub struct CpuTlb {
    flushed_at: AtomicU64,
    wanted: AtomicU64,
    posted: AtomicU64,
    served: AtomicU64,
}

impl CpuTlb {
    /// A CPU that holds nothing.
    pub fn new() -> Self {
        Self {
            flushed_at: AtomicU64::new(EMPTY),
            wanted: AtomicU64::new(0),
            posted: AtomicU64::new(0),
            served: AtomicU64::new(0),
        }
    }

    fn holds_anything(&self) -> bool {
        self.flushed_at.load(Ordering::Acquire) != EMPTY
    }

    /// Puts a request into the box, beside those that are there.
    fn post(&self, what: Flush) {
        let new = match what {
            Flush::All => WANTS_ALL,
            Flush::Page(at) => at.get() & !(PAGE_SIZE as u64 - 1) | WANTS_PAGE,
        };
        let mut old = self.wanted.load(Ordering::Relaxed);
        loop {
            let both = if old == 0 || old == new {
                new
            } else {
                WANTS_ALL
            };
            match self
                .wanted
                .compare_exchange_weak(old, both, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => break,
                Err(now) => old = now,
            }
        }
        // ORDERING: see the module.
        self.posted.fetch_add(1, Ordering::Release);
    }

    fn serve(&self, flush: impl FnOnce(Flush)) {
        // ORDERING: see the module.
        let posted = self.posted.load(Ordering::Acquire);
        if posted == self.served.load(Ordering::Relaxed) {
            return;
        }
        match self.wanted.swap(0, Ordering::AcqRel) {
            0 => {}
            WANTS_ALL => flush(Flush::All),
            page => flush(Flush::Page(GuestAddr::new(page & !WANTS_PAGE))),
        }
        self.served.store(posted, Ordering::Release);
    }
}

impl Default for CpuTlb {
    fn default() -> Self {
        Self::new()
    }
}

/// The clock and the CPUs, over whatever storage the backend has. The number of a CPU is its index. See the module.
pub struct Tlb<S> {
    clock: AtomicU64,
    cpus: S,
}

impl<S: Deref<Target = [CpuTlb]>> Tlb<S> {
    /// Starts the clock.
    pub fn new(cpus: S) -> Self {
        Self {
            clock: AtomicU64::new(1),
            cpus,
        }
    }

    /// The time, for what the caller has removed from page tables before. It has changed some word by a read-modify-write since:
    /// that of the entry, or of the frame that the entry led to.
    pub fn stamp(&self) -> TlbStamp {
        // ORDERING: R2 and R3 of the module.
        fence_behind_exchange();
        TlbStamp::from_bits(self.clock.load(Ordering::Relaxed))
    }

    /// The CPUs that may hold translations that were removed by then.
    pub fn stale_since(&self, stamp: TlbStamp) -> CpuSet {
        let mut stale = CpuSet::EMPTY;
        if stamp == TlbStamp::NEVER {
            return stale;
        }
        for (cpu, id) in self.cpus.iter().zip(0..CpuSet::CAPACITY) {
            // ORDERING: Acquire pairs with the notes of `flush_all` and `forget_everything`.
            let flushed_at = cpu.flushed_at.load(Ordering::Acquire);
            let is_stale = flushed_at <= stamp.0 || stamp == TlbStamp::LAST && flushed_at != EMPTY;
            if is_stale {
                stale.insert(CpuId::new(id));
            }
        }
        stale
    }

    /// Flushes a CPU by `flush`, which must drop everything that it holds, and notes when. Called by the CPU itself.
    pub fn flush_all(&self, cpu: CpuId, flush: impl FnOnce()) {
        let Some(cpu) = self.get(cpu) else {
            return flush();
        };
        let time = self.tick();
        // ORDERING: F2 of the module.
        fence_behind_exchange();
        flush();
        // A CPU that held nothing before still does.
        if cpu.flushed_at.load(Ordering::Relaxed) != EMPTY {
            cpu.flushed_at.store(time, Ordering::Release);
        }
    }

    /// Notes that a CPU holds nothing. It has loaded a root without a guest, and flushed everything since.
    pub fn forget_everything(&self, cpu: CpuId) {
        if let Some(cpu) = self.get(cpu) {
            cpu.flushed_at.store(EMPTY, Ordering::Release);
        }
    }

    /// To be called by a CPU before it loads a guest root.
    #[inline]
    pub fn remember_again(&self, cpu: CpuId) {
        if let Some(cpu) = self.get(cpu)
            && cpu.flushed_at.load(Ordering::Relaxed) == EMPTY
        {
            // ORDERING: L1 and L2 of the module. Release: who reads this time has the flush before it behind him, too.
            cpu.flushed_at.store(self.tick(), Ordering::Release);
            fence(Ordering::SeqCst);
        }
    }

    /// Makes the target CPUs forget, and returns when they have: all of them at once, each of them by a request and
    /// `interrupt`, which makes a CPU call [`Self::serve`] soon. On this CPU, `me`, `flush` does it, and `serve` calls
    /// [`Self::serve`] for it while others are waited for. CPUs that hold nothing are left alone.
    pub fn shoot(
        &self,
        me: CpuId,
        targets: &CpuSet,
        what: Flush,
        interrupt: impl FnMut(CpuId),
        flush: impl FnOnce(Flush),
        mut serve: impl FnMut(),
    ) {
        // ORDERING: as R2 of the module, for those that hold nothing.
        fence(Ordering::SeqCst);
        let mut waiting = CpuSet::EMPTY;
        for id in targets.iter().filter(|id| *id != me) {
            if let Some(cpu) = self.get(id).filter(|cpu| cpu.holds_anything()) {
                cpu.post(what);
                waiting.insert(id);
            }
        }
        waiting.iter().for_each(interrupt);
        if targets.contains(me) {
            flush(what);
        }
        for cpu in waiting.iter().filter_map(|id| self.get(id)) {
            // Not below what `post` has counted.
            let posted = cpu.posted.load(Ordering::Relaxed);
            // ORDERING: Acquire pairs with the Release of `serve`.
            while cpu.served.load(Ordering::Acquire) < posted {
                serve();
                spin_loop();
            }
        }
    }

    /// Does what others want of this CPU, by `flush`. One call at a time for each CPU.
    pub fn serve(&self, me: CpuId, flush: impl FnOnce(Flush)) {
        if let Some(cpu) = self.get(me) {
            cpu.serve(flush);
        }
    }

    /// Moves the clock; returns the new time. It would take centuries to come round to 0.
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    fn get(&self, cpu: CpuId) -> Option<&CpuTlb> {
        self.cpus.get(usize::try_from(cpu.get()).ok()?)
    }
}

impl<S: Deref<Target = [CpuTlb]>> fmt::Debug for Tlb<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tlb")
            .field("clock", &self.clock.load(Ordering::Relaxed))
            .field("cpus", &self.cpus.len())
            .finish()
    }
}
