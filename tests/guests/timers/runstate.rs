//! What became of the vCPU's time.

use core::ptr;

use dom0_abi::addr::GuestAddr;
use dom0_abi::handle::GuestHandle;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::vcpu::{
    RUNSTATE_UPDATE, Runstate, VcpuCommand, VcpuRegisterRunstateMemoryArea, VcpuRunstateInfo,
};
use guest_pv_drivers::hypercall::{self, events};
use kit::Report;
use kit::memory::Page;

use crate::clock::Clock;
use crate::{MS, vcpu_op};

static AREA: Page = Page::new();

fn info() -> VcpuRunstateInfo {
    let mut info = VcpuRunstateInfo {
        state: 99,
        _pad0: 0,
        state_entry_time: 0,
        time: [0; 4],
    };
    let _ = vcpu_op(VcpuCommand::GetRunstateInfo, 0, &mut info);
    info
}

fn area() -> VcpuRunstateInfo {
    let at = ptr::with_exposed_provenance::<VcpuRunstateInfo>(AREA.address() as usize);
    // SAFETY: a page of ours, which the hypervisor writes to when it enters or leaves.
    unsafe { at.read_volatile() }
}

/// Sleeps so long, and looks; once more if the machine itself slept, so that the end had come before the sleep.
fn sleep(
    clock: Clock,
    time: u64,
    look: fn() -> VcpuRunstateInfo,
    has_slept: impl Fn(&VcpuRunstateInfo) -> bool,
) -> VcpuRunstateInfo {
    let mut found = look();
    for _ in 0..50 {
        let _ = events::poll(&[], clock.now() + time);
        found = look();
        if has_slept(&found) {
            break;
        }
    }
    found
}

pub fn check(report: &mut Report, clock: Clock) {
    const BLOCKED: usize = Runstate::Blocked as usize;
    const RUNNING: usize = Runstate::Running as usize;
    let first = info();
    report.equal("the state", first.state, Runstate::Running.get());
    let sum: u64 = first.time.iter().sum();
    let now = clock.now();
    report.check(
        "all time is in some state",
        sum <= now,
        format_args!("{sum} {now}"),
    );
    let grown = |second: &VcpuRunstateInfo, state: usize| second.time[state] - first.time[state];
    let second = sleep(clock, 4 * MS, info, |now| grown(now, BLOCKED) >= 2 * MS);
    report.check(
        "a sleep counts as one",
        grown(&second, BLOCKED) >= 2 * MS,
        grown(&second, BLOCKED),
    );
    report.check(
        "what is not slept is run",
        grown(&second, RUNNING) > 0,
        "nothing",
    );
    report.check(
        "the state began with its end",
        second.state_entry_time >= first.state_entry_time + 2 * MS,
        second.state_entry_time,
    );

    let register = || {
        let addr = GuestHandle::new(GuestAddr::new(AREA.address()));
        let mut argument = VcpuRegisterRunstateMemoryArea { addr };
        vcpu_op(VcpuCommand::RegisterRunstateMemoryArea, 0, &mut argument)
    };
    report.equal("an area is named", register(), Ok(0));
    report.equal(
        "the area has the state",
        area().state,
        Runstate::Running.get(),
    );
    for (name, flag) in [("as it is", false), ("with a mark while it changes", true)] {
        // SAFETY: touches no memory.
        let assist = hypercall::decode(unsafe {
            hypercall::raw(Hypercall::VmAssist.number(), [u64::from(!flag), 5, 0, 0, 0])
        });
        report.equal(format_args!("area, {name}"), assist, Ok(0));
        let before = area();
        let has_slept = |now: &VcpuRunstateInfo| now.time[BLOCKED] >= before.time[BLOCKED] + MS;
        let after = sleep(clock, 2 * MS, area, has_slept);
        report.check(
            format_args!("area, {name}: the sleep is in it"),
            has_slept(&after),
            after.time[BLOCKED],
        );
        report.equal(
            format_args!("area, {name}: no mark is left"),
            after.state_entry_time & RUNSTATE_UPDATE,
            0,
        );
        report.equal(
            format_args!("area, {name}: it runs"),
            after.state,
            Runstate::Running.get(),
        );
    }
}
