//! CPUID: by the prefix that asks for emulation, and plain.

use kit::{Report, probe};

use crate::done;

/// eax, ebx, ecx, edx with the upper halves of the registers, by the emulated form.
pub fn forced(leaf: u32, subleaf: u32) -> Option<[u64; 4]> {
    let (rax, rbx, rcx, rdx): (u64, u64, u64, u64);
    // The prefix is ud2 with "xen" behind it; the hypervisor goes on behind the CPUID. rbx is not an operand: it is the
    // compiler's own.
    let trap = probe!(
        "mov {rbx}, rbx; .byte 0x0f, 0x0b, 0x78, 0x65, 0x6e; cpuid; xchg rbx, {rbx}";
        rbx = out(reg) rbx,
        inout("rax") u64::from(leaf) => rax,
        inout("rcx") u64::from(subleaf) => rcx,
        out("rdx") rdx
    );
    trap.is_none().then_some([rax, rbx, rcx, rdx])
}

const HYPERVISOR: u64 = 1 << 31;

pub fn check(report: &mut Report) {
    report.equal(
        "cpuid: signature",
        forced(0x4000_0000, 0).map(|[_, b, c, d]| [b, c, d]),
        Some([0x566e_6558, 0x6558_4d4d, 0x4d4d_566e]),
    );
    let last = forced(0x4000_0000, 0).map(|[a, ..]| a);
    report.check(
        "cpuid: last leaf of the hypervisor",
        last.is_some_and(|a| (0x4000_0002..0x4000_0100).contains(&a)),
        "",
    );
    report.equal(
        "cpuid: version",
        forced(0x4000_0001, 0),
        Some([0x0004_0011, 0, 0, 0]),
    );
    // One hypercall page; the MSR that would install it; page-table updates keep A and D.
    report.equal(
        "cpuid: hypercall page",
        forced(0x4000_0002, 0),
        Some([1, 0x4000_0000, 1, 0]),
    );
    report.equal(
        "cpuid: no such leaf of the hypervisor",
        forced(0x4000_0100, 0),
        Some([0; 4]),
    );

    let [max, ..] = forced(0, 0).unwrap_or([0; 4]);
    report.check(
        "cpuid: upper halves are zero",
        max != 0 && max >> 32 == 0,
        max,
    );
    let [_, b, c, d] = forced(1, 0).unwrap_or([0; 4]);
    report.check("cpuid: runs on a hypervisor", c & HYPERVISOR != 0, c);
    report.equal("cpuid: APIC id", b >> 24, 0);
    // FPU, TSC, MSR, PAE, CX8, SEP or not, CMOV, FXSR, SSE, SSE2: what 64-bit kernels take for granted.
    let needed = 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 15 | 1 << 24 | 1 << 25 | 1 << 26;
    report.equal("cpuid: features that are there", d & needed, needed);
    // MONITOR, VMX, PCID, x2APIC, TSC deadline; VME, PSE, PGE, PSE36: the hypervisor's own, or not virtualised.
    let hidden = 1 << 3 | 1 << 5 | 1 << 17 | 1 << 21 | 1 << 24;
    report.equal("cpuid: features that are not, ecx", c & hidden, 0);
    report.equal(
        "cpuid: features that are not, edx",
        d & (1 << 1 | 1 << 3 | 1 << 13 | 1 << 17),
        0,
    );
    if max >= 7 {
        let [_, b, c, _] = forced(7, 0).unwrap_or([u64::MAX; 4]);
        // SMEP, INVPCID, MPX, SMAP; UMIP, PKU, OSPKE, CET, LA57.
        report.equal(
            "cpuid: leaf 7, ebx",
            b & (1 << 7 | 1 << 10 | 1 << 14 | 1 << 20),
            0,
        );
        report.equal(
            "cpuid: leaf 7, ecx",
            c & (1 << 2 | 1 << 3 | 1 << 4 | 1 << 7 | 1 << 16),
            0,
        );
    }
    let [_, _, c, d] = forced(0x8000_0001, 0).unwrap_or([0; 4]);
    let needed = 1 << 11 | 1 << 20 | 1 << 29;
    report.equal("cpuid: SYSCALL, NX, long mode", d & needed, needed);
    report.equal(
        "cpuid: no SVM, no 1 GiB pages",
        (c & 1 << 2, d & 1 << 26),
        (0, 0),
    );

    // Without the prefix it may be the CPU that answers; the guest goes on in either case.
    let trap = probe!("mov {rbx}, rbx; cpuid; xchg rbx, {rbx}"; rbx = out(reg) _, inout("rax") 0u64 => _, out("rcx") _, out("rdx") _);
    done(report, "cpuid: plain", trap);
    // The prefix is for CPUID alone.
    let trap = probe!(".byte 0x0f, 0x0b, 0x78, 0x65, 0x6e; nop");
    crate::undefined(report, "cpuid: prefix before something else", trap);
}
