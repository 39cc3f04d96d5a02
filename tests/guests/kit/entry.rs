//! The first instructions: keep what the builder put into the registers, take a stack, go to Rust.

use core::arch::global_asm;

use dom0_abi::xen::StartInfo;

use crate::single::Single;

/// Every register as it was before the guest's first instruction.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct EntryState {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rflags: u64,
    pub cs: u64,
    pub ss: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

const STACK_SIZE: usize = 64 * 1024;

#[repr(C, align(4096))]
struct Stack([u8; STACK_SIZE]);

static STACK: Single<Stack> = Single::new(Stack([0; STACK_SIZE]));

// SAFETY: all fields are integers.
static ENTRY_STATE: Single<EntryState> = Single::new(unsafe { core::mem::zeroed() });

// In: registers as the ABI's boot protocol has them; rsi = start_info. The boot stack is used for one word (the flags).
global_asm!(
    ".text",
    ".balign 16",
    ".globl guest_start",
    ".type guest_start, @function",
    "guest_start:",
    "    mov [rip + {state}], rax",
    "    mov [rip + {state} + 8], rbx",
    "    mov [rip + {state} + 16], rcx",
    "    mov [rip + {state} + 24], rdx",
    "    mov [rip + {state} + 32], rsi",
    "    mov [rip + {state} + 40], rdi",
    "    mov [rip + {state} + 48], rbp",
    "    mov [rip + {state} + 56], rsp",
    "    mov [rip + {state} + 64], r8",
    "    mov [rip + {state} + 72], r9",
    "    mov [rip + {state} + 80], r10",
    "    mov [rip + {state} + 88], r11",
    "    mov [rip + {state} + 96], r12",
    "    mov [rip + {state} + 104], r13",
    "    mov [rip + {state} + 112], r14",
    "    mov [rip + {state} + 120], r15",
    "    pushfq",
    "    pop rax",
    "    mov [rip + {state} + 128], rax",
    "    xor eax, eax",
    "    mov ax, cs",
    "    mov [rip + {state} + 136], rax",
    "    mov ax, ss",
    "    mov [rip + {state} + 144], rax",
    "    mov ax, ds",
    "    mov [rip + {state} + 152], rax",
    "    mov ax, es",
    "    mov [rip + {state} + 160], rax",
    "    mov ax, fs",
    "    mov [rip + {state} + 168], rax",
    "    mov ax, gs",
    "    mov [rip + {state} + 176], rax",
    "    lea rsp, [rip + {stack} + {stack_size}]",
    "    xor ebp, ebp",
    "    cld",
    "    call {main}",
    "    ud2",
    ".size guest_start, . - guest_start",
    state = sym ENTRY_STATE,
    stack = sym STACK,
    stack_size = const STACK_SIZE,
    main = sym enter,
);

unsafe extern "Rust" {
    // Defined by `guest!`.
    safe fn guest_main() -> !;
}

extern "C" fn enter() -> ! {
    crate::trap::install();
    guest_main()
}

/// The registers at the guest's first instruction.
pub fn entry_state() -> EntryState {
    ENTRY_STATE.get()
}

/// What the domain builder says about the domain.
pub fn start_info() -> &'static StartInfo {
    // SAFETY: the builder maps a start_info page at rsi and nothing writes it after the start.
    unsafe { &*(ENTRY_STATE.get().rsi as *const StartInfo) }
}
