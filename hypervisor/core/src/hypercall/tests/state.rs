//! `stack_switch`, `fpu_taskswitch`, `set_segment_base`, debug registers, `vm_assist`, `console_io`, `physdev_op`.

use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall::{
    ConsoleIo, FpuTaskswitch, GetDebugreg, PhysdevOp, SetDebugreg, SetSegmentBase, StackSwitch,
    VmAssist,
};

use crate::domain::vcpu::KernelStack;
use crate::testing::{DATA, DATA_END, Guest, failure};
use crate::trap::return_path::Next;

const NOT_CANONICAL: u64 = 0x0000_8000_0000_0000;

#[test]
fn stack_switch_takes_anything() {
    let mut guest = Guest::ordinary();
    for (ss, sp) in [(0xe028, DATA), (0, 0), (u64::MAX, u64::MAX)] {
        assert_eq!(guest.call(StackSwitch, [ss, sp]), 0);
        let expected = KernelStack {
            ss: ss as u16 | 3,
            sp,
        };
        assert_eq!(guest.state(|state| state.kernel_stack), expected);
    }
}

#[test]
fn the_io_privilege_level_is_one_of_four() {
    let mut guest = Guest::ordinary();
    let iopl = |guest: &Guest| guest.state(|state| state.privileged.iopl());
    for level in 0..4_u32 {
        guest.put(DATA, &level);
        assert_eq!(guest.call(PhysdevOp, [6, DATA]), 0);
        assert_eq!(u32::from(iopl(&guest)), level);
    }
    for level in [4, 0x100, u32::MAX] {
        guest.put(DATA, &level);
        assert_eq!(guest.call(PhysdevOp, [6, DATA]), failure(Errno::EINVAL));
        assert_eq!(iopl(&guest), 3);
    }
    let refused = [17, 18, 22, 28].into_iter().chain(0..4);
    for command in refused.chain(32..40).chain([0xffff_ffff]) {
        assert_eq!(
            guest.call(PhysdevOp, [command, DATA]),
            failure(Errno::ENOSYS)
        );
    }
}

#[test]
fn fpu_taskswitch_sets_the_hardware_flag_too() {
    let mut guest = Guest::ordinary();
    for (argument, on) in [(1, true), (0, false), (0x8000_0000, true), (1 << 32, false)] {
        assert_eq!(guest.call(FpuTaskswitch, [argument]), 0);
        assert_eq!(guest.cpu.registers().task_switched, on);
        assert_eq!(guest.state(|state| state.privileged.task_switched()), on);
    }
}

#[test]
fn segment_bases_are_canonical() {
    let mut guest = Guest::ordinary();
    let bases = |guest: &Guest| {
        (
            guest.cpu.fs_base(),
            guest.cpu.user_gs_base(),
            guest.cpu.gs_base(),
        )
    };
    for (which, base) in [
        (0, 0x1000),
        (1, 0xffff_8800_0000_0000),
        (2, 0x7fff_ffff_ffff),
    ] {
        assert_eq!(guest.call(SetSegmentBase, [which, base]), 0);
    }
    let all = (0x1000, 0xffff_8800_0000_0000, 0x7fff_ffff_ffff);
    assert_eq!(bases(&guest), all);
    for which in 0..3 {
        assert_eq!(
            guest.call(SetSegmentBase, [which, NOT_CANONICAL]),
            failure(Errno::EINVAL)
        );
    }
    for which in [4, 0xffff_ffff] {
        assert_eq!(
            guest.call(SetSegmentBase, [which, 0]),
            failure(Errno::EINVAL)
        );
    }
    assert_eq!(bases(&guest), all);
    for selector in [0, 0x2b, 0xffff, NOT_CANONICAL] {
        assert_eq!(
            guest.call(SetSegmentBase, [3, selector]),
            0,
            "never refused"
        );
        assert_eq!(bases(&guest), (0x1000, 0, 0x7fff_ffff_ffff));
    }
}

#[test]
fn i27_debug_registers_pass_one_validator_and_reach_the_hardware() {
    let mut guest = Guest::ordinary();
    assert_eq!(guest.call(SetDebugreg, [0, DATA]), 0);
    assert_eq!(guest.call(SetDebugreg, [7, 0x1]), 0);
    assert_eq!(guest.call(GetDebugreg, [0]), DATA as i64);
    assert_eq!(guest.call(GetDebugreg, [7]), 0x401);
    assert_eq!(guest.cpu.registers().debug.addr[0], DATA);
    assert_eq!(guest.cpu.registers().debug.dr7, 0x401);
    for (register, value) in [
        (1, 0xffff_8000_0000_0000),
        (2, 0xffff_87ff_ffff_ffff),
        (3, NOT_CANONICAL),
        (7, 0x2000),
    ] {
        assert_eq!(
            guest.call(SetDebugreg, [register, value]),
            failure(Errno::EPERM)
        );
    }
    for register in [8, 9, 0x7fff_ffff, 0xffff_ffff] {
        assert_eq!(
            guest.call(SetDebugreg, [register, 0]),
            failure(Errno::ENODEV)
        );
        assert_eq!(guest.call(GetDebugreg, [register]), failure(Errno::ENODEV));
    }
    assert_eq!(guest.cpu.registers().debug.addr, [DATA, 0, 0, 0]);
}

#[test]
fn assists_are_those_of_the_abi() {
    let mut guest = Guest::ordinary();
    let mut bits = 0_u64;
    for kind in [0, 1, 2, 3, 4, 5, 32] {
        assert_eq!(guest.call(VmAssist, [0, kind]), 0);
        bits |= 1 << kind;
        assert_eq!(guest.domain(|domain| domain.assists.bits()), bits);
    }
    for kind in [6, 31, 33, 63, 64, 0xffff_ffff] {
        assert_eq!(guest.call(VmAssist, [0, kind]), failure(Errno::EINVAL));
    }
    assert_eq!(guest.call(VmAssist, [2, 0]), failure(Errno::ENOSYS));
    assert_eq!(guest.call(VmAssist, [2, 6]), failure(Errno::EINVAL));
    assert_eq!(guest.call(VmAssist, [1, 4]), 0);
    assert_eq!(
        guest.domain(|domain| domain.assists.bits()),
        bits & !(1 << 4)
    );
}

#[test]
fn console_output_of_any_length_arrives_in_order() {
    let mut guest = Guest::dom0();
    let text: Vec<u8> = (0..2000_u32).map(|n| b'a' + (n % 26) as u8).collect();
    guest
        .cpu
        .write_guest_bytes(dom0_abi::addr::GuestAddr::new(DATA + 1), &text)
        .unwrap();
    guest.regs.rax = ConsoleIo.number();
    (guest.regs.rdi, guest.regs.rsi, guest.regs.rdx) = (0, 2000, DATA + 1);
    let rip = guest.regs.rip;
    for round in 0.. {
        assert_eq!(guest.syscall(), Next::Guest);
        if guest.regs.rip == rip {
            assert!(round > 1, "the whole text in one step");
            break;
        }
        guest.regs.rip = rip;
    }
    assert_eq!(guest.regs.rax, 0);
    assert!(guest.output().contains(std::str::from_utf8(&text).unwrap()));
}

#[test]
fn i28_the_console_is_for_who_may() {
    let mut guest = Guest::ordinary();
    let before = guest.output();
    assert_eq!(guest.call(ConsoleIo, [0, 4, DATA]), failure(Errno::EPERM));
    assert_eq!(
        guest.call(ConsoleIo, [0, 4, 0]),
        failure(Errno::EPERM),
        "before any copy"
    );
    assert_eq!(before, guest.output());
    let mut dom0 = Guest::dom0();
    assert_eq!(dom0.call(ConsoleIo, [2, 0, 0]), failure(Errno::ENOSYS));
    assert_eq!(dom0.call(ConsoleIo, [0, 0, 0]), 0);
    assert_eq!(
        dom0.call(ConsoleIo, [0, 2, DATA_END - 1]),
        failure(Errno::EFAULT)
    );
    assert_eq!(dom0.call(ConsoleIo, [1, 16, DATA]), 0, "nothing was typed");
}
