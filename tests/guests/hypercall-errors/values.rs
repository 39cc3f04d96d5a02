//! Arguments that are numbers: commands that do not exist, addresses that are only noted down, limits.

use dom0_abi::arch::SegmentBase;
use dom0_abi::callback::{CallbackCommand, CallbackRegister, CallbackType};
use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::sched::{SchedCommand, SchedPoll};
use dom0_abi::version::VersionCommand;
use dom0_abi::xen::ConsoleIoCommand;
use guest_pv_drivers::hypercall;
use kit::memory::{NON_CANONICAL, UNMAPPED};
use kit::{Report, probe};

use crate::call;

const HYPERVISOR: u64 = 0xffff_8300_0000_0000;

pub fn check(report: &mut Report) {
    commands(report);
    version(report);
    console(report);
    trap_table(report);
    entry_points(report);
    segment_bases(report);
    debug_registers(report);
    assists(report);
    poll(report);
}

fn commands(report: &mut Report) {
    for (name, number, unknown) in [
        ("xen_version", Hypercall::XenVersion, 99),
        ("xen_version", Hypercall::XenVersion, 11),
        ("console_io", Hypercall::ConsoleIo, 2),
        ("callback_op", Hypercall::CallbackOp, 2),
        ("sched_op", Hypercall::SchedOp, 8),
        ("nmi_op", Hypercall::NmiOp, 2),
    ] {
        for command in [unknown, u64::from(u32::MAX)] {
            let result = call(number.number(), [command, 0, 0, 0, 0]);
            report.equal(
                format_args!("{name}: command {command:#x}"),
                result,
                Err(Errno::ENOSYS),
            );
        }
    }
    // Commands are 32 bits wide: the rest of the register does not count.
    report.equal(
        "xen_version: upper half of the command",
        call(17, [1 << 32, 0, 0, 0, 0]),
        Ok(0x0004_0011),
    );
    let set = call(Hypercall::FpuTaskswitch.number(), [1 << 32, 0, 0, 0, 0]);
    report.equal(
        "fpu_taskswitch: upper half",
        (set, probe!("fnop").is_some()),
        (Ok(0), false),
    );
    report.equal(
        "sched_op: yield",
        call(Hypercall::SchedOp.number(), [0, UNMAPPED, 0, 0, 0]),
        Ok(0),
    );
}

fn version(report: &mut Report) {
    let call = |command: VersionCommand, argument| {
        call(
            Hypercall::XenVersion.number(),
            [command as u64, argument, 0, 0, 0],
        )
    };
    report.equal(
        "xen_version(version): pointer unused",
        call(VersionCommand::Version, NON_CANONICAL),
        Ok(0x0004_0011),
    );
    report.equal(
        "xen_version(pagesize): pointer refused",
        call(VersionCommand::PageSize, UNMAPPED),
        Err(Errno::EINVAL),
    );
    // Index 1 in the first word.
    let mut features = [1u32, 0];
    let result = call(
        VersionCommand::GetFeatures,
        features.as_mut_ptr().expose_provenance() as u64,
    );
    report.equal(
        "xen_version(get_features): no such submap",
        result,
        Err(Errno::EINVAL),
    );
}

fn console(report: &mut Report) {
    let call = |command: ConsoleIoCommand, count, buffer| {
        call(
            Hypercall::ConsoleIo.number(),
            [command as u64, count, buffer, 0, 0],
        )
    };
    // Nothing to do is success wherever it is to be done.
    report.equal(
        "console_io(write): nothing, nowhere",
        call(ConsoleIoCommand::Write, 0, NON_CANONICAL),
        Ok(0),
    );
    report.equal(
        "console_io(read): nothing typed, nowhere",
        call(ConsoleIoCommand::Read, 4, NON_CANONICAL),
        Ok(0),
    );
}

fn trap_table(report: &mut Report) {
    let call = |address| {
        let list = [[0x20u64, address], [0, 0]];
        call(
            Hypercall::SetTrapTable.number(),
            [list.as_ptr().expose_provenance() as u64, 0, 0, 0, 0],
        )
    };
    report.equal(
        "set_trap_table: handler not canonical",
        call(NON_CANONICAL),
        Err(Errno::EINVAL),
    );
    // Using it would end the domain; noting it down does no harm.
    report.equal(
        "set_trap_table: handler in the hypervisor",
        call(HYPERVISOR),
        Ok(0),
    );
}

fn entry_points(report: &mut Report) {
    let register = |kind, address| {
        let argument = CallbackRegister {
            kind,
            flags: 0,
            _pad0: 0,
            address,
        };
        let argument = (&raw const argument).expose_provenance() as u64;
        call(
            Hypercall::CallbackOp.number(),
            [CallbackCommand::Register as u64, argument, 0, 0, 0],
        )
    };
    let unregister = |kind: u16| {
        let argument = [kind, 0];
        let argument = argument.as_ptr().expose_provenance() as u64;
        call(
            Hypercall::CallbackOp.number(),
            [CallbackCommand::Unregister as u64, argument, 0, 0, 0],
        )
    };
    for kind in 0..9 {
        // The address is checked before the type.
        let result = register(kind, NON_CANONICAL);
        report.equal(
            format_args!("callback_op(register): type {kind}, not canonical"),
            result,
            Err(Errno::EINVAL),
        );
        let known = CallbackType::try_from(kind)
            .ok()
            .filter(|&kind| kind != CallbackType::SysenterDeprecated);
        // The old type 3 is known to callers of an older interface alone. Only the NMI's can be taken back.
        let (registered, taken_back) = match known {
            None => (Err(Errno::ENOSYS), Err(Errno::ENOSYS)),
            Some(CallbackType::Nmi) => (Ok(0), Ok(0)),
            Some(_) => (Ok(0), Err(Errno::EINVAL)),
        };
        report.equal(
            format_args!("callback_op(register): type {kind}"),
            register(kind, UNMAPPED),
            registered,
        );
        report.equal(
            format_args!("callback_op(unregister): type {kind}"),
            unregister(kind),
            taken_back,
        );
    }
    // The older calls check nothing: a bad address ends the domain when it is used.
    let set_callbacks = call(
        Hypercall::SetCallbacks.number(),
        [NON_CANONICAL, NON_CANONICAL, NON_CANONICAL, 0, 0],
    );
    report.equal("set_callbacks: not canonical", set_callbacks, Ok(0));
    let stack_switch = call(
        Hypercall::StackSwitch.number(),
        [0xe02b, NON_CANONICAL, 0, 0, 0],
    );
    report.equal("stack_switch: not canonical", stack_switch, Ok(0));
    // A selector that would not load is replaced, not refused.
    report.equal(
        "stack_switch: selector",
        call(Hypercall::StackSwitch.number(), [0xe008, 0, 0, 0, 0]),
        Ok(0),
    );
}

fn segment_bases(report: &mut Report) {
    let call = |which, base| call(Hypercall::SetSegmentBase.number(), [which, base, 0, 0, 0]);
    for which in [SegmentBase::Fs, SegmentBase::GsUser, SegmentBase::GsKernel] {
        let number = which as u64;
        report.equal(
            format_args!("set_segment_base({number}): not canonical"),
            call(number, NON_CANONICAL),
            Err(Errno::EINVAL),
        );
        report.equal(
            format_args!("set_segment_base({number}): hypervisor"),
            call(number, HYPERVISOR),
            Ok(0),
        );
        report.equal(
            format_args!("set_segment_base({number}): back"),
            call(number, 0),
            Ok(0),
        );
    }
    // A selector that does not load becomes null instead of an error.
    for selector in [0xe02b, 0xe008, 0x8, 0xffff, 0] {
        let result = call(SegmentBase::GsUserSelector as u64, selector);
        report.equal(
            format_args!("set_segment_base(3): selector {selector:#x}"),
            result,
            Ok(0),
        );
    }
    report.equal("set_segment_base(4)", call(4, 0), Err(Errno::EINVAL));
    report.equal(
        "set_segment_base(-1)",
        call(u64::MAX, 0),
        Err(Errno::EINVAL),
    );
}

fn debug_registers(report: &mut Report) {
    for register in 0..4 {
        let set = |value| hypercall::set_debugreg(register, value);
        report.equal(
            format_args!("dr{register}: not canonical"),
            set(NON_CANONICAL),
            Err(Errno::EPERM),
        );
        // A breakpoint there would stop the hypervisor itself.
        report.equal(
            format_args!("dr{register}: hypervisor"),
            set(HYPERVISOR),
            Err(Errno::EPERM),
        );
        report.equal(
            format_args!("dr{register}: an address"),
            set(UNMAPPED),
            Ok(0),
        );
        report.equal(
            format_args!("dr{register}: reads back"),
            hypercall::get_debugreg(register),
            Ok(UNMAPPED),
        );
        report.equal(format_args!("dr{register}: zero"), set(0), Ok(0));
    }
    for (alias, register) in [(4, 6), (5, 7)] {
        let same = hypercall::get_debugreg(alias) == hypercall::get_debugreg(register);
        report.equal(
            format_args!("dr{alias} is dr{register}"),
            (same, hypercall::set_debugreg(alias, 0)),
            (true, Ok(0)),
        );
    }
    for register in [8, 9, u32::MAX] {
        report.equal(
            format_args!("dr{register}: set"),
            hypercall::set_debugreg(register, 0),
            Err(Errno::ENODEV),
        );
        report.equal(
            format_args!("dr{register}: get"),
            hypercall::get_debugreg(register),
            Err(Errno::ENODEV),
        );
    }
    report.equal(
        "dr6: upper half",
        hypercall::set_debugreg(6, 1 << 32),
        Err(Errno::EINVAL),
    );
    report.equal(
        "dr7: upper half",
        hypercall::set_debugreg(7, 1 << 32),
        Err(Errno::EINVAL),
    );
    // General detect would make the guest's own debug registers trap; I/O breakpoints need CR4.DE.
    report.equal(
        "dr7: general detect",
        hypercall::set_debugreg(7, 1 << 13),
        Err(Errno::EPERM),
    );
    report.equal(
        "dr7: I/O breakpoint without CR4.DE",
        hypercall::set_debugreg(7, 0x2_0003),
        Err(Errno::EPERM),
    );
    // The bits that always read as they do.
    report.equal(
        "dr6: fixed bits",
        (hypercall::set_debugreg(6, 0), hypercall::get_debugreg(6)),
        (Ok(0), Ok(0xffff_0ff0)),
    );
    report.equal(
        "dr7: fixed bits",
        (hypercall::set_debugreg(7, 0), hypercall::get_debugreg(7)),
        (Ok(0), Ok(0x400)),
    );
}

fn assists(report: &mut Report) {
    let call = |command, kind| call(Hypercall::VmAssist.number(), [command, kind, 0, 0, 0]);
    let upper = [127, 128, 255, 256, u64::from(u32::MAX)];
    for kind in (0..=70).chain(upper) {
        // The kind is looked at before the command.
        let (known, unknown) = if kind <= 5 || kind == 32 {
            (Ok(0), Err(Errno::ENOSYS))
        } else {
            (Err(Errno::EINVAL), Err(Errno::EINVAL))
        };
        // On and off; twice, since being on or off already is no error.
        for command in [0, 0, 1, 1] {
            report.equal(
                format_args!("vm_assist: command {command}, {kind}"),
                call(command, kind),
                known,
            );
        }
        for command in [2, 3, u64::from(u32::MAX)] {
            report.equal(
                format_args!("vm_assist: no such command {command}, {kind}"),
                call(command, kind),
                unknown,
            );
        }
    }
    // Both arguments have 32 bits.
    report.equal(
        "vm_assist: upper half of the command",
        call(1 << 32, 2),
        Ok(0),
    );
    report.equal(
        "vm_assist: upper half of the kind",
        call(1, 1 << 32 | 2),
        Ok(0),
    );
}

fn poll(report: &mut Report) {
    let poll = |ports: u64, nr_ports| {
        let argument = SchedPoll {
            ports: dom0_abi::handle::GuestHandle::new(dom0_abi::addr::GuestAddr::new(ports)),
            nr_ports,
            _pad0: 0,
            // In the past: the call does not wait.
            timeout: 1,
        };
        let argument = (&raw const argument).expose_provenance() as u64;
        call(
            Hypercall::SchedOp.number(),
            [SchedCommand::Poll as u64, argument, 0, 0, 0],
        )
    };
    report.equal(
        "sched_op(poll): 129 ports",
        poll(UNMAPPED, 129),
        Err(Errno::EINVAL),
    );
    for ports in [0, UNMAPPED, NON_CANONICAL, HYPERVISOR] {
        report.equal(
            format_args!("sched_op(poll): list at {ports:#x}"),
            poll(ports, 1),
            Err(Errno::EFAULT),
        );
    }
    let beyond = [u32::MAX];
    let result = poll(beyond.as_ptr().expose_provenance() as u64, 1);
    report.equal("sched_op(poll): no such port", result, Err(Errno::EINVAL));
}
