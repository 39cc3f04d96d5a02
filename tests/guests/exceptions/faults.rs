//! Faults that instructions raise by what they are or by what they work on.

use core::arch::asm;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use dom0_abi::arch::{FLAT_CS64, FLAT_SS};
use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall;
use guest_pv_drivers::hypercall;
use kit::memory::{self, NON_CANONICAL, PAGE, Page, pte};
use kit::registers::flags;
use kit::trap::{self, vector};
use kit::{Report, probe};

use crate::{Expected, UD, expect};

pub fn check(report: &mut Report) {
    expect(report, "#UD: ud2", probe!("ud2"), UD);
    expect(
        report,
        "#UD: behind other code",
        probe!("nop; nop; ud2"),
        UD.at(2),
    );
    divide(report);
    addresses(report);
    selectors(report);
    failed_return(report);
    own_descriptors(report);
    device_not_available(report);
    floating_point(report);
    alignment(report);
}

fn divide(report: &mut Report) {
    let right = Expected::fault(vector::DE, None);
    let trap =
        probe!("div {zero}"; zero = in(reg) 0u64, inout("rax") 1u64 => _, inout("rdx") 0u64 => _);
    expect(report, "#DE: division by zero", trap, right);
    let trap =
        probe!("div {one}"; one = in(reg) 1u64, inout("rax") 0u64 => _, inout("rdx") 1u64 => _);
    expect(report, "#DE: quotient too large", trap, right);
}

fn addresses(report: &mut Report) {
    let right = Expected::fault(vector::GP, Some(0));
    let first_of_hole = 0x0000_8000_0000_0000u64;
    let last_of_hole = 0xffff_7fff_ffff_ffffu64;
    for address in [NON_CANONICAL, first_of_hole, last_of_hole] {
        let trap = probe!("mov {v}, [{v}]"; v = inout(reg) address => _);
        expect(report, format_args!("#GP: read {address:#x}"), trap, right);
        let trap = probe!("mov [{v}], {v}"; v = in(reg) address);
        expect(report, format_args!("#GP: write {address:#x}"), trap, right);
    }
    // An address made from rsp is in the stack segment, and the same mistake is another vector there.
    let trap = probe!("mov {v}, [rsp + {v}]"; v = inout(reg) NON_CANONICAL => _);
    // TCG knows no difference.
    let seen = if trap.is_some_and(|trap| trap.vector == vector::GP) {
        vector::GP
    } else {
        vector::SS
    };
    expect(
        report,
        "#SS: stack access that is not canonical",
        trap,
        Expected::fault(seen, Some(0)),
    );
    // Intel's CPUs refuse the jump, AMD's and TCG the fetch behind it.
    let trap = probe!("jmp {v}"; v = in(reg) NON_CANONICAL);
    let fetched = trap
        .filter(|trap| trap.frame.rip == NON_CANONICAL)
        .map_or(0, |trap| trap.offset);
    expect(
        report,
        "#GP: jump to an address that is not canonical",
        trap,
        right.at(fetched),
    );
}

fn selectors(report: &mut Report) {
    // Null selectors load, with any RPL; so do the hypervisor's flat ones for guests.
    for selector in [0u16, 1, 2, 3, 0xe02b, 0xe023, 0xe033] {
        let trap = probe!("mov ds, {s:x}; mov es, {s:x}"; s = in(reg) selector);
        report.check(
            format_args!("ds, es: {selector:#x} loads"),
            trap.is_none(),
            format_args!("{trap:x?}"),
        );
    }
    // Nothing there (the guest's part of the table), the hypervisor's own code segment, behind the end of the table, and
    // a local table that does not exist. The error code is the selector without RPL.
    for selector in [0x8u16, 0xb, 0xdff8, 0xe008, 0xfff8, 0x7, 0xc] {
        let trap = probe!("mov ds, {s:x}"; s = in(reg) selector);
        let right = Expected::fault(vector::GP, Some(u64::from(selector & !3)));
        expect(report, format_args!("#GP: ds = {selector:#x}"), trap, right);
    }
    for selector in [0u16, 3, 8, 0xe033] {
        let trap = probe!("mov ss, {s:x}"; s = in(reg) selector);
        let right = Expected::fault(vector::GP, Some(u64::from(selector & !3)));
        expect(report, format_args!("#GP: ss = {selector:#x}"), trap, right);
    }
    let trap = probe!("push 8; push 0; retfq");
    expect(
        report,
        "#GP: far return to a selector that is not there",
        trap,
        Expected::fault(vector::GP, Some(8)).at(4),
    );
    // SAFETY: flat addressing in 64-bit mode does not use these segments.
    unsafe { asm!("mov ds, {zero:x}", "mov es, {zero:x}", zero = in(reg) 0u16) };
}

/// Vector and error code of the last return that failed.
static FAILED: [AtomicU64; 2] = [const { AtomicU64::new(99) }; 2];

/// Notes the fault and returns once more, with a stack segment that can be loaded.
fn mend(context: &mut trap::Context) -> bool {
    FAILED[0].store(context.trap.vector.into(), Ordering::Relaxed);
    FAILED[1].store(context.trap.error.unwrap_or(99), Ordering::Relaxed);
    context.frame.ss = u64::from(FLAT_SS);
    true
}

/// A return whose selectors cannot be loaded faults inside the hypervisor. The guest gets that fault as its own, at the
/// instruction that it wanted to go on at, with the registers that it wanted to have there.
fn failed_return(report: &mut Report) {
    // No stack segment; one that is not there. A return to kernel mode shows level 0 in cs, and events stay masked.
    for (ss, code) in [(3u64, 0), (0xb, 8)] {
        let mut registers = [0u64; 3];
        let trap = trap::with_hook(mend, || {
            let (rax, r11, r8): (u64, u64, u64);
            let trap = probe!(
                "mov {s}, rsp; push {ss}; push {s}; pushfq; btr qword ptr [rsp], 9; push {cs}; lea {s}, [rip + 3f]; push {s}; push 0; push rcx; \
                 push r11; push rax; mov eax, {iret}; syscall; 3: nop";
                s = out(reg) _, ss = in(reg) ss, cs = const FLAT_CS64 & !3, iret = const Hypercall::Iret as u32,
                inout("rax") 0x1111u64 => rax, inout("r11") 0x2222u64 => r11, inout("r8") 0x3333u64 => r8
            );
            registers = [rax, r11, r8];
            trap
        });
        let seen = FAILED.each_ref().map(|word| word.load(Ordering::Relaxed));
        report.equal(
            format_args!("iret with ss = {ss:#x}"),
            (trap.is_none(), seen),
            (true, [vector::GP.into(), code]),
        );
        report.equal(
            format_args!("iret with ss = {ss:#x}: registers"),
            registers,
            [0x1111, 0x2222, 0x3333],
        );
    }
}

/// Descriptors of the guest's own, where the hypervisor lets it have some.
fn own_descriptors(report: &mut Report) {
    static TABLE: Page = Page::new();
    // Bit 47: present; 46-45: level 3; 44: code or data; 43-40: type.
    const DATA: u64 = 0x00cf_f300_0000_ffff;
    const DATA_NOT_PRESENT: u64 = 0x00cf_7300_0000_ffff;
    const READ_ONLY: u64 = 0x00cf_f100_0000_ffff;
    const EXECUTE_ONLY: u64 = 0x00af_f900_0000_ffff;
    let table = ptr::with_exposed_provenance_mut::<u64>(TABLE.address() as usize);
    for (index, descriptor) in [0, DATA, DATA_NOT_PRESENT, READ_ONLY, EXECUTE_ONLY]
        .into_iter()
        .enumerate()
    {
        // SAFETY: within the page, which Rust only knows as a cell.
        unsafe { table.add(index).write_volatile(descriptor) };
    }
    let entry = memory::leaf(TABLE.address());
    let frame = (entry & pte::MFN) / PAGE;
    let set_gdt = |entries: u64| {
        let list = (&raw const frame).expose_provenance() as u64;
        // SAFETY: the hypervisor reads one frame number; no selector is in use but the hypervisor's own.
        unsafe { hypercall::call(Hypercall::SetGdt, [list, entries, 0, 0, 0]) }
    };
    let writable = set_gdt(5);
    if writable == Err(Errno::ENOSYS) {
        report.skip("the guest's own descriptors", "set_gdt: ENOSYS");
        return;
    }
    // A page that the guest can write is no descriptor table.
    report.equal("set_gdt: writable page", writable, Err(Errno::EINVAL));
    report.equal(
        "read-only page",
        memory::remap(&TABLE, entry & !pte::RW),
        Ok(0),
    );
    report.equal("set_gdt", set_gdt(5), Ok(0));
    let load = |selector: u16| probe!("mov ds, {s:x}"; s = in(reg) selector);
    let load_stack = |selector: u16| probe!("mov ss, {s:x}"; s = in(reg) selector);
    for selector in [0xbu16, 0x1b] {
        let trap = load(selector);
        report.check(
            format_args!("ds: own {selector:#x} loads"),
            trap.is_none(),
            format_args!("{trap:x?}"),
        );
    }
    expect(
        report,
        "#NP: ds, not present",
        load(0x13),
        Expected::fault(vector::NP, Some(0x10)),
    );
    expect(
        report,
        "#GP: ds, cannot be read",
        load(0x23),
        Expected::fault(vector::GP, Some(0x20)),
    );
    expect(
        report,
        "#SS: ss, not present",
        load_stack(0x13),
        Expected::fault(vector::SS, Some(0x10)),
    );
    expect(
        report,
        "#GP: ss, cannot be written",
        load_stack(0x1b),
        Expected::fault(vector::GP, Some(0x18)),
    );
    // SAFETY: flat addressing in 64-bit mode does not use the segment.
    unsafe { asm!("mov ds, {zero:x}", zero = in(reg) 0u16) };
    report.equal("set_gdt: none", set_gdt(0), Ok(0));
    report.equal(
        "the page is the guest's again",
        memory::remap(&TABLE, entry),
        Ok(0),
    );
}

fn device_not_available(report: &mut Report) {
    report.equal(
        "task-switched flag set",
        hypercall::fpu_taskswitch(true),
        Ok(0),
    );
    expect(
        report,
        "#NM: x87",
        probe!("fnop"),
        Expected::fault(vector::NM, None),
    );
    // What it leaves is the `fpu` guest's matter.
    report.equal(
        "task-switched flag cleared",
        hypercall::fpu_taskswitch(false),
        Ok(0),
    );
}

fn floating_point(report: &mut Report) {
    // All x87 exceptions unmasked: the division notes the fault, the next instruction that waits raises it.
    let unmasked: u16 = 0x340;
    let trap = probe!("fninit; fldcw [{cw}]; fld1; fldz; fdivp st(1), st(0); nop; fwait"; cw = in(reg) &unmasked);
    // Behind fninit and fldcw, whose length depends on the register, three of two bytes and the nop.
    let offset = trap.map_or(0, |trap| trap.offset.clamp(11, 13));
    expect(
        report,
        "#MF: division by zero",
        trap,
        Expected::fault(vector::MF, None).at(offset),
    );
    // SAFETY: the FPU is nobody's here.
    unsafe { asm!("fninit") };

    // The same for SSE, where the dividing instruction itself faults.
    let (unmasked, masked): (u32, u32) = (0, 0x1f80);
    // SAFETY: the FPU is nobody's here.
    unsafe {
        asm!("ldmxcsr [{}]", "pxor xmm0, xmm0", "mov {one:e}, 1", "cvtsi2ss xmm1, {one:e}", in(reg) &unmasked, one = out(reg) _)
    };
    let trap = probe!("divss xmm1, xmm0");
    // SAFETY: the usual value.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &masked) };
    if trap.is_none() {
        report.skip(
            "#XM: division by zero",
            "this CPU raises no SSE exceptions (TCG)",
        );
    } else {
        expect(
            report,
            "#XM: division by zero",
            trap,
            Expected::fault(vector::XM, None),
        );
    }
}

/// Alignment checks are on for CPL 3, as which a guest kernel runs, as soon as it sets the flag: CR0.AM is set.
fn alignment(report: &mut Report) {
    let words = [0u64; 2];
    let trap = probe!(
        "pushfq; or dword ptr [rsp], {ac}; popfq; mov {p}, [{p} + 1]; pushfq; and dword ptr [rsp], ~{ac}; popfq";
        p = inout(reg) &raw const words => _,
        ac = const flags::AC
    );
    if trap.is_none() {
        report.skip("#AC: misaligned read", "this CPU checks no alignment (TCG)");
    } else {
        expect(
            report,
            "#AC: misaligned read",
            trap,
            Expected::fault(vector::AC, Some(0)).at(1 + 7 + 1),
        );
    }
}
