//! The end of ports: one, or all of a domain, in steps.

use dom0_abi::errno::Errno;
use dom0_abi::ids::{DomId, Port, VcpuId};
use oxen_arch::memory::PhysMem;

use super::cell::{Locked, PortCell, PortId};
use super::fifo::setup::{self, End};
use super::send;
use super::word::{PortState, VirqNumber};
use crate::budget::Budget;
use crate::domain::Domain;
use crate::domain::table::{DomainRef, DomainTable};
use crate::frame::Memory;

/// Closes a port. What it was connected to is offered to its domain from then on.
///
/// `EINVAL`: there is no such port. ABI: `public/event_channel.h`, `EVTCHNOP_close`.
#[doc(alias = "EVTCHNOP_close")]
pub fn close(
    domains: &DomainTable,
    mem: &PhysMem,
    domain: &Domain,
    port: Port,
) -> Result<(), Errno> {
    let cell = domain.events.cell(port)?;
    loop {
        let binding = cell.binding();
        let is_done = match binding.state {
            PortState::Free => return Err(Errno::EINVAL),
            PortState::Interdomain { remote, port: far } => {
                disconnect(domains, mem, domain, port, remote, far)
            }
            state => {
                let mut locked = cell.lock();
                let is_same = locked.state() == state;
                if is_same {
                    if let PortState::Virq(virq) = state {
                        free_virq(domain, virq, binding.vcpu, port);
                    }
                    free(mem, domain, port, &mut locked);
                }
                is_same
            }
        };
        // Otherwise somebody has changed it since, which nobody can do forever: a port that is closed stays so.
        if is_done {
            domain.events.give_back(port);
            return Ok(());
        }
    }
}

/// Makes a connected port free and its other end offered. `false`, and nothing done: they are not connected any more.
fn disconnect(
    domains: &DomainTable,
    mem: &PhysMem,
    domain: &Domain,
    port: Port,
    remote: DomId,
    far: Port,
) -> bool {
    let other: DomainRef<'_>;
    let remote = if remote == domain.id {
        domain
    } else {
        // Without it they are not connected any more: it has ended since.
        match domains.get(remote) {
            Some(found) => {
                other = found;
                &other
            }
            None => return false,
        }
    };
    let (Ok(near), Ok(theirs)) = (domain.events.cell(port), remote.events.cell(far)) else {
        return false;
    };
    let names = [(domain.id, port), (remote.id, far)].map(|(domain, port)| PortId { domain, port });
    let [near_id, far_id] = names;
    let (mut near, mut theirs) = PortCell::lock_both((near_id, near), (far_id, theirs));
    let is_connected = near.state() == connected(far_id) && theirs.state() == connected(near_id);
    if is_connected {
        theirs.set(PortState::Unbound { remote: domain.id });
        free(mem, domain, port, &mut near);
    }
    is_connected
}

const fn connected(to: PortId) -> PortState {
    PortState::Interdomain {
        remote: to.domain,
        port: to.port,
    }
}

/// Makes a locked port nobody's.
fn free(mem: &PhysMem, domain: &Domain, port: Port, locked: &mut Locked<'_>) {
    send::forget(mem, domain, port);
    locked.set(PortState::Free);
}

/// Gives back the place of a VIRQ whose port is being closed. One that exists once in a domain is in the table of the first vCPU, whoever
/// is told.
fn free_virq(domain: &Domain, virq: VirqNumber, told: VcpuId, port: Port) {
    let whose = match virq.is_per_vcpu() {
        true => told,
        false => VcpuId::new(0),
    };
    if let Some(vcpu) = domain.vcpu(whose) {
        vcpu.virqs.give_back(virq, port);
    }
}

/// Closes the ports of a domain, as far as the budget goes. Returns whether none is left: who goes on finds only those that are.
#[must_use]
pub fn close_all(
    domains: &DomainTable,
    mem: &PhysMem,
    domain: &Domain,
    budget: &mut Budget,
) -> bool {
    while let Some(port) = domain.events.lowest_taken() {
        if !budget.spend() {
            return false;
        }
        // Refused for one that another vCPU has taken and not made yet, or is just closing.
        let _ = close(domains, mem, domain, port);
    }
    true
}

/// Closes the ports of a domain that ends: none is made any more. What it gave for the FIFO form goes back.
#[must_use]
pub fn end(
    memory: Memory<'_>,
    domains: &DomainTable,
    domain: &Domain,
    budget: &mut Budget,
) -> bool {
    domain.events.end();
    close_all(domains, memory.mem(), domain, budget)
        && setup::end(memory, domain, budget) == End::Done
}
