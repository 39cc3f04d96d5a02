//! Flushes with addresses and vCPU maps that are nonsense (XSA-279: a guest's address went into an instruction that
//! faults on one that is not canonical).
//!
//! A flush of what is not there does nothing. A map of vCPUs that cannot be read is an error.
#![no_std]
#![no_main]
// UNSAFETY: hypercalls with bare arguments.
#![allow(unsafe_code)]

use dom0_abi::errno::Errno;
use dom0_abi::ids::DomId;
use dom0_abi::xen::{MmuextCommand, MmuextOp, UVMF_ALL, UVMF_INVLPG, UVMF_NONE, UVMF_TLB_FLUSH};
use guest_pv_drivers::hypercall::{self, Batch, foreigndom};
use kit::Report;
use kit::memory::{LAST_OF_HYPERVISOR, NON_CANONICAL, READ_ONLY_OF_HYPERVISOR, UNMAPPED, read};
use kit::page_tables::{Lab, READ_ONLY, Table, extended, page};

kit::guest!("pt-flush", main);

const HYPERVISOR: u64 = 0xffff_8300_0000_0000;
const ADDRESSES: [u64; 12] = [
    0,
    UNMAPPED,
    Lab::WINDOW,
    // Both sides of the hole, and its middle.
    0x0000_7fff_ffff_ffff,
    0x0000_8000_0000_0000,
    NON_CANONICAL,
    0xffff_7fff_ffff_ffff,
    READ_ONLY_OF_HYPERVISOR,
    HYPERVISOR,
    LAST_OF_HYPERVISOR,
    0xffff_8800_0000_0000,
    u64::MAX,
];
/// Where a map of vCPUs must not be read.
const NOWHERE: [u64; 6] = [
    0,
    UNMAPPED,
    NON_CANONICAL,
    READ_ONLY_OF_HYPERVISOR,
    HYPERVISOR,
    u64::MAX,
];

fn main(report: &mut Report) {
    let Ok(lab) = Lab::new() else {
        return report.check("tables of the guest's own", false, "refused");
    };
    operations(report);
    unknown(report);
    addresses(report, lab);
    flags(report, lab);
    effective(report, lab);
}

fn flush(command: MmuextCommand, address: u64, map: u64) -> Batch {
    // SAFETY: flushes change nothing that Rust knows of.
    unsafe { extended(command, address, map) }
}

fn operations(report: &mut Report) {
    let done = Batch {
        result: Ok(0),
        done: 1,
    };
    let refused = Batch {
        result: Err(Errno::EINVAL),
        done: 0,
    };
    // This vCPU, none, all that there can be.
    let maps = [1, 0, u64::MAX].map(|word| {
        let map = page();
        for index in 0..4 {
            let _ = map.set_word(index, word);
        }
        map.address()
    });
    for address in ADDRESSES {
        for command in [
            MmuextCommand::TlbFlushLocal,
            MmuextCommand::InvlpgLocal,
            MmuextCommand::TlbFlushAll,
            MmuextCommand::InvlpgAll,
            MmuextCommand::FlushCache,
            MmuextCommand::FlushCacheGlobal,
        ] {
            report.equal(
                format_args!("{command:?} {address:#x}"),
                // The second argument means nothing to them.
                (
                    flush(command, address, 0),
                    flush(command, address, HYPERVISOR),
                ),
                (done, done),
            );
        }
        for command in [MmuextCommand::TlbFlushMulti, MmuextCommand::InvlpgMulti] {
            report.equal(
                format_args!("{command:?} {address:#x}"),
                maps.map(|map| flush(command, address, map)),
                [done; 3],
            );
            report.equal(
                format_args!("{command:?} {address:#x}, map nowhere"),
                NOWHERE.map(|map| flush(command, address, map)),
                [refused; 6],
            );
        }
    }
}

fn unknown(report: &mut Report) {
    for cmd in [14, 21, 22, 0x100, 0x8000_0006, u32::MAX] {
        let list = [MmuextOp {
            cmd,
            _pad0: 0,
            arg1: 0,
            arg2: 0,
        }];
        // SAFETY: there is no such operation.
        let batch = unsafe { hypercall::mmuext_op(&list, foreigndom(DomId::SELF, None)) };
        report.equal(
            format_args!("mmuext_op: command {cmd:#x}"),
            batch,
            Batch {
                result: Err(Errno::ENOSYS),
                done: 0,
            },
        );
    }
}

/// `update_va_mapping` of an address that no level-1 table translates.
fn addresses(report: &mut Report, lab: Lab) {
    let data = page();
    for va in ADDRESSES
        .into_iter()
        .filter(|&va| va != Lab::WINDOW)
        .chain([
            Lab::WINDOW + (1 << 21),
            Lab::WINDOW + (1 << 30),
            Lab::WINDOW + (1 << 39),
        ])
    {
        for flags in [UVMF_NONE, UVMF_INVLPG, UVMF_TLB_FLUSH | UVMF_ALL] {
            // SAFETY: nothing is mapped there, and nothing will be.
            let answer =
                unsafe { hypercall::update_va_mapping(va, data.machine() | READ_ONLY, flags) };
            report.equal(
                format_args!("update_va_mapping {va:#x}, flags {flags}"),
                answer,
                Err(Errno::EINVAL),
            );
        }
    }
    // The offset in the page does not count.
    // SAFETY: nothing that Rust knows of is in the window.
    let answer = unsafe {
        hypercall::update_va_mapping(Lab::address(1) + 0xfff, data.machine() | READ_ONLY, 0)
    };
    report.equal(
        "update_va_mapping with an offset",
        (answer, lab.table(1).entry(1) != 0, lab.set(1, 1, 0)),
        (Ok(0), true, Ok(0)),
    );
}

/// The flags of `update_va_mapping`, which may hold the address of a map.
fn flags(report: &mut Report, lab: Lab) {
    let data = page();
    let entry = data.machine() | READ_ONLY;
    for flush in 0..4 {
        for place in NOWHERE.into_iter().skip(1).map(|place| place & !7) {
            let flags = place | flush;
            // SAFETY: nothing that Rust knows of is in the window.
            let answer = unsafe { hypercall::update_va_mapping(Lab::address(1), entry, flags) };
            let is_there = lab.table(1).entry(1) != 0;
            let _ = lab.set(1, 1, 0);
            // Without a flush (type 3 is none) nobody reads the map. With one, Xen has written the entry when it finds
            // that the map is nowhere; a hypervisor that looks first has not.
            let right = if flush == 0 || flush == 3 {
                (Ok(0), true)
            } else {
                (Err(Errno::EFAULT), is_there)
            };
            report.equal(
                format_args!("update_va_mapping: flags {flags:#x}"),
                (answer, is_there),
                right,
            );
        }
    }
}

/// Flushes do what they are for. (This cannot fail where every change of a root drops all translations.)
fn effective(report: &mut Report, lab: Lab) {
    let pages = [page(), page()];
    let root = Table::boot_root().mfn;
    for (number, page) in pages.into_iter().enumerate() {
        let _ = page.set_word(0, number as u64);
    }
    for (name, command) in [
        ("TLB_FLUSH_LOCAL", MmuextCommand::TlbFlushLocal),
        ("INVLPG_LOCAL", MmuextCommand::InvlpgLocal),
        ("TLB_FLUSH_ALL", MmuextCommand::TlbFlushAll),
        ("INVLPG_ALL", MmuextCommand::InvlpgAll),
    ] {
        let seen = pages.map(|page| {
            let set = lab.set(1, 2, page.machine() | READ_ONLY);
            let flushed = flush(command, Lab::address(2), 0).result;
            (set, flushed, read(Lab::address(2)))
        });
        report.equal(
            format_args!("{name}: the new page is seen"),
            seen,
            [(Ok(0), Ok(0), Ok(0)), (Ok(0), Ok(0), Ok(1))],
        );
    }
    report.equal(
        "the root is the same",
        kit::page_tables::current_root(),
        root,
    );
}
