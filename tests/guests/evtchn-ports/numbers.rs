//! Which numbers are ports: as many as were ever in use, and some more.

use dom0_abi::errno::Errno;
use dom0_abi::ids::{DomId, Port};
use guest_pv_drivers::hypercall::events;
use kit::Report;

use crate::VCPU;
use crate::shared::Shared;

/// What every command says to a number.
fn answers(port: u32) -> [Result<(), Errno>; 5] {
    let port = Port::new(port);
    [
        events::send(port),
        events::close(port),
        events::unmask(port),
        events::bind_vcpu(port, VCPU),
        events::status(DomId::SELF, port).map(drop),
    ]
}

pub fn check(report: &mut Report, shared: Shared) {
    let bad = Err(Errno::EINVAL);
    for port in [3000, 4095, 4096, 4097, 0x1_ffff, 0x2_0000, u32::MAX] {
        report.equal(
            format_args!("port {port:#x} is none"),
            answers(port),
            [bad; 5],
        );
    }
    let mut last = 0;
    let error = loop {
        match events::bind_ipi(VCPU) {
            Ok(port) if port.get() == last + 1 => last += 1,
            Ok(port) => {
                report.check(
                    "the lowest free number",
                    false,
                    format_args!("{port:?} behind {last}"),
                );
                return;
            }
            Err(error) => break error,
        }
        if last == 200 {
            let border = [255, 256].map(|port| events::unmask(Port::new(port)));
            report.equal("ports become valid by 64", border, [Ok(()), bad]);
        }
    };
    report.equal("the last port", (last, error), (4095, Errno::ENOSPC));
    report.equal(
        "no other kind either",
        [
            events::alloc_unbound(DomId::SELF, DomId::SELF),
            events::bind_virq(1, VCPU),
            events::bind_interdomain(DomId::SELF, Port::new(1)),
        ],
        [Err(Errno::ENOSPC); 3],
    );
    for port in [1, 64, 1000, 4095] {
        let port = Port::new(port);
        report.equal(format_args!("send {port:?}"), events::send(port), Ok(()));
        let seen = (shared.is_pending(port), shared.take());
        report.equal(
            format_args!("told of {port:?}"),
            seen,
            (true, (1, 1 << (port.get() / 64))),
        );
    }
    report.equal("port 4096 is none now", answers(4096), [bad; 5]);
    for port in [4095, 2000, 7] {
        report.equal(
            format_args!("close {port}"),
            events::close(Port::new(port)),
            Ok(()),
        );
    }
    for port in [7, 2000, 4095] {
        report.equal(
            format_args!("{port} again"),
            events::bind_ipi(VCPU),
            Ok(Port::new(port)),
        );
    }
    report.equal("reset of 4095 ports", events::reset(DomId::SELF), Ok(()));
    report.equal("nothing is pending", shared.nothing_is_pending(), true);
    report.equal(
        "what was valid stays valid",
        events::status(DomId::SELF, Port::new(4095)).map(|status| status.status),
        Ok(0),
    );
    report.equal(
        "and the lowest is free",
        events::bind_ipi(VCPU),
        Ok(Port::new(1)),
    );
}
