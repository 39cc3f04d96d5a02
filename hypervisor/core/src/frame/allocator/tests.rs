use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use dom0_abi::addr::Mfn;
use proptest::prelude::*;
use zerocopy::FromZeros;

use super::super::table::FrameRecord;
use super::super::word::OwnerWord;
use super::*;

thread_local! {
    static ACCESSES: Cell<u64> = const { Cell::new(0) };
}

/// Counts a look at a record, so that a test can see what an operation costs.
pub(in crate::frame) fn count_access() {
    ACCESSES.set(ACCESSES.get() + 1);
}

fn range(start: u64, end: u64) -> MfnRange {
    MfnRange::new(Mfn::new(start), Mfn::new(end))
}

struct Memory {
    records: Vec<FrameRecord>,
    lists: FreeLists,
}

impl Memory {
    fn new(ram: &[(u64, u64)]) -> Self {
        let end = ram.iter().map(|&(_, end)| end).max().unwrap();
        let records = (0..end).map(|_| FrameRecord::new_zeroed()).collect();
        let mut memory = Self {
            records,
            lists: FreeLists::EMPTY,
        };
        for &(start, end) in ram {
            memory.put(start, end);
        }
        memory
    }

    fn take(&mut self, order: u8, address_bits: u8) -> Option<u64> {
        self.lists
            .take(Table(&self.records), order, address_bits)
            .map(|(index, _)| u64::from(index.get()))
    }

    fn put(&mut self, start: u64, end: u64) {
        self.lists.put(Table(&self.records), range(start, end), 0);
    }

    /// Walks all lists, checks every invariant, and returns the free blocks.
    fn blocks(&self) -> BTreeMap<u64, u8> {
        let table = Table(&self.records);
        let mut blocks = BTreeMap::new();
        for (zone_number, zone) in self.lists.zones.iter().enumerate() {
            for (order, &head) in zone.heads.iter().enumerate() {
                assert_eq!(head.is_some(), zone.orders & 1 << order != 0);
                let (mut previous, mut at) = (None, head);
                while let Some(index) = at {
                    let record = table.get(index).unwrap();
                    let (start, end) = (
                        u64::from(index.get()),
                        u64::from(index.get()) + (1 << order),
                    );
                    assert!(record.word().is_free_head(order as u8));
                    assert_eq!(record.links().previous, previous);
                    assert_eq!(
                        start % (1 << order),
                        0,
                        "block at {start:#x} of order {order} is not aligned"
                    );
                    assert_eq!(zone_of(index), zone_number);
                    assert_eq!(zone_of(FrameIndex::new(end - 1).unwrap()), zone_number);
                    assert!(blocks.insert(start, order as u8).is_none());
                    (previous, at) = (at, record.links().next);
                }
            }
        }
        let mut free_until = 0;
        for (&start, &order) in &blocks {
            assert!(start >= free_until, "free blocks overlap at {start:#x}");
            free_until = start + (1 << order);
            let other = start ^ 1 << order;
            let joinable = order < MAX_ORDER
                && FrameIndex::new(other)
                    .is_some_and(|b| zone_of(b) == zone_of(FrameIndex::new(start).unwrap()));
            assert!(
                !joinable || blocks.get(&other) != Some(&order),
                "{start:#x} and its buddy are both free"
            );
        }
        for (at, record) in self.records.iter().enumerate() {
            let listed = blocks
                .get(&(at as u64))
                .map_or(Kind::Private, |&order| Kind::FreeHead { order, clean: 0 });
            assert_eq!(record.word(), OwnerWord::new(listed), "frame {at:#x}");
        }
        assert_eq!(
            blocks.values().map(|&order| 1u64 << order).sum::<u64>(),
            self.lists.nr_free()
        );
        blocks
    }
}

#[test]
fn zones_are_by_width_of_the_address() {
    let zone = |mfn| zone_of(FrameIndex::new(mfn).unwrap());
    for (mfn, wanted) in [
        (0, 0),
        (1, 0),
        (0xfff, 0),
        (0x1000, 1),
        (0x1fff, 1),
        (0x2000, 2),
        (0xf_ffff, 8),
        (0x10_0000, 9),
    ] {
        assert_eq!(zone(mfn), wanted, "{mfn:#x}");
    }
    assert_eq!(zone(u64::from(u32::MAX) - 1), ZONES - 1);
}

#[test]
fn memory_that_is_given_in_pieces_becomes_whole() {
    // All of the lowest zone, and the block of 2 MiB around it.
    let whole = Memory::new(&[(0, 0x8000)]).blocks();
    assert_eq!(
        whole,
        BTreeMap::from([(0, 12), (0x1000, 12), (0x2000, 13), (0x4000, 14)])
    );

    let mut memory = Memory::new(&[(0x7fff, 0x8000)]);
    for mfn in (0..0x7fff).rev() {
        memory.put(mfn, mfn + 1);
    }
    assert_eq!(memory.blocks(), whole);
}

#[test]
fn the_largest_block_is_of_the_largest_order() {
    let mut memory = Memory::new(&[(0x8_0000, 0x10_0000)]);
    assert_eq!(
        memory.blocks(),
        BTreeMap::from([(0x8_0000, MAX_ORDER), (0xc_0000, MAX_ORDER)])
    );
    assert!(memory.take(MAX_ORDER, u8::MAX).is_some());
    assert!(memory.take(MAX_ORDER, u8::MAX).is_some());
    assert_eq!(memory.take(0, u8::MAX), None);
    assert_eq!(memory.take(MAX_ORDER + 1, u8::MAX), None);
    assert_eq!(memory.take(u8::MAX, u8::MAX), None);
}

#[test]
fn low_memory_goes_last_and_limits_hold() {
    let mut memory = Memory::new(&[(0x10, 0x20), (0x1000, 0x1010), (0x4000, 0x4010)]);
    let bits = |mfn: u64| (64 - (mfn << 12 | 0xfff).leading_zeros()).max(24);
    // Address bits below the lowest zone reach nothing.
    assert_eq!(memory.take(0, 23), None);
    assert_eq!(memory.take(0, 0), None);
    for (limit, zone_bits) in [
        (u8::MAX, 27),
        (44, 27),
        (27, 27),
        (26, 25),
        (25, 25),
        (24, 24),
    ] {
        let mfn = memory.take(0, limit).unwrap();
        assert_eq!(
            bits(mfn),
            zone_bits,
            "{mfn:#x} under a limit of {limit} bits"
        );
    }
    let mut widths = Vec::new();
    while let Some(mfn) = memory.take(0, u8::MAX) {
        widths.push(bits(mfn));
    }
    assert!(widths.is_sorted_by(|a, b| a >= b), "{widths:?}");
    assert_eq!(widths.len(), 48 - 6);
}

#[test]
fn frames_without_a_record_are_ignored() {
    let mut memory = Memory::new(&[(0x10, 0x20)]);
    memory.put(0x20, 0x40);
    memory.put(u64::MAX - 1, u64::MAX);
    memory.put(0x18, 0x10);
    assert_eq!(memory.lists.nr_free(), 0x10);
    memory.blocks();
}

#[test]
fn an_operation_costs_the_same_however_much_is_allocated() {
    let dearest = |live: usize| {
        let mut memory = Memory::new(&[(0, 0x4_0000)]);
        let mut held: Vec<u64> = (0..live)
            .map(|_| memory.take(0, u8::MAX).unwrap())
            .collect();
        // Every second one goes back, so that the lists are long and nothing can be joined.
        held.retain(|&mfn| {
            if mfn % 2 == 0 {
                memory.put(mfn, mfn + 1);
            }
            mfn % 2 == 1
        });
        let mut dearest = 0;
        for round in 0..200u64 {
            ACCESSES.set(0);
            let order = (round % 10) as u8;
            let mfn = memory.take(order, u8::MAX).unwrap();
            memory.put(mfn, mfn + (1 << order));
            dearest = dearest.max(ACCESSES.get());
        }
        dearest
    };
    // Splitting and joining over all orders, a handful of records each.
    let bound = 2 * ORDERS as u64 * 6;
    for live in [10, 1000, 200_000] {
        let steps = dearest(live);
        assert!(steps <= bound, "{steps} steps with {live} blocks live");
    }
}

#[derive(Clone, Debug)]
enum Op {
    Take {
        order: u8,
        address_bits: u8,
    },
    Put {
        which: prop::sample::Index,
    },
    PutPart {
        which: prop::sample::Index,
        at: prop::sample::Index,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0u8..=9, 22u8..=30).prop_map(|(order, address_bits)| Op::Take { order, address_bits }),
        2 => any::<prop::sample::Index>().prop_map(|which| Op::Put { which }),
        1 => (any::<prop::sample::Index>(), any::<prop::sample::Index>())
            .prop_map(|(which, at)| Op::PutPart { which, at }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 200 }))]

    /// Against a set of frames: what is handed out was free, is aligned and lies where it was asked for; nothing is
    /// refused that was there; nothing is lost; and when all is back, memory is as it was.
    #[test]
    fn it_agrees_with_a_set_of_frames(
        holes in proptest::collection::btree_set(0u64..0x6000, 0..12),
        ops in proptest::collection::vec(op(), 1..150),
    ) {
        let mut ram = Vec::new();
        let mut start = 0;
        for &hole in holes.iter().chain([&0x6000]) {
            if start < hole {
                ram.push((start, hole));
            }
            start = hole + 1;
        }
        prop_assume!(!ram.is_empty());
        let mut memory = Memory::new(&ram);
        let at_first = memory.blocks();
        let mut free: BTreeSet<u64> = ram.iter().flat_map(|&(start, end)| start..end).collect();
        let mut held: Vec<(u64, u64)> = Vec::new();

        for op in ops {
            match op {
                Op::Take { order, address_bits } => {
                    let frames = 1u64 << order;
                    let limit = if address_bits < 24 { 0 } else { 1u64 << (address_bits - 12) };
                    match memory.take(order, address_bits) {
                        Some(mfn) => {
                            prop_assert_eq!(mfn % frames, 0);
                            prop_assert!(mfn + frames <= limit);
                            for frame in mfn..mfn + frames {
                                prop_assert!(free.remove(&frame), "frame {:#x} was not free", frame);
                            }
                            held.push((mfn, mfn + frames));
                        }
                        None => {
                            let there = (0..limit.min(0x6000) / frames)
                                .any(|block| free.range(block * frames..(block + 1) * frames).count() as u64 == frames);
                            prop_assert!(!there, "order {} within {} bits was there", order, address_bits);
                        }
                    }
                }
                Op::Put { which } if !held.is_empty() => {
                    let (start, end) = held.swap_remove(which.index(held.len()));
                    memory.put(start, end);
                    free.extend(start..end);
                }
                Op::PutPart { which, at } if !held.is_empty() => {
                    let which = which.index(held.len());
                    let (start, end) = held[which];
                    let middle = start + at.index((end - start) as usize) as u64;
                    memory.put(middle, end);
                    free.extend(middle..end);
                    held[which].1 = middle;
                    if start == middle {
                        held.swap_remove(which);
                    }
                }
                Op::Put { .. } | Op::PutPart { .. } => {}
            }
            prop_assert_eq!(memory.lists.nr_free(), free.len() as u64);
        }
        memory.blocks();
        for (start, end) in held {
            memory.put(start, end);
        }
        prop_assert_eq!(memory.blocks(), at_first);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// What is said to be clean is, whatever was split and joined since; and what was cleaned last is found again.
    #[test]
    fn i11_no_frame_is_called_clean_that_is_not(
        steps in proptest::collection::vec((0_u8..6, 0_u64..70, any::<prop::sample::Index>()), 1..120),
    ) {
        let mut memory = Memory::new(&[(0x1000, 0x1400)]);
        let mut is_clean = vec![false; 0x1400];
        let mut held = Vec::new();
        for (order, cleaned, which) in steps {
            if cleaned % 2 == 0 || held.is_empty() {
                let taken = memory.lists.take(Table(&memory.records), order, u8::MAX);
                if let Some((index, clean)) = taken {
                    let start = index.get() as usize;
                    let known = &is_clean[start..start + clean as usize];
                    prop_assert!(clean <= 1 << order && known.iter().all(|&is| is));
                    held.push((start, order));
                }
            } else {
                let (start, order) = held.swap_remove(which.index(held.len()));
                let size = 1_usize << order;
                let clean = cleaned.min(size as u64);
                for (offset, is_clean) in is_clean[start..start + size].iter_mut().enumerate() {
                    *is_clean = (offset as u64) < clean;
                }
                let put = range(start as u64, (start + size) as u64);
                memory.lists.put(Table(&memory.records), put, clean);
            }
        }
    }
}

#[test]
fn what_was_cleaned_of_a_block_is_found_when_it_is_taken_again() {
    let mut memory = Memory::new(&[(0x1000, 0x1800)]);
    for cleaned in [0, 1, 100, 511, 512] {
        let (index, _) = memory
            .lists
            .take(Table(&memory.records), 9, u8::MAX)
            .unwrap();
        let start = u64::from(index.get());
        let put = range(start, start + 512);
        memory.lists.put(Table(&memory.records), put, cleaned);
        let again = memory.lists.take(Table(&memory.records), 9, u8::MAX);
        assert_eq!(again, Some((index, cleaned as u32)));
        // Its parts know their share.
        memory.lists.put(Table(&memory.records), put, cleaned);
        let (part, clean) = memory
            .lists
            .take(Table(&memory.records), 3, u8::MAX)
            .unwrap();
        assert_eq!((part, u64::from(clean)), (index, cleaned.min(8)));
        let put = range(start, start + 8);
        memory.lists.put(Table(&memory.records), put, clean.into());
        let again = memory.lists.take(Table(&memory.records), 9, u8::MAX);
        assert_eq!(again, Some((index, cleaned as u32)));
        let put = range(start, start + 512);
        memory.lists.put(Table(&memory.records), put, 0);
    }
}
