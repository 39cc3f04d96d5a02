//! What a CPU may still remember of page tables.
//!
//! A translation may outlive its entry, as long as nothing comes of it: the frame is still what the translation takes it for,
//! or the CPU will be flushed before the frame becomes something else, because it counts as stale for the frame's stamp.

use dom0_abi::addr::{GuestAddr, Mfn};
use dom0_abi::ids::DomId;
use oxen_arch::boot::{CpuId, MfnRange};
use oxen_arch::tlb::TlbStamp;

use super::{Finding, Problem, grants};
use crate::domain::Capabilities;
use crate::frame::{Kind, TypeState};
use crate::host::{Host, Pcpu};
use crate::page_type::PageType;

/// What a CPU remembers: a page, or the table of the next level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The first address that it is for.
    pub address: GuestAddr,
    /// What it leads to.
    pub frames: MfnRange,
    /// The page may be written to.
    pub writable: bool,
    /// It is a table.
    pub is_table: bool,
}

/// Why it must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Danger {
    /// It leads to more than a page.
    Superpage(GuestAddr),
    /// The CPU runs nobody.
    Idle(GuestAddr),
    /// It leads to memory that is no domain's, and nobody will flush it.
    Hypervisor(GuestAddr),
    /// It leads to the frame of a domain that the running one does not control, and that is not granted to it (I19).
    Foreign(GuestAddr, DomId),
    /// It allows writing to what is no plain page (I1).
    Writable(GuestAddr),
    /// It takes for a table what is none, or may become something else unflushed.
    Table(GuestAddr),
}

/// Looks at one thing that a CPU remembers, and reports what could come of it.
pub fn check(host: &Host, cpu: CpuId, what: &Remembered, report: &mut dyn FnMut(Finding)) {
    let mfn = what.frames.start;
    if let Some(danger) = danger(host, cpu, what, mfn) {
        let what = Problem::Remembered(danger);
        report(Finding { mfn, what });
    }
}

fn danger(host: &Host, cpu: CpuId, what: &Remembered, mfn: Mfn) -> Option<Danger> {
    let at = what.address;
    if what.frames.len() != 1 {
        return Some(Danger::Superpage(at));
    }
    let Some((running, _)) = host.pcpu_of(cpu).and_then(Pcpu::running) else {
        return Some(Danger::Idle(at));
    };
    let machine = &host.machine;
    let will_be_flushed = |stamp: TlbStamp| machine.stale_cpus(stamp).contains(cpu);
    let is_ram = machine.memory_map().ram().any(|range| range.contains(mfn));
    let words = host.frames.words(mfn).filter(|_| is_ram);
    let Some((kind, state)) = words else {
        return what.is_table.then_some(Danger::Table(at));
    };
    if machine.m2p_frames().contains(mfn) {
        return (what.is_table || what.writable).then_some(Danger::Hypervisor(at));
    }
    let Kind::Owned { owner, .. } = kind else {
        let flushed = matches!(state, TypeState::None { stamp, .. } if will_be_flushed(stamp));
        return (!flushed).then_some(Danger::Hypervisor(at));
    };
    let controls = host
        .domains
        .get(running)
        .is_some_and(|domain| domain.capabilities.contains(Capabilities::CONTROL));
    let may = || controls || grants::may_reach(host, running, mfn, what.writable);
    if owner != running && (what.is_table || !may()) {
        return Some(Danger::Foreign(at, owner));
    }
    if what.is_table {
        let is_one = match state {
            TypeState::InUse { ty, .. }
            | TypeState::Parked { ty, .. }
            | TypeState::Changing { ty }
            | TypeState::Undoing { ty, .. } => matches!(ty, PageType::Table(_)),
            TypeState::None { was, stamp } => {
                let was_one = was.is_none_or(|ty| matches!(ty, PageType::Table(_)));
                was_one && will_be_flushed(stamp)
            }
        };
        return (!is_one).then_some(Danger::Table(at));
    }
    if !what.writable {
        return None;
    }
    let is_plain = match state {
        TypeState::InUse { ty, .. } => ty == PageType::Writable,
        TypeState::None { was, stamp } => {
            was.is_none_or(|ty| ty == PageType::Writable) && will_be_flushed(stamp)
        }
        TypeState::Changing { .. } | TypeState::Parked { .. } | TypeState::Undoing { .. } => false,
    };
    (!is_plain).then_some(Danger::Writable(at))
}
