//! `SCHEDOP_poll` with ports that are pending, and that are none.

use dom0_abi::errno::Errno;
use dom0_abi::ids::Port;
use guest_pv_drivers::hypercall::events;
use kit::Report;

use crate::VCPU;
use crate::shared::Shared;

pub fn check(report: &mut Report, shared: Shared) {
    let port = events::bind_ipi(VCPU).unwrap_or_default();
    let quiet = events::bind_ipi(VCPU).unwrap_or_default();
    report.equal("send", events::send(port), Ok(()));
    report.equal("poll what is pending", events::poll(&[port], 0), Ok(()));
    report.equal("among others", events::poll(&[quiet, port], 0), Ok(()));
    shared.set_masked(port, true);
    report.equal("masked", events::poll(&[port], 0), Ok(()));
    report.equal("nothing is taken by that", shared.is_pending(port), true);
    for number in [4000, 4096, 1 << 17, u32::MAX] {
        let bad = Port::new(number);
        let expected = Err(Errno::EINVAL);
        report.equal(
            format_args!("poll {number:#x}"),
            events::poll(&[bad], 0),
            expected,
        );
        report.equal(
            format_args!("poll {number:#x} behind what is quiet"),
            events::poll(&[quiet, bad], 0),
            expected,
        );
        // What is pending ends the look before the bad one.
        report.equal(
            format_args!("poll {number:#x} behind what is pending"),
            events::poll(&[port, bad], 0),
            Ok(()),
        );
    }
    let many = [quiet; 129];
    report.equal("poll too many", events::poll(&many, 0), Err(Errno::EINVAL));
    // System time 1 ns is long past.
    report.equal(
        "poll until a time that is past",
        events::poll(&[quiet], 1),
        Ok(()),
    );
    report.equal(
        "several, until then",
        events::poll(&[quiet, quiet], 1),
        Ok(()),
    );
    report.equal("close", events::close(quiet), Ok(()));
    let bad = Err(Errno::EINVAL);
    report.equal("poll a closed port", events::poll(&[quiet], 1), bad);
    report.equal("poll port 0", events::poll(&[Port::new(0)], 1), bad);
    shared.set_pending(quiet);
    report.equal(
        "closed, and pending by hand",
        events::poll(&[quiet], 0),
        bad,
    );
    shared.clear_pending(quiet);
    shared.set_masked(port, false);
    shared.clear_pending(port);
    shared.take();
}
