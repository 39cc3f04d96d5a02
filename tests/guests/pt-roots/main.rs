//! Roots: which frames may be loaded as one, and that slots 256 to 271 of each are the hypervisor's alone (I7).
//!
//! Whoever writes one of those slots maps what they like at addresses that the hypervisor trusts. So an update is
//! refused, and what stands there when a page becomes a root counts for nothing.
#![no_std]
#![no_main]
// UNSAFETY: hypercalls with bare arguments.
#![allow(unsafe_code)]

use dom0_abi::arch::{HYPERVISOR_FIRST_SLOT, HYPERVISOR_LAST_SLOT, HYPERVISOR_VIRT_START};
use dom0_abi::errno::Errno;
use dom0_abi::xen::{MmuCommand, MmuextCommand};
use guest_pv_drivers::hypercall::Batch;
use kit::memory::{Page, machine_to_physical, physical_to_machine, pte, read};
use kit::page_tables::{
    Lab, READ_ONLY, Table, WRITABLE, current_root, extended, is_plain, page, pin, protect, unpin,
    unprotect, update_as,
};
use kit::{Report, start_info};

kit::guest!("pt-roots", main);

const REFUSED: Result<u64, Errno> = Err(Errno::EINVAL);
/// Bytes that one slot of a root translates.
const SLOT_SIZE: u64 = 1 << 39;

fn main(report: &mut Report) {
    let Ok(lab) = Lab::new() else {
        return report.check("tables of the guest's own", false, "refused");
    };
    hypervisors_slots(report);
    forged_slots(report, lab);
    unpinned_root(report, lab);
    bad_roots(report, lab);
    user_root(report, lab);
    bad_slot_at_load(report, lab);
}

/// Loads a root for kernel mode.
fn load(mfn: u64) -> Result<u64, Errno> {
    // SAFETY: either refused, or a root that has the kernel's mappings.
    let Batch { result, done } = unsafe { extended(MmuextCommand::NewBasePtr, mfn, 0) };
    assert_eq!(done, u32::from(result.is_ok()), "operations done");
    result
}

/// Loads a root for user mode.
fn load_user(mfn: u64) -> Result<u64, Errno> {
    // SAFETY: this guest has no user mode.
    unsafe { extended(MmuextCommand::NewUserBasePtr, mfn, 0) }.result
}

/// A page that could be a root: it has the kernel's mappings and the lab's.
fn root() -> &'static Page {
    let live = Table::boot_root();
    let root = page();
    for slot in [Lab::ROOT_SLOT, 511] {
        let _ = root.set_word(slot, live.entry(slot));
    }
    root
}

fn hypervisors_slots(report: &mut Report) {
    let root = Table::boot_root();
    for slot in HYPERVISOR_FIRST_SLOT..=HYPERVISOR_LAST_SLOT {
        let there = root.entry(slot);
        for (name, entry) in [
            ("nothing", 0),
            ("what is there", there),
            ("what is there, writable", there | pte::RW),
            ("what is there, for user mode", there | pte::U | pte::P),
            ("a table of the guest's", root.entry(511)),
            ("the root itself", (root.mfn * 4096) | READ_ONLY),
            ("the accessed flag", there ^ pte::A),
            ("something not present", 0x1234_5000),
        ] {
            for command in [MmuCommand::Normal, MmuCommand::PreserveAd] {
                // SAFETY: refused.
                let batch = unsafe { update_as(command, root.machine(slot), entry) };
                report.equal(
                    format_args!("slot {slot}: {command:?}, {name}"),
                    (batch.result, batch.done, root.entry(slot)),
                    (REFUSED, 0, there),
                );
            }
        }
    }
}

/// Whether the machine-to-physical table is right for the guest's first frames, and nothing else of the hypervisor's
/// half can be read.
fn sees_hypervisor_rightly() -> (bool, Option<usize>) {
    let table =
        (0..64).all(|pfn| physical_to_machine(pfn).and_then(machine_to_physical) == Some(pfn));
    let open = (HYPERVISOR_FIRST_SLOT + 1..=HYPERVISOR_LAST_SLOT).find(|&slot| {
        let va = HYPERVISOR_VIRT_START + (slot - HYPERVISOR_FIRST_SLOT) as u64 * SLOT_SIZE;
        // What the guest has in slot 511 is at the end of the slot's range.
        [0, 0x7f_8000_0000, 0x7f_8010_0000]
            .into_iter()
            .any(|offset| read(va + offset).is_ok())
    });
    (table, open)
}

/// A page with entries of the guest's choice in the hypervisor's slots becomes a root.
fn forged_slots(report: &mut Report, lab: Lab) {
    let live = Table::boot_root();
    let forged = [
        ("the kernel's table", live.entry(511)),
        (
            "the kernel's table, writable for all",
            live.entry(511) | WRITABLE,
        ),
        ("a large page at frame 0", WRITABLE | pte::PSE),
        ("the lab's L1", (lab.table(1).mfn * 4096) | WRITABLE),
        ("a frame beyond all", pte::MFN | WRITABLE),
        ("ones", u64::MAX),
        ("not present", u64::MAX << 1),
    ];
    for (name, entry) in forged {
        let page = root();
        let written = (HYPERVISOR_FIRST_SLOT..=HYPERVISOR_LAST_SLOT)
            .all(|slot| page.set_word(slot, entry).is_none());
        report.equal(
            format_args!("{name} in the hypervisor's slots: pinned and loaded"),
            (
                written,
                protect(page),
                pin(4, page.mfn()),
                load(page.mfn()),
                current_root() == page.mfn(),
            ),
            (true, Ok(0), Ok(0), Ok(0), true),
        );
        report.equal(
            format_args!("{name} in the hypervisor's slots: counts for nothing"),
            sees_hypervisor_rightly(),
            (true, None),
        );
        let stayed = (HYPERVISOR_FIRST_SLOT..=HYPERVISOR_LAST_SLOT)
            .find(|&slot| page.word(slot) == Ok(entry));
        report.equal(
            format_args!("{name} in the hypervisor's slots: gone"),
            stayed,
            None,
        );
        report.equal(
            format_args!("{name} in the hypervisor's slots: loaded is typed, unloaded is not"),
            (
                unpin(page.mfn()),
                unprotect(page),
                load(live.mfn),
                current_root() == live.mfn,
                is_plain(page),
            ),
            (Ok(0), Err(Errno::EBUSY), Ok(0), true, true),
        );
    }
    report.equal(
        "the first root afterwards",
        sees_hypervisor_rightly(),
        (true, None),
    );
}

/// Loading makes a page a root as a pin does, and ends with the loading of another.
fn unpinned_root(report: &mut Report, lab: Lab) {
    let live = Table::boot_root();
    let page = root();
    let data = kit::page_tables::page();
    report.equal(
        "a root that is not pinned",
        (
            protect(page),
            load(page.mfn()),
            load(page.mfn()),
            unprotect(page),
            unpin(page.mfn()),
        ),
        (Ok(0), Ok(0), Ok(0), Err(Errno::EBUSY), REFUSED),
    );
    report.equal(
        "the lab through the new root",
        (
            data.set_word(0, 77).is_none(),
            lab.map(1, data.machine() | READ_ONLY),
            read(Lab::address(1)),
        ),
        (true, Ok(0), Ok(77)),
    );
    report.equal(
        "the root that was not pinned, unloaded",
        (load(live.mfn), is_plain(page)),
        (Ok(0), true),
    );
    report.equal(
        "a writable page is no root, a read-only one is",
        (
            load(page.mfn()),
            protect(page),
            load(page.mfn()),
            load(live.mfn),
        ),
        (REFUSED, Ok(0), Ok(0), Ok(0)),
    );
}

fn bad_roots(report: &mut Report, lab: Lab) {
    let live = Table::boot_root();
    let writable = root();
    for (name, mfn) in [
        ("an L1", lab.table(1).mfn),
        ("an L2", lab.table(2).mfn),
        ("an L3", lab.table(3).mfn),
        ("a writable page", writable.mfn()),
        ("the shared info page", start_info().shared_info / 4096),
        (
            "a frame of the hypervisor's",
            (live.entry(HYPERVISOR_FIRST_SLOT) & pte::MFN) / 4096,
        ),
        ("the local APIC", 0xfee00),
        ("no frame", (1 << 40) - 1),
        ("all ones", u64::MAX),
        ("the root's number and more", 1 << 40 | live.mfn),
        ("the root's number and a sign", 1 << 63 | live.mfn),
    ] {
        report.equal(
            format_args!("kernel root: {name}"),
            (load(mfn), current_root() == live.mfn),
            (REFUSED, true),
        );
        report.equal(
            format_args!("user root: {name}"),
            (load_user(mfn), current_root() == live.mfn),
            (REFUSED, true),
        );
    }
    report.equal(
        "kernel root: 0",
        (load(0), current_root() == live.mfn),
        (REFUSED, true),
    );
    report.equal("the writable page is as before", is_plain(writable), true);
}

fn user_root(report: &mut Report, _: Lab) {
    let live = Table::boot_root();
    report.equal("user root: none", load_user(0), Ok(0));
    report.equal("user root: the kernel's", load_user(live.mfn), Ok(0));
    let page = kit::page_tables::page();
    report.equal(
        "user root: an empty one, not pinned",
        (protect(page), load_user(page.mfn()), unprotect(page)),
        (Ok(0), Ok(0), Err(Errno::EBUSY)),
    );
    report.equal(
        "user root: a refused one leaves the old one",
        (load_user(u64::MAX), unprotect(page)),
        (REFUSED, Err(Errno::EBUSY)),
    );
    report.equal(
        "user root: none again, and the page is a page",
        (load_user(0), is_plain(page)),
        (Ok(0), true),
    );
}

/// A page with a bad entry is not loaded, and the old root stays, at both ends of the guest's slots.
fn bad_slot_at_load(report: &mut Report, _: Lab) {
    let live = Table::boot_root();
    for slot in [0, 255, 272, 510] {
        let page = root();
        let bad = (live.mfn * 4096) | WRITABLE;
        report.equal(
            format_args!("a root with a bad entry at {slot}"),
            (
                page.set_word(slot, bad).is_none(),
                protect(page),
                load(page.mfn()),
                load_user(page.mfn()),
                current_root() == live.mfn,
                page.word(slot),
                is_plain(page),
            ),
            (true, Ok(0), REFUSED, REFUSED, true, Ok(bad), true),
        );
    }
}
