//! Event channel ports of one domain: which there are, what becomes pending, who is told in which order, and what ends them.
//!
//! All of it happens in memory that the guest shares with the hypervisor, so each step can be looked at: the pending bit, the
//! mask, the selector, the byte of the upcall. What kernels rely on is the order, and that nothing is told twice or not at
//! all; what attackers try is numbers that are no ports (XSA-221, 317, 340).
#![no_std]
#![no_main]
// UNSAFETY: hypercalls with bare arguments.
#![allow(unsafe_code)]

mod arguments;
mod delivery;
mod numbers;
mod polling;
mod shared;
mod states;

use dom0_abi::errno::Errno;
use dom0_abi::ids::{DomId, VcpuId};
use guest_pv_drivers::hypercall::events;
use kit::Report;

use shared::Shared;

kit::guest!("evtchn-ports", main);

/// The one vCPU.
const VCPU: VcpuId = VcpuId::new(0);

fn main(report: &mut Report) {
    if events::reset(DomId::SELF) == Err(Errno::ENOSYS) {
        report.skip("event channels", "ENOSYS");
        report.check("the guest runs", true, "");
        return;
    }
    let shared = match Shared::map() {
        Ok(shared) => shared,
        Err(error) => {
            report.check("shared info is mapped", false, error);
            return;
        }
    };
    states::check(report, shared);
    clean(report, "states");
    delivery::check(report, shared);
    clean(report, "delivery");
    polling::check(report, shared);
    clean(report, "polling");
    arguments::check(report);
    clean(report, "arguments");
    numbers::check(report, shared);
    clean(report, "numbers");
}

/// Begins anew.
fn clean(report: &mut Report, what: &str) {
    report.equal(
        format_args!("reset behind {what}"),
        events::reset(DomId::SELF),
        Ok(()),
    );
}
