//! Interrupts of devices: ports that are told of them. What an interrupt is, and when it comes, is a matter of [`crate::irq`].

use dom0_abi::errno::Errno;
use dom0_abi::ids::Port;
use oxen_arch::Cpu;

use super::bind::{Tell, reserve};
use super::send;
use super::word::{Binding, PortState};
use crate::domain::{Capabilities, Domain};
use crate::host::Host;
use crate::hypercall::CallCtx;
use crate::irq::Pirq;

/// Binds an interrupt of the caller's to a new port, and lets it arrive.
///
/// `EINVAL`: there is no such interrupt, or the caller has not mapped it; `EPERM`: it has no devices; `EBUSY`: the hypervisor uses it;
/// `EEXIST`: it is bound already; otherwise as [`super::bind::alloc_unbound`]. ABI: `public/event_channel.h`, `EVTCHNOP_bind_pirq`.
#[doc(alias = "EVTCHNOP_bind_pirq")]
pub fn bind_pirq(
    ctx: &CallCtx<'_>,
    number: u32,
    will_share: bool,
    tell: Tell<'_>,
) -> Result<(), Errno> {
    let (irqs, domain) = (&ctx.host.irqs, ctx.domain);
    let pirq = irqs.pirq(number).ok_or(Errno::EINVAL)?;
    if !domain.capabilities.contains(Capabilities::HARDWARE) {
        return Err(Errno::EPERM);
    }
    irqs.may_bind(domain, pirq)?;
    let reserved = reserve(ctx, domain)?;
    let port = reserved.port();
    tell(port)?;
    let publish = || reserved.publish(Binding::first(PortState::Pirq(pirq)));
    irqs.bind(ctx.host, domain, pirq, (port, will_share), publish)
}

/// Tells a domain of an interrupt by the port that is said to be bound to it. `false`, and nobody is told: it is not.
pub fn raise(host: &Host, cpu: &Cpu, domain: &Domain, port: Port, pirq: Pirq) -> bool {
    let Ok(cell) = domain.events.cell(port) else {
        return false;
    };
    // Refused: it has just been closed.
    let Ok(held) = cell.hold() else {
        return false;
    };
    let binding = held.binding();
    if binding.state != PortState::Pirq(pirq) {
        return false;
    }
    send::deliver(host, cpu, domain, port, binding.vcpu);
    true
}
