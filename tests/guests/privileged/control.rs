//! Control and debug registers.

use guest_pv_drivers::hypercall;
use kit::{Report, probe};

use crate::{done, general_protection};

/// CR0 as the hypervisor has it: PE, MP, ET, NE, WP, AM, PG. TS is the guest's.
const CR0: u64 = 0x8005_0033;
const TS: u64 = 1 << 3;
/// CR4 bits that a guest sees whatever it writes: PAE, MCE, OSFXSR, OSXMMEXCPT.
const CR4: u64 = 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10;

macro_rules! read {
    ($register:literal) => {{
        let value: u64;
        let trap = probe!(concat!("mov {v}, ", $register); v = out(reg) value);
        trap.is_none().then_some(value)
    }};
}
macro_rules! write {
    ($register:literal, $value:expr) => {
        probe!(concat!("mov ", $register, ", {v}"); v = in(reg) $value)
    };
}

pub fn check(report: &mut Report) {
    cr0(report);
    report.equal(
        "mov to cr2",
        (write!("cr2", 0x1234u64).is_none(), read!("cr2")),
        (true, Some(0x1234)),
    );
    cr3(report);
    cr4(report);
    general_protection(
        report,
        "mov from cr8",
        probe!("mov {v}, cr8"; v = out(reg) _),
    );
    general_protection(report, "mov to cr8", write!("cr8", 0u64));
    debug(report);
}

fn cr0(report: &mut Report) {
    report.equal("mov from cr0", read!("cr0"), Some(CR0));
    done(report, "mov to cr0: TS", write!("cr0", CR0 | TS));
    report.equal("TS is set", read!("cr0"), Some(CR0 | TS));
    done(report, "clts", probe!("clts"));
    report.equal("TS is clear", read!("cr0"), Some(CR0));
    let _ = hypercall::fpu_taskswitch(true);
    report.equal("TS by fpu_taskswitch", read!("cr0"), Some(CR0 | TS));
    done(report, "mov to cr0: same", write!("cr0", CR0));
    report.equal("TS is clear again", read!("cr0"), Some(CR0));
    // PE, MP, EM, NE, WP, AM, NW, CD, PG and the upper half.
    for bit in [0, 1, 2, 5, 16, 18, 29, 30, 31, 40] {
        general_protection(
            report,
            format_args!("mov to cr0: bit {bit} changed"),
            write!("cr0", CR0 ^ 1 << bit),
        );
    }
    report.equal("cr0 is as it was", read!("cr0"), Some(CR0));
}

fn cr3(report: &mut Report) {
    let root = read!("cr3").unwrap_or(0);
    // It is the frame of pt_base, as `hello` has checked.
    done(report, "mov to cr3: same", write!("cr3", root));
    report.equal("cr3 is the same", read!("cr3"), Some(root));
    // Frames that are not this guest's tables.
    for other in [0, 0xffff_f000, 0x000f_ffff_ffff_f000u64] {
        general_protection(
            report,
            format_args!("mov to cr3: {other:#x}"),
            write!("cr3", other),
        );
    }
    report.equal("cr3 is still the same", read!("cr3"), Some(root));
}

fn cr4(report: &mut Report) {
    report.equal("mov from cr4", read!("cr4"), Some(CR4));
    for bit in 0..64 {
        // TSD, DE, FSGSBASE and OSXSAVE are the guest's, the latter two where the CPU has them.
        if matches!(bit, 2 | 3 | 16 | 18) {
            continue;
        }
        // Writes of others do not fault and do nothing.
        let trap = write!("cr4", CR4 ^ 1u64 << bit);
        report.equal(
            format_args!("mov to cr4: bit {bit}"),
            (trap.is_none(), read!("cr4")),
            (true, Some(CR4)),
        );
    }
    for (name, bit) in [("TSD", 2), ("DE", 3)] {
        let trap = write!("cr4", CR4 | 1u64 << bit);
        report.equal(
            format_args!("mov to cr4: {name}"),
            (trap.is_none(), read!("cr4")),
            (true, Some(CR4 | 1 << bit)),
        );
        done(
            report,
            format_args!("mov to cr4: no {name}"),
            write!("cr4", CR4),
        );
    }
}

fn debug(report: &mut Report) {
    for (name, trap, value) in [
        ("dr0", write!("dr0", 0x1000u64), read!("dr0")),
        ("dr3", write!("dr3", 0x2000u64), read!("dr3")),
        ("dr6", write!("dr6", 0xffff_0ff0u64), read!("dr6")),
        ("dr7", write!("dr7", 0x400u64), read!("dr7")),
        // Other names of 6 and 7.
        ("dr4", None, read!("dr4")),
        ("dr5", None, read!("dr5")),
    ] {
        let right = match name {
            "dr0" => 0x1000,
            "dr3" => 0x2000,
            "dr4" | "dr6" => 0xffff_0ff0,
            _ => 0x400,
        };
        report.equal(
            format_args!("mov to and from {name}"),
            (trap.is_none(), value),
            (true, Some(right)),
        );
    }
    report.equal(
        "the hypercall sees the same",
        hypercall::get_debugreg(0),
        Ok(0x1000),
    );
    general_protection(
        report,
        "mov to dr0: not canonical",
        write!("dr0", 1u64 << 60),
    );
    general_protection(
        report,
        "mov to dr0: hypervisor",
        write!("dr0", 0xffff_8300_0000_0000u64),
    );
    general_protection(report, "mov to dr6: upper half", write!("dr6", 1u64 << 60));
    general_protection(report, "mov to dr7: upper half", write!("dr7", 1u64 << 60));
    general_protection(
        report,
        "mov to dr7: general detect",
        write!("dr7", 1u64 << 13),
    );
    let _ = (write!("dr0", 0u64), write!("dr3", 0u64));
}
