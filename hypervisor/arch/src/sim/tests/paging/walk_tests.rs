//! What a walk through fresh caches finds.

use dom0_abi::addr::Pfn;
use proptest::prelude::*;

use super::*;
use crate::guest_range::GuestFault;

#[test]
fn without_a_root_nothing_is_mapped() {
    let bench = Bench::new(1, 1);
    assert_eq!(read(&bench.cpu(), 0x1000), None);
}

#[test]
fn every_level_must_allow_it() {
    for level in 1..=4 {
        for (lacking, may_read, may_write) in [
            (0, true, true),
            (RW, true, false),
            (US, false, false),
            (P, false, false),
            (FULL, false, false),
        ] {
            let mut bench = Bench::new(u64::from(level), 1);
            let (root, page) = (bench.frame(), bench.page(7));
            let address = 0xffff_c000_1234_5000;
            bench.map(root, address, page, FULL);
            let slot = Bench::slot(bench.table(root, level, address), level, address);
            let entry = bench.machine.mem().load_u64(slot).unwrap();
            bench
                .machine
                .mem()
                .store_u64(slot, entry & !lacking)
                .unwrap();
            let cpu = bench.cpu();
            cpu.load_root(root);
            assert_eq!(
                read(&cpu, address),
                may_read.then_some(7),
                "level {level} lacks {lacking}"
            );
            assert_eq!(
                write(&cpu, address, 8),
                may_write,
                "level {level} lacks {lacking}"
            );
            assert_eq!(bench.name(page), if may_write { 8 } else { 7 });
        }
    }
}

#[test]
fn flags_are_set_as_hardware_sets_them() {
    let mut bench = Bench::new(1, 1);
    let (root, page) = (bench.frame(), bench.page(0));
    let slot = bench.map(root, 0x4000, page, FULL);
    let shown = |at| bench.machine.mem().load_u64(at).unwrap() & (ACCESSED | DIRTY);
    let cpu = bench.cpu();
    cpu.load_root(root);
    assert_eq!(shown(slot), 0);
    read(&cpu, 0x4000);
    assert_eq!(shown(slot), ACCESSED);
    write(&cpu, 0x4000, 1);
    assert_eq!(
        shown(slot),
        ACCESSED | DIRTY,
        "although the translation was cached as clean"
    );
    assert_eq!(shown(root.at(0)), ACCESSED, "upper entries are never dirty");
}

#[test]
fn a_refused_write_leaves_no_mark() {
    let mut bench = Bench::new(1, 1);
    let (root, page) = (bench.frame(), bench.page(0));
    let slot = bench.map(root, 0x4000, page, P | US);
    let cpu = bench.cpu();
    cpu.load_root(root);
    assert!(!write(&cpu, 0x4000, 1));
    assert_eq!(bench.machine.mem().load_u64(slot).unwrap() & DIRTY, 0);
}

#[test]
fn ranges_cross_pages_and_stop_at_the_first_hole() {
    let mut bench = Bench::new(1, 1);
    let (root, low, high) = (bench.frame(), bench.page(0), bench.page(0));
    bench.map(root, 0x1000, high, FULL);
    bench.map(root, 0x2000, low, FULL);
    let cpu = bench.cpu();
    cpu.load_root(root);
    let at = GuestAddr::new(0x1ffe);
    cpu.write_guest_bytes(at, &[1, 2, 3, 4]).unwrap();
    assert_eq!(bench.machine.mem().load_u16(high.at(0xffe)), Ok(0x0201));
    assert_eq!(bench.machine.mem().load_u16(low.at(0)), Ok(0x0403));
    let mut bytes = [0; 4];
    cpu.read_guest_bytes(at, &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2, 3, 4]);
    let fault = Err(GuestFault {
        at: GuestAddr::new(0x3000),
    });
    assert_eq!(
        cpu.write_guest_bytes(GuestAddr::new(0x2ffe), &[5; 4]),
        fault
    );
    assert_eq!(
        bench.machine.mem().load_u16(low.at(0xffe)),
        Ok(0x0505),
        "what lies before is written"
    );
    assert_eq!(
        cpu.write_guest_bytes(GuestAddr::new(0x7fff_ffff_ffff), &[]),
        Ok(())
    );
}

#[test]
fn the_hypervisors_part_and_what_is_not_canonical_are_refused() {
    let mut bench = Bench::new(1, 1);
    let (root, page) = (bench.frame(), bench.page(7));
    // The page is mapped where no guest may look.
    let ours = 0xffff_8000_0000_0000;
    bench.map(root, ours, page, FULL);
    bench.map(root, 0xffff_8800_0000_0000, page, FULL);
    let cpu = bench.cpu();
    cpu.load_root(root);
    assert_eq!(read(&cpu, ours), None);
    assert_eq!(read(&cpu, 0xffff_8800_0000_0000), Some(7));
    assert_eq!(read(&cpu, 0xffff_87ff_ffff_fff8), None);
    assert_eq!(read(&cpu, 0x8000_0000_0000), None);
    let whole = &mut [0; 16];
    assert!(
        cpu.read_guest_bytes(GuestAddr::new(0xffff_87ff_ffff_fff8), whole)
            .is_err()
    );
    assert_eq!(*whole, [0; 16], "nothing was touched");
}

#[test]
fn superpages_and_reserved_bits_are_the_hardwares() {
    let mut bench = Bench::new(1, 1);
    let root = bench.frame();
    let (l3, l2) = (bench.table(root, 3, 0), bench.table(root, 2, 0));
    // The second 2 MiB of memory, as one page at 4 MiB.
    let large = Mfn::new(0x200);
    bench.machine.mem().store_u64(large.at(0x8), 9).unwrap();
    bench.set(Bench::slot(l2, 2, 4 * MIB), large, FULL | PS);
    bench.set(Bench::slot(l2, 2, 6 * MIB), Mfn::new(0x202), FULL | PS);
    bench.set(Bench::slot(l3, 3, 1 << 30), Mfn::new(0), FULL | PS);
    bench.set(Bench::slot(root, 4, 1 << 39), Mfn::new(0), FULL | PS);
    let page = bench.page(5);
    let slot = bench.map(root, 0x5000, page, FULL);
    let cpu = bench.cpu();
    cpu.load_root(root);
    assert_eq!(read(&cpu, 4 * MIB + 8), Some(9));
    assert_eq!(
        read(&cpu, (1 << 30) + 2 * MIB + 8),
        Some(9),
        "the first GiB as one page"
    );
    assert_eq!(
        read(&cpu, 6 * MIB),
        None,
        "address bits below the size are reserved"
    );
    assert_eq!(read(&cpu, 1 << 39), None, "there are no pages of 512 GiB");
    assert_eq!(read(&cpu, 0x5000), Some(5));
    bench.set(slot, page, FULL | 1 << 47);
    cpu.flush_tlb();
    assert_eq!(
        read(&cpu, 0x5000),
        None,
        "an address bit that the CPU does not have"
    );
}

#[test]
fn where_there_is_no_memory_all_bits_are_ones() {
    let mut bench = Bench::new(1, 1);
    let root = bench.frame();
    bench.map(root, 0x1000, Mfn::new(0xfee00), FULL);
    let cpu = bench.cpu();
    cpu.load_root(root);
    assert!(write(&cpu, 0x1000, 5));
    assert_eq!(read(&cpu, 0x1000), Some(u64::MAX));
    cpu.load_root(Mfn::new(0xfee00));
    assert_eq!(read(&cpu, 0x1000), None, "no page table there");
}

#[test]
#[should_panic(expected = "where an object of the hypervisor lives")]
fn a_mapping_of_a_private_frame_is_a_broken_invariant() {
    let mut bench = Bench::new(1, 1);
    let (root, page) = (bench.frame(), bench.page(7));
    bench.map(root, 0x1000, page, FULL);
    let _object =
        crate::memory::FrameBox::new(bench.machine.mem(), range(page.get(), page.get() + 1), 0u8)
            .unwrap();
    let cpu = bench.cpu();
    cpu.load_root(root);
    read(&cpu, 0x1000);
}

#[test]
fn a_guest_may_read_the_machine_to_physical_table() {
    let mut bench = Bench::new(1, 1);
    let (root, page) = (bench.frame(), bench.page(7));
    let index = page.get() % 512;
    let frame = Mfn::new(bench.machine.m2p_frames().start.get() + page.get() / 512);
    bench.map(root, 0x1000, frame, P | US);
    bench.machine.m2p().set(page, Some(Pfn::new(99)));
    let cpu = bench.cpu();
    cpu.load_root(root);
    assert_eq!(read(&cpu, 0x1000 + 8 * index), Some(99));
    assert_eq!(read(&cpu, 0x1000 + 8 * index + 8), Some(u64::MAX));
    assert!(!write(&cpu, 0x1000 + 8 * index, 1));
}

#[test]
#[should_panic(expected = "let it write to frame")]
fn a_writable_mapping_of_the_machine_to_physical_table_is_a_broken_invariant() {
    let mut bench = Bench::new(1, 1);
    let root = bench.frame();
    bench.map(root, 0x1000, bench.machine.m2p_frames().start, FULL);
    let cpu = bench.cpu();
    cpu.load_root(root);
    // Before anything is written.
    read(&cpu, 0x1000);
}

#[test]
#[should_panic(expected = "where an object of the hypervisor lives")]
fn the_machine_to_physical_table_is_no_page_table() {
    let mut bench = Bench::new(1, 1);
    let root = bench.frame();
    bench.table(root, 2, 0x1000);
    let slot = Bench::slot(bench.table(root, 2, 0x1000), 2, 0x1000);
    bench.set(slot, bench.machine.m2p_frames().start, FULL);
    let cpu = bench.cpu();
    cpu.load_root(root);
    read(&cpu, 0x1000);
}

#[test]
fn one_guest_write_can_be_made_to_fail() {
    let mut bench = Bench::new(1, 1);
    let (root, page) = (bench.frame(), bench.page(0));
    bench.map(root, 0x1000, page, FULL);
    let cpu = bench.cpu();
    cpu.load_root(root);
    bench.machine.fail_guest_write(2);
    assert_eq!(
        [1, 2, 3].map(|value| write(&cpu, 0x1000, value)),
        [true, false, true]
    );
}

/// Walks anew, without cache, flags or anything shared with the model.
fn naive(bench: &Bench, root: Mfn, address: u64, write: bool) -> Option<Mfn> {
    let mut table = root;
    for level in [4, 3, 2, 1] {
        let entry = bench
            .machine
            .mem()
            .load_u64(Bench::slot(table, level, address))
            .ok()?;
        if entry & (P | US) != P | US || write && entry & RW == 0 {
            return None;
        }
        table = Mfn::new(entry >> 12 & 0xff_ffff_ffff);
    }
    Some(table)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 128 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn flushed_after_each_change_it_agrees_with_a_naive_walk(
        seed in any::<u64>(),
        steps in prop::collection::vec((1..5u32, 0..3u64, 0..2u64, 0..3u64, 0..8u64, 0..4usize, 0..4u8), 1..40),
    ) {
        let mut bench = Bench::new(seed, 1);
        let roots = [bench.frame(), bench.frame()];
        let pages: Vec<_> = (0..4).map(|name| bench.page(name + 1)).collect();
        let cpu = bench.cpu();
        let mut root = roots[0];
        cpu.load_root(root);
        for (level, a, b, c, flags, page, flush) in steps {
            let address = a << 39 | b << 30 | b << 21 | c << 12;
            let table = bench.table(root, level, address);
            let slot = Bench::slot(table, level, address);
            let old = bench.machine.mem().load_u64(slot).unwrap();
            if level == 1 {
                bench.set(slot, pages[page], flags);
            } else if old & P != 0 {
                // Keeps the table: `Bench::table` goes through whatever is present.
                bench.machine.mem().store_u64(slot, old & !(RW | US) | flags & (RW | US)).unwrap();
            }
            match flush {
                0 => cpu.flush_tlb(),
                1 => _ = cpu.flush_page(GuestAddr::new(address)),
                2 => cpu.load_root(root),
                _ => {
                    root = roots[page % 2];
                    cpu.load_root(root);
                }
            }
            // An upper entry is behind many pages; only the first two ways to flush reach those that are global, and
            // here none is, but `flush_page` reaches the leaves of one page only.
            if flush == 1 && level > 1 {
                cpu.load_root(root);
            }
            for address in [address, address ^ 0x1000, address ^ 1 << 30, address ^ 1 << 39] {
                let expected = naive(&bench, root, address, false).map(|mfn| bench.name(mfn));
                prop_assert_eq!(read(&cpu, address), expected);
                let target = naive(&bench, root, address, true);
                let name = target.map(|mfn| bench.name(mfn));
                prop_assert_eq!(write(&cpu, address, name.unwrap_or(99)), target.is_some());
            }
        }
        for (name, page) in (1..).zip(&pages) {
            prop_assert_eq!(bench.name(*page), name);
        }
    }
}
