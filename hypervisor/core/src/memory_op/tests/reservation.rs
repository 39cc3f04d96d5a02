//! `increase_reservation`, `populate_physmap`, `decrease_reservation`.

use super::*;
use MemoryCommand::{DecreaseReservation, IncreaseReservation, PopulatePhysmap};

#[test]
fn i11_frames_come_zeroed_with_their_pfns_and_go() {
    let mut guest = guest();
    let (pages, free) = (guest.pages(), guest.free());
    guest.put(LIST, &[70_u64, 1 << 40, u64::MAX - 1]);
    assert_eq!(guest.ask(PopulatePhysmap, &reservation(3, 0)), 3);
    let mfns: [u64; 3] = guest.list(LIST);
    assert_eq!(
        mfns.map(|mfn| guest.pfn(mfn)),
        [Some(70), Some(1 << 40), Some(u64::MAX - 1)]
    );
    for mfn in mfns {
        assert!(guest.is_own(mfn) && guest.is_zero(mfn));
        guest.soil(mfn);
    }
    assert_eq!((guest.pages(), guest.free()), (pages + 3, free - 3));
    guest.audit();
    assert_eq!(guest.ask(DecreaseReservation, &reservation(3, 0)), 3);
    assert_eq!(guest.list(LIST), mfns, "the list is as it was");
    assert_eq!((guest.pages(), guest.free()), (pages, free));
    assert_eq!(mfns.map(|mfn| guest.pfn(mfn)), [None; 3]);
    assert_eq!(guest.ask(DecreaseReservation, &reservation(3, 0)), 0);
    assert_eq!(guest.ask(IncreaseReservation, &reservation(3, 0)), 3);
    for mfn in guest.list::<3>(LIST) {
        assert!(guest.is_own(mfn) && guest.is_zero(mfn));
        assert_eq!(guest.pfn(mfn), None);
    }
    guest.audit();
}

#[test]
fn large_extents_are_prepared_in_steps_and_come_whole() {
    for units in [30, 100, Budget::FULL.units()] {
        let mut guest = guest();
        guest.host.set_entry_budget(Budget::new(units));
        let (pages, free) = (guest.pages(), guest.free());
        for order in 0..=9 {
            let size = 1_u64 << order;
            guest.put(LIST, &7_u64);
            guest.put(ARGUMENT, &reservation(1, order));
            let (done, times) = guest.memory_op(PopulatePhysmap as u64, ARGUMENT);
            assert_eq!(done, 1, "order {order}");
            // Seven units a frame; what was clean already need not be cleaned.
            assert!(u64::from(times) <= size * 7 / u64::from(units / 7 * 7) + 2);
            let first: u64 = guest.get(LIST);
            assert_eq!(first % size, 0);
            assert_eq!((guest.pages(), guest.free()), (pages + size, free - size));
            for (offset, mfn) in (0..size).zip(first..) {
                assert!(guest.is_own(mfn) && guest.is_zero(mfn));
                assert_eq!(guest.pfn(mfn), Some(7 + offset));
                guest.soil(mfn);
            }
            guest.audit();
            let (done, times) = guest.memory_op(DecreaseReservation as u64, ARGUMENT);
            assert_eq!(done, 1);
            assert_eq!(times > 0, size * 9 > u64::from(units), "order {order}");
            assert_eq!((guest.pages(), guest.free()), (pages, free));
        }
        guest.put(LIST, &7_u64);
        for order in [10, 12, 18, 19, 32, 63, 64, u32::MAX] {
            assert_eq!(guest.ask(PopulatePhysmap, &reservation(1, order)), 0);
            assert_eq!(guest.ask(IncreaseReservation, &reservation(1, order)), 0);
            assert_eq!(guest.ask(DecreaseReservation, &reservation(1, order)), 0);
        }
        assert_eq!((guest.pages(), guest.free()), (pages, free));
        guest.audit();
    }
}

/// What an unfinished call has zeroed is not zeroed again, and nothing else of it stays.
#[test]
fn a_call_that_is_never_gone_on_with_keeps_nothing() {
    let mut guest = guest();
    let (pages, free) = (guest.pages(), guest.free());
    guest.put(LIST, &7_u64);
    guest.put(ARGUMENT, &reservation(1, 9));
    let rip = guest.regs.rip;
    guest.regs.rax = Hypercall::MemoryOp.number();
    (guest.regs.rdi, guest.regs.rsi) = (PopulatePhysmap as u64, ARGUMENT);
    assert_eq!(guest.syscall(), Next::Guest);
    assert_eq!(guest.regs.rip, rip - 2, "it is not done");
    assert_eq!((guest.pages(), guest.free()), (pages, free));
    assert_eq!(guest.get::<u64>(LIST), 7);
    guest.audit();
}

#[test]
fn what_cannot_be_told_is_not_done() {
    let mut guest = guest();
    let (pages, free) = (guest.pages(), guest.free());
    for address in HOSTILE.into_iter().chain([READ_ONLY]) {
        let listed = |guest: &mut Guest, command| {
            let argument = MemoryReservation {
                extent_start: at(address),
                ..reservation(2, 0)
            };
            guest.ask(command, &argument)
        };
        assert_eq!(listed(&mut guest, PopulatePhysmap), 0);
        assert_eq!(listed(&mut guest, DecreaseReservation), 0);
        if address != 0 {
            assert_eq!(listed(&mut guest, IncreaseReservation), 0);
        }
        for command in [PopulatePhysmap, DecreaseReservation, IncreaseReservation] {
            if address != READ_ONLY {
                assert_eq!(guest.memory_op(command as u64, address).0, 0);
            }
        }
        assert_eq!((guest.pages(), guest.free()), (pages, free), "{address:#x}");
    }
    // The second element is out of reach.
    let argument = MemoryReservation {
        extent_start: at(DATA_END - 8),
        ..reservation(2, 0)
    };
    assert_eq!(guest.ask(IncreaseReservation, &argument), 1);
    assert_eq!((guest.pages(), guest.free()), (pages + 1, free - 1));
    // Nobody wants to know.
    let argument = MemoryReservation {
        extent_start: at(0),
        ..reservation(2, 0)
    };
    assert_eq!(guest.ask(IncreaseReservation, &argument), 2);
    assert_eq!((guest.pages(), guest.free()), (pages + 3, free - 3));
    guest.put(LIST, &[1_u64, 2]);
    guest.put(ARGUMENT, &reservation(2, 3));
    guest.host.machine.fail_guest_write(2);
    assert_eq!(guest.memory_op(PopulatePhysmap as u64, ARGUMENT).0, 1);
    assert_eq!((guest.pages(), guest.free()), (pages + 11, free - 11));
    guest.audit();
}

#[test]
fn i16_progress_that_a_guest_makes_up_changes_what_is_done_and_nothing_else() {
    let mut guest = guest();
    guest.put(LIST, &[1_u64, 2, 3]);
    guest.put(ARGUMENT, &reservation(3, 0));
    let pages = guest.pages();
    for command in [PopulatePhysmap, DecreaseReservation, IncreaseReservation] {
        for progress in [3, 4, 1 << 26, 1 << 27, 1 << 34, 1 << 50, (1 << 58) - 1] {
            let command = command as u64 | progress << CONTINUATION_SHIFT;
            assert_eq!(guest.memory_op(command, ARGUMENT).0, progress as i64);
        }
    }
    assert_eq!((guest.pages(), guest.list(LIST)), (pages, [1, 2, 3]));
    let command = PopulatePhysmap as u64 | 2 << CONTINUATION_SHIFT;
    assert_eq!(guest.memory_op(command, ARGUMENT).0, 3);
    assert_eq!(guest.list(LIST), [1, 2]);
    assert_eq!(guest.pages(), pages + 1);
    // Within an extent that is given back.
    guest.put(LIST, &7_u64);
    assert_eq!(guest.ask(PopulatePhysmap, &reservation(1, 2)), 1);
    let first: u64 = guest.get(LIST);
    let command = DecreaseReservation as u64 | (3 << 26) << CONTINUATION_SHIFT;
    assert_eq!(guest.memory_op(command, ARGUMENT).0, 1);
    assert_eq!(guest.pages(), pages + 4);
    assert!(guest.is_own(first + 2) && !guest.is_own(first + 3));
    for count in [0, 1 << 26, 1 << 32, u64::MAX] {
        assert_eq!(guest.ask(PopulatePhysmap, &reservation(count, 0)), 0);
    }
    guest.audit();
}

#[test]
fn a_frame_in_use_counts_until_it_is_not() {
    let mut guest = guest();
    let pages = guest.pages();
    guest.put(LIST, &[7_u64, 8]);
    assert_eq!(guest.ask(PopulatePhysmap, &reservation(2, 0)), 2);
    let [mfn, _] = guest.list(LIST);
    let held = guest.domain(|domain| {
        let memory = guest.host.memory(&guest.cpu, &domain.undo);
        let held = TypeRef::writable(memory, Mfn::new(mfn), domain.id);
        held.unwrap().into_held()
    });
    assert_eq!(guest.ask(DecreaseReservation, &reservation(1, 0)), 1);
    assert_eq!(guest.pages(), pages + 2);
    assert_eq!(guest.pfn(mfn), Some(7));
    assert_eq!(guest.ask(DecreaseReservation, &reservation(1, 0)), 0);
    guest.domain(|domain| {
        let memory = guest.host.memory(&guest.cpu, &domain.undo);
        drop(TypeRef::from_held(memory, held));
    });
    assert_eq!((guest.pages(), guest.pfn(mfn)), (pages + 1, None));
    // Tables and the shared page stay.
    for mfn in [guest.root, guest.shared_info] {
        guest.put(LIST, &mfn.get());
        assert_eq!(guest.ask(DecreaseReservation, &reservation(1, 0)), 0);
        assert!(guest.is_own(mfn.get()));
    }
    guest.audit();
}

#[test]
fn i20_no_domain_gets_more_than_its_limit_or_the_reserve() {
    let mut guest = guest();
    let pages = guest.pages();
    guest.domain(|domain| domain.memory.limit.store(pages + 5, Ordering::Relaxed));
    assert_eq!(guest.ask(IncreaseReservation, &reservation(3, 1)), 2);
    assert_eq!(guest.ask(IncreaseReservation, &reservation(3, 0)), 1);
    assert_eq!(guest.pages(), pages + 5);
    guest.domain(|domain| domain.memory.limit.store(u64::MAX, Ordering::Relaxed));
    let null = MemoryReservation {
        extent_start: at(0),
        ..reservation((1 << 26) - 1, 0)
    };
    let free = guest.free();
    assert_eq!(guest.ask(IncreaseReservation, &null) as u64, free - RESERVE);
    assert_eq!(guest.free(), RESERVE);
    assert_eq!(guest.pages(), pages + 5 + free - RESERVE);
    guest.audit();
}

#[test]
fn i28_other_domains_are_for_who_controls_them() {
    let mut guest = limited(Guest::ordinary());
    let neighbour = guest.neighbour();
    let count = guest.host.frames.count_of(neighbour.domid);
    for domid in [neighbour.domid, DomId::new(1), DomId::IO, DomId::XEN] {
        guest.put(LIST, &1_u64);
        let argument = MemoryReservation {
            domid,
            ..reservation(1, 0)
        };
        assert_eq!(guest.ask(PopulatePhysmap, &argument), 0);
        assert_eq!(guest.ask(IncreaseReservation, &argument), 0);
    }
    assert_eq!(guest.host.frames.count_of(neighbour.domid), count);
    // It may name extents of 2 MiB and no larger ones.
    assert_eq!(guest.ask(PopulatePhysmap, &reservation(1, 9)), 1);
    assert_eq!(guest.ask(PopulatePhysmap, &reservation(1, 10)), 0);

    let mut guest = self::guest();
    let neighbour = guest.neighbour();
    let limit = |domid| {
        let domain = guest.host.domains.get(domid).unwrap();
        domain.memory.limit.store(1000, Ordering::Relaxed);
    };
    limit(neighbour.domid);
    let pages = guest.pages();
    let argument = MemoryReservation {
        domid: neighbour.domid,
        ..reservation(1, 3)
    };
    guest.put(LIST, &5_u64);
    assert_eq!(guest.ask(PopulatePhysmap, &argument), 1);
    let mfn = Mfn::new(guest.get(LIST));
    assert!(guest.host.frames.is_of(mfn, neighbour.domid));
    assert_eq!(guest.pages(), pages);
    guest.audit();
    // Not as its own.
    assert_eq!(guest.ask(DecreaseReservation, &reservation(1, 3)), 0);
    assert_eq!(guest.ask(DecreaseReservation, &argument), 1);
    guest.audit();
}
