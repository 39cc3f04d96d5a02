//! Time and timers of one vCPU: system time, the timers that fire once and again and again, polls that end, what became of the
//! vCPU's time, the wall clock, and the move of `vcpu_info`.
//!
//! No check asks how long something took, but for what may not be: a timer that fires early, a clock that goes back.
#![no_std]
#![no_main]
// UNSAFETY: hypercalls with bare arguments, memory shared with the hypervisor.
#![allow(unsafe_code)]

mod clock;
mod runstate;
mod vcpu_info;
mod wall;

use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::{Port, VcpuId};
use dom0_abi::vcpu::{SingleshotFlags, VcpuCommand, VcpuSetPeriodicTimer, VcpuSetSingleshotTimer};
use dom0_abi::xen::{SharedInfo, Virq};
use guest_pv_drivers::hypercall::{self, events};
use kit::{Report, memory};

use clock::Clock;

kit::guest!("timers", main);

const MS: u64 = 1_000_000;
/// What nothing here takes.
const LONG: u64 = 20_000 * MS;

/// The timer of this vCPU, by its port.
#[derive(Clone, Copy)]
struct Timer {
    shared: u64,
    port: Port,
    clock: Clock,
}

fn main(report: &mut Report) {
    let shared = match memory::shared_info() {
        Ok(shared) => shared,
        Err(error) => return report.check("shared info is mapped", false, error),
    };
    let clock = Clock::of(shared);
    system_time(report, clock);
    let port = match events::bind_virq(Virq::Timer.get(), VcpuId::new(0)) {
        Ok(port) => port,
        Err(error) => return report.check("the timer's port", false, error),
    };
    let timer = Timer {
        shared,
        port,
        clock,
    };
    // Until it is told otherwise it fires every 10 ms.
    report.check(
        "the timer fires by itself",
        timer.wait_awake().is_some(),
        "it does not",
    );
    let stop = VcpuCommand::StopPeriodicTimer.get();
    report.equal("the timer is stopped", number(stop.into(), 0, 0), Ok(0));
    timer.take();
    once(report, timer);
    again_and_again(report, timer);
    polls(report, timer);
    arguments(report);
    runstate::check(report, clock);
    wall::check(report, shared, clock);
    vcpu_info::check(report, shared);
}

/// `vcpu_op` with an argument of any kind.
fn vcpu_op<T>(command: VcpuCommand, vcpu: u64, argument: &mut T) -> Result<u64, Errno> {
    let at = core::ptr::from_mut(argument) as u64;
    number(command.get().into(), vcpu, at)
}

fn number(command: u64, vcpu: u64, at: u64) -> Result<u64, Errno> {
    // SAFETY: what is at the address is what the command takes, or it fails.
    hypercall::decode(unsafe {
        hypercall::raw(Hypercall::VcpuOp.number(), [command, vcpu, at, 0, 0])
    })
}

fn set_timer_op(deadline: u64) -> Result<u64, Errno> {
    // SAFETY: touches no memory.
    hypercall::decode(unsafe {
        hypercall::raw(Hypercall::SetTimerOp.number(), [deadline, 0, 0, 0, 0])
    })
}

impl Timer {
    /// Takes what the timer has made pending.
    fn take(self) -> bool {
        let index = self.port.get() as usize;
        let offset = offset_of!(SharedInfo, evtchn_pending) + index / 64 * 8;
        // SAFETY: the page stays mapped; all access it by atomic accesses.
        let word = unsafe { &*((self.shared as usize + offset) as *const AtomicU64) };
        let bit = 1 << (index % 64);
        word.fetch_and(!bit, Ordering::SeqCst) & bit != 0
    }

    /// Sleeps until it fires, and returns when that was.
    fn wait(self) -> Option<u64> {
        let end = self.clock.now() + LONG;
        while self.clock.now() < end {
            let _ = events::poll(&[self.port], end);
            if self.take() {
                return Some(self.clock.now());
            }
        }
        None
    }

    /// The same without sleeping: who sleeps is not woken again and again.
    fn wait_awake(self) -> Option<u64> {
        let end = self.clock.now() + LONG;
        while self.clock.now() < end {
            if self.take() {
                return Some(self.clock.now());
            }
        }
        None
    }

    /// Whether nothing fires for a while.
    fn is_quiet(self) -> bool {
        let end = self.clock.now() + 5 * MS;
        while self.clock.now() < end {
            let _ = events::poll(&[self.port], end);
        }
        !self.take()
    }

    fn set(self, time: u64, flags: SingleshotFlags) -> Result<u64, Errno> {
        let mut argument = VcpuSetSingleshotTimer {
            timeout_abs_ns: time,
            flags: flags.bits(),
            _pad0: 0,
        };
        vcpu_op(VcpuCommand::SetSingleshotTimer, 0, &mut argument)
    }
}

fn system_time(report: &mut Report, clock: Clock) {
    let (info, _) = clock.read();
    report.check(
        "the version is even",
        info.version.is_multiple_of(2),
        info.version,
    );
    report.check(
        "the scale",
        info.tsc_to_system_mul != 0,
        info.tsc_to_system_mul,
    );
    let mut last = clock.now();
    let first = last;
    let mut goes_back = false;
    for _ in 0..10_000 {
        let now = clock.now();
        goes_back |= now < last;
        last = now;
    }
    report.check("time does not go back", !goes_back, "it did");
    report.check("time goes on", last > first, "it stands still");
}

fn once(report: &mut Report, timer: Timer) {
    let none = SingleshotFlags::empty();
    for (name, ahead) in [("2 ms", 2 * MS), ("20 ms", 20 * MS), ("a little", 1000)] {
        let time = timer.clock.now() + ahead;
        report.equal(
            format_args!("once, {name}: set"),
            timer.set(time, none),
            Ok(0),
        );
        let fired = timer.wait();
        let is_late = fired.is_some_and(|now| now >= time);
        report.check(
            format_args!("once, {name}: fires then"),
            is_late,
            format_args!("{fired:?} {time}"),
        );
        report.check(
            format_args!("once, {name}: no more"),
            timer.is_quiet(),
            "again",
        );
    }
    for (name, time, flags) in [
        ("now", timer.clock.now(), none),
        ("long ago", 1, none),
        ("long ago, if it is to come", 1, SingleshotFlags::FUTURE),
    ] {
        report.equal(
            format_args!("once, {name}: set"),
            timer.set(time, flags),
            Ok(0),
        );
        report.check(
            format_args!("once, {name}: fires"),
            timer.wait().is_some(),
            "not at all",
        );
    }
    let time = timer.clock.now() + 2 * MS;
    report.equal(
        "once, to come",
        timer.set(time, SingleshotFlags::FUTURE),
        Ok(0),
    );
    report.check("once, to come: fires", timer.wait().is_some(), "not at all");
    // Set anew, and ended.
    let far = timer.clock.now() + LONG;
    report.equal("once, far away", timer.set(far, none), Ok(0));
    let time = timer.clock.now() + MS;
    report.equal("once, nearer", timer.set(time, none), Ok(0));
    let fired = timer.wait();
    report.check(
        "once, nearer: fires then",
        fired.is_some_and(|now| now >= time && now < far),
        format_args!("{fired:?}"),
    );
    let time = timer.clock.now() + 3 * MS;
    report.equal("once, to be ended", timer.set(time, none), Ok(0));
    report.equal(
        "once: ended",
        number(VcpuCommand::StopSingleshotTimer.get().into(), 0, 0),
        Ok(0),
    );
    report.check("once: ended, and quiet", timer.is_quiet(), "it fires");
    // The older call.
    let time = timer.clock.now() + 2 * MS;
    report.equal("set_timer_op", set_timer_op(time), Ok(0));
    let fired = timer.wait();
    report.check(
        "set_timer_op: fires then",
        fired.is_some_and(|now| now >= time),
        format_args!("{fired:?}"),
    );
    for (name, time) in [
        ("long ago", 1),
        ("negative", u64::MAX),
        ("in a thousand years", 1 << 62),
    ] {
        report.equal(
            format_args!("set_timer_op, {name}"),
            set_timer_op(time),
            Ok(0),
        );
        report.check(
            format_args!("set_timer_op, {name}: fires"),
            timer.wait().is_some(),
            "not at all",
        );
    }
    report.equal(
        "set_timer_op, to be ended",
        set_timer_op(timer.clock.now() + 3 * MS),
        Ok(0),
    );
    report.equal("set_timer_op, 0", set_timer_op(0), Ok(0));
    report.check(
        "set_timer_op: ended, and quiet",
        timer.is_quiet(),
        "it fires",
    );
}

fn again_and_again(report: &mut Report, timer: Timer) {
    let set = |vcpu, period_ns| {
        vcpu_op(
            VcpuCommand::SetPeriodicTimer,
            vcpu,
            &mut VcpuSetPeriodicTimer { period_ns },
        )
    };
    for period in [0, 1, MS - 1, 1 << 63, u64::MAX] {
        report.equal(
            format_args!("every {period} ns"),
            set(0, period),
            Err(Errno::EINVAL),
        );
    }
    let start = timer.clock.now();
    report.equal("every 2 ms", set(0, 2 * MS), Ok(0));
    let times: [Option<u64>; 5] = core::array::from_fn(|_| timer.wait_awake());
    let last = times.iter().copied().flatten().last();
    report.check(
        "every 2 ms: five times",
        times.iter().all(Option::is_some),
        format_args!("{times:?}"),
    );
    report.check(
        "every 2 ms: not faster",
        last.is_some_and(|now| now >= start + 8 * MS),
        format_args!("{times:?}"),
    );
    timer.take();
    let end = timer.clock.now() + 9 * MS;
    let slept = events::poll(&[timer.port], end).is_ok() && timer.clock.now() >= end;
    report.check("every 2 ms: does not wake", slept, timer.clock.now());
    report.check(
        "every 2 ms: is told then",
        timer.wait_awake().is_some(),
        "no",
    );
    report.equal(
        "every 2 ms: ended",
        number(VcpuCommand::StopPeriodicTimer.get().into(), 0, 0),
        Ok(0),
    );
    timer.take();
    report.check("every 2 ms: ended, and quiet", timer.is_quiet(), "it fires");
}

fn polls(report: &mut Report, timer: Timer) {
    let quiet = events::bind_ipi(VcpuId::new(0)).unwrap_or_default();
    let several = [quiet, timer.port, quiet];
    poll_of_several(report, timer, &several);
    for (name, ports) in [
        ("a port", &[timer.port][..]),
        ("no port", &[]),
        ("several", &several),
    ] {
        let end = timer.clock.now() + 3 * MS;
        let result = events::poll(ports, end);
        let now = timer.clock.now();
        report.equal(format_args!("a poll of {name}"), result, Ok(()));
        report.check(
            format_args!("a poll of {name} ends"),
            now >= end,
            format_args!("{now} {end}"),
        );
        report.equal(
            format_args!("a poll of {name} until long ago"),
            events::poll(ports, 1),
            Ok(()),
        );
    }
}

/// One of several ports ends the sleep, and what is pending already lets nobody sleep.
fn poll_of_several(report: &mut Report, timer: Timer, ports: &[Port]) {
    let time = timer.clock.now() + 5 * MS;
    let set = timer.set(time, SingleshotFlags::empty());
    report.equal("a timer among several: set", set, Ok(0));
    let end = time + LONG;
    let mut fired = None;
    while fired.is_none() && timer.clock.now() < end {
        let _ = events::poll(ports, end);
        fired = timer.take().then(|| timer.clock.now());
    }
    report.check(
        "a timer among several ends the poll",
        fired.is_some_and(|now| now >= time && now < end),
        format_args!("{fired:?} {time}"),
    );
}

fn arguments(report: &mut Report) {
    for command in (0..14).filter(|command| *command != 12) {
        report.equal(
            format_args!("command {command} for a vCPU that is not"),
            number(command, 1, 0),
            Err(Errno::ENOENT),
        );
        report.equal(
            format_args!("command {command} for vCPU {:#x}", u32::MAX),
            number(command, u32::MAX.into(), 0),
            Err(Errno::ENOENT),
        );
    }
    for command in [14, 15, 100, u64::from(u32::MAX)] {
        report.equal(
            format_args!("command {command:#x}"),
            number(command, 0, 0),
            Err(Errno::ENOSYS),
        );
    }
    report.equal("is_up", number(VcpuCommand::IsUp.get().into(), 0, 0), Ok(1));
    for command in [4, 5, 6, 8, 10, 13] {
        for at in [0xffff_8000_0000_0000, 0x8000_0000_0000] {
            report.equal(
                format_args!("command {command} with {at:#x}"),
                number(command, 0, at),
                Err(Errno::EFAULT),
            );
        }
    }
}
