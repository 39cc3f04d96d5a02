//! The end of all ports, in steps.

use dom0_abi::addr::GuestAddr;
use dom0_abi::errno::Errno;
use dom0_abi::ids::{DomId, Port};

use oxen_arch::registers::ENTRY_SYSCALL;

use super::{Caller, Shared};
use crate::budget::Budget;
use crate::domain::teardown::{self, Progress};
use crate::event::word::Binding;
use crate::frame::UndoQueue;
use crate::testing::{CODE, DATA, Guest, failure, stop};
use crate::trap::entry;
use crate::trap::return_path::Next;
use dom0_abi::hypercalls::Hypercall;

/// Ports of each kind.
fn fill(caller: &mut Caller<'_>, count: u32) {
    for _ in 0..count / 3 {
        caller.bind_ipi(0).unwrap();
        let offered = caller.alloc(DomId::SELF).unwrap();
        caller.connect(DomId::SELF, offered).unwrap();
    }
    caller.bind_virq(0, 0).unwrap();
    caller.bind_virq(2, 0).unwrap();
}

fn is_empty(guest: &Guest, domid: DomId) -> bool {
    let domain = guest.host.domains.get(domid).unwrap();
    let is_free = |port| {
        domain
            .events
            .binding(Port::new(port))
            .unwrap_or(Binding::FREE)
            == Binding::FREE
    };
    (0..4096).all(is_free)
}

#[test]
fn i23_a_reset_gives_way_and_closes_all() {
    for units in [10, 25, 100, 700] {
        let mut guest = Guest::ordinary();
        fill(&mut Caller::own(&guest), 300);
        guest.host.set_entry_budget(Budget::new(units));
        guest.put(DATA, &DomId::SELF);
        guest.regs.rax = Hypercall::EventChannelOp.number();
        [guest.regs.rdi, guest.regs.rsi] = [10, DATA];
        let mut entries = 0;
        loop {
            assert_eq!(guest.syscall(), Next::Guest);
            entries += 1;
            if guest.regs.rip == CODE {
                break;
            }
            // The rest is the same call.
            assert_eq!(guest.regs.rip, CODE - 2);
            let call = [guest.regs.rax, guest.regs.rdi, guest.regs.rsi];
            assert_eq!(call, [32, 10, DATA]);
            guest.regs.rip = CODE;
        }
        assert_eq!(guest.regs.rax, 0);
        assert!(entries > 3000 / units / 2, "{entries} entries of {units}");
        assert!(is_empty(&guest, guest.domid));
        let mut caller = Caller::own(&guest);
        assert_eq!(caller.bind_virq(0, 0), Ok(Port::new(1)));
    }
}

/// What a toolstack does when a domain begins anew in its place.
#[test]
fn who_controls_a_domain_that_is_down_resets_it_in_steps() {
    let mut guest = Guest::dom0();
    let neighbour = guest.neighbour();
    let mut other = Caller::neighbour(&guest, &neighbour);
    fill(&mut other, 300);
    let offered = other.alloc(guest.domid).unwrap();
    let mut own = Caller::own(&guest);
    let near = own.connect(neighbour.domid, offered).unwrap().get();
    assert_eq!(own.reset(neighbour.domid), failure(Errno::EINVAL));
    assert_eq!(own.reset(DomId::new(8)), failure(Errno::ESRCH));
    // The other way round it is not theirs to do, whatever the state.
    assert_eq!(other.reset(guest.domid), failure(Errno::EPERM));
    let domain = guest.host.domains.get(neighbour.domid).unwrap();
    guest.host.shut_down(&guest.cpu, &domain, 5);
    drop(domain);
    guest.host.set_entry_budget(Budget::new(100));
    guest.put(DATA, &neighbour.domid);
    guest.regs.rax = Hypercall::EventChannelOp.number();
    [guest.regs.rdi, guest.regs.rsi] = [10, DATA];
    let mut entries = 1;
    while guest.syscall() == Next::Guest && guest.regs.rip != CODE {
        guest.regs.rip = CODE;
        entries += 1;
    }
    assert_eq!(guest.regs.rax, 0);
    assert!(entries > 15, "{entries}");
    assert!(is_empty(&guest, neighbour.domid));
    // The other end is offered to it again.
    assert_eq!(Caller::own(&guest).status(near), 1);
}

#[test]
fn dom0_is_told_of_the_end_of_domains() {
    let guest = Guest::dom0();
    let neighbour = guest.neighbour();
    let port = Caller::own(&guest).bind_virq(3, 0).unwrap().get();
    let shared = Shared {
        guest: &guest,
        domid: guest.domid,
    };
    let is_told = || {
        let is_pending = shared.is_pending(port);
        shared.clear_pending(port);
        shared.take();
        is_pending
    };
    assert!(!is_told());
    // An exception for which it has no handler.
    let mut regs = neighbour.regs;
    (regs.entry_vector, regs.error_code) = (6, 0);
    let next = entry::handle_exception(&guest.host, &guest.other_cpu, &mut regs);
    assert_eq!(next, Next::Schedule);
    assert!(is_told(), "it has crashed");
    let domain = guest.host.domains.get(neighbour.domid).unwrap();
    stop(&guest.host, &guest.other_cpu, &domain);
    assert!(is_told(), "and was shut down");
    let undo = UndoQueue::new();
    let memory = guest.host.memory(&guest.cpu, &undo);
    let (domains, mut budget) = (&guest.host.domains, Budget::ENDLESS);
    let progress = teardown::release(memory, domains, &domain, &mut budget);
    assert_eq!(progress, Progress::Done);
    assert!(
        !guest
            .host
            .reap_domain(&guest.cpu, neighbour.domid, &mut { Budget::FULL })
    );
    assert!(!is_told(), "somebody refers to it");
    drop(domain);
    assert!(
        guest
            .host
            .reap_domain(&guest.cpu, neighbour.domid, &mut { Budget::FULL })
    );
    assert!(is_told(), "it is gone");
    // And by itself.
    let neighbour = guest.neighbour();
    let mut regs = neighbour.regs;
    let at = GuestAddr::new(DATA);
    guest.other_cpu.write_guest(at, &0_u32).unwrap();
    (regs.rax, regs.rdi, regs.rsi) = (Hypercall::SchedOp.number(), 2, DATA);
    regs.entry_vector = ENTRY_SYSCALL;
    let next = entry::handle_syscall(&guest.host, &guest.other_cpu, &mut regs);
    assert_eq!((next, is_told()), (Next::Schedule, true));
}

#[test]
fn the_end_of_a_domain_disconnects_all_its_ports_in_steps() {
    let guest = Guest::ordinary();
    let free = guest.host.frames.statistics().free;
    let neighbour = guest.neighbour();
    let mut own = Caller::own(&guest);
    let mut other = Caller::neighbour(&guest, &neighbour);
    let mut mine = Vec::new();
    for _ in 0..40 {
        let port = own.alloc(neighbour.domid).unwrap();
        other.connect(guest.domid, port).unwrap();
        mine.push(port.get());
        let port = other.alloc(guest.domid).unwrap();
        mine.push(own.connect(neighbour.domid, port).unwrap().get());
    }
    fill(&mut other, 30);
    let domain = guest.host.domains.get(neighbour.domid).unwrap();
    stop(&guest.host, &guest.other_cpu, &domain);
    let undo = UndoQueue::new();
    let memory = guest.host.memory(&guest.cpu, &undo);
    let mut steps = 0;
    loop {
        steps += 1;
        let mut budget = Budget::new(55);
        let domains = &guest.host.domains;
        if teardown::release(memory, domains, &domain, &mut budget) == Progress::Done {
            break;
        }
        // Whatever is left works, and what is not says so.
        for &port in &mine {
            assert_eq!(own.send(port), 0);
            assert!([1, 2].contains(&own.status(port)));
        }
    }
    assert!(steps > 20);
    assert!(is_empty(&guest, neighbour.domid));
    for &port in &mine {
        assert_eq!(own.status(port), 1);
    }
    // Nobody makes it a new one.
    assert_eq!(
        domain.events.reserve(memory, |_| false).map(drop),
        Err(Errno::EINVAL)
    );
    drop(domain);
    assert!(
        guest
            .host
            .reap_domain(&guest.cpu, neighbour.domid, &mut { Budget::FULL })
    );
    // All but our own page of ports.
    assert_eq!(guest.host.frames.statistics().free, free - 1);
    let shared = Shared {
        guest: &guest,
        domid: guest.domid,
    };
    shared.take();
    for &port in &mine {
        assert_eq!((own.send(port), own.close(port)), (0, 0));
    }
}
