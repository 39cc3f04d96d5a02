//! The instructions that write: those that Linux needs, in the operand sizes and by the ways to address that compilers
//! use, and some that nobody needs.

use kit::memory::pte;

use crate::form;
use crate::forms::{Form, Run};

/// Arithmetic flags.
const CF: u64 = 1 << 0;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;
const ALL: u64 = CF | PF | AF | ZF | SF | OF;
/// What logic leaves defined.
const LOGIC: u64 = ALL & !AF;
/// What bit tests leave defined.
const BIT: u64 = CF;

const fn form(name: &'static str, run: Run, operand: fn(u64) -> u64, flags: u64) -> Form {
    Form {
        name,
        run,
        operand,
        rax: same,
        flags,
        needed: true,
    }
}

/// One that nobody needs.
const fn other(name: &'static str, run: Run, operand: fn(u64) -> u64, flags: u64) -> Form {
    Form {
        needed: false,
        ..form(name, run, operand, flags)
    }
}

const fn compare(name: &'static str, run: Run, rax: fn(u64) -> u64) -> Form {
    Form {
        rax,
        ..form(name, run, |entry| entry ^ SOFTWARE, ALL)
    }
}

/// Bit 9, which is the guest's own.
const SOFTWARE: u64 = 1 << 9;

fn same(entry: u64) -> u64 {
    entry
}

fn zero(_: u64) -> u64 {
    0
}

fn marked(entry: u64) -> u64 {
    entry | SOFTWARE
}

fn software(_: u64) -> u64 {
    SOFTWARE
}

fn not_accessed(_: u64) -> u64 {
    !pte::A
}

fn different(entry: u64) -> u64 {
    entry ^ 0x40
}

fn upper_half(entry: u64) -> u64 {
    entry >> 32
}

pub static FORMS: &[Form] = &[
    // mov: registers, immediates, all sizes, all parts of an entry.
    form("mov m64, r64", form!("mov [{a}], {v}"), marked, ALL),
    form("mov m64, r64: nothing", form!("mov [{a}], {v}"), zero, ALL),
    form("mov m64, r64: the same", form!("mov [{a}], {v}"), same, ALL),
    form("mov m32, r32", form!("mov [{a}], {v:e}"), marked, ALL),
    form("mov m16, r16", form!("mov [{a}], {v:x}"), marked, ALL),
    form("mov m8, r8", form!("mov [{a}], al"), same, ALL),
    form("mov m64, i32", form!("mov qword ptr [{a}], 0"), same, ALL),
    form(
        "mov m64, i32: ones",
        form!("mov qword ptr [{a}], -2"),
        same,
        ALL,
    ),
    form(
        "mov m32, i32",
        form!("mov dword ptr [{a}], 0x1230"),
        same,
        ALL,
    ),
    form(
        "mov m16, i16",
        form!("mov word ptr [{a}], 0x1230"),
        same,
        ALL,
    ),
    form("mov m8, i8", form!("mov byte ptr [{a}], 0x65"), same, ALL),
    form(
        "mov m8, i8: the highest",
        form!("mov byte ptr [{a} + 7], 0x80"),
        same,
        ALL,
    ),
    form(
        "mov m8, i8: software bits",
        form!("mov byte ptr [{a} + 7], 0x05"),
        same,
        ALL,
    ),
    form(
        "mov m32, r32: upper half",
        form!("mov [{a} + 4], {v:e}"),
        upper_half,
        ALL,
    ),
    form(
        "mov m16, i16: the highest",
        form!("mov word ptr [{a} + 6], 0x0020"),
        same,
        ALL,
    ),
    // Ways to address.
    form(
        "mov [base + disp8]",
        form!("lea r8, [{a} - 0x70]\n mov [r8 + 0x70], {v}"),
        marked,
        ALL,
    ),
    form(
        "mov [base + disp32]",
        form!("lea r8, [{a} - 0x12345]\n mov [r8 + 0x12345], {v}"),
        marked,
        ALL,
    ),
    form(
        "mov [base + index * 1]",
        form!("mov r8d, 0x77\n lea r9, [{a} - 0x77]\n mov [r9 + r8], {v}"),
        marked,
        ALL,
    ),
    form(
        "mov [base + index * 8 + disp]",
        form!("mov r8d, 5\n lea r9, [{a} - 0x38]\n mov [r9 + r8 * 8 + 0x10], {v}"),
        marked,
        ALL,
    ),
    form(
        "mov [base + negative index * 4]",
        form!("mov r8, -3\n lea r9, [{a} + 12]\n mov [r9 + r8 * 4], {v}"),
        marked,
        ALL,
    ),
    form(
        "mov [index * 2 + disp32]",
        form!("mov r8, {a}\n shr r8, 1\n mov [r8 * 2 + 0], {v}"),
        marked,
        ALL,
    ),
    form(
        "mov [r12]",
        form!("mov r8, r12\n mov r12, {a}\n mov [r12], rax\n mov r12, r8"),
        same,
        ALL,
    ),
    form(
        "mov [r13]",
        form!("mov r8, r13\n mov r13, {a}\n mov [r13], rax\n mov r13, r8"),
        same,
        ALL,
    ),
    form(
        "mov [rsp]",
        form!("mov r8, rsp\n mov rsp, {a}\n mov [rsp], rax\n mov rsp, r8"),
        same,
        ALL,
    ),
    form(
        "mov [rsp + disp8]",
        form!("mov r8, rsp\n lea rsp, [{a} - 8]\n mov [rsp + 8], rax\n mov rsp, r8"),
        same,
        ALL,
    ),
    form("mov fs:[base]", form!("mov fs:[{a}], {v}"), marked, ALL),
    form(
        "mov ds:[base]",
        form!(".byte 0x3e\n mov [{a}], {v}"),
        marked,
        ALL,
    ),
    // xchg is locked, prefix or not.
    form("xchg m64", form!("xchg [{a}], {v}"), zero, ALL),
    form("xchg m64: another", form!("xchg [{a}], {v}"), marked, ALL),
    form("lock xchg m64", form!("lock xchg [{a}], {v}"), marked, ALL),
    form("xchg m64, rax", form!("xchg [{a}], rax"), same, ALL),
    form("xchg m32", form!("xchg [{a}], {v:e}"), marked, ALL),
    form("xchg m16", form!("xchg [{a}], {v:x}"), marked, ALL),
    form("xchg m8", form!("xchg [{a}], al"), same, ALL),
    form(
        "xchg m32: upper half",
        form!("xchg [{a} + 4], {v:e}"),
        upper_half,
        ALL,
    ),
    // cmpxchg, the same and not the same.
    compare("cmpxchg m64: equal", form!("cmpxchg [{a}], {v}"), same),
    compare(
        "cmpxchg m64: different",
        form!("cmpxchg [{a}], {v}"),
        different,
    ),
    compare(
        "lock cmpxchg m64: equal",
        form!("lock cmpxchg [{a}], {v}"),
        same,
    ),
    compare(
        "lock cmpxchg m64: different",
        form!("lock cmpxchg [{a}], {v}"),
        different,
    ),
    compare(
        "lock cmpxchg m64: zero",
        form!("lock cmpxchg [{a}], {v}"),
        zero,
    ),
    compare(
        "lock cmpxchg m32: equal",
        form!("lock cmpxchg [{a}], {v:e}"),
        same,
    ),
    compare(
        "cmpxchg m32: different",
        form!("cmpxchg [{a}], {v:e}"),
        different,
    ),
    compare(
        "lock cmpxchg m16: equal",
        form!("lock cmpxchg [{a}], {v:x}"),
        same,
    ),
    compare(
        "lock cmpxchg m16: different",
        form!("lock cmpxchg [{a}], {v:x}"),
        different,
    ),
    compare(
        "lock cmpxchg m8: different",
        form!("lock cmpxchg [{a}], dl"),
        different,
    ),
    // and, or.
    form("and m64, r64", form!("and [{a}], {v}"), not_accessed, LOGIC),
    form(
        "lock and m64, r64",
        form!("lock and [{a}], {v}"),
        not_accessed,
        LOGIC,
    ),
    form(
        "lock and m64, i8",
        form!("lock and qword ptr [{a}], -0x21"),
        same,
        LOGIC,
    ),
    form(
        "and m64, i32",
        form!("and qword ptr [{a}], -0x201"),
        same,
        LOGIC,
    ),
    form(
        "and m64: nothing",
        form!("and qword ptr [{a}], 0"),
        same,
        LOGIC,
    ),
    form(
        "lock and m32, r32",
        form!("lock and [{a}], {v:e}"),
        not_accessed,
        LOGIC,
    ),
    form(
        "and m32, i32",
        form!("and dword ptr [{a}], 0xfffffbdf"),
        same,
        LOGIC,
    ),
    form(
        "lock and m16, i16",
        form!("lock and word ptr [{a}], 0xfbdf"),
        same,
        LOGIC,
    ),
    form(
        "and m16, r16",
        form!("and [{a}], {v:x}"),
        not_accessed,
        LOGIC,
    ),
    form(
        "lock and m8, i8",
        form!("lock and byte ptr [{a}], 0xdf"),
        same,
        LOGIC,
    ),
    form("and m8, i8", form!("and byte ptr [{a}], 0xdf"), same, LOGIC),
    form(
        "lock and m8, i8: the present bit",
        form!("lock and byte ptr [{a}], 0xfe"),
        same,
        LOGIC,
    ),
    form(
        "and m8, r8: the second",
        form!("mov r8d, 0xfd\n and [{a} + 1], r8b"),
        same,
        LOGIC,
    ),
    form("or m64, r64", form!("or [{a}], {v}"), software, LOGIC),
    form(
        "lock or m64, r64",
        form!("lock or [{a}], {v}"),
        software,
        LOGIC,
    ),
    form(
        "lock or m64, i8",
        form!("lock or qword ptr [{a}], 0x40"),
        same,
        LOGIC,
    ),
    form(
        "lock or m32, i32",
        form!("lock or dword ptr [{a}], 0x600"),
        same,
        LOGIC,
    ),
    form(
        "or m16, i16",
        form!("or word ptr [{a}], 0x600"),
        same,
        LOGIC,
    ),
    form(
        "lock or m8, i8",
        form!("lock or byte ptr [{a}], 0x40"),
        same,
        LOGIC,
    ),
    form(
        "or m8, i8: the highest",
        form!("or byte ptr [{a} + 7], 0x80"),
        same,
        LOGIC,
    ),
    form(
        "or m64: nothing",
        form!("or qword ptr [{a}], 0"),
        same,
        LOGIC,
    ),
    // Bit strings: with a register the bit may be anywhere. (With an immediate it is within the operand, whatever the
    // number; Xen 4.17 does not take the rest of a number beyond it, so there is none here.)
    form(
        "lock btr m64, i8",
        form!("lock btr qword ptr [{a}], 5"),
        same,
        BIT,
    ),
    form("btr m64, i8", form!("btr qword ptr [{a}], 5"), same, BIT),
    form(
        "btr m64, i8: clear already",
        form!("btr qword ptr [{a}], 6"),
        same,
        BIT,
    ),
    form("btr m32, i8", form!("btr dword ptr [{a}], 5"), same, BIT),
    form(
        "lock btr m16, i8",
        form!("lock btr word ptr [{a}], 5"),
        same,
        BIT,
    ),
    form(
        "lock btr m64, r64",
        form!("lock btr [{a}], {v}"),
        |_| 5,
        BIT,
    ),
    form("btr m32, r32", form!("btr [{a}], {v:e}"), |_| 5, BIT),
    form(
        "btr m64, r64: from the slot before",
        form!("lea r8, [{a} - 8]\n btr [r8], {v}"),
        |_| 64 + 5,
        BIT,
    ),
    form(
        "btr m64, r64: from the slot behind",
        form!("lea r8, [{a} + 8]\n btr [r8], {v}"),
        |_| 5u64.wrapping_sub(64),
        BIT,
    ),
    form(
        "btr m32, r32: the upper half",
        form!("btr [{a}], {v:e}"),
        |_| 54,
        BIT,
    ),
    form(
        "lock bts m64, i8",
        form!("lock bts qword ptr [{a}], 9"),
        same,
        BIT,
    ),
    form(
        "bts m64, i8: set already",
        form!("bts qword ptr [{a}], 5"),
        same,
        BIT,
    ),
    form(
        "bts m64, i8: the highest",
        form!("bts qword ptr [{a}], 63"),
        same,
        BIT,
    ),
    form("bts m32, i8", form!("bts dword ptr [{a}], 9"), same, BIT),
    form("bts m64, r64", form!("bts [{a}], {v}"), |_| 9, BIT),
    form(
        "lock bts m32, r32: the upper half",
        form!("lock bts [{a}], {v:e}"),
        |_| 58,
        BIT,
    ),
    // What nobody needs.
    other("xor", form!("xor [{a}], {v}"), software, LOGIC),
    other("lock add", form!("lock add [{a}], {v}"), software, ALL),
    other("sub", form!("sub [{a}], {v}"), |_| pte::A, ALL),
    other("adc", form!("adc dword ptr [{a}], 0x1ff"), same, ALL),
    other("lock btc", form!("lock btc qword ptr [{a}], 9"), same, BIT),
    other("lock xadd", form!("lock xadd [{a}], {v}"), software, ALL),
    other("not", form!("not qword ptr [{a}]"), same, ALL),
    other("movnti", form!("movnti [{a}], {v}"), zero, ALL),
    other("setc", form!("setc byte ptr [{a} + 7]"), same, ALL),
    other(
        "pop",
        form!("push {v}\n pop qword ptr [{a}]\n lea rsp, [rsp]"),
        zero,
        ALL,
    ),
    other(
        "stosq",
        form!(
            "mov r8, rdi\n mov rdi, {a}\n mov r9, rax\n mov eax, 0\n stosq\n mov rax, r9\n mov rdi, r8"
        ),
        same,
        ALL,
    ),
    other(
        "rep stosq of one",
        form!(
            "mov r8, rdi\n mov r9, rcx\n mov rdi, {a}\n mov ecx, 1\n rep stosq\n mov rcx, r9\n mov rdi, r8"
        ),
        same,
        ALL,
    ),
    other(
        "movsq",
        form!(
            "push 0\n mov r8, rdi\n mov r9, rsi\n mov rdi, {a}\n mov rsi, rsp\n movsq\n mov rsi, r9\n mov rdi, r8\n lea rsp, [rsp + 8]"
        ),
        same,
        ALL,
    ),
    other("movbe", form!("movbe [{a}], {v}"), zero, ALL),
    other("movdqu", form!("movdqu [{a}], xmm0"), same, ALL),
    other("movq", form!("movq [{a}], xmm0"), same, ALL),
];
