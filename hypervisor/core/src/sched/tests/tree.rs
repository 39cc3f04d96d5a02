//! The tree against a sorted list.

use oxen_arch::sync::atomic::Ordering;
use proptest::prelude::*;

use super::super::record::NONE;
use super::super::tree::Tree;
use super::super::{CpuId, CpuSet, VcpuIndex, VcpuRecord};

fn records(masks: &[u8]) -> Vec<VcpuRecord> {
    let records: Vec<_> = masks.iter().map(|_| VcpuRecord::new()).collect();
    for (record, &mask) in records.iter().zip(masks) {
        record.hard.store(&cpus(mask));
    }
    records
}

fn cpus(mask: u8) -> CpuSet {
    (0..8)
        .filter(|bit| mask >> bit & 1 != 0)
        .map(CpuId::new)
        .collect()
}

/// Looks at each node below this one; its height.
fn check(records: &[VcpuRecord], at: u32) -> (u32, CpuSet) {
    if at == NONE {
        return (0, CpuSet::EMPTY);
    }
    let node = &records[at as usize].node;
    let (left, reach_left) = check(records, node.left.load(Ordering::Relaxed));
    let (right, reach_right) = check(records, node.right.load(Ordering::Relaxed));
    assert!(left.abs_diff(right) <= 1, "not balanced");
    let height = left.max(right) + 1;
    assert_eq!(node.height.load(Ordering::Relaxed), height);
    let reach = records[at as usize]
        .allowed()
        .union(&reach_left)
        .union(&reach_right);
    assert_eq!(node.reach.load(), reach);
    (height, reach)
}

proptest! {
    #[test]
    fn a_tree_is_a_sorted_list(
        masks in prop::collection::vec(any::<u8>(), 1..120),
        steps in prop::collection::vec((any::<prop::sample::Index>(), 0_u64..40), 1..300),
    ) {
        let records = records(&masks);
        let (mut tree, mut list) = (Tree::EMPTY, Vec::<(u64, u32)>::new());
        for (index, key) in steps {
            let index = index.index(masks.len()) as u32;
            let name = VcpuIndex::new(index);
            match list.iter().position(|&(_, other)| other == index) {
                Some(at) => {
                    list.remove(at);
                    prop_assert!(tree.remove(&records, name));
                }
                None => {
                    prop_assert!(!tree.remove(&records, name));
                    list.push((key, index));
                    list.sort_unstable();
                    tree.insert(&records, name, key);
                }
            }
            let (_, reach) = check(&records, tree.root());
            prop_assert_eq!(tree.reach(&records), reach);
            prop_assert_eq!(tree.len() as usize, list.len());
            prop_assert_eq!(tree.is_empty(), list.is_empty());
            let first = list.first().map(|&(key, index)| (VcpuIndex::new(index), key));
            prop_assert_eq!(tree.first(&records), first);
            for cpu in 0..8 {
                let may = |&&(_, index): &&(u64, u32)| masks[index as usize] >> cpu & 1 != 0;
                let first = list.iter().find(may).map(|&(_, index)| VcpuIndex::new(index));
                prop_assert_eq!(tree.first_for(&records, CpuId::new(cpu)), first);
            }
        }
    }
}
