//! Descriptor tables: what a guest may put into them, where they may lie, and what the CPU then makes of selectors.
//!
//! A guest writes descriptors that the CPU believes while the hypervisor runs on the same tables. None may lead to more
//! privilege than user code has, none may be changed behind the check's back, and a table may not lie in a page that is
//! anything else.
#![no_std]
#![no_main]
// UNSAFETY: selectors are loaded and tables replaced.
#![allow(unsafe_code)]

mod global;
mod loading;
mod local;
mod places;
mod user_mode;
mod values;

use core::fmt::Display;

use dom0_abi::errno::Errno;
use guest_pv_drivers::hypercall::descriptors::{set_gdt, update_descriptor};
use kit::descriptors::Register;
use kit::frames::Window;
use kit::memory::Page;
use kit::page_tables::{self, protect};
use kit::trap::{Cause, vector};
use kit::{Report, Trap};

kit::guest!("descriptors", main);

type Answer = Result<u64, Errno>;

static WINDOW: Window = Window::new();

fn main(report: &mut Report) {
    global::check(report);
    values::check(report);
    places::check(report);
    loading::check(report);
    local::check(report);
    user_mode::check(report);
}

/// A page with descriptors, read-only, so that it can be part of a table.
fn table_page(descriptors: &[(u16, u64)]) -> &'static Page {
    let page = page_tables::page();
    for &(index, descriptor) in descriptors {
        page.set_word(usize::from(index), descriptor);
    }
    protect(page).expect("an own page can be mapped read-only");
    page
}

/// Makes frames the global table.
fn set(frames: &[u64], entries: u64) -> Answer {
    // SAFETY: the kit runs on the hypervisor's selectors; what the frames hold is descriptors.
    unsafe { set_gdt(frames, entries) }
}

/// Makes one page the global table.
fn set_page(page: &'static Page) {
    set(&[page.mfn()], 512).expect("a page of good descriptors is a table");
}

/// Writes a descriptor at a machine address.
fn update(place: u64, descriptor: u64) -> Answer {
    // SAFETY: the places are in pages with nothing else, or none that the hypervisor may let a guest write.
    unsafe { update_descriptor(place, descriptor) }
}

/// A trap, if there was one.
type Seen = Option<Cause>;

fn seen(trap: Option<Trap>) -> Seen {
    trap.map(|trap| trap.cause())
}

/// The trap for a selector that cannot be loaded: its error code is the selector without its privilege level.
fn refused(selector: u16) -> Seen {
    Some((vector::GP, Some(u64::from(selector & !3)), 0))
}

/// The trap for the selector of a segment that is not present.
fn not_present(selector: u16) -> Seen {
    Some((vector::NP, Some(u64::from(selector & !3)), 0))
}

/// Loads a selector into each data register, which holds null before and afterwards.
fn load_everywhere(report: &mut Report, name: impl Display, selector: u16, right: Seen) {
    for register in Register::ALL {
        let trap = seen(register.load(selector));
        let held = if right.is_none() { selector } else { 0 };
        report.equal(
            format_args!("{register:?}: {name}"),
            (trap, register.selector()),
            (right, held),
        );
        register.load(0);
    }
}
