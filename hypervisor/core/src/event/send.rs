//! The way of an event, from who causes it to the vCPU that is told.
//!
//! A send takes no lock of a domain. It holds the sender's port, which keeps the connection (so the event cannot arrive at a port that
//! has become somebody else's meanwhile), and, if the receiver is another domain, a counted reference to that. What a domain sends to
//! itself needs no hold: a port that it gives back at the same time, and takes again, may begin with that event, which is its own affair, and
//! its memory stays as long as it runs. Locked operations: the hold and its end; the reference and its end; the pending bit; and if the port
//! was neither pending nor masked the selector and the byte of the upcall.
//!
//! How a port becomes pending is a matter of the form of events that a domain uses: [`deliver`] and [`unmask`] are where it is
//! chosen, and know the two-level form.

use dom0_abi::errno::Errno;
use dom0_abi::ids::{Port, VcpuId};
use oxen_arch::Cpu;
use oxen_arch::memory::BadFrame;

use super::cell::PortCell;
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
    if binding.state == PortState::Ipi {
        deliver(host, cpu, domain, port, binding.vcpu);
        return Ok(());
    }
    send_through(host, cpu, domain, cell)
}

/// Sends an event through a port that is connected.
#[inline(never)]
fn send_through(host: &Host, cpu: &Cpu, domain: &Domain, cell: &PortCell) -> Result<(), Errno> {
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
        // An IPI again, by now: it was none, so nothing was sent.
        PortState::Ipi => {}
        PortState::Virq(_) | PortState::Unbound { .. } | PortState::Free => {
            return Err(Errno::EINVAL);
        }
    }
    Ok(())
}

/// Lets an event arrive at the other end of a connection that is held.
fn arrive(host: &Host, cpu: &Cpu, domain: &Domain, port: Port) {
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
    match two_level::raise(host.mem(), domain.shared_info, port) {
        Ok(Raised::New) => arrived(host, cpu, domain, port, Some(vcpu)),
        Ok(Raised::Masked) if !domain.events.pollers.is_anybody() => {}
        Ok(Raised::Masked) => arrived(host, cpu, domain, port, None),
        Ok(Raised::Before) | Err(BadFrame) => {}
    }
}

/// Tells the vCPU, and those that poll, that a port has become pending.
#[inline(never)]
fn arrived(host: &Host, cpu: &Cpu, domain: &Domain, port: Port, vcpu: Option<VcpuId>) {
    if let Some(vcpu) = vcpu {
        tell(host, cpu, domain, port, vcpu);
    }
    domain.events.pollers.for_each(|id| {
        if let Some(vcpu) = domain.vcpu(id) {
            vcpu.note_event();
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
    if binding.state != PortState::Free
        && two_level::unmask(host.mem(), domain.shared_info, port) == Ok(true)
    {
        tell(host, cpu, domain, port, binding.vcpu);
    }
    Ok(())
}

/// Whether a port is pending, masked or not. `EINVAL`: there is no such port, or it is nobody's.
pub fn is_pending(host: &Host, domain: &Domain, port: Port) -> Result<bool, Errno> {
    if domain.events.binding(port)?.state == PortState::Free {
        return Err(Errno::EINVAL);
    }
    two_level::is_pending(host.mem(), domain.shared_info, port).map_err(|BadFrame| Errno::EFAULT)
}

fn tell(host: &Host, cpu: &Cpu, domain: &Domain, port: Port, vcpu: VcpuId) {
    if let Some(vcpu) = domain.vcpu(vcpu)
        && two_level::tell(host.mem(), vcpu.upcall.location(), port) == Ok(true)
    {
        host.kick(cpu, vcpu);
    }
}
