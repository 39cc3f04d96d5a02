//! Loads roots, and knows what of a vCPU's translations a CPU may keep.
//!
//! There are two ways to use the TLB. In [`TlbMode::Global`] user pages are global and each load of a root drops the rest: that
//! is all there is to do. In [`TlbMode::Pcid`] nothing is global, and each of the two roots of a vCPU has a PCID of its own on
//! each CPU, so that going from user to kernel mode and back drops nothing.
//!
//! INVARIANT: a PCID whose translations are kept when a root is loaded has had no other root since it was flushed (XSA-292,
//! 294). Keeping is never needed for the hypervisor's own safety: frames that change their use are flushed by their stamps.
//! A guest that loads a root wants all that is not global forgotten, as a CPU does it: so for it a change of either root
//! makes both of its PCIDs stale.
//!
//! Where guests run on twins of their roots (`page_type::twin`) there are no PCIDs, and each root is loaded with its twin.

use dom0_abi::addr::Mfn;
use dom0_abi::ids::{DomId, VcpuId};
use oxen_arch::Cpu;
use oxen_arch::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use oxen_arch::tlb::{Pcid, TlbMode};

use crate::domain::vcpu::GuestMode;
use crate::host::Host;
use crate::hypercall::CallCtx;
use crate::page_type::twin;

/// vCPUs that have PCIDs on a CPU at a time: two each, beside the one of the idle root.
const SLOTS: usize = (Pcid::COUNT as usize - 1) / 2;

/// The PCIDs of one CPU. Only that CPU uses it: the atomics are no more than cells.
#[derive(Debug)]
pub struct Pcids {
    slots: [Slot; SLOTS],
    /// The slot that is given away next.
    victim: AtomicU32,
}

#[derive(Debug)]
struct Slot {
    /// Domain and vCPU, or [`NOBODY`].
    owner: AtomicU64,
    /// The roots, of kernel and user mode, whose translations are there; [`STALE`] if they must not be kept.
    roots: [AtomicU64; 2],
}

const NOBODY: u64 = u64::MAX;
const STALE: u64 = u64::MAX;

impl Pcids {
    /// No vCPU has one.
    pub const fn new() -> Self {
        Self {
            slots: [const { Slot::FREE }; SLOTS],
            victim: AtomicU32::new(0),
        }
    }

    /// The PCID for a mode of a vCPU, and whether what it has may be kept with this root, which it has from now on.
    fn take(&self, owner: u64, mode: GuestMode, root: Mfn) -> Option<(Pcid, bool)> {
        let index = self.find(owner).unwrap_or_else(|| self.give(owner));
        let which = match mode {
            GuestMode::Kernel => 0,
            GuestMode::User => 1,
        };
        let slot = self.slots.get(index)?;
        let before = slot.roots.get(which)?.swap(root.get(), Ordering::Relaxed);
        let number = index.saturating_mul(2).saturating_add(which);
        let pcid = Pcid::new(u8::try_from(number).ok()?.checked_add(1)?)?;
        Some((pcid, before == root.get()))
    }

    fn find(&self, owner: u64) -> Option<usize> {
        let is_owner = |slot: &Slot| slot.owner.load(Ordering::Relaxed) == owner;
        self.slots.iter().position(is_owner)
    }

    /// Gives the next slot to a vCPU.
    fn give(&self, owner: u64) -> usize {
        let turn = self.victim.load(Ordering::Relaxed);
        self.victim.store(turn.wrapping_add(1), Ordering::Relaxed);
        let index = turn as usize % SLOTS;
        if let Some(slot) = self.slots.get(index) {
            slot.owner.store(owner, Ordering::Relaxed);
            slot.forget();
        }
        index
    }

    /// Keeps nothing of a vCPU.
    fn forget(&self, owner: u64) {
        if let Some(slot) = self.find(owner).and_then(|index| self.slots.get(index)) {
            slot.forget();
        }
    }
}

impl Default for Pcids {
    fn default() -> Self {
        Self::new()
    }
}

impl Slot {
    #[expect(
        clippy::declare_interior_mutable_const,
        reason = "what every slot begins as, copied and never used itself"
    )]
    const FREE: Self = Self {
        owner: AtomicU64::new(NOBODY),
        roots: [AtomicU64::new(STALE), AtomicU64::new(STALE)],
    };

    fn forget(&self) {
        for root in &self.roots {
            root.store(STALE, Ordering::Relaxed);
        }
    }
}

const fn key(domain: DomId, vcpu: VcpuId) -> u64 {
    (domain.get() as u64) << 32 | vcpu.get() as u64
}

/// Loads a root of the running vCPU.
#[inline]
pub fn load(ctx: &CallCtx<'_>, root: Mfn, mode: GuestMode) {
    load_for(
        ctx.host,
        ctx.cpu,
        key(ctx.domain.id, ctx.vcpu.id),
        root,
        mode,
    );
}

#[inline]
fn load_for(host: &Host, cpu: &Cpu, owner: u64, root: Mfn, mode: GuestMode) {
    match host.machine.tlb_mode() {
        TlbMode::Global if host.machine.uses_twins() => load_with_twin(host, cpu, root),
        TlbMode::Global => cpu.load_root(root),
        TlbMode::Pcid => {
            let taken = host
                .pcpu(cpu)
                .and_then(|pcpu| pcpu.pcids.take(owner, mode, root));
            match taken {
                Some((pcid, keep)) => cpu.load_root_pcid(root, pcid, keep),
                None => cpu.load_root(root),
            }
        }
    }
}

/// Loads a root for a guest that runs on its twin.
#[inline(never)]
fn load_with_twin(host: &Host, cpu: &Cpu, root: Mfn) {
    match twin::of(&host.machine, &host.frames, root) {
        Some(twin) => cpu.load_roots(root, twin),
        None => {
            debug_assert!(false, "root {root} is in use and has no twin");
            cpu.load_root(root);
        }
    }
}

/// Whose root is loaded when a CPU begins to run a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// The one that leads to no guest: no translation of any guest is left.
    Idle,
    /// Another vCPU's.
    Guest,
}

/// Loads the root of a vCPU that a CPU begins to run, in its mode.
pub fn enter(
    host: &Host,
    cpu: &Cpu,
    (domain, vcpu): (DomId, VcpuId),
    (root, mode): (Mfn, GuestMode),
    before: Before,
) {
    load_for(host, cpu, key(domain, vcpu), root, mode);
    if before == Before::Guest && host.machine.tlb_mode() == TlbMode::Global {
        // What is global survives the load of a root.
        cpu.flush_tlb();
    }
}

/// Keeps no translation of a vCPU on this CPU when one of its roots is loaded next.
pub fn forget_of(host: &Host, cpu: &Cpu, domain: DomId, vcpu: VcpuId) {
    if host.machine.tlb_mode() == TlbMode::Pcid
        && let Some(pcpu) = host.pcpu(cpu)
    {
        pcpu.pcids.forget(key(domain, vcpu));
    }
}

/// The same for the running vCPU.
pub fn forget(ctx: &CallCtx<'_>) {
    forget_of(ctx.host, ctx.cpu, ctx.domain.id, ctx.vcpu.id);
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u64 = key(DomId::new(1), VcpuId::new(0));
    const ROOT: Mfn = Mfn::new(0x100);
    const OTHER: Mfn = Mfn::new(0x200);

    #[test]
    fn a_pcid_is_kept_only_for_the_root_that_it_had() {
        let pcids = Pcids::new();
        let take = |owner, mode, root| pcids.take(owner, mode, root).unwrap();
        let (kernel, keep) = take(A, GuestMode::Kernel, ROOT);
        assert!(!keep, "nobody knows what it had");
        let (user, keep) = take(A, GuestMode::User, ROOT);
        assert!(!keep && user != kernel);
        assert_eq!(take(A, GuestMode::Kernel, ROOT), (kernel, true));
        assert_eq!(take(A, GuestMode::Kernel, OTHER), (kernel, false));
        assert_eq!(take(A, GuestMode::Kernel, ROOT), (kernel, false));
        assert_eq!(take(A, GuestMode::User, ROOT), (user, true));
        pcids.forget(A);
        assert_eq!(take(A, GuestMode::User, ROOT), (user, false));
        assert_eq!(take(A, GuestMode::Kernel, ROOT), (kernel, false));
    }

    #[test]
    fn a_slot_that_changes_hands_keeps_nothing() {
        let pcids = Pcids::new();
        let first = pcids.take(A, GuestMode::Kernel, ROOT).unwrap().0;
        let mut seen = std::collections::BTreeSet::from([first.get()]);
        for vcpu in 1..SLOTS as u64 {
            for mode in [GuestMode::Kernel, GuestMode::User] {
                let (pcid, keep) = pcids.take(A + vcpu, mode, ROOT).unwrap();
                assert!(!keep);
                assert!(seen.insert(pcid.get()), "one vCPU, one PCID for each mode");
            }
        }
        assert!(!seen.contains(&0), "that is the idle root's");
        let (pcid, keep) = pcids.take(A + 1000, GuestMode::Kernel, ROOT).unwrap();
        assert_eq!((pcid, keep), (first, false));
        assert!(!pcids.take(A, GuestMode::Kernel, ROOT).unwrap().1);
    }
}
