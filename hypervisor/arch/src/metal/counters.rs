//! Where a CPU of a bench build keeps its counts: in its record.

use super::cpu::Cpu;
use super::{layout, per_cpu};
use crate::counters::Counts;

/// Lets `work` at the counts of the running CPU. Before it has a stack of its own, early in boot, it has none.
#[inline(always)]
pub(crate) fn with<R>(work: impl FnOnce(&Counts) -> R) -> Option<R> {
    const END: u64 = layout::PER_CPU + layout::MAX_CPUS as u64 * layout::PER_CPU_STRIDE;
    let has_record = (layout::PER_CPU..END).contains(&per_cpu::current_area());
    has_record.then(|| work(&Cpu::current().local.counts))
}
