//! The end of a domain: all that it has goes back, in bounded steps.
//!
//! First the vCPUs give up what they refer to, then the ports are closed: nobody reaches the domain by an event any more. What the
//! domain has mapped of others' grants is given back. Then each frame of the domain is visited once: the domain gives it back, its pin
//! ends, and a promotion that somebody left half-way is given up. It is free when nobody refers to it any more:
//! tables follow by the undo queue; what another domain maps lingers until that ends. When all are, [`Host::reap_domain`](crate::host::Host::reap_domain) gives back what the
//! hypervisor has made for the domain, in such steps too.
//!
//! INVARIANT (I10, I29): whatever state calls of the domain were left in, nothing of it stays.

use dom0_abi::addr::Mfn;
use dom0_abi::ids::DomId;
use oxen_arch::sync::atomic::{Ordering, fence};

use super::Domain;
use super::table::DomainTable;
use super::vcpu::VcpuState;
use crate::budget::Budget;
use crate::event::close;
use crate::frame::Memory;
use crate::grant;
use crate::page_type::{TypeRef, promote, undo};

/// What it costs to give a frame of the hypervisor's back, in units of the budget.
pub const FRAME: u32 = 8;
/// What it costs to give back a vCPU, which has a few, and is taken from the scheduler.
pub const VCPU: u32 = 24;

/// How far the end of a domain has come.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is left but what others refer to.
    Done,
    /// The budget was spent; there is more to do.
    More,
}

/// Gives back what a domain has, as far as the budget goes. None of its vCPUs runs, or will: it is shut down, and the CPUs that
/// ran them have loaded another root.
///
/// `domains`: those at the other ends of its ports, and whose grants it may have mapped. `memory` may be anybody's; what the
/// domain itself had taken out of use and not undone yet comes first.
pub fn release(
    memory: Memory<'_>,
    domains: &DomainTable,
    domain: &Domain,
    budget: &mut Budget,
) -> Progress {
    let own = Memory {
        undo: &domain.undo,
        ..memory
    };
    for vcpu in domain.vcpus() {
        release_vcpu(own, &mut vcpu.lock());
        if let Some(info) = vcpu.take_info_hold() {
            drop(TypeRef::from_held(own, info));
        }
    }
    if !close::end(own, domains, domain, budget) {
        return Progress::More;
    }
    if let Some(shared) = domain.shared_info_hold.lock().take() {
        drop(TypeRef::from_held(own, shared));
    }
    if let Some(exchange) = domain.exchange.take() {
        exchange.end(own);
    }
    if !grant::end::end(own, domains, domain, budget) {
        return Progress::More;
    }
    // Nobody puts anything into those of the vCPUs any more.
    let mut queues = domain.undo_queues();
    if !queues.all(|undo| undo::drain(Memory { undo, ..own }, budget)) {
        return Progress::More;
    }
    loop {
        if !undo::drain(own, budget) || !budget.spend() {
            return Progress::More;
        }
        match own.frames.next_to_release(domain.id) {
            Some(mfn) => release_frame(own, mfn, domain.id),
            None => return Progress::Done,
        }
    }
}

/// Gives back what a vCPU refers to. It can never run again.
pub fn release_vcpu(memory: Memory<'_>, state: &mut VcpuState) {
    state.retire();
    release_references(memory, state);
}

/// The same of a vCPU that has never run, and may yet.
pub fn release_references(memory: Memory<'_>, state: &mut VcpuState) {
    let roots = [state.root.take(), state.user_root.take()];
    for root in roots.into_iter().flatten() {
        drop(TypeRef::from_held(memory, root));
    }
    state.tables.release(memory);
}

fn release_frame(memory: Memory<'_>, mfn: Mfn, owner: DomId) {
    // Refused for what the domain gave back before.
    let _ = memory.release_domain_frame(mfn, owner);
    // ORDERING: pairs with who pins or parks it for the domain (`TypeRef::pin`): nobody begins to from now on, and of who
    // has begun before, one of the two sees what the other did.
    fence(Ordering::SeqCst);
    if memory.frames.is_or_was_of(mfn, owner) {
        // Refused for what is not pinned.
        let _ = TypeRef::unpin(memory, mfn, owner).map(drop);
        promote::abandon(memory, mfn);
    }
}
