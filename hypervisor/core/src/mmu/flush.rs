//! Which CPUs forget which translations, when a guest asks for it.
//!
//! What the hypervisor needs for itself does not depend on any of this: a frame that gets a new use or a new owner is flushed
//! by its stamp (`page_type::promote`, `frame`). Here a guest's own view of its memory is kept right.

use dom0_abi::addr::GuestAddr;
use dom0_abi::errno::Errno;
use dom0_abi::handle::GuestHandle;
use oxen_arch::guest_range::is_canonical;
use oxen_arch::tlb::{CpuSet, Flush};

use crate::budget::Budget;
use crate::guest_access::GuestPtr;
use crate::hypercall::CallCtx;

/// What it costs to flush all of a CPU, in units of the budget: two writes of CR4, and what is walked again. A page costs one unit
/// for each address space in which it may be.
const ALL: u32 = 10;

/// Whose translations.
pub(crate) enum Whose {
    /// The calling vCPU's.
    Own,
    /// Those of the vCPUs in a bit map of the caller's.
    Map(GuestHandle<u64>),
    /// Those of all vCPUs of the caller's domain.
    All,
}

/// All translations, or those of one page. One that cannot have any is flushed by doing nothing (XSA-279).
pub(super) fn of_page(address: GuestAddr) -> Option<Flush> {
    is_canonical(address.get()).then_some(Flush::Page(address))
}

/// Makes CPUs forget; on return they have. `EFAULT`: the bit map cannot be read; nothing has been flushed.
pub(crate) fn flush(ctx: &mut CallCtx<'_>, whose: Whose, what: Option<Flush>) -> Result<(), Errno> {
    let (targets, cost) = match whose {
        // Nobody else is asked anything.
        Whose::Own => {
            match what {
                Some(Flush::All) => {
                    ctx.budget.pay(ALL);
                    ctx.cpu.flush_tlb();
                }
                Some(Flush::Page(address)) => ctx.budget.pay(ctx.cpu.flush_page(address)),
                None => {}
            }
            return Ok(());
        }
        Whose::All => cpus(ctx, |_| true),
        Whose::Map(map) => {
            let words = vcpu_map(ctx, map)?;
            cpus(ctx, |vcpu| {
                let word = words.get(vcpu / 64).copied().unwrap_or(0);
                word >> (vcpu % 64) & 1 != 0
            })
        }
    };
    ctx.budget.pay(cost);
    if let Some(what) = what {
        ctx.host.machine.flush_cpus(ctx.cpu, &targets, what);
    }
    Ok(())
}

/// The CPUs that may hold translations of some vCPUs, and what it costs to flush them, in units of the budget.
fn cpus(ctx: &CallCtx<'_>, is_wanted: impl Fn(usize) -> bool) -> (CpuSet, u32) {
    let mut targets = CpuSet::EMPTY;
    let mut cost = 0_u32;
    for (index, vcpu) in ctx.domain.vcpus().enumerate() {
        if index.is_multiple_of(8) {
            cost = cost.saturating_add(1);
        }
        if is_wanted(index)
            && let Some(cpu) = vcpu.last_cpu()
            && !targets.contains(cpu)
        {
            targets.insert(cpu);
            cost = cost.saturating_add(if cpu == ctx.cpu.id() {
                ALL
            } else {
                Budget::OTHER_CPU
            });
        }
    }
    (targets, cost)
}

const WORDS: usize = crate::domain::MAX_VCPUS / 64;

/// Reads a bit map of vCPUs, as many words of it as the domain has vCPUs for.
fn vcpu_map(ctx: &CallCtx<'_>, map: GuestHandle<u64>) -> Result<[u64; WORDS], Errno> {
    let mut words = [0; WORDS];
    let count = ctx.domain.vcpus().count().div_ceil(64);
    for (index, word) in (0..WORDS as u64).zip(words.iter_mut().take(count)) {
        *word = GuestPtr::from(map).element(index).read(ctx.cpu)?;
    }
    Ok(words)
}
