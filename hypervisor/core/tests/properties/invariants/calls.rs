//! I9 to I13: calls that are refused, preempted, given up, lied to.

use super::*;

#[test]
fn i09_what_is_refused_changes_nothing() {
    let mut world = world();
    let device = 0xb8 << 12 | 7;
    let bad = [
        world.to(1, L2, WRITABLE),
        world.to(2, MAPPED, WRITABLE),
        world.to(1, MAPPED, 0) | 0x80,
        device,
        world.to(1, MAPPED, 0) | 1 << 50,
    ];
    // A table in which the last entry is not allowed.
    let fresh = world.frame(1, UNMAPPED);
    let start = fresh.start().get();
    for (index, flags) in [(3, 0), (7, WRITABLE), (511, 0x80)] {
        let entry = world.to(1, MAPPED, flags);
        assert_eq!(world.update(1, SELF, &[(start + index * 8, entry)]), 0);
    }
    world.map(1, MAPPED, 0, 2);
    let before = world.books();
    let flushes = |world: &World| {
        let flushes = |seat| world.cpu(1, seat).registers().full_flushes;
        [flushes(0), flushes(1)]
    };
    let flushed = flushes(&world);
    for entry in bad {
        for index in [MAPPED, READABLE, L2, 400] {
            let at = world.at(1, L1, index as u64);
            assert!(world.update(1, SELF, &[(at, entry)]) < 0);
            assert_eq!(before.difference(&world.books()), None, "{entry:#x}");
        }
        for table in [ROOT, L3, L2] {
            for index in [0, 2, 5, 256] {
                let at = world.at(1, table, index);
                assert!(world.update(1, SELF, &[(at, entry | 0x100)]) < 0);
                assert_eq!(before.difference(&world.books()), None);
            }
        }
        assert!(world.map(1, READABLE, entry, 4 | 1) < 0);
    }
    assert_eq!(flushes(&world), flushed, "nobody was flushed");
    for level in 0..4 {
        assert_eq!(world.extended(1, PIN_L1 + level, fresh), INVALID);
        assert_eq!(before.difference(&world.books()), None);
    }
    assert!(world.gdt(1, world.frame(1, L2)) < 0);
    assert_eq!(before.difference(&world.books()), None);
    world.sound();
}

/// Plays the same calls on two worlds that differ as `differ` says; both must end alike.
fn alike(seed: u64, differ: impl FnMut(&mut World, &mut Rng)) {
    alike_by(seed, differ, Call::clone);
}

/// The same, and the other world hears of each call in other words.
fn alike_by(
    seed: u64,
    mut differ: impl FnMut(&mut World, &mut Rng),
    retell: impl Fn(&Call) -> Call,
) {
    let config = Config {
        wild: false,
        ..Config::of(seed)
    };
    let [mut plain, mut other] = [World::new(config), World::new(config)];
    plain.host.set_entry_budget(Budget::ENDLESS);
    let (mut rng, mut extra) = (Rng::new(seed), Rng::new(!seed));
    for step in 0..300 {
        plain.refresh(1);
        let seat = rng.below(2) as usize;
        let ops = Maker::new(plain.scene(), &mut rng, 1, seat).calls();
        for call in ops {
            let retold = retell(&call);
            // Lists are longer than what is put there, sometimes.
            let clean = |world: &World| {
                let page = linear(ARGS) - 16;
                world.write(1, seat, page, &[0; 0x2010])
            };
            let put = |world: &World, call: &Call| {
                let mut data = call.data.iter();
                clean(world) && data.all(|(at, bytes)| world.write(1, seat, *at, bytes))
            };
            plain.host.machine.spoil_guest_reads(false);
            other.host.machine.spoil_guest_reads(false);
            if !(put(&plain, &call) && put(&other, &retold)) {
                // The guest took its own memory away.
                return;
            }
            differ(&mut other, &mut extra);
            let first = plain.call_whole(1, seat, call.call.number(), call.args);
            let second = other.call_whole(1, seat, retold.call.number(), retold.args);
            other.host.machine.spoil_guest_reads(false);
            other.host.set_entry_budget(Budget::ENDLESS);
            if first != second {
                // Only a TLB may make a difference: the guest took its own memory away, and one CPU does not know yet.
                plain.cpu(1, seat).flush_tlb();
                assert!(
                    !put(&plain, &call),
                    "seed {seed} step {step}: {first:?}, {second:?}: {call:x?}"
                );
                return;
            }
            if first == Outcome::Gone {
                return;
            }
            let difference = plain.books().difference(&other.books());
            assert_eq!(difference, None, "seed {seed} step {step}: {call:x?}");
        }
    }
    other.check().unwrap();
}

#[test]
fn i10_what_was_preempted_ends_as_what_was_not() {
    for seed in 0..24 {
        alike(seed, |world, rng| {
            // The least with which a tree of four levels gets on: each of its tables costs something at each entry.
            let budget = Budget::new(90 + rng.below(60) as u32);
            world.host.set_entry_budget(budget);
        });
    }
}

#[test]
fn i10_what_was_abandoned_leaves_nothing_behind() {
    for abandoned_at in 0..14 {
        let mut world = world();
        let fresh: Vec<_> = (0..4).map(|n| world.frame(1, UNMAPPED + 3 * n)).collect();
        for level in 1..4 {
            for index in [1, 77, 511] {
                let at = fresh[level].start().get() + index * 8;
                let entry = fresh[level - 1].start().get() | 7;
                assert_eq!(world.update(1, SELF, &[(at, entry)]), 0);
            }
        }
        for index in 0..90 {
            let at = fresh[0].start().get() + index * 40;
            let entry = world.to(1, READABLE, 0);
            assert_eq!(world.update(1, SELF, &[(at, entry)]), 0);
        }
        let mut op = MmuextOp::new_zeroed();
        (op.cmd, op.arg1) = (3, fresh[3].get());
        assert!(world.write(1, 0, linear(ARGS), op.as_bytes()));
        world.host.set_entry_budget(Budget::new(30));
        let args = [linear(ARGS), 1, 0, SELF, 0];
        let mut outcome = world.call(1, 0, Hypercall::MmuextOp.number(), args);
        for _ in 0..abandoned_at {
            world.sound();
            if outcome == Outcome::Pending {
                outcome = world.resume(1, 0);
            }
        }
        world.sound();
        assert!(abandoned_at > 5 || outcome == Outcome::Pending);
        world.finish().unwrap();
    }
}

/// One vCPU gives a frame back while another one pins it: each found it as it wanted it.
#[test]
fn i10_a_pinned_table_that_was_given_back_goes_with_its_domain() {
    let mut world = world();
    let frame = world.frame(1, UNMAPPED);
    assert_eq!(world.extended(1, PIN_L1, frame), 0);
    let undo = UndoQueue::new();
    let memory = world.memory(2, &undo);
    let id = world.players[1].id;
    memory.release_domain_frame(frame, id).unwrap();
    world.sound();
    world.finish().unwrap();
}

/// The control domain pins a table of a domain that ends just then.
#[test]
fn i10_nothing_is_pinned_for_a_domain_that_ended() {
    let mut world = world();
    let (frame, id) = (world.frame(1, UNMAPPED), world.players[1].id);
    let undo = UndoQueue::new();
    world.kill(1);
    {
        let domain = world.host.domains.get(id).unwrap();
        let memory = world.memory(0, &undo);
        let reach = Reach::own(&world.host, &domain);
        let ty = PageType::Table(Level::L1);
        let table = promote::acquire(memory, &reach, frame, ty, &mut Budget::new(9999)).unwrap();
        let progress = teardown::release(
            memory,
            &world.host.domains,
            &domain,
            &mut Budget::new(99_999),
        );
        assert_eq!(progress, Progress::Done);
        assert_eq!(table.pin(), Err(Errno::EINVAL));
        assert!(undo::drain(memory, &mut Budget::new(9999)));
    }
    world.sound();
    world.finish().unwrap();
}

#[test]
fn i11_a_frame_that_a_domain_gets_holds_nothing() {
    let mut world = world();
    for index in (LOOSE..).step_by(3).take(10) {
        assert!(world.write(1, 0, linear(index), &[0x5a; 4096]));
    }
    let old: Vec<_> = world.players[1].frames.clone();
    world.kill(1);
    world.tear_down(0, 0, Budget::ENDLESS);
    // `fresh_frame` looks at each.
    world.kill(2);
    world.kill(1);
    let reused = |slot: usize| {
        world.players[slot]
            .frames
            .iter()
            .any(|mfn| old.contains(mfn))
    };
    assert!(reused(1) || reused(2), "frames come back");
    world.sound();
}

#[test]
fn i12_what_a_guest_says_is_read_once() {
    for seed in 100..124 {
        alike(seed, |world, _| {
            world.host.set_entry_budget(Budget::ENDLESS);
            world.host.machine.spoil_guest_reads(true);
            world.goes_straight = false;
        });
    }
}

/// Calls that may go the straight way (`hypercall::at_once`), on a machine that does not know of it.
#[test]
fn i01_a_call_at_once_is_the_same_call() {
    for seed in 240..272 {
        alike(seed, |world, _| {
            world.host.set_entry_budget(Budget::ENDLESS);
            world.goes_straight = false;
        });
    }
}

/// Calls that the straight way for L1 entries (`mmu::update`) carries out, in words that it does not know.
#[test]
fn i01_the_straight_way_does_what_the_general_one_does() {
    let retell = |call: &Call| {
        let mut call = call.clone();
        match call.call {
            Hypercall::UpdateVaMapping => {
                call.call = Hypercall::UpdateVaMappingOtherdomain;
                call.args[3] = SELF;
            }
            Hypercall::MmuUpdate => {
                let requests = call.data.iter_mut().filter(|(at, _)| *at == call.args[0]);
                for request in requests.flat_map(|(_, bytes)| bytes.chunks_exact_mut(16)) {
                    // ABI: `public/xen.h`, `MMU_NORMAL_PT_UPDATE`, `MMU_PT_UPDATE_NO_TRANSLATE`: for us they are the same.
                    if request[0] & 7 == 0 {
                        request[0] |= 3;
                    }
                }
            }
            _ => {}
        }
        call
    };
    for seed in 200..232 {
        let endless = |world: &mut World, _: &mut Rng| {
            world.host.set_entry_budget(Budget::ENDLESS);
        };
        alike_by(seed, endless, retell);
    }
}

#[test]
fn i13_lists_are_checked_where_they_are_touched() {
    let mut world = world();
    // The last page below the hole of addresses.
    let requests = [
        (ROOT, 255, L3),
        (L3, 511, L2),
        (L2, 511, L1),
        (L1, 511, MAPPED),
    ]
    .map(|(table, index, target)| (world.at(1, table, index), world.to(1, target, WRITABLE)));
    assert_eq!(world.update(1, SELF, &requests), 0);
    let last = 0x7fff_ffff_fff0;
    let request = [world.at(1, L1, 400), world.to(1, READABLE, 0)];
    assert!(world.write(1, 0, last, request.as_bytes()));
    let before = world.books();
    let places = [
        (last, 2),
        (last - 8, 1 << 30),
        (0x0000_8000_0000_0000, 1),
        (0xffff_8000_0000_0000, 1),
        (0xffff_87ff_ffff_fff0, 1),
        (0xffff_87ff_ffff_fff8, 2),
        (u64::MAX - 7, 1),
        (linear(LOOSE + 400), 1),
    ];
    for (at, count) in places {
        for call in [
            Hypercall::MmuUpdate,
            Hypercall::MmuextOp,
            Hypercall::Multicall,
        ] {
            let result = world.call_whole(1, 0, call.number(), [at, count, 0, SELF, 0]);
            // The first request of a list that leaves the page may have been anything.
            if at != last && at != last - 8 {
                assert_eq!(returned(result), FAULT, "{call:?} {at:#x}");
            }
        }
        let gdt = world.call_whole(1, 0, Hypercall::SetGdt.number(), [at, 5000, 0, 0, 0]);
        assert!(returned(gdt) < 0);
    }
    assert_eq!(before.difference(&world.books()), None);
    // The whole of a request is in reach here.
    let args = [last, 1, 0, SELF, 0];
    let done = world.call_whole(1, 0, Hypercall::MmuUpdate.number(), args);
    assert_eq!(returned(done), 0);
    assert_ne!(before.difference(&world.books()), None);
    // Nothing is written where a guest has nothing.
    for done in [
        0xffff_8000_0000_0000,
        0xffff_87ff_ffff_fffc,
        1 << 47,
        last + 14,
    ] {
        let args = [last, 1, done, SELF, 0];
        let call = world.call_whole(1, 0, Hypercall::MmuUpdate.number(), args);
        assert_eq!(returned(call), 0, "as Xen does");
    }
    let entry = world.host.machine.m2p().get(world.frame(1, MAPPED));
    assert_eq!(entry, None);
    world.sound();
}
