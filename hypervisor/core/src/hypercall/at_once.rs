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
use oxen_arch::registers::AtOnce;

use super::decode::Arguments;
use super::table;
pub use super::table::STRAIGHT as NUMBERS;
use crate::domain::Domain;
use crate::domain::vcpu::GuestMode;
use crate::frame::Memory;
use crate::host::Host;
use crate::trap::return_path::is_quiet;

/// Who calls, on the straight way: a kernel.
pub(crate) struct Caller<'a> {
    pub(crate) host: &'a Host,
    pub(crate) cpu: &'a Cpu,
    pub(crate) domain: &'a Domain,
    /// The root on which it runs.
    pub(crate) root: Mfn,
}

impl<'a> Caller<'a> {
    /// The frames in the hands of this CPU, for the caller's domain.
    #[inline(always)]
    pub(crate) fn memory(&self) -> Memory<'a> {
        self.host.memory(self.cpu, &self.domain.undo)
    }
}

/// Makes a call for the kernel that this CPU runs. `None`: it has to go the general way; nothing was done.
/// Worth trying for [`NUMBERS`] only: the other calls are to pay for nothing of this.
#[inline(always)]
pub fn hypercall(host: &Host, cpu: &Cpu, number: u64, arguments: [u64; 4]) -> Option<AtOnce> {
    let [a, b, c, d] = arguments;
    let arguments = Arguments([a, b, c, d, 0]);
    if !table::may_go_straight(number, arguments) {
        return None;
    }
    let running = host.domains.running(cpu)?;
    let (domain, vcpu) = running.both();
    let state = vcpu.lock();
    if state.mode != GuestMode::Kernel {
        return None;
    }
    let caller = Caller {
        host,
        cpu,
        domain,
        root: state.kernel_root()?,
    };
    Some(AtOnce {
        result: table::dispatch_at_once(&caller, number, arguments)?,
        is_settled: is_quiet(host, cpu, vcpu) && domain.undo.is_empty(),
    })
}
