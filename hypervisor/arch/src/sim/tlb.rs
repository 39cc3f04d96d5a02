//! The model TLB of one CPU: what a processor may remember of page tables, and what each way of flushing makes it
//! forget.
//!
//! It is an adversary. It never evicts on its own, so an entry that was ever cached is used, however stale, until
//! something happens that the manual says is enough. It remembers leaf entries by address space (PCID, or global) and
//! the tables that upper entries lead to.
//!
//! SPEC: Intel SDM volume 3, 4.10 (caching translation information).

use std::collections::BTreeMap;
use std::vec::Vec;

use dom0_abi::addr::{GuestAddr, Maddr, Mfn};

use super::rng::Rng;
use super::shootdown::CachedFrames;
use crate::boot::MfnRange;

/// A level of the page tables, named after the entries in a table of that level.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Level {
    L1,
    L2,
    L3,
    L4,
}

impl Level {
    /// How many address bits an entry of this level covers.
    pub(super) const fn shift(self) -> u32 {
        match self {
            Self::L1 => 12,
            Self::L2 => 21,
            Self::L3 => 30,
            Self::L4 => 39,
        }
    }

    /// The level of the table that an entry of this level leads to.
    pub(super) const fn below(self) -> Option<Self> {
        match self {
            Self::L1 => None,
            Self::L2 => Some(Self::L1),
            Self::L3 => Some(Self::L2),
            Self::L4 => Some(Self::L3),
        }
    }

    const fn key(self, address: u64) -> (Self, u64) {
        (self, address >> self.shift())
    }
}

/// What all entries on the way allow together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Rights {
    pub(super) user: bool,
    pub(super) write: bool,
}

impl Rights {
    pub(super) const ALL: Self = Self {
        user: true,
        write: true,
    };

    pub(super) const fn and(self, other: Self) -> Self {
        Self {
            user: self.user && other.user,
            write: self.write && other.write,
        }
    }

    /// Whether user mode may do it.
    pub(super) const fn allow(self, access: Access) -> bool {
        self.user && (self.write || matches!(access, Access::Read))
    }
}

/// What is to be done with a byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    Read,
    Write,
}

/// A cached translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Leaf {
    /// How much it translates.
    pub(super) level: Level,
    /// The machine address of the first byte.
    pub(super) base: u64,
    pub(super) rights: Rights,
    /// Whether the entry in memory was dirty when it was read.
    pub(super) dirty: bool,
}

impl Leaf {
    /// Whether a processor would use it without a look at memory.
    pub(super) const fn serves(&self, access: Access) -> bool {
        self.rights.allow(access) && (self.dirty || matches!(access, Access::Read))
    }

    /// Where it puts an address that it covers.
    pub(super) const fn translate(&self, address: u64) -> u64 {
        self.base | (address & ((1 << self.level.shift()) - 1))
    }
}

/// A cached upper entry: the table that it leads to, and the rights up to there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Table {
    pub(super) level: Level,
    pub(super) mfn: Mfn,
    pub(super) rights: Rights,
}

/// Whose translations an entry is one of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Space {
    Global,
    Pcid(u16),
}

/// All that one CPU remembers.
#[derive(Default)]
pub(super) struct Tlb {
    leaves: BTreeMap<(Space, (Level, u64)), Leaf>,
    /// By the entry: its level and what it covers.
    tables: BTreeMap<(u16, (Level, u64)), Table>,
}

impl Tlb {
    /// The translation that is used for an address. If there are several, which differ only when somebody forgot to
    /// flush, it may be any.
    pub(super) fn leaf(&self, pcid: u16, address: u64, rng: &mut Rng) -> Option<Leaf> {
        let keys = Self::leaf_keys(pcid, address);
        let found: Vec<_> = keys
            .into_iter()
            .filter_map(|key| self.leaves.get(&key))
            .collect();
        found.get(rng.below(found.len())).map(|leaf| **leaf)
    }

    /// The lowest table on the way to an address that is remembered.
    pub(super) fn table(&self, pcid: u16, address: u64) -> Option<Table> {
        [Level::L2, Level::L3, Level::L4]
            .into_iter()
            .find_map(|level| self.tables.get(&(pcid, level.key(address))).copied())
    }

    pub(super) fn insert_leaf(&mut self, space: Space, address: u64, leaf: Leaf) {
        self.leaves.insert((space, leaf.level.key(address)), leaf);
    }

    /// Remembers the table that the entry of `level` for `address` leads to.
    pub(super) fn insert_table(&mut self, pcid: u16, level: Level, address: u64, table: Table) {
        self.tables.insert((pcid, level.key(address)), table);
    }

    /// Forgets what a page fault at the address makes a processor forget. SPEC: 4.10.4.1.
    pub(super) fn fault(&mut self, pcid: u16, address: u64) {
        for key in Self::leaf_keys(pcid, address) {
            self.leaves.remove(&key);
        }
        for level in [Level::L2, Level::L3, Level::L4] {
            self.tables.remove(&(pcid, level.key(address)));
        }
    }

    /// `INVLPG`: the page in this space and as global, and the upper entries of the space for all addresses.
    pub(super) fn flush_page(&mut self, pcid: u16, address: u64) {
        for key in Self::leaf_keys(pcid, address) {
            self.leaves.remove(&key);
        }
        self.tables.retain(|(space, _), _| *space != pcid);
    }

    /// `INVPCID` with an address: as [`Self::flush_page`], but global translations stay.
    pub(super) fn flush_page_of_space(&mut self, pcid: u16, address: u64) {
        for key in Self::leaf_keys(pcid, address)
            .into_iter()
            .filter(|(space, _)| *space != Space::Global)
        {
            self.leaves.remove(&key);
        }
        self.tables.retain(|(space, _), _| *space != pcid);
    }

    /// A load of CR3, or `INVPCID` for one space: all of the space; global translations stay.
    pub(super) fn flush_space(&mut self, pcid: u16) {
        self.leaves
            .retain(|(space, _), _| *space != Space::Pcid(pcid));
        self.tables.retain(|(space, _), _| *space != pcid);
    }

    /// `INVPCID` for all spaces but global translations.
    pub(super) fn flush_spaces(&mut self) {
        self.leaves.retain(|(space, _), _| *space == Space::Global);
        self.tables.clear();
    }

    /// A change of CR4.PGE: everything.
    pub(super) fn flush_all(&mut self) {
        self.leaves.clear();
        self.tables.clear();
    }

    /// All frames that can be reached by what is remembered, without a further look into memory.
    pub(super) fn cached(&self) -> Vec<CachedFrames> {
        let leaves = self.leaves.iter().map(|((_, (level, number)), leaf)| {
            let frames = 1 << (level.shift() - Level::L1.shift());
            CachedFrames {
                address: GuestAddr::new(number << level.shift()),
                frames: MfnRange::of(Maddr::new(leaf.base).mfn(), frames)
                    .unwrap_or(MfnRange::EMPTY),
                writable: leaf.rights.write,
                is_table: false,
            }
        });
        let tables = self
            .tables
            .iter()
            .map(|((_, (level, number)), table)| CachedFrames {
                address: GuestAddr::new(number << level.shift()),
                frames: MfnRange::one(table.mfn),
                writable: false,
                is_table: true,
            });
        leaves.chain(tables).collect()
    }

    fn leaf_keys(pcid: u16, address: u64) -> [(Space, (Level, u64)); 6] {
        let [l1, l2, l3] = [Level::L1, Level::L2, Level::L3].map(|level| level.key(address));
        let (own, global) = (Space::Pcid(pcid), Space::Global);
        [
            (own, l1),
            (own, l2),
            (own, l3),
            (global, l1),
            (global, l2),
            (global, l3),
        ]
    }
}
