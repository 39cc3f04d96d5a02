//! Where a CPU of a bench build keeps its counts: in its record.

use super::cpu::Cpu;
use super::per_cpu;
use crate::counters::Counts;

/// Lets `work` at the counts of the running CPU. Before it has a stack of its own, early in boot, it has none.
#[inline(always)]
pub(crate) fn with<R>(work: impl FnOnce(&Counts) -> R) -> Option<R> {
    per_cpu::current_index().map(|_| work(&Cpu::current().local.counts))
}
