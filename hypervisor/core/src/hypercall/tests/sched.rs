//! `sched_op` and its older form.

use dom0_abi::addr::GuestAddr;
use dom0_abi::errno::Errno;
use dom0_abi::handle::GuestHandle;
use dom0_abi::hypercalls::Hypercall::{self, SchedOp, SchedOpCompat};
use dom0_abi::ids::Port;
use dom0_abi::sched::SchedPoll;
use oxen_arch::{Interrupt, Stop, catch_stop};

use crate::domain::Capabilities;
use crate::domain::shutdown::Reason;
use crate::domain::vcpu::RunState;
use crate::testing::{CODE, DATA, DATA_END, Guest, failure};
use crate::trap::entry;
use crate::trap::return_path::{HostEnd, Next};

fn with_args(guest: &mut Guest, call: Hypercall, args: [u64; 2]) -> Next {
    guest.regs.rax = call.number();
    [guest.regs.rdi, guest.regs.rsi] = args;
    guest.syscall()
}

#[test]
fn yield_returns() {
    let mut guest = Guest::ordinary();
    assert_eq!(guest.call(SchedOp, [0, 0]), 0);
    assert_eq!(guest.call(SchedOpCompat, [0, 0]), 0);
    for command in [8, 0xffff_ffff] {
        assert_eq!(guest.call(SchedOp, [command, DATA]), failure(Errno::ENOSYS));
    }
    for command in [3, 4, 5, 0xffff_ffff] {
        assert_eq!(
            guest.call(SchedOpCompat, [command, DATA]),
            failure(Errno::ENOSYS)
        );
    }
}

#[test]
fn block_unmasks_and_sleeps_until_an_event() {
    for call in [SchedOp, SchedOpCompat] {
        let mut guest = Guest::ordinary();
        guest.state(|state| state.callbacks.event = CODE + 0x40);
        assert_eq!(guest.mask(), 1);
        assert_eq!(with_args(&mut guest, call, [1, 0]), Next::Schedule);
        assert_eq!(guest.mask(), 0);
        assert_eq!(guest.state(|state| state.run()), RunState::Blocked);
        let mut regs = guest.regs;
        assert_eq!(
            entry::look_again(&guest.host, &guest.cpu, &mut regs),
            Next::Schedule
        );
        guest.raise_event();
        assert_eq!(
            entry::look_again(&guest.host, &guest.cpu, &mut regs),
            Next::Guest
        );
        assert_eq!((regs.rip, regs.rax), (CODE + 0x40, 0));
        assert_eq!(guest.state(|state| state.run()), RunState::Running);
    }
}

#[test]
fn block_with_an_event_pending_does_not_sleep() {
    let mut guest = Guest::ordinary();
    guest.state(|state| state.callbacks.event = CODE + 0x40);
    guest.raise_event();
    assert_eq!(with_args(&mut guest, SchedOp, [1, 0]), Next::Guest);
    assert_eq!(guest.regs.rip, CODE + 0x40);
    assert_eq!(guest.mask(), 1);
}

fn poll(guest: &mut Guest, ports: &[u32], nr_ports: u32, timeout: u64) -> Next {
    for (index, port) in ports.iter().enumerate() {
        guest.put(DATA + 0x100 + index as u64 * 4, port);
    }
    let request = SchedPoll {
        ports: GuestHandle::<Port>::new(GuestAddr::new(DATA + 0x100)),
        nr_ports,
        _pad0: 0,
        timeout,
    };
    guest.put(DATA, &request);
    with_args(guest, SchedOp, [3, DATA])
}

/// Makes ports from 1 on.
fn bind(guest: &mut Guest, count: u32) {
    for port in 1..=count {
        guest.put(DATA, &[0_u32, 0]);
        assert_eq!(guest.call(Hypercall::EventChannelOp, [7, DATA]), 0);
        assert_eq!(guest.get::<[u32; 2]>(DATA), [0, port]);
    }
}

/// Sets the port's bit in the shared page, without an upcall.
fn set_port_bit(guest: &Guest, port: usize) {
    let at = guest.shared_info.at(2048 + port / 64 * 8);
    guest.host.mem().fetch_or_u64(at, 1 << (port % 64)).unwrap();
}

#[test]
fn poll_wakes_for_a_masked_port() {
    let mut guest = Guest::ordinary();
    bind(&mut guest, 3);
    assert_eq!(poll(&mut guest, &[2], 1, 0), Next::Schedule);
    set_port_bit(&guest, 1);
    let mut regs = guest.regs;
    assert_eq!(
        entry::look_again(&guest.host, &guest.cpu, &mut regs),
        Next::Schedule
    );
    set_port_bit(&guest, 2);
    assert_eq!(
        entry::look_again(&guest.host, &guest.cpu, &mut regs),
        Next::Guest
    );
    assert_eq!((regs.rax, guest.mask()), (0, 1));
    // And it does not sleep at all while the port is pending.
    assert_eq!(poll(&mut guest, &[3, 2], 2, 0), Next::Guest);
}

#[test]
fn poll_refuses_what_it_cannot_watch() {
    let mut guest = Guest::ordinary();
    bind(&mut guest, 1);
    for port in [0, 2, 64, 4096, u32::MAX] {
        assert_eq!(poll(&mut guest, &[port], 1, 0), Next::Guest);
        assert_eq!(guest.regs.rax as i64, failure(Errno::EINVAL));
    }
    assert_eq!(poll(&mut guest, &[1], 129, 0), Next::Guest);
    assert_eq!(guest.regs.rax as i64, failure(Errno::EINVAL));
    let request = SchedPoll {
        ports: GuestHandle::new(GuestAddr::new(DATA_END - 2)),
        nr_ports: 1,
        _pad0: 0,
        timeout: 0,
    };
    guest.put(DATA, &request);
    assert_eq!(with_args(&mut guest, SchedOp, [3, DATA]), Next::Guest);
    assert_eq!(guest.regs.rax as i64, failure(Errno::EFAULT));
}

#[test]
fn a_poll_ends_in_time() {
    let mut guest = Guest::ordinary();
    bind(&mut guest, 1);
    guest.state(|state| state.callbacks.event = CODE);
    assert_eq!(poll(&mut guest, &[1], 1, 1_000_000_000), Next::Schedule);
    // Who sleeps is not woken by the tick that it has from the beginning.
    guest.host.timer_fired(&guest.cpu);
    let again = |guest: &mut Guest| entry::look_again(&guest.host, &guest.cpu, &mut guest.regs);
    assert_eq!(guest.cpu.take_interrupt(), None);
    assert_eq!(again(&mut guest), Next::Schedule);
    // Asleep, time goes on to the timer.
    guest.cpu.wait_for_interrupt();
    assert_eq!(guest.cpu.take_interrupt(), Some(Interrupt::Timer));
    entry::interrupt(&guest.host, &guest.cpu, None, Interrupt::Timer);
    assert!(guest.host.time.now(&guest.cpu) >= 1_000_000_000);
    assert_eq!(again(&mut guest), Next::Guest);
    assert_eq!(guest.regs.rax, 0);
    // One that an event ends leaves no timer behind.
    assert_eq!(poll(&mut guest, &[1], 1, 3_000_000_000), Next::Schedule);
    assert!(guest.cpu.timer().is_some());
    guest.host.timer_fired(&guest.cpu);
    assert_eq!(again(&mut guest), Next::Schedule);
    guest.raise_event();
    guest.set_mask(0);
    assert_eq!(again(&mut guest), Next::Guest);
    let first = guest.host.time.queues.first(guest.cpu.id());
    assert!(
        first.is_none_or(|time| time < 3_000_000_000),
        "only its tick"
    );
}

#[test]
fn shutdown_with_every_reason_ends_an_ordinary_domain_alone() {
    for reason in 0..=255_u32 {
        let mut guest = Guest::ordinary();
        guest.put(DATA, &reason);
        assert_eq!(with_args(&mut guest, SchedOp, [2, DATA]), Next::Schedule);
        let expected = Some(Reason(reason as u8));
        assert_eq!(guest.domain(|domain| domain.shutdown.reason()), expected);
        assert_eq!(guest.host.machine.stopped(), None);
    }
}

#[test]
fn shutdown_of_dom0_ends_the_host_as_the_reason_says() {
    // (reason, noreboot, how the machine stops, what the log says)
    for (reason, noreboot, stop, text) in [
        (
            0_u32,
            false,
            Stop::PowerOff,
            "dom0 shut down (power off): halting",
        ),
        (
            0,
            true,
            Stop::PowerOff,
            "dom0 shut down (power off): halting",
        ),
        (
            1,
            false,
            Stop::Reboot,
            "dom0 shut down (reboot): restarting",
        ),
        (1, true, Stop::Reboot, "dom0 shut down (reboot): restarting"),
        (
            2,
            false,
            Stop::Reboot,
            "dom0 shut down (suspend): restarting",
        ),
        (2, true, Stop::Halt, "dom0 shut down (suspend): halting"),
        (3, false, Stop::Reboot, "dom0 crashed: restarting"),
        (3, true, Stop::Halt, "dom0 crashed: halting"),
        (4, true, Stop::Halt, "dom0 shut down (watchdog): halting"),
        (
            5,
            false,
            Stop::Reboot,
            "dom0 shut down (soft reset): restarting",
        ),
        (
            77,
            true,
            Stop::Halt,
            "dom0 shut down (unknown reason 77): halting",
        ),
    ] {
        let options = if noreboot {
            "com1=115200 noreboot"
        } else {
            "com1=115200"
        };
        for call in [SchedOp, SchedOpCompat] {
            let mut guest =
                Guest::with_options(dom0_abi::ids::DomId::DOM0, Capabilities::all(), options);
            guest.put(DATA, &reason);
            let arg = if call == SchedOp {
                DATA
            } else {
                u64::from(reason)
            };
            let next = with_args(&mut guest, call, [2, arg]);
            assert_eq!(
                next,
                Next::Shutdown(HostEnd::Hardware(Reason(reason as u8)))
            );
            let Guest {
                host, cpu, regs, ..
            } = &mut guest;
            assert_eq!(
                catch_stop(|| entry::settle(host, cpu, regs, next)),
                Err(stop)
            );
            assert!(guest.output().contains(text), "{}", guest.output());
        }
    }
}

#[test]
fn a_latched_code_is_the_one_reported() {
    let mut guest = Guest::ordinary();
    guest.put(DATA, &3_u32);
    assert_eq!(guest.call(SchedOp, [5, DATA]), 0);
    guest.put(DATA, &0_u32);
    assert_eq!(with_args(&mut guest, SchedOp, [2, DATA]), Next::Schedule);
    assert_eq!(
        guest.domain(|domain| domain.shutdown.reason()),
        Some(Reason(3))
    );
}
