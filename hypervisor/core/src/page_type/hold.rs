//! What an entry of a page table refers to.
//!
//! INVARIANT: the references of an entry follow from its bits alone: none if it is not present or leads to a device or to the
//! machine-to-physical table; one of the type `Writable` if it is a writable L1 entry; a general one if it is another L1
//! entry; one of the type of the level below if it is higher. [`Hold::into_entry`] and [`Hold::from_entry`] are the one pair
//! by which references leave Rust for page tables and come back; what is written into a table and what is read out of it
//! go through them, each exactly once.

use core::mem;

use dom0_abi::errno::Errno;
use dom0_abi::ids::DomId;

use super::entry::{Entry, EntryRules, PageRules};
use super::{Level, PageType, Stop, TypeRef, promote, refs};
use crate::budget::Budget;
use crate::domain::{Capabilities, Domain};
use crate::frame::{FrameRef, Memory};
use crate::host::Host;
use crate::policy::io_memory::{IoMemory, Kind};

/// Whose pages L1 entries may map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Those of this domain, and devices if it has any. It may be another one than that of the tables: one that it controls, or
    /// one that grants the page (`mmu::granted`).
    Of(DomId),
    /// Those of devices. ABI: `public/xen.h`, `DOMID_IO`.
    Devices,
    /// The machine-to-physical table, to be read. ABI: `public/xen.h`, `DOMID_XEN`.
    Hypervisor,
}

/// What entries of a table may lead to.
#[derive(Clone, Copy)]
pub struct Reach<'a> {
    /// What bits may be.
    pub rules: &'a EntryRules,
    /// What they may be in L1 entries.
    pub page_rules: &'a PageRules,
    /// Whose the tables are: all tables of a tree are one domain's.
    pub tables: DomId,
    /// Whose pages may be mapped.
    pub pages: Pages,
    /// Whether the domain whose pages are mapped owns devices: they may be mapped, and cache modes chosen.
    pub has_devices: bool,
    /// What of the machine's addresses devices are.
    pub devices: &'a IoMemory,
}

impl<'a> Reach<'a> {
    /// What the tables of a domain lead to when the domain itself asks, or is checked as a whole.
    pub fn own(host: &'a Host, domain: &'a Domain) -> Self {
        let has_devices = domain.capabilities.contains(Capabilities::HARDWARE);
        Self {
            rules: &host.entry_rules,
            page_rules: &domain.page_rules,
            tables: domain.id,
            pages: Pages::Of(domain.id),
            has_devices,
            devices: &host.io_memory,
        }
    }

    /// The bits of an entry, checked and as they are put into memory.
    pub fn check(&self, level: Level, entry: Entry) -> Result<Entry, Errno> {
        self.rules.check(level, entry, self.has_devices)
    }
}

/// An entry with the references that it has: it goes into memory by [`Self::into_entry`], or dropping it ends them.
#[must_use = "dropping it ends the references"]
pub struct Hold<'m> {
    memory: &'m Memory<'m>,
    level: Level,
    entry: Entry,
}

impl<'m> Hold<'m> {
    /// Takes what an entry needs whose bits were checked.
    ///
    /// An L1 entry: `EBUSY`: it maps memory that is not the owner's, or that is used as something else; `EPERM`: it maps a
    /// device that may not be mapped. Others fail as [`promote::acquire`].
    pub fn take(
        memory: &'m Memory<'m>,
        reach: &Reach<'_>,
        level: Level,
        entry: Entry,
        budget: &mut Budget,
    ) -> Result<Self, Stop> {
        match level.below() {
            None => Self::take_page(memory, reach, entry),
            Some(below) => {
                if entry.is_present() {
                    let ty = PageType::Table(below);
                    promote::acquire(*memory, reach, entry.mfn(), ty, budget)?.into_entry();
                }
                Ok(Self::from_entry(memory, level, entry))
            }
        }
    }

    /// The same for an L1 entry.
    #[inline(always)]
    pub(crate) fn take_page(
        memory: &'m Memory<'m>,
        reach: &Reach<'_>,
        entry: Entry,
    ) -> Result<Self, Stop> {
        match Self::take_page_at_once(memory, reach, entry) {
            Some(hold) => Ok(hold),
            None => {
                let entry = take_slowly(memory, reach, entry)?;
                Ok(Self::from_entry(memory, Level::L1, entry))
            }
        }
    }

    /// The same without trying hard. `None`: it cannot be, or not so easily; nothing has changed.
    #[inline(always)]
    pub(crate) fn take_page_at_once(
        memory: &'m Memory<'m>,
        reach: &Reach<'_>,
        entry: Entry,
    ) -> Option<Self> {
        (!entry.is_present() || take_at_once(memory, reach, entry))
            .then(|| Self::from_entry(memory, Level::L1, entry))
    }

    /// The entry as it is put into memory.
    pub fn entry(&self) -> Entry {
        self.entry
    }

    /// Leaves the references to the entry, which is in memory now.
    #[inline]
    pub fn into_entry(self) {
        mem::forget(self);
    }

    /// Takes the references out of an entry that is in memory no more.
    #[inline]
    pub fn from_entry(memory: &'m Memory<'m>, level: Level, entry: Entry) -> Self {
        Self {
            memory,
            level,
            entry,
        }
    }

    /// Ends the references, as dropping does, where that happens often: inlined.
    #[inline(always)]
    pub(crate) fn end(self) {
        if !end_at_once(self.memory, self.level, self.entry) {
            end_slowly(self.memory, self.level, self.entry);
        }
        mem::forget(self);
    }

    /// Ends the references, as dropping does, where that hardly ever happens: in registers.
    #[inline(always)]
    pub(crate) fn give_back(self) {
        end_slowly(self.memory, self.level, self.entry);
        mem::forget(self);
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        end_slowly(self.memory, self.level, self.entry);
    }
}

/// Whether what an entry refers to is the type of a frame, not just the frame.
#[inline(always)]
fn is_typed(level: Level, entry: Entry) -> bool {
    level != Level::L1 || entry.is_writable()
}

/// Ends the references of an entry if they are not the last ones, as nearly always. `false`: ask [`end_slowly`].
#[inline(always)]
fn end_at_once(memory: &Memory<'_>, level: Level, entry: Entry) -> bool {
    if !entry.is_present() {
        return true;
    }
    let Some(record) = memory.frames.record(entry.mfn()) else {
        return false;
    };
    // A frame that is nobody's has neither a type nor references.
    if is_typed(level, entry) {
        refs::end_at_once(memory, record, entry.mfn())
    } else {
        record.release_one_of_many()
    }
}

/// Ends the references of an entry.
#[cold]
#[inline(never)]
fn end_slowly(memory: &Memory<'_>, level: Level, entry: Entry) {
    let mfn = entry.mfn();
    let is_memory = || (memory.frames.record(mfn)).is_some_and(|record| record.word().is_owned());
    if !entry.is_present() || !is_memory() {
        return;
    }
    if is_typed(level, entry) {
        refs::end_last(memory, mfn);
    } else {
        FrameRef::end_last(memory, mfn);
    }
}

/// Takes what a present L1 entry needs if that is a further reference to a page of the owner's, as nearly always. `false`: ask
/// [`take_slowly`].
#[inline(always)]
fn take_at_once(memory: &Memory<'_>, reach: &Reach<'_>, entry: Entry) -> bool {
    let (mfn, Pages::Of(owner)) = (entry.mfn(), reach.pages) else {
        return false;
    };
    let Some(record) = memory.frames.record(mfn) else {
        return false;
    };
    if !entry.is_writable() {
        return record.acquire_at_once(owner);
    }
    let is_taken = TypeRef::take_writable_at_once(memory, record, mfn, owner);
    if is_taken && !entry.is_write_back() {
        record.mark_incoherent();
    }
    is_taken
}

/// Takes what a present L1 entry needs, and returns it as it is put into memory.
#[inline(never)]
fn take_slowly(memory: &Memory<'_>, reach: &Reach<'_>, entry: Entry) -> Result<Entry, Stop> {
    let mfn = entry.mfn();
    let Pages::Of(owner) = reach.pages else {
        return without_owner(*memory, reach, entry);
    };
    match memory.frames.record(mfn) {
        Some(record) if record.word().is_of(owner) => {
            if entry.is_writable() {
                promote::claim_writable(*memory, mfn, owner)
                    .map_err(busy)?
                    .into_entry();
                if !entry.is_write_back() {
                    record.mark_incoherent();
                }
            } else {
                record.acquire(owner).map_err(|_| Errno::EBUSY)?;
            }
            Ok(entry)
        }
        _ => without_owner(*memory, reach, entry),
    }
}

/// What an L1 entry is in memory that maps a page which is no domain's memory. Fails as [`Hold::take`].
#[cold]
#[inline(never)]
fn without_owner(memory: Memory<'_>, reach: &Reach<'_>, entry: Entry) -> Result<Entry, Stop> {
    let mfn = entry.mfn();
    match reach.pages {
        Pages::Hypervisor => {
            if entry.is_writable() || !memory.machine.m2p_frames().contains(mfn) {
                return Err(Errno::EBUSY.into());
            }
            Ok(entry)
        }
        Pages::Of(_) | Pages::Devices => {
            let entry = entry.for_device();
            match reach.devices.kind(memory.machine, mfn) {
                Kind::Memory => Err(Errno::EBUSY.into()),
                _ if !reach.has_devices => Err(Errno::EPERM.into()),
                Kind::Device => Ok(entry),
                Kind::ReadOnly => Ok(entry.read_only()),
                Kind::Hidden => Err(Errno::EPERM.into()),
            }
        }
    }
}

/// Who maps a page says so of every reason for which it cannot be had.
fn busy(stop: Stop) -> Stop {
    match stop {
        Stop::Again => Stop::Again,
        Stop::Refused(_) => Stop::Refused(Errno::EBUSY),
    }
}
