//! What the scheduler keeps of a physical CPU: its queue, and what others may know of it without the lock.

use oxen_arch::boot::CpuId;
use oxen_arch::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use oxen_arch::sync::{Rank, SpinLock};
use oxen_arch::tlb::CpuSet;

use super::cpus::AtomicCpuSet;
use super::params::Weight;
use super::queue::{Queue, Records};

/// The scheduler's record of one physical CPU.
#[derive(Debug)]
pub struct CpuRecord {
    pub(super) queue: SpinLock<Queue>,
    pub(super) hints: Hints,
}

impl CpuRecord {
    /// The record of a CPU that runs nothing yet.
    pub fn new(cpu: CpuId) -> Self {
        let queue = Queue::new(cpu);
        let hints = Hints::new(&queue);
        Self {
            queue: SpinLock::new(Rank::Scheduler, queue),
            hints,
        }
    }
}

/// What others may know of a queue: written by whoever holds its lock, read by anybody.
///
/// Words of different moments may be read together. That makes a decision worse, never wrong: who acts on them locks the
/// queue and looks. Of `reach` more is asked: who finds nothing for him in any may sleep, see `Scheduler::pick`.
#[derive(Debug)]
pub(super) struct Hints {
    /// The CPUs on which anybody may run who waits here.
    pub(super) reach: AtomicCpuSet,
    clock: AtomicU64,
    offset: AtomicU64,
    /// When that was.
    moment: AtomicU64,
    /// The weight of the vCPU that has the CPU alone; 0 if none has.
    alone: AtomicU32,
    load: AtomicU64,
    /// It idled, and was interrupted because somebody waits elsewhere.
    pub(super) called: AtomicBool,
    /// Where this CPU looks next for others.
    pub(super) next: AtomicU32,
}

/// How far a queue has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Estimate {
    pub(super) clock: u64,
    pub(super) level: u64,
}

impl Hints {
    fn new(queue: &Queue) -> Self {
        Self {
            reach: AtomicCpuSet::new(&CpuSet::EMPTY),
            clock: AtomicU64::new(queue.clock),
            offset: AtomicU64::new(queue.offset),
            moment: AtomicU64::new(0),
            alone: AtomicU32::new(0),
            load: AtomicU64::new(0),
            called: AtomicBool::new(false),
            next: AtomicU32::new(queue.cpu.get().wrapping_add(1)),
        }
    }

    /// Tells what a queue is like now.
    pub(super) fn publish(&self, queue: &Queue, records: Records<'_>, now: u64) {
        let alone = queue
            .current
            .as_ref()
            .filter(|_| queue.ready.is_empty())
            .and_then(|current| records.vcpu(current.vcpu))
            .map_or(0, |record| u32::from(record.weight().get()));
        self.clock.store(queue.clock, Ordering::Relaxed);
        self.offset.store(queue.offset, Ordering::Relaxed);
        self.moment.store(now, Ordering::Relaxed);
        self.alone.store(alone, Ordering::Relaxed);
        self.load.store(queue.load, Ordering::Relaxed);
        self.reach.store(&queue.ready.reach(records.vcpus));
    }

    /// Whether a vCPU has the CPU, and nobody waits for it.
    pub(super) fn is_alone(&self) -> bool {
        self.alone.load(Ordering::Relaxed) != 0
    }

    /// How far the queue has come. Where one vCPU is alone nobody has looked at the clock for a while, and it is reckoned.
    pub(super) fn estimate(&self, now: u64) -> Estimate {
        let mut clock = self.clock.load(Ordering::Relaxed);
        if let Some(weight) = Weight::new(self.alone.load(Ordering::Relaxed) as u16) {
            let since = now.saturating_sub(self.moment.load(Ordering::Relaxed));
            clock = clock.saturating_add(weight.span(since));
        }
        Estimate {
            clock,
            level: clock.wrapping_add(self.offset.load(Ordering::Relaxed)),
        }
    }

    pub(super) fn load(&self) -> u64 {
        self.load.load(Ordering::Relaxed)
    }
}
