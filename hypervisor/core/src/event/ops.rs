//! `event_channel_op` and its older form: arguments in, results out. What the commands do is in `bind`, `close`, `send` and `fifo::setup`.
//!
//! INVARIANT (I28): who may not act for a domain learns that, or that there is none, before anything is looked at there.

use dom0_abi::addr::GuestAddr;
use dom0_abi::errno::Errno;
use dom0_abi::event_channel::{
    AllocUnbound, BindInterdomain, BindIpi, BindPirq, BindPirqFlags, BindVcpu, BindVirq, Close,
    EventChannelCommand, EventChannelOp, ExpandArray, FIFO_LINK_BITS, InitControl, PortStatus,
    Reset, Send, SetPriority, Status, StatusInterdomain, StatusUnbound, Unmask,
};
use dom0_abi::ids::DomId;
use oxen_arch::registers::Attempt;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::fifo::setup::{self, End};
use super::word::PortState;
use super::{bind, close, pirq, send};
use crate::domain::Domain;
use crate::domain::table::DomainRef;
use crate::guest_access::GuestPtr;
use crate::host::Host;
use crate::hypercall::at_once::Way;
use crate::hypercall::continuation::Continuation;
use crate::hypercall::{CallCtx, HypercallResult, Reply};

/// Carries out a command.
///
/// `ENOSYS`: there is no such command. `EFAULT`: its argument cannot be read, or
/// what it tells not be written; nothing has changed then. `ESRCH`: there is no such domain; `EPERM`: the caller may not act for
/// it. For the rest see each command. ABI: `public/event_channel.h`, `HYPERVISOR_event_channel_op`.
#[doc(alias = "HYPERVISOR_event_channel_op")]
#[inline(never)]
pub fn event_channel_op(ctx: &mut CallCtx<'_>, command: i32, arg: GuestAddr) -> HypercallResult {
    use EventChannelCommand as Cmd;
    let command = Cmd::try_from(command as u32).map_err(|_| Errno::ENOSYS)?;
    match command {
        // First, being the one that matters: all others come seldom.
        Cmd::Send => {
            let request: Send = GuestPtr::new(arg).read(ctx.cpu)?;
            send::send(ctx.host, ctx.cpu, ctx.domain, request.port)?;
        }
        Cmd::Unmask => {
            let request: Unmask = GuestPtr::new(arg).read(ctx.cpu)?;
            send::unmask(ctx.host, ctx.cpu, ctx.domain, request.port)?;
        }
        Cmd::Close => {
            let request: Close = GuestPtr::new(arg).read(ctx.cpu)?;
            close::close(&ctx.host.domains, ctx.host.mem(), ctx.domain, request.port)?;
        }
        Cmd::BindVcpu => {
            let request: BindVcpu = GuestPtr::new(arg).read(ctx.cpu)?;
            bind::bind_vcpu(ctx.domain, request.port, request.vcpu)?;
        }
        Cmd::AllocUnbound => alloc_unbound(ctx, arg)?,
        Cmd::BindInterdomain => bind_interdomain(ctx, arg)?,
        Cmd::BindVirq => bind_virq(ctx, arg)?,
        Cmd::BindIpi => bind_ipi(ctx, arg)?,
        Cmd::BindPirq => bind_pirq(ctx, arg)?,
        Cmd::Status => status(ctx, arg)?,
        Cmd::Reset => return reset(ctx, arg),
        Cmd::InitControl => return init_control(ctx, arg),
        Cmd::ExpandArray => return expand_array(ctx, arg),
        Cmd::SetPriority => {
            let request: SetPriority = GuestPtr::new(arg).read(ctx.cpu)?;
            bind::set_priority(ctx.domain, request.port, request.priority)?;
        }
    }
    Ok(Reply::DONE)
}

/// Whether a command is the one that is made often.
#[inline(always)]
pub(crate) const fn is_send(command: i32) -> bool {
    command as u32 == EventChannelCommand::Send.get()
}

/// The same on the straight way, for [a send](is_send). Nothing is done if it cannot be made.
#[inline(never)]
pub(crate) fn send_at_once(way: Way<'_>, arg: GuestAddr) -> Attempt {
    // Whoever calls. The general way reads it again: what was read here is forgotten then.
    let Some(Send { port }) = GuestPtr::new(arg).read_at_once(way.cpu) else {
        return Attempt::NOTHING;
    };
    way.go(|caller| {
        send::send(caller.host, caller.cpu, caller.domain, port).ok()?;
        Some(0)
    })
}

/// The same with command and argument in one structure. `ENOSYS`: it is a command that came later.
/// ABI: `public/event_channel.h`, `evtchn_op`.
#[inline(never)]
pub fn event_channel_op_compat(ctx: &mut CallCtx<'_>, op: GuestAddr) -> HypercallResult {
    const ARGUMENT: u64 = core::mem::offset_of!(EventChannelOp, u) as u64;
    let place = GuestPtr::<EventChannelOp>::new(op);
    let op = place.read(ctx.cpu)?;
    if op.cmd > EventChannelCommand::Unmask.get() {
        return Err(Errno::ENOSYS);
    }
    event_channel_op(ctx, op.cmd as i32, place.offset::<u8>(ARGUMENT).addr())
}

/// The argument of a command that makes a port: where it is, what it says, and how the number gets into it.
struct Request<T> {
    place: GuestPtr<T>,
    argument: T,
}

impl<T: FromBytes + IntoBytes + Immutable> Request<T> {
    fn read(ctx: &CallCtx<'_>, arg: GuestAddr) -> Result<Self, Errno> {
        let place = GuestPtr::new(arg);
        let argument = place.read(ctx.cpu)?;
        Ok(Self { place, argument })
    }

    fn write(&self, ctx: &CallCtx<'_>) -> Result<(), Errno> {
        self.place.write(ctx.cpu, &self.argument)
    }
}

fn alloc_unbound(ctx: &CallCtx<'_>, arg: GuestAddr) -> Result<(), Errno> {
    let mut request = Request::<AllocUnbound>::read(ctx, arg)?;
    let domain = Target::find(ctx, request.argument.dom)?;
    let remote = match request.argument.remote_dom {
        DomId::SELF => ctx.domain.id,
        other => other,
    };
    bind::alloc_unbound(ctx, domain.get(ctx), remote, &mut |port| {
        request.argument.port = port;
        request.write(ctx)
    })
}

fn bind_interdomain(ctx: &CallCtx<'_>, arg: GuestAddr) -> Result<(), Errno> {
    let mut request = Request::<BindInterdomain>::read(ctx, arg)?;
    // Any domain: that the port is offered to the caller is what allows it.
    let target = Target::any(ctx, request.argument.remote_dom)?;
    let port = request.argument.remote_port;
    bind::bind_interdomain(ctx, target.get(ctx), port, &mut |port| {
        request.argument.local_port = port;
        request.write(ctx)
    })
}

fn bind_virq(ctx: &CallCtx<'_>, arg: GuestAddr) -> Result<(), Errno> {
    let mut request = Request::<BindVirq>::read(ctx, arg)?;
    let (virq, vcpu) = (request.argument.virq, request.argument.vcpu);
    bind::bind_virq(ctx, virq, vcpu, &mut |port| {
        request.argument.port = port;
        request.write(ctx)
    })
}

fn bind_ipi(ctx: &CallCtx<'_>, arg: GuestAddr) -> Result<(), Errno> {
    let mut request = Request::<BindIpi>::read(ctx, arg)?;
    let vcpu = request.argument.vcpu;
    bind::bind_ipi(ctx, vcpu, &mut |port| {
        request.argument.port = port;
        request.write(ctx)
    })
}

fn bind_pirq(ctx: &CallCtx<'_>, arg: GuestAddr) -> Result<(), Errno> {
    let mut request = Request::<BindPirq>::read(ctx, arg)?;
    let flags = BindPirqFlags::from_bits_truncate(request.argument.flags);
    let will_share = flags.contains(BindPirqFlags::WILL_SHARE);
    let number = request.argument.pirq;
    pirq::bind_pirq(ctx, number, will_share, &mut |port| {
        request.argument.port = port;
        request.write(ctx)
    })
}

/// Describes a port. `EINVAL`: there is no such port. ABI: `public/event_channel.h`, `EVTCHNOP_status`.
#[doc(alias = "EVTCHNOP_status")]
fn status(ctx: &CallCtx<'_>, arg: GuestAddr) -> Result<(), Errno> {
    let mut request = Request::<Status>::read(ctx, arg)?;
    let target = Target::find(ctx, request.argument.dom)?;
    let binding = target.get(ctx).events.binding(request.argument.port)?;
    let argument = &mut request.argument;
    let status = match binding.state {
        PortState::Free => PortStatus::Closed,
        PortState::Unbound { remote } => {
            argument.set_variant(&StatusUnbound { dom: remote });
            PortStatus::Unbound
        }
        PortState::Interdomain { remote, port } => {
            argument.set_variant(&StatusInterdomain {
                dom: remote,
                _pad0: 0,
                port,
            });
            PortStatus::Interdomain
        }
        PortState::Virq(virq) => {
            argument.set_variant(&virq.get());
            PortStatus::Virq
        }
        PortState::Pirq(pirq) => {
            argument.set_variant(&pirq.get());
            PortStatus::Pirq
        }
        PortState::Ipi => PortStatus::Ipi,
    };
    argument.status = status.get();
    argument.vcpu = binding.vcpu;
    request.write(ctx)
}

/// Gives a vCPU its control block, which chooses the FIFO form.
fn init_control(ctx: &mut CallCtx<'_>, arg: GuestAddr) -> HypercallResult {
    let mut request = Request::<InitControl>::read(ctx, arg)?;
    let wanted = request.argument;
    request.argument.link_bits = FIFO_LINK_BITS as u8;
    let cpu = ctx.cpu;
    let tell = || request.place.write(cpu, &request.argument);
    match setup::init_control(ctx, &wanted, tell)? {
        End::Done => Ok(Reply::DONE),
        End::More => goes_on(ctx, EventChannelCommand::InitControl, arg),
    }
}

/// Adds a page of event words.
fn expand_array(ctx: &mut CallCtx<'_>, arg: GuestAddr) -> HypercallResult {
    let request: ExpandArray = GuestPtr::new(arg).read(ctx.cpu)?;
    match setup::expand_array(ctx, request.array_gfn)? {
        End::Done => Ok(Reply::DONE),
        End::More => goes_on(ctx, EventChannelCommand::ExpandArray, arg),
    }
}

fn goes_on(ctx: &mut CallCtx<'_>, command: EventChannelCommand, arg: GuestAddr) -> HypercallResult {
    ctx.goes_on(Continuation::EventChannelOp {
        command: command.get(),
        arg,
    })
}

/// Closes all ports of a domain, in steps: who goes on finds only those that are left. The domain uses the two-level form then.
///
/// `EINVAL`: it is another domain, which has not shut down. Xen wants that one to be paused, so that none of its vCPUs meets the change
/// half-way; that is as good once there is such a thing. ABI: `public/event_channel.h`, `EVTCHNOP_reset`.
#[doc(alias = "EVTCHNOP_reset")]
fn reset(ctx: &mut CallCtx<'_>, arg: GuestAddr) -> HypercallResult {
    let request: Reset = GuestPtr::new(arg).read(ctx.cpu)?;
    let target = Target::find(ctx, request.dom)?;
    let domain: &Domain = match &target {
        Target::Own => ctx.domain,
        Target::Other(other) if other.shutdown.is_down() => other,
        Target::Other(_) => return Err(Errno::EINVAL),
    };
    let (domains, memory) = (&ctx.host.domains, ctx.memory());
    if close::close_all(domains, memory.mem(), domain, &mut ctx.budget)
        && setup::end(memory, domain, &mut ctx.budget) == End::Done
    {
        return Ok(Reply::DONE);
    }
    goes_on(ctx, EventChannelCommand::Reset, arg)
}

/// A domain that a command names: by its number, and the caller's own by the special one too.
enum Target<'a> {
    Own,
    Other(DomainRef<'a>),
}

impl<'a> Target<'a> {
    /// Finds one. `ESRCH`: there is none.
    fn any(ctx: &CallCtx<'a>, id: DomId) -> Result<Self, Errno> {
        if id == DomId::SELF || id == ctx.domain.id {
            return Ok(Self::Own);
        }
        let host: &'a Host = ctx.host;
        host.domains.get(id).map(Self::Other).ok_or(Errno::ESRCH)
    }

    /// Finds one that the caller may act for. `ESRCH`: there is none; `EPERM`: it may not.
    fn find(ctx: &CallCtx<'a>, id: DomId) -> Result<Self, Errno> {
        let target = Self::any(ctx, id)?;
        match target {
            Self::Other(_) if !ctx.is_control() => Err(Errno::EPERM),
            target => Ok(target),
        }
    }

    fn get(&'a self, ctx: &CallCtx<'a>) -> &'a Domain {
        match self {
            Self::Own => ctx.domain,
            Self::Other(domain) => domain,
        }
    }
}
