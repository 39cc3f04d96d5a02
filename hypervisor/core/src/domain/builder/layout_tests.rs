use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::string::ToString;
use std::vec::Vec;

const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;

fn debian() -> Needs {
    Needs {
        virt_base: KERNEL_BASE,
        kernel_end: 0x4a0_0000,
        nr_pages: 0x2_0000,
        init_p2m: Some(0x80_0000_0000),
        initrd: Some(30 << 20),
        initrd_mapped: false,
    }
}

fn range(start: u64, end: u64) -> PfnRange {
    PfnRange {
        start: Pfn::new(start),
        end: Pfn::new(end),
    }
}

/// The addresses that Debian's Xen 4.17 was seen to give Debian's kernel with dom0_mem=512m.
#[test]
fn debian_gets_what_xen_gives_it() {
    let layout = Layout::new(&debian()).unwrap();
    assert_eq!(layout.va(layout.start_info), 0xffff_ffff_84a0_0000);
    assert_eq!(layout.va(layout.tables.start), 0xffff_ffff_84a0_1000);
    assert_eq!(layout.va(layout.tables.end), 0xffff_ffff_84a2_a000);
    assert_eq!(layout.stack, layout.tables.end);
    assert_eq!(layout.mapped, range(0, 0x4c00));
    assert_eq!(layout.initrd, Some(range(0x4c00, 0x4c00 + 30 * 256)));
    let list = range(0x6a00, 0x6b00);
    let tables = range(0x6b00, 0x6b03);
    let va = 0x80_0000_0000;
    assert_eq!(layout.p2m, P2mPlace::Apart { va, list, tables });
    assert_eq!(layout.rest, Pfn::new(0x6b03));
}

#[test]
fn a_kernel_without_init_p2m_has_the_list_behind_it() {
    let layout = Layout::new(&Needs {
        init_p2m: None,
        initrd_mapped: true,
        ..debian()
    })
    .unwrap();
    assert_eq!(layout.initrd, Some(range(0x4a00, 0x4a00 + 30 * 256)));
    assert_eq!(layout.initrd_behind(), None);
    assert_eq!(layout.p2m, P2mPlace::Mapped(range(0x6800, 0x6900)));
    assert_eq!(layout.start_info, Pfn::new(0x6900));
    assert_eq!(layout.p2m_va(), KERNEL_BASE + 0x680_0000);
    assert_eq!(layout.rest, layout.mapped.end);
}

#[test]
fn spare_pages_follow_the_stack() {
    for kernel_pages in 0x300..0xb00 {
        let layout = Layout::new(&Needs {
            kernel_end: kernel_pages << 12,
            ..debian()
        })
        .unwrap();
        let spare = (layout.mapped.end.get() - layout.stack.get() - 1) * 4096;
        assert!((512 << 10..(4 << 20) + (512 << 10)).contains(&spare));
        assert_eq!(layout.mapped.end.get() % 1024, 0);
    }
}

#[test]
fn a_p2m_window_shares_the_tables_it_can() {
    let tables = |va| match Layout::new(&Needs {
        init_p2m: Some(va),
        ..debian()
    })
    .unwrap()
    .p2m
    {
        P2mPlace::Apart { tables, .. } => tables.len(),
        P2mPlace::Mapped(_) => panic!(),
    };
    // Another L4 slot; two L1s there; the same L4 slot; the same L3 slot; the L2 table, too.
    assert_eq!(tables(0x80_0000_0000), 3);
    assert_eq!(tables(0x80_001f_f000), 4);
    assert_eq!(tables(0xffff_ff80_0000_0000), 2);
    assert_eq!(tables(0xffff_ffff_c000_0000), 2);
    assert_eq!(tables(0xffff_ffff_84c0_0000), 1);
    assert_eq!(tables(0xffff_ffff_7ff0_0000), 2);
}

#[test]
fn what_does_not_fit_is_named() {
    let error = |needs: Needs| Layout::new(&needs).unwrap_err();
    let small = Needs {
        nr_pages: 0x1_0000,
        initrd: Some(300 << 20),
        ..debian()
    };
    assert_eq!(
        error(small).to_string(),
        "the initrd of 300 MiB does not fit: dom0 has 256 MiB"
    );
    let initrd = |initrd| BuildError::InitrdDoesNotFit {
        initrd,
        nr_pages: 0x1_0000,
    };
    let whole = 0x1_0000 - 0x4c00;
    assert_eq!(
        error(Needs {
            initrd: Some((whole + 1) << 12),
            ..small
        }),
        initrd(whole + 1)
    );
    assert_eq!(
        error(Needs {
            initrd: Some(whole << 12),
            ..small
        }),
        BuildError::P2mDoesNotFit {
            p2m: 131,
            nr_pages: 0x1_0000
        }
    );
    assert!(
        Layout::new(&Needs {
            initrd: Some((whole - 131) << 12),
            ..small
        })
        .is_ok()
    );
    assert_eq!(
        error(Needs {
            nr_pages: 0x4bff,
            initrd: None,
            ..debian()
        }),
        BuildError::KernelDoesNotFit {
            needed: 0x4c00,
            nr_pages: 0x4bff
        }
    );
    assert_eq!(
        error(Needs {
            nr_pages: 0x100,
            ..debian()
        }),
        BuildError::KernelDoesNotFit {
            needed: 0x4a00,
            nr_pages: 0x100
        }
    );
    for nr_pages in [0, MOST_PAGES + 1, u64::MAX] {
        assert_eq!(
            error(Needs {
                nr_pages,
                ..debian()
            }),
            BuildError::TooLarge(nr_pages)
        );
    }
}

#[test]
fn addresses_that_guests_do_not_have_are_refused() {
    let is_refused =
        |needs: Needs| matches!(Layout::new(&needs), Err(BuildError::AddressSpace { .. }));
    for virt_base in [
        0xffff_8000_0000_0000,
        0xffff_87ff_ffff_f000,
        0xffff_7fff_ffff_f000,
        0x7fff_ffff_f000,
        0x8000_0000_0000,
        0xffff_ffff_ff00_0000,
        0xffff_ffff_ffff_f000,
    ] {
        assert!(is_refused(Needs {
            virt_base,
            ..debian()
        }));
        assert!(is_refused(Needs {
            init_p2m: Some(virt_base | 0xff_f000),
            ..debian()
        }));
    }
    for init_p2m in [KERNEL_BASE, KERNEL_BASE + 0x4bf_f000, KERNEL_BASE - 0x1000] {
        assert!(is_refused(Needs {
            init_p2m: Some(init_p2m),
            ..debian()
        }));
    }
    for virt_base in [0, 0xffff_8800_0000_0000] {
        assert!(!is_refused(Needs {
            virt_base,
            ..debian()
        }));
    }
}

/// The tables that map pages, counted one page after the other.
fn tables_of(spans: &[(u64, u64)]) -> u64 {
    let mut tables = BTreeSet::new();
    for (va, count) in spans {
        for page in 0..*count {
            let va = va + (page << 12);
            for shift in TABLE_SHIFTS {
                tables.insert((shift, va >> shift));
            }
        }
    }
    tables.len() as u64 + 1
}

prop_compose! {
    fn needs()(
        virt_base in prop_oneof![
            Just(KERNEL_BASE),
            (0u64..1 << 35).prop_map(|page| page << 12),
            (0xf_fff8_8000_0000u64..0xf_ffff_fff0_0000).prop_map(|page| page << 12),
        ],
        kernel_end in 1u64..40 << 20,
        nr_pages in 0x400u64..0x10_0000,
        init_p2m in prop::option::of(prop_oneof![
            Just(0x80_0000_0000),
            (0u64..1 << 35).prop_map(|page| page << 12),
            (0xf_ffff_8000_0000u64..0x10_0000_0000_0000 - 0x1000).prop_map(|page| page << 12),
        ]),
        initrd in prop::option::of(0u64..20 << 20),
        initrd_mapped: bool,
    ) -> Needs {
        Needs { virt_base, kernel_end, nr_pages, init_p2m, initrd, initrd_mapped }
    }
}

proptest! {
    #[test]
    fn regions_are_disjoint_and_inside_and_tables_suffice(needs in needs()) {
        let Ok(layout) = Layout::new(&needs) else { return Ok(()) };
        let one = |pfn: Pfn| range(pfn.get(), pfn.get() + 1);
        let mut regions: Vec<PfnRange> = std::vec![
            range(0, pages(needs.kernel_end)),
            one(layout.start_info),
            layout.tables,
            one(layout.stack),
            layout.p2m_list(),
            range(layout.rest.get(), layout.nr_pages),
        ];
        regions.extend(layout.initrd);
        let mut spans = std::vec![(needs.virt_base, layout.mapped.len())];
        let mut nr_tables = layout.tables.len();
        prop_assert_eq!(tables_of(&spans), nr_tables);
        if let P2mPlace::Apart { va, list, tables } = layout.p2m {
            prop_assert_eq!(list.end, tables.start);
            regions.push(tables);
            spans.push((va, list.len()));
            nr_tables += tables.len();
        }
        prop_assert_eq!(tables_of(&spans), nr_tables);
        prop_assert_eq!(layout.p2m_list().len(), needs.nr_pages.div_ceil(512));
        if let Some(initrd) = layout.initrd {
            prop_assert_eq!(initrd.len(), pages(needs.initrd.unwrap()));
            prop_assert_eq!(needs.initrd_mapped, layout.initrd_behind().is_none() || initrd.is_empty());
        }
        regions.retain(|region| !region.is_empty());
        regions.sort_by_key(|region| region.start);
        for pair in regions.windows(2) {
            prop_assert!(pair[0].end <= pair[1].start);
        }
        prop_assert!(regions.last().unwrap().end.get() <= needs.nr_pages);
        for inside in [one(layout.start_info), layout.tables, one(layout.stack)] {
            prop_assert!(inside.end <= layout.mapped.end);
        }
    }
}
