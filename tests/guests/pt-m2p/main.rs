//! The machine-to-physical table: read by every guest, written by the hypervisor alone.
//!
//! A guest sets the entries of its own frames by a command of `mmu_update`, to whatever it likes. An entry of somebody
//! else's frame that it could set would make that guest's tables lead astray; one outside the table would be a write
//! into the hypervisor.
#![no_std]
#![no_main]
// UNSAFETY: hypercalls with bare arguments.
#![allow(unsafe_code)]

use dom0_abi::arch::{
    HYPERVISOR_FIRST_SLOT, INVALID_M2P_ENTRY, MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START,
};
use dom0_abi::errno::Errno;
use dom0_abi::ids::DomId;
use dom0_abi::xen::{MmuCommand, MmuUpdate};
use guest_pv_drivers::hypercall::{self, Batch, foreigndom};
use kit::memory::{PAGE, machine_to_physical, physical_to_machine, pte, read, write};
use kit::page_tables::{Lab, Table, page, protect, unmapped_frame, update_as};
use kit::trap::vector;
use kit::{Report, start_info};

kit::guest!("pt-m2p", main);

const DONE: Batch = Batch {
    result: Ok(0),
    done: 1,
};
const REFUSED: Batch = Batch {
    result: Err(Errno::EINVAL),
    done: 0,
};

fn main(report: &mut Report) {
    let Ok(lab) = Lab::new() else {
        return report.check("tables of the guest's own", false, "refused");
    };
    not_writable(report);
    own(report, lab);
    others(report);
    owners(report);
    report.equal("the table is as it was", first_wrong(), None);
}

/// Sets an entry.
fn set(place: u64, pfn: u64) -> Batch {
    // SAFETY: Rust knows of nothing there.
    unsafe { update_as(MmuCommand::MachPhys, place, pfn) }
}

/// The first pfn that the two tables do not agree upon.
fn first_wrong() -> Option<u64> {
    (0..start_info().nr_pages)
        .find(|&pfn| physical_to_machine(pfn).and_then(machine_to_physical) != Some(pfn))
}

fn not_writable(report: &mut Report) {
    let own = page().mfn();
    for (name, mfn) in [
        ("own frame", own),
        ("frame 0", 0),
        ("own table", Table::boot_root().mfn),
    ] {
        let va = MACH2PHYS_VIRT_START + mfn * 8;
        let before = read(va);
        let trap = write(va, 0x1234).map(|trap| (trap.vector, trap.error, trap.cr2));
        report.equal(
            format_args!("a write to the entry of {name}"),
            (trap, read(va) == before),
            // Present, write.
            (Some((vector::PF, Some(3), va)), true),
        );
    }
    // Behind the entries nothing can be reached, in the window or out of it.
    for va in [
        MACH2PHYS_VIRT_END - 8,
        MACH2PHYS_VIRT_END,
        MACH2PHYS_VIRT_END + 8,
    ] {
        report.check(
            format_args!("a write at {va:#x}"),
            write(va, 0).is_some_and(|trap| trap.vector == vector::PF),
            "no fault",
        );
    }
}

fn own(report: &mut Report, lab: Lab) {
    let protected = page();
    report.equal("a page is read-only", protect(protected), Ok(0));
    for (name, mfn) in [
        ("a page", page().mfn()),
        ("a read-only page", protected.mfn()),
        ("an L1 in use", lab.table(1).mfn),
        ("an unmapped frame", unmapped_frame()),
    ] {
        let right = machine_to_physical(mfn);
        for pfn in [
            0,
            start_info().nr_pages,
            1 << 52,
            u64::MAX >> 1,
            INVALID_M2P_ENTRY,
        ] {
            report.equal(
                format_args!("{name} becomes pfn {pfn:#x}"),
                (set(mfn * PAGE, pfn), machine_to_physical(mfn)),
                (DONE, Some(pfn)),
            );
        }
        // The offset in the frame, but for the command's bits, does not count.
        report.equal(
            format_args!("{name} becomes itself again, with an offset"),
            (
                set((mfn * PAGE) | 0xff8, right.unwrap_or(0)),
                machine_to_physical(mfn),
            ),
            (DONE, right),
        );
    }
    report.equal("the neighbours are as they were", first_wrong(), None);
}

fn others(report: &mut Report) {
    let hypervisor = (Table::boot_root().entry(HYPERVISOR_FIRST_SLOT) & pte::MFN) / PAGE;
    for (name, mfn) in [
        ("a frame of the hypervisor's", hypervisor),
        ("frame 0", 0),
        ("the local APIC", 0xfee00),
        (
            "the first frame behind the entries",
            (MACH2PHYS_VIRT_END - MACH2PHYS_VIRT_START) / 8,
        ),
        ("no frame", (1 << 40) - 1),
        ("the last number", (1 << 52) - 1),
    ] {
        for pfn in [0, 7, INVALID_M2P_ENTRY] {
            let before = machine_to_physical(mfn);
            report.equal(
                format_args!("{name} becomes pfn {pfn:#x}"),
                (set(mfn * PAGE, pfn), machine_to_physical(mfn)),
                (REFUSED, before),
            );
        }
    }
    // Every frame of RAM that is not the guest's, to the end of what has entries.
    let frames = (0..1 << 20).map_while(|mfn| machine_to_physical(mfn).map(|pfn| (mfn, pfn)));
    let shared = start_info().shared_info / PAGE;
    let mut accepted = 0;
    for (mfn, before) in frames {
        if physical_to_machine(before) == Some(mfn) || mfn == shared {
            continue;
        }
        let batch = set(mfn * PAGE, before);
        // The first frame of the grant table is the guest's as well.
        if batch == DONE {
            accepted += 1;
        } else if batch != REFUSED || machine_to_physical(mfn) != Some(before) {
            report.equal(format_args!("frame {mfn:#x}"), batch, REFUSED);
        }
    }
    report.check("frames of others that were set", accepted <= 1, accepted);
}

/// The frame's owner must be who the caller says.
fn owners(report: &mut Report) {
    let mfn = page().mfn();
    let before = machine_to_physical(mfn);
    let list = [MmuUpdate {
        ptr: (mfn * PAGE) | MmuCommand::MachPhys as u64,
        val: 5,
    }];
    for (name, owner, error) in [
        // One's own number is no foreign domain's.
        ("its number", DomId::DOM0, Errno::ESRCH),
        ("IO", DomId::IO, Errno::EINVAL),
        ("XEN", DomId::XEN, Errno::EINVAL),
        ("a domain that is not there", DomId::new(1), Errno::ESRCH),
    ] {
        // SAFETY: Rust knows of nothing there.
        let batch = unsafe { hypercall::mmu_update(&list, foreigndom(owner, None)) };
        let right = Batch {
            result: Err(error),
            done: 0,
        };
        report.equal(
            format_args!("own frame as that of {name}"),
            (batch, machine_to_physical(mfn)),
            (right, before),
        );
    }
}
