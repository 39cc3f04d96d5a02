//! What ports there are, and who gets which.

use dom0_abi::errno::Errno;
use dom0_abi::event_channel::{AllocUnbound, EventChannelCommand, StatusInterdomain};
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::{DomId, Port, VcpuId};

use super::{Caller, Shared};
use crate::budget::Budget;
use crate::domain::Capabilities;
use crate::event::word::{Binding, PortState};
use crate::testing::{DATA, DATA_END, Guest, READ_ONLY, failure};

const PEER: DomId = DomId::new(9);

#[test]
fn each_kind_says_what_it_is() {
    let guest = Guest::ordinary();
    let neighbour = guest.neighbour();
    let mut own = Caller::own(&guest);
    assert_eq!(own.alloc(PEER), Ok(Port::new(1)));
    assert_eq!(own.alloc(DomId::SELF), Ok(Port::new(2)));
    assert_eq!(own.bind_virq(0, 0), Ok(Port::new(3)));
    assert_eq!(own.bind_ipi(0), Ok(Port::new(4)));
    assert_eq!(own.connect(DomId::SELF, Port::new(2)), Ok(Port::new(5)));
    let mut other = Caller::neighbour(&guest, &neighbour);
    assert_eq!(other.connect(guest.domid, Port::new(1)), Ok(Port::new(1)));
    let seen: Vec<_> = (0..64).map(|port| own.status(port)).collect();
    assert_eq!(seen[..7], [0, 2, 2, 4, 5, 2, 0]);
    assert!(seen[7..].iter().all(|&status| status == 0));
    for (port, dom, far) in [(1, PEER, 1), (2, guest.domid, 5), (5, guest.domid, 2)] {
        let status = own.status_of(DomId::SELF, port).unwrap();
        let end: StatusInterdomain = status.variant();
        assert_eq!((end.dom, end.port), (dom, Port::new(far)));
    }
    let status = own.status_of(guest.domid, 3).unwrap();
    assert_eq!(status.variant::<u32>(), 0);
    // What is offered has the name of who may have it, and not the special one.
    assert_eq!(own.close(5), 0);
    let status = own.status_of(DomId::SELF, 2).unwrap();
    assert_eq!((status.status, status.variant::<u16>()), (1, 7));
}

#[test]
fn i22_numbers_that_were_never_valid_are_no_ports() {
    let guest = Guest::ordinary();
    let mut own = Caller::own(&guest);
    let einval = failure(Errno::EINVAL);
    for port in [64, 65, 511, 512, 4095, 4096, 4097, 1 << 17, u32::MAX] {
        assert_eq!(own.send(port), einval);
        assert_eq!(own.close(port), einval);
        assert_eq!(own.unmask(port), einval);
        assert_eq!(own.bind_vcpu(port, 0), einval);
        assert_eq!(own.status_of(DomId::SELF, port).unwrap_err(), einval);
        assert_eq!(own.connect(DomId::SELF, Port::new(port)), Err(einval));
    }
    // These are, but nobody's.
    for port in [0, 1, 63] {
        assert_eq!(own.send(port), einval);
        assert_eq!(own.close(port), einval);
        assert_eq!(own.bind_vcpu(port, 0), einval);
        assert_eq!(own.connect(DomId::SELF, Port::new(port)), Err(einval));
        assert_eq!(own.unmask(port), 0);
        assert_eq!(own.status(port), 0);
    }
    // A refused binding keeps no number.
    assert_eq!(own.alloc(PEER), Ok(Port::new(1)));
}

#[test]
fn i23_ports_end_at_the_limit_and_the_pages_with_the_domain() {
    let guest = Guest::ordinary();
    let free = guest.host.frames.statistics().free;
    let mut own = Caller::own(&guest);
    for port in 1..4096 {
        assert_eq!(own.bind_ipi(0), Ok(Port::new(port)));
        let valid = (port + 1_u32).next_multiple_of(64);
        let border = [own.unmask(valid - 1), own.unmask(valid)];
        assert_eq!(border, [0, failure(Errno::EINVAL)]);
    }
    let used = free - guest.host.frames.statistics().free;
    assert_eq!(used, 8);
    let enospc = Err(failure(Errno::ENOSPC));
    assert_eq!(own.bind_ipi(0), enospc);
    assert_eq!(own.alloc(PEER), enospc);
    assert_eq!(own.bind_virq(1, 0), enospc);
    assert_eq!(own.connect(DomId::SELF, Port::new(1)), enospc);
    // The lowest that is free again is the next.
    for port in [4095, 700, 3] {
        assert_eq!(own.close(port), 0);
    }
    for port in [3, 700, 4095] {
        assert_eq!(own.alloc(PEER), Ok(Port::new(port)));
    }
    assert_eq!(own.alloc(PEER), enospc);
}

#[test]
fn i23_a_limit_holds() {
    for (highest, last) in [(0, 0), (1, 1), (1023, 1023), (9999, 4095), (u32::MAX, 4095)] {
        let mut ports = crate::event::Ports::new(dom0_abi::addr::Mfn::new(1));
        ports.set_highest(highest);
        let guest = Guest::ordinary();
        let undo = crate::frame::UndoQueue::new();
        let memory = guest.host.memory(&guest.cpu, &undo);
        for port in 1..=last {
            let reserved = ports.reserve(memory, |_| false).ok().unwrap();
            assert_eq!(reserved.port(), Port::new(port));
            reserved.publish(Binding::first(PortState::Ipi));
        }
        assert_eq!(
            ports.reserve(memory, |_| false).map(drop),
            Err(Errno::ENOSPC)
        );
        assert!(ports.clear(memory, &mut { Budget::ENDLESS }));
    }
}

#[test]
fn virqs_are_bound_once_and_where_they_belong() {
    let guest = Guest::ordinary();
    let mut own = Caller::own(&guest);
    for virq in 0..24 {
        let is_per_vcpu = [0, 1, 7, 13].contains(&virq);
        let elsewhere = if is_per_vcpu {
            Errno::ENOENT
        } else {
            Errno::EINVAL
        };
        for vcpu in [1, 127, 128, u32::MAX] {
            assert_eq!(own.bind_virq(virq, vcpu), Err(failure(elsewhere)));
        }
        let port = own.bind_virq(virq, 0).unwrap();
        assert_eq!(own.bind_virq(virq, 0), Err(failure(Errno::EEXIST)));
        let right = if is_per_vcpu {
            failure(Errno::EINVAL)
        } else {
            0
        };
        assert_eq!(own.bind_vcpu(port.get(), 0), right);
        assert_eq!(own.bind_vcpu(port.get(), 1), failure(Errno::ENOENT));
        // Nobody sends through it.
        assert_eq!(own.send(port.get()), failure(Errno::EINVAL));
        if virq % 2 == 0 {
            assert_eq!(own.close(port.get()), 0);
            assert_eq!(own.bind_virq(virq, 0), Ok(port));
        }
    }
    for virq in [24, 25, u32::MAX] {
        assert_eq!(own.bind_virq(virq, 0), Err(failure(Errno::EINVAL)));
    }
    assert_eq!(own.bind_ipi(1), Err(failure(Errno::ENOENT)));
}

#[test]
fn only_who_it_is_offered_to_is_connected_and_once() {
    let guest = Guest::ordinary();
    let neighbour = guest.neighbour();
    let mut own = Caller::own(&guest);
    let mut other = Caller::neighbour(&guest, &neighbour);
    let einval = Err(failure(Errno::EINVAL));
    let mine = own.alloc(DomId::SELF).unwrap();
    let theirs = own.alloc(PEER).unwrap();
    let strangers = own.alloc(DomId::new(500)).unwrap();
    for port in [mine, strangers] {
        assert_eq!(other.connect(guest.domid, port), einval);
    }
    assert_eq!(own.connect(DomId::SELF, theirs), einval);
    assert_eq!(other.connect(guest.domid, theirs), Ok(Port::new(1)));
    assert_eq!(other.connect(guest.domid, theirs), einval);
    assert_eq!(
        other.connect(DomId::new(500), Port::new(1)),
        Err(failure(Errno::ESRCH))
    );
    // When one end closes, the other is offered to it, and may be had again.
    assert_eq!(own.close(theirs.get()), 0);
    let status = other.status_of(DomId::SELF, 1).unwrap();
    assert_eq!((status.status, status.variant::<u16>()), (1, 7));
    assert_eq!(own.connect(PEER, Port::new(1)), Ok(theirs));
    assert_eq!((own.status(theirs.get()), other.status(1)), (2, 2));
    assert_eq!(other.close(1), 0);
    assert_eq!(own.status(theirs.get()), 1);
}

#[test]
fn i28_only_a_control_domain_acts_for_others() {
    for is_control in [false, true] {
        let (id, may) = match is_control {
            true => (DomId::DOM0, Capabilities::all()),
            false => (DomId::new(7), Capabilities::empty()),
        };
        let guest = Guest::new(id, may);
        let neighbour = guest.neighbour();
        let mut other = Caller::neighbour(&guest, &neighbour);
        let theirs = other.bind_ipi(0).unwrap();
        let mut own = Caller::own(&guest);
        let mut argument = AllocUnbound {
            dom: PEER,
            remote_dom: DomId::SELF,
            port: Port::new(77),
        };
        let (ours, esrch) = (failure(Errno::EPERM), failure(Errno::ESRCH));
        let result = own.op(EventChannelCommand::AllocUnbound, &mut argument);
        let status = own
            .status_of(PEER, theirs.get())
            .map(|status| status.status);
        let reset = own.reset(PEER);
        if is_control {
            assert_eq!((result, argument.port), (0, Port::new(2)));
            // It is offered to the caller.
            let offered = own.status_of(PEER, 2).unwrap();
            assert_eq!((offered.status, offered.variant::<u16>()), (1, id.get()));
            assert_eq!((status, reset), (Ok(5), failure(Errno::EINVAL)));
        } else {
            assert_eq!((result, argument.port), (ours, Port::new(77)));
            assert_eq!((status, reset), (Err(ours), ours));
        }
        argument.dom = DomId::new(500);
        assert_eq!(
            own.op(EventChannelCommand::AllocUnbound, &mut argument),
            esrch
        );
        assert_eq!(own.status_of(DomId::new(500), 1).map(|_| ()), Err(esrch));
        assert_eq!(own.reset(DomId::new(500)), esrch);
    }
}

#[test]
fn i14_what_cannot_be_told_is_not_done() {
    let mut guest = Guest::ordinary();
    // Commands that make a port, with arguments that make one if they can be read.
    for command in [0, 1, 6, 7] {
        for at in [READ_ONLY, DATA_END, DATA_END - 4, 0, 1 << 47, u64::MAX - 3] {
            let result = guest.call(Hypercall::EventChannelOp, [command, at]);
            assert!(
                [Errno::EFAULT, Errno::ESRCH, Errno::EINVAL]
                    .map(failure)
                    .contains(&result),
                "command {command} at {at:#x}: {result}"
            );
        }
    }
    let none = guest.domain(|domain| {
        (0..64).all(|port| domain.events.binding(Port::new(port)) == Ok(Binding::FREE))
    });
    assert!(none);
    assert_eq!(
        guest.domain(|domain| domain
            .vcpu(VcpuId::new(0))
            .unwrap()
            .virqs
            .get(dom0_abi::xen::Virq::Timer.into())),
        None
    );
    let mut own = Caller::own(&guest);
    assert_eq!(own.bind_virq(0, 0), Ok(Port::new(1)));
}

#[test]
fn commands_that_are_not_there() {
    let mut guest = Guest::dom0();
    for command in [14, 99, u64::from(u32::MAX)] {
        let result = guest.call(Hypercall::EventChannelOp, [command, DATA]);
        assert_eq!(result, failure(Errno::ENOSYS));
    }
    // No interrupt.
    guest.put(DATA, &[1_u32, 0, 0]);
    let result = guest.call(Hypercall::EventChannelOp, [2, DATA]);
    assert_eq!(result, failure(Errno::EINVAL));
    let result = guest.call(Hypercall::EventChannelOp, [2, DATA_END]);
    assert_eq!(result, failure(Errno::EFAULT));
}

#[test]
fn the_older_form_does_the_same() {
    let mut guest = Guest::ordinary();
    // bind_ipi; the port is told in place.
    guest.put(DATA, &[7_u32, 0, 77, 0, 0, 0, 0]);
    assert_eq!(guest.call(Hypercall::EventChannelOpCompat, [DATA]), 0);
    assert_eq!(guest.get::<[u32; 3]>(DATA), [7, 0, 1]);
    for command in [10_u32, 11, 14, u32::MAX] {
        guest.put(DATA, &command);
        let result = guest.call(Hypercall::EventChannelOpCompat, [DATA]);
        assert_eq!(result, failure(Errno::ENOSYS));
    }
    // All of the structure is read.
    let at = DATA_END - 24;
    guest.put(at, &4_u32);
    let result = guest.call(Hypercall::EventChannelOpCompat, [at]);
    assert_eq!(result, failure(Errno::EFAULT));
    guest.put(DATA, &[4_u32, 1]);
    assert_eq!(guest.call(Hypercall::EventChannelOpCompat, [DATA]), 0);
    assert!(
        Shared {
            guest: &guest,
            domid: guest.domid
        }
        .is_pending(1)
    );
}
