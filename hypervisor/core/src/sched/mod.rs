//! The scheduler: which vCPU runs on which CPU, and when a CPU has to think again. `docs/scheduler.md` has the model, its bounds and
//! the tests of each.
//!
//! These are decisions and nothing else. There is no clock here (every call is told the time, in nanoseconds, which never goes
//! back on one CPU), no timer, no interrupt and no switch of contexts; answers say what is to be done. Who calls: the way back to
//! the guest and the idle loop (`pick`, `saved`), event delivery and timers (`wake`), `sched_op`, `vcpu_op`, the control
//! interface. Storage is the caller's too: a [`Scheduler`] is a view of tables that are as long as the machine needs.
//!
//! INVARIANT: a vCPU that wants to run and may is in one queue, or one CPU runs it, or it is on the way from one of these to
//! another in the hands of one CPU. What is of a vCPU is in its state word (`state.rs`); everything else of it belongs to whoever
//! the word says.
//!
//! Locks: each queue has one, rank `Scheduler`, and no two are held together: a vCPU that changes queues is out of
//! the first, in nobody's reach (`Moving`), before the second is locked.

mod cap;
mod control;
mod cpu;
mod cpus;
mod params;
mod pick;
mod place;
mod queue;
mod record;
mod state;
mod steps;
#[cfg(test)]
mod tests;
mod tree;

use oxen_arch::boot::CpuId;
use oxen_arch::sync::atomic::{AtomicU64, Ordering};
use oxen_arch::tlb::CpuSet;

pub use cap::DomainRecord;
pub use control::{Glance, Rest, VcpuInfo};
pub use cpu::CpuRecord;
pub use params::{DomainParams, RateLimit, Weight};
pub use pick::{Ask, Decision};
pub use record::VcpuRecord;
pub use state::Place;

use cpus::AtomicCpuSet;
use queue::Records;
use state::Refused;

/// The longest time that a vCPU runs while another one waits for its CPU, unless the rate limit is longer.
pub const SLICE: u64 = 10_000_000;
/// The shortest slice.
const SHORTEST: u64 = 2_000_000;
/// The time within which all who share a CPU have their turn, as long as slices are not the shortest.
const TARGET: u64 = 20_000_000;
/// How far behind a vCPU begins that slept, in its own work: this is what lets it run before others.
pub const LAG: u64 = 5_000_000;
/// How much a vCPU is owed at most, or owes, when it moves while it is ready. What is more is forgotten.
pub const MEMORY: u64 = 100_000_000;
/// How far a queue may be behind another one from which somebody could come.
const FORGET: u64 = 1_000_000_000;
/// How far another queue must be ahead before a vCPU changes to it.
const DIFFERENCE: u64 = 10_000_000;
/// By how much a vCPU must be behind to have the CPU at once.
const GRAIN: u64 = 500_000;
/// How many CPUs are looked at to find a place.
const LOOKS: usize = 8;
/// How many vCPUs are touched in one decision.
const BATCH: u32 = 8;

/// The number of a vCPU's record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VcpuIndex(u32);

impl VcpuIndex {
    /// Wraps a bare number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The bare number.
    pub const fn number(self) -> u32 {
        self.0
    }

    const fn get(self) -> usize {
        self.0 as usize
    }
}

/// Why something is refused. Nothing is changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is no such vCPU, domain or CPU.
    NoSuch,
    /// No CPU that is up would be left to run on.
    NoCpu,
    /// It is in the hands of a CPU that is about to do something with it, which takes no longer than to save its registers: try again.
    Busy,
    /// It is in a state in which that makes no sense.
    State,
}

impl From<Refused> for Error {
    fn from(_: Refused) -> Self {
        Self::State
    }
}

/// What all CPUs share.
#[derive(Debug)]
pub struct Shared {
    online: AtomicCpuSet,
    /// Those that idle and that nobody has claimed yet.
    idle: AtomicCpuSet,
    /// Those that several vCPUs share.
    contended: AtomicCpuSet,
    /// The rate limit, in nanoseconds.
    least: AtomicU64,
}

impl Default for Shared {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    /// A machine without CPUs.
    pub fn new() -> Self {
        let none = || AtomicCpuSet::new(&CpuSet::EMPTY);
        Self {
            online: none(),
            idle: none(),
            contended: none(),
            least: AtomicU64::new(RateLimit::DEFAULT.nanoseconds()),
        }
    }

    /// The rate limit.
    pub fn rate_limit(&self) -> RateLimit {
        RateLimit::of_nanoseconds(self.least.load(Ordering::Relaxed))
    }

    /// Sets the rate limit. CPUs have it from their next decision on.
    pub fn set_rate_limit(&self, limit: RateLimit) {
        self.least.store(limit.nanoseconds(), Ordering::Relaxed);
    }
}

/// The scheduler of a machine: a view of its tables. A CPU's record is at its number.
#[derive(Clone, Copy, Debug)]
pub struct Scheduler<'a> {
    shared: &'a Shared,
    cpus: &'a [CpuRecord],
    records: Records<'a>,
}

impl<'a> Scheduler<'a> {
    /// Puts the view together. The tables are the same each time.
    pub const fn new(
        shared: &'a Shared,
        cpus: &'a [CpuRecord],
        vcpus: &'a [VcpuRecord],
        domains: &'a [DomainRecord],
    ) -> Self {
        Self {
            shared,
            cpus,
            records: Records { vcpus, domains },
        }
    }

    fn cpu(&self, cpu: CpuId) -> Result<&'a CpuRecord, Error> {
        self.cpus.get(cpu.get() as usize).ok_or(Error::NoSuch)
    }

    /// The record of a vCPU that exists.
    fn vcpu(&self, vcpu: VcpuIndex) -> Result<&'a VcpuRecord, Error> {
        let record = self.records.vcpu(vcpu).ok_or(Error::NoSuch)?;
        if record.domain.load(Ordering::Relaxed) == record::NONE {
            return Err(Error::NoSuch);
        }
        Ok(record)
    }

    /// How long a vCPU runs at least.
    fn least(&self) -> u64 {
        self.shared.least.load(Ordering::Relaxed)
    }
}
