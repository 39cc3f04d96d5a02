//! Each argument that is a pointer, at each kind of bad address.

use dom0_abi::callback::CallbackCommand;
use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::nmi::NmiCommand;
use dom0_abi::sched::SchedCommand;
use dom0_abi::version::VersionCommand;
use dom0_abi::xen::ConsoleIoCommand;
use kit::memory::{
    self, LAST_OF_HYPERVISOR, NON_CANONICAL, PAGE, READ_ONLY_OF_HYPERVISOR, UNMAPPED,
};
use kit::{Report, start_info};

use crate::call;

/// A call with a pointer to more than one byte.
pub struct Row {
    name: &'static str,
    call: Hypercall,
    args: [u64; 5],
    /// Which of `args` is the pointer.
    pointer: usize,
    access: Access,
    /// What the call returns for a null pointer; `None` if that has a meaning of its own, checked elsewhere.
    null: Option<Result<u64, Errno>>,
}

#[derive(PartialEq)]
enum Access {
    Read,
    Write,
}

const FAULT: Option<Result<u64, Errno>> = Some(Err(Errno::EFAULT));

const fn version(name: &'static str, command: VersionCommand) -> Row {
    let args = [command as u64, 0, 0, 0, 0];
    Row {
        name,
        call: Hypercall::XenVersion,
        args,
        pointer: 1,
        access: Access::Write,
        null: FAULT,
    }
}

const fn command(name: &'static str, call: Hypercall, command: u64) -> Row {
    Row {
        name,
        call,
        args: [command, 0, 0, 0, 0],
        pointer: 1,
        access: Access::Read,
        null: FAULT,
    }
}

/// The pointers of the calls that the hypervisor has.
pub const ROWS: &[Row] = &[
    Row {
        name: "set_trap_table",
        call: Hypercall::SetTrapTable,
        args: [0; 5],
        pointer: 0,
        access: Access::Read,
        null: None,
    },
    Row {
        name: "multicall",
        call: Hypercall::Multicall,
        args: [0, 1, 0, 0, 0],
        pointer: 0,
        access: Access::Read,
        null: FAULT,
    },
    version("xen_version(extraversion)", VersionCommand::Extraversion),
    version("xen_version(compile_info)", VersionCommand::CompileInfo),
    version("xen_version(capabilities)", VersionCommand::Capabilities),
    version("xen_version(changeset)", VersionCommand::Changeset),
    version(
        "xen_version(platform_parameters)",
        VersionCommand::PlatformParameters,
    ),
    version("xen_version(get_features)", VersionCommand::GetFeatures),
    version("xen_version(guest_handle)", VersionCommand::GuestHandle),
    version("xen_version(commandline)", VersionCommand::CommandLine),
    Row {
        name: "console_io(write)",
        call: Hypercall::ConsoleIo,
        args: [ConsoleIoCommand::Write as u64, 4, 0, 0, 0],
        pointer: 2,
        access: Access::Read,
        null: FAULT,
    },
    command(
        "callback_op(register)",
        Hypercall::CallbackOp,
        CallbackCommand::Register as u64,
    ),
    command(
        "callback_op(unregister)",
        Hypercall::CallbackOp,
        CallbackCommand::Unregister as u64,
    ),
    command(
        "sched_op(shutdown)",
        Hypercall::SchedOp,
        SchedCommand::Shutdown as u64,
    ),
    command(
        "sched_op(poll)",
        Hypercall::SchedOp,
        SchedCommand::Poll as u64,
    ),
    command(
        "sched_op(shutdown_code)",
        Hypercall::SchedOp,
        SchedCommand::ShutdownCode as u64,
    ),
    command(
        "nmi_op(register_callback)",
        Hypercall::NmiOp,
        NmiCommand::RegisterCallback as u64,
    ),
];

pub fn check(report: &mut Report) {
    let end = memory::end_of_mapping();
    let everywhere = [
        ("not mapped", UNMAPPED),
        ("not canonical", NON_CANONICAL),
        // The guest itself may read this one; the hypervisor does not on its behalf.
        ("start of the hypervisor's range", READ_ONLY_OF_HYPERVISOR),
        ("middle of the hypervisor's range", 0xffff_8300_0000_0000),
        (
            "end of the hypervisor's range",
            LAST_OF_HYPERVISOR + PAGE - 8,
        ),
        ("last byte before a page that is not there", end - 1),
        ("end of the address space", u64::MAX),
    ];
    for row in ROWS {
        let try_at = |address| {
            let mut args = row.args;
            args[row.pointer] = address;
            call(row.call.number(), args)
        };
        let name = row.name;
        if let Some(right) = row.null {
            report.equal(format_args!("{name}: null"), try_at(0), right);
        }
        for (place, address) in everywhere {
            report.equal(
                format_args!("{name}: {place}"),
                try_at(address),
                Err(Errno::EFAULT),
            );
        }
        if row.access == Access::Write {
            let read_only = start_info().pt_base;
            report.equal(
                format_args!("{name}: read-only"),
                try_at(read_only),
                Err(Errno::EFAULT),
            );
        }
    }
}
