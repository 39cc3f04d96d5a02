//! The FIFO form of event channels: how a domain chooses it, grows it and leaves it; what comes in which order; what was pending before.
//!
//! The guest takes ports out of its queues as the ABI says and looks at each word on the way. What attackers try is to use the form
//! half set up, and to leave it (XSA-107, 343, 344).
#![no_std]
#![no_main]
// UNSAFETY: memory shared with the hypervisor.
#![allow(unsafe_code)]

mod kernel;
mod order;
mod setup;

use dom0_abi::errno::Errno;
use dom0_abi::ids::{DomId, VcpuId};
use guest_pv_drivers::hypercall::events;
use kit::Report;

use kernel::Kernel;

kit::guest!("evtchn-fifo", main);

/// The one vCPU.
const VCPU: VcpuId = VcpuId::new(0);

fn main(report: &mut Report) {
    if events::init_control(VCPU, 0, 4096) == Err(Errno::ENOSYS) {
        report.skip("FIFO event channels", "ENOSYS");
        report.check("the guest runs", true, "");
        return;
    }
    let mut kernel = match Kernel::new() {
        Ok(kernel) => kernel,
        Err(error) => return report.check("shared info is mapped", false, error),
    };
    setup::before(report, &kernel);
    reset(report, "before");
    setup::switch(report, &mut kernel);
    order::check(report, &mut kernel);
    setup::many(report, &mut kernel);
    reset(report, "all");
    setup::again(report, &mut kernel);
    reset(report, "all again");
}

/// Begins anew.
fn reset(report: &mut Report, what: &str) {
    report.equal(
        format_args!("reset behind {what}"),
        events::reset(DomId::SELF),
        Ok(()),
    );
}
