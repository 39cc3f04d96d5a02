//! I5 to I8: what a guest may reach, by which entries.

use dom0_abi::addr::Maddr;

use super::*;

#[test]
fn i05_no_cpu_reaches_a_frame_that_changes_hands() {
    let gives_away = |config| {
        let mut world = World::new(config);
        let mfn = world.frame(1, MAPPED);
        for seat in 0..2 {
            assert!(world.write(1, seat, linear(MAPPED), &[0x11; 8]));
        }
        assert_eq!(world.map(1, MAPPED, 0, 0), 0);
        let undo = UndoQueue::new();
        let (from, to) = (world.players[1].id, world.players[2].id);
        let memory = world.memory(4, &undo);
        memory.release_domain_frame(mfn, from).unwrap();
        let mut others = Vec::new();
        let held = loop {
            let held = memory.alloc(0, Placement::Anywhere).unwrap();
            if held.start() == mfn {
                break held;
            }
            others.push(held);
        };
        memory.assign(held, to, Scrub::Zero).unwrap();
        drop(others);
        let came_through = (0..2).any(|seat| world.write(1, seat, linear(MAPPED), &[0x22; 8]));
        let word = world.host.mem().next_nonzero_word(mfn, 0).unwrap();
        // Nobody has a place for it in a table, but everything else is as it should be.
        assert_eq!(came_through, word.is_some());
        assert_eq!(came_through, world.check().is_err());
        came_through
    };
    for config in all_modes() {
        assert!(!gives_away(config));
        assert!(
            gives_away(Config {
                forgets_flushes: true,
                ..config
            }),
            "this would not be noticed"
        );
    }
}

/// Bits of an entry of an ordinary domain that a guest may set, beside the present one and those of the frame.
fn is_allowed(level: usize, bit: u32) -> bool {
    match bit {
        // Write, user, accessed, dirty, and what is for software.
        1 | 2 | 5 | 6 | 9..=11 | 52..=63 => true,
        8 => level == 1,
        _ => false,
    }
}

#[test]
fn i06_only_bits_that_are_on_the_list() {
    for l1tf in [false, true] {
        let mut world = World::new(Config {
            l1tf,
            ..Config::of(0)
        });
        for (level, table, target) in [(1, L1, READABLE), (2, L2, L1), (3, L3, L2), (4, ROOT, L3)] {
            for bit in (1..12).chain(52..64) {
                let at = world.at(1, table, 300);
                let entry = (world.to(1, target, 0) & !USER) | 1 << bit;
                let wanted = if is_allowed(level, bit) { 0 } else { INVALID };
                assert_eq!(
                    world.update(1, SELF, &[(at, entry)]),
                    wanted,
                    "level {level} bit {bit}"
                );
                // The same in a table that is checked as a whole.
                assert_eq!(world.update(1, SELF, &[(at, 0)]), 0);
                let fresh = world.frame(1, UNMAPPED);
                let in_it = fresh.start().get() + 8 * 300;
                assert_eq!(world.update(1, SELF, &[(in_it, entry)]), 0);
                let pinned = world.extended(1, PIN_L1 + level as u32 - 1, fresh);
                assert_eq!(pinned, wanted, "level {level} bit {bit}");
                if pinned == 0 {
                    world.sound();
                    assert_eq!(world.extended(1, UNPIN, fresh), 0);
                }
                assert_eq!(world.update(1, SELF, &[(in_it, 0)]), 0);
            }
            // Not present, and it names memory.
            let at = world.at(1, table, 300);
            let hidden = world.to(1, target, 0) & !PRESENT;
            let wanted = if l1tf { INVALID } else { 0 };
            assert_eq!(world.update(1, SELF, &[(at, hidden)]), wanted);
            assert_eq!(world.update(1, SELF, &[(at, 0xfff << 52)]), 0);
        }
        world.sound();
    }
}

#[test]
fn i07_slots_of_a_root_are_the_hypervisors() {
    for config in all_modes() {
        i07_in_a_world(World::new(config));
    }
}

fn i07_in_a_world(mut world: World) {
    for slot in 256..272 {
        for entry in [0, world.to(1, L3, WRITABLE)] {
            let at = world.at(1, ROOT, slot);
            assert_eq!(world.update(1, SELF, &[(at, entry)]), INVALID);
        }
    }
    let fresh = world.frame(1, UNMAPPED);
    let l3 = world.to(1, L3, WRITABLE);
    for slot in [0, 256, 260, 271] {
        let at = world.at(1, UNMAPPED, slot);
        assert_eq!(world.update(1, SELF, &[(at, l3)]), 0);
    }
    assert_eq!(world.extended(1, NEW_ROOT, fresh), 0);
    for slot in 256..272 {
        let entry = world.host.mem().load_u64(fresh.at(slot * 8)).unwrap();
        if slot == SPARE_SLOT && world.config.xpti {
            // Where its twin is: nothing that a CPU follows.
            let end = world.host.frames.end().get();
            assert!(entry & PRESENT == 0 && entry >> 12 >= end);
            continue;
        }
        assert_eq!(Some(entry), world.host.machine.root_entry(slot));
    }
    world.sound();
}

#[test]
fn i08_nothing_of_others_is_reached() {
    let mut world = world();
    let at = world.at(1, L1, 400);
    let machine = &world.host.machine;
    let m2p = machine.m2p_frames().start.start().get();
    let ours = machine.root_entry(257).unwrap() & !0xfff;
    let foreign = [world.to(0, READABLE, 0), world.to(2, READABLE, 0)];
    for entry in foreign.into_iter().chain([m2p | 5, ours | 5]) {
        for flags in [0, WRITABLE] {
            assert_eq!(world.update(1, SELF, &[(at, entry | flags)]), BUSY);
        }
    }
    for device in [0_u64, 0xb8, 0xfee00, 0xfec00, 0x10_0000] {
        let entry = device << 12 | 7;
        let result = world.update(1, SELF, &[(at, entry)]);
        assert!(result == FORBIDDEN || result == BUSY, "{device:#x}");
    }
    // Whoever has the hardware may look at what the hypervisor uses of it.
    let mine = world.at(0, L1, 400);
    for (device, writable) in [(0xfec00_u64, 0), (0xfec01, 0), (0xfec02, WRITABLE)] {
        assert_eq!(world.update(0, SELF, &[(mine, device << 12 | 7)]), 0);
        let entry = world.host.mem().load_u64(Maddr::new(mine & !3)).unwrap();
        assert_eq!(entry & WRITABLE, writable, "{device:#x}");
    }
    // Tables of others.
    for table in [ROOT, L3, L2] {
        let at = world.at(1, table, 9);
        for other in [0, 2] {
            for target in [ROOT, L3, L2, L1, UNMAPPED] {
                let entry = world.to(other, target, WRITABLE);
                assert_eq!(world.update(1, SELF, &[(at, entry)]), INVALID);
            }
        }
    }
    // In their name, which only the control domain may use.
    let other = u64::from(world.players[2].id.get());
    let request = (at, world.to(2, READABLE, 0));
    assert_eq!(world.update(1, other, &[request]), FORBIDDEN);
    assert_eq!(world.update(1, (other + 1) << 16, &[request]), FORBIDDEN);
    let at = world.at(0, L1, 400);
    assert_eq!(world.update(0, other, &[(at, request.1)]), 0);
    world.sound();
    world.finish().unwrap();
}
