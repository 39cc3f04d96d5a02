//! What an entry of a page table refers to.
//!
//! INVARIANT: the references of an entry follow from its bits alone: none if it is not present or leads to a device or to the
//! machine-to-physical table; one of the type `Writable` if it is a writable L1 entry; a general one if it is another L1
//! entry; one of the type of the level below if it is higher. [`Hold::into_entry`] and [`Hold::from_entry`] are the one pair
//! by which references leave Rust for page tables and come back; what is written into a table and what is read out of it
//! go through them, each exactly once.

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

/// The references of one entry.
#[derive(Debug)]
#[must_use = "dropping it ends the references"]
pub enum Hold<'m> {
    /// None.
    Nothing,
    /// To a frame.
    Frame(FrameRef<'m>),
    /// To a frame and its type.
    Type(TypeRef<'m>),
}

impl<'m> Hold<'m> {
    /// Takes what an entry needs whose bits were checked, and returns the entry as it is put into memory.
    ///
    /// An L1 entry: `EBUSY`: it maps memory that is not the owner's, or that is used as something else; `EPERM`: it maps a
    /// device that may not be mapped. Others fail as [`promote::acquire`].
    pub fn take(
        memory: Memory<'m>,
        reach: &Reach<'_>,
        level: Level,
        entry: Entry,
        budget: &mut Budget,
    ) -> Result<(Self, Entry), Stop> {
        if !entry.is_present() {
            return Ok((Self::Nothing, entry));
        }
        match level.below() {
            None => Self::take_page(memory, reach, entry),
            Some(below) => {
                let ty = PageType::Table(below);
                let table = promote::acquire(memory, reach, entry.mfn(), ty, budget)?;
                Ok((Self::Type(table), entry))
            }
        }
    }

    /// The same for an L1 entry that is present.
    #[inline]
    pub(crate) fn take_page(
        memory: Memory<'m>,
        reach: &Reach<'_>,
        entry: Entry,
    ) -> Result<(Self, Entry), Stop> {
        let mfn = entry.mfn();
        if let Pages::Of(owner) = reach.pages
            && memory.frames.is_of(mfn, owner)
        {
            if !entry.is_writable() {
                let frame = memory.acquire(mfn, owner).map_err(|_| Errno::EBUSY)?;
                return Ok((Self::Frame(frame), entry));
            }
            let writable = match TypeRef::writable(memory, mfn, owner) {
                Ok(writable) => writable,
                Err(Stop::Again) => return Err(Stop::Again),
                Err(Stop::Refused(_)) => return Err(Errno::EBUSY.into()),
            };
            if !entry.is_write_back() {
                memory.frames.mark_incoherent(mfn);
            }
            return Ok((Self::Type(writable), entry));
        }
        Self::without_owner(memory, reach, entry)
    }

    /// The same for a page that is no domain's memory.
    #[cold]
    fn without_owner(
        memory: Memory<'m>,
        reach: &Reach<'_>,
        entry: Entry,
    ) -> Result<(Self, Entry), Stop> {
        let mfn = entry.mfn();
        match reach.pages {
            Pages::Hypervisor => {
                if entry.is_writable() || !memory.machine.m2p_frames().contains(mfn) {
                    return Err(Errno::EBUSY.into());
                }
                Ok((Self::Nothing, entry))
            }
            Pages::Of(_) | Pages::Devices => {
                let entry = entry.for_device();
                match reach.devices.kind(memory.machine, mfn) {
                    Kind::Memory => Err(Errno::EBUSY.into()),
                    _ if !reach.has_devices => Err(Errno::EPERM.into()),
                    Kind::Device => Ok((Self::Nothing, entry)),
                    Kind::ReadOnly => Ok((Self::Nothing, entry.read_only())),
                    Kind::Hidden => Err(Errno::EPERM.into()),
                }
            }
        }
    }

    /// Leaves the references to the entry, which is in memory now.
    #[inline]
    pub fn into_entry(self) {
        match self {
            Self::Nothing => {}
            Self::Frame(frame) => {
                frame.into_raw();
            }
            Self::Type(ty) => ty.into_entry(),
        }
    }

    /// Ends the references of an L1 entry that is in memory no more, as dropping what [`Self::from_entry`] gives does. `now`:
    /// a time since the entry is gone, see [`TypeRef`].
    #[inline]
    pub(crate) fn end_page(memory: Memory<'m>, entry: Entry, now: impl Fn() -> TlbStamp) {
        if !entry.is_present() {
            return;
        }
        let mfn = entry.mfn();
        let Some(record) = memory.frames.record(mfn).filter(|of| of.word().is_owned()) else {
            return;
        };
        if entry.is_writable() {
            TypeRef::end(memory, record, mfn, now);
        } else {
            drop(FrameRef::from_raw(memory, mfn));
        }
    }

    /// Takes the references out of an entry that is in memory no more.
    #[inline]
    pub fn from_entry(memory: Memory<'m>, level: Level, entry: Entry) -> Self {
        if !entry.is_present() {
            return Self::Nothing;
        }
        let mfn = entry.mfn();
        match level.below() {
            Some(below) => Self::Type(TypeRef::counted(memory, mfn, PageType::Table(below))),
            None if !memory.frames.is_owned(mfn) => Self::Nothing,
            None if entry.is_writable() => {
                Self::Type(TypeRef::counted(memory, mfn, PageType::Writable))
            }
            None => Self::Frame(FrameRef::from_raw(memory, mfn)),
        }
    }
}
