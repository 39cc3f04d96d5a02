//! Pointers that lead nowhere, and arguments that mean nothing.

use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall;
use proptest::prelude::*;

use crate::testing::{DATA, DATA_END, Guest, HIGH, HOSTILE, READ_ONLY, failure};
use crate::trap::return_path::Next;

/// Every way to pass a pointer, as (call, arguments before it, bytes behind it, whether the hypervisor writes there,
/// whether null has a meaning of its own).
const POINTERS: &[(Hypercall, &[u64], u64, bool, bool)] = &[
    (Hypercall::SetTrapTable, &[], 16, false, true),
    (Hypercall::XenVersion, &[1], 16, true, false),
    (Hypercall::XenVersion, &[2], 144, true, false),
    (Hypercall::XenVersion, &[3], 1024, true, false),
    (Hypercall::XenVersion, &[4], 64, true, false),
    (Hypercall::XenVersion, &[5], 8, true, false),
    (Hypercall::XenVersion, &[6], 8, true, false),
    (Hypercall::XenVersion, &[8], 16, true, false),
    (Hypercall::XenVersion, &[9], 1024, true, false),
    (Hypercall::XenVersion, &[10], 4, false, true),
    (Hypercall::ConsoleIo, &[0, 20], 20, false, false),
    (Hypercall::NmiOp, &[0], 16, false, false),
    (Hypercall::SchedOp, &[2], 4, false, false),
    (Hypercall::SchedOp, &[3], 24, false, false),
    (Hypercall::SchedOp, &[5], 4, false, false),
    (Hypercall::PhysdevOp, &[6], 4, false, false),
    (Hypercall::PlatformOp, &[], 136, false, false),
    (Hypercall::CallbackOp, &[0], 16, false, false),
    (Hypercall::CallbackOp, &[1], 4, false, false),
];

fn call_with(guest: &mut Guest, call: Hypercall, before: &[u64], pointer: u64) -> i64 {
    let mut args = [0x5a5a; 5];
    args[..before.len()].copy_from_slice(before);
    args[before.len()] = pointer;
    guest.call_number(call.number(), args)
}

#[test]
fn i13_i14_no_pointer_argument_is_followed_where_it_must_not_be() {
    let mut guest = Guest::dom0();
    for &(call, before, size, writes, null_means_something) in POINTERS {
        for pointer in HOSTILE {
            if pointer == 0 && null_means_something {
                continue;
            }
            let result = call_with(&mut guest, call, before, pointer);
            assert_eq!(
                result,
                failure(Errno::EFAULT),
                "{} {before:?} {pointer:#x}",
                call.name()
            );
        }
        // The last byte lies on an unmapped page, whatever the offset in the page.
        for missing in 1..size {
            let result = call_with(&mut guest, call, before, DATA_END - size + missing);
            assert_eq!(
                result,
                failure(Errno::EFAULT),
                "{} {before:?} -{missing}",
                call.name()
            );
        }
        if writes {
            let result = call_with(&mut guest, call, before, READ_ONLY);
            assert_eq!(
                result,
                failure(Errno::EFAULT),
                "{} {before:?} read-only",
                call.name()
            );
        }
    }
    assert_eq!(guest.state(|state| format!("{state:?}")), {
        let fresh = Guest::dom0();
        // The roots differ from machine to machine no more than anything else of two equal ones.
        fresh.state(|state| format!("{state:?}"))
    });
}

#[test]
fn the_whole_object_may_end_at_the_last_mapped_byte_and_lie_in_the_upper_half() {
    let mut guest = Guest::dom0();
    for &(call, before, size, _, _) in POINTERS {
        if call == Hypercall::SchedOp {
            continue;
        }
        for pointer in [DATA_END - size, HIGH] {
            guest.put(pointer, &0_u32);
            let result = call_with(&mut guest, call, before, pointer);
            assert_ne!(
                result,
                failure(Errno::EFAULT),
                "{} {before:?} {pointer:#x}",
                call.name()
            );
        }
    }
}

#[test]
fn i12_a_call_that_faults_while_answering_has_changed_nothing_else() {
    let mut guest = Guest::dom0();
    let before = guest.fingerprint();
    guest.host.machine.fail_guest_write(1);
    let regs = guest.regs;
    assert_eq!(
        guest.call(Hypercall::XenVersion, [3, DATA]),
        failure(Errno::EFAULT)
    );
    guest.regs = regs;
    assert_eq!(before, guest.fingerprint());
}

/// Values that are likelier to matter than random ones.
fn argument() -> impl Strategy<Value = u64> {
    prop_oneof![
        0_u64..40,
        proptest::sample::select(&HOSTILE[..]),
        (DATA..DATA_END),
        Just(HIGH),
        Just(READ_ONLY),
        any::<u64>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn i16_no_hypercall_panics_or_reaches_another_machine_or_domain(
        calls in proptest::collection::vec((0_u64..64, any::<[u8; 5]>(), proptest::array::uniform5(argument())), 1..40),
        memory in proptest::collection::vec(any::<u64>(), 512),
        is_dom0 in any::<bool>(),
    ) {
        let mut guest = if is_dom0 { Guest::dom0() } else { Guest::ordinary() };
        let bystander = Guest::dom0();
        let neighbour = guest.neighbour();
        let before = (bystander.fingerprint(), guest.neighbour_fingerprint(&neighbour));
        for (index, word) in memory.iter().enumerate() {
            guest.put(DATA + index as u64 * 64, word);
        }
        for (number, _, args) in calls {
            guest.regs.rax = number;
            [guest.regs.rdi, guest.regs.rsi, guest.regs.rdx, guest.regs.r10, guest.regs.r8] = args;
            match guest.syscall() {
                Next::Guest => {
                    let regs = &guest.regs;
                    prop_assert_eq!((regs.cs & 3, regs.ss & 3), (3, 3));
                    prop_assert_eq!(regs.rflags & 0x2_7200, 0x200, "I24");
                }
                Next::Schedule | Next::Shutdown(_) => break,
            }
        }
        let after = (bystander.fingerprint(), guest.neighbour_fingerprint(&neighbour));
        prop_assert!(before == after, "another machine or domain changed");
        // Whatever happened, the locks are free and the host answers.
        prop_assert!(guest.host.domains.get(guest.domid).is_some());
        guest.state(|_| ());
    }
}
