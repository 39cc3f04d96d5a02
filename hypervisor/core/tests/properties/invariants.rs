//! Each invariant by itself, in the smallest scene that shows it.

use dom0_abi::addr::Mfn;
use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::xen::{MmuUpdate, MmuextOp};
use oxen_arch::paging_facts::SPARE_SLOT;
use oxen_core::audit::{self, Problem, Tally, Wrong};
use oxen_core::budget::Budget;
use oxen_core::domain::teardown::{self, Progress};
use oxen_core::frame::{Placement, Scrub, TypeState, UndoQueue};
use oxen_core::page_type::hold::Reach;
use oxen_core::page_type::{Level, PageType, TypeRef, promote, undo};
use zerocopy::{FromZeros, IntoBytes};

use crate::ops::{Call, Maker};
use crate::rng::Rng;
use crate::world::{
    ARGS, Config, L1, L2, L3, LOOSE, Outcome, PRESENT, ROOT, USER, WRITABLE, World, linear,
};

const SELF: u64 = 0x7ff0;
const PIN_L1: u32 = 0;
const UNPIN: u32 = 4;
const NEW_ROOT: u32 = 5;
/// A frame that the first table does not map, one that it maps read-only, one that it maps writable.
const UNMAPPED: usize = LOOSE + 2;
const READABLE: usize = LOOSE + 1;
const MAPPED: usize = LOOSE;

const BUSY: i64 = Errno::EBUSY.as_return();
const INVALID: i64 = Errno::EINVAL.as_return();
const FAULT: i64 = Errno::EFAULT.as_return();
const FORBIDDEN: i64 = Errno::EPERM.as_return();

fn all_modes() -> [Config; 3] {
    [(false, false), (true, false), (false, true)].map(|(pcid, xpti)| Config {
        pcid,
        xpti,
        ..Config::of(0)
    })
}

fn world() -> World {
    World::new(Config::of(0))
}

fn returned(outcome: Outcome) -> i64 {
    match outcome {
        Outcome::Returned(value) => value,
        other => panic!("{other:?}"),
    }
}

impl World {
    fn update(&mut self, slot: usize, foreign: u64, list: &[(u64, u64)]) -> i64 {
        let list: Vec<_> = list
            .iter()
            .map(|&(ptr, val)| MmuUpdate { ptr, val })
            .collect();
        let at = linear(ARGS);
        assert!(self.write(slot, 0, at, list.as_bytes()));
        let args = [at, list.len() as u64, 0, foreign, 0];
        returned(self.call_whole(slot, 0, Hypercall::MmuUpdate.number(), args))
    }

    fn extended(&mut self, slot: usize, command: u32, mfn: Mfn) -> i64 {
        let mut op = MmuextOp::new_zeroed();
        (op.cmd, op.arg1) = (command, mfn.get());
        let at = linear(ARGS);
        assert!(self.write(slot, 0, at, op.as_bytes()));
        let args = [at, 1, 0, SELF, 0];
        returned(self.call_whole(slot, 0, Hypercall::MmuextOp.number(), args))
    }

    fn map(&mut self, slot: usize, index: usize, entry: u64, flags: u64) -> i64 {
        let args = [linear(index), entry, flags, 0, 0];
        let number = Hypercall::UpdateVaMapping.number();
        returned(self.call_whole(slot, 0, number, args))
    }

    fn gdt(&mut self, slot: usize, mfn: Mfn) -> i64 {
        assert!(self.write(slot, 0, linear(ARGS), mfn.as_bytes()));
        let args = [linear(ARGS), 512, 0, 0, 0];
        returned(self.call_whole(slot, 0, Hypercall::SetGdt.number(), args))
    }

    fn frame(&self, slot: usize, index: usize) -> Mfn {
        self.players[slot].frames[index]
    }

    /// The machine address of an entry.
    fn at(&self, slot: usize, table: usize, index: u64) -> u64 {
        self.frame(slot, table).start().get() + index * 8
    }

    /// An entry that leads to a frame.
    fn to(&self, slot: usize, index: usize, flags: u64) -> u64 {
        self.players[slot].entry(index, flags | PRESENT | USER)
    }

    fn ty(&self, slot: usize, index: usize) -> Option<PageType> {
        match self.host.frames.type_state(self.frame(slot, index)) {
            Some(TypeState::InUse { ty, .. }) => Some(ty),
            _ => None,
        }
    }

    fn sound(&mut self) {
        self.check().unwrap();
    }
}

#[test]
fn i01_no_way_to_write_to_a_table() {
    let mut world = world();
    for table in [ROOT, L3, L2, L1] {
        let entry = world.to(1, table, WRITABLE);
        assert_eq!(world.map(1, table, entry, 2), BUSY);
        let at = world.at(1, L1, UNMAPPED as u64);
        assert_eq!(world.update(1, SELF, &[(at, entry)]), BUSY);
        assert!(!world.write(1, 0, linear(table), &[0; 8]));
        assert!(world.read(1, 0, linear(table), &mut [0; 8]));
    }
    let mapped = world.frame(1, MAPPED);
    for level in 0..4 {
        assert_eq!(world.extended(1, PIN_L1 + level, mapped), INVALID);
    }
    assert_eq!(world.gdt(1, mapped), INVALID);
    world.sound();
}

/// Writes to a page, unmaps it without a flush, makes it something that must not be written to, and tries again, by both
/// CPUs. Returns whether that came through.
fn stale_write(config: Config, make: impl Fn(&mut World, Mfn) -> i64) -> bool {
    let mut world = World::new(config);
    for seat in 0..2 {
        assert!(world.write(1, seat, linear(MAPPED), &[0; 8]));
    }
    assert_eq!(world.map(1, MAPPED, 0, 0), 0);
    for seat in 0..2 {
        assert!(
            world.write(1, seat, linear(MAPPED), &[0; 8]),
            "the model remembers"
        );
    }
    let mfn = world.frame(1, MAPPED);
    assert_eq!(make(&mut world, mfn), 0);
    let came_through = (0..2).any(|seat| world.write(1, seat, linear(MAPPED), &[0xff; 8]));
    assert_eq!(came_through, world.check().is_err());
    came_through
}

#[test]
fn i01_what_a_cpu_remembers_is_flushed_before_a_page_is_a_table() {
    let makes: [fn(&mut World, Mfn) -> i64; 3] = [
        |world, mfn| world.extended(1, PIN_L1, mfn),
        |world, mfn| {
            let at = world.at(1, L2, 5);
            world.update(1, SELF, &[(at, mfn.start().get() | 7)])
        },
        |world, mfn| world.gdt(1, mfn),
    ];
    for make in makes {
        for config in all_modes() {
            assert!(!stale_write(config, make));
            let broken = Config {
                forgets_flushes: true,
                ..config
            };
            assert!(stale_write(broken, make), "this would not be noticed");
        }
    }
}

#[test]
fn i02_a_type_changes_only_when_nobody_uses_it() {
    let mut world = world();
    let frame = world.frame(1, UNMAPPED);
    assert_eq!(world.extended(1, PIN_L1, frame), 0);
    for level in 1..4 {
        assert_eq!(world.extended(1, PIN_L1 + level, frame), INVALID);
    }
    assert_eq!(world.gdt(1, frame), INVALID);
    let entry = world.to(1, UNMAPPED, WRITABLE);
    assert_eq!(world.map(1, UNMAPPED, entry, 0), BUSY);
    let at = world.at(1, L3, 7);
    let as_l2 = world.to(1, UNMAPPED, WRITABLE);
    assert_eq!(world.update(1, SELF, &[(at, as_l2)]), INVALID);
    // A second use keeps it a table behind the end of the first.
    let at = world.at(1, L2, 7);
    assert_eq!(world.update(1, SELF, &[(at, as_l2)]), 0);
    assert_eq!(world.extended(1, UNPIN, frame), 0);
    assert_eq!(world.map(1, UNMAPPED, entry, 0), BUSY);
    assert_eq!(world.update(1, SELF, &[(at, 0)]), 0);
    assert_eq!(world.ty(1, UNMAPPED), None);
    assert_eq!(world.map(1, UNMAPPED, entry, 0), 0);
    assert_eq!(world.ty(1, UNMAPPED), Some(PageType::Writable));
    assert_eq!(world.extended(1, PIN_L1, frame), INVALID);
    world.sound();
}

#[test]
fn i02_no_table_leads_to_one_of_its_own_level() {
    let mut world = world();
    for (table, targets) in [
        (ROOT, [ROOT, L2, L1]),
        (L3, [ROOT, L3, L1]),
        (L2, [ROOT, L3, L2]),
    ] {
        for target in targets {
            let request = (world.at(1, table, 9), world.to(1, target, WRITABLE));
            assert_eq!(world.update(1, SELF, &[request]), INVALID);
        }
    }
    world.sound();
}

/// What the auditor says about a machine on which somebody tampered with something.
fn findings(world: &World) -> Vec<Problem> {
    let mut tallies = vec![Tally::default(); world.host.frames.end().get() as usize];
    let mut found = Vec::new();
    audit::audit(&world.host, &mut tallies, &mut |finding| {
        found.push(finding.what);
    })
    .unwrap();
    found
}

#[test]
fn i03_i04_the_auditor_notices_what_is_wrong() {
    type Case = (fn(&World), fn(&Problem) -> bool);
    fn put(world: &World, table: usize, index: usize, entry: u64) {
        let at = world.frame(1, table).at(index * 8);
        world.host.mem().store_u64(at, entry).unwrap();
    }
    let cases: [Case; 10] = [
        // A read-only entry that nobody counted.
        (
            |world| put(world, L1, 400, world.to(1, UNMAPPED, 0)),
            |what| {
                matches!(
                    what,
                    Problem::General {
                        recorded: 1,
                        found: 2
                    }
                )
            },
        ),
        // One that is gone.
        (
            |world| put(world, L1, READABLE, 0),
            |what| {
                matches!(
                    what,
                    Problem::General {
                        recorded: 2,
                        found: 1
                    }
                )
            },
        ),
        (
            |world| put(world, L1, MAPPED, 0),
            |what| {
                matches!(
                    what,
                    Problem::Types {
                        recorded: 1,
                        found: 0
                    }
                )
            },
        ),
        // A way to write to a table (I1).
        (
            |world| put(world, L1, L2, world.to(1, L2, WRITABLE)),
            |what| {
                let needed = PageType::Writable;
                matches!(what, Problem::OtherType { needed: ty, .. } if *ty == needed)
            },
        ),
        // A page of 2 MiB (I6).
        (
            |world| put(world, L2, 8, 0x20_0087),
            |what| {
                matches!(
                    what,
                    Problem::Entry {
                        wrong: Wrong::Bits,
                        ..
                    }
                )
            },
        ),
        // A slot of ours (I7).
        (
            |world| put(world, ROOT, 257, 0),
            |what| matches!(what, Problem::Slot { index: 257, .. }),
        ),
        // The frame table, and somebody else's page (I8).
        (
            |world| put(world, L1, 400, 0x40_0000 | 7),
            |what| {
                matches!(
                    what,
                    Problem::Entry {
                        wrong: Wrong::Hypervisor,
                        ..
                    }
                )
            },
        ),
        (
            |world| put(world, L1, 400, world.to(2, UNMAPPED, 0)),
            |what| {
                matches!(
                    what,
                    Problem::Entry {
                        wrong: Wrong::Foreign(_),
                        ..
                    }
                )
            },
        ),
        // References that nobody has.
        (
            |world| {
                let undo = UndoQueue::new();
                let memory = world.memory(2, &undo);
                let id = world.players[1].id;
                std::mem::forget(memory.acquire(world.frame(1, UNMAPPED), id).unwrap());
            },
            |what| {
                matches!(
                    what,
                    Problem::General {
                        recorded: 2,
                        found: 1
                    }
                )
            },
        ),
        (
            |world| {
                let undo = UndoQueue::new();
                let memory = world.memory(2, &undo);
                let id = world.players[1].id;
                let held = TypeRef::writable(memory, world.frame(1, UNMAPPED), id);
                let _lost = held.unwrap().into_held();
            },
            |what| {
                matches!(
                    what,
                    Problem::Types {
                        recorded: 1,
                        found: 0
                    }
                )
            },
        ),
    ];
    for (number, (tamper, expected)) in cases.into_iter().enumerate() {
        let world = world();
        assert_eq!(findings(&world), []);
        tamper(&world);
        let found = findings(&world);
        assert!(found.iter().any(expected), "case {number}: {found:?}");
    }
}

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
fn alike(seed: u64, mut differ: impl FnMut(&mut World, &mut Rng)) {
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
            let Call { call, args, data } = &call;
            // Lists are longer than what is put there, sometimes.
            let clean = |world: &World| {
                let page = linear(ARGS) - 16;
                world.write(1, seat, page, &[0; 0x2010])
            };
            let put = |world: &World| {
                clean(world)
                    && data
                        .iter()
                        .all(|(at, bytes)| world.write(1, seat, *at, bytes))
            };
            plain.host.machine.spoil_guest_reads(false);
            other.host.machine.spoil_guest_reads(false);
            if !(put(&plain) && put(&other)) {
                // The guest took its own memory away.
                return;
            }
            differ(&mut other, &mut extra);
            let number = call.number();
            let first = plain.call_whole(1, seat, number, *args);
            let second = other.call_whole(1, seat, number, *args);
            other.host.machine.spoil_guest_reads(false);
            other.host.set_entry_budget(Budget::ENDLESS);
            if first != second {
                // Only a TLB may make a difference: the guest took its own memory away, and one CPU does not know yet.
                plain.cpu(1, seat).flush_tlb();
                assert!(
                    !put(&plain),
                    "seed {seed} step {step}: {first:?}, {second:?}: {call:?} {args:x?} {data:x?}"
                );
                return;
            }
            if first == Outcome::Gone {
                return;
            }
            let difference = plain.books().difference(&other.books());
            assert_eq!(
                difference, None,
                "seed {seed} step {step}: {call:?} {args:x?} {data:x?}"
            );
        }
    }
    other.check().unwrap();
}

#[test]
fn i10_what_was_preempted_ends_as_what_was_not() {
    for seed in 0..24 {
        alike(seed, |world, rng| {
            // The least with which a tree of four levels gets on: each of its tables costs something at each entry.
            let budget = Budget::new(84 + rng.below(60) as u32);
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
        let progress = teardown::release(memory, &domain, &mut Budget::new(99_999));
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
        });
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
