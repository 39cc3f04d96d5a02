//! XCR0, where the CPU has it.

use kit::{Report, Trap, probe};

use crate::{cpuid, done, general_protection, undefined};

const XSAVE: u64 = 1 << 26;
const OSXSAVE: u64 = 1 << 18;

fn xgetbv(index: u32) -> Result<u64, Trap> {
    let (low, high): (u64, u64);
    let trap = probe!("xgetbv"; in("ecx") index, out("rax") low, out("rdx") high);
    trap.map_or(Ok(high << 32 | low), Err)
}

fn xsetbv(index: u32, value: u64) -> Option<Trap> {
    probe!("xsetbv"; in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32)
}

pub fn check(report: &mut Report) {
    let [_, _, features, _] = cpuid::forced(1, 0).unwrap_or([0; 4]);
    // The guest's own CR4 does not have OSXSAVE yet.
    undefined(report, "xsetbv: before CR4.OSXSAVE", xsetbv(0, 3));
    if features & XSAVE == 0 {
        undefined(report, "xgetbv: no XSAVE", xgetbv(0).err());
        return;
    }
    report.equal("xgetbv", xgetbv(0).ok(), Some(3));
    let cr4: u64;
    let trap = probe!("mov {v}, cr4; or {v}, {bit}; mov cr4, {v}; mov {v}, cr4"; v = out(reg) cr4, bit = const OSXSAVE);
    report.equal(
        "CR4.OSXSAVE",
        (trap.is_none(), cr4 & OSXSAVE),
        (true, OSXSAVE),
    );
    done(report, "xsetbv: x87 and SSE", xsetbv(0, 3));
    let [mask, ..] = cpuid::forced(0xd, 0).unwrap_or([0; 4]);
    if mask & 4 != 0 {
        done(report, "xsetbv: AVX", xsetbv(0, 7));
        report.equal("xgetbv: AVX", xgetbv(0).ok(), Some(7));
        // The size that CPUID tells goes with it: 512 for FXSAVE, 64 for the header, 256 for AVX.
        report.equal(
            "cpuid: size with AVX",
            cpuid::forced(0xd, 0).map(|[_, b, ..]| b),
            Some(512 + 64 + 256),
        );
        // It depends on SSE.
        general_protection(report, "xsetbv: AVX without SSE", xsetbv(0, 5));
    }
    general_protection(report, "xsetbv: without x87", xsetbv(0, 2));
    general_protection(report, "xsetbv: nothing", xsetbv(0, 0));
    general_protection(report, "xsetbv: everything", xsetbv(0, u64::MAX));
    general_protection(report, "xsetbv: no such register", xsetbv(1, 3));
    done(report, "xsetbv: back", xsetbv(0, 3));
    report.equal("xgetbv: back", xgetbv(0).ok(), Some(3));
}
