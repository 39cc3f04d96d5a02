//! What an entry of a page table must be, and what it uses. Written down from the manual and the invariants, not from
//! `page_type::entry`.
//!
//! SPEC: Intel SDM volume 3, 4.5.

use dom0_abi::addr::Mfn;
use dom0_abi::ids::DomId;
use oxen_arch::tlb::TlbMode;

use super::grants;
use super::uses::Needs;
use crate::domain::Capabilities;
use crate::frame::Kind;
use crate::host::Host;
use crate::page_type::{Level, PageType};

/// Why an entry must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It has bits that no guest may set at this level (I6).
    Bits,
    /// It is not for user mode, or is global where that must not be.
    User,
    /// It is not present and names memory on a CPU that leaks what such entries name (I6).
    NamesMemory,
    /// Its cache mode is for owners of devices.
    Cache,
    /// It leads to another domain's page, which is not granted so.
    Foreign(DomId),
    /// It leads to another domain's table (I8).
    ForeignTable(DomId),
    /// It leads to memory that is no domain's (I8).
    Hypervisor,
    /// It leads to a device, or where none is, and the domain may not map that.
    Device,
}

/// What is to be looked at of the table that an entry is in.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) host: &'a Host,
    pub(super) owner: DomId,
    pub(super) level: Level,
}

/// What an entry uses: a frame, and as what.
pub(super) type Used = Option<(Mfn, Needs)>;

const PRESENT: u64 = 0x1;
const WRITE: u64 = 0x2;
const USER: u64 = 0x4;
const CACHE_MODE: u64 = 0x98;
const ALLOWED_EVERYWHERE: u64 = 0x7ff0_0000_0000_0e67;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const GLOBAL: u64 = 0x100;
const KERNELS: u64 = 1 << 52;

/// Where the registers of local APICs are, and messages become interrupts; where the first IO-APIC is. No domain may map the
/// former, none write to the latter or to other ones.
const LOCAL_APICS: core::ops::Range<u64> = 0xfee00..0xfef00;
const IO_APIC: u64 = 0xfec00;

impl Place<'_> {
    fn owns_devices(&self) -> bool {
        let owner = self.host.domains.get(self.owner);
        owner.is_some_and(|owner| owner.capabilities.contains(Capabilities::HARDWARE))
    }

    fn controls(&self) -> bool {
        let owner = self.host.domains.get(self.owner);
        owner.is_some_and(|owner| owner.capabilities.contains(Capabilities::CONTROL))
    }

    /// Looks at an entry that was checked: what it uses, and what is wrong about it.
    pub(super) fn look(&self, entry: u64) -> (Used, Option<Wrong>) {
        let machine = &self.host.machine;
        let facts = machine.paging();
        let mfn = Mfn::new((entry & ADDRESS) >> 12);
        if entry & PRESENT == 0 {
            let named = mfn.get();
            let leaks = facts.leaks_not_present && named != 0 && named < machine.max_mfn().get();
            return (None, leaks.then_some(Wrong::NamesMemory));
        }
        let wrong = self.bits(entry);
        let (used, way) = match self.level {
            Level::L1 => self.page(entry, mfn),
            Level::L2 => self.table(mfn, Level::L1),
            Level::L3 => self.table(mfn, Level::L2),
            Level::L4 => self.table(mfn, Level::L3),
        };
        (used, wrong.or(way))
    }

    fn bits(&self, entry: u64) -> Option<Wrong> {
        let facts = self.host.machine.paging();
        let mut allowed = ALLOWED_EVERYWHERE;
        if facts.has_nx {
            allowed |= 1 << 63;
        }
        let address_bits = u32::from(facts.address_bits).min(52);
        allowed |= ADDRESS & 1_u64.checked_shl(address_bits).unwrap_or(0).wrapping_sub(1);
        if self.level == Level::L1 {
            allowed |= GLOBAL | CACHE_MODE;
        }
        if entry & !allowed != 0 {
            return Some(Wrong::Bits);
        }
        let may_be_global = self.host.machine.tlb_mode() == TlbMode::Global && entry & KERNELS == 0;
        if entry & USER == 0 || entry & GLOBAL != 0 && !may_be_global {
            return Some(Wrong::User);
        }
        None
    }

    fn table(&self, mfn: Mfn, level: Level) -> (Used, Option<Wrong>) {
        let used = Some((mfn, Needs::Type(PageType::Table(level))));
        match self.host.frames.words(mfn) {
            Some((Kind::Owned { owner, .. }, _)) if owner == self.owner => (used, None),
            Some((Kind::Owned { owner, .. }, _)) => (used, Some(Wrong::ForeignTable(owner))),
            _ => (used, Some(Wrong::Hypervisor)),
        }
    }

    fn page(&self, entry: u64, mfn: Mfn) -> (Used, Option<Wrong>) {
        let is_write_back = entry & CACHE_MODE == 0;
        let is_writable = entry & WRITE != 0;
        if let Some((Kind::Owned { owner, .. }, _)) = self.host.frames.words(mfn) {
            let needs = if is_writable {
                Needs::Type(PageType::Writable)
            } else {
                Needs::General
            };
            let is_foreign = owner != self.owner && !self.controls();
            let wrong = if is_foreign && !grants::may_reach(self.host, self.owner, mfn, is_writable)
            {
                Some(Wrong::Foreign(owner))
            } else if !is_write_back && !self.owns_devices() && !is_foreign {
                Some(Wrong::Cache)
            } else {
                None
            };
            return (Some((mfn, needs)), wrong);
        }
        let machine = &self.host.machine;
        if machine.m2p_frames().contains(mfn) {
            return (None, is_writable.then_some(Wrong::Hypervisor));
        }
        if machine.memory_map().ram().any(|range| range.contains(mfn)) {
            return (None, Some(Wrong::Hypervisor));
        }
        let is_io_apic = mfn.get() == IO_APIC || machine.is_io_apic(mfn);
        let is_hidden = LOCAL_APICS.contains(&mfn.get()) || is_io_apic && is_writable;
        let is_wrong = is_hidden || is_write_back || !self.owns_devices();
        (None, is_wrong.then_some(Wrong::Device))
    }
}
