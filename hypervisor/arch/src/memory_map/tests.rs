use std::vec::Vec;

use proptest::prelude::*;

use super::MemoryKind::{AcpiNvs, AcpiReclaimable, Ram, Reserved, Unusable};
use super::*;

const CASES: u32 = if cfg!(miri) { 2 } else { 512 };

fn map(ranges: &[(u64, u64, MemoryKind)]) -> MemoryMap {
    let mut map = MemoryMap::new();
    for &(start, end, kind) in ranges {
        map.push(MemoryRange { start, end, kind });
    }
    map
}

fn normalised(ranges: &[(u64, u64, MemoryKind)]) -> Vec<(u64, u64, MemoryKind)> {
    let mut map = map(ranges);
    map.normalise();
    map.iter().map(|r| (r.start, r.end, r.kind)).collect()
}

#[test]
fn the_map_of_a_pc_becomes_pages() {
    let pc = normalised(&[
        (0x10_0000, 0x7ffd_c000, Ram),
        (0, 0x9_fc00, Ram),
        (0x9_fc00, 0xa_0000, Reserved),
        (0xf_0000, 0x10_0000, Reserved),
        (0x7ffd_c000, 0x8000_0000, Reserved),
        (0xfffc_0000, 0x1_0000_0000, Reserved),
    ]);
    let expected = [
        (0, 0x9_f000, Ram),
        (0x9_f000, 0xa_0000, Reserved),
        (0xf_0000, 0x10_0000, Reserved),
        (0x10_0000, 0x7ffd_c000, Ram),
        (0x7ffd_c000, 0x8000_0000, Reserved),
        (0xfffc_0000, 0x1_0000_0000, Reserved),
    ];
    assert_eq!(pc, expected);
}

#[test]
fn the_more_restrictive_kind_wins() {
    let order = [Ram, AcpiReclaimable, AcpiNvs, Reserved, Unusable];
    for (weak, strong) in (0..5).flat_map(|s| (0..s).map(move |w| (order[w], order[s]))) {
        let expected = [
            (0, 0x2000, weak),
            (0x2000, 0x3000, strong),
            (0x3000, 0x5000, weak),
        ];
        assert_eq!(
            normalised(&[(0, 0x5000, weak), (0x2000, 0x3000, strong)]),
            expected
        );
        assert_eq!(
            normalised(&[(0x2000, 0x3000, strong), (0, 0x5000, weak)]),
            expected
        );
    }
}

#[test]
fn nonsense_is_left_out() {
    assert_eq!(
        normalised(&[(5, 5, Ram), (0x8000, 0x1000, Reserved), (u64::MAX, 0, Ram)]),
        []
    );
    assert_eq!(
        normalised(&[(u64::MAX, u64::MAX, Reserved), (1 << 52, u64::MAX, Ram)]),
        []
    );
    assert_eq!(
        normalised(&[((1 << 52) - 1, u64::MAX, Reserved)]),
        [((1 << 52) - PAGE, 1 << 52, Reserved)]
    );
    assert_eq!(normalised(&[(0, u64::MAX, Ram)]), [(0, 1 << 52, Ram)]);
    assert_eq!(
        normalised(&[(0x1001, 0x1fff, Ram), (0x3800, 0x4800, Ram)]),
        []
    );
    assert_eq!(
        normalised(&[(0x1000, 0x1800, Ram), (0x1800, 0x2000, Ram)]),
        [(0x1000, 0x2000, Ram)]
    );
}

#[test]
fn the_limit_withholds_what_is_above() {
    let mut map = map(&[
        (0, 0xa_0000, Ram),
        (0xa_0000, 0x10_0000, Reserved),
        (0x10_0000, 0x4000_0000, Ram),
    ]);
    map.normalise();
    map.limit(0x2000_0fff);
    let ranges: Vec<_> = map.iter().map(|r| (r.start, r.end, r.kind)).collect();
    let expected = [
        (0, 0xa_0000, Ram),
        (0xa_0000, 0x10_0000, Reserved),
        (0x10_0000, 0x2000_0000, Ram),
        (0x2000_0000, 0x4000_0000, Unusable),
    ];
    assert_eq!(ranges, expected);
    assert_eq!(
        (map.ram_bytes(), map.max_mfn()),
        (0x1ffa_0000, Mfn::new(0x2_0000))
    );
    map.limit(0);
    assert_eq!((map.ram_bytes(), map.max_mfn()), (0, Mfn::new(0)));
}

#[test]
#[cfg_attr(
    miri,
    ignore = "safe code, and hundreds of ranges take an interpreter too long"
)]
fn a_full_map_loses_ram_and_nothing_else() {
    // Every second page is RAM, so that nothing merges.
    let mut map = MemoryMap::new();
    for page in 0..MemoryMap::CAPACITY as u64 {
        map.push(MemoryRange {
            start: page * 2 * PAGE,
            end: (page * 2 + 1) * PAGE,
            kind: Ram,
        });
    }
    map.push(MemoryRange {
        start: 1 << 32,
        end: 1 << 33,
        kind: Ram,
    });
    assert_eq!(map.ram_bytes(), MemoryMap::CAPACITY as u64 * PAGE);
    map.push(MemoryRange {
        start: 4 * PAGE + 5,
        end: 6 * PAGE + 5,
        kind: Reserved,
    });
    assert!(
        map.ram()
            .all(|ram| !ram.contains(Mfn::new(4)) && !ram.contains(Mfn::new(6)))
    );
    assert!(map.ram().any(|ram| ram.contains(Mfn::new(8))));
}

fn kind() -> impl Strategy<Value = MemoryKind> {
    prop_oneof![4 => Just(Ram), 1 => Just(Reserved), 1 => Just(AcpiReclaimable), 1 => Just(AcpiNvs), 1 => Just(Unusable)]
}

fn edge() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..24 * PAGE, 8 => (0..24u64).prop_map(|page| page * PAGE), 1 => Just(u64::MAX), 1 => any::<u64>()]
}

/// What is said about each of the first 32 pages, byte by byte.
fn naive(ranges: &[(u64, u64, MemoryKind)]) -> Vec<Option<MemoryKind>> {
    let page_kind = |page: u64| {
        let (first, last) = (page * PAGE, page * PAGE + PAGE - 1);
        let touching = ranges
            .iter()
            .filter(|(start, end, _)| start < end && *start <= last && first < *end);
        let strongest = touching
            .map(|(_, _, kind)| *kind)
            .max_by_key(|kind| kind.restriction())?;
        let covered = |byte: u64| {
            ranges
                .iter()
                .any(|(start, end, _)| *start <= byte && byte < *end)
        };
        // Coverage can only change where some range begins or ends.
        let edges = ranges
            .iter()
            .flat_map(|(start, end, _)| [*start, *end])
            .filter(|e| first <= *e && *e <= last);
        let whole = covered(first) && edges.into_iter().all(covered);
        (strongest != Ram || whole).then_some(strongest)
    };
    (0..32).map(page_kind).collect()
}

fn by_page(map: &MemoryMap) -> Vec<Option<MemoryKind>> {
    let holds = |r: &&MemoryRange, page: u64| r.start <= page * PAGE && page * PAGE < r.end;
    (0..32)
        .map(|page| map.iter().find(|r| holds(r, page)).map(|r| r.kind))
        .collect()
}

fn is_tidy(map: &MemoryMap) -> bool {
    let ranges: Vec<_> = map.iter().collect();
    ranges
        .iter()
        .all(|r| r.start < r.end && r.start % PAGE == 0 && r.end % PAGE == 0 && r.end <= MADDR_END)
        && ranges
            .windows(2)
            .all(|w| w[0].end < w[1].start || (w[0].end == w[1].start && w[0].kind != w[1].kind))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn normalising_says_what_a_look_at_each_page_says(
        ranges in prop::collection::vec((edge(), edge(), kind()), 0..40),
    ) {
        let mut map = map(&ranges);
        map.normalise();
        prop_assert!(is_tidy(&map), "{map:?}");
        prop_assert_eq!(by_page(&map), naive(&ranges));
        let again = map.clone();
        map.normalise();
        prop_assert_eq!(map, again);
    }

    #[test]
    #[cfg_attr(miri, ignore = "safe code, and hundreds of ranges take an interpreter too long")]
    fn an_overfull_map_never_calls_a_page_ram_that_is_not(
        ranges in prop::collection::vec((0..0x400_000u64, 1..0x3000u64, kind()), 200..400),
    ) {
        let ranges: Vec<_> = ranges.into_iter().map(|(start, len, kind)| (start, start + len, kind)).collect();
        let mut map = map(&ranges);
        map.normalise();
        prop_assert!(is_tidy(&map), "{map:?}");
        let kinds = naive(&ranges);
        for (page, found) in by_page(&map).into_iter().enumerate() {
            prop_assert!(found != Some(Ram) || kinds[page] == Some(Ram));
        }
        for ram in map.ram().flat_map(MfnRange::iter) {
            let (first, last) = (ram.get() * PAGE, ram.get() * PAGE + PAGE - 1);
            prop_assert!(!ranges.iter().any(|(start, end, kind)| *kind != Ram && *start <= last && first < *end));
        }
    }

    #[test]
    fn a_limit_leaves_the_ram_below_it(
        ranges in prop::collection::vec((edge(), edge(), kind()), 0..20),
        limit in 0..24 * PAGE,
    ) {
        let mut map = map(&ranges);
        map.normalise();
        let before = by_page(&map);
        map.limit(limit);
        prop_assert!(is_tidy(&map), "{map:?}");
        let expected: Vec<_> = before
            .into_iter()
            .enumerate()
            .map(|(page, kind)| match kind {
                Some(Ram) if page as u64 >= limit / PAGE => Some(Unusable),
                kind => kind,
            })
            .collect();
        prop_assert_eq!(by_page(&map), expected);
    }
}
