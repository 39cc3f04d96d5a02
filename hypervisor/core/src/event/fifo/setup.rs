//! How a domain chooses the FIFO form, adds to it and leaves it.
//!
//! All of it is bounded: what takes time with the number of ports or pages goes on by the same call. A page that was added is in
//! use before all that its ports are owed has arrived; whoever calls next, most often the same caller again, goes on with that first.
//!
//! LOCK: [`Setup`], rank `Domain`: for looking at all queues of a domain once, at the longest.

use dom0_abi::addr::{Mfn, PAGE_SIZE};
use dom0_abi::errno::Errno;
use dom0_abi::event_channel::{FifoControlBlock, InitControl};
use dom0_abi::ids::Port;
use oxen_arch::memory::BadFrame;
use oxen_arch::sync::atomic::Ordering;
use oxen_arch::sync::fence_behind_exchange;

use super::word::PER_PAGE;
use super::{Fifo, MAX_ARRAYS, tell_vcpu};
use crate::budget::Budget;
use crate::domain::Domain;
use crate::event::word::PortState;
use crate::event::{send, two_level};
use crate::frame::Memory;
use crate::hypercall::CallCtx;
use crate::page_type::{PageType, Stop, TypeRef};

/// Ports that are looked at in one step for what they are owed.
const STEP: u32 = 16;

/// What changes when pages are added or given back.
#[derive(Debug)]
pub(super) struct Setup {
    /// Pages of words that nobody finds any more, from the first on: they are to be given back.
    old: u32,
    /// Ports below this have got what they were owed before their page came.
    paid: u32,
}

impl Setup {
    pub(super) const fn new() -> Self {
        Self { old: 0, paid: 0 }
    }
}

/// How a call ended.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is done.
    Done,
    /// The budget was spent: the same call does the rest.
    More,
}

/// Gives a vCPU its control block. The first lets the domain use the FIFO form from then on; what comes for vCPUs that have none waits until they do.
/// `tell` says so to the caller; if it cannot, nothing has changed.
///
/// `ENOENT`: there is no such vCPU; `EINVAL`: the block does not fit into the page, is not aligned to 8 bytes, or the page is not the domain's to
/// write; the vCPU has one already. `ENOMEM`: there is no frame for what we keep. ABI: `public/event_channel.h`, `EVTCHNOP_init_control`.
#[doc(alias = "EVTCHNOP_init_control")]
pub fn init_control(
    ctx: &mut CallCtx<'_>,
    request: &InitControl,
    tell: impl FnOnce() -> Result<(), Errno>,
) -> Result<End, Errno> {
    let domain = ctx.domain;
    let vcpu = domain.vcpu(request.vcpu).ok_or(Errno::ENOENT)?;
    let offset = request.offset as usize;
    let last = PAGE_SIZE.saturating_sub(size_of::<FifoControlBlock>());
    if offset > last || !offset.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    if vcpu.queues.lock().control().is_some() {
        return Err(Errno::EINVAL);
    }
    let memory = ctx.memory();
    let fifo = domain.events.fifo_or_new(memory)?;
    if give_back(memory, fifo, &mut ctx.budget) == End::More {
        return Ok(End::More);
    }
    let page = writable(memory, domain, request.control_gfn)?;
    let control = page.mfn().at(offset);
    tell()?;
    let setup = fifo.setup.lock();
    let mut queues = vcpu.queues.lock();
    if queues.control().is_some() || setup.old > 0 {
        // Another vCPU was faster.
        return Err(Errno::EINVAL);
    }
    let tells = queues.set_control(ctx.host.mem(), control);
    drop(queues);
    // It comes back by `end`.
    let _ = page.into_held();
    domain.events.begin_fifo();
    drop(setup);
    if tells.map_err(|BadFrame| Errno::EINVAL)? {
        tell_vcpu(ctx.host, ctx.cpu, vcpu);
    }
    Ok(End::Done)
}

/// Adds a page of event words. What its ports were owed arrives.
///
/// `EOPNOTSUPP`: the domain does not use the FIFO form; `ENOSPC`: it has words for all ports that it may have; `EINVAL`: the page is not the
/// domain's to write; `ENOMEM`: there is no frame for what we keep. ABI: `public/event_channel.h`, `EVTCHNOP_expand_array`.
#[doc(alias = "EVTCHNOP_expand_array")]
pub fn expand_array(ctx: &mut CallCtx<'_>, array_gfn: u64) -> Result<End, Errno> {
    let domain = ctx.domain;
    let fifo = domain.events.fifo();
    let fifo = fifo
        .filter(|_| domain.events.is_fifo())
        .ok_or(Errno::EOPNOTSUPP)?;
    if let Some(last) = unpaid(fifo) {
        if pay(ctx, fifo) == End::More {
            return Ok(End::More);
        }
        if last == Mfn::new(array_gfn) {
            return Ok(End::Done);
        }
    }
    match add(ctx, fifo, array_gfn) {
        Ok(()) => Ok(pay(ctx, fifo)),
        Err(Stop::Again) => Ok(End::More),
        Err(Stop::Refused(errno)) => Err(errno),
    }
}

fn add(ctx: &mut CallCtx<'_>, fifo: &Fifo, array_gfn: u64) -> Result<(), Stop> {
    let (domain, memory) = (ctx.domain, ctx.memory());
    let page = writable(memory, domain, array_gfn)?;
    // What two CPUs make at once is one too many: it is the next page's, or goes back.
    let index = fifo.live();
    if index >= MAX_ARRAYS || index >= domain.events.limit().div_ceil(PER_PAGE) {
        return Err(Errno::ENOSPC.into());
    }
    let homes = match fifo.array(index).homes() {
        Some(_) => None,
        None => Some(memory.clean_frame(&mut ctx.budget)?),
    };
    let setup = fifo.setup.lock();
    if fifo.live() != index || setup.old > 0 || !domain.events.is_fifo() {
        // Another CPU has added one meanwhile, or leaves the form.
        return Err(Stop::Again);
    }
    let mut array = fifo.array(index).with_words(Some(page.mfn()));
    if let Some(homes) = homes {
        array = array.with_homes(memory.keep(homes));
    }
    let _ = page.into_held();
    fifo.set_array(index, array);
    // ORDERING: pairs with the Acquire of `live`; the fence with that of `queues::raise`, which owes an event and then looks for the page.
    fifo.live.swap(index.saturating_add(1), Ordering::SeqCst);
    fence_behind_exchange();
    drop(setup);
    Ok(())
}

/// What it costs to look at the queues of all vCPUs.
fn visit_cost(domain: &Domain) -> u32 {
    u32::try_from(domain.vcpus().count()).unwrap_or(u32::MAX)
}

/// The last page, if not all of its ports have got what they were owed.
fn unpaid(fifo: &Fifo) -> Option<Mfn> {
    let setup = fifo.setup.lock();
    let live = fifo.live();
    if setup.paid >= live.wrapping_mul(PER_PAGE) {
        return None;
    }
    fifo.array(live.checked_sub(1)?).words()
}

/// Lets arrive what ports were owed before their pages came, as far as the budget goes.
fn pay(ctx: &mut CallCtx<'_>, fifo: &Fifo) -> End {
    /// What it costs to look at [`STEP`] ports, and what an event costs that arrives.
    const LOOK: u32 = 7;
    const EVENT: u32 = 4;
    loop {
        let mut setup = fifo.setup.lock();
        let first = setup.paid;
        if first >= fifo.live().wrapping_mul(PER_PAGE) {
            return End::Done;
        }
        if !ctx.budget.take(LOOK) {
            return End::More;
        }
        let next = first.saturating_add(STEP);
        setup.paid = next;
        drop(setup);
        for port in (first..next).map(Port::new) {
            if pay_port(ctx, port) {
                ctx.budget.pay(EVENT);
            }
        }
    }
}

/// Lets arrive what a port is owed, and what was pending in the two-level form. `false`: nothing was.
fn pay_port(ctx: &CallCtx<'_>, port: Port) -> bool {
    let domain = ctx.domain;
    let Ok(cell) = domain.events.cell(port) else {
        return false;
    };
    // Most often there is nothing, which these two say. Of what is nobody's the bit stays as it is.
    let was_pending = two_level::was_pending(ctx.host.mem(), domain.shared_info, port);
    if !was_pending && !cell.is_owed() {
        return false;
    }
    let binding = cell.binding();
    if binding.state == PortState::Free {
        return false;
    }
    if was_pending {
        let _ = two_level::forget(ctx.host.mem(), domain.shared_info, port);
    }
    let is_due = cell.pay() || was_pending;
    if is_due {
        send::deliver(ctx.host, ctx.cpu, domain, port, binding.vcpu);
    }
    is_due
}

/// Leaves the FIFO form, as far as the budget goes, once no port is in use: then nobody finds words or control blocks any more, and their pages go
/// back. Nothing is to be done in the two-level form.
pub fn end(memory: Memory<'_>, domain: &Domain, budget: &mut Budget) -> End {
    let Some(fifo) = domain.events.fifo() else {
        return End::Done;
    };
    let mut setup = fifo.setup.lock();
    if domain.events.is_fifo() {
        if !domain.events.end_fifo(domain.shared_info) {
            // Another vCPU has just made a port: all begins again.
            return End::More;
        }
        // Pages that are left from before were given back before the form was chosen again.
        setup.old = fifo.live();
        setup.paid = 0;
        fifo.live.store(0, Ordering::Release);
        for vcpu in domain.vcpus() {
            let control = vcpu.queues.lock().end();
            if let Some(control) = control {
                drop_page(memory, control.mfn());
            }
        }
        budget.pay(visit_cost(domain).saturating_mul(2));
    }
    drop(setup);
    give_back(memory, fifo, budget)
}

/// Gives back pages of words that nobody finds any more.
fn give_back(memory: Memory<'_>, fifo: &Fifo, budget: &mut Budget) -> End {
    loop {
        let mut setup = fifo.setup.lock();
        let Some(index) = setup.old.checked_sub(1) else {
            return End::Done;
        };
        if !budget.take(2) {
            return End::More;
        }
        setup.old = index;
        let array = fifo.array(index);
        fifo.set_array(index, array.with_words(None));
        if let Some(words) = array.words() {
            drop_page(memory, words);
        }
    }
}

/// Ends the hold of a page that nobody finds any more.
fn drop_page(memory: Memory<'_>, page: Mfn) {
    drop(TypeRef::counted(memory, page, PageType::Writable));
}

/// Holds a page of the domain writable.
fn writable<'m>(memory: Memory<'m>, domain: &Domain, gfn: u64) -> Result<TypeRef<'m>, Errno> {
    // Being made something else, or having been: it is no page to write for now.
    TypeRef::writable(memory, Mfn::new(gfn), domain.id).map_err(|_| Errno::EINVAL)
}
