//! What waits for a guest, and whether it runs.

use dom0_abi::ids::VcpuId;
use oxen_arch::{Interrupt, SERIAL_VECTOR};

use crate::domain::shutdown::Reason;
use crate::domain::vcpu::RunState;
use crate::switch;
use crate::testing::{CODE, Guest, STACK};
use crate::trap::entry;
use crate::trap::return_path::{HostEnd, Next};

const EVENT: u64 = CODE + 0x40;
const NMI: u64 = CODE + 0x80;
const FAULT: u64 = CODE + 0xc0;

fn ready() -> Guest {
    ready_as(Guest::ordinary())
}

fn ready_as(mut guest: Guest) -> Guest {
    guest.set_trap(2, 4, NMI);
    guest.set_trap(0, 0, FAULT);
    guest.state(|state| state.callbacks.event = EVENT);
    (guest.regs.rip, guest.regs.rsp) = (CODE, STACK);
    guest
}

fn again(guest: &mut Guest) -> Next {
    entry::look_again(&guest.host, &guest.cpu, &mut guest.regs)
}

fn send_nmi(guest: &Guest) {
    guest.domain(|domain| domain.vcpu(VcpuId::new(0)).unwrap().signals.send_nmi());
}

#[test]
fn an_event_comes_when_it_is_pending_and_not_masked() {
    for (pending, mask, delivered) in [
        (0, 0, false),
        (0, 1, false),
        (1, 1, false),
        (1, 0, true),
        (0x80, 0, true),
        (1, 0xff, false),
    ] {
        let mut guest = ready();
        guest
            .host
            .mem()
            .store_u8(guest.shared_info.at(0), pending)
            .unwrap();
        guest.set_mask(mask);
        assert_eq!(again(&mut guest), Next::Guest);
        assert_eq!(guest.regs.rip == EVENT, delivered, "{pending} {mask}");
        if delivered {
            assert_eq!(guest.mask(), 1);
            // Not twice, and the pending byte is the guest's to clear.
            let rsp = guest.regs.rsp;
            assert_eq!(again(&mut guest), Next::Guest);
            assert_eq!(guest.regs.rsp, rsp);
            assert_eq!(
                guest.host.mem().load_u8(guest.shared_info.at(0)).unwrap(),
                pending
            );
        }
    }
}

#[test]
fn any_hypercall_delivers_what_is_pending() {
    let mut guest = ready();
    guest.raise_event();
    guest.set_mask(0);
    guest.regs.rax = 17;
    guest.regs.rdi = 0;
    assert_eq!(guest.syscall(), Next::Guest);
    assert_eq!((guest.regs.rip, guest.regs.rax), (EVENT, 0x40011));
    assert_eq!(guest.get::<[u64; 7]>(guest.regs.rsp)[2], CODE);
}

#[test]
fn an_exception_goes_first_then_an_nmi_then_an_event() {
    let mut guest = ready();
    guest.raise_event();
    guest.set_mask(0);
    send_nmi(&guest);
    assert_eq!(guest.exception(0, 0), Next::Guest);
    // The NMI interrupts the first instruction of the fault's handler, and masks the event.
    assert_eq!((guest.regs.rip, guest.mask()), (NMI, 1));
    assert_eq!(guest.get::<[u64; 7]>(guest.regs.rsp)[2], FAULT);
}

#[test]
fn an_event_interrupts_the_handler_of_an_exception_that_does_not_mask() {
    let mut guest = ready();
    guest.raise_event();
    guest.set_mask(0);
    assert_eq!(guest.exception(0, 0), Next::Guest);
    assert_eq!(guest.regs.rip, EVENT);
    assert_eq!(guest.get::<[u64; 7]>(guest.regs.rsp)[2], FAULT);
}

#[test]
fn an_nmi_waits_for_its_handler() {
    let mut guest = ready();
    guest.set_trap(2, 0, CODE);
    guest.state(|state| state.traps.clear());
    send_nmi(&guest);
    assert_eq!(again(&mut guest), Next::Guest);
    assert_eq!(guest.regs.rip, CODE);
    guest.state(|state| {
        state
            .traps
            .set(2, crate::domain::trap_table::TrapEntry::for_nmi(NMI));
    });
    assert_eq!(again(&mut guest), Next::Guest);
    assert_eq!(guest.regs.rip, NMI);
}

#[test]
fn an_nmi_that_came_while_the_cpu_was_in_the_hypervisor_is_delivered_on_the_way_back() {
    let mut guest = Guest::dom0();
    guest.set_trap(2, 4, NMI);
    // During a hypercall, and during the sleep of the idle loop.
    for run in [RunState::Running, RunState::Blocked] {
        (guest.regs.rip, guest.regs.rsp) = (CODE, STACK);
        guest.state(|state| state.in_nmi = false);
        guest.set_run(run);
        guest.cpu.raise_nmi();
        assert_eq!(again(&mut guest), Next::Guest);
        assert_eq!(guest.regs.rip, NMI);
        assert!(!guest.cpu.has_notes());
    }
    // Who interrupts a domain that does not own the hardware is none of its business.
    let mut guest = ready();
    guest.cpu.raise_nmi();
    assert_eq!(again(&mut guest), Next::Guest);
    assert_eq!(guest.regs.rip, CODE);
}

#[test]
fn whatever_is_caused_is_seen_by_the_next_way_back() {
    type Cause = fn(&Guest);
    let causes: [(&str, Cause, Next, u64); 6] = [
        ("nothing", |_| (), Next::Guest, CODE),
        ("an NMI for the vCPU", send_nmi, Next::Guest, NMI),
        (
            "an NMI in the hypervisor",
            |guest| guest.cpu.raise_nmi(),
            Next::Guest,
            NMI,
        ),
        (
            "sleep",
            |guest| guest.set_run(RunState::Blocked),
            Next::Schedule,
            CODE,
        ),
        (
            "the end of the domain",
            |guest| guest.domain(|domain| guest.host.shut_down(&guest.cpu, domain, 3)),
            Next::Shutdown(HostEnd::Hardware(Reason(3))),
            CODE,
        ),
        (
            "an event",
            |guest| {
                guest.raise_event();
                guest.set_mask(0);
            },
            Next::Guest,
            EVENT,
        ),
    ];
    for (name, cause, next, rip) in causes {
        let mut guest = ready_as(Guest::dom0());
        assert_eq!(again(&mut guest), Next::Guest);
        cause(&guest);
        // What lasts is seen each time; what was delivered, once.
        for _ in 0..2 {
            assert_eq!(again(&mut guest), next, "{name}");
            assert_eq!(guest.regs.rip, rip, "{name}");
        }
    }
}

#[test]
fn an_nmi_that_has_to_wait_is_not_forgotten() {
    let mut guest = ready();
    guest.state(|state| state.in_nmi = true);
    send_nmi(&guest);
    for _ in 0..2 {
        assert_eq!(again(&mut guest), Next::Guest);
        assert_eq!(guest.regs.rip, CODE);
    }
    guest.state(|state| state.in_nmi = false);
    assert_eq!(again(&mut guest), Next::Guest);
    assert_eq!(guest.regs.rip, NMI);
}

#[test]
fn what_is_caused_while_the_way_back_looks_is_not_lost() {
    let mut guest = ready();
    for _ in 0..if cfg!(miri) { 4 } else { 200 } {
        let Guest {
            host,
            cpu,
            regs,
            domid,
            ..
        } = &mut guest;
        (regs.rip, regs.rsp) = (CODE, STACK);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let domain = host.domains.get(*domid).unwrap();
                domain.vcpu(VcpuId::new(0)).unwrap().signals.send_nmi();
            });
            assert_eq!(entry::look_again(host, cpu, regs), Next::Guest);
        });
        assert_eq!(again(&mut guest), Next::Guest);
        assert_eq!(guest.regs.rip, NMI);
        guest.state(|state| state.in_nmi = false);
    }
}

#[test]
fn an_nmi_wakes_a_sleeper() {
    let mut guest = ready();
    guest.set_run(RunState::Blocked);
    assert_eq!(again(&mut guest), Next::Schedule);
    send_nmi(&guest);
    assert_eq!(again(&mut guest), Next::Guest);
    assert_eq!(guest.regs.rip, NMI);
}

#[test]
fn an_event_without_callback_ends_the_domain() {
    let mut guest = Guest::ordinary();
    guest.raise_event();
    guest.set_mask(0);
    assert_eq!(again(&mut guest), Next::Schedule);
    assert!(guest.output().contains("d7v0 crashed: unhandled event"));
}

#[test]
fn i31_no_lock_is_held_when_a_guest_or_the_idle_loop_goes_on() {
    let mut guest = ready();
    guest.set_run(RunState::Blocked);
    assert_eq!(again(&mut guest), Next::Schedule);
    // Would panic if the vCPU's lock, or one above it, were held.
    guest.set_run(RunState::Running);
    assert_eq!(again(&mut guest), Next::Guest);
    guest.state(|_| ());
}

#[test]
fn registers_of_a_sleeper_are_in_its_state() {
    let mut guest = ready();
    guest.regs.rbx = 0x1234;
    guest.set_run(RunState::Blocked);
    assert_eq!(again(&mut guest), Next::Schedule);
    assert_eq!(guest.state(|state| state.regs), guest.regs);
}

#[test]
fn a_cpu_without_vcpu_idles() {
    let guest = ready();
    let mut regs = guest.regs;
    assert_eq!(
        entry::look_again(&guest.host, &guest.other_cpu, &mut regs),
        Next::Schedule
    );
    assert_eq!(
        entry::handle_syscall(&guest.host, &guest.other_cpu, &mut regs),
        Next::Schedule
    );
    assert_eq!(
        entry::handle_exception(&guest.host, &guest.other_cpu, &mut regs),
        Next::Schedule
    );
    assert_eq!(regs, guest.regs);
}

#[test]
fn the_loop_waits_and_looks_again_and_interrupts_may_nest_in_it() {
    let mut guest = ready();
    guest.set_run(RunState::Blocked);
    guest.set_mask(0);
    assert_eq!(again(&mut guest), Next::Schedule);
    let Guest {
        host, cpu, regs, ..
    } = &mut guest;
    assert_eq!(switch::next(host, cpu, regs), Next::Schedule);
    assert_eq!(cpu.registers().waits, 1);
    // An interrupt that ends the sleep finds no guest of its own to return to.
    entry::interrupt(host, cpu, None, Interrupt::Device(SERIAL_VECTOR));
    assert_eq!(switch::next(host, cpu, regs), Next::Schedule);
    assert_eq!(cpu.registers().waits, 2);
    guest.raise_event();
    guest.domain(|domain| {
        guest
            .host
            .kick(&guest.cpu, domain.vcpu(VcpuId::new(0)).unwrap())
    });
    let Guest {
        host, cpu, regs, ..
    } = &mut guest;
    entry::settle(host, cpu, regs, Next::Schedule);
    assert_eq!(guest.regs.rip, EVENT);
    assert_eq!(guest.cpu.registers().waits, 2);
}

#[test]
fn debug_keys_answer_while_a_guest_runs() {
    let mut guest = Guest::dom0();
    guest.regs.r12 = 0xfeed_f00d;
    guest.host.machine.push_serial_input(b"\x01\x01\x010hmq");
    let Guest {
        host, cpu, regs, ..
    } = &mut guest;
    entry::interrupt(host, cpu, Some(regs), Interrupt::Device(SERIAL_VECTOR));
    let output = guest.output();
    for part in [
        "r12 00000000feedf00d",
        "KiB free",
        "domain 0:",
        "vcpu 0: Running, Kernel mode",
    ] {
        assert!(output.contains(part), "no {part:?} in {output}");
    }
}
