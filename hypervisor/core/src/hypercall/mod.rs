//! Hypercalls: entry stub → [`table`] → typed [`decode`] → the family's file.
//!
//! A handler gets the caller's context and owned, typed arguments, and returns a value, an error, or the rest of the call
//! as a [`Continuation`]. It never touches rax; no register of the caller but rax changes unless the call's meaning is to
//! change them.

pub mod at_once;
pub mod continuation;
pub mod decode;
pub mod multicall;
pub mod table;

mod callbacks;
mod console_io;
#[cfg(feature = "counters")]
mod counters;
mod cpu_state;
mod physdev;
mod platform;
mod sched;
mod trap_table;
mod vcpu_op;
mod version;
mod vm_assist;

#[cfg(test)]
mod tests;

use dom0_abi::arch::CpuUserRegs;
use dom0_abi::errno::Errno;
use oxen_arch::Cpu;

use crate::budget::Budget;
use crate::domain::vcpu::{RunState, Vcpu, VcpuState};
use crate::domain::{Capabilities, Domain};
use crate::frame::Memory;
use crate::host::Host;
use crate::page_type::undo;
use continuation::Continuation;
use decode::Arguments;

/// Who calls, and where: the hidden inputs of a hypercall, made visible.
pub struct CallCtx<'a> {
    /// The whole hypervisor.
    pub host: &'a Host,
    /// This CPU, which runs the caller.
    pub cpu: &'a Cpu,
    /// The caller's domain.
    pub domain: &'a Domain,
    /// The caller.
    pub vcpu: &'a Vcpu,
    /// The caller's state, locked for as long as it is in the hypervisor.
    pub state: &'a mut VcpuState,
    /// The caller's registers.
    pub regs: &'a mut CpuUserRegs,
    /// What it may still make us do before events are looked at.
    pub budget: Budget,
    /// Whether the call is an entry of a multicall.
    pub in_multicall: bool,
    /// What is left of a call that ends with [`Reply::Continue`]: here, so that the result of a call is two words.
    pub(crate) rest: Option<Continuation>,
}

impl<'a> CallCtx<'a> {
    /// The frames in the hands of this CPU, for the caller's domain.
    pub fn memory(&self) -> Memory<'a> {
        self.host.memory(self.cpu, &self.vcpu.undo)
    }

    /// Whether the caller controls other domains.
    pub fn is_control(&self) -> bool {
        self.domain.capabilities.contains(Capabilities::CONTROL)
    }

    /// Ends a call that is not finished.
    pub fn goes_on(&mut self, rest: Continuation) -> HypercallResult {
        self.rest = Some(rest);
        Ok(Reply::Continue(Rest(())))
    }

    /// Whether the caller went to sleep or was shut down, so that nothing more may be done in its name.
    pub fn must_leave(&self) -> bool {
        self.state.run() != RunState::Running || self.domain.shutdown.is_down()
    }
}

/// What a call comes to, if not to an error.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The value returned to the caller in rax.
    Value(u64),
    /// It is not finished: the rest of it is in the context.
    Continue(Rest),
    /// There is no caller any more: it loaded another context, or ended.
    ContextLeft,
}

/// Says that the context has the rest of a call. Only [`CallCtx::goes_on`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest(());

impl Reply {
    /// Success without a value.
    pub const DONE: Self = Self::Value(0);
}

/// How a handler ends.
pub type HypercallResult = Result<Reply, Errno>;

/// Makes the call that the registers ask for, and puts the result into them.
///
/// Number and result are all of rax. ABI: `public/arch-x86/xen-x86_64.h`, "Hypercall interface".
#[inline(always)]
pub fn from_registers(ctx: &mut CallCtx<'_>) {
    // Left by a call that goes on, or by a write to a page table that was trapped.
    if !ctx.vcpu.undo.is_empty() && !undo::drain(ctx.memory(), &mut ctx.budget) {
        continuation::make_again(ctx.regs);
        return;
    }
    let result = by_number(ctx);
    settle(ctx, result);
}

/// Does what comes behind a call that was made [at once](at_once), whose result is in the registers already.
pub fn settle_at_once(ctx: &mut CallCtx<'_>) {
    let result = Ok(Reply::Value(ctx.regs.rax));
    settle(ctx, result);
}

/// Puts the result of a call into the registers when what the call took out of use is given back.
#[inline(always)]
fn settle(ctx: &mut CallCtx<'_>, result: HypercallResult) {
    match settled(ctx, result) {
        Ok(Reply::Value(value)) => ctx.regs.rax = value,
        other => put_result(ctx, other),
    }
}

#[cfg(feature = "counters")]
use counters::unlisted;

/// Answers a call that is none of the table.
#[cfg(not(feature = "counters"))]
const fn unlisted(_: &CpuUserRegs) -> HypercallResult {
    Err(Errno::ENOSYS)
}

/// Makes the call of this number.
#[inline(always)]
fn by_number(ctx: &mut CallCtx<'_>) -> HypercallResult {
    table::dispatch(
        ctx,
        ctx.regs.rax,
        |ctx| Arguments::of(ctx.regs),
        |ctx| unlisted(ctx.regs),
    )
}

/// Puts any result into the registers; the common one takes no call.
#[cold]
#[inline(never)]
fn put_result(ctx: &mut CallCtx<'_>, result: HypercallResult) {
    match result {
        Ok(Reply::Value(value)) => ctx.regs.rax = value,
        Err(errno) => ctx.regs.rax = errno.as_register(),
        Ok(Reply::Continue(Rest(()))) => {
            if let Some(rest) = ctx.rest.take() {
                rest.resume_in(ctx.regs);
            }
        }
        Ok(Reply::ContextLeft) => {}
    }
}

/// Gives back what page tables held that the call took out of use, before its result is the caller's or the next call of a batch is made: so
/// whoever unpins a table finds what was in it free again. A result that has to wait for that is kept by the caller itself.
#[inline(always)]
fn settled(ctx: &mut CallCtx<'_>, result: HypercallResult) -> HypercallResult {
    if ctx.vcpu.undo.is_empty() {
        result
    } else {
        undone(ctx, result)
    }
}

#[inline(never)]
fn undone(ctx: &mut CallCtx<'_>, result: HypercallResult) -> HypercallResult {
    if undo::drain(ctx.memory(), &mut ctx.budget) {
        return result;
    }
    match result {
        Ok(Reply::Value(value)) => ctx.goes_on(Continuation::Settle { value }),
        Err(errno) => ctx.goes_on(Continuation::Settle {
            value: errno.as_register(),
        }),
        other => other,
    }
}
