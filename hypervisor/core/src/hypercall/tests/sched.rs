//! `sched_op` and its older form.

use dom0_abi::addr::GuestAddr;
use dom0_abi::errno::Errno;
use dom0_abi::handle::GuestHandle;
use dom0_abi::hypercalls::Hypercall::{self, SchedOp, SchedOpCompat};
use dom0_abi::ids::{Port, VcpuId};
use dom0_abi::sched::SchedPoll;
use dom0_abi::xen::Virq;
use oxen_arch::{Interrupt, Stop, catch_stop};

use crate::domain::Capabilities;
use crate::domain::shutdown::Reason;
use crate::domain::vcpu::RunState;
use crate::event::{close, virq};
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

/// Binds VIRQs, which exist once in a domain, from port 1 on.
fn bind_virqs(guest: &mut Guest, virqs: &[Virq]) {
    for (port, virq) in (1_u32..).zip(virqs) {
        guest.put(DATA, &[virq.get(), 0, 0]);
        assert_eq!(guest.call(Hypercall::EventChannelOp, [1, DATA]), 0);
        assert_eq!(guest.get::<[u32; 3]>(DATA), [virq.get(), 0, port]);
    }
}

fn raise(guest: &Guest, virq: Virq) {
    guest.domain(|domain| {
        let vcpu = domain.vcpu(VcpuId::new(0)).unwrap();
        virq::raise(&guest.host, &guest.cpu, domain, vcpu, virq);
    });
}

fn look_again(guest: &mut Guest) -> Next {
    entry::look_again(&guest.host, &guest.cpu, &mut guest.regs)
}

#[test]
fn a_poll_of_several_ends_with_one_of_them() {
    let virqs = [Virq::Debug, Virq::Console, Virq::DomExc];
    for (ports, ending) in [
        ([2, 3], Virq::Console),
        ([2, 3], Virq::DomExc),
        ([3, 3], Virq::DomExc),
    ] {
        let mut guest = Guest::dom0();
        bind_virqs(&mut guest, &virqs);
        assert_eq!(poll(&mut guest, &ports, 2, 0), Next::Schedule);
        assert_eq!(look_again(&mut guest), Next::Schedule);
        // What it has not named is nothing to it, however often.
        for _ in 0..2 {
            raise(&guest, Virq::Debug);
            assert_eq!(look_again(&mut guest), Next::Schedule);
        }
        // Nor does it matter what is in its memory by now.
        guest.put(DATA + 0x100, &[1_u32, 1]);
        raise(&guest, Virq::Debug);
        assert_eq!(look_again(&mut guest), Next::Schedule);
        raise(&guest, ending);
        assert_eq!(look_again(&mut guest), Next::Guest);
        assert_eq!((guest.regs.rax, guest.mask()), (0, 1));
        assert_eq!(guest.state(|state| state.run()), RunState::Running);
        // It polls no more, and begins anew with others.
        assert_eq!(poll(&mut guest, &[1], 1, 0), Next::Guest);
    }
}

#[test]
fn a_poll_of_several_ends_when_one_is_closed_or_an_event_can_be_delivered() {
    let mut guest = Guest::dom0();
    bind_virqs(&mut guest, &[Virq::Debug, Virq::Console, Virq::DomExc]);
    assert_eq!(poll(&mut guest, &[2, 3], 2, 0), Next::Schedule);
    guest.domain(|domain| {
        let (domains, mem) = (&guest.host.domains, guest.host.mem());
        close::close(domains, mem, domain, Port::new(3)).unwrap();
    });
    // Nobody sends through it any more; whatever else comes has it noticed.
    assert_eq!(look_again(&mut guest), Next::Schedule);
    raise(&guest, Virq::Debug);
    assert_eq!(look_again(&mut guest), Next::Guest);
    let mut guest = Guest::dom0();
    bind_virqs(&mut guest, &[Virq::Debug, Virq::Console, Virq::DomExc]);
    guest.state(|state| state.callbacks.event = CODE + 0x40);
    assert_eq!(poll(&mut guest, &[2, 3], 2, 0), Next::Schedule);
    guest.set_mask(0);
    raise(&guest, Virq::Debug);
    assert_eq!(look_again(&mut guest), Next::Guest);
    assert_eq!(guest.regs.rip, CODE + 0x40);
}

#[test]
fn a_poll_of_as_many_as_there_can_be_ends_in_time() {
    let mut guest = Guest::ordinary();
    bind(&mut guest, 128);
    let ports: [u32; 128] = core::array::from_fn(|index| index as u32 + 1);
    assert_eq!(poll(&mut guest, &ports, 128, 500_000_000), Next::Schedule);
    // The tick that it has from the beginning goes no further, now that it sleeps.
    guest.host.timer_fired(&guest.cpu);
    assert_eq!(look_again(&mut guest), Next::Schedule);
    guest.cpu.wait_for_interrupt();
    assert_eq!(guest.cpu.take_interrupt(), Some(Interrupt::Timer));
    entry::interrupt(&guest.host, &guest.cpu, None, Interrupt::Timer);
    assert!(guest.host.time.now(&guest.cpu) >= 500_000_000);
    assert_eq!(look_again(&mut guest), Next::Guest);
    assert_eq!(guest.regs.rax, 0);
}

#[test]
fn a_poll_of_none_ends_with_any() {
    let mut guest = Guest::dom0();
    bind_virqs(&mut guest, &[Virq::Debug, Virq::Console]);
    // What several before have left does not count.
    assert_eq!(poll(&mut guest, &[1, 2], 2, 0), Next::Schedule);
    raise(&guest, Virq::Debug);
    assert_eq!(look_again(&mut guest), Next::Guest);
    assert_eq!(poll(&mut guest, &[], 0, 0), Next::Schedule);
    assert_eq!(look_again(&mut guest), Next::Schedule);
    raise(&guest, Virq::Console);
    assert_eq!(look_again(&mut guest), Next::Guest);
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
