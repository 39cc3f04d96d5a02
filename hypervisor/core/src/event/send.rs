//! The way of an event, from who causes it to the vCPU that is told.
//!
//! A send takes no lock of a domain. It holds the sender's port, which keeps the connection (so the event cannot arrive at a port that
//! has become somebody else's meanwhile), and, if the receiver is another domain, a counted reference to that. What a domain sends to
//! itself needs no hold: a port that it gives back at the same time, and takes again, may begin with that event, which is its own affair, and
//! its memory stays as long as it runs. Locked operations: the hold and its end; the reference and its end; the pending bit; and if the port
//! was neither pending nor masked the selector and the byte of the upcall. (In the FIFO form the hold and its end, too, and the lock of a
//! vCPU's queues, or of two, one behind the other.)
//!
//! How a port becomes pending is a matter of the form of events that a domain uses: [`deliver`], [`unmask`], [`is_pending`] and [`forget`] are where
//! it is chosen. They try the two-level form; a domain that uses the other one has no page for that, so the choice costs a send nothing.

use dom0_abi::errno::Errno;
use dom0_abi::ids::{Port, VcpuId};
use oxen_arch::Cpu;
use oxen_arch::memory::{BadFrame, PhysMem};

use super::cell::PortCell;
use super::fifo;
use super::two_level::{self, Raised};
use super::word::PortState;
use crate::domain::Domain;
use crate::host::Host;

/// Sends an event through a port. To nobody, if nobody is connected.
///
/// `EINVAL`: there is no such port, or it is none to send through. ABI: `public/event_channel.h`, `EVTCHNOP_send`.
#[doc(alias = "EVTCHNOP_send")]
#[inline(always)]
pub fn send(host: &Host, cpu: &Cpu, domain: &Domain, port: Port) -> Result<(), Errno> {
    let cell = domain.events.cell(port)?;
    let binding = cell.binding();
    if binding.state == PortState::Ipi && deliver_two_level(host, cpu, domain, port, binding.vcpu) {
        return Ok(());
    }
    send_through(host, cpu, domain, cell, port)
}

/// Sends an event through a port that is held meanwhile.
#[inline(never)]
fn send_through(
    host: &Host,
    cpu: &Cpu,
    domain: &Domain,
    cell: &PortCell,
    port: Port,
) -> Result<(), Errno> {
    let held = match cell.hold() {
        Ok(held) => held,
        // One that is just being disconnected is as good as disconnected.
        Err(PortState::Unbound { .. } | PortState::Interdomain { .. }) => return Ok(()),
        Err(_) => return Err(Errno::EINVAL),
    };
    let binding = held.binding();
    match binding.state {
        PortState::Interdomain { remote, port } if remote == domain.id => {
            arrive(host, cpu, domain, port);
        }
        PortState::Interdomain { remote, port } => {
            // It is there: it does not end before its ports are closed.
            if let Some(remote) = host.domains.get(remote) {
                arrive(host, cpu, &remote, port);
            }
        }
        PortState::Ipi => deliver(host, cpu, domain, port, binding.vcpu),
        PortState::Virq(_) | PortState::Pirq(_) | PortState::Unbound { .. } | PortState::Free => {
            return Err(Errno::EINVAL);
        }
    }
    Ok(())
}

/// Lets an event arrive at the other end of a connection that is held.
fn arrive(host: &Host, cpu: &Cpu, domain: &Domain, port: Port) {
    match domain.events.near(port) {
        Some(cell) => deliver(host, cpu, domain, port, cell.binding().vcpu),
        None => arrive_far(host, cpu, domain, port),
    }
}

/// The same at a port that the two-level form does not have.
#[cold]
#[inline(never)]
fn arrive_far(host: &Host, cpu: &Cpu, domain: &Domain, port: Port) {
    if let Ok(binding) = domain.events.binding(port) {
        deliver(host, cpu, domain, port, binding.vcpu);
    }
}

/// Makes a port pending, and tells its vCPU unless it is masked. The caller holds the port, or the other end of its connection.
///
/// A page that is not memory any more, or a vCPU that has no `vcpu_info`, is told nothing: the former is the end of its domain, and the
/// latter is told of everything when it gets one.
#[inline(always)]
pub(super) fn deliver(host: &Host, cpu: &Cpu, domain: &Domain, port: Port, vcpu: VcpuId) {
    if !deliver_two_level(host, cpu, domain, port, vcpu) {
        // As the last thing that is done here, so that nothing is kept for what comes behind it.
        fifo::deliver(host, cpu, domain, port, vcpu);
    }
}

/// The same in the two-level form. `false`, and nothing is done: the domain has no page for that.
#[inline(always)]
fn deliver_two_level(host: &Host, cpu: &Cpu, domain: &Domain, port: Port, vcpu: VcpuId) -> bool {
    match two_level::raise(host.mem(), domain.events.bits(), port) {
        Ok(Raised::New) => arrived(host, cpu, domain, port, vcpu),
        Ok(Raised::Masked) => wake_pollers(host, cpu, domain),
        Ok(Raised::Before) => {}
        Err(BadFrame) => return false,
    }
    true
}

/// Tells the vCPU, and those that poll, that a port has become pending.
#[inline(never)]
fn arrived(host: &Host, cpu: &Cpu, domain: &Domain, port: Port, vcpu: VcpuId) {
    tell(host, cpu, domain, port, vcpu);
    wake_pollers(host, cpu, domain);
}

/// Wakes all vCPUs that poll, most often none: some port has become pending.
#[inline(always)]
pub(super) fn wake_pollers(host: &Host, cpu: &Cpu, domain: &Domain) {
    if domain.events.pollers.is_anybody() {
        wake_all_pollers(host, cpu, domain);
    }
}

#[cold]
#[inline(never)]
fn wake_all_pollers(host: &Host, cpu: &Cpu, domain: &Domain) {
    domain.events.pollers.for_each(|id| {
        if let Some(vcpu) = domain.vcpu(id) {
            vcpu.signals.note_event();
            host.kick(cpu, vcpu);
        }
    });
}

/// Unmasks a port, and tells its vCPU if it is pending. One that is nobody's stays as it is.
///
/// `EINVAL`: there is no such port. ABI: `public/event_channel.h`, `EVTCHNOP_unmask`.
#[doc(alias = "EVTCHNOP_unmask")]
pub fn unmask(host: &Host, cpu: &Cpu, domain: &Domain, port: Port) -> Result<(), Errno> {
    let binding = domain.events.binding(port)?;
    if binding.state == PortState::Free {
        return Ok(());
    }
    match two_level::unmask(host.mem(), domain.events.bits(), port) {
        Ok(true) => tell(host, cpu, domain, port, binding.vcpu),
        Ok(false) => {}
        Err(BadFrame) => fifo::unmask(host, cpu, domain, port, binding.vcpu),
    }
    Ok(())
}

/// Whether a port is pending, masked or not. `EINVAL`: there is no such port, or it is nobody's.
pub fn is_pending(host: &Host, domain: &Domain, port: Port) -> Result<bool, Errno> {
    if domain.events.binding(port)?.state == PortState::Free {
        return Err(Errno::EINVAL);
    }
    let mem = host.mem();
    two_level::is_pending(mem, domain.events.bits(), port)
        .or_else(|BadFrame| fifo::is_pending(mem, domain, port))
        .map_err(|BadFrame| Errno::EFAULT)
}

/// Forgets that a port was pending: who gets its number next hears nothing of it. The caller has it locked.
pub(super) fn forget(mem: &PhysMem, domain: &Domain, port: Port) {
    // In both forms: in the FIFO form the bit may be there from before. Without the page there is nobody who could be surprised.
    let _ = two_level::forget(mem, domain.shared_info, port);
    if domain.events.is_fifo() {
        fifo::forget(mem, domain, port);
    }
}

#[inline(never)]
fn tell(host: &Host, cpu: &Cpu, domain: &Domain, port: Port, vcpu: VcpuId) {
    if let Some(vcpu) = domain.vcpu(vcpu)
        && two_level::tell(host.mem(), vcpu.upcall.location(), port) == Ok(true)
    {
        host.kick(cpu, vcpu);
    }
}
