//! `event_channel_op`: ports. ABI: `public/event_channel.h`.

use core::ptr;

use dom0_abi::addr::GuestAddr;
use dom0_abi::errno::Errno;
use dom0_abi::event_channel::{
    AllocUnbound, BindInterdomain, BindIpi, BindVcpu, BindVirq, Close, EventChannelCommand,
    ExpandArray, InitControl, Reset, Send, SetPriority, Status, Unmask,
};
use dom0_abi::handle::GuestHandle;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::{DomId, Port, VcpuId};
use dom0_abi::sched::{SchedCommand, SchedPoll};
use zerocopy::FromZeros;

use super::call;

/// Issues a command with any argument, or none that exists: for tests, and for what has no function below.
///
/// # Safety
///
/// `argument` must be what the command takes, or memory that nobody minds the hypervisor to write.
#[doc(alias = "HYPERVISOR_event_channel_op")]
pub unsafe fn event_channel_op(command: u64, argument: u64) -> Result<u64, Errno> {
    // SAFETY: the caller's promise is the same.
    unsafe { call(Hypercall::EventChannelOp, [command, argument, 0, 0, 0]) }
}

/// Issues a command that reads and may write `argument`.
fn with<T>(command: EventChannelCommand, argument: &mut T) -> Result<(), Errno> {
    // SAFETY: private, and each caller hands over the structure of its command.
    unsafe { event_channel_op(command as u64, ptr::from_mut(argument) as u64) }.map(drop)
}

/// Offers a port of a domain to another one.
#[doc(alias = "EVTCHNOP_alloc_unbound")]
pub fn alloc_unbound(dom: DomId, remote_dom: DomId) -> Result<Port, Errno> {
    let mut argument = AllocUnbound {
        dom,
        remote_dom,
        port: Port::new(0),
    };
    with(EventChannelCommand::AllocUnbound, &mut argument)?;
    Ok(argument.port)
}

/// Connects to a port that another domain offers.
#[doc(alias = "EVTCHNOP_bind_interdomain")]
pub fn bind_interdomain(remote_dom: DomId, remote_port: Port) -> Result<Port, Errno> {
    let mut argument = BindInterdomain {
        remote_dom,
        _pad0: 0,
        remote_port,
        local_port: Port::new(0),
    };
    with(EventChannelCommand::BindInterdomain, &mut argument)?;
    Ok(argument.local_port)
}

/// Binds a virtual interrupt.
#[doc(alias = "EVTCHNOP_bind_virq")]
pub fn bind_virq(virq: u32, vcpu: VcpuId) -> Result<Port, Errno> {
    let mut argument = BindVirq {
        virq,
        vcpu,
        port: Port::new(0),
    };
    with(EventChannelCommand::BindVirq, &mut argument)?;
    Ok(argument.port)
}

/// Makes a port for events to a vCPU of this domain.
#[doc(alias = "EVTCHNOP_bind_ipi")]
pub fn bind_ipi(vcpu: VcpuId) -> Result<Port, Errno> {
    let mut argument = BindIpi {
        vcpu,
        port: Port::new(0),
    };
    with(EventChannelCommand::BindIpi, &mut argument)?;
    Ok(argument.port)
}

/// Moves a port to another vCPU.
#[doc(alias = "EVTCHNOP_bind_vcpu")]
pub fn bind_vcpu(port: Port, vcpu: VcpuId) -> Result<(), Errno> {
    with(EventChannelCommand::BindVcpu, &mut BindVcpu { port, vcpu })
}

/// Gives a port back.
#[doc(alias = "EVTCHNOP_close")]
pub fn close(port: Port) -> Result<(), Errno> {
    with(EventChannelCommand::Close, &mut Close { port })
}

/// Raises an event at the other end.
#[doc(alias = "EVTCHNOP_send")]
pub fn send(port: Port) -> Result<(), Errno> {
    with(EventChannelCommand::Send, &mut Send { port })
}

/// Unmasks a port, and raises its event if it is pending.
#[doc(alias = "EVTCHNOP_unmask")]
pub fn unmask(port: Port) -> Result<(), Errno> {
    with(EventChannelCommand::Unmask, &mut Unmask { port })
}

/// Closes all ports of a domain.
#[doc(alias = "EVTCHNOP_reset")]
pub fn reset(dom: DomId) -> Result<(), Errno> {
    with(EventChannelCommand::Reset, &mut Reset { dom })
}

/// Gives a vCPU its control block of the FIFO form, at an offset in a frame of this domain; returns how many bits name a port.
#[doc(alias = "EVTCHNOP_init_control")]
pub fn init_control(vcpu: VcpuId, frame: u64, offset: u32) -> Result<u8, Errno> {
    let mut argument = InitControl::new_zeroed();
    (argument.control_gfn, argument.offset, argument.vcpu) = (frame, offset, vcpu);
    with(EventChannelCommand::InitControl, &mut argument)?;
    Ok(argument.link_bits)
}

/// Adds a frame of this domain with the next event words of the FIFO form.
#[doc(alias = "EVTCHNOP_expand_array")]
pub fn expand_array(frame: u64) -> Result<(), Errno> {
    let mut argument = ExpandArray { array_gfn: frame };
    with(EventChannelCommand::ExpandArray, &mut argument)
}

/// Chooses how urgent the events of a port are in the FIFO form: 0 to 15, 0 being the most urgent.
#[doc(alias = "EVTCHNOP_set_priority")]
pub fn set_priority(port: Port, priority: u32) -> Result<(), Errno> {
    with(
        EventChannelCommand::SetPriority,
        &mut SetPriority { port, priority },
    )
}

/// Describes a port.
#[doc(alias = "EVTCHNOP_status")]
pub fn status(dom: DomId, port: Port) -> Result<Status, Errno> {
    let mut argument = Status::new_zeroed();
    (argument.dom, argument.port) = (dom, port);
    with(EventChannelCommand::Status, &mut argument)?;
    Ok(argument)
}

/// Sleeps until one of the ports is pending, masked or not, or for no reason.
#[doc(alias = "SCHEDOP_poll")]
pub fn poll(ports: &[Port], timeout: u64) -> Result<(), Errno> {
    let argument = SchedPoll {
        ports: GuestHandle::new(GuestAddr::new(ports.as_ptr() as u64)),
        nr_ports: ports.len() as u32,
        _pad0: 0,
        timeout,
    };
    let command = SchedCommand::Poll as u64;
    // SAFETY: the hypervisor reads the argument and the list.
    unsafe {
        call(
            Hypercall::SchedOp,
            [command, ptr::from_ref(&argument) as u64, 0, 0, 0],
        )
    }
    .map(drop)
}
