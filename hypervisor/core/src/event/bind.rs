//! New ports, and which vCPU is told of a port's events.
//!
//! Each function reserves a number, lets the caller be told of it, and makes the port last: so whatever fails, nothing has changed.

use dom0_abi::errno::Errno;
use dom0_abi::ids::{DomId, Port, VcpuId};

use super::fifo;
use super::ports::Reserved;
use super::send;
use super::word::{Binding, PortState, Priority, VirqNumber};
use crate::domain::Domain;
use crate::hypercall::CallCtx;

/// How the caller is told of a new port; if it cannot be, there is none.
pub(super) type Tell<'a> = &'a mut dyn FnMut(Port) -> Result<(), Errno>;

/// Takes a number for a new port.
pub(super) fn reserve<'a>(ctx: &CallCtx<'_>, domain: &'a Domain) -> Result<Reserved<'a>, Errno> {
    let mem = ctx.host.mem();
    let is_linked = |port| fifo::is_linked(mem, domain, port);
    domain.events.reserve(ctx.memory(), is_linked)
}

/// Offers a port of `domain` to `remote`, whether there is such a domain or not.
///
/// `ENOSPC`: the domain has as many ports as it may; `ENOMEM`: there is no frame for more; `EINVAL`: the domain ends.
/// ABI: `public/event_channel.h`, `EVTCHNOP_alloc_unbound`.
#[doc(alias = "EVTCHNOP_alloc_unbound")]
pub fn alloc_unbound(
    ctx: &CallCtx<'_>,
    domain: &Domain,
    remote: DomId,
    tell: Tell<'_>,
) -> Result<(), Errno> {
    let reserved = reserve(ctx, domain)?;
    tell(reserved.port())?;
    reserved.publish(Binding::first(PortState::Unbound { remote }));
    Ok(())
}

/// Connects a new port of the caller to one that `remote` offers it. The caller's is pending at once: what the other sent before
/// is not known.
///
/// `EINVAL`: there is no such port, or it is not offered to the caller; otherwise as [`alloc_unbound`].
/// ABI: `public/event_channel.h`, `EVTCHNOP_bind_interdomain`.
#[doc(alias = "EVTCHNOP_bind_interdomain")]
pub fn bind_interdomain(
    ctx: &CallCtx<'_>,
    remote: &Domain,
    remote_port: Port,
    tell: Tell<'_>,
) -> Result<(), Errno> {
    let domain = ctx.domain;
    let reserved = reserve(ctx, domain)?;
    let offered = PortState::Unbound { remote: domain.id };
    let cell = remote.events.cell(remote_port)?;
    if cell.binding().state != offered {
        return Err(Errno::EINVAL);
    }
    let port = reserved.port();
    tell(port)?;
    let mut theirs = cell.lock();
    if theirs.state() != offered {
        // Another vCPU was faster, or the other domain has closed it.
        return Err(Errno::EINVAL);
    }
    // The number is ours alone, so its port can be neither locked nor held; nobody finds it by the other end before that is unlocked.
    reserved.publish(Binding::first(PortState::Interdomain {
        remote: remote.id,
        port: remote_port,
    }));
    theirs.set(PortState::Interdomain {
        remote: domain.id,
        port,
    });
    // Before the other end is unlocked: until then nobody can close ours.
    send::deliver(ctx.host, ctx.cpu, domain, port, VcpuId::new(0));
    Ok(())
}

/// Binds a VIRQ of one of the caller's vCPUs to a new port.
///
/// `EINVAL`: there is no such VIRQ, or it exists once in a domain and the vCPU is not the first; `ENOENT`: there is no such vCPU; `EEXIST`: it is
/// bound already; otherwise as [`alloc_unbound`]. ABI: `public/event_channel.h`, `EVTCHNOP_bind_virq`.
#[doc(alias = "EVTCHNOP_bind_virq")]
pub fn bind_virq(ctx: &CallCtx<'_>, virq: u32, vcpu: VcpuId, tell: Tell<'_>) -> Result<(), Errno> {
    let virq = VirqNumber::new(virq).ok_or(Errno::EINVAL)?;
    if !virq.is_per_vcpu() && vcpu != VcpuId::new(0) {
        return Err(Errno::EINVAL);
    }
    let virqs = &ctx.domain.vcpu(vcpu).ok_or(Errno::ENOENT)?.virqs;
    if virqs.get(virq).is_some() {
        return Err(Errno::EEXIST);
    }
    let reserved = reserve(ctx, ctx.domain)?;
    let port = reserved.port();
    if !virqs.take(virq, port) {
        return Err(Errno::EEXIST);
    }
    // XSA-496: only what this call has taken is given back.
    tell(port).inspect_err(|_| virqs.give_back(virq, port))?;
    reserved.publish(Binding {
        state: PortState::Virq(virq),
        vcpu,
    });
    Ok(())
}

/// Makes a port through which the caller's vCPUs send events to one of them.
///
/// `ENOENT`: there is no such vCPU; otherwise as [`alloc_unbound`]. ABI: `public/event_channel.h`, `EVTCHNOP_bind_ipi`.
#[doc(alias = "EVTCHNOP_bind_ipi")]
pub fn bind_ipi(ctx: &CallCtx<'_>, vcpu: VcpuId, tell: Tell<'_>) -> Result<(), Errno> {
    ctx.domain.vcpu(vcpu).ok_or(Errno::ENOENT)?;
    let reserved = reserve(ctx, ctx.domain)?;
    tell(reserved.port())?;
    reserved.publish(Binding {
        state: PortState::Ipi,
        vcpu,
    });
    Ok(())
}

/// Chooses which of the caller's vCPUs is told of a port's events from now on. Who was told before is told no second time.
///
/// `ENOENT`: there is no such vCPU; `EINVAL`: there is no such port, or it belongs to its vCPU.
/// ABI: `public/event_channel.h`, `EVTCHNOP_bind_vcpu`.
#[doc(alias = "EVTCHNOP_bind_vcpu")]
pub fn bind_vcpu(domain: &Domain, port: Port, vcpu: VcpuId) -> Result<(), Errno> {
    domain.vcpu(vcpu).ok_or(Errno::ENOENT)?;
    match domain.events.cell(port)?.tell(vcpu) {
        true => Ok(()),
        false => Err(Errno::EINVAL),
    }
}

/// Chooses how urgent the events of a port are in the FIFO form. What is in a queue stays there.
///
/// `EINVAL`: there is no such port, or no such priority; `ENOSYS`: the caller uses the two-level form.
/// ABI: `public/event_channel.h`, `EVTCHNOP_set_priority`.
#[doc(alias = "EVTCHNOP_set_priority")]
pub fn set_priority(domain: &Domain, port: Port, priority: u32) -> Result<(), Errno> {
    let cell = domain.events.cell(port)?;
    if !domain.events.is_fifo() {
        return Err(Errno::ENOSYS);
    }
    let priority = Priority::new(priority).ok_or(Errno::EINVAL)?;
    match cell.set_priority(priority) {
        true => Ok(()),
        false => Err(Errno::EINVAL),
    }
}
