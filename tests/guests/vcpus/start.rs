//! Starting vCPUs and stopping them.

use core::ptr;
use core::sync::atomic::Ordering;

use dom0_abi::arch::VcpuGuestContext;
use dom0_abi::errno::Errno;
use dom0_abi::vcpu::VcpuCommand;
use guest_pv_drivers::hypercall::{self, events};
use kit::Report;
use kit::memory::{LAST_OF_HYPERVISOR, NON_CANONICAL, UNMAPPED};

use crate::LONG;
use crate::clock::Clock;
use crate::orders;
use crate::vcpu::{MOST, VCPUS, context, op};

/// How many vCPUs the domain has.
pub fn count() -> usize {
    let exists = |&number: &usize| op(VcpuCommand::IsUp, number, 0).is_ok();
    (0..MOST).take_while(exists).count()
}

fn initialise(number: usize, context: &mut VcpuGuestContext) -> Result<u64, Errno> {
    op(
        VcpuCommand::Initialise,
        number,
        ptr::from_mut(context) as u64,
    )
}

/// What a vCPU cannot begin with.
pub fn refusals(report: &mut Report, count: usize) {
    report.equal("the first is up", op(VcpuCommand::IsUp, 0, 0), Ok(1));
    let mut good = context(0, orders::obey);
    report.equal(
        "the first has begun",
        initialise(0, &mut good),
        Err(Errno::EEXIST),
    );
    let none = initialise(count, &mut good);
    report.equal("there is no other one", none, Err(Errno::ENOENT));
    if count == 1 {
        return;
    }
    report.equal("the second is down", op(VcpuCommand::IsUp, 1, 0), Ok(0));
    let up = op(VcpuCommand::Up, 1, 0);
    report.equal("the second cannot be up", up, Err(Errno::EINVAL));
    for address in [0, UNMAPPED, NON_CANONICAL, LAST_OF_HYPERVISOR + 8, u64::MAX] {
        let seen = op(VcpuCommand::Initialise, 1, address);
        report.equal(
            format_args!("a context at {address:#x}"),
            seen,
            Err(Errno::EFAULT),
        );
    }
    type Spoil = fn(&mut VcpuGuestContext);
    let spoils: [(&str, Spoil); 7] = [
        ("rip", |context| context.user_regs.rip = 1 << 47),
        ("the kernel's stack", |context| context.kernel_sp = 1 << 62),
        ("the callback of events", |context| {
            context.event_callback_eip = 1 << 47
        }),
        ("the base of GS", |context| context.gs_base_kernel = 1 << 47),
        ("a GDT that is too long", |context| context.gdt_ents = 7169),
        ("an LDT that is too long", |context| context.ldt_ents = 8193),
        ("a root that is nobody's", |context| {
            context.ctrlreg[3] = 0xff_ffff_f000
        }),
    ];
    for (name, spoil) in spoils {
        let mut context = context(1, orders::obey);
        spoil(&mut context);
        let seen = initialise(1, &mut context);
        report.equal(format_args!("begins with {name}"), seen, Err(Errno::EINVAL));
    }
}

/// Waits for something that comes soon.
pub fn wait(clock: Clock, holds: impl Fn() -> bool) -> bool {
    let end = clock.now() + LONG;
    while !holds() {
        if clock.now() > end {
            return false;
        }
        let _ = hypercall::sched_yield();
    }
    true
}

pub fn all(report: &mut Report, count: usize, clock: Clock) {
    for (number, vcpu) in VCPUS.iter().enumerate().take(count).skip(1) {
        let mut context = context(number, orders::obey);
        let name = |what| (number, what);
        report.equal(
            format_args!("{:?}", name("initialise")),
            initialise(number, &mut context),
            Ok(0),
        );
        let again = initialise(number, &mut context);
        report.equal(
            format_args!("{:?}", name("again")),
            again,
            Err(Errno::EEXIST),
        );
        report.equal(
            format_args!("{:?}", name("is down")),
            op(VcpuCommand::IsUp, number, 0),
            Ok(0),
        );
        report.equal(
            format_args!("{:?}", name("up")),
            op(VcpuCommand::Up, number, 0),
            Ok(0),
        );
        report.equal(
            format_args!("{:?}", name("is up")),
            op(VcpuCommand::IsUp, number, 0),
            Ok(1),
        );
        report.equal(
            format_args!("{:?}", name("up again")),
            op(VcpuCommand::Up, number, 0),
            Ok(0),
        );
        let comes = wait(clock, || vcpu.started.load(Ordering::SeqCst) == 1);
        report.check(format_args!("{:?}", name("runs")), comes, "it does not");
    }
}

/// Takes each of the others down, by its own hand and by this one's, and lets it go on.
pub fn down_and_up(report: &mut Report, count: usize, clock: Clock) {
    for (number, vcpu) in VCPUS.iter().enumerate().take(count).skip(1) {
        let is_up = |wanted| wait(clock, || op(VcpuCommand::IsUp, number, 0) == Ok(wanted));
        orders::give(number, orders::DOWN);
        report.check(format_args!("{number} goes down"), is_up(0), "it is up");
        report.equal(
            format_args!("{number} goes up"),
            op(VcpuCommand::Up, number, 0),
            Ok(0),
        );
        let done = orders::wait(number, clock);
        report.equal(format_args!("{number} goes on where it was"), done, Some(0));
        let down = op(VcpuCommand::Down, number, 0);
        report.equal(format_args!("{number} is taken down"), down, Ok(0));
        report.check(format_args!("{number} is down"), is_up(0), "it is up");
        orders::give(number, orders::NOTHING);
        let soon = clock.now() + 5 * crate::MS;
        while clock.now() < soon {
            let _ = events::poll(&[], soon);
        }
        let before = vcpu.done.load(Ordering::SeqCst);
        report.check(
            format_args!("{number} does nothing"),
            before < orders::last(),
            "it obeys",
        );
        report.equal(
            format_args!("{number} is let go on"),
            op(VcpuCommand::Up, number, 0),
            Ok(0),
        );
        let done = orders::wait(number, clock);
        report.equal(format_args!("{number} obeys"), done, Some(0));
    }
    // The last one to be up ends the domain; so it stays.
    for number in 1..count {
        report.equal(
            format_args!("{number} ends"),
            op(VcpuCommand::Down, number, 0),
            Ok(0),
        );
    }
}
