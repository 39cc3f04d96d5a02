//! The buddy allocator: free frames in blocks of 2^order, aligned to their size.
//!
//! INVARIANTS:
//! - A frame is on a free list if and only if its record says `FreeHead`; the block's other frames are `Private`.
//! - A block lies in one zone, and on that zone's list of its order; coalescing never crosses zones.
//! - Two free buddies of one zone and of an order below the highest do not exist: they are one block.
//!
//! A zone holds the frames whose addresses need the same number of bits. So a caller that can only use addresses of so
//! many bits gets exactly the zones up to there, and everybody else is served from the highest zone that has something:
//! low memory, which some devices cannot do without, goes last.
//!
//! A free block knows how many of its first frames are zeroed and forgotten by all CPUs: so the work of preparing a block for a
//! domain may stop anywhere, and whoever takes the block next goes on. What is known of the later half of two that are joined
//! is kept only if the first is clean as a whole.
//!
//! Every operation costs a bounded number of steps, whatever is allocated: at most one look at each zone, and one block
//! split or joined per order.

use dom0_abi::addr::Mfn;
use oxen_arch::boot::MfnRange;

use super::table::{FrameIndex, Table};
use super::word::Kind;

/// The largest block is 2^18 frames: 1 GiB.
pub const MAX_ORDER: u8 = 18;
const ORDERS: usize = MAX_ORDER as usize + 1;

/// Addresses of the lowest zone have so many bits or fewer: what a device on an ISA bus can reach.
pub const MIN_ADDRESS_BITS: u8 = 24;
/// The frame table's indexes have 32 bits.
const MAX_ADDRESS_BITS: u8 = 44;
const ZONES: usize = (MAX_ADDRESS_BITS - MIN_ADDRESS_BITS) as usize + 1;
/// The largest block that frame 0 can head; frame 0 is aligned to any order, but its zone ends.
const MAX_ORDER_AT_ZERO: u32 = MIN_ADDRESS_BITS as u32 - 12;

#[derive(Clone, Copy)]
struct Zone {
    /// The first block of each order.
    heads: [Option<FrameIndex>; ORDERS],
    /// A bit for each order of which there is a block.
    orders: u32,
}

/// The free lists. Their links and marks are in the frame table.
pub(super) struct FreeLists {
    zones: [Zone; ZONES],
    /// A bit for each zone that has a block.
    filled: u32,
    nr_free: u64,
}

impl FreeLists {
    /// No free frame.
    pub(super) const EMPTY: Self = Self {
        zones: [Zone {
            heads: [None; ORDERS],
            orders: 0,
        }; ZONES],
        filled: 0,
        nr_free: 0,
    };

    /// How many frames are free.
    pub(super) fn nr_free(&self) -> u64 {
        self.nr_free
    }

    /// Visits all blocks. It ends even if lists are not what they should be.
    pub(super) fn visit(&self, table: Table<'_>, mut visit: impl FnMut(Mfn, u8)) {
        let heads = self.zones.iter().flat_map(|zone| (0..).zip(zone.heads));
        for (order, mut next) in heads {
            for _ in 0..table.end() {
                let Some(index) = next else { break };
                visit(index.mfn(), order);
                next = table.get(index).and_then(|record| record.links().next);
            }
        }
    }

    /// Takes a block out, from the highest zone whose addresses have at most `address_bits` bits. The frame's record
    /// then says `Private`. Returns how many of its first frames are clean, too.
    pub(super) fn take(
        &mut self,
        table: Table<'_>,
        order: u8,
        address_bits: u8,
    ) -> Option<(FrameIndex, u32)> {
        let highest = address_bits
            .min(MAX_ADDRESS_BITS)
            .checked_sub(MIN_ADDRESS_BITS)?;
        let fitting = u32::MAX.checked_shl(u32::from(order))?;
        let (found, index) = self.find(highest, fitting)?;
        let mut clean = self.remove(table, index, found);
        // What is too much goes back in halves; their other halves are in use, so there is nothing to join.
        for order in (order..found).rev() {
            if let Some(half) = buddy(index, order) {
                self.insert(table, half, order, clean.saturating_sub(bit(order)));
            }
            clean = clean.min(bit(order));
        }
        Some((index, clean))
    }

    /// The first block of the lowest order of those in a mask, in the highest zone up to some that has any.
    fn find(&self, highest: u8, orders: u32) -> Option<(u8, FrameIndex)> {
        let mut zones = self.filled & bit(highest.saturating_add(1)).wrapping_sub(1);
        while let Some(highest) = zones.checked_ilog2() {
            let zone = self.zones.get(highest as usize)?;
            let order = (zone.orders & orders).trailing_zeros();
            if let Some(&Some(index)) = zone.heads.get(order as usize) {
                return Some((order as u8, index));
            }
            zones &= !bit(highest as u8);
        }
        None
    }

    /// Puts frames back, of which the first `clean` are zeroed and forgotten. Their records say `Private` and nobody holds
    /// them.
    pub(super) fn put(&mut self, table: Table<'_>, range: MfnRange, mut clean: u64) {
        let (mut start, end) = (range.start.get(), range.end.get().min(table.end()));
        while let (Some(index), Some(left @ 1..)) = (FrameIndex::new(start), end.checked_sub(start))
        {
            let aligned = if start == 0 {
                MAX_ORDER_AT_ZERO
            } else {
                start.trailing_zeros()
            };
            let order = aligned.min(left.ilog2()).min(u32::from(MAX_ORDER)) as u8;
            let size = u64::from(bit(order));
            self.put_block(table, index, order, clean.min(size) as u32);
            clean = clean.saturating_sub(size);
            start = start.saturating_add(size);
        }
    }

    /// Puts one block back and joins it with its free buddies.
    fn put_block(
        &mut self,
        table: Table<'_>,
        mut index: FrameIndex,
        mut order: u8,
        mut clean: u32,
    ) {
        while order < MAX_ORDER {
            let Some(buddy) = buddy(index, order).filter(|&buddy| zone_of(buddy) == zone_of(index))
            else {
                break;
            };
            if !table
                .get(buddy)
                .is_some_and(|record| record.word().is_free_head(order))
            {
                break;
            }
            let clean_of_buddy = self.remove(table, buddy, order);
            let (first, second) = if index < buddy {
                (clean, clean_of_buddy)
            } else {
                (clean_of_buddy, clean)
            };
            clean = if first == bit(order) {
                first.saturating_add(second)
            } else {
                first
            };
            index = index.min(buddy);
            order = order.saturating_add(1);
        }
        self.insert(table, index, order, clean);
    }

    /// Puts a block on its list, as it is.
    fn insert(&mut self, table: Table<'_>, index: FrameIndex, order: u8, clean: u32) {
        let Some((head, zone_orders)) = self.list(index, order) else {
            return;
        };
        let Some(record) = table.get(index) else {
            return;
        };
        table.push(head, index);
        *zone_orders |= bit(order);
        self.filled |= bit(zone_of(index) as u8);
        record.set(Kind::FreeHead { order, clean });
        self.nr_free = self.nr_free.saturating_add(u64::from(bit(order)));
    }

    /// Takes a block from its list, as it is. Returns how many of its first frames are clean.
    fn remove(&mut self, table: Table<'_>, index: FrameIndex, order: u8) -> u32 {
        let Some((head, zone_orders)) = self.list(index, order) else {
            return 0;
        };
        let Some(record) = table.get(index) else {
            return 0;
        };
        let clean = match record.word().kind() {
            Kind::FreeHead { clean, .. } => clean,
            _ => 0,
        };
        table.unlink(head, index);
        if head.is_none() {
            *zone_orders &= !bit(order);
            if *zone_orders == 0 {
                self.filled &= !bit(zone_of(index) as u8);
            }
        }
        record.set(Kind::Private);
        self.nr_free = self.nr_free.saturating_sub(u64::from(bit(order)));
        clean
    }

    /// The list that a block belongs on, and the bits of the zone that it is in.
    fn list(
        &mut self,
        index: FrameIndex,
        order: u8,
    ) -> Option<(&mut Option<FrameIndex>, &mut u32)> {
        let zone = self.zones.get_mut(zone_of(index))?;
        Some((zone.heads.get_mut(usize::from(order))?, &mut zone.orders))
    }
}

/// The size of a block; as a mask, its order.
fn bit(order: u8) -> u32 {
    1u32.checked_shl(u32::from(order)).unwrap_or(0)
}

/// The block that makes a larger one together with this.
fn buddy(index: FrameIndex, order: u8) -> Option<FrameIndex> {
    FrameIndex::new(u64::from(index.get() ^ bit(order)))
}

/// The zone of a frame.
fn zone_of(index: FrameIndex) -> usize {
    // The bits of a frame number beyond those that every zone has.
    let bits = u32::BITS.saturating_sub(index.get().leading_zeros());
    bits.saturating_sub(MAX_ORDER_AT_ZERO) as usize
}

#[cfg(test)]
pub(super) mod tests;
