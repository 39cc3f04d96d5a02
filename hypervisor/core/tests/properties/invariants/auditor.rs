//! I3, I4: the auditor counts, and notices.

use super::*;

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
