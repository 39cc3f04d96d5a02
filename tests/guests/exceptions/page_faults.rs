//! Page faults: error code and address, for each kind of page that a guest can name.
//!
//! The error code is the CPU's, but for the user bit: a guest kernel runs at CPL 3 and must not see its own faults as
//! its users'.

use core::mem::offset_of;

use dom0_abi::arch::{ArchVcpuInfo, HYPERVISOR_VIRT_START};
use dom0_abi::xen::{SharedInfo, VcpuInfo};
use kit::memory::{self, LAST_OF_HYPERVISOR, PAGE, Page, READ_ONLY_OF_HYPERVISOR, UNMAPPED, pte};
use kit::trap::vector;
use kit::{Report, Trap, probe, start_info};

use crate::{Expected, expect};

/// Bits of the error code.
mod code {
    /// The page is present: the access was not allowed.
    pub const PRESENT: u64 = 1 << 0;
    pub const WRITE: u64 = 1 << 1;
    /// Instruction fetch; reported because the hypervisor uses NX.
    pub const FETCH: u64 = 1 << 4;
}

fn read(va: u64) -> Option<Trap> {
    probe!("mov {v}, [{v}]"; v = inout(reg) va => _)
}

fn write(va: u64) -> Option<Trap> {
    probe!("mov [{v}], {v}"; v = in(reg) va)
}

fn fetch(va: u64) -> Option<Trap> {
    probe!("jmp {v}"; v = in(reg) va)
}

/// One fault: common frame, error code, address in CR2, and rip at the instruction, which for a fetch is the target.
fn expect_fault(
    report: &mut Report,
    name: &str,
    kind: &str,
    va: u64,
    trap: Option<Trap>,
    error: u64,
) {
    let offset = trap
        .filter(|trap| trap.frame.rip == va)
        .map_or(0, |trap| trap.offset);
    let right = Expected::fault(vector::PF, Some(error)).at(offset);
    expect(report, format_args!("#PF: {kind} {name}"), trap, right);
    report.equal(
        format_args!("#PF: cr2 of {kind} {name}"),
        trap.map(|trap| trap.cr2),
        Some(va),
    );
}

fn expect_absent(report: &mut Report, name: &str, va: u64) {
    expect_fault(report, name, "read", va, read(va), 0);
    expect_fault(report, name, "write", va, write(va), code::WRITE);
    expect_fault(report, name, "fetch", va, fetch(va), code::FETCH);
}

pub fn check(report: &mut Report) {
    expect_absent(report, "null", 0);
    expect_absent(report, "unmapped", UNMAPPED);
    let end = memory::end_of_mapping();
    expect_absent(report, "behind the initial mapping", end);
    // The address is that of the first byte that is not there, not that of the access.
    let trap = probe!("mov {v}, [{v}]"; v = inout(reg) end - 4 => _);
    expect_fault(
        report,
        "across the end of the mapping",
        "read",
        end,
        trap,
        0,
    );

    // Not emulated: that is for guests that enable the assistance of writable page tables.
    let table = start_info().pt_base;
    expect_fault(
        report,
        "page table",
        "write",
        table,
        write(table),
        code::PRESENT | code::WRITE,
    );
    report.equal("a page table can be read", read(table).is_none(), true);

    hypervisor_range(report);
    remapped(report);
    address_in_memory(report);
}

fn hypervisor_range(report: &mut Report) {
    let m2p = READ_ONLY_OF_HYPERVISOR;
    report.equal("the M2P can be read", read(m2p).is_none(), true);
    expect_fault(
        report,
        "M2P",
        "write",
        m2p,
        write(m2p),
        code::PRESENT | code::WRITE,
    );
    expect_fault(
        report,
        "M2P",
        "fetch",
        m2p,
        fetch(m2p),
        code::PRESENT | code::FETCH,
    );
    // Each of the hypervisor's slots but the first, at its start, in its middle and at its end. Whether something is
    // there shows in the error code and is the hypervisor's choice.
    let mut wrong = None;
    for slot in 1..16 {
        for offset in [0, 1 << 30, 1 << 38, (1 << 39) - PAGE] {
            let va = HYPERVISOR_VIRT_START + (slot << 39) + offset;
            let cases = [
                (read(va), 0),
                (write(va), code::WRITE),
                (fetch(va), code::FETCH),
            ];
            for (trap, error) in cases {
                let seen =
                    trap.map(|t| (t.vector, t.error.map(|error| error & !code::PRESENT), t.cr2));
                if seen != Some((vector::PF, Some(error), va)) {
                    wrong.get_or_insert((va, seen));
                }
            }
        }
    }
    report.equal("#PF: all else of the hypervisor's range", wrong, None);
    expect_absent(
        report,
        "behind the hypervisor's range",
        LAST_OF_HYPERVISOR + PAGE,
    );
}

/// Pages whose entries the guest has changed.
fn remapped(report: &mut Report) {
    static PAGE_TO_CHANGE: Page = Page::new();
    let va = PAGE_TO_CHANGE.address();
    let entry = memory::leaf(va);
    if let Err(error) = memory::remap(&PAGE_TO_CHANGE, entry & !pte::RW) {
        report.skip(
            "#PF: pages with other rights",
            format_args!("update_va_mapping: {error}"),
        );
        return;
    }
    expect_fault(
        report,
        "read-only page",
        "write",
        va,
        write(va),
        code::PRESENT | code::WRITE,
    );
    report.equal(
        "page without execution",
        memory::remap(&PAGE_TO_CHANGE, entry | pte::NX),
        Ok(0),
    );
    expect_fault(
        report,
        "page without execution",
        "fetch",
        va,
        fetch(va),
        code::PRESENT | code::FETCH,
    );
    report.equal(
        "page not present",
        memory::remap(&PAGE_TO_CHANGE, entry & !pte::P),
        Ok(0),
    );
    expect_absent(report, "page not present", va);
    report.equal(
        "page as before",
        memory::remap(&PAGE_TO_CHANGE, entry),
        Ok(0),
    );
    report.equal("page can be written again", write(va).is_none(), true);
}

/// Kernels read the address from shared memory, not from the register.
fn address_in_memory(report: &mut Report) {
    match memory::shared_info() {
        Err(error) => report.skip(
            "#PF: address in vcpu_info",
            format_args!("update_va_mapping: {error}"),
        ),
        Ok(shared) => {
            let field = offset_of!(SharedInfo, vcpu_info)
                + offset_of!(VcpuInfo, arch)
                + offset_of!(ArchVcpuInfo, cr2);
            let _ = read(UNMAPPED + 0x123);
            report.equal(
                "#PF: address in vcpu_info",
                memory::read(shared + field as u64),
                Ok(UNMAPPED + 0x123),
            );
            let mask =
                offset_of!(SharedInfo, vcpu_info) + offset_of!(VcpuInfo, evtchn_upcall_pending);
            report.equal(
                "vcpu_info: masked, nothing pending",
                memory::read(shared + mask as u64),
                Ok(0x100),
            );
        }
    }
}
