//! `vcpu_op` and `set_timer_op`. What fires when is shown by `tests/guests/timers`; here: that it costs nobody else anything, and what stays.

use dom0_abi::addr::GuestAddr;
use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall::{SchedOp, SetTimerOp, VcpuOp};
use dom0_abi::ids::VcpuId;
use dom0_abi::vcpu::{VcpuRegisterVcpuInfo, VcpuRunstateInfo, VcpuSetSingleshotTimer};
use dom0_abi::xen::VcpuInfo;
use oxen_arch::Interrupt;
use oxen_arch::boot::CpuId;
use oxen_arch::tlb::CpuSet;

use crate::audit;
use crate::frame::UndoQueue;
use crate::switch;
use crate::testing::{DATA, DATA_END, Guest, failure, frame};
use crate::trap::entry;
use crate::trap::return_path::Next;

const INITIALISE: u64 = 0;
const UP: u64 = 1;
const IS_UP: u64 = 3;
const RUNSTATE_AREA: u64 = 5;
const SINGLESHOT: u64 = 8;
const STOP_SINGLESHOT: u64 = 9;
const VCPU_INFO: u64 = 10;
const NMI: u64 = 11;
const PHYSID: u64 = 12;

fn op(guest: &mut Guest, command: u64, vcpu: u64) -> i64 {
    guest.call(VcpuOp, [command, vcpu, DATA])
}

/// Stops the timer that runs from the beginning.
fn stop_ticks(guest: &mut Guest) {
    assert_eq!(op(guest, 7, 0), 0);
}

fn first(guest: &Guest) -> Option<u64> {
    guest.host.time.queues.first(guest.cpu.id())
}

#[test]
fn who_is_not_there_is_not_found() {
    let mut guest = Guest::ordinary();
    for command in [14, u64::from(u32::MAX)] {
        assert_eq!(op(&mut guest, command, 0), failure(Errno::ENOSYS));
    }
    assert_eq!(op(&mut guest, INITIALISE, 0), failure(Errno::EEXIST));
    assert_eq!(op(&mut guest, UP, 0), 0);
    for command in 0..20 {
        for vcpu in [1, 127, 128, u64::from(u32::MAX)] {
            assert_eq!(op(&mut guest, command, vcpu), failure(Errno::ENOENT));
        }
    }
    assert_eq!(op(&mut guest, IS_UP, 0), 1);
}

#[test]
fn a_physical_cpu_is_named_to_who_owns_it_and_is_tied_to_it() {
    let on = |guest: &Guest, cpus: &[u32]| {
        let cpus: CpuSet = cpus.iter().copied().map(CpuId::new).collect();
        guest.domain(|domain| {
            let index = domain.vcpu(VcpuId::new(0)).unwrap().index;
            let scheduler = guest.host.scheduler();
            scheduler.set_affinity(index, &cpus, &cpus, 0).unwrap();
        });
    };
    let mut dom0 = Guest::dom0();
    dom0.host.cpu_up(&dom0.other_cpu);
    dom0.put(DATA, &7_u64);
    for cpus in [&[0, 1][..], &[1, 2, 3, 64], &[0, 200]] {
        on(&dom0, cpus);
        assert_eq!(op(&mut dom0, PHYSID, 0), failure(Errno::EINVAL));
    }
    assert_eq!(dom0.get::<u64>(DATA), 7);
    on(&dom0, &[1]);
    assert_eq!(op(&mut dom0, PHYSID, 0), 0);
    // APIC and ACPI of the model machine.
    assert_eq!(dom0.get::<u64>(DATA), 2 << 32 | 1);
    let nowhere = dom0.call(VcpuOp, [PHYSID, 0, DATA_END]);
    assert_eq!(nowhere, failure(Errno::EFAULT));
    let mut ordinary = Guest::ordinary();
    on(&ordinary, &[0]);
    assert_eq!(op(&mut ordinary, PHYSID, 0), failure(Errno::EINVAL));
}

#[test]
fn a_timer_is_in_the_queue_of_its_cpu_until_it_ends() {
    let mut guest = Guest::ordinary();
    assert!(first(&guest).is_some(), "it ticks from the beginning");
    stop_ticks(&mut guest);
    assert_eq!(first(&guest), None);
    let timer = |timeout_abs_ns| VcpuSetSingleshotTimer {
        timeout_abs_ns,
        flags: 0,
        _pad0: 0,
    };
    guest.put(DATA, &timer(5_000_000));
    assert_eq!(op(&mut guest, SINGLESHOT, 0), 0);
    assert_eq!(first(&guest), Some(5_000_000));
    assert!(guest.cpu.timer().is_some());
    assert_eq!(op(&mut guest, STOP_SINGLESHOT, 0), 0);
    assert_eq!(first(&guest), None);
    assert_eq!(guest.call(SetTimerOp, [7_000_000]), 0);
    assert_eq!(first(&guest), Some(7_000_000));
    assert_eq!(guest.call(SetTimerOp, [0]), 0);
    assert_eq!(first(&guest), None);
    // One that is long over has come.
    assert_eq!(guest.call(SetTimerOp, [1]), 0);
    guest.put(DATA, &timer(1));
    assert_eq!(op(&mut guest, SINGLESHOT, 0), 0);
    assert_eq!(first(&guest), None);
    // One in a thousand years comes soon.
    for time in [u64::MAX, 1 << 62] {
        assert_eq!(guest.call(SetTimerOp, [time]), 0);
        let soon = guest.host.time.now(&guest.cpu) + 100_000_000;
        assert!(first(&guest).unwrap() <= soon);
    }
}

#[test]
fn who_waits_for_a_timer_sleeps_until_then() {
    let mut guest = Guest::ordinary();
    stop_ticks(&mut guest);
    assert_eq!(guest.call(SetTimerOp, [900_000_000]), 0);
    guest.regs.rax = SchedOp.number();
    guest.regs.rdi = 1;
    assert_eq!(guest.syscall(), Next::Schedule);
    guest.cpu.wait_for_interrupt();
    assert_eq!(guest.cpu.take_interrupt(), Some(Interrupt::Timer));
    entry::interrupt(&guest.host, &guest.cpu, None, Interrupt::Timer);
    assert!(guest.host.time.now(&guest.cpu) >= 900_000_000);
    assert_eq!((first(&guest), guest.cpu.timer()), (None, None), "no tick");
}

#[test]
fn time_that_is_slept_is_accounted_for() {
    let mut guest = Guest::ordinary();
    stop_ticks(&mut guest);
    guest.state(|state| state.callbacks.event = DATA);
    guest.put(DATA, &(DATA + 0x800));
    assert_eq!(op(&mut guest, RUNSTATE_AREA, 0), 0);
    assert_eq!(guest.call(SetTimerOp, [800_000_000]), 0);
    guest.regs.rax = SchedOp.number();
    guest.regs.rdi = 1;
    assert_eq!(guest.syscall(), Next::Schedule);
    let Guest {
        host,
        cpu,
        regs,
        domid,
        shared_info,
        ..
    } = &mut guest;
    assert_eq!(switch::next(host, cpu, regs), Next::Schedule);
    let sleeper = host.domains.get(*domid).unwrap();
    let sleeper = sleeper.vcpu(VcpuId::new(0)).unwrap();
    let info = || sleeper.runstate.info(host.time.now(cpu));
    assert_eq!(info().state, 2);
    host.kick(cpu, sleeper);
    assert_eq!(info().state, 1);
    host.mem().store_u16(shared_info.at(0), 1).unwrap();
    assert_eq!(switch::next(host, cpu, regs), Next::Guest);
    assert_eq!(info().state, 0);
    let area: VcpuRunstateInfo = cpu.read_guest(GuestAddr::new(DATA + 0x800)).unwrap();
    assert!(area.state == 0 && area.time[2] > 700_000_000, "{area:?}");
}

#[test]
fn vcpu_info_is_moved_once_with_all_that_is_in_it() {
    let mut guest = Guest::ordinary();
    let undo = UndoQueue::new();
    let page = frame(guest.host.memory(&guest.cpu, &undo), guest.domid);
    let place = |mfn, offset| VcpuRegisterVcpuInfo {
        mfn,
        offset,
        rsvd: 0,
    };
    for offset in [4, 4033, 4096, u32::MAX] {
        guest.put(DATA, &place(page.get(), offset));
        assert_eq!(op(&mut guest, VCPU_INFO, 0), failure(Errno::ENXIO));
    }
    for mfn in [guest.root.get(), 1 << 40, u64::MAX, 0] {
        guest.put(DATA, &place(mfn, 64));
        assert_eq!(op(&mut guest, VCPU_INFO, 0), failure(Errno::EINVAL));
    }
    guest.set_mask(1);
    guest.put(DATA, &place(page.get(), 64));
    assert_eq!(op(&mut guest, VCPU_INFO, 0), 0);
    let info: VcpuInfo = guest.host.mem().read(page.at(64)).unwrap();
    assert_eq!(
        (info.evtchn_upcall_pending, info.evtchn_upcall_mask),
        (1, 1)
    );
    assert_eq!(info.evtchn_pending_sel, u64::MAX);
    assert!(info.time.tsc_to_system_mul != 0 && info.time.version.is_multiple_of(2));
    assert_eq!(op(&mut guest, VCPU_INFO, 0), failure(Errno::EINVAL));
    audit::clean(&guest.host, &mut |finding| panic!("{finding}"));
    // The old place means nothing any more.
    guest.set_mask(0);
    let upcall = guest.domain(|domain| {
        domain
            .vcpu(VcpuId::new(0))
            .unwrap()
            .upcall
            .read(guest.host.mem())
    });
    assert!(upcall.is_pending() && !upcall.is_deliverable());
}

#[test]
fn a_domain_without_a_vcpu_that_is_up_has_shut_down() {
    let mut guest = Guest::ordinary();
    guest.regs.rax = VcpuOp.number();
    [guest.regs.rdi, guest.regs.rsi] = [2, 0];
    assert_eq!(guest.syscall(), Next::Schedule);
    let reason = guest.domain(|domain| domain.shutdown.reason());
    assert_eq!(reason.map(|reason| reason.0), Some(0));
}

#[test]
fn an_nmi_to_oneself_is_delivered() {
    let mut guest = Guest::ordinary();
    guest.set_trap(2, 0, 0x1234_5000);
    guest.regs.rax = VcpuOp.number();
    [guest.regs.rdi, guest.regs.rsi] = [NMI, 0];
    assert_eq!(guest.syscall(), Next::Guest);
    assert_eq!(guest.regs.rip, 0x1234_5000);
}
