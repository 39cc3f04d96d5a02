use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::DomId;
use dom0_abi::xen::{MmuUpdate, MmuextOp};
use oxen_arch::boot::CpuId;
use oxen_arch::sync::atomic::{AtomicBool, Ordering};
use oxen_arch::tlb::TlbStamp;
use proptest::prelude::*;
use zerocopy::FromZeros;

use super::*;
use crate::audit::{self, Finding, Problem, Tally};
use crate::budget::Budget;
use crate::frame::{RESERVE, TypeState, UndoQueue};
use crate::page_type::entry::Entry;
use crate::page_type::hold::{Hold, Reach};
use crate::page_type::{Level, PageType, Stop, promote, undo};
use crate::testing::{DATA, Guest, failure, frame};

const ROOT: PageType = PageType::Table(Level::L4);
const TABLE: u64 = 7;
const SELF: u64 = 0x7ff0;

fn entries(guest: &Guest, table: Mfn) -> Vec<u64> {
    let load = |index| guest.host.mem().load_u64(table.word(index)).unwrap();
    (0..512).map(load).collect()
}

fn twin_of(guest: &Guest, root: Mfn) -> Option<Mfn> {
    of(&guest.host.machine, &guest.host.frames, root)
}

fn is_ours(index: usize) -> bool {
    (256..272).contains(&index)
}

fn assert_equal(guest: &Guest, root: Mfn) {
    let twin = twin_of(guest, root).expect("a root in use has a twin");
    for (index, (root, twin)) in entries(guest, root)
        .into_iter()
        .zip(entries(guest, twin))
        .enumerate()
    {
        if is_ours(index) {
            assert_eq!(Some(twin), guest.host.machine.twin_entry(index));
        } else {
            assert_eq!(twin, root, "slot {index}");
        }
    }
}

fn findings(guest: &Guest) -> Vec<Problem> {
    let mut tallies = vec![Tally::NONE; guest.host.frames.end().get() as usize];
    let mut found = Vec::new();
    let mut report = |finding: Finding| found.push(finding.what);
    audit::audit(&guest.host, &mut tallies, &mut report).unwrap();
    found
}

fn free(guest: &Guest) -> u64 {
    guest.host.frames.statistics().free
}

fn twins(guest: &Guest) -> u64 {
    guest.host.frames.twins_of(guest.domid)
}

/// A fresh frame of the domain.
fn page(guest: &Guest) -> Mfn {
    let undo = UndoQueue::new();
    frame(guest.host.memory(&guest.cpu, &undo), guest.domid)
}

fn extended(guest: &mut Guest, cmd: u32, mfn: Mfn) -> i64 {
    let mut op = MmuextOp::new_zeroed();
    (op.cmd, op.arg1) = (cmd, mfn.get());
    guest.put(DATA, &op);
    guest.call(Hypercall::MmuextOp, [DATA, 1, 0, SELF])
}

fn pin(guest: &mut Guest, level: u32, mfn: Mfn) -> i64 {
    extended(guest, level - 1, mfn)
}

fn unpin(guest: &mut Guest, mfn: Mfn) -> i64 {
    extended(guest, 4, mfn)
}

fn update(guest: &mut Guest, table: Mfn, index: usize, entry: u64) -> i64 {
    let update = MmuUpdate {
        ptr: table.word(index).get(),
        val: entry,
    };
    guest.put(DATA, &update);
    guest.call(Hypercall::MmuUpdate, [DATA, 1, 0, SELF])
}

const GREEDY: DomId = DomId::new(8);

/// Lets another domain have all that a twin could be made of.
fn exhaust(guest: &Guest) -> Vec<Mfn> {
    let undo = UndoQueue::new();
    let memory = guest.host.memory(&guest.cpu, &undo);
    let mut all = Vec::new();
    while free(guest) > RESERVE {
        all.push(frame(memory, GREEDY));
    }
    all
}

fn relieve(guest: &Guest, all: Vec<Mfn>) {
    let undo = UndoQueue::new();
    let memory = guest.host.memory(&guest.cpu, &undo);
    for mfn in all {
        memory.release_domain_frame(mfn, GREEDY).unwrap();
    }
}

/// Whether the frame has no type, and how many refer to it.
fn uses(guest: &Guest, mfn: Mfn) -> (bool, u32) {
    let frames = &guest.host.frames;
    let is_untyped = matches!(frames.type_state(mfn), Some(TypeState::None { .. }));
    (is_untyped, frames.reference_count(mfn))
}

/// A root with a table of each level but the last below it, in use by nobody.
fn tree(guest: &Guest) -> [Mfn; 3] {
    let tables = [(); 3].map(|()| page(guest));
    for (table, below) in tables.iter().zip(&tables[1..]) {
        let entry = below.start().get() | TABLE;
        guest.host.mem().store_u64(table.word(1), entry).unwrap();
    }
    tables
}

#[test]
fn a_note_leads_nowhere_and_comes_back() {
    for mfn in [0, 1, 0x1234, 0xffff_fffe, u64::from(u32::MAX)].map(Mfn::new) {
        let entry = note(mfn);
        assert_eq!(noted(entry), mfn);
        assert!(!Entry(entry).is_present());
        // Beyond what 32 bits of frame number reach.
        assert!(Entry(entry).mfn().get() > u64::from(u32::MAX));
    }
    assert!(noted(0).get() > u64::from(u32::MAX));
}

#[test]
fn a_root_in_use_has_a_twin_of_its_own_and_the_domain_is_charged() {
    let mut guest = Guest::on_twins();
    assert_equal(&guest, guest.root);
    let fresh = page(&guest);
    let l3 = page(&guest);
    let (free_before, twins_before) = (free(&guest), twins(&guest));
    assert_eq!(twins_before, 1);
    let entry = l3.start().get() | TABLE;
    for index in [0, 255, 256, SPARE_SLOT, 271, 272, 511] {
        let at = fresh.word(index);
        guest.host.mem().store_u64(at, entry).unwrap();
    }
    assert_eq!(pin(&mut guest, 4, fresh), 0);
    assert_equal(&guest, fresh);
    assert_ne!(twin_of(&guest, fresh), twin_of(&guest, guest.root));
    assert_eq!((free(&guest), twins(&guest)), (free_before - 1, 2));
    // The twin is nobody's.
    let twin = twin_of(&guest, fresh).unwrap();
    assert_eq!(guest.host.frames.owner(twin), None);
    for result in [
        pin(&mut guest, 1, twin),
        pin(&mut guest, 4, twin),
        update(&mut guest, fresh, 3, twin.start().get() | TABLE),
        update(&mut guest, twin, 3, entry),
    ] {
        assert!(result < 0, "{result}");
    }
    assert_eq!(findings(&guest), []);

    assert_eq!(unpin(&mut guest, fresh), 0);
    assert_eq!(twin_of(&guest, fresh), None);
    assert_eq!((free(&guest), twins(&guest)), (free_before, twins_before));
    let stamped = guest.host.frames.type_state(twin).unwrap();
    assert!(matches!(stamped, TypeState::None { stamp, .. } if stamp != TlbStamp::NEVER));
    assert_eq!(findings(&guest), []);
}

#[test]
fn without_need_there_are_no_twins() {
    let mut guest = Guest::ordinary();
    let fresh = page(&guest);
    let before = free(&guest);
    assert_eq!(pin(&mut guest, 4, fresh), 0);
    assert_eq!((free(&guest), twins(&guest)), (before, 0));
    let entries = entries(&guest, fresh);
    assert_eq!(
        Some(entries[SPARE_SLOT]),
        guest.host.machine.root_entry(SPARE_SLOT)
    );
    assert_eq!(findings(&guest), []);
}

#[test]
fn without_memory_a_root_is_refused_and_nothing_stays() {
    let mut guest = Guest::on_twins();
    let tables = tree(&guest);
    let [root, l3, _] = tables;
    let all = exhaust(&guest);
    let before = (free(&guest), twins(&guest));
    // As a pin, as either root, from the start and where all below is ready.
    for is_l3_pinned in [false, true] {
        if is_l3_pinned {
            assert_eq!(pin(&mut guest, 3, l3), 0);
        }
        for cmd in [3, 5, 15] {
            assert_eq!(
                extended(&mut guest, cmd, root),
                failure(Errno::ENOMEM),
                "command {cmd}"
            );
            assert_eq!(uses(&guest, root), (true, 1));
            assert_eq!(uses(&guest, l3).0, !is_l3_pinned);
            assert_eq!(before, (free(&guest), twins(&guest)));
            assert_eq!(findings(&guest), []);
        }
    }
    assert_eq!(unpin(&mut guest, l3), 0);
    relieve(&guest, all);
    assert_eq!(pin(&mut guest, 4, root), 0);
    assert_equal(&guest, root);
    assert_eq!(findings(&guest), []);
}

#[test]
fn a_domain_has_its_share_of_twins() {
    let mut guest = Guest::on_twins();
    let pages: Vec<_> = (0..64).map(|_| page(&guest)).collect();
    let share = guest.host.frames.count_of(guest.domid) / 8 + 16;
    let mut pinned = Vec::new();
    let refused = loop {
        let next = pages[pinned.len()];
        match pin(&mut guest, 4, next) {
            0 => pinned.push(next),
            result => break result,
        }
    };
    assert_eq!(refused, failure(Errno::ENOMEM));
    assert_eq!(twins(&guest), share);
    assert_eq!(pinned.len() as u64 + 1, share, "the root in use is one");
    let last = pages[pinned.len()];
    assert_eq!(uses(&guest, last), (true, 1));
    // Others have a share of their own.
    let neighbour = guest.neighbour();
    assert_eq!(guest.host.frames.twins_of(neighbour.domid), 1);
    // Who gives one back may have another.
    assert_eq!(unpin(&mut guest, pinned[0]), 0);
    assert_eq!(pin(&mut guest, 4, last), 0);
    assert!(pin(&mut guest, 4, pinned[0]) < 0);
    assert_eq!(findings(&guest), []);
}

#[test]
fn what_a_guest_writes_into_the_slot_names_no_twin() {
    let mut guest = Guest::on_twins();
    let [root, l3, _] = tree(&guest);
    let entry = l3.start().get() | TABLE;
    let own = note(twin_of(&guest, guest.root).unwrap());
    assert_eq!(pin(&mut guest, 4, root), 0);
    let former = note(twin_of(&guest, root).unwrap());
    assert_eq!(unpin(&mut guest, root), 0);
    let before = (free(&guest), twins(&guest));
    let any = note(page(&guest));
    let before = (before.0 - 1, before.1);
    for forged in [own, former, any, note(root), 0, u64::MAX, !own] {
        // The last slot is refused when all others have been checked.
        for (index, bad) in [(511, 1 << 7 | entry), (0, entry | 1 << 8)] {
            let put = |index, entry| {
                let at = root.word(index);
                guest.host.mem().store_u64(at, entry).unwrap();
            };
            put(SPARE_SLOT, forged);
            put(index, bad);
            assert_eq!(pin(&mut guest, 4, root), failure(Errno::EINVAL));
            assert_eq!((free(&guest), twins(&guest)), before, "{forged:#x}");
            assert_equal(&guest, guest.root);
            assert_eq!(findings(&guest), []);
            let at = root.word(index);
            guest.host.mem().store_u64(at, 0).unwrap();
        }
        let at = root.word(SPARE_SLOT);
        guest.host.mem().store_u64(at, forged).unwrap();
        assert_eq!(pin(&mut guest, 4, root), 0);
        assert_equal(&guest, root);
        assert_eq!(unpin(&mut guest, root), 0);
        assert_eq!((free(&guest), twins(&guest)), before);
    }
}

#[test]
fn what_stops_half_way_has_no_twin_yet() {
    let guest = Guest::on_twins();
    let [root, l3, l2] = tree(&guest);
    let before = (free(&guest), twins(&guest));
    let domain = guest.host.domains.get(guest.domid).unwrap();
    let memory = guest.host.memory(&guest.cpu, &domain.undo);
    let reach = Reach::own(&guest.host, &domain);
    let mut stops = 0;
    for units in 0..100 {
        let mut budget = Budget::new(units);
        match promote::acquire(memory, &reach, root, ROOT, &mut budget) {
            Err(stop) => {
                assert_eq!(stop, Stop::Again);
                assert_eq!((free(&guest), twins(&guest)), before);
                assert_eq!(twin_of(&guest, root), None);
                stops += 1;
                // Given up here, or gone on with by the next round.
                if units % 2 == 0 {
                    for mfn in [root, l3, l2] {
                        promote::abandon(memory, mfn);
                    }
                    assert!(undo::drain(memory, &mut Budget::new(u32::MAX)));
                    assert_eq!(uses(&guest, root), (true, 1));
                }
            }
            Ok(held) => {
                assert_equal(&guest, root);
                drop(held);
                assert_eq!(twins(&guest), before.1 + 1, "until it is undone");
                assert_eq!(findings(&guest), []);
                // The twin goes first, however often the rest stops.
                let mut spent = Budget::new(20);
                assert!(!undo::drain(memory, &mut spent));
                assert_eq!((free(&guest), twins(&guest)), before);
                assert_eq!(findings(&guest), []);
                assert!(undo::drain(memory, &mut Budget::new(u32::MAX)));
            }
        }
        assert_eq!(findings(&guest), []);
    }
    assert!(stops > 20);
}

#[test]
fn the_auditor_sees_what_is_wrong_with_a_twin() {
    let guest = Guest::on_twins();
    let (root, mem) = (guest.root, guest.host.mem());
    let twin = twin_of(&guest, root).unwrap();
    assert_eq!(findings(&guest), []);
    for index in [0, 1, 255, 257, 262, SPARE_SLOT, 272, 511] {
        let at = twin.word(index);
        let right = mem.load_u64(at).unwrap();
        let entry = right ^ 0x5000;
        mem.store_u64(at, entry).unwrap();
        let index = index as u16;
        assert_eq!(findings(&guest), [Problem::Twin { index, entry }]);
        mem.store_u64(at, right).unwrap();
    }
    let at = root.word(SPARE_SLOT);
    mem.store_u64(at, 0).unwrap();
    let found = findings(&guest);
    assert!(found.contains(&Problem::NoTwin), "{found:?}");
    assert!(found.contains(&Problem::StrayTwin(root)), "{found:?}");
    let is_account = |what: &Problem| {
        matches!(
            what,
            Problem::Twins {
                recorded: 1,
                found: 0,
                ..
            }
        )
    };
    assert!(found.iter().any(is_account), "{found:?}");
    mem.store_u64(at, note(twin)).unwrap();
    assert_eq!(findings(&guest), []);
}

/// Whoever holds the lock finds both pages alike, and what they hold refers to what is counted.
#[test]
fn two_cpus_that_write_the_same_slot_leave_both_alike() {
    let guest = Guest::on_twins();
    let [root, first, _] = tree(&guest);
    let second = page(&guest);
    let domain = guest.host.domains.get(guest.domid).unwrap();
    let reach = Reach::own(&guest.host, &domain);
    let memory = guest.host.memory(&guest.cpu, &domain.undo);
    let held = promote::acquire(memory, &reach, root, ROOT, &mut Budget::new(u32::MAX)).unwrap();
    let twin = twin_of(&guest, root).unwrap();
    let is_done = AtomicBool::new(false);
    let wanted = [0, first.start().get() | 0x27, second.start().get() | 0x27];
    let host = &guest.host;
    let write = |cpu, begin: usize| {
        let (cpu, undo) = (host.machine.cpu(cpu), UndoQueue::new());
        let memory = host.memory(&cpu, &undo);
        let root = promote::acquire(memory, &reach, root, ROOT, &mut Budget::new(u32::MAX));
        let root = root.unwrap();
        let mut exchanges = 0;
        for turn in 0..20_000 {
            let new = Entry(wanted[(begin + turn) % 3]);
            let mut budget = Budget::new(u32::MAX);
            let taken = Hold::take(&memory, &reach, Level::L4, new, &mut budget);
            // The other CPU is at the table, or it waits in one of the queues.
            let Ok(hold) = taken else {
                undo::drain(memory, &mut Budget::new(u32::MAX));
                continue;
            };
            let old = Entry(memory.mem().load_u64(root.mfn().word(1)).unwrap());
            let new = hold.entry();
            if exchange(memory, root.held(), 1, old, new).unwrap().is_ok() {
                hold.into_entry();
                drop(Hold::from_entry(&memory, Level::L4, old));
                exchanges += 1;
            }
            assert!(undo::drain(memory, &mut Budget::new(u32::MAX)));
        }
        drop(root);
        assert!(undo::drain(memory, &mut Budget::new(u32::MAX)));
        exchanges
    };
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mem = host.mem();
            let mut looks = 0_u32;
            while !is_done.load(Ordering::Relaxed) {
                let pair = || [root, twin].map(|table| mem.load_u64(table.word(1)).unwrap());
                let [in_root, in_twin] = host.frames.with_twin(root, pair).unwrap();
                assert_eq!(in_root, in_twin);
                looks += 1;
                std::thread::sleep(std::time::Duration::from_micros(20));
            }
            looks
        });
        let writers = [(2, 0), (3, 1)]
            .map(|(cpu, begin)| (CpuId::new(cpu), begin))
            .map(|(cpu, begin)| {
                let write = &write;
                scope.spawn(move || write(cpu, begin))
            });
        let exchanges = writers.map(|writer| writer.join().unwrap());
        is_done.store(true, Ordering::Relaxed);
        assert!(watch.join().unwrap() > 0);
        assert!(exchanges.iter().all(|&count| count > 10), "{exchanges:?}");
    });
    assert_equal(&guest, root);
    drop(held);
    assert!(undo::drain(memory, &mut Budget::new(u32::MAX)));
    assert_eq!(findings(&guest), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Updates of any slot, to anything, of roots that come and go.
    #[test]
    fn a_twin_follows_its_root(
        steps in prop::collection::vec((0..8_u8, 0..3_usize, 0..512_usize, 0..4_usize), 1..60),
    ) {
        let mut guest = Guest::on_twins();
        let roots = [(); 3].map(|()| page(&guest));
        let below = [(); 2].map(|()| page(&guest));
        for (what, which, index, value) in steps {
            let root = roots[which];
            match what {
                0 => {
                    pin(&mut guest, 4, root);
                }
                1 => {
                    unpin(&mut guest, root);
                }
                _ => {
                    let entry = match value {
                        0 => 0,
                        3 => 0x8000_0000_0000_0000 | below[0].start().get() | 5,
                        other => below[other - 1].start().get() | TABLE,
                    };
                    let result = update(&mut guest, root, index, entry);
                    prop_assert!(!is_ours(index) || result != 0 || twin_of(&guest, root).is_none());
                }
            }
            for root in roots.into_iter().chain([guest.root]) {
                match guest.host.frames.type_state(root) {
                    Some(TypeState::InUse { ty: ROOT, .. }) => assert_equal(&guest, root),
                    _ => prop_assert_eq!(twin_of(&guest, root), None),
                }
            }
        }
        prop_assert_eq!(findings(&guest), []);
    }
}
