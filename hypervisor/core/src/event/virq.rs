//! Virtual interrupts: which port each leads to, and how they are raised.
//!
//! Each vCPU has a table of its own. In that of the first one are also those that exist once in a domain; of these the
//! hypervisor raises its own in dom0.
//!
//! INVARIANT: an entry is taken by compare-exchange before its port is made, and given back, by who closes the port, before the number of
//! that is. An entry may be stale for somebody who raises meanwhile: the port says what it is.

use dom0_abi::ids::{DomId, Port, VcpuId};
use dom0_abi::xen::{NR_VIRQS, Virq};
use oxen_arch::Cpu;
use oxen_arch::sync::atomic::{AtomicU32, Ordering};

use super::send;
use super::word::{PortState, VirqNumber};
use crate::domain::Domain;
use crate::domain::vcpu::Vcpu;
use crate::host::Host;

/// The ports of a vCPU's VIRQs; 0 is none.
#[derive(Debug)]
pub struct VirqPorts([AtomicU32; NR_VIRQS as usize]);

impl VirqPorts {
    /// None is bound.
    pub const fn new() -> Self {
        Self([const { AtomicU32::new(0) }; NR_VIRQS as usize])
    }

    /// The port of a VIRQ.
    pub fn get(&self, virq: VirqNumber) -> Option<Port> {
        let port = self.0.get(virq.get() as usize)?.load(Ordering::Acquire);
        (port != 0).then_some(Port::new(port))
    }

    /// Takes the place of a VIRQ for a port. `false`: it has one.
    pub(super) fn take(&self, virq: VirqNumber, port: Port) -> bool {
        self.exchange(virq, 0, port.get())
    }

    /// Gives the place back, if it is this port's.
    pub(super) fn give_back(&self, virq: VirqNumber, port: Port) {
        self.exchange(virq, port.get(), 0);
    }

    fn exchange(&self, virq: VirqNumber, old: u32, new: u32) -> bool {
        self.0.get(virq.get() as usize).is_some_and(|place| {
            place
                .compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        })
    }
}

impl Default for VirqPorts {
    fn default() -> Self {
        Self::new()
    }
}

/// Raises a VIRQ of a vCPU; nothing happens if the guest has not bound it. For whoever has something to say: timers, debug
/// keys. It needs no lock and waits for nothing, so it may be called from an interrupt.
pub fn raise(host: &Host, cpu: &Cpu, domain: &Domain, vcpu: &Vcpu, virq: Virq) {
    let virq = VirqNumber::from(virq);
    let Some(port) = vcpu.virqs.get(virq) else {
        return;
    };
    let Ok(cell) = domain.events.cell(port) else {
        return;
    };
    // Refused: it has just been closed.
    let Ok(held) = cell.hold() else {
        return;
    };
    let binding = held.binding();
    if binding.state == PortState::Virq(virq) && (!virq.is_per_vcpu() || binding.vcpu == vcpu.id) {
        send::deliver(host, cpu, domain, port, binding.vcpu);
    }
}

/// Raises a VIRQ of the hypervisor's own in dom0.
pub fn raise_global(host: &Host, cpu: &Cpu, virq: Virq) {
    if let Some(dom0) = host.domains.get(DomId::DOM0)
        && let Some(vcpu) = dom0.vcpu(VcpuId::new(0))
    {
        raise(host, cpu, &dom0, vcpu, virq);
    }
}
