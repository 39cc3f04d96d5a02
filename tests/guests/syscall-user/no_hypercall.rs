//! I17: no hypercall from guest user mode has an effect. Whatever rax says, SYSCALL leads to the kernel's callback.
//!
//! Every number is tried with arguments of several kinds. Then come calls of which each would do something plain to see
//! if the hypervisor took it from the kernel: change a table, a register, a handler; print a line that fails the test;
//! end the domain.

use dom0_abi::hypercalls::Hypercall;
use dom0_abi::sched::{SchedCommand, ShutdownReason};
use dom0_abi::xen::{ConsoleIoCommand, MmuextCommand, UVMF_INVLPG, VmAssist};
use guest_pv_drivers::hypercall;
use kit::memory::{self, PAGE};
use kit::page_tables::{self, Lab, READ_ONLY, Table, current_root};
use kit::registers::{self, Registers};
use kit::{Report, probe, start_info, trap, user, user_code};

use crate::{arrival, marked};

/// Hypercalls there may be in a table of 64, and numbers behind it that a comparison or a mask may get wrong.
const NUMBERS: [u64; 12] = [
    64,
    127,
    128,
    255,
    256,
    0x1_0000 | 14,
    1 << 31,
    1 << 31 | 14,
    u32::MAX as u64,
    1 << 32 | 14,
    1 << 63 | 14,
    u64::MAX,
];

/// What the calls below would change.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    root: u64,
    tables: u64,
    debug: [Result<u64, dom0_abi::errno::Errno>; 4],
    bases: [u64; 3],
    stack_word: Result<u64, u64>,
    task_switched: bool,
    traps: bool,
}

/// The sum of the words that a hypercall might have written: all of the kernel's tables, the shared info page aside,
/// which changes by itself.
fn sum_of_tables(lab: Lab) -> u64 {
    let info = start_info();
    let boot = (0..info.nr_pt_frames * PAGE)
        .step_by(8)
        .map(|offset| info.pt_base + offset);
    let own = [1, 2, 3]
        .into_iter()
        .flat_map(|level| (0..PAGE).step_by(8).map(move |offset| (level, offset)))
        .map(|(level, offset)| lab.table(level).address + offset);
    boot.chain(own).fold(0, |sum: u64, va| {
        // The CPU sets accessed and dirty as it likes.
        let word = memory::read(va).unwrap_or(0) & !(memory::pte::A | memory::pte::D);
        sum.rotate_left(7).wrapping_add(word)
    })
}

fn base(msr: u32) -> u64 {
    let (low, high): (u64, u64);
    let trap = probe!("rdmsr"; in("ecx") msr, out("rax") low, out("rdx") high);
    assert!(trap.is_none(), "segment bases can be read");
    high << 32 | low
}

fn look(lab: Lab) -> Seen {
    Seen {
        root: current_root(),
        tables: sum_of_tables(lab),
        debug: [0, 1, 6, 7].map(hypercall::get_debugreg),
        bases: [0xc000_0100, 0xc000_0101, 0xc000_0102].map(base),
        stack_word: user::stack_page().word(511),
        task_switched: probe!("fnop").is_some(),
        // The trap table is whole: this is the kit's stub.
        traps: probe!("ud2").is_some_and(|trap| trap.vector == trap::vector::UD),
    }
}

pub fn check(report: &mut Report) {
    let Ok(lab) = Lab::new() else {
        return report.check("tables of the guest's own", false, "refused");
    };
    report.equal(
        "a debug register",
        hypercall::set_debugreg(0, 0x1000),
        Ok(0),
    );
    every_number(report, lab);
    telling(report, lab);
}

/// One SYSCALL with these registers; they must all arrive as they were.
fn arrives(report: &mut Report, name: impl core::fmt::Display, given: Registers) -> bool {
    let Some(seen) = arrival(report, &name, user_code!("syscall"), &given) else {
        return false;
    };
    let right = Registers {
        rcx: user::CODE + 2,
        r11: registers::flags::IF | 2,
        ..given
    };
    if seen.registers != right {
        report.equal(name, seen.registers, right);
        return false;
    }
    true
}

fn every_number(report: &mut Report, lab: Lab) {
    let in_user = user::STACK - 64;
    for (kind, arguments) in [
        ("zeroes", [0; 5]),
        ("ones", [1; 5]),
        ("all bits", [u64::MAX; 5]),
        ("pointers of the user's", [in_user; 5]),
        (
            "a command and pointers of the user's",
            [0, in_user, in_user, in_user, in_user],
        ),
        ("pointers of the kernel's", [start_info().pt_base; 5]),
        (
            "a list of one for the guest itself",
            [in_user, 1, 0, 0x7ff0, 0],
        ),
    ] {
        let before = look(lab);
        let mut arrived = true;
        for number in (0..64).chain(NUMBERS) {
            let [rdi, rsi, rdx, r10, r8] = arguments;
            let given = Registers {
                rax: number,
                rdi,
                rsi,
                rdx,
                r10,
                r8,
                ..marked()
            };
            let name = format_args!("SYSCALL with rax {number:#x} and {kind}");
            arrived &= arrives(report, name, given);
        }
        report.equal(
            format_args!("SYSCALL with any number and {kind}: no effect"),
            (arrived, look(lab)),
            (true, before),
        );
    }
}

/// A call that would be seen.
struct Telling {
    name: &'static str,
    call: Hypercall,
    arguments: [u64; 5],
    /// What stands at the pointer: the user's stack page, 16 words before its end.
    words: [u64; 6],
}

fn telling(report: &mut Report, lab: Lab) {
    let list = user::STACK - 128;
    let own = 0x7ff0;
    let frame = page_tables::page();
    let entry = frame.machine() | READ_ONLY;
    let unused = page_tables::page();
    let _ = page_tables::protect(unused);
    let slot = lab.table(1).machine(33);
    let line = *b"TEST user mode: FAIL it printed on the console\n\0";
    let text = core::array::from_fn(|index| {
        (0..8).fold(0, |word, byte| {
            word | u64::from(line[index * 8 + byte]) << (8 * byte)
        })
    });
    let none = [0; 6];
    let root = Table::boot_root().mfn;
    for case in [
        Telling {
            name: "update_va_mapping",
            call: Hypercall::UpdateVaMapping,
            arguments: [Lab::address(33), entry, UVMF_INVLPG, 0, 0],
            words: none,
        },
        Telling {
            name: "mmu_update",
            call: Hypercall::MmuUpdate,
            arguments: [list, 1, 0, own, 0],
            words: [slot, entry, 0, 0, 0, 0],
        },
        Telling {
            name: "mmuext_op(pin)",
            call: Hypercall::MmuextOp,
            arguments: [list, 1, 0, own, 0],
            words: [MmuextCommand::PinL1Table as u64, unused.mfn(), 0, 0, 0, 0],
        },
        Telling {
            name: "mmuext_op(unpin of the root)",
            call: Hypercall::MmuextOp,
            arguments: [list, 1, 0, own, 0],
            words: [MmuextCommand::UnpinTable as u64, root, 0, 0, 0, 0],
        },
        Telling {
            name: "mmuext_op(clear_page)",
            call: Hypercall::MmuextOp,
            arguments: [list, 1, 0, own, 0],
            words: [
                MmuextCommand::ClearPage as u64,
                user::stack_page().mfn(),
                0,
                0,
                0,
                0,
            ],
        },
        Telling {
            name: "multicall(update_va_mapping)",
            call: Hypercall::Multicall,
            arguments: [list, 1, 0, 0, 0],
            words: [
                Hypercall::UpdateVaMapping.number(),
                0,
                Lab::address(33),
                entry,
                UVMF_INVLPG,
                0,
            ],
        },
        Telling {
            name: "set_debugreg",
            call: Hypercall::SetDebugreg,
            arguments: [0, 0x2000, 0, 0, 0],
            words: none,
        },
        Telling {
            name: "set_trap_table(none)",
            call: Hypercall::SetTrapTable,
            arguments: [0; 5],
            words: none,
        },
        Telling {
            name: "set_trap_table",
            call: Hypercall::SetTrapTable,
            arguments: [list, 0, 0, 0, 0],
            words: [0xe033_0006, user::CODE, 0, 0, 0, 0],
        },
        Telling {
            name: "fpu_taskswitch",
            call: Hypercall::FpuTaskswitch,
            arguments: [1, 0, 0, 0, 0],
            words: none,
        },
        Telling {
            name: "set_segment_base",
            call: Hypercall::SetSegmentBase,
            arguments: [0, 0x7000, 0, 0, 0],
            words: none,
        },
        Telling {
            name: "stack_switch",
            call: Hypercall::StackSwitch,
            arguments: [0xe02b, user::STACK, 0, 0, 0],
            words: none,
        },
        Telling {
            name: "set_callbacks",
            call: Hypercall::SetCallbacks,
            arguments: [user::CODE; 5],
            words: none,
        },
        Telling {
            name: "callback_op(syscall)",
            call: Hypercall::CallbackOp,
            arguments: [0, list, 0, 0, 0],
            words: [7, user::CODE, 0, 0, 0, 0],
        },
        Telling {
            name: "vm_assist",
            call: Hypercall::VmAssist,
            arguments: [0, VmAssist::WritablePagetables as u64, 0, 0, 0],
            words: none,
        },
        Telling {
            name: "iret to kernel mode",
            call: Hypercall::Iret,
            arguments: [0; 5],
            words: none,
        },
        Telling {
            name: "console_io(write)",
            call: Hypercall::ConsoleIo,
            arguments: [ConsoleIoCommand::Write as u64, 48, list, 0, 0],
            words: text,
        },
        Telling {
            name: "sched_op(shutdown)",
            call: Hypercall::SchedOp,
            arguments: [SchedCommand::Shutdown as u64, list, 0, 0, 0],
            words: [u64::from(ShutdownReason::Crash.get()), 0, 0, 0, 0, 0],
        },
    ] {
        tried(report, lab, &case);
    }
    report.equal(
        "the page that user mode wanted pinned",
        page_tables::is_plain(unused),
        true,
    );
    report.equal(
        "the root that user mode wanted unpinned",
        page_tables::unpin(root).and_then(|_| page_tables::pin(4, root)),
        Ok(0),
    );
}

fn tried(report: &mut Report, lab: Lab, case: &Telling) {
    let page = user::stack_page();
    for (index, word) in case.words.into_iter().enumerate() {
        let _ = page.set_word(512 - 16 + index, word);
    }
    let _ = page.set_word(511, 0x5a5a);
    let before = look(lab);
    let [rdi, rsi, rdx, r10, r8] = case.arguments;
    let given = Registers {
        rax: case.call.number(),
        rdi,
        rsi,
        rdx,
        r10,
        r8,
        ..marked()
    };
    let name = case.name;
    let arrived = arrives(report, format_args!("user mode: {name}"), given);
    let words: [u64; 6] =
        core::array::from_fn(|index| page.word(512 - 16 + index).unwrap_or(u64::MAX));
    report.equal(
        format_args!("user mode: {name}: no effect"),
        (arrived, look(lab), words),
        (true, before, case.words),
    );
}
