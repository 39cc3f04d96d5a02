//! What a port is, and what can be done to it.

use dom0_abi::errno::Errno;
use dom0_abi::event_channel::{PortStatus, StatusInterdomain};
use dom0_abi::ids::{DomId, Port, VcpuId};
use guest_pv_drivers::hypercall::events;
use kit::Report;

use crate::VCPU;
use crate::shared::Shared;

const NOBODY: DomId = DomId::new(5);

pub fn check(report: &mut Report, shared: Shared) {
    kinds(report);
    ends(report, shared);
    virqs(report);
    who_may_connect(report);
    vcpus(report);
}

fn status(port: Port) -> Option<u32> {
    events::status(DomId::SELF, port)
        .ok()
        .map(|status| status.status)
}

fn make(report: &mut Report, what: &str, made: Result<Port, Errno>) -> Port {
    report.check(
        format_args!("{what}: a port"),
        made.is_ok_and(|port| port.get() != 0),
        format_args!("{made:?}"),
    );
    made.unwrap_or(Port::new(0))
}

fn kinds(report: &mut Report) {
    let unbound = make(
        report,
        "alloc_unbound",
        events::alloc_unbound(DomId::SELF, NOBODY),
    );
    let offered = make(
        report,
        "to ourselves",
        events::alloc_unbound(DomId::DOM0, DomId::SELF),
    );
    let bound = make(
        report,
        "bind_interdomain",
        events::bind_interdomain(DomId::SELF, offered),
    );
    let ipi = make(report, "bind_ipi", events::bind_ipi(VCPU));
    let virq = make(report, "bind_virq", events::bind_virq(1, VCPU));
    let global = make(report, "bind_virq, global", events::bind_virq(3, VCPU));
    let ports = [unbound, offered, bound, ipi, virq, global];
    report.check(
        "ports are the lowest that are free",
        ports
            .windows(2)
            .all(|pair| pair[1].get() == pair[0].get() + 1),
        format_args!("{ports:?}"),
    );
    use PortStatus::{Interdomain, Ipi, Unbound, Virq};
    let kinds = [Unbound, Interdomain, Interdomain, Ipi, Virq, Virq];
    for (port, kind) in ports.into_iter().zip(kinds) {
        for dom in [DomId::SELF, DomId::DOM0] {
            let seen = events::status(dom, port).map(|status| (status.status, status.vcpu));
            report.equal(
                format_args!("status of {kind:?} by {dom:?}"),
                seen,
                Ok((kind.get(), VCPU)),
            );
        }
    }
    let variant = |port| events::status(DomId::SELF, port).map(|status| status.variant::<u32>());
    report.equal(
        "unbound: to whom",
        variant(unbound).map(|word| word as u16),
        Ok(NOBODY.get()),
    );
    report.equal("virq: which", variant(virq), Ok(1));
    report.equal("global virq: which", variant(global), Ok(3));
    for (name, port, far) in [
        ("one end", offered, bound),
        ("the other end", bound, offered),
    ] {
        let end = events::status(DomId::SELF, port).map(|status| {
            let end: StatusInterdomain = status.variant();
            (end.dom, end.port)
        });
        report.equal(name, end, Ok((DomId::DOM0, far)));
    }
    // Who may send.
    for (port, kind, right) in [
        (unbound, "unbound", Ok(())),
        (bound, "interdomain", Ok(())),
        (ipi, "ipi", Ok(())),
        (virq, "virq", Err(Errno::EINVAL)),
        (global, "global virq", Err(Errno::EINVAL)),
    ] {
        report.equal(format_args!("send: {kind}"), events::send(port), right);
    }
    for port in ports {
        report.equal(format_args!("close {port:?}"), events::close(port), Ok(()));
        report.equal(
            format_args!("close {port:?} again"),
            events::close(port),
            Err(Errno::EINVAL),
        );
        report.equal(
            format_args!("send through {port:?}, closed"),
            events::send(port),
            Err(Errno::EINVAL),
        );
        report.equal(
            format_args!("status of {port:?}, closed"),
            status(port),
            Some(PortStatus::Closed.get()),
        );
    }
    report.equal("the lowest again", events::bind_ipi(VCPU), Ok(unbound));
    report.equal("and closed", events::close(unbound), Ok(()));
}

/// What becomes of the other end, and of what was pending.
fn ends(report: &mut Report, shared: Shared) {
    let near = events::alloc_unbound(DomId::SELF, DomId::SELF).unwrap_or_default();
    let far = events::bind_interdomain(DomId::SELF, near).unwrap_or_default();
    report.equal(
        "who connects finds its port pending",
        shared.is_pending(far),
        true,
    );
    report.equal("who offered does not", shared.is_pending(near), false);
    report.equal("send one way", events::send(far), Ok(()));
    report.equal("it arrives", shared.is_pending(near), true);
    shared.clear_pending(far);
    report.equal("send the other way", events::send(near), Ok(()));
    report.equal("it arrives too", shared.is_pending(far), true);
    shared.set_masked(far, true);
    report.equal("close one end", events::close(far), Ok(()));
    report.equal("its pending bit is gone", shared.is_pending(far), false);
    report.equal("its mask is not", shared.is_masked(far), true);
    shared.set_masked(far, false);
    report.equal("the other end's stays", shared.is_pending(near), true);
    let end = events::status(DomId::SELF, near);
    report.equal(
        "and is offered again",
        end.map(|status| (status.status, status.variant::<u16>())),
        Ok((PortStatus::Unbound.get(), 0)),
    );
    report.equal(
        "connected again",
        events::bind_interdomain(DomId::SELF, near),
        Ok(far),
    );
    report.equal("close the one that offered", events::close(near), Ok(()));
    report.equal("close the other", events::close(far), Ok(()));
    shared.take();
}

fn virqs(report: &mut Report) {
    let per_vcpu = [0, 1, 7, 13];
    for virq in 0..24 {
        let port = events::bind_virq(virq, VCPU);
        report.check(
            format_args!("virq {virq}"),
            port.is_ok(),
            format_args!("{port:?}"),
        );
        report.equal(
            format_args!("virq {virq}: once"),
            events::bind_virq(virq, VCPU),
            Err(Errno::EEXIST),
        );
        let right = match per_vcpu.contains(&virq) {
            true => Errno::ENOENT,
            false => Errno::EINVAL,
        };
        for vcpu in [1, 8191, u32::MAX] {
            report.equal(
                format_args!("virq {virq} on vCPU {vcpu:#x}"),
                events::bind_virq(virq, VcpuId::new(vcpu)),
                Err(right),
            );
        }
        let right = match per_vcpu.contains(&virq) {
            true => Err(Errno::EINVAL),
            false => Ok(()),
        };
        let port = port.unwrap_or_default();
        report.equal(
            format_args!("virq {virq}: moved"),
            events::bind_vcpu(port, VCPU),
            right,
        );
        report.equal(
            format_args!("virq {virq}: closed"),
            events::close(port),
            Ok(()),
        );
        report.equal(
            format_args!("virq {virq}: again"),
            events::bind_virq(virq, VCPU),
            Ok(port),
        );
        report.equal(
            format_args!("virq {virq}: closed again"),
            events::close(port),
            Ok(()),
        );
    }
    for virq in [24, 25, 64, u32::MAX] {
        report.equal(
            format_args!("virq {virq:#x}"),
            events::bind_virq(virq, VCPU),
            Err(Errno::EINVAL),
        );
    }
}

fn who_may_connect(report: &mut Report) {
    let others = events::alloc_unbound(DomId::SELF, NOBODY).unwrap_or_default();
    let own = events::alloc_unbound(DomId::SELF, DomId::SELF).unwrap_or_default();
    let ipi = events::bind_ipi(VCPU).unwrap_or_default();
    let next = Port::new(ipi.get() + 1);
    let rows = [
        (
            "one that is for another domain",
            DomId::SELF,
            others,
            Err(Errno::EINVAL),
        ),
        ("an ipi", DomId::SELF, ipi, Err(Errno::EINVAL)),
        ("port 0", DomId::SELF, Port::new(0), Err(Errno::EINVAL)),
        (
            "the port that would be made",
            DomId::SELF,
            next,
            Err(Errno::EINVAL),
        ),
        (
            "a number that is no port",
            DomId::SELF,
            Port::new(4000),
            Err(Errno::EINVAL),
        ),
        (
            "any number",
            DomId::SELF,
            Port::new(u32::MAX),
            Err(Errno::EINVAL),
        ),
        ("a domain that is not there", NOBODY, own, Err(Errno::ESRCH)),
        ("no domain", DomId::INVALID, own, Err(Errno::ESRCH)),
        ("devices", DomId::IO, own, Err(Errno::ESRCH)),
        ("the hypervisor", DomId::XEN, own, Err(Errno::ESRCH)),
        ("one that is for us", DomId::DOM0, own, Ok(next)),
        ("the same again", DomId::DOM0, own, Err(Errno::EINVAL)),
    ];
    for (what, dom, port, right) in rows {
        report.equal(
            format_args!("connect to {what}"),
            events::bind_interdomain(dom, port),
            right,
        );
    }
    for dom in [NOBODY, DomId::INVALID, DomId::IO, DomId::XEN, DomId::IDLE] {
        report.equal(
            format_args!("alloc_unbound of {dom:?}"),
            events::alloc_unbound(dom, DomId::SELF),
            Err(Errno::ESRCH),
        );
        report.equal(
            format_args!("status of {dom:?}"),
            events::status(dom, own).map(|_| ()),
            Err(Errno::ESRCH),
        );
        report.equal(
            format_args!("reset of {dom:?}"),
            events::reset(dom),
            Err(Errno::ESRCH),
        );
    }
    // Any number will do for who may connect.
    for dom in [DomId::INVALID, DomId::IDLE, DomId::new(0xffff)] {
        let port = events::alloc_unbound(DomId::SELF, dom);
        report.check(
            format_args!("offer to {dom:?}"),
            port.is_ok(),
            format_args!("{port:?}"),
        );
    }
    report.equal("reset by number", events::reset(DomId::DOM0), Ok(()));
    report.equal(
        "closed by that",
        status(own),
        Some(PortStatus::Closed.get()),
    );
}

fn vcpus(report: &mut Report) {
    let unbound = events::alloc_unbound(DomId::SELF, NOBODY).unwrap_or_default();
    let ipi = events::bind_ipi(VCPU).unwrap_or_default();
    let nobody = VcpuId::new(1);
    report.equal(
        "ipi to no vCPU",
        events::bind_ipi(nobody),
        Err(Errno::ENOENT),
    );
    report.equal("move unbound", events::bind_vcpu(unbound, VCPU), Ok(()));
    report.equal("move ipi", events::bind_vcpu(ipi, VCPU), Err(Errno::EINVAL));
    report.equal(
        "move to no vCPU",
        events::bind_vcpu(unbound, nobody),
        Err(Errno::ENOENT),
    );
    report.equal(
        "move nothing to no vCPU",
        events::bind_vcpu(Port::new(4000), nobody),
        Err(Errno::ENOENT),
    );
    for port in [0, ipi.get() + 1, 4000, u32::MAX] {
        report.equal(
            format_args!("move port {port:#x}"),
            events::bind_vcpu(Port::new(port), VCPU),
            Err(Errno::EINVAL),
        );
    }
}
