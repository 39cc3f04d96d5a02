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
use oxen_arch::tlb::TlbStamp;

use super::entry::{Entry, EntryRules};
use super::{Level, PageType, Stop, TypeRef, promote};
use crate::budget::Budget;
use crate::domain::{Capabilities, Domain};
use crate::frame::{FrameRef, Memory};
use crate::host::Host;
use crate::policy::io_memory::{IoMemory, Kind};

/// Whose pages L1 entries may map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Those of this domain, and devices if it has any.
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
    pub fn own(host: &'a Host, domain: &Domain) -> Self {
        Self {
            rules: &host.entry_rules,
            tables: domain.id,
            pages: Pages::Of(domain.id),
            has_devices: domain.capabilities.contains(Capabilities::HARDWARE),
            devices: &host.io_memory,
        }
    }

    /// The bits of an entry, checked and as they are put into memory.
    #[inline]
    pub fn check(&self, level: Level, entry: Entry) -> Result<Entry, Errno> {
        self.rules.check(level, entry, self.has_devices)
    }
}

/// An entry with the references that it has: it goes into memory by [`Self::into_entry`], or dropping it ends them.
#[must_use = "dropping it ends the references"]
pub struct Hold<'m> {
    memory: Memory<'m>,
    level: Level,
    entry: Entry,
}

impl<'m> Hold<'m> {
    /// Takes what an entry needs whose bits were checked.
    ///
    /// An L1 entry: `EBUSY`: it maps memory that is not the owner's, or that is used as something else; `EPERM`: it maps a
    /// device that may not be mapped. Others fail as [`promote::acquire`].
    pub fn take(
        memory: Memory<'m>,
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
                    promote::acquire(memory, reach, entry.mfn(), ty, budget)?.into_entry();
                }
                Ok(Self::from_entry(memory, level, entry))
            }
        }
    }

    /// The same for an L1 entry.
    #[inline(always)]
    pub(crate) fn take_page(
        memory: Memory<'m>,
        reach: &Reach<'_>,
        entry: Entry,
    ) -> Result<Self, Stop> {
        let hold = |entry| Ok(Self::from_entry(memory, Level::L1, entry));
        if !entry.is_present() {
            return hold(entry);
        }
        let mfn = entry.mfn();
        let Pages::Of(owner) = reach.pages else {
            return hold(without_owner(memory, reach, entry)?);
        };
        match memory.frames.record(mfn) {
            Some(record) if record.word().is_of(owner) => {
                if entry.is_writable() {
                    TypeRef::take_writable(memory, record, mfn, owner).map_err(busy)?;
                } else {
                    record.acquire(owner).map_err(|_| Errno::EBUSY)?;
                }
                if entry.is_writable() && !entry.is_write_back() {
                    record.mark_incoherent();
                }
                hold(entry)
            }
            _ => hold(without_owner(memory, reach, entry)?),
        }
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
    pub fn from_entry(memory: Memory<'m>, level: Level, entry: Entry) -> Self {
        Self {
            memory,
            level,
            entry,
        }
    }

    /// Ends the references, as dropping does. `now` is asked only if there was no other to the same: a time since the entry is
    /// gone from memory.
    #[inline]
    pub fn end(self, now: impl Fn() -> TlbStamp) {
        end(self.memory, self.level, self.entry, now);
        mem::forget(self);
    }
}

impl Drop for Hold<'_> {
    #[inline]
    fn drop(&mut self) {
        let memory = self.memory;
        end(memory, self.level, self.entry, || {
            memory.machine.tlb_stamp()
        });
    }
}

#[inline]
fn end(memory: Memory<'_>, level: Level, entry: Entry, now: impl Fn() -> TlbStamp) {
    if !entry.is_present() {
        return;
    }
    let mfn = entry.mfn();
    if let Some(below) = level.below() {
        drop(TypeRef::counted(memory, mfn, PageType::Table(below)));
        return;
    }
    let record = memory.frames.record(mfn);
    match record.filter(|record| record.word().is_owned()) {
        Some(record) if entry.is_writable() => TypeRef::end(memory, record, mfn, now),
        Some(_) => drop(FrameRef::from_raw(memory, mfn)),
        None => {}
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
