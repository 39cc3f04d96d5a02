//! Any order of everything that touches descriptor tables.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Act {
    SetGdt(Vec<u64>, u64),
    Update(u64, u64, u64),
    SetLdt(u64, u64),
    Load(u16),
    UserGs(u16),
    ReadOnly(u64),
    Writable(u64),
    Write(u64, u64, u64),
}

/// Descriptors of which about half are allowed.
fn descriptor() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(SEGMENT),
        Just(CODE_64),
        Just(TSS),
        Just(0x0000_ec00_0008_0000),
        any::<u64>(),
    ]
}

/// A selector of the first two pages of either table.
fn selector() -> impl Strategy<Value = u16> {
    (0..2_u16, 0..4_u16, 0..8_u16).prop_map(|(page, entry, low)| page << 12 | entry << 3 | low)
}

fn act() -> impl Strategy<Value = Act> {
    let page = 0..4_u64;
    let entry = 0..4_u64;
    prop_oneof![
        (proptest::collection::vec(page.clone(), 0..3), 0..1100_u64)
            .prop_map(|(pages, entries)| Act::SetGdt(pages, entries)),
        (page.clone(), entry.clone(), descriptor()).prop_map(|(p, e, d)| Act::Update(p, e, d)),
        (0..5_u64, 0..1100_u64).prop_map(|(base, entries)| Act::SetLdt(base, entries)),
        selector().prop_map(Act::Load),
        selector().prop_map(Act::UserGs),
        page.clone().prop_map(Act::ReadOnly),
        page.clone().prop_map(Act::Writable),
        (page, entry, descriptor()).prop_map(|(p, e, d)| Act::Write(p, e, d)),
    ]
}

fn perform(guest: &mut Guest, act: &Act) {
    match *act {
        Act::SetGdt(ref pages, entries) => {
            let frames: Vec<_> = pages.iter().map(|&p| guest.frame_at(page(p))).collect();
            guest.set_gdt(&frames, entries);
        }
        Act::Update(index, entry, descriptor) => {
            let at = guest.frame_at(page(index)).start().get() + entry * 8;
            guest.update_descriptor(at, descriptor);
        }
        Act::SetLdt(base, entries) => {
            guest.set_ldt(page(base), entries);
        }
        Act::Load(selector) => {
            let _ = guest.load(selector);
        }
        Act::UserGs(selector) => {
            let which = u64::from(SegmentBase::GsUserSelector.get());
            let args = [which, selector.into(), 0, 0, 0];
            assert_eq!(guest.finish(Hypercall::SetSegmentBase, args), 0);
        }
        Act::ReadOnly(index) => {
            guest.make_read_only(page(index));
        }
        Act::Writable(index) => {
            guest.make_writable(page(index));
        }
        Act::Write(index, entry, value) => {
            let at = GuestAddr::new(page(index) + entry * 8);
            let _ = guest.cpu.write_guest(at, &value);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn i1_tables_that_the_cpu_sees_are_checked_and_nobody_writes_to_them(
        units in prop_oneof![Just(30_u32), Just(640)],
        acts in proptest::collection::vec(act(), 1..40),
    ) {
        let mut guest = Guest::dom0();
        guest.host.set_entry_budget(Budget::new(units));
        // Out of the way of what becomes read-only.
        guest.regs.rsp = LIST;
        for act in &acts {
            perform(&mut guest, act);
            guest.host.machine.agitate();
            guest.check_descriptors();
        }
        // Whatever happened, nothing is left of it.
        prop_assert_eq!(guest.set_gdt(&[], 0), 0);
        prop_assert_eq!(guest.set_ldt(0, 0), 0);
        for index in 0..4 {
            prop_assert_eq!(guest.make_writable(page(index)), 0);
        }
    }
}
