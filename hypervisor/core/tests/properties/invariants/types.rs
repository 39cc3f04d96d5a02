//! I1, I2: what is a table is nothing else.

use super::*;

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
