//! Numbers, the table, the documentation made from it, continuations.

use dom0_abi::addr::GuestAddr;
use dom0_abi::arch::CpuUserRegs;
use dom0_abi::errno::Errno;
use dom0_abi::handle::GuestHandle;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::xen::MulticallEntry;
use proptest::prelude::*;
use zerocopy::FromZeros;

use crate::hypercall::continuation::Continuation;
use crate::hypercall::decode::{Arguments, Request};
use crate::hypercall::table::{Status, coverage_markdown, status};
use crate::testing::{Guest, failure};
use crate::trap::return_path::Next;

#[test]
fn numbers_that_the_abi_does_not_assign_are_enosys_and_change_nothing() {
    let mut guest = Guest::dom0();
    for number in (0..300).chain([0x7fff_ffff, 0x8000_0000, 0xffff_ffff]) {
        if Hypercall::try_from(number).is_err() {
            let before = guest.state(|state| format!("{state:?}"));
            assert_eq!(guest.call_number(number, [1; 5]), failure(Errno::ENOSYS));
            assert_eq!(before, guest.state(|state| format!("{state:?}")));
        }
    }
}

#[test]
fn number_and_result_are_all_of_rax() {
    let mut guest = Guest::dom0();
    for upper in [1 << 32, 1 << 63, 0xffff_ffff_0000_0000] {
        let number = upper | Hypercall::XenVersion.number();
        assert_eq!(guest.call_number(number, [0; 5]), failure(Errno::ENOSYS));
    }
    assert_eq!(guest.call(Hypercall::XenVersion, [0]), 0x0004_0011);
    assert_eq!(guest.call_number(11, [0; 5]), -38);
    assert_eq!(guest.regs.rax, 0xffff_ffff_ffff_ffda);
}

#[test]
fn what_is_planned_or_refused_says_so_to_everybody() {
    for mut guest in [Guest::dom0(), Guest::ordinary()] {
        for &call in Hypercall::ALL {
            let expected = match status(call) {
                Status::Done(_) => continue,
                Status::Planned(_) => Errno::ENOSYS,
                Status::Refused(errno, _) => errno,
            };
            assert_eq!(guest.call(call, []), failure(expected), "{}", call.name());
        }
    }
    assert_eq!(
        status(Hypercall::XenpmuOp),
        Status::Refused(Errno::EOPNOTSUPP, "no virtual performance counters")
    );
}

#[test]
fn the_coverage_page_has_a_row_for_each_call() {
    let mut page = String::new();
    coverage_markdown(&mut page).unwrap();
    for &call in Hypercall::ALL {
        let row = format!("| {} | `{}` |", call.number(), call.name());
        assert_eq!(page.matches(&row).count(), 1, "{row}");
    }
    assert!(
        page.contains("| 17 | `xen_version` | `command`, `arg` | any | done |"),
        "{page}"
    );
    assert!(page.contains("| 40 | `xenpmu_op` | `command`, `arg` | any | refused: `EOPNOTSUPP` |"));
    assert!(
        !page.contains("refused |"),
        "an errno that the page does not name"
    );
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        assert_eq!(line.matches(" | ").count(), 5, "{line}");
    }
}

#[test]
fn i17_syscall_of_guest_user_mode_is_no_hypercall() {
    use crate::domain::vcpu::{Callback, GuestMode, KernelStack};
    use crate::testing::{CODE, STACK};
    let mut guest = Guest::dom0();
    for &call in Hypercall::ALL {
        guest.set_mode(GuestMode::User);
        guest.state(|state| {
            state.kernel_stack = KernelStack {
                ss: 0xe02b,
                sp: STACK,
            };
            state.callbacks.syscall = Callback {
                address: CODE + 0x10,
                masks_events: true,
            };
        });
        guest.regs.rax = call.number();
        guest.regs.rip = CODE;
        guest.regs.rflags = 0x602;
        assert_eq!(guest.syscall(), Next::Guest);
        assert_eq!(guest.regs.rip, CODE + 0x10, "{}", call.name());
        assert_eq!(guest.regs.rax, call.number());
        assert_eq!(
            guest.regs.rflags, 0x602,
            "the direction flag is still the user's"
        );
        assert_eq!(guest.mode(), GuestMode::Kernel);
    }
}

fn continuations() -> impl Strategy<Value = Continuation> {
    prop_oneof![
        (any::<u64>(), any::<u32>()).prop_map(|(at, count)| Continuation::Multicall {
            calls: GuestHandle::new(GuestAddr::new(at)),
            count,
        }),
        any::<u64>().prop_map(|at| Continuation::SetTrapTable {
            traps: GuestHandle::new(GuestAddr::new(at)),
        }),
        (any::<u64>(), any::<u32>()).prop_map(|(at, count)| Continuation::ConsoleWrite {
            count,
            buffer: GuestHandle::new(GuestAddr::new(at)),
        }),
    ]
}

/// What a call is, if it is the rest of another.
fn decoded(call: u64, arguments: Arguments) -> Option<Continuation> {
    match Request::decode(Hypercall::try_from(call).ok()?, arguments) {
        Request::Multicall { calls, count } => Some(Continuation::Multicall { calls, count }),
        Request::SetTrapTable { traps } => Some(Continuation::SetTrapTable { traps }),
        Request::ConsoleIo {
            command: 0,
            count,
            buffer,
        } => Some(Continuation::ConsoleWrite { count, buffer }),
        _ => None,
    }
}

proptest! {
    #[test]
    fn a_continuation_comes_back_as_the_call_that_it_is(
        continuation in continuations(),
        garbage in any::<[u64; 6]>(),
        rip in any::<u64>(),
    ) {
        let mut regs = CpuUserRegs::new_zeroed();
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.rbx] = garbage;
        regs.rip = rip;
        let before = regs;
        continuation.resume_in(&mut regs);
        prop_assert_eq!(decoded(regs.rax, Arguments::of(&regs)), Some(continuation));
        prop_assert_eq!(regs.rip, rip.wrapping_sub(2));
        // Registers that carry no argument of the call stay.
        prop_assert_eq!((regs.rbx, regs.r10, regs.r8), (before.rbx, before.r10, before.r8));

        let mut entry = MulticallEntry::new_zeroed();
        entry.args = garbage;
        continuation.resume_in_entry(&mut entry);
        let [a, b, c, d, e, last] = entry.args;
        prop_assert_eq!(decoded(entry.op, Arguments([a, b, c, d, e])), Some(continuation));
        prop_assert_eq!(last, garbage[5]);
    }
}
