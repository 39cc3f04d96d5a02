//! Where events arrive, and who is told.

use dom0_abi::addr::GuestAddr;
use dom0_abi::errno::Errno;
use dom0_abi::handle::GuestHandle;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::{Port, VcpuId};
use dom0_abi::sched::SchedPoll;
use dom0_abi::xen::Virq;
use oxen_arch::{Ipi, SentIpi};

use super::{Caller, Shared};
use crate::domain::vcpu::RunState;
use crate::event::virq;
use crate::testing::{DATA, Guest, failure};
use crate::trap::entry;
use crate::trap::return_path::Next;

fn own(guest: &Guest) -> Shared<'_> {
    Shared {
        guest,
        domid: guest.domid,
    }
}

#[test]
fn an_event_sets_pending_selector_and_upcall_unless_masked() {
    let guest = Guest::ordinary();
    let mut caller = Caller::own(&guest);
    for _ in 1..200 {
        caller.bind_ipi(0).unwrap();
    }
    let shared = own(&guest);
    for port in [1, 63, 64, 130, 199] {
        // Masked: pending alone.
        shared.set_masked(port, true);
        assert_eq!(caller.send(port), 0);
        assert!(shared.is_pending(port));
        assert_eq!((shared.selector(), shared.upcall()), (0, 0));
        // Unmasked by the call: told once.
        assert_eq!(caller.unmask(port), 0);
        assert_eq!((shared.selector(), shared.upcall()), (1 << (port / 64), 1));
        assert_eq!(shared.take(), 1 << (port / 64));
        // It was not masked: nothing is told again, by nobody.
        assert_eq!((caller.unmask(port), caller.send(port)), (0, 0));
        assert_eq!((shared.selector(), shared.upcall()), (0, 0));
        shared.clear_pending(port);
        // Not masked: told at once.
        assert_eq!(caller.send(port), 0);
        assert!(shared.is_pending(port));
        assert_eq!((shared.take(), shared.upcall()), (1 << (port / 64), 0));
        shared.clear_pending(port);
    }
    // Unmasking what is not pending tells nothing.
    shared.set_masked(5, true);
    assert_eq!(caller.unmask(5), 0);
    assert_eq!((shared.selector(), shared.upcall()), (0, 0));
}

#[test]
fn who_has_the_selector_bit_set_is_told_already() {
    let guest = Guest::ordinary();
    let mut caller = Caller::own(&guest);
    for _ in 0..3 {
        caller.bind_ipi(0).unwrap();
    }
    let shared = own(&guest);
    assert_eq!(caller.send(1), 0);
    guest.host.mem().store_u8(shared.at(0), 0).unwrap();
    // The kernel has seen the byte and not taken the selector yet.
    assert_eq!(caller.send(2), 0);
    assert_eq!((shared.upcall(), shared.take()), (0, 1));
    assert!(shared.is_pending(1) && shared.is_pending(2));
    // It has: the next is told.
    assert_eq!(caller.send(3), 0);
    assert_eq!((shared.upcall(), shared.take()), (1, 1));
}

#[test]
fn events_between_domains_arrive_at_the_other_end_only() {
    let guest = Guest::ordinary();
    let neighbour = guest.neighbour();
    let mut a = Caller::own(&guest);
    let mut b = Caller::neighbour(&guest, &neighbour);
    for _ in 0..4 {
        b.bind_ipi(0).unwrap();
    }
    let near = a.alloc(neighbour.domid).unwrap().get();
    // Offered: nobody hears it, and it is no error.
    assert_eq!(a.send(near), 0);
    let far = b.connect(guest.domid, Port::new(near)).unwrap().get();
    let (at_a, at_b) = (
        own(&guest),
        Shared {
            guest: &guest,
            domid: neighbour.domid,
        },
    );
    assert_eq!((near, far), (1, 5));
    assert!(!at_a.is_pending(near), "what was sent before is not known");
    assert!(at_b.is_pending(far), "so it is looked at");
    at_b.take();
    at_b.clear_pending(far);
    assert_eq!(a.send(near), 0);
    assert!(at_b.is_pending(far) && !at_b.is_pending(near) && !at_a.is_pending(near));
    assert_eq!((at_b.upcall(), at_a.upcall()), (1, 0));
    assert_eq!(b.send(far), 0);
    assert!(at_a.is_pending(near));
    assert_eq!(at_a.upcall(), 1);
    // What is pending when a port is closed is gone with it; of the other end it stays.
    assert_eq!(a.close(near), 0);
    assert!(!at_a.is_pending(near) && at_b.is_pending(far));
    assert_eq!((a.send(near), b.send(far)), (failure(Errno::EINVAL), 0));
    assert!(!at_a.is_pending(near));
}

#[test]
fn the_vcpu_of_another_cpu_is_kicked_once() {
    let guest = Guest::ordinary();
    let neighbour = guest.neighbour();
    let mut a = Caller::own(&guest);
    let mut b = Caller::neighbour(&guest, &neighbour);
    let near = a.alloc(neighbour.domid).unwrap().get();
    let far = b.connect(guest.domid, Port::new(near)).unwrap().get();
    let at_b = Shared {
        guest: &guest,
        domid: neighbour.domid,
    };
    at_b.take();
    at_b.clear_pending(far);
    let event = SentIpi {
        to: guest.other_cpu.id(),
        what: Ipi::Event,
    };
    guest.host.machine.take_ipi_log();
    let kicks = || guest.host.machine.take_ipi_log();
    assert_eq!((a.send(near), a.send(near)), (0, 0));
    assert_eq!(kicks(), [event]);
    // Nor for a masked port, unless somebody polls.
    at_b.take();
    at_b.clear_pending(far);
    at_b.set_masked(far, true);
    assert_eq!(a.send(near), 0);
    assert_eq!(kicks(), []);
    at_b.clear_pending(far);
    let domain = guest.host.domains.get(neighbour.domid).unwrap();
    domain.events.pollers.enter(VcpuId::new(0));
    assert_eq!(a.send(near), 0);
    assert_eq!(kicks(), [event]);
}

#[test]
fn virqs_are_raised_where_they_are_bound() {
    let guest = Guest::dom0();
    let mut caller = Caller::own(&guest);
    let shared = own(&guest);
    let raise = |virq| {
        let domain = guest.host.domains.get(guest.domid).unwrap();
        let vcpu = domain.vcpu(VcpuId::new(0)).unwrap();
        virq::raise(&guest.host, &guest.cpu, &domain, vcpu, virq);
    };
    raise(Virq::Timer);
    assert_eq!(shared.selector(), 0);
    let timer = caller.bind_virq(0, 0).unwrap().get();
    let console = caller.bind_virq(2, 0).unwrap().get();
    assert!(!shared.is_pending(timer) && !shared.is_pending(console));
    raise(Virq::Timer);
    assert!(shared.is_pending(timer) && !shared.is_pending(console));
    virq::raise_global(&guest.host, &guest.cpu, Virq::Console);
    virq::raise_global(&guest.host, &guest.cpu, Virq::DomExc);
    assert!(shared.is_pending(console));
    // The number is somebody else's now.
    assert_eq!((caller.close(timer), shared.take()), (0, 1));
    assert_eq!(caller.bind_virq(1, 0).unwrap().get(), timer);
    raise(Virq::Timer);
    assert!(!shared.is_pending(timer));
    raise(Virq::Debug);
    assert!(shared.is_pending(timer));
}

#[test]
fn what_is_typed_for_dom0_raises_its_virq() {
    let guest = Guest::dom0();
    let mut caller = Caller::own(&guest);
    let console = caller.bind_virq(2, 0).unwrap().get();
    let shared = own(&guest);
    guest.host.machine.push_serial_input(b"x");
    guest.host.serial_interrupt(&guest.cpu, None);
    assert!(shared.is_pending(console));
}

fn poll(guest: &mut Guest, port: u32) -> Next {
    guest.put(DATA + 0x100, &port);
    let request = SchedPoll {
        ports: GuestHandle::new(GuestAddr::new(DATA + 0x100)),
        nr_ports: 1,
        _pad0: 0,
        timeout: 0,
    };
    guest.put(DATA, &request);
    guest.regs.rax = Hypercall::SchedOp.number();
    [guest.regs.rdi, guest.regs.rsi] = [3, DATA];
    guest.syscall()
}

#[test]
fn a_poll_ends_with_the_event_though_it_is_masked() {
    let mut guest = Guest::ordinary();
    let neighbour = guest.neighbour();
    let near = Caller::own(&guest).alloc(neighbour.domid).unwrap().get();
    let mut b = Caller::neighbour(&guest, &neighbour);
    let far = b.connect(guest.domid, Port::new(near)).unwrap().get();
    own(&guest).set_masked(near, true);
    let pollers = |guest: &Guest| {
        let mut pollers = Vec::new();
        guest.domain(|domain| domain.events.pollers.for_each(|id| pollers.push(id.get())));
        pollers
    };
    assert_eq!(poll(&mut guest, near), Next::Schedule);
    assert_eq!(pollers(&guest), [0]);
    let mut regs = guest.regs;
    let again = entry::look_again(&guest.host, &guest.cpu, &mut regs);
    assert_eq!(again, Next::Schedule);
    assert_eq!(Caller::neighbour(&guest, &neighbour).send(far), 0);
    let again = entry::look_again(&guest.host, &guest.cpu, &mut regs);
    assert_eq!((again, pollers(&guest)), (Next::Guest, vec![]));
    assert_eq!(guest.state(|state| state.run()), RunState::Running);
    // And it does not begin to sleep as long as it is pending.
    assert_eq!(poll(&mut guest, near), Next::Guest);
    assert_eq!(poll(&mut guest, 64), Next::Guest);
    assert_eq!(guest.regs.rax as i64, failure(Errno::EINVAL));
}
