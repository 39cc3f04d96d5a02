//! Model-specific registers: few are there, all else is refused.

use kit::trap::vector;
use kit::{Report, Trap, probe};

use crate::{done, general_protection};

const TSC: u32 = 0x10;
const APIC_BASE: u32 = 0x1b;
const PAT: u32 = 0x277;
const EFER: u32 = 0xc000_0080;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;

/// The hypervisor's own, or not virtualised: entry points, virtualisation, memory types, x2APIC, debugging, tracing.
/// Performance counters are not among them: Xen lets Intel's read as zero.
const REFUSED: &[u32] = &[
    0xfe,
    0x174,
    0x175,
    0x176,
    0x1c9,
    0x1d9,
    0x200,
    0x201,
    0x250,
    0x2ff,
    0x480,
    0x48b,
    0x560,
    0x570,
    0x6a0,
    0x6a2,
    0x6e0,
    0x802,
    0x80b,
    0x830,
    0x83f,
    0xda0,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0104,
    0xc001_0114,
    0xc001_0117,
    0xc001_0130,
    0x1234_5678,
    0xffff_ffff,
];

fn read(msr: u32) -> Result<u64, Trap> {
    let (low, high): (u64, u64);
    // The upper halves must be cleared.
    let trap =
        probe!("rdmsr"; in("ecx") msr, inout("rax") u64::MAX => low, inout("rdx") u64::MAX => high);
    trap.map_or(Ok(high << 32 | low), Err)
}

fn write(msr: u32, value: u64) -> Option<Trap> {
    // The upper halves must not count.
    let high = 0xffff_ffff_0000_0000;
    probe!("wrmsr"; in("ecx") msr, in("rax") value | high, in("rdx") value >> 32 | high)
}

pub fn check(report: &mut Report) {
    let ok = |msr| read(msr).ok();
    // Enabled, boot CPU, at its usual place.
    report.equal("rdmsr: APIC base", ok(APIC_BASE), Some(0xfee0_0900));
    report.equal("rdmsr: PAT", ok(PAT), Some(0x0000_0501_0007_0406));
    // SCE, LME, LMA, NXE.
    report.equal("rdmsr: EFER", ok(EFER), Some(0xd01));
    let (before, after) = (ok(TSC), ok(TSC));
    report.check("rdmsr: TSC goes on", before.is_some() && before < after, "");
    // Microcode, machine checks, miscellaneous: values differ, but kernels read them without asking first.
    for msr in [0x8b, 0x179, 0x17a, 0x1a0] {
        done(report, format_args!("rdmsr: {msr:#x}"), read(msr).err());
    }

    for (name, msr) in [
        ("FS", FS_BASE),
        ("GS", GS_BASE),
        ("kernel GS", KERNEL_GS_BASE),
    ] {
        report.equal(format_args!("rdmsr: {name} base"), ok(msr), Some(0));
        for value in [0x1234_5678, 0x0000_7fff_ffff_ffff, 0xffff_8300_0000_0000, 0] {
            let trap = write(msr, value);
            report.equal(
                format_args!("wrmsr: {name} base {value:#x}"),
                (trap.is_none(), ok(msr)),
                (true, Some(value)),
            );
        }
        general_protection(
            report,
            format_args!("wrmsr: {name} base not canonical"),
            write(msr, 1 << 60),
        );
    }
    // The base is in use at once.
    let word = 0x600d_600d_600d_600du64;
    let _ = write(FS_BASE, (&raw const word).expose_provenance() as u64);
    let seen: u64;
    let trap = probe!("mov {v}, fs:[0]"; v = out(reg) seen);
    report.equal("access by FS", (trap.is_none(), seen), (true, word));
    let _ = write(FS_BASE, 0);

    done(report, "wrmsr: EFER, same", write(EFER, 0xd01));
    general_protection(report, "wrmsr: EFER, other", write(EFER, 0));
    for (name, msr) in [("APIC base", APIC_BASE), ("PAT", PAT), ("TSC", TSC)] {
        general_protection(report, format_args!("wrmsr: {name}"), write(msr, 0));
    }
    for &msr in REFUSED {
        general_protection(report, format_args!("rdmsr: {msr:#x}"), read(msr).err());
        general_protection(report, format_args!("wrmsr: {msr:#x}"), write(msr, 0));
    }
    sweep(report);
}

/// Whatever the number, reading answers or faults like a CPU, and the hypervisor lives.
fn sweep(report: &mut Report) {
    let mut wrong = None;
    for first in [0u32, 0x4000_0000, 0xc000_0000, 0xc001_0000] {
        for msr in first..first + 0x1000 {
            if let Err(trap) = read(msr)
                && (trap.vector, trap.error, trap.offset) != (vector::GP, Some(0), 0)
            {
                wrong.get_or_insert((msr, trap.vector, trap.error));
            }
        }
    }
    report.equal("rdmsr: every number", wrong, None);
}
