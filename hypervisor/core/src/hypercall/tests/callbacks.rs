//! `callback_op`, `set_callbacks`, `nmi_op`, `set_trap_table`.

use dom0_abi::arch::TrapInfo;
use dom0_abi::callback::{CallbackRegister, CallbackUnregister};
use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall::{CallbackOp, NmiOp, SetCallbacks, SetTrapTable};
use dom0_abi::nmi::NmiCallback;
use zerocopy::FromZeros;

use crate::budget::Budget;
use crate::domain::trap_table::TrapEntry;
use crate::domain::vcpu::Callback;
use crate::testing::{CODE, DATA, DATA_END, Guest, failure};
use crate::trap::return_path::Next;

const NOT_CANONICAL: u64 = 0x0000_8000_0000_0000;

fn register(guest: &mut Guest, kind: u16, flags: u16, address: u64) -> i64 {
    let mut request = CallbackRegister::new_zeroed();
    (request.kind, request.flags, request.address) = (kind, flags, address);
    guest.put(DATA, &request);
    guest.call(CallbackOp, [0, DATA])
}

#[test]
fn each_callback_is_kept_with_its_mask_flag() {
    let mut guest = Guest::ordinary();
    let callback = |address, masks_events| Callback {
        address,
        masks_events,
    };
    assert_eq!(register(&mut guest, 0, 0, 0x1000), 0);
    assert_eq!(register(&mut guest, 1, 1, 0x2000), 0);
    assert_eq!(register(&mut guest, 2, 0, 0x3000), 0);
    assert_eq!(register(&mut guest, 5, 1, 0x4000), 0);
    assert_eq!(register(&mut guest, 7, 0xfffe, 0x5000), 0);
    let callbacks = guest.state(|state| state.callbacks);
    assert_eq!(callbacks.event, 0x1000);
    assert_eq!(callbacks.failsafe, callback(0x2000, true));
    assert_eq!(callbacks.syscall, callback(0x3000, false));
    assert_eq!(callbacks.sysenter, callback(0x4000, true));
    assert_eq!(callbacks.syscall32, callback(0x5000, false));
    assert_eq!(register(&mut guest, 4, 0, 0x6000), 0);
    let nmi = guest.state(|state| state.traps.get(2));
    assert_eq!(
        (nmi, nmi.masks_events(), nmi.dpl()),
        (TrapEntry::for_nmi(0x6000), true, 0)
    );
}

#[test]
fn refusals() {
    let mut guest = Guest::ordinary();
    for kind in [0, 1, 2, 4, 5, 7] {
        assert_eq!(
            register(&mut guest, kind, 0, NOT_CANONICAL),
            failure(Errno::EINVAL)
        );
    }
    for kind in [3, 6, 8, 0xffff] {
        assert_eq!(register(&mut guest, kind, 0, CODE), failure(Errno::ENOSYS));
    }
    for command in [2, 0xffff_ffff] {
        assert_eq!(
            guest.call(CallbackOp, [command, DATA]),
            failure(Errno::ENOSYS)
        );
    }
    assert_eq!(guest.state(|state| format!("{:?}", state.traps)), "{}");
    for (kind, result) in [
        (0, -22),
        (1, -22),
        (2, -22),
        (5, -22),
        (7, -22),
        (3, -38),
        (6, -38),
        (4, 0),
    ] {
        let mut request = CallbackUnregister::new_zeroed();
        request.kind = kind;
        guest.put(DATA, &request);
        assert_eq!(guest.call(CallbackOp, [1, DATA]), result, "kind {kind}");
    }
}

#[test]
fn set_callbacks_always_succeeds_and_skips_what_is_not_canonical() {
    let mut guest = Guest::ordinary();
    assert_eq!(guest.call(SetCallbacks, [0x1000, 0x2000, 0x3000]), 0);
    assert_eq!(guest.call(SetCallbacks, [0x4000, NOT_CANONICAL, 0x6000]), 0);
    let callbacks = guest.state(|state| state.callbacks);
    assert_eq!(
        (
            callbacks.event,
            callbacks.failsafe.address,
            callbacks.syscall.address
        ),
        (0x4000, 0x2000, 0x6000)
    );
}

#[test]
fn nmi_op_is_the_older_way_to_the_same_entry() {
    let mut guest = Guest::ordinary();
    guest.put(
        DATA,
        &NmiCallback {
            handler_address: CODE,
            pad: 0,
        },
    );
    assert_eq!(guest.call(NmiOp, [0, DATA]), 0);
    assert_eq!(
        guest.state(|state| state.traps.get(2)),
        TrapEntry::for_nmi(CODE)
    );
    guest.put(
        DATA,
        &NmiCallback {
            handler_address: NOT_CANONICAL,
            pad: 0,
        },
    );
    assert_eq!(guest.call(NmiOp, [0, DATA]), failure(Errno::EINVAL));
    assert_eq!(guest.call(NmiOp, [1, 0]), 0);
    assert_eq!(guest.state(|state| state.traps.get(2)), TrapEntry::NONE);
    assert_eq!(guest.call(NmiOp, [2, DATA]), failure(Errno::ENOSYS));
}

#[test]
fn an_nmi_whose_reason_nobody_took_is_sent_again_to_a_new_handler() {
    let mut guest = Guest::dom0();
    guest
        .domain(|domain| domain.add_nmi_reason(guest.host.mem(), 2))
        .unwrap();
    guest.put(
        DATA,
        &NmiCallback {
            handler_address: CODE + 8,
            pad: 0,
        },
    );
    guest.regs.rax = NmiOp.number();
    (guest.regs.rdi, guest.regs.rsi) = (0, DATA);
    assert_eq!(guest.syscall(), Next::Guest);
    assert_eq!(guest.regs.rip, CODE + 8);
    assert!(guest.state(|state| state.in_nmi));
}

fn trap(vector: u8, flags: u8, address: u64) -> TrapInfo {
    let mut info = TrapInfo::new_zeroed();
    (info.vector, info.flags, info.cs, info.address) = (vector, flags, 0x10, address);
    info
}

#[test]
fn trap_lists_merge_end_at_address_zero_and_null_clears() {
    let mut guest = Guest::ordinary();
    guest.put(
        DATA,
        &[
            trap(3, 3, 0x100),
            trap(14, 4, 0x200),
            trap(5, 0, 0),
            trap(6, 0, 0x300),
        ],
    );
    assert_eq!(guest.call(SetTrapTable, [DATA]), 0);
    guest.put(DATA, &[trap(14, 0, 0x400), trap(0, 0, 0)]);
    assert_eq!(guest.call(SetTrapTable, [DATA]), 0);
    let entries = guest.state(|state| [3, 5, 6, 14].map(|vector| state.traps.get(vector)));
    assert_eq!(entries.map(|entry| entry.address), [0x100, 0, 0, 0x400]);
    assert_eq!(
        (entries[0].dpl(), entries[0].masks_events(), entries[0].cs),
        (3, false, 0x13)
    );
    assert_eq!(guest.call(SetTrapTable, [0]), 0);
    assert_eq!(guest.state(|state| format!("{:?}", state.traps)), "{}");
}

#[test]
fn a_bad_entry_keeps_those_before_it() {
    let mut guest = Guest::ordinary();
    guest.put(
        DATA,
        &[
            trap(3, 0, 0x100),
            trap(4, 0, NOT_CANONICAL),
            trap(5, 0, 0x200),
        ],
    );
    assert_eq!(guest.call(SetTrapTable, [DATA]), failure(Errno::EINVAL));
    guest.put(DATA_END - 16, &trap(6, 0, 0x300));
    assert_eq!(
        guest.call(SetTrapTable, [DATA_END - 16]),
        failure(Errno::EFAULT)
    );
    let addresses = guest.state(|state| [3, 4, 5, 6].map(|vector| state.traps.get(vector).address));
    assert_eq!(addresses, [0x100, 0, 0, 0x300]);
}

#[test]
fn i18_a_long_list_goes_on_by_continuation() {
    let mut guest = Guest::ordinary();
    for vector in 0..=255_u8 {
        guest.put(
            DATA + u64::from(vector) * 16,
            &trap(vector, 0, 0x1000 + u64::from(vector)),
        );
    }
    guest.put(DATA + 256 * 16, &trap(0, 0, 0));
    let call = |guest: &mut Guest| {
        guest.regs.rax = SetTrapTable.number();
        guest.regs.rdi = DATA;
    };
    call(&mut guest);
    let mut entries = 0;
    loop {
        let rip = guest.regs.rip;
        assert_eq!(guest.syscall(), Next::Guest);
        entries += 1;
        if guest.regs.rip == rip {
            break;
        }
        assert_eq!(guest.regs.rip, rip - 2, "back at the instruction");
        assert_eq!(guest.regs.rax, 0, "the number of the call");
        guest.regs.rip = rip;
    }
    assert_eq!(guest.regs.rax, 0);
    assert!(entries > 2, "one entry had a budget for all");
    assert!((0..=255_u8).all(|vector| {
        guest.state(|state| state.traps.get(vector).address) == 0x1000 + u64::from(vector)
    }));
    let mut budget = Budget::FULL;
    assert!(std::iter::from_fn(|| budget.spend().then_some(())).count() < 256);
}
