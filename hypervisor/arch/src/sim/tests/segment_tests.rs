//! Descriptor windows and loads of selectors.

use super::*;
use crate::registers::NotCanonical;
use crate::{DataSelectors, TableOffset};

const DATA: u64 = 0x12cf_f234_5678_ffff;
const DATA_BASE: u64 = 0x1234_5678;
const READABLE_CODE: u64 = 0x00af_fa00_0000_ffff;
const EXECUTE_ONLY: u64 = 0x00af_f800_0000_ffff;
const ACCESSED: u64 = 1 << 40;

/// A machine, and two frames of descriptors.
fn start() -> (Machine, Cpu, Mfn, Mfn) {
    let (machine, _) = Machine::new(SimConfig::new(16 * MIB));
    let start = machine.take_free_ranges()[0].start;
    let cpu = machine.cpu(CpuId::BOOT);
    (machine, cpu, start, Mfn::new(start.get() + 1))
}

fn put(machine: &Machine, frame: Mfn, index: usize, descriptor: u64) {
    machine
        .mem()
        .store_u64(frame.at(index * 8), descriptor)
        .unwrap();
}

#[test]
fn a_guest_without_tables_has_the_flat_segments_alone() {
    let (_machine, cpu, ..) = start();
    for selector in 0..=u16::MAX {
        let loaded = cpu.guest_loads_gs(selector);
        match selector {
            0..4 | 0xe020..=0xe023 | 0xe028..=0xe02b | 0xe030..=0xe033 => {
                assert_eq!(loaded, Ok(0), "{selector:#x}");
            }
            _ => {
                let code = u32::from(selector & !3);
                assert_eq!(loaded, Err(SegmentFault::GeneralProtection(code)));
            }
        }
    }
    assert_eq!(cpu.descriptor_pages(), []);
}

#[test]
fn pages_of_the_gdt() {
    let (machine, cpu, first, second) = start();
    put(&machine, first, 1, DATA);
    put(&machine, second, 511, DATA);
    cpu.map_gdt_page(0, Some(first));
    cpu.map_gdt_page(13, Some(second));
    cpu.map_gdt_page(14, Some(second));
    assert_eq!(cpu.descriptor_pages(), [first, second]);
    let last = 13 * 0x1000 + 511 * 8 + 3;
    assert_eq!(cpu.guest_loads_gs(0xb), Ok(DATA_BASE));
    assert_eq!(cpu.gs_base(), DATA_BASE);
    assert_eq!(cpu.guest_loads_gs(last), Ok(DATA_BASE));
    for frame in [(first, 1), (second, 511)] {
        let marked = machine.mem().load_u64(frame.0.at(frame.1 * 8));
        assert_eq!(marked, Ok(DATA | ACCESSED), "by the CPU, as on hardware");
    }
    cpu.map_gdt_page(0, None);
    assert_eq!(
        cpu.guest_loads_gs(0xb),
        Err(SegmentFault::GeneralProtection(8))
    );
    assert_eq!(cpu.descriptor_pages(), [second]);
}

#[test]
fn what_can_be_loaded_as_data() {
    let (machine, cpu, frame, _) = start();
    cpu.map_gdt_page(0, Some(frame));
    let refused = Err(SegmentFault::GeneralProtection(8));
    let ring = |descriptor: u64, dpl: u64| descriptor & !(3 << 45) | dpl << 45;
    let conforming = READABLE_CODE | 4 << 40;
    for (descriptor, result) in [
        (DATA, Ok(DATA_BASE)),
        (READABLE_CODE, Ok(0)),
        (EXECUTE_ONLY, refused),
        (ring(DATA, 0), refused),
        (ring(DATA, 2), refused),
        (ring(READABLE_CODE, 1), refused),
        (ring(conforming, 0), Ok(0)),
        (DATA & !(1 << 47), Err(SegmentFault::NotPresent(8))),
        (DATA & !(1 << 44), refused),
        (0, refused),
    ] {
        put(&machine, frame, 1, descriptor);
        assert_eq!(cpu.guest_loads_gs(0xb), result, "{descriptor:#x}");
    }
}

#[test]
fn an_ldt_is_missed_page_by_page() {
    let (machine, cpu, first, second) = start();
    put(&machine, first, 0, DATA);
    put(&machine, second, 1, DATA);
    let missing = SegmentFault::GeneralProtection(4);
    assert_eq!(cpu.guest_loads_gs(7), Err(missing), "no LDT");
    cpu.load_ldt(514);
    assert_eq!(cpu.guest_loads_gs(7), Err(SegmentFault::PageFault));
    let missed = || cpu.table_offset_of(cpu.fault_address());
    assert_eq!(missed(), Some(TableOffset::Ldt(0)));
    assert_eq!(cpu.guest_loads_gs(0x100f), Err(SegmentFault::PageFault));
    assert_eq!(missed(), Some(TableOffset::Ldt(0x1008)));
    cpu.map_ldt_page(0, Some(first));
    cpu.map_ldt_page(1, Some(second));
    assert_eq!(cpu.guest_loads_gs(7), Ok(DATA_BASE));
    assert_eq!(cpu.guest_loads_gs(0x100f), Ok(DATA_BASE));
    let beyond = SegmentFault::GeneralProtection(0x1014);
    assert_eq!(cpu.guest_loads_gs(0x1017), Err(beyond), "514 entries");
    assert_eq!(cpu.descriptor_pages(), [first, second]);
    cpu.map_ldt_page(0, None);
    cpu.load_ldt(0);
    assert_eq!(cpu.guest_loads_gs(7), Err(missing));
    assert_eq!(cpu.descriptor_pages(), [second]);
}

#[test]
fn gs_of_user_mode_takes_any_selector_and_leaves_the_base_of_now() {
    let (machine, cpu, frame, _) = start();
    put(&machine, frame, 1, DATA);
    cpu.map_gdt_page(0, Some(frame));
    cpu.load_ldt(1);
    cpu.set_gs_base(0x7000).unwrap();
    for (selector, loaded, base) in [
        (0, 0, 0),
        (3, 3, 0),
        (0xb, 0xb, DATA_BASE),
        (8, 0xb, DATA_BASE),
        (0x13, 0, 0),
        (0xb, 0xb, DATA_BASE),
        // A page of the LDT that is not mapped.
        (7, 0, 0),
        // The hypervisor's own data segment.
        (0xe010, 0, 0),
        (0xe02b, 0xe02b, 0),
        (0xffff, 0, 0),
    ] {
        cpu.load_user_gs_selector(selector);
        assert_eq!(cpu.read_selectors().gs, loaded, "{selector:#x}");
        assert_eq!(cpu.user_gs_base(), base, "{selector:#x}");
        assert_eq!(cpu.gs_base(), 0x7000);
    }
}

#[test]
fn selectors_that_cannot_be_loaded_become_null() -> Result<(), NotCanonical> {
    let (machine, cpu, frame, _) = start();
    put(&machine, frame, 1, DATA);
    cpu.map_gdt_page(0, Some(frame));
    let good = DataSelectors {
        ds: 0xb,
        es: 0xe02b,
        fs: 0xb,
        gs: 3,
    };
    cpu.set_gs_base(0x7000)?;
    assert_eq!(cpu.load_selectors(&good), Ok(()));
    assert_eq!(cpu.read_selectors(), good);
    assert_eq!((cpu.fs_base(), cpu.gs_base()), (DATA_BASE, 0x7000));
    let bad = DataSelectors { es: 0x13, ..good };
    assert_eq!(cpu.load_selectors(&bad), Err(crate::BadSelector));
    assert_eq!(cpu.read_selectors(), DataSelectors { es: 0, ..good });
    Ok(())
}
