//! What is not emulated, and what needs no emulation.

use kit::memory::Page;
use kit::trap::vector;
use kit::{Report, probe};

use crate::{done, general_protection, undefined};

static OPERAND: Page = Page::new();

macro_rules! each {
    ($check:ident, $report:expr, $($code:literal)+) => {$(
        let trap = probe!(
            $code;
            inout("rax") 0u64 => _, inout("rcx") 0u64 => _, inout("rdx") 0u64 => _, in("rdi") OPERAND.address()
        );
        $check($report, $code, trap);
    )+};
}

pub fn check(report: &mut Report) {
    each!(general_protection, report, "hlt" "swapgs" "sysretq" ".byte 0x0f, 0x07" "lmsw ax" "rdpmc");
    each!(general_protection, report, "lgdt [rdi]" "lidt [rdi]" "lldt ax" "ltr ax" "invlpg [rdi]");
    each!(undefined, report, "clac" "stac" "monitor" "mwait");
    // The guest's caches are the machine's; without a device there is nothing to write back.
    each!(done, report, "wbinvd" "invd");
    each!(done, report, "rdtsc" "verr ax" "verw ax" "lar eax, eax" "lsl eax, eax" "pushfq; popfq" "prefetch [rdi]");
    // Those of the other maker's virtualisation do not exist, those of the CPU's own are refused.
    each!(refused, report, "vmrun" "clgi" "stgi" "vmcall" "vmmcall" "vmxoff" "rsm" "sysexit" "skinit" "getsec" "encls");
    // Answered by the CPU where it does not protect them.
    each!(answered_or_refused, report, "sgdt [rdi]" "sidt [rdi]" "sldt ax" "str ax" "smsw ax");

    iretq(report);
}

fn refused(report: &mut Report, name: &str, trap: Option<kit::Trap>) {
    let seen = trap.map(|trap| (trap.vector, trap.error, trap.offset));
    let holds = matches!(seen, Some((vector::GP, Some(0), 0) | (vector::UD, None, 0)));
    report.check(name, holds, format_args!("{seen:x?}"));
}

fn answered_or_refused(report: &mut Report, name: &str, trap: Option<kit::Trap>) {
    let seen = trap.map(|trap| (trap.vector, trap.error, trap.offset));
    report.check(
        name,
        matches!(seen, None | Some((vector::GP, Some(0), 0))),
        format_args!("{seen:x?}"),
    );
}

/// The CPU's own return instructions work from CPL 3 to CPL 3; kernels use them to serialise.
fn iretq(report: &mut Report) {
    let trap = probe!(
        "mov {rsp}, rsp; push 0xe02b; push {rsp}; pushfq; push 0xe033; lea {rip}, [rip + 4f]; push {rip}; iretq; 4:";
        rsp = out(reg) _, rip = out(reg) _
    );
    done(report, "iretq to the same level", trap);
    let trap =
        probe!("push 0xe033; lea {rip}, [rip + 4f]; push {rip}; retfq; 4:"; rip = out(reg) _);
    done(report, "retfq to the same level", trap);
    // CS without the level that the guest really has.
    let trap = probe!(
        "mov {rsp}, rsp; push 0xe02b; push {rsp}; pushfq; push 0xe030; lea {rip}, [rip + 4f]; push {rip}; iretq; 4:";
        rsp = out(reg) _, rip = out(reg) _
    );
    let seen = trap.map(|trap| (trap.vector, trap.error));
    report.equal("iretq to level 0", seen, Some((vector::GP, Some(0xe030))));
}
