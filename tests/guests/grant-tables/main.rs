//! Grant tables: their size and frames, maps and copies of what the guest grants to itself, errors, and long lists.
//!
//! A domain may map its own grants, so one guest sees all of it but what another domain's frame makes different.
#![no_std]
#![no_main]
// UNSAFETY: hypercalls with bare arguments.
#![allow(unsafe_code)]

mod copies;
mod maps;
mod tables;

use core::ptr;

use dom0_abi::errno::Errno;
use dom0_abi::grant_table::{GrantStatus, GrantTableCommand, GrantType};
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::DomId;
use guest_pv_drivers::hypercall;
use kit::Report;
use kit::memory::{Page, pte};
use kit::page_tables::{Lab, WRITABLE, page};

kit::guest!("grant-tables", main);

/// Where the table is mapped, and from where on grants are.
const TABLE_SLOT: usize = 1;
const MAP_SLOT: usize = 16;

fn main(report: &mut Report) {
    let Ok(lab) = Lab::new() else {
        return report.check("tables of the guest's own", false, "refused");
    };
    tables::check(report);
    let Some(grants) = Grants::new(lab) else {
        return report.check("the grant table is mapped", false, "refused");
    };
    maps::check(report, &grants);
    copies::check(report, &grants);
    tables::swap(report, &grants);
}

/// The guest's grant table, and where to map things.
struct Grants {
    lab: Lab,
}

const OKAY: i16 = GrantStatus::Okay as i16;
const GENERAL: i16 = GrantStatus::GeneralError as i16;
const BAD_DOMAIN: i16 = GrantStatus::BadDomain as i16;
const BAD_REF: i16 = GrantStatus::BadGntref as i16;
const BAD_HANDLE: i16 = GrantStatus::BadHandle as i16;
const BAD_PAGE: i16 = GrantStatus::BadPage as i16;
const PERMIT: u16 = GrantType::PermitAccess as u16;
/// What no hypervisor writes as a status.
const UNTOUCHED: i16 = 77;

impl Grants {
    fn new(lab: Lab) -> Option<Self> {
        let mfn = tables::setup(DomId::SELF, 1).ok()?.1;
        let entry = mfn << 12 | WRITABLE;
        lab.map(TABLE_SLOT, entry).ok()?;
        Some(Self { lab })
    }

    fn at(reference: u32) -> *mut u64 {
        ptr::with_exposed_provenance_mut(Lab::address(TABLE_SLOT) as usize + reference as usize * 8)
    }

    /// Writes an entry.
    fn set(&self, reference: u32, flags: u16, to: DomId, mfn: u64) {
        let entry = u64::from(flags) | u64::from(to.get()) << 16 | mfn << 32;
        // SAFETY: the table is mapped there, and Rust knows of nothing in it.
        unsafe { Self::at(reference).write_volatile(entry) };
    }

    /// The flags of an entry.
    fn flags(&self, reference: u32) -> u16 {
        // SAFETY: as in `set`.
        unsafe { Self::at(reference).read_volatile() as u16 }
    }

    /// Grants a fresh page to the guest itself.
    fn fresh(&self, reference: u32, flags: u16) -> &'static Page {
        let page = page();
        self.set(reference, PERMIT | flags, DomId::DOM0, page.mfn());
        page
    }

    /// The entry at a place where things are mapped, without what CPUs mark.
    fn entry(&self, slot: usize) -> u64 {
        self.lab.table(1).entry(slot) & !(pte::A | pte::D)
    }
}

/// Makes operations of one kind in place.
fn operate<T>(command: GrantTableCommand, ops: &mut [T]) -> Result<u64, Errno> {
    let count = ops.len() as u64;
    bare(
        command.get().into(),
        ops.as_mut_ptr().expose_provenance() as u64,
        count,
    )
}

/// The call with any arguments.
fn bare(command: u64, ops: u64, count: u64) -> Result<u64, Errno> {
    // SAFETY: the callers hand over what the command takes, or nothing that is mapped; what gets mapped are places of which Rust
    // knows nothing.
    unsafe { hypercall::call(Hypercall::GrantTableOp, [command, ops, count, 0, 0]) }
}
