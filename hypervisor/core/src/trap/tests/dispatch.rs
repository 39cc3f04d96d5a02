//! Which exceptions are ours, and which are the guest's.

use dom0_abi::addr::GuestAddr;
use dom0_abi::ids::DomId;
use oxen_arch::registers::{ENTRY_RETURN, ENTRY_SYSCALL32};
use oxen_arch::{Stop, catch_stop};
use proptest::prelude::*;

use crate::domain::Capabilities;
use crate::domain::vcpu::{Callback, GuestMode, KernelStack};
use crate::testing::{CODE, Guest, STACK};
use crate::trap::entry;
use crate::trap::exception::Vector;
use crate::trap::flags;
use crate::trap::return_path::{HostEnd, Next};

const HANDLER: u64 = CODE + 0x100;

/// The address of the handler that was entered, relative to the first of a row of handlers by vector.
fn entered(guest: &Guest) -> u64 {
    (guest.regs.rip - HANDLER) / 16
}

fn with_handlers(flags: u8) -> Guest {
    let mut guest = Guest::ordinary();
    for vector in 0..=255 {
        guest.set_trap(vector, flags, HANDLER + u64::from(vector) * 16);
    }
    guest
}

#[test]
fn every_exception_of_a_guest_reaches_its_handler_with_its_code() {
    for &vector in Vector::ALL {
        if matches!(
            vector,
            Vector::Nmi | Vector::DoubleFault | Vector::MachineCheck | Vector::DeviceNotAvailable
        ) {
            continue;
        }
        let mut guest = with_handlers(0);
        let rip = guest.regs.rip;
        // For #GP: not zero, which would be an instruction to emulate.
        assert_eq!(
            guest.exception(u32::from(vector.number()), 0x18),
            Next::Guest
        );
        assert_eq!(entered(&guest), u64::from(vector.number()), "{vector}");
        let frame: [u64; 8] = guest.get(guest.regs.rsp);
        match vector.has_error_code() {
            true => assert_eq!((frame[2], frame[3]), (0x18, rip), "{vector}"),
            false => assert_eq!((frame[2], frame[3]), (rip, 0x1_0000_e030), "{vector}"),
        }
    }
}

#[test]
fn int_n_reaches_what_the_table_opens_to_the_mode() {
    for (mode, least) in [(GuestMode::Kernel, 1), (GuestMode::User, 3)] {
        for dpl in 0..=3 {
            let mut guest = with_handlers(dpl);
            for vector in [0_u8, 2, 8, 14, 32, 0x21, 255] {
                guest.set_mode(mode);
                guest.state(|state| {
                    state.kernel_stack = KernelStack { ss: 0, sp: STACK };
                });
                (guest.regs.rip, guest.regs.rsp) = (CODE, STACK);
                let code = u32::from(vector) << 3 | 2;
                assert_eq!(guest.exception(13, code), Next::Guest);
                let frame: [u64; 8] = guest.get(guest.regs.rsp);
                if dpl >= least {
                    assert_eq!(entered(&guest), u64::from(vector));
                    assert_eq!(frame[2], CODE + 2, "behind the instruction, no error code");
                } else {
                    assert_eq!(entered(&guest), 13);
                    assert_eq!((frame[2], frame[3]), (u64::from(code), CODE));
                }
            }
        }
    }
}

#[test]
fn int_0x80_comes_by_its_own_gate_and_needs_an_entry_but_no_level() {
    for dpl in [0, 1, 3] {
        let mut guest = with_handlers(dpl);
        guest.regs.rip = CODE + 2;
        assert_eq!(guest.exception(0x80, 0), Next::Guest);
        let frame: [u64; 8] = guest.get(guest.regs.rsp);
        assert_eq!((entered(&guest), frame[2]), (0x80, CODE + 2));
    }
    let mut guest = with_handlers(3);
    guest.state(|state| {
        state
            .traps
            .set(0x80, crate::domain::trap_table::TrapEntry::NONE)
    });
    guest.regs.rip = CODE + 2;
    assert_eq!(guest.exception(0x80, 0), Next::Guest);
    let frame: [u64; 8] = guest.get(guest.regs.rsp);
    assert_eq!((entered(&guest), frame[2], frame[3]), (13, 0x402, CODE));
}

#[test]
fn a_software_interrupt_without_handler_ends_the_domain() {
    let mut guest = Guest::ordinary();
    guest.set_trap(0x30, 3, HANDLER);
    guest.state(|state| {
        let mut entry = state.traps.get(0x30);
        entry.address = 0;
        state.traps.set(0x30, entry);
    });
    assert_eq!(guest.exception(13, 0x30 << 3 | 2), Next::Schedule);
    assert!(
        guest.output().contains("unhandled int 0x30"),
        "{}",
        guest.output()
    );
}

#[test]
fn page_faults_show_the_guests_own_mode_and_leave_the_address_in_both_places() {
    for (mode, user) in [(GuestMode::Kernel, 0), (GuestMode::User, 4)] {
        for hardware in [0_u32, 2, 4, 5, 6, 7, 0x15] {
            let mut guest = with_handlers(0);
            guest.set_mode(mode);
            guest.state(|state| {
                state.kernel_stack = KernelStack { ss: 0, sp: STACK };
            });
            guest.cpu.set_fault_address(0xffff_9000_1234_5678);
            assert_eq!(guest.exception(14, hardware), Next::Guest);
            let frame: [u64; 8] = guest.get(guest.regs.rsp);
            assert_eq!(frame[2], u64::from((hardware & !4) | user));
            let cr2 = guest.host.mem().load_u64(guest.shared_info.at(16)).unwrap();
            assert_eq!(cr2, 0xffff_9000_1234_5678);
            assert_eq!(guest.state(|state| state.privileged.cr2()), cr2);
        }
    }
}

#[test]
fn debug_status_adds_up_until_the_guest_clears_it() {
    use dom0_abi::hypercalls::Hypercall::{GetDebugreg, SetDebugreg};
    let mut guest = with_handlers(0);
    guest.cpu.raise_dr6(1 << 14);
    assert_eq!(guest.exception(1, 0), Next::Guest);
    assert_eq!(entered(&guest), 1);
    guest.cpu.raise_dr6(1);
    assert_eq!(guest.exception(1, 0), Next::Guest);
    assert_eq!(guest.call(GetDebugreg, [6]), 0xffff_4ff1);
    assert_eq!(guest.call(SetDebugreg, [6, 0]), 0);
    assert_eq!(guest.call(GetDebugreg, [6]), 0xffff_0ff0);
    assert_eq!(guest.cpu.read_dr6(), 0xffff_0ff0);
}

#[test]
fn nm_is_the_guests_own_flag_and_delivery_clears_it() {
    use dom0_abi::hypercalls::Hypercall::FpuTaskswitch;
    let mut guest = with_handlers(0);
    assert_eq!(guest.call(FpuTaskswitch, [1]), 0);
    assert_eq!(guest.exception(7, 0), Next::Guest);
    assert_eq!(entered(&guest), 7);
    assert!(!guest.cpu.registers().task_switched);
    assert!(!guest.state(|state| state.privileged.task_switched()));
    // Without it there is nothing to deliver, and the instruction is tried again.
    let regs = guest.regs;
    assert_eq!(guest.exception(7, 0), Next::Guest);
    assert_eq!(guest.regs.rip, regs.rip);
}

#[test]
fn syscall32_goes_to_its_callback_from_either_mode_or_does_not_exist() {
    for mode in [GuestMode::Kernel, GuestMode::User] {
        let mut guest = with_handlers(0);
        let prepare = |guest: &mut Guest, callback| {
            (guest.regs.rip, guest.regs.rflags) = (CODE + 2, 0x602);
            guest.set_mode(mode);
            guest.state(|state| {
                state.kernel_stack = KernelStack { ss: 0, sp: STACK };
                state.callbacks.syscall32 = callback;
            });
            guest.set_mask(0);
        };
        prepare(&mut guest, Callback::NONE);
        assert_eq!(guest.exception(ENTRY_SYSCALL32, 0), Next::Guest);
        assert_eq!(entered(&guest), 6);
        assert_eq!(guest.get::<[u64; 7]>(guest.regs.rsp)[2], CODE);
        prepare(
            &mut guest,
            Callback {
                address: HANDLER - 16,
                masks_events: true,
            },
        );
        assert_eq!(guest.exception(ENTRY_SYSCALL32, 0), Next::Guest);
        assert_eq!(guest.regs.rip, HANDLER - 16);
        let frame: [u64; 7] = guest.get(guest.regs.rsp);
        // The direction flag is the user's still, as on Xen.
        assert_eq!((frame[2], frame[4], guest.mask()), (CODE + 2, 0x602, 1));
    }
}

#[test]
fn an_nmi_of_the_hardware_goes_to_the_domain_that_owns_it() {
    for (status, reason, off) in [(0x80, 2, Some(4)), (0x40, 1, Some(8)), (0, 4, None)] {
        let mut guest = Guest::dom0();
        guest.host.machine.set_port(0x61, status);
        guest.cpu.take_port_log();
        guest.set_trap(2, 4, HANDLER);
        assert_eq!(guest.exception(2, 0), Next::Guest);
        assert_eq!(guest.regs.rip, HANDLER);
        let shown = guest.domain(|domain| domain.nmi_reason(guest.host.mem()));
        assert_eq!(shown, Ok(reason));
        let written = guest
            .cpu
            .take_port_log()
            .into_iter()
            .find(|access| access.is_out);
        assert_eq!(written.map(|access| access.value), off);
    }
    // Another domain is not bothered, and keeps running.
    let mut guest = with_handlers(0);
    let rip = guest.regs.rip;
    assert_eq!(guest.exception(2, 0), Next::Guest);
    assert_eq!(guest.regs.rip, rip);
}

#[test]
fn a_double_fault_ends_the_domain_and_a_machine_check_the_host() {
    let mut guest = with_handlers(0);
    assert_eq!(guest.exception(8, 0), Next::Schedule);
    assert!(guest.output().contains("d7v0 crashed: double fault"));

    for (options, stop) in [
        ("com1=115200", Stop::Reboot),
        ("com1=115200 noreboot", Stop::Halt),
    ] {
        let mut guest = Guest::with_options(DomId::new(5), Capabilities::empty(), options);
        let next = guest.exception(18, 0);
        assert_eq!(next, Next::Shutdown(HostEnd::MachineCheck));
        let Guest {
            host, cpu, regs, ..
        } = &mut guest;
        assert_eq!(
            catch_stop(|| entry::settle(host, cpu, regs, next)),
            Err(stop)
        );
        assert!(guest.output().contains("machine check"));
    }
}

#[test]
fn vectors_that_do_not_exist_end_the_domain_and_not_the_host() {
    for vector in [9, 15, 22, 27, 31, 32, 0x7f, 0x81, 0x100, 0x102, u32::MAX] {
        let mut guest = with_handlers(0);
        assert_eq!(guest.exception(vector, 0), Next::Schedule);
        assert!(guest.output().contains("unexpected exception"));
    }
}

/// Some that are emulated, some that are not.
const INSTRUCTIONS: &[&[u8]] = &[
    &[0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2],
    &[0x0f, 0xa2],
    &[0x0f, 0x30],
    &[0x0f, 0x32],
    &[0x0f, 0x20, 0xd0],
    &[0xfa],
    &[0xee],
    &[0xf4],
];

#[test]
fn i18_a_fault_of_the_return_is_delivered_and_nothing_is_emulated() {
    // clts; rep outsb; cpuid
    for code in [[0x0f, 0x06, 0x90], [0xf3, 0x6e, 0x90], [0x0f, 0xa2, 0x90]] {
        let mut guest = with_handlers(0);
        guest.state(|state| state.privileged.set_iopl(3)).unwrap();
        guest.put(CODE, &code);
        (guest.regs.rcx, guest.regs.rsi) = (u64::MAX, STACK);
        (guest.regs.rip, guest.regs.ss) = (CODE, 3);
        let before = guest.regs;
        for error_code in [0, 0xfff8] {
            guest.regs = before;
            assert_eq!(guest.exception(ENTRY_RETURN | 13, error_code), Next::Guest);
            assert_eq!(entered(&guest), 13);
            let frame: [u64; 8] = guest.get(guest.regs.rsp);
            assert_eq!(frame[2..4], [u64::from(error_code), CODE]);
            let expected = (before.rax, before.rcx, before.rsi);
            assert_eq!((guest.regs.rax, guest.regs.rcx, guest.regs.rsi), expected);
        }
    }
}

#[test]
fn what_is_emulated_goes_on_behind_the_instruction() {
    let mut guest = with_handlers(0);
    guest.put(CODE, &[0x0f_u8, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2, 0x90]);
    (guest.regs.rip, guest.regs.rax, guest.regs.rcx) = (CODE, 0x4000_0000, 0);
    assert_eq!(guest.exception(6, 0), Next::Guest);
    assert_eq!(guest.regs.rip, CODE + 7);
    assert_eq!(
        guest.regs.rbx as u32, 0x566e_6558,
        "the signature of the ABI"
    );
    // `wrmsr` of the kernel's GS base.
    guest.put(CODE, &[0x0f_u8, 0x30]);
    (guest.regs.rip, guest.regs.rcx) = (CODE, 0xc000_0101);
    (guest.regs.rax, guest.regs.rdx) = (0x1000, 0xffff_8880);
    assert_eq!(guest.exception(13, 0), Next::Guest);
    assert_eq!(guest.regs.rip, CODE + 2);
    assert_eq!(guest.cpu.gs_base(), 0xffff_8880_0000_1000);
    // `hlt` is not: the fault is the guest's own, at the instruction.
    guest.put(CODE, &[0xf4_u8]);
    guest.regs.rip = CODE;
    assert_eq!(guest.exception(13, 0), Next::Guest);
    assert_eq!(entered(&guest), 13);
    let frame: [u64; 8] = guest.get(guest.regs.rsp);
    assert_eq!((frame[2], frame[3]), (0, CODE));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn i16_i24_no_exception_panics_or_leaves_a_guest_with_more_than_its_own(
        entries in proptest::collection::vec((0_u32..0x104, 0_u32..0x800, any::<[u64; 7]>(), 0..INSTRUCTIONS.len()), 1..30),
        handlers in any::<bool>(),
    ) {
        let mut guest = if handlers { with_handlers(3) } else { Guest::dom0() };
        let neighbour = guest.neighbour();
        let before = guest.neighbour_fingerprint(&neighbour);
        for (vector, code, values, instruction) in entries {
            guest.cpu.write_guest_bytes(GuestAddr::new(CODE), INSTRUCTIONS[instruction]).unwrap();
            let regs = &mut guest.regs;
            [regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rflags, regs.r11, _] = values;
            // What the guest ran with.
            regs.rflags = flags::for_guest(regs.rflags);
            regs.rip = if values[6] & 1 == 0 { CODE } else { values[6] };
            if values[6] & 2 == 0 {
                regs.rsp = STACK;
            }
            let next = guest.exception(vector, if code & 1 == 0 { 0 } else { code });
            if next != Next::Guest {
                break;
            }
            let regs = &guest.regs;
            prop_assert_eq!((regs.cs & 3, regs.ss & 3), (3, 3));
            prop_assert_eq!(regs.rflags & 0x2_7200, 0x200);
        }
        prop_assert!(before == guest.neighbour_fingerprint(&neighbour), "the neighbour changed");
        guest.state(|_| ());
    }
}
