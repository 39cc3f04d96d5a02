//! What the scheduler keeps of a vCPU.

use core::cmp::Ordering as Order;

use oxen_arch::boot::CpuId;
use oxen_arch::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use oxen_arch::tlb::CpuSet;

use super::VcpuIndex;
use super::cpus::AtomicCpuSet;
use super::params::Weight;
use super::state::{Effect, Event, Refused, StateWord};

/// Stands for no record and no CPU.
pub(super) const NONE: u32 = u32::MAX;

/// The scheduler's record of one vCPU.
///
/// The state word is anybody's. All else belongs to the lock of the queue that it is in, or to the CPU that has it while it is
/// moving; these are atomics because that is how safe code shares them, and no order hangs on them.
#[derive(Debug)]
pub struct VcpuRecord {
    state: AtomicU64,
    /// Which domain's parameters are its.
    pub(super) domain: AtomicU32,
    pub(super) node: Node,
    pub(super) hard: AtomicCpuSet,
    pub(super) soft: AtomicCpuSet,
    /// The CPU that it is pinned to for the time being, whatever its affinity is; or [`NONE`].
    pub(super) pinned: AtomicU32,
    /// The CPU whose clock `virtual_time` goes by; [`NONE`] before it ran.
    pub(super) home: AtomicU32,
    /// How far it has come, by the clock of its home.
    pub(super) virtual_time: AtomicU64,
    /// The same in terms of all queues, as it was when it left its CPU.
    pub(super) level: AtomicU64,
    /// What division left over.
    pub(super) carried: AtomicU32,
    /// Its weight since it was put into its queue.
    pub(super) weight: AtomicU32,
    /// How long it ran.
    pub(super) ran: AtomicU64,
}

/// Where it is in a tree.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) left: AtomicU32,
    pub(super) right: AtomicU32,
    pub(super) height: AtomicU32,
    /// By what the tree is sorted.
    pub(super) key: AtomicU64,
    /// It waits for its domain to get time, not for a CPU.
    pub(super) is_parked: AtomicBool,
    /// The CPUs on which it or one below it may run.
    pub(super) reach: AtomicCpuSet,
}

impl Default for VcpuRecord {
    fn default() -> Self {
        Self::new()
    }
}

impl VcpuRecord {
    /// The record of no vCPU.
    pub fn new() -> Self {
        Self {
            state: AtomicU64::new(StateWord::DOWN.bits()),
            domain: AtomicU32::new(NONE),
            node: Node {
                left: AtomicU32::new(NONE),
                right: AtomicU32::new(NONE),
                height: AtomicU32::new(0),
                key: AtomicU64::new(0),
                is_parked: AtomicBool::new(false),
                reach: AtomicCpuSet::new(&CpuSet::EMPTY),
            },
            hard: AtomicCpuSet::new(&CpuSet::EMPTY),
            soft: AtomicCpuSet::new(&CpuSet::EMPTY),
            pinned: AtomicU32::new(NONE),
            home: AtomicU32::new(NONE),
            virtual_time: AtomicU64::new(0),
            level: AtomicU64::new(0),
            carried: AtomicU32::new(0),
            weight: AtomicU32::new(0),
            ran: AtomicU64::new(0),
        }
    }

    /// Its state at this moment. Whoever goes on to sleep or to wake because of it must not have looked before it said what it
    /// has to say, so this is in one order with all that is.
    pub(super) fn state(&self) -> StateWord {
        StateWord::from_bits(self.state.load(Ordering::SeqCst))
    }

    /// Changes the state; the words before and after.
    pub(super) fn change(&self, event: Event) -> Result<(StateWord, StateWord, Effect), Refused> {
        let mut old = self.state.load(Ordering::SeqCst);
        loop {
            let before = StateWord::from_bits(old);
            let (after, effect) = before.after(event)?;
            let (order, failed) = (Ordering::SeqCst, Ordering::SeqCst);
            match self
                .state
                .compare_exchange(old, after.bits(), order, failed)
            {
                Ok(_) => return Ok((before, after, effect)),
                Err(now) => old = now,
            }
        }
    }

    /// It is nobody's, and as it was at first.
    pub(super) fn reset(&self) {
        self.state.store(StateWord::DOWN.bits(), Ordering::Release);
    }

    /// The CPUs on which it may run.
    pub(super) fn allowed(&self) -> CpuSet {
        match self.pinned.load(Ordering::Relaxed) {
            NONE => self.hard.load(),
            cpu => CpuSet::one(CpuId::new(cpu)),
        }
    }

    /// Whether this CPU is one of those.
    pub(super) fn is_allowed_on(&self, id: CpuId) -> bool {
        match self.pinned.load(Ordering::Relaxed) {
            NONE => self.hard.contains(id),
            cpu => cpu == id.get(),
        }
    }

    pub(super) fn home(&self) -> Option<CpuId> {
        match self.home.load(Ordering::Relaxed) {
            NONE => None,
            cpu => Some(CpuId::new(cpu)),
        }
    }

    pub(super) fn weight(&self) -> Weight {
        Weight::new(self.weight.load(Ordering::Relaxed) as u16).unwrap_or(Weight::DEFAULT)
    }

    pub(super) fn virtual_time(&self) -> u64 {
        self.virtual_time.load(Ordering::Relaxed)
    }

    pub(super) fn set_virtual_time(&self, time: u64) {
        self.virtual_time.store(time, Ordering::Relaxed);
    }

    /// Notes that it ran.
    pub(super) fn charge(&self, nanoseconds: u64) {
        let carried = self.carried.load(Ordering::Relaxed) as u16;
        let (units, left) = self.weight().virtual_time(nanoseconds, carried);
        self.set_virtual_time(self.virtual_time().saturating_add(units));
        self.carried.store(left.into(), Ordering::Relaxed);
        let ran = self.ran.load(Ordering::Relaxed);
        self.ran
            .store(ran.saturating_add(nanoseconds), Ordering::Relaxed);
    }
}

impl Node {
    /// Whether a key of a node is before this one; nodes with the same key are in the order of their numbers.
    pub(super) fn order(&self, index: VcpuIndex, key: u64, other: VcpuIndex) -> Order {
        let own = self.key.load(Ordering::Relaxed);
        (key, other).cmp(&(own, index))
    }
}
