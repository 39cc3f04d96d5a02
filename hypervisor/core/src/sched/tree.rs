//! A balanced tree through the records of vCPUs: the queue of one CPU, sorted by a key.
//!
//! Each node knows on which CPUs it, or a node below it, may run. So the first that may run on a given CPU is found on one way
//! from the root, however many may not.
//!
//! INVARIANT: the two sides of a node differ by one in height at most; then a tree of n nodes is at most 1.45 log2(n) high.

use core::cmp::Ordering as Order;

use arrayvec::ArrayVec;
use oxen_arch::boot::CpuId;
use oxen_arch::sync::atomic::{AtomicU32, Ordering};
use oxen_arch::tlb::CpuSet;

use super::VcpuIndex;
use super::record::{NONE, Node, VcpuRecord};
use super::steps::step;

/// Higher than any tree: one of this height has 2^32 nodes.
const HEIGHT: usize = 47;

/// The nodes on the way down, from the root on.
type Way = ArrayVec<VcpuIndex, HEIGHT>;

/// A tree. Its nodes are the caller's, the same in each call.
#[derive(Debug)]
pub(super) struct Tree {
    root: u32,
    len: u32,
}

impl Tree {
    pub(super) const EMPTY: Self = Self { root: NONE, len: 0 };

    #[cfg(test)]
    pub(super) const fn root(&self) -> u32 {
        self.root
    }

    /// Shows all of it, in order.
    #[cfg(test)]
    pub(super) fn visit(&self, records: &[VcpuRecord], with: &mut impl FnMut(VcpuIndex)) {
        let mut way = std::vec::Vec::new();
        let mut at = link(self.root);
        while at.is_some() || !way.is_empty() {
            while let Some(index) = at {
                way.push(index);
                at = child(records, index, Order::Less);
            }
            let index = way.pop().unwrap();
            with(index);
            at = child(records, index, Order::Greater);
        }
    }

    pub(super) const fn len(&self) -> u32 {
        self.len
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts in a vCPU that is in no tree.
    pub(super) fn insert(&mut self, records: &[VcpuRecord], new: VcpuIndex, key: u64) {
        let Some(record) = records.get(new.get()) else {
            return;
        };
        let node = &record.node;
        node.key.store(key, Ordering::Relaxed);
        set(&node.left, None);
        set(&node.right, None);
        let (mut way, mut at) = (Way::new(), link(self.root));
        let mut side = Order::Equal;
        while let Some((index, next)) = self.step_down(records, at, key, new) {
            if way.try_push(index).is_err() {
                return;
            }
            side = next;
            at = child(records, index, side);
        }
        self.hang(records, way.last().map(|&above| (above, side)), Some(new));
        self.len = self.len.saturating_add(1);
        update(records, new);
        self.mend(records, &mut way);
    }

    /// Takes a vCPU out; `false` if it was not in it.
    pub(super) fn remove(&mut self, records: &[VcpuRecord], old: VcpuIndex) -> bool {
        let Some(record) = records.get(old.get()) else {
            return false;
        };
        let key = record.node.key.load(Ordering::Relaxed);
        let (mut way, mut at) = (Way::new(), link(self.root));
        let mut above = None;
        loop {
            match self.step_down(records, at, key, old) {
                Some((_, Order::Equal)) => break,
                Some((index, side)) => {
                    if way.try_push(index).is_err() {
                        return false;
                    }
                    above = Some((index, side));
                    at = child(records, index, side);
                }
                None => return false,
            }
        }
        let (left, right) = (link_of(&record.node.left), link_of(&record.node.right));
        match (left, right) {
            (Some(_), Some(mut next)) => {
                // The next one in the order takes its place, and its own place falls to what is right of it.
                let place = way.len();
                if way.try_push(old).is_err() {
                    return false;
                }
                let mut above_next = (old, Order::Greater);
                while let Some(less) = child(records, next, Order::Less) {
                    step();
                    if way.try_push(next).is_err() {
                        return false;
                    }
                    above_next = (next, Order::Less);
                    next = less;
                }
                self.hang(
                    records,
                    Some(above_next),
                    child(records, next, Order::Greater),
                );
                if let Some(heir) = records.get(next.get()) {
                    set(&heir.node.left, link_of(&record.node.left));
                    set(&heir.node.right, link_of(&record.node.right));
                }
                self.hang(records, above, Some(next));
                if let Some(on_way) = way.get_mut(place) {
                    *on_way = next;
                }
            }
            (only, None) | (None, only) => self.hang(records, above, only),
        }
        self.len = self.len.saturating_sub(1);
        self.mend(records, &mut way);
        true
    }

    /// The first one, and its key.
    pub(super) fn first(&self, records: &[VcpuRecord]) -> Option<(VcpuIndex, u64)> {
        let mut first = link(self.root)?;
        while let Some(less) = child(records, first, Order::Less) {
            step();
            first = less;
        }
        Some((first, key_of(records, first)?))
    }

    /// The first one that may run on this CPU.
    pub(super) fn first_for(&self, records: &[VcpuRecord], cpu: CpuId) -> Option<VcpuIndex> {
        let reaches = |index: VcpuIndex| {
            let record = records.get(index.get())?;
            record.node.reach.contains(cpu).then_some(record)
        };
        let mut at = link(self.root)?;
        let mut record = reaches(at)?;
        loop {
            step();
            if let Some(less) = link_of(&record.node.left)
                && let Some(next) = reaches(less)
            {
                (at, record) = (less, next);
            } else if record.is_allowed_on(cpu) {
                return Some(at);
            } else {
                at = link_of(&record.node.right)?;
                record = reaches(at)?;
            }
        }
    }

    /// The CPUs on which any of them may run.
    pub(super) fn reach(&self, records: &[VcpuRecord]) -> CpuSet {
        link(self.root).map_or(CpuSet::EMPTY, |root| reach_of(records, root))
    }

    /// The node here, and on which side of it a key is.
    fn step_down(
        &self,
        records: &[VcpuRecord],
        at: Option<VcpuIndex>,
        key: u64,
        of: VcpuIndex,
    ) -> Option<(VcpuIndex, Order)> {
        step();
        let index = at?;
        let record = records.get(index.get())?;
        Some((index, record.node.order(index, key, of)))
    }

    /// Hangs a tree on a side of a node; at the root, if that is none.
    fn hang(
        &mut self,
        records: &[VcpuRecord],
        above: Option<(VcpuIndex, Order)>,
        tree: Option<VcpuIndex>,
    ) {
        match above {
            None => self.root = tree.map_or(NONE, VcpuIndex::number),
            Some((above, side)) => set_child(records, above, side, tree),
        }
    }

    /// Balances the nodes of a way, from the last to the root.
    fn mend(&mut self, records: &[VcpuRecord], way: &mut Way) {
        while let Some(index) = way.pop() {
            step();
            let top = balance(records, index);
            let above = way.last().map(|&above| {
                let is_left = child(records, above, Order::Less) == Some(index);
                (above, if is_left { Order::Less } else { Order::Greater })
            });
            self.hang(records, above, Some(top));
        }
    }
}

/// Balances a node whose sides are balanced; what is on top then.
fn balance(records: &[VcpuRecord], index: VcpuIndex) -> VcpuIndex {
    update(records, index);
    for (heavy, light) in [(Order::Less, Order::Greater), (Order::Greater, Order::Less)] {
        let (Some(side), other) = (child(records, index, heavy), child(records, index, light))
        else {
            continue;
        };
        if height(records, Some(side)) <= height(records, other).saturating_add(1) {
            continue;
        }
        let outer = height(records, child(records, side, heavy));
        if height(records, child(records, side, light)) > outer {
            let top = rotate(records, side, light);
            set_child(records, index, heavy, Some(top));
        }
        return rotate(records, index, heavy);
    }
    index
}

/// Lifts the node on this side above its parent.
fn rotate(records: &[VcpuRecord], index: VcpuIndex, side: Order) -> VcpuIndex {
    let Some(top) = child(records, index, side) else {
        return index;
    };
    let other = side.reverse();
    set_child(records, index, side, child(records, top, other));
    set_child(records, top, other, Some(index));
    update(records, index);
    update(records, top);
    top
}

/// Derives what a node knows of those below it.
fn update(records: &[VcpuRecord], index: VcpuIndex) {
    let Some(record) = records.get(index.get()) else {
        return;
    };
    let (left, right) = (link_of(&record.node.left), link_of(&record.node.right));
    let below = height(records, left).max(height(records, right));
    record
        .node
        .height
        .store(below.saturating_add(1), Ordering::Relaxed);
    let mut reach = record.allowed();
    for side in [left, right].into_iter().flatten() {
        reach = reach.union(&reach_of(records, side));
    }
    record.node.reach.store(&reach);
}

fn link(number: u32) -> Option<VcpuIndex> {
    (number != NONE).then_some(VcpuIndex::new(number))
}

fn link_of(link_to: &AtomicU32) -> Option<VcpuIndex> {
    link(link_to.load(Ordering::Relaxed))
}

fn set(link: &AtomicU32, to: Option<VcpuIndex>) {
    link.store(to.map_or(NONE, VcpuIndex::number), Ordering::Relaxed);
}

fn side_of(node: &Node, side: Order) -> &AtomicU32 {
    match side {
        Order::Less => &node.left,
        _ => &node.right,
    }
}

fn child(records: &[VcpuRecord], index: VcpuIndex, side: Order) -> Option<VcpuIndex> {
    link_of(side_of(&records.get(index.get())?.node, side))
}

fn set_child(records: &[VcpuRecord], index: VcpuIndex, side: Order, to: Option<VcpuIndex>) {
    if let Some(record) = records.get(index.get()) {
        set(side_of(&record.node, side), to);
    }
}

fn key_of(records: &[VcpuRecord], index: VcpuIndex) -> Option<u64> {
    Some(records.get(index.get())?.node.key.load(Ordering::Relaxed))
}

fn reach_of(records: &[VcpuRecord], index: VcpuIndex) -> CpuSet {
    records
        .get(index.get())
        .map_or(CpuSet::EMPTY, |record| record.node.reach.load())
}

fn height(records: &[VcpuRecord], index: Option<VcpuIndex>) -> u32 {
    index
        .and_then(|index| records.get(index.get()))
        .map_or(0, |record| record.node.height.load(Ordering::Relaxed))
}
