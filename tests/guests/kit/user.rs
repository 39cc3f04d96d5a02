//! Guest user mode: a root of its own with one page of code and one of stack; in by `iret`, out by SYSCALL or a trap.
//!
//! [`run`] carries user code out until its first SYSCALL or trap and says which it was. The kernel's half is not in the
//! user root, so the code reaches its two pages alone. Events stay masked in user mode.
//!
//! The page tables are pages of the guest's image. Once they are pinned, the kernel's mappings of them are read-only for
//! good; so they are made once, at the first [`run`], and what that came to is kept.

use core::arch::global_asm;
use core::{fmt, ptr};

use dom0_abi::arch::{FLAT_CS64, FLAT_SS, IretContext};
use dom0_abi::callback::{CallbackRegister, CallbackType};
use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::DomId;
use dom0_abi::xen::{MmuextCommand, MmuextOp};
use guest_pv_drivers::hypercall::{self, foreigndom};

use crate::memory::{PAGE, Page, leaf, pte, remap};
use crate::page_tables::Table;
use crate::registers::{self, Registers};
use crate::single::Single;
use crate::trap::{self, Context, Frame, Trap};

/// Where user code is mapped, read-only.
pub const CODE: u64 = 0x40_0000;
/// A page of the user's that is not there.
pub const HOLE: u64 = CODE + PAGE;
/// The end of the user's stack page, which is where its stack pointer starts. The page keeps its content.
pub const STACK: u64 = CODE + 3 * PAGE;

const KERNEL_STACK_SIZE: usize = 32 * 1024;

#[repr(C, align(4096))]
struct KernelStack([u8; KERNEL_STACK_SIZE]);

/// Where the hypervisor enters the kernel from user mode: apart from the stack on which [`run`] waits.
static KERNEL_STACK: Single<KernelStack> = Single::new(KernelStack([0; KERNEL_STACK_SIZE]));

static CODE_PAGE: Page = Page::new();
static STACK_PAGE: Page = Page::new();
/// Level 4 first.
static TABLES: [Page; 4] = [Page::new(), Page::new(), Page::new(), Page::new()];

/// What making the user root came to, once it was tried.
static MADE: Single<Option<Result<(), Refused>>> = Single::new(None);
/// How user mode was left.
static LEFT: Single<Option<Left>> = Single::new(None);
/// The stack pointer with which [`run`] goes on.
static RETURN_STACK: Single<u64> = Single::new(0);

/// A hypercall that user mode needs, and its error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which call.
    pub call: Hypercall,
    /// What it answered.
    pub error: Errno,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {:?}", self.call.name(), self.error)
    }
}

/// What the kernel finds at its syscall callback.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The general registers of the user's. rcx and r11 are what the hypervisor pushed.
    pub registers: Registers,
    /// The frame that the hypervisor pushed.
    pub frame: Frame,
    /// Stack pointer at the callback's first instruction.
    pub handler_rsp: u64,
    /// Flags at the callback's first instruction.
    pub handler_rflags: u64,
    /// Code and stack selectors in the callback.
    pub handler_selectors: (u16, u16),
}

/// How user code came to its end.
#[derive(Clone, Copy, Debug)]
pub enum Left {
    /// By SYSCALL.
    Syscall(Arrival),
    /// By a trap; its offset counts from the start of the code.
    Trap(Trap),
}

/// Assembles position-independent user code, as bytes for [`run`]. The labels 8 and 9 are the macro's.
#[macro_export]
macro_rules! user_code {
    ($($line:expr),+ $(,)?) => {{
        let (start, end): (*const u8, *const u8);
        // SAFETY: takes two addresses; the assembled bytes lie in a section of constants.
        unsafe {
            core::arch::asm!(
                "lea {start}, [rip + 8f]",
                "lea {end}, [rip + 9f]",
                ".pushsection .rodata.user_code, \"a\", @progbits",
                "8:",
                $($line,)+
                "9:",
                ".popsection",
                start = out(reg) start,
                end = out(reg) end,
                options(nomem, nostack, preserves_flags),
            )
        };
        // SAFETY: the bytes between the labels are constants of the image.
        let code: &'static [u8] =
            unsafe { core::slice::from_raw_parts(start, end.addr() - start.addr()) };
        code
    }};
}

/// What [`user_enter`] loads.
#[repr(C)]
struct Start {
    iret: IretContext,
    registers: Registers,
}

/// The syscall callback's frame, from the stack pointer up.
#[repr(C)]
struct Saved {
    registers: Registers,
    flags: u64,
    /// As the hypervisor pushed it: rcx, r11, then the frame.
    rcx: u64,
    r11: u64,
    frame: Frame,
}

const IRET_SIZE: usize = size_of::<IretContext>();
const _: () = assert!(IRET_SIZE == 9 * 8);

// `user_enter`: a C function whose argument is a `Start`. It keeps the registers that C keeps on the stack, remembers
// the stack pointer, and loads everything by the iret hypercall. It returns when `user_left` is reached, in kernel
// mode, with any registers and any stack.
//
// `user_syscall`: the callback. In: the bounce frame on the kernel's stack, all registers but rcx and r11 the user's.
global_asm!(
    ".text",
    ".type user_enter, @function",
    "user_enter:",
    "    push rbx",
    "    push rbp",
    "    push r12",
    "    push r13",
    "    push r14",
    "    push r15",
    "    mov [rip + {return_stack}], rsp",
    ".set user_word, {iret_size}",
    ".rept {iret_size} / 8",
    "    .set user_word, user_word - 8",
    "    push qword ptr [rdi + user_word]",
    ".endr",
    "    mov r15, [rdi + {iret_size} + 0*8]",
    "    mov r14, [rdi + {iret_size} + 1*8]",
    "    mov r13, [rdi + {iret_size} + 2*8]",
    "    mov r12, [rdi + {iret_size} + 3*8]",
    "    mov rbp, [rdi + {iret_size} + 4*8]",
    "    mov rbx, [rdi + {iret_size} + 5*8]",
    "    mov r10, [rdi + {iret_size} + 7*8]",
    "    mov r9, [rdi + {iret_size} + 8*8]",
    "    mov r8, [rdi + {iret_size} + 9*8]",
    "    mov rdx, [rdi + {iret_size} + 12*8]",
    "    mov rsi, [rdi + {iret_size} + 13*8]",
    "    mov rdi, [rdi + {iret_size} + 14*8]",
    "    mov eax, {iret_number}",
    "    syscall",
    "    ud2",
    ".size user_enter, . - user_enter",
    ".type user_syscall, @function",
    "user_syscall:",
    "    pushfq",
    "    push rdi",
    "    push rsi",
    "    push rdx",
    "    push rcx",
    "    push rax",
    "    push r8",
    "    push r9",
    "    push r10",
    "    push r11",
    "    push rbx",
    "    push rbp",
    "    push r12",
    "    push r13",
    "    push r14",
    "    push r15",
    "    cld",
    "    mov rdi, rsp",
    "    and rsp, -16",
    "    call {arrive}",
    "user_left:",
    "    mov rsp, [rip + {return_stack}]",
    "    pop r15",
    "    pop r14",
    "    pop r13",
    "    pop r12",
    "    pop rbp",
    "    pop rbx",
    "    ret",
    ".size user_syscall, . - user_syscall",
    iret_size = const IRET_SIZE,
    iret_number = const Hypercall::Iret as u32,
    return_stack = sym RETURN_STACK,
    arrive = sym arrive,
);

unsafe extern "C" {
    fn user_enter(start: *const Start);
    static user_syscall: u8;
    static user_left: u8;
}

extern "C" fn arrive(saved: &Saved) {
    LEFT.set(Some(Left::Syscall(Arrival {
        registers: Registers {
            rcx: saved.rcx,
            r11: saved.r11,
            ..saved.registers
        },
        frame: saved.frame,
        handler_rsp: &raw const saved.rcx as u64,
        handler_rflags: saved.flags,
        handler_selectors: (registers::cs(), registers::ss()),
    })));
}

/// Takes traps of user code and goes on in [`run`].
fn trapped(context: &mut Context) -> bool {
    if context.frame.cs & 3 == 0 {
        // The kernel's own.
        return false;
    }
    LEFT.set(Some(Left::Trap(Trap {
        offset: context.frame.rip.wrapping_sub(CODE),
        ..context.trap
    })));
    *context.frame = Frame {
        rip: &raw const user_left as u64,
        rflags: 0,
        ss: u64::from(FLAT_SS),
        ..*context.frame
    };
    true
}

/// The stack pointer from which the hypervisor pushes when it enters the kernel from user mode.
pub fn kernel_stack() -> u64 {
    KERNEL_STACK.as_ptr().expose_provenance() as u64 + KERNEL_STACK_SIZE as u64
}

/// Tells the hypervisor where user mode leads to: the kernel's stack and the syscall callback.
pub fn set_entries() -> Result<(), Refused> {
    // SAFETY: the stack is there for this purpose.
    unsafe { hypercall::stack_switch(FLAT_SS, kernel_stack()) }
        .map_err(refused(Hypercall::StackSwitch))?;
    // SAFETY: the address is that of the syscall callback above.
    unsafe {
        hypercall::register_callback(&CallbackRegister {
            kind: CallbackType::Syscall as u16,
            flags: 0,
            _pad0: 0,
            address: &raw const user_syscall as u64,
        })
    }
    .map_err(refused(Hypercall::CallbackOp))?;
    Ok(())
}

fn refused(call: Hypercall) -> impl Fn(Errno) -> Refused {
    move |error| Refused { call, error }
}

/// The machine address of a page.
fn machine(page: &Page) -> u64 {
    leaf(page.address()) & pte::MFN
}

/// Writes an entry of a table that is not pinned yet.
fn set_table_entry(table: &'static Page, va: u64, shift: u32, entry: u64) {
    let slot = va >> shift & 511;
    let place = ptr::with_exposed_provenance_mut::<u64>((table.address() + slot * 8) as usize);
    // SAFETY: the place is in the page, which is a cell that is only reached through raw pointers, still writable.
    unsafe { place.write_volatile(entry) };
}

/// Makes the user root and loads it beside the kernel's.
fn make() -> Result<(), Refused> {
    set_entries()?;

    let present = pte::P | pte::U | pte::A;
    let [l4, l3, l2, l1] = &TABLES;
    set_table_entry(l4, CODE, 39, machine(l3) | present | pte::RW);
    set_table_entry(l3, CODE, 30, machine(l2) | present | pte::RW);
    set_table_entry(l2, CODE, 21, machine(l1) | present | pte::RW);
    set_table_entry(l1, CODE, 12, machine(&CODE_PAGE) | present);
    let stack = machine(&STACK_PAGE) | present | pte::RW | pte::D;
    set_table_entry(l1, STACK - PAGE, 12, stack);

    for table in &TABLES {
        remap(table, leaf(table.address()) & !pte::RW)
            .map_err(refused(Hypercall::UpdateVaMapping))?;
    }
    let root = machine(l4) / PAGE;
    let operation = |command| MmuextOp {
        cmd: command as u32,
        _pad0: 0,
        arg1: root,
        arg2: 0,
    };
    // SAFETY: the tables are of no other use, and the kernel stays on its own root.
    unsafe {
        hypercall::mmuext_op(
            &[
                operation(MmuextCommand::PinL4Table),
                operation(MmuextCommand::NewUserBasePtr),
            ],
            foreigndom(DomId::SELF, None),
        )
    }
    .result
    .map_err(refused(Hypercall::MmuextOp))?;
    Ok(())
}

/// Puts an entry where [`HOLE`] is, in the user's tables alone. They must have been made by a [`run`].
pub fn map_hole(entry: u64) -> Result<(), Refused> {
    let slot = (HOLE >> 12 & 511) as usize;
    let [_, _, _, l1] = &TABLES;
    // SAFETY: the user root maps nothing that Rust knows of, and the kernel is on its own.
    unsafe { Table::of(l1).set(slot, entry) }.map_err(refused(Hypercall::MmuUpdate))?;
    Ok(())
}

/// Where the kernel has the user's stack page.
pub fn stack_page() -> &'static Page {
    &STACK_PAGE
}

/// The frame of the level-1 table of the user's.
pub fn table_mfn() -> u64 {
    let [_, _, _, l1] = &TABLES;
    l1.mfn()
}

/// Runs position-independent code at [`CODE`] in user mode, with these registers, the stack pointer at [`STACK`] and no
/// flags set, until its first SYSCALL or trap. The error is that of a hypervisor without user mode: nothing has run.
pub fn run(code: &[u8], registers: &Registers) -> Result<Left, Refused> {
    run_in(FLAT_CS64 | 3, FLAT_SS | 3, code, registers)
}

/// The same with other selectors for code and stack, which must be good ones: a frame that cannot be loaded ends the
/// domain.
pub fn run_in(
    code_selector: u16,
    stack_selector: u16,
    code: &[u8],
    registers: &Registers,
) -> Result<Left, Refused> {
    let made = MADE.get().unwrap_or_else(make);
    MADE.set(Some(made));
    made?;

    assert!(code.len() <= PAGE as usize, "user code is one page");
    let place = ptr::with_exposed_provenance_mut::<u8>(CODE_PAGE.address() as usize);
    // SAFETY: the code fits the page, which nobody has a reference to.
    unsafe { place.copy_from_nonoverlapping(code.as_ptr(), code.len()) };

    let start = Start {
        iret: IretContext {
            rax: registers.rax,
            r11: registers.r11,
            rcx: registers.rcx,
            flags: 0,
            rip: CODE,
            // RPL 3 means user mode.
            cs: u64::from(code_selector),
            rflags: 0,
            rsp: STACK,
            ss: u64::from(stack_selector),
        },
        registers: *registers,
    };
    LEFT.set(None);
    // SAFETY: the user root maps nothing of the kernel's, so the code changes nothing that Rust knows of; the callback
    // and the hook both return here, on this stack.
    trap::with_hook(trapped, || unsafe { user_enter(&start) });
    Ok(LEFT
        .get()
        .expect("the ways back say how user mode was left"))
}
