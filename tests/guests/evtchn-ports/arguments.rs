//! Commands that are none, and pointers that lead nowhere.

use core::ptr;

use dom0_abi::errno::Errno;
use dom0_abi::event_channel::EventChannelCommand;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::{DomId, Port};
use guest_pv_drivers::hypercall::{call, events};
use kit::Report;
use kit::memory::{LAST_OF_HYPERVISOR, NON_CANONICAL, READ_ONLY_OF_HYPERVISOR, UNMAPPED};

use crate::VCPU;

pub fn check(report: &mut Report) {
    // 14 is how Xen goes on with a reset.
    for command in [15, 16, 255, 0xffff_ffff] {
        // SAFETY: nothing of the guest's is there.
        let seen = unsafe { events::event_channel_op(command, UNMAPPED) };
        report.equal(
            format_args!("command {command:#x}"),
            seen,
            Err(Errno::ENOSYS),
        );
    }
    for command in 0..=10 {
        for (place, address) in [
            ("null", 0),
            ("not mapped", UNMAPPED),
            ("not canonical", NON_CANONICAL),
            ("the middle of the hypervisor", 0xffff_8300_0000_0000),
            ("the end of the hypervisor", LAST_OF_HYPERVISOR + 4095),
            ("the end of the address space", u64::MAX),
        ] {
            // SAFETY: nothing of the guest's is at any of these.
            let seen = unsafe { events::event_channel_op(command, address) };
            let expected = Err(Errno::EFAULT);
            report.equal(format_args!("command {command}: {place}"), seen, expected);
        }
    }
    // What is there can be read, and results not be written; whatever it says, it is no success.
    for command in [0, 1, 6, 7] {
        // SAFETY: the table is the hypervisor's.
        let seen = unsafe { events::event_channel_op(command, READ_ONLY_OF_HYPERVISOR) };
        report.check(
            format_args!("command {command}: the machine-to-physical table"),
            seen.is_err(),
            "accepted",
        );
    }
    report.equal("reset", events::reset(DomId::SELF), Ok(()));
    pirqs(report);
    older(report);
}

fn pirqs(report: &mut Report) {
    for pirq in [0xffff, 1 << 20, u32::MAX] {
        let mut argument = [pirq, 0, 0];
        let command = EventChannelCommand::BindPirq as u64;
        // SAFETY: the structure has three words.
        let seen = unsafe { events::event_channel_op(command, argument.as_mut_ptr() as u64) };
        report.equal(format_args!("pirq {pirq:#x}"), seen, Err(Errno::EINVAL));
    }
}

/// Command and argument in one structure.
fn older(report: &mut Report) {
    let older = |op: &mut [u32; 7]| {
        let at = ptr::from_mut(op) as u64;
        // SAFETY: it is as long as the structure.
        unsafe { call(Hypercall::EventChannelOpCompat, [at, 0, 0, 0, 0]) }
    };
    let mut op = [7, VCPU.get(), 0, 0, 0, 0, 0];
    report.equal("older form: bind_ipi", older(&mut op), Ok(0));
    let port = op[2];
    report.equal(
        "older form: the port is in place",
        events::status(DomId::SELF, Port::new(port)).map(|status| status.status),
        Ok(5),
    );
    report.equal(
        "older form: send",
        older(&mut [4, port, 0, 0, 0, 0, 0]),
        Ok(0),
    );
    report.equal(
        "older form: close",
        older(&mut [3, port, 0, 0, 0, 0, 0]),
        Ok(0),
    );
    let expected = Err(Errno::EINVAL);
    report.equal(
        "older form: close again",
        older(&mut [3, port, 0, 0, 0, 0, 0]),
        expected,
    );
    for command in [10, 11, 12, 13, 14, u32::MAX] {
        let seen = older(&mut [command, 0, 0, 0, 0, 0, 0]);
        report.equal(
            format_args!("older form: {command:#x}"),
            seen,
            Err(Errno::ENOSYS),
        );
    }
    for address in [0, UNMAPPED, NON_CANONICAL, u64::MAX] {
        // SAFETY: nothing of the guest's is at any of these.
        let seen = unsafe { call(Hypercall::EventChannelOpCompat, [address, 0, 0, 0, 0]) };
        report.equal(
            format_args!("older form at {address:#x}"),
            seen,
            Err(Errno::EFAULT),
        );
    }
}
