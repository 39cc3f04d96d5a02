//! Entries of page tables: which bits a guest may set, and what an entry means.
//!
//! INVARIANT (I6): no entry passes that has a bit which is not on the list of its level. Pages larger than 4 KiB do not exist
//! (XSA-148). SPEC: Intel SDM volume 3, 4.5.

use dom0_abi::addr::{Maddr, Mfn, PAGE_SHIFT};
use dom0_abi::errno::Errno;
use oxen_arch::PagingFacts;
use oxen_arch::memory::PhysMem;
use oxen_arch::tlb::TlbMode;

use super::Level;

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(pub u64);

/// Bits of an entry.
pub mod bits {
    /// The entry leads somewhere.
    pub const PRESENT: u64 = 1 << 0;
    /// Writes are allowed.
    pub const WRITABLE: u64 = 1 << 1;
    /// Ring 3 may use it.
    pub const USER: u64 = 1 << 2;
    /// Cache mode, lowest bit.
    pub const WRITE_THROUGH: u64 = 1 << 3;
    /// Cache mode, middle bit.
    pub const CACHE_DISABLE: u64 = 1 << 4;
    /// The CPU has used it.
    pub const ACCESSED: u64 = 1 << 5;
    /// The CPU has written through it.
    pub const DIRTY: u64 = 1 << 6;
    /// In an L1 entry: cache mode, highest bit. Above: a large page.
    pub const PAT: u64 = 1 << 7;
    /// The translation survives a change of roots.
    pub const GLOBAL: u64 = 1 << 8;
    /// Bits that mean nothing to the CPU.
    pub const SOFTWARE: u64 = (7 << 9) | (0x7ff << 52);
    /// One of them: the page is the guest kernel's. ABI: `public/arch-x86/xen-x86_64.h`, `_PAGE_GUEST_KERNEL`.
    pub const GUEST_KERNEL: u64 = 1 << 52;
    /// Nothing is executed from there.
    pub const NO_EXECUTE: u64 = 1 << 63;
    /// What can name a frame.
    pub const FRAME: u64 = 0x000f_ffff_ffff_f000;
    /// The cache mode of an L1 entry.
    pub const CACHE: u64 = WRITE_THROUGH | CACHE_DISABLE | PAT;
}

use bits::*;

/// What a change may touch without the frame that the entry leads to being looked at again: not one bit that rights or
/// references depend on (XSA-182).
pub const HARMLESS: u64 = ACCESSED | DIRTY | (SOFTWARE & !GUEST_KERNEL);

impl Entry {
    /// The empty entry.
    pub const EMPTY: Self = Self(0);

    /// The entry at an address as it is now; empty if there is no RAM.
    #[inline]
    pub fn load(mem: &PhysMem, at: Maddr) -> Self {
        mem.load_u64(at).map_or(Self::EMPTY, Self)
    }

    /// What may be the entry at an address, whoever has the frame; empty if there is no RAM ([`PhysMem::peek_u64`]).
    #[inline(always)]
    pub fn peek(mem: &PhysMem, at: Maddr) -> Self {
        Self(mem.peek_u64(at))
    }

    /// Whether it leads anywhere.
    pub const fn is_present(self) -> bool {
        self.0 & PRESENT != 0
    }

    /// Whether writes are allowed, as far as this entry is concerned.
    pub const fn is_writable(self) -> bool {
        self.0 & WRITABLE != 0
    }

    /// The frame that it leads to.
    pub const fn mfn(self) -> Mfn {
        Mfn::new((self.0 & FRAME) >> PAGE_SHIFT)
    }

    /// Whether accesses by it are cached as ours are.
    pub const fn is_write_back(self) -> bool {
        self.0 & CACHE == 0
    }

    /// The same without the right to write.
    pub const fn read_only(self) -> Self {
        Self(self.0 & !WRITABLE)
    }

    /// Makes an access of a device that the guest asked to be cached an uncached one.
    pub const fn for_device(self) -> Self {
        if self.is_write_back() {
            Self(self.0 | CACHE_DISABLE | WRITE_THROUGH)
        } else {
            self
        }
    }
}

/// What entries may be on this machine.
#[derive(Clone, Copy, Debug)]
pub struct EntryRules {
    /// Those of L1 tables: of a domain that does not choose cache modes, and of one that does.
    pages: [PageRules; 2],
    /// What may not be set in entries above.
    refused_above: u64,
    /// Frames below this one must not be named by entries that are not present (L1TF).
    hidden_below: Mfn,
}

/// What entries of L1 tables may be.
#[derive(Clone, Copy, Debug)]
pub struct PageRules {
    /// What may not be set.
    refused: u64,
    /// What user entries get beside what the guest gave: the global bit, where it is used.
    global: u64,
    /// As for other entries.
    hidden_below: Mfn,
}

impl EntryRules {
    /// The rules for a CPU with these properties and this use of its TLB. `max_mfn` is behind the last frame of RAM.
    pub fn new(facts: PagingFacts, mode: TlbMode, max_mfn: Mfn) -> Self {
        let width = u32::from(facts.address_bits).min(52);
        let frames = FRAME & !u64::MAX.checked_shl(width).unwrap_or(0);
        let no_execute = if facts.has_nx { NO_EXECUTE } else { 0 };
        let common = PRESENT | WRITABLE | USER | ACCESSED | DIRTY | SOFTWARE | no_execute | frames;
        let hidden_below = if facts.leaks_not_present {
            max_mfn
        } else {
            Mfn::new(0)
        };
        let pages = [0, CACHE].map(|chosen| PageRules {
            refused: !(common | GLOBAL | chosen),
            global: match mode {
                TlbMode::Global => GLOBAL,
                TlbMode::Pcid => 0,
            },
            hidden_below,
        });
        Self {
            pages,
            refused_above: !common,
            hidden_below,
        }
    }

    /// The rules for entries of L1 tables. `may_cache`: the domain owns devices, and may choose cache modes.
    #[inline(always)]
    pub const fn pages(&self, may_cache: bool) -> &PageRules {
        let [strict, with_cache] = &self.pages;
        if may_cache { with_cache } else { strict }
    }

    /// Checks an entry of some level and returns it as it is put into memory. Every present entry is for users, since kernel
    /// and user both are ring 3.
    ///
    /// `may_cache`: see [`Self::pages`]. `EINVAL`: a bit is not allowed; on a CPU that leaks what entries name that are not
    /// present: it names memory. L1 entries fail as [`PageRules::check`].
    pub fn check(&self, level: Level, entry: Entry, may_cache: bool) -> Result<Entry, Errno> {
        let always = match level {
            Level::L1 => return self.pages(may_cache).check(entry),
            Level::L2 | Level::L3 => USER,
            Level::L4 => USER | ACCESSED,
        };
        if !entry.is_present() {
            return check_absent(entry, self.hidden_below);
        }
        if entry.0 & self.refused_above != 0 {
            return Err(Errno::EINVAL);
        }
        Ok(Entry(entry.0 | always))
    }
}

impl PageRules {
    /// Checks an entry and returns it as it is put into memory. `EPERM`: it names an address that no machine has; `EINVAL`: as
    /// [`EntryRules::check`].
    ///
    /// One that was not for users is the kernel's: it gets a mark, by which it is known when the guest writes it again, and is
    /// not global, so that it goes when the root of user mode is loaded. Others are global or not, whatever the guest said.
    /// ABI: `public/arch-x86/xen-x86_64.h`, `_PAGE_GUEST_KERNEL`.
    #[inline(always)]
    pub fn check(&self, entry: Entry) -> Result<Entry, Errno> {
        let bits = entry.0;
        if !entry.is_present() {
            return check_absent(entry, self.hidden_below);
        }
        let refused = bits & self.refused;
        if refused != 0 {
            return Err(why(entry, refused));
        }
        // Present, as it was: said again for the compiler, which then knows it in the loops that this is part of.
        let kept = bits & !GLOBAL | PRESENT;
        Ok(Entry(if bits & (USER | GUEST_KERNEL) == USER {
            kept | self.global
        } else {
            kept | USER | GUEST_KERNEL
        }))
    }
}

/// Checks an entry that is not present.
#[inline(always)]
fn check_absent(entry: Entry, hidden_below: Mfn) -> Result<Entry, Errno> {
    if entry.0 & FRAME == 0 || entry.mfn() >= hidden_below {
        Ok(entry)
    } else {
        Err(Errno::EINVAL)
    }
}

/// Why an L1 entry with these bits is refused.
#[cold]
fn why(entry: Entry, refused: u64) -> Errno {
    if refused & !FRAME == 0 && entry.0 & FRAME != FRAME {
        Errno::EPERM
    } else {
        Errno::EINVAL
    }
}
