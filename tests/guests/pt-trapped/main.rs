//! Writes to a level-1 table by plain instructions, which the hypervisor carries out for the guest kernel.
//!
//! Each instruction runs twice: on a page as any, by the CPU, and on the entry of a live table with the same content.
//! Memory, registers and flags must come out alike. Linux needs `mov`, `xchg`, `cmpxchg`, `and`, `or`, `btr` and `bts`,
//! locked or not; others may be carried out as well or be a page fault, but nothing between. What an `mmu_update` would
//! refuse is a page fault that changes nothing, as are writes to upper tables, across entries, and from user mode.
//!
//! Xen 4.17 carries writes out whether the assistance of writable page tables is on or not.
#![no_std]
#![no_main]
// UNSAFETY: probing instructions.
#![allow(unsafe_code)]

mod forms;
mod refused;
mod table;
mod user;

use dom0_abi::xen::VmAssist;
use guest_pv_drivers::hypercall;
use kit::Report;
use kit::page_tables::{Lab, page};

kit::guest!("pt-trapped", main);

/// The slot that is written; its neighbours stay empty.
pub const SLOT: usize = 20;

fn main(report: &mut Report) {
    // The page in front of the level-1 table, which is the first that the lab takes.
    let in_front = page();
    let Ok(lab) = Lab::new() else {
        return report.check("tables of the guest's own", false, "refused");
    };
    report.equal(
        "the assistance is on",
        hypercall::vm_assist(true, VmAssist::WritablePagetables),
        Ok(0),
    );
    forms::check(report, lab);
    refused::check(report, lab);
    refused::across_pages(report, lab, in_front);
    forms::stepped(report, lab);
    user::check(report, lab);
    refused::without_assistance(report, lab);
}
