//! Trap handlers: record what the hypervisor pushed, then go on behind the instruction.
//!
//! All 256 vectors lead to a stub of their own. A stub saves the general registers and calls [`handle`], which either
//! gives the trap to a hook that a check has put in place ([`with_hook`]) or, if an instruction is being probed
//! ([`probe!`](crate::probe)), records it and resumes at the probe's end. Anything else ends the guest with a verdict.
//! Every way back to the interrupted code is the `iret` hypercall.

use core::arch::{asm, global_asm};
use core::fmt;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dom0_abi::arch::{FLAT_CS64, IretContext, TRAP_MASKS_EVENTS, TrapInfo};
use dom0_abi::hypercalls::Hypercall;
use guest_pv_drivers::hypercall;

use crate::println;
use crate::registers::{Registers, flags};
use crate::report::abandon;
use crate::single::Single;

/// Names of the vectors that have a meaning.
#[allow(missing_docs)]
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const MC: u8 = 18;
    pub const XM: u8 = 19;
}

/// What the hypervisor pushed behind rcx, r11 and the error code.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Frame {
    /// Where the guest was, or is to go on.
    pub rip: u64,
    /// Code selector; bits 32 to 39 are the saved upcall mask.
    pub cs: u64,
    /// Flags, with the virtual interrupt flag.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Stack selector.
    pub ss: u64,
}

impl Frame {
    /// The upcall mask at the time of the trap.
    pub fn saved_upcall_mask(&self) -> u8 {
        (self.cs >> 32) as u8
    }
}

/// A recorded trap.
#[derive(Clone, Copy, Debug)]
pub struct Trap {
    /// Which entry of the trap table was taken.
    pub vector: u8,
    /// The error code, for vectors that have one.
    pub error: Option<u64>,
    /// CR2 as the guest reads it, for #PF; else zero.
    pub cr2: u64,
    /// The frame.
    pub frame: Frame,
    /// The general registers of the interrupted code. rcx and r11 are what the frame says, which the ABI defines to be
    /// those of the interrupted code.
    pub registers: Registers,
    /// Stack pointer at the handler's first instruction.
    pub handler_rsp: u64,
    /// Flags at the handler's first instructions.
    pub handler_rflags: u64,
    /// Code and stack selectors in the handler.
    pub handler_selectors: (u16, u16),
    /// rip of the frame, from the start of the probed code.
    pub offset: u64,
}

/// What there is to compare of a trap: vector, error code, fault address.
pub type Cause = (u8, Option<u64>, u64);

impl Trap {
    /// Vector, error code and fault address.
    pub fn cause(&self) -> Cause {
        (self.vector, self.error, self.cr2)
    }
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self {
            vector,
            error,
            cr2,
            offset,
            frame,
            handler_rsp,
            handler_rflags,
            ..
        } = self;
        write!(
            f,
            "vector {vector} error {error:x?} cr2 {cr2:#x} offset {offset:#x} {frame:x?}"
        )?;
        write!(
            f,
            " handler: rsp {handler_rsp:#x} flags {handler_rflags:#x} {:x?}",
            self.handler_selectors
        )
    }
}

/// What a hook sees of a trap, and may change to make the interrupted code go on elsewhere.
pub struct Context<'a> {
    /// The trap.
    pub trap: Trap,
    /// The frame by which the code goes on.
    pub frame: &'a mut Frame,
}

/// Sees a trap before the kit does, and takes it by returning true: the code then goes on by the context's frame.
pub type Hook = fn(&mut Context) -> bool;

/// Where the probed code ends; 0: nothing is being probed.
pub static RESUME: AtomicU64 = AtomicU64::new(0);
/// Where the probed code starts.
pub static START: AtomicU64 = AtomicU64::new(0);
/// The stack pointer with which the probed code starts, and with which it ends if it traps.
pub static STACK: AtomicU64 = AtomicU64::new(0);

static LAST: Single<Option<Trap>> = Single::new(None);
static HOOK: Single<Option<Hook>> = Single::new(None);
static DEPTH: AtomicUsize = AtomicUsize::new(0);

/// Takes the trap that the last probe met.
pub fn take() -> Option<Trap> {
    let trap = LAST.get();
    LAST.set(None);
    trap
}

/// Runs `body` with a hook in place.
pub fn with_hook<R>(hook: Hook, body: impl FnOnce() -> R) -> R {
    let outer = HOOK.get();
    HOOK.set(Some(hook));
    let result = body();
    HOOK.set(outer);
    result
}

/// How many trap handlers are on the stack.
pub fn depth() -> usize {
    DEPTH.load(Ordering::Relaxed)
}

/// Runs assembly that may trap, and returns the [`Trap`] if it did: `probe!("code"; operands)`.
///
/// The first trap ends the code. Operands are those of `asm!`, named or with explicit registers, and what the code
/// destroys must be among them. The code may move the stack pointer within the stack if a trap ends it, which brings
/// the stack pointer back; where a trap interrupts it, rsp must point to usable stack.
#[macro_export]
macro_rules! probe {
    ($code:expr $(; $($operands:tt)*)?) => {{
        // SAFETY: wherever the code traps, the handler resumes at label 3 with the stack pointer of the start and all
        // other registers as they were then, so to the compiler it is code without jumps that destroys what the
        // operands and `kit_scratch` say.
        // The operands' expressions stand in the unsafe block because `asm!` takes them there.
        #[allow(clippy::macro_metavars_in_unsafe)]
        unsafe {
            core::arch::asm!(
                "lea {kit_scratch}, [rip + 3f]",
                "mov [rip + {kit_resume}], {kit_scratch}",
                "lea {kit_scratch}, [rip + 2f]",
                "mov [rip + {kit_start}], {kit_scratch}",
                "mov [rip + {kit_stack}], rsp",
                "2:",
                $code,
                "3:",
                "mov qword ptr [rip + {kit_resume}], 0",
                kit_scratch = out(reg) _,
                kit_resume = sym $crate::reexport::RESUME,
                kit_start = sym $crate::reexport::START,
                kit_stack = sym $crate::reexport::STACK,
                $($($operands)*)?
            )
        };
        $crate::reexport::take()
    }};
}

/// A stub's frame, from the stack pointer up.
#[repr(C)]
struct Saved {
    /// Filled in by the handler: what the `iret` hypercall loads.
    iret: IretContext,
    registers: Registers,
    flags: u64,
    vector: u64,
    /// As the hypervisor pushed it: rcx, r11, then the error code if the vector has one, then the frame.
    rcx: u64,
    r11: u64,
}

const IRET_SIZE: usize = size_of::<IretContext>();
const STUB_SIZE: usize = 16;

// One stub a vector, STUB_SIZE apart. In: the bounce frame on the stack, everything else as interrupted, except that rcx
// and r11 are undefined (their values are in the frame). Out: by the iret hypercall, which takes rax, rcx, r11 and the
// frame from the stack and leaves the other registers as loaded here.
global_asm!(
    ".text",
    ".balign {stub_size}",
    "trap_stubs:",
    ".set trap_vector, 0",
    ".rept 256",
    "    .balign {stub_size}",
    "    pushq $trap_vector",
    "    jmp trap_common",
    "    .set trap_vector, trap_vector + 1",
    ".endr",
    ".type trap_common, @function",
    "trap_common:",
    "    pushfq",
    "    pushq %rdi",
    "    pushq %rsi",
    "    pushq %rdx",
    "    pushq %rcx",
    "    pushq %rax",
    "    pushq %r8",
    "    pushq %r9",
    "    pushq %r10",
    "    pushq %r11",
    "    pushq %rbx",
    "    pushq %rbp",
    "    pushq %r12",
    "    pushq %r13",
    "    pushq %r14",
    "    pushq %r15",
    "    subq ${iret_size}, %rsp",
    "    cld",
    "    movq %rsp, %rdi",
    "    movq %rsp, %rbx",
    "    andq $-16, %rsp",
    "    call {handle}",
    "    movq %rbx, %rsp",
    "    movq {iret_size}+0*8(%rsp), %r15",
    "    movq {iret_size}+1*8(%rsp), %r14",
    "    movq {iret_size}+2*8(%rsp), %r13",
    "    movq {iret_size}+3*8(%rsp), %r12",
    "    movq {iret_size}+4*8(%rsp), %rbp",
    "    movq {iret_size}+5*8(%rsp), %rbx",
    "    movq {iret_size}+7*8(%rsp), %r10",
    "    movq {iret_size}+8*8(%rsp), %r9",
    "    movq {iret_size}+9*8(%rsp), %r8",
    "    movq {iret_size}+12*8(%rsp), %rdx",
    "    movq {iret_size}+13*8(%rsp), %rsi",
    "    movq {iret_size}+14*8(%rsp), %rdi",
    "    movl ${iret_number}, %eax",
    "    syscall",
    "    ud2",
    ".size trap_common, . - trap_common",
    stub_size = const STUB_SIZE,
    iret_size = const IRET_SIZE,
    iret_number = const Hypercall::Iret as u32,
    handle = sym handle,
    options(att_syntax),
);

unsafe extern "C" {
    static trap_stubs: [[u8; STUB_SIZE]; 256];
}

/// Where the stub of a vector is.
pub fn stub_address(vector: u8) -> u64 {
    &raw const trap_stubs as u64 + u64::from(vector) * STUB_SIZE as u64
}

extern "C" fn handle(saved: &mut Saved) {
    DEPTH.fetch_add(1, Ordering::Relaxed);
    let vector = saved.vector as u8;
    let pushed = &raw const saved.rcx;
    // The hypervisor aligns the stack to 16 bytes before it pushes, so seven or eight words tell by where they end. The
    // vector does not tell: a software interrupt to the vector of #GP has no error code.
    let has_error = pushed.addr().is_multiple_of(16);
    // SAFETY: behind r11 the stack holds the error code, if the vector has one, and the frame.
    let (error, frame) = unsafe {
        let behind = pushed.add(2);
        if has_error {
            (Some(behind.read()), behind.add(1).cast_mut().cast())
        } else {
            (None, behind.cast_mut().cast())
        }
    };
    // SAFETY: as above; nothing else refers to that part of the stack.
    let frame: &mut Frame = unsafe { &mut *frame };
    let registers = Registers {
        rcx: saved.rcx,
        r11: saved.r11,
        ..saved.registers
    };
    let trap = Trap {
        vector,
        error,
        cr2: if vector == vector::PF { read_cr2() } else { 0 },
        frame: *frame,
        registers,
        handler_rsp: pushed as u64,
        handler_rflags: saved.flags,
        handler_selectors: (crate::registers::cs(), crate::registers::ss()),
        offset: frame.rip.wrapping_sub(START.load(Ordering::Relaxed)),
    };

    let taken = HOOK
        .get()
        .is_some_and(|hook| hook(&mut Context { trap, frame }));
    if !taken {
        let resume = RESUME.swap(0, Ordering::Relaxed);
        if resume == 0 {
            println!("TEST no unexpected trap: FAIL {trap}");
            abandon()
        }
        LAST.set(Some(trap));
        frame.rip = resume;
        frame.rsp = STACK.load(Ordering::Relaxed);
        frame.rflags &= !(flags::TF | flags::NT | flags::AC | flags::DF);
    }
    saved.iret = IretContext {
        rax: registers.rax,
        r11: registers.r11,
        rcx: registers.rcx,
        flags: 0,
        rip: frame.rip,
        // RPL 0 or 1 means guest kernel mode.
        cs: u64::from(FLAT_CS64 & !3),
        rflags: frame.rflags,
        rsp: frame.rsp,
        ss: frame.ss,
    };
    DEPTH.fetch_sub(1, Ordering::Relaxed);
}

/// The address of the last page fault, by the emulated `mov` from CR2.
pub fn read_cr2() -> u64 {
    let cr2: u64;
    // SAFETY: reads a register that the hypervisor emulates.
    unsafe { asm!("mov {}, cr2", out(reg) cr2, options(nomem, nostack, preserves_flags)) };
    cr2
}

fn entry(vector: u8, entry_flags: u8) -> TrapInfo {
    TrapInfo {
        vector,
        flags: entry_flags,
        cs: FLAT_CS64,
        _pad0: 0,
        address: stub_address(vector),
    }
}

const NO_ENTRY: TrapInfo = TrapInfo {
    vector: 0,
    flags: 0,
    cs: 0,
    _pad0: 0,
    address: 0,
};

/// Fills the whole trap table with the kit's stubs: no software interrupts, events left as they are.
pub fn install() {
    // 64 at a time: an array of all would be a lot of stack.
    for first in (0..=255u8).step_by(64) {
        let mut entries = [NO_ENTRY; 65];
        for (index, slot) in entries.iter_mut().take(64).enumerate() {
            *slot = entry(first + index as u8, 0);
        }
        set(&entries);
    }
}

/// Changes one entry: the level that may raise it by `int n` (0 for none), and whether it masks events.
pub fn set_entry(vector: u8, dpl: u8, masks_events: bool) {
    set(&[
        entry(
            vector,
            dpl | if masks_events { TRAP_MASKS_EVENTS } else { 0 },
        ),
        NO_ENTRY,
    ]);
}

/// Takes one entry away.
pub fn clear_entry(vector: u8) {
    // An entry with address 0 ends the list, so all go and the others come back.
    // SAFETY: no trap is expected before the table is complete again.
    if unsafe { hypercall::set_trap_table(&[]) }.is_err() {
        abandon()
    }
    for other in 0..=255u8 {
        if other != vector {
            set_entry(other, 0, false);
        }
    }
}

fn set(entries: &[TrapInfo]) {
    // SAFETY: the entries lead to the stubs above.
    if unsafe { hypercall::set_trap_table(entries) }.is_err() {
        println!("TEST set_trap_table: FAIL refused");
        abandon()
    }
}
