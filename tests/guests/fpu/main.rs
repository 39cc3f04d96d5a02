//! The FPU is the guest's own: nobody else's values are in it at the start, and nothing the hypervisor does changes it.
//!
//! The guest's Rust code uses no FPU registers (the target has none), so whatever is in them, this file put there.
#![no_std]
#![no_main]
// UNSAFETY: FPU instructions.
#![allow(unsafe_code)]

use core::arch::asm;

use guest_pv_drivers::hypercall;
use kit::trap::vector;
use kit::{Report, Trap, probe};

kit::guest!("fpu", main);

/// The image that FXSAVE stores.
#[derive(Clone, Copy, PartialEq, Debug)]
#[repr(C, align(16))]
struct Image {
    control: u16,
    status: u16,
    /// One bit for each x87 register that is in use.
    tags: u8,
    _reserved: u8,
    opcode: u16,
    instruction: u64,
    data: u64,
    mxcsr: u32,
    mxcsr_mask: u32,
    x87: [[u64; 2]; 8],
    xmm: [[u64; 2]; 16],
    _rest: [u64; 12],
}

const ZERO: Image = Image {
    control: 0,
    status: 0,
    tags: 0,
    _reserved: 0,
    opcode: 0,
    instruction: 0,
    data: 0,
    mxcsr: 0,
    mxcsr_mask: 0,
    x87: [[0; 2]; 8],
    xmm: [[0; 2]; 16],
    _rest: [0; 12],
};

impl Image {
    fn save() -> Self {
        let mut image = ZERO;
        // SAFETY: the image is as long and as aligned as FXSAVE wants.
        unsafe { asm!("fxsave64 [{}]", in(reg) &mut image) };
        image
    }

    fn load(&self) {
        // SAFETY: as above; no Rust code has anything in the registers.
        unsafe { asm!("fxrstor64 [{}]", in(reg) self) };
    }

    /// With the last instruction's address forgotten, which some CPUs keep only for exceptions.
    fn comparable(self) -> Self {
        Self {
            opcode: 0,
            instruction: 0,
            data: 0,
            _rest: [0; 12],
            ..self
        }
    }
}

/// A state that differs from the initial one in each register and each setting.
fn marked() -> Image {
    let mut image = Image {
        // Round down, 53 bits; some exceptions seen but masked; stack top 5.
        control: 0x067f,
        status: 5 << 11 | 0x21,
        tags: 0b1010_0111,
        // Round up, flush to zero.
        mxcsr: 0xdfa1,
        ..ZERO
    };
    for (index, register) in (1u64..).zip(image.x87.iter_mut()) {
        // 80 bits: a normal number.
        *register = [0x8000_0000_0000_0000 | index << 40 | index, 0x3fff + index];
    }
    for (index, register) in (1u64..).zip(image.xmm.iter_mut()) {
        *register = [
            0x0101_0101_0101_0101 * index,
            !(0x0101_0101_0101_0101 * index),
        ];
    }
    image
}

fn main(report: &mut Report) {
    initial(report);
    let wide = avx_initial(report);
    survival(report, wide);
    task_switched(report);
}

fn initial(report: &mut Report) {
    let image = Image::save();
    report.equal("x87 control word", image.control, 0x37f);
    report.equal("x87 status and tags", (image.status, image.tags), (0, 0));
    report.equal(
        "x87 last instruction",
        (image.opcode, image.instruction, image.data),
        (0, 0, 0),
    );
    report.equal("x87 registers", image.x87, [[0; 2]; 8]);
    report.equal("MXCSR", image.mxcsr, 0x1f80);
    report.equal("XMM registers", image.xmm, [[0; 2]; 16]);
}

/// Reads the upper halves of all YMM registers.
fn upper_halves() -> [[u64; 2]; 16] {
    let mut halves = [[0u64; 2]; 16];
    macro_rules! extract {
        ($($number:literal)+) => {
            // SAFETY: stores 16 times 16 bytes; the caller has AVX switched on.
            unsafe {
                asm!(
                    $(concat!("vextractf128 [{at} + 16*", $number, "], ymm", $number, ", 1"),)+
                    at = in(reg) &mut halves,
                )
            }
        };
    }
    extract!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    halves
}

/// Fills all upper halves, the lower ones too.
fn fill_upper_halves() {
    macro_rules! insert {
        ($($number:literal)+) => {
            // SAFETY: the registers are nobody's; the caller has AVX switched on.
            unsafe {
                asm!(
                    "mov {value:e}, 0x5eed5eed",
                    "vmovd xmm0, {value:e}",
                    "vpshufd xmm0, xmm0, 0",
                    $(concat!("vinsertf128 ymm", $number, ", ymm", $number, ", xmm0, 1"),)+
                    value = out(reg) _,
                )
            }
        };
    }
    insert!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 0);
}

/// Switches AVX on where it can be; its registers must be empty, too. Returns whether it is on.
fn avx_initial(report: &mut Report) -> bool {
    let trap = probe!(
        "mov {v}, cr4; or {v}, 1 << 18; mov cr4, {v}; xsetbv";
        v = out(reg) _, in("ecx") 0, in("eax") 7, in("edx") 0
    );
    if trap.is_some() {
        report.skip("YMM registers", "the CPU has no AVX");
        return false;
    }
    report.equal("YMM registers", upper_halves(), [[0; 2]; 16]);
    true
}

/// Does `disturb` with a marked state loaded, and sees whether it is still there.
fn survives<T>(report: &mut Report, wide: bool, name: &str, disturb: impl FnOnce() -> T) {
    if wide {
        fill_upper_halves();
    }
    let before = marked();
    before.load();
    let _ = disturb();
    let after = Image::save();
    let same = after.comparable()
        == Image {
            mxcsr_mask: after.mxcsr_mask,
            ..before
        };
    report.check(
        format_args!("state survives {name}"),
        same,
        format_args!("{after:x?}"),
    );
    if wide {
        let upper = upper_halves();
        let same = upper == [[0x5eed_5eed_5eed_5eed; 2]; 16];
        report.check(
            format_args!("YMM registers survive {name}"),
            same,
            format_args!("{upper:x?}"),
        );
    }
}

fn survival(report: &mut Report, wide: bool) {
    let long = || kit::println!("output longer than one piece: {:0200}", 0);
    let emulated = || probe!("rdmsr"; in("ecx") 0xc000_0100u32, out("rax") _, out("rdx") _);
    // A page fault on the operand of an instruction of the FPU's own, which must then not have happened.
    let operand = || probe!("movups xmm3, [{at}]"; at = in(reg) kit::memory::UNMAPPED);
    let switched = || {
        let _ = hypercall::fpu_taskswitch(true);
        let _ = hypercall::xen_version();
        hypercall::fpu_taskswitch(false)
    };
    survives(report, wide, "nothing", || ());
    survives(report, wide, "a hypercall", hypercall::xen_version);
    survives(report, wide, "a yield", hypercall::sched_yield);
    survives(report, wide, "console output", long);
    survives(report, wide, "an exception", || probe!("ud2"));
    survives(report, wide, "a page fault", || {
        kit::memory::read(kit::memory::UNMAPPED)
    });
    survives(report, wide, "a refused instruction", || probe!("hlt"));
    survives(report, wide, "an emulated instruction", emulated);
    survives(report, wide, "a faulting move", operand);
    survives(report, wide, "a switched task", switched);
    if wide {
        let off_and_on = || {
            probe!(
                "xsetbv; mov eax, 7; xsetbv";
                in("ecx") 0, inout("eax") 3 => _, in("edx") 0
            )
        };
        survives(report, wide, "AVX switched off and on", off_and_on);
    }
}

/// How a kernel that saves lazily notices the first use: #NM, which also clears the flag.
fn task_switched(report: &mut Report) {
    macro_rules! each {
        ($($code:literal)+) => {$(
            let image = ZERO;
            let _ = hypercall::fpu_taskswitch(true);
            let trap = probe!($code; in("rdi") &raw const image, out("xmm0") _);
            let seen = trap.map(|trap: Trap| (trap.vector, trap.error, trap.offset));
            report.equal(concat!("#NM: ", $code), seen, Some((vector::NM, None, 0)));
            let again = probe!($code; in("rdi") &raw const image, out("xmm0") _);
            report.check(concat!("no second #NM: ", $code), again.is_none(), format_args!("{again:x?}"));
        )+};
    }
    each!("fnop" "fld1" "fwait" "fninit" "movups xmm0, [rdi]" "fxsave64 [rdi]");
    // These do not use the FPU's state.
    let _ = hypercall::fpu_taskswitch(true);
    let image = ZERO;
    let trap =
        probe!("lfence; sfence; mfence; prefetchnta [{at}]; pause"; at = in(reg) &raw const image);
    report.check(
        "no #NM without the FPU",
        trap.is_none(),
        format_args!("{trap:x?}"),
    );
    let _ = hypercall::fpu_taskswitch(false);
    report.check(
        "no #NM after fpu_taskswitch(0)",
        probe!("fnop").is_none(),
        "",
    );
    let _ = hypercall::fpu_taskswitch(true);
    let trap = probe!("clts; fnop");
    report.check(
        "no #NM after clts",
        trap.is_none(),
        format_args!("{trap:x?}"),
    );
    // SAFETY: leaves the FPU as it began.
    unsafe { asm!("fninit") };
}
