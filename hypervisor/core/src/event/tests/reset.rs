//! The end of all ports, in steps.

use dom0_abi::errno::Errno;
use dom0_abi::ids::{DomId, Port};

use super::{Caller, Shared};
use crate::budget::Budget;
use crate::domain::teardown::{self, Progress};
use crate::event::word::Binding;
use crate::frame::UndoQueue;
use crate::testing::{CODE, DATA, Guest};
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
    domain.shut_down(3);
    entry::stop(&guest.host, &guest.other_cpu);
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
    assert!(guest.host.reap_domain(&guest.cpu, neighbour.domid));
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
