//! The straight way of the calls that guests make most: arguments in, result out, and no registers in between.
//!
//! The entry stub tries it first, with nothing saved but what it needs itself. So a call on this way has no budget, cannot be gone on
//! with, and changes nothing of the caller but rax.
//!
//! INVARIANT: it makes the call as the general way does, all of it, or does nothing at all: then the general way is taken. What comes
//! behind a call is looked at behind it, as there: tables that it took out of use, events that it made deliverable. If there is any,
//! the rest of the general way is taken ([`AtOnce::is_settled`]).

use dom0_abi::addr::Mfn;
use oxen_arch::Cpu;
use oxen_arch::registers::{AtOnce, Attempt};

use super::decode::Arguments;
use super::table;
pub use super::table::STRAIGHT as NUMBERS;
use crate::domain::Domain;
use crate::domain::vcpu::{GuestMode, Vcpu};
use crate::frame::Memory;
use crate::host::Host;
use crate::trap::return_path::is_quiet;

/// Who calls, on the straight way: a kernel.
pub(crate) struct Caller<'a> {
    pub(crate) host: &'a Host,
    pub(crate) cpu: &'a Cpu,
    pub(crate) domain: &'a Domain,
    vcpu: &'a Vcpu,
}

impl<'a> Caller<'a> {
    /// The frames in the hands of this CPU, for the caller's domain.
    #[inline(always)]
    pub(crate) fn memory(&self) -> Memory<'a> {
        self.host.memory(self.cpu, &self.vcpu.undo)
    }

    /// The root on which it runs.
    #[inline(always)]
    pub(crate) fn root(&self) -> Option<Mfn> {
        self.vcpu.lock().kernel_root()
    }
}

/// Where a call comes in: all that is known before it is certain that the call goes this way.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    host: &'a Host,
    pub(crate) cpu: &'a Cpu,
}

impl<'a> Way<'a> {
    /// Makes a call for the kernel that this CPU runs. Nothing was done if there is no such kernel, or the call finds something in its
    /// way and says `None`. Each call that goes this way is one function, which is nothing but this: so none of them pays for another's
    /// registers.
    #[inline(always)]
    pub(crate) fn go(self, call: impl FnOnce(&Caller<'_>) -> Option<u64>) -> Attempt {
        match self.make(call) {
            Some(done) => done.into(),
            None => Attempt::NOTHING,
        }
    }

    #[inline(always)]
    fn make(self, call: impl FnOnce(&Caller<'_>) -> Option<u64>) -> Option<AtOnce> {
        let Self { host, cpu } = self;
        let running = host.domains.running(cpu)?;
        let (domain, vcpu) = running.both();
        if vcpu.mode() != GuestMode::Kernel {
            return None;
        }
        let caller = Caller {
            host,
            cpu,
            domain,
            vcpu,
        };
        Some(AtOnce {
            result: call(&caller)?,
            is_settled: is_quiet(host, cpu, vcpu) && vcpu.undo.is_empty(),
        })
    }
}

/// Makes a call for the kernel that this CPU runs. `None`: it has to go the general way; nothing was done.
pub fn hypercall(host: &Host, cpu: &Cpu, number: u64, arguments: [u64; 4]) -> Option<AtOnce> {
    attempt(host, cpu, number, arguments).get()
}

/// The same for the entry stub.
/// Worth trying for [`NUMBERS`] only: the other calls are to pay for nothing of this.
#[inline(always)]
pub fn attempt(host: &Host, cpu: &Cpu, number: u64, arguments: [u64; 4]) -> Attempt {
    let [a, b, c, d] = arguments;
    table::dispatch_at_once(Way { host, cpu }, number, Arguments([a, b, c, d, 0]))
}
