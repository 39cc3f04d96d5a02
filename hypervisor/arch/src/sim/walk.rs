//! The model page-table walker: what a processor does between a virtual address and a byte.
//!
//! It knows page tables from the manual alone and shares no code with the rest of the hypervisor, so that a mistake
//! there meets an opinion of its own here. It walks memory as hardware does, without asking whether the hypervisor may.
//!
//! SPEC: Intel SDM volume 3, 4.5 (4-level paging), 4.6 (access rights), 4.8 (accessed and dirty flags).

use dom0_abi::addr::{Maddr, Mfn};

use super::frames::Frames;
use super::rng::Rng;
use super::tlb::{Access, Leaf, Level, Rights, Space, Table, Tlb};
use crate::guest_range::{HYPERVISOR_LAST, HYPERVISOR_START, is_canonical};
use crate::sync::atomic::{AtomicU64, Ordering};

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const SUPERPAGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
/// The bits of an entry that can name a frame.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Where a walk begins and what the control registers say about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paging {
    pub(super) root: Mfn,
    pub(super) pcid: u16,
    /// CR4.PGE.
    pub(super) global_pages: bool,
    /// CR4.PCIDE.
    pub(super) has_pcids: bool,
    /// How many bits a machine address has.
    pub(super) address_bits: u32,
}

/// A CPU's way to memory.
pub(super) struct Walker<'a> {
    pub(super) frames: &'a Frames,
    pub(super) tlb: &'a mut Tlb,
    pub(super) rng: &'a mut Rng,
    pub(super) paging: Paging,
}

impl Walker<'_> {
    /// Translates an address for an access of user mode; `None` is a page fault.
    ///
    /// What is cached is used if it allows the access, however stale. If it does not, it is forgotten and memory is
    /// asked. A processor may also raise the fault, which a handler then finds spurious and retries; the guest copy of
    /// `arch` does that by itself, so it is not seen here.
    pub(super) fn translate(&mut self, address: u64, access: Access) -> Option<Maddr> {
        let pcid = self.paging.pcid;
        let cached = self
            .tlb
            .leaf(pcid, address, self.rng)
            .filter(|leaf| leaf.serves(access));
        let leaf = match cached.or_else(|| {
            self.walk(address, access)
                .filter(|leaf| leaf.serves(access))
        }) {
            Some(leaf) => leaf,
            None => {
                self.tlb.fault(pcid, address);
                self.walk(address, access)
                    .filter(|leaf| leaf.serves(access))?
            }
        };
        let at = Maddr::new(leaf.translate(address));
        // Cached before the frame became what it is, perhaps.
        self.allowed(at.mfn(), leaf.rights);
        Some(at)
    }

    /// Fills the caches for an address that nobody asked for, as processors do. What is cached already stays.
    pub(super) fn speculate(&mut self, address: u64) {
        let ours = (HYPERVISOR_START..=HYPERVISOR_LAST).contains(&address);
        if is_canonical(address)
            && !ours
            && self.tlb.leaf(self.paging.pcid, address, self.rng).is_none()
        {
            self.walk(address, Access::Read);
        }
    }

    /// Walks from the lowest table that is remembered, remembers all it sees, and sets accessed and dirty flags. The
    /// leaf need not allow the access.
    fn walk(&mut self, address: u64, access: Access) -> Option<Leaf> {
        let pcid = self.paging.pcid;
        let from_root = Table {
            level: Level::L4,
            mfn: self.paging.root,
            rights: Rights::ALL,
        };
        let mut table = self.tlb.table(pcid, address).unwrap_or(from_root);
        loop {
            let level = table.level;
            let index = (address >> level.shift()) & 0x1ff;
            // Where there is no memory all bits are ones, which no entry may have.
            let word = self
                .table(table.mfn)
                .and_then(|_| self.frames.word(table.mfn.at(index as usize * 8)))?;
            let (entry, rights) = self.visit(word, level, table.rights, access)?;
            match level.below() {
                Some(below) if entry & SUPERPAGE == 0 => {
                    table = Table {
                        level: below,
                        mfn: Mfn::new((entry & ADDRESS) >> 12),
                        rights,
                    };
                    self.tlb.insert_table(pcid, level, address, table);
                }
                _ => {
                    let base = entry & ADDRESS & !((1 << level.shift()) - 1);
                    let leaf = Leaf {
                        level,
                        base,
                        rights,
                        dirty: entry & DIRTY != 0,
                    };
                    self.allowed(Maddr::new(leaf.translate(address)).mfn(), rights);
                    let global = self.paging.global_pages && entry & GLOBAL != 0;
                    assert!(
                        !(global && self.paging.has_pcids),
                        "the guest's entry for {address:#x} is global while PCIDs are in use"
                    );
                    let space = if global {
                        Space::Global
                    } else {
                        Space::Pcid(pcid)
                    };
                    self.tlb.insert_leaf(space, address, leaf);
                    return Some(leaf);
                }
            }
        }
    }

    /// Reads one entry and sets its flags; `None` if it is not present or malformed.
    fn visit(
        &self,
        word: &AtomicU64,
        level: Level,
        above: Rights,
        access: Access,
    ) -> Option<(u64, Rights)> {
        loop {
            let entry = word.load(Ordering::SeqCst);
            if entry & PRESENT == 0 || entry & self.reserved(level, entry) != 0 {
                return None;
            }
            let rights = above.and(Rights {
                user: entry & USER != 0,
                write: entry & WRITE != 0,
            });
            let is_leaf = level == Level::L1 || entry & SUPERPAGE != 0;
            let writes = is_leaf && access == Access::Write && rights.allow(Access::Write);
            let flagged = entry | ACCESSED | if writes { DIRTY } else { 0 };
            // Never writes without need, and never over what somebody else wrote meanwhile.
            if flagged == entry
                || word
                    .compare_exchange(entry, flagged, Ordering::SeqCst, Ordering::SeqCst)
                    .is_ok()
            {
                return Some((flagged, rights));
            }
        }
    }

    /// The bits that must be zero in this entry.
    const fn reserved(&self, level: Level, entry: u64) -> u64 {
        let too_high = ADDRESS & !((1 << self.paging.address_bits) - 1);
        too_high
            | match level {
                Level::L4 => SUPERPAGE,
                // Bit 12 is the memory type.
                Level::L3 | Level::L2 if entry & SUPERPAGE != 0 => {
                    ((1 << level.shift()) - 1) & !0x1fff
                }
                _ => 0,
            }
    }

    /// Passes the frame of a table if there is memory behind it. Panics if an object of the hypervisor lives there, as
    /// [`Self::allowed`] does.
    fn table(&self, mfn: Mfn) -> Option<Mfn> {
        let is_ram = self.frames.is_ram(mfn);
        assert!(
            !is_ram || self.frames.bits.test(mfn),
            "a guest's page tables lead to frame {mfn}, where an object of the hypervisor lives"
        );
        is_ram.then_some(mfn)
    }

    /// Panics if user mode must not reach the frame of a page with these rights: no guest's tables, and nothing that is
    /// left of them in a TLB, may lead to an object of the hypervisor. Only the machine-to-physical table may be read.
    fn allowed(&self, mfn: Mfn, rights: Rights) {
        if !rights.user || !self.frames.is_ram(mfn) || self.frames.bits.test(mfn) {
            return;
        }
        assert!(
            self.frames.is_m2p(mfn),
            "a guest's page tables lead to frame {mfn}, where an object of the hypervisor lives"
        );
        assert!(
            !rights.write,
            "a guest's page tables let it write to frame {mfn} of the machine-to-physical table"
        );
    }

    /// Reads bytes of one page of user mode's memory.
    pub(super) fn read(&mut self, address: u64, into: &mut [u8]) -> Option<()> {
        let at = self.translate(address, Access::Read)?;
        self.frames.read(at, into);
        Some(())
    }

    /// Writes bytes of one page of user mode's memory.
    pub(super) fn write(&mut self, address: u64, from: &[u8]) -> Option<()> {
        let at = self.translate(address, Access::Write)?;
        self.frames.write(at, from);
        Some(())
    }
}
