//! Several vCPUs on the model machine, whose CPUs the test plays one after the other.

use dom0_abi::addr::{GuestAddr, PAGE_SHIFT};
use dom0_abi::arch::{CpuUserRegs, FLAT_CS64, FLAT_SS, VcpuGuestContext, VgcfFlags};
use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall::{SchedOp, SetTimerOp, VcpuOp};
use dom0_abi::ids::{DomId, VcpuId};
use dom0_abi::sched::{SchedPinOverride, SchedRemoteShutdown, SchedWatchdog};
use oxen_arch::boot::CpuId;
use oxen_arch::tlb::CpuSet;
use oxen_arch::{Cpu, FpuArea, Interrupt, Ipi};
use zerocopy::FromZeros;

use super::next;
use crate::audit;
use crate::budget::Budget;
use crate::domain::teardown::{self, Progress};
use crate::domain::vcpu::{GuestMode, Vcpu};
use crate::domain::{Capabilities, Domain};
use crate::frame::UndoQueue;
use crate::testing::{CODE, DATA, Guest, failure};
use crate::trap::entry;
use crate::trap::return_path::Next;

const INITIALISE: u64 = 0;
const UP: u64 = 1;
const DOWN: u64 = 2;
const IS_UP: u64 = 3;
const STOP_PERIODIC: u64 = 7;
const YIELD: u64 = 0;
const BLOCK: u64 = 1;

/// A domain of so many vCPUs on two CPUs, on which any of them may run.
fn guest(nr_vcpus: u32) -> Guest {
    let mut guest = Guest::with_vcpus(DomId::DOM0, Capabilities::all(), nr_vcpus, |_| {});
    assert_eq!(vcpu_op(&mut guest, STOP_PERIODIC, 0), 0);
    guest
}

fn vcpu_op(guest: &mut Guest, command: u64, vcpu: u32) -> i64 {
    guest.call(VcpuOp, [command, vcpu.into(), DATA])
}

/// What vCPU `number` begins with: its number in rbx, and a root like that of the first one.
fn context(guest: &Guest, number: u32) -> VcpuGuestContext {
    let mut context = VcpuGuestContext::new_zeroed();
    context.flags = VgcfFlags::IN_KERNEL.bits();
    let regs = &mut context.user_regs;
    (regs.rip, regs.cs) = (CODE + 0x100, FLAT_CS64);
    (regs.rsp, regs.ss) = (DATA + 0x3000, FLAT_SS);
    (regs.rbx, regs.rflags) = (number.into(), 1 << 9);
    context.fs_base = u64::from(number) << 12;
    context.gs_base_kernel = u64::from(number) << 13;
    context.gs_base_user = u64::from(number) << 14;
    context.kernel_sp = DATA + 0x3000;
    context.event_callback_eip = CODE + 0x200;
    context.ctrlreg[3] = guest.root.get() << PAGE_SHIFT;
    context
}

/// Initialises a vCPU and starts it; it may run on the CPUs of this set.
fn start(guest: &mut Guest, number: u32, on: &[u32]) {
    let context = context(guest, number);
    guest.put(DATA, &context);
    assert_eq!(vcpu_op(guest, INITIALISE, number), 0);
    assert_eq!(vcpu_op(guest, INITIALISE, number), failure(Errno::EEXIST));
    let on: CpuSet = on.iter().map(|&cpu| CpuId::new(cpu)).collect();
    with(guest, number, |guest, vcpu| {
        let now = guest.host.time.now(&guest.cpu);
        let scheduler = guest.host.scheduler();
        scheduler.set_affinity(vcpu.index, &on, &on, now).unwrap();
    });
    assert_eq!(vcpu_op(guest, IS_UP, number), 0);
    if vcpu_op_any(guest, UP, number) == Next::Schedule {
        go_on(guest);
    }
    assert!(!with(guest, number, |guest, vcpu| guest
        .host
        .scheduler()
        .is_down(vcpu.index)));
}

/// A call behind which the caller may have to leave, but need not.
fn vcpu_op_any(guest: &mut Guest, command: u64, vcpu: u32) -> Next {
    guest.regs.rax = VcpuOp.number();
    [guest.regs.rdi, guest.regs.rsi, guest.regs.rdx] = [command, vcpu.into(), DATA];
    guest.syscall()
}

fn with<R>(guest: &Guest, number: u32, look: impl FnOnce(&Guest, &Vcpu) -> R) -> R {
    guest.domain(|domain| look(guest, domain.vcpu(VcpuId::new(number)).unwrap()))
}

/// Whom a CPU runs.
fn runs(guest: &Guest, cpu: &Cpu) -> Option<u32> {
    let running = guest.host.pcpu(cpu).unwrap().running();
    running.map(|(_, vcpu)| vcpu.get())
}

#[test]
fn a_vcpu_begins_with_what_its_kernel_says() {
    let mut guest = guest(2);
    guest.host.cpu_up(&guest.other_cpu);
    let mut regs = CpuUserRegs::new_zeroed();
    assert_eq!(
        next(&guest.host, &guest.other_cpu, &mut regs),
        Next::Schedule
    );
    assert_eq!(vcpu_op(&mut guest, UP, 1), failure(Errno::EINVAL));
    start(&mut guest, 1, &[0, 1]);
    // It goes to the CPU that has nothing to do.
    let cpu = &guest.other_cpu;
    assert_eq!(cpu.take_interrupt(), Some(Interrupt::Ipi(Ipi::Reschedule)));
    assert_eq!(next(&guest.host, cpu, &mut regs), Next::Guest);
    assert_eq!(
        (runs(&guest, &guest.cpu), runs(&guest, cpu)),
        (Some(0), Some(1))
    );
    assert_eq!((regs.rip, regs.rbx), (CODE + 0x100, 1));
    assert_eq!(
        (cpu.fs_base(), cpu.gs_base(), cpu.user_gs_base()),
        (1 << 12, 1 << 13, 1 << 14)
    );
    with(&guest, 1, |_, vcpu| {
        let state = vcpu.lock();
        assert_eq!(
            (vcpu.mode(), state.callbacks.event),
            (GuestMode::Kernel, CODE + 0x200)
        );
    });
    audit::clean(&guest.host, &mut |finding| panic!("{finding}"));
}

#[test]
fn what_a_vcpu_cannot_begin_with_is_refused_and_nothing_stays() {
    let mut guest = guest(2);
    let references = guest.host.frames.type_state(guest.root);
    let good = context(&guest, 1);
    let bad: [fn(&mut VcpuGuestContext); 12] = [
        |context| context.user_regs.rip = 1 << 47,
        |context| context.user_regs.rsp = 1 << 63,
        |context| context.fs_base = 1 << 48,
        |context| context.gs_base_user = 1 << 47,
        |context| context.kernel_sp = 1 << 50,
        |context| context.failsafe_callback_eip = 1 << 47,
        |context| context.trap_ctxt[255].address = 1 << 47,
        |context| context.gdt_ents = 7169,
        |context| context.ldt_ents = 8193,
        |context| context.ctrlreg[3] = 0xdead << PAGE_SHIFT,
        |context| context.ctrlreg[1] = 0xdead << PAGE_SHIFT,
        |context| context.flags = 0,
    ];
    for spoil in bad {
        let mut context = good;
        spoil(&mut context);
        guest.put(DATA, &context);
        assert_eq!(vcpu_op(&mut guest, INITIALISE, 1), failure(Errno::EINVAL));
        assert_eq!(vcpu_op(&mut guest, UP, 1), failure(Errno::EINVAL));
        assert_eq!(guest.host.frames.type_state(guest.root), references);
    }
    let beyond = guest.call(VcpuOp, [INITIALISE, 1, DATA + 0x7000]);
    assert_eq!(beyond, failure(Errno::EFAULT));
    guest.put(DATA, &good);
    assert_eq!(vcpu_op(&mut guest, INITIALISE, 1), 0);
    assert_ne!(guest.host.frames.type_state(guest.root), references);
}

/// Lets the first CPU go on until it runs a guest, as its interrupts want it.
fn go_on(guest: &mut Guest) {
    let Guest {
        host, cpu, regs, ..
    } = guest;
    for _ in 0..100 {
        while let Some(what) = cpu.take_interrupt() {
            entry::interrupt(host, cpu, None, what);
        }
        if next(host, cpu, regs) == Next::Guest {
            return;
        }
    }
    panic!("nobody runs");
}

#[test]
fn those_who_share_a_cpu_have_their_own_registers_there() {
    let mut guest = guest(2);
    guest.regs.rbx = 0;
    start(&mut guest, 1, &[0]);
    let mut turns = [0; 2];
    for turn in 0..200_u64 {
        let number = runs(&guest, &guest.cpu).unwrap();
        turns[number as usize] += 1;
        assert_eq!(guest.regs.rbx, number.into());
        let mut area = FpuArea::new();
        guest.cpu.save_fpu(&mut area);
        let byte = if turns[number as usize] == 1 {
            0
        } else {
            number as u8 + 1
        };
        assert_eq!(area.as_bytes()[600], byte, "I30, turn {turn}");
        guest.cpu.fill_fpu(number as u8 + 1);
        if turns[number as usize] > 1 {
            let base = 0x1000 * (1 + u64::from(number));
            assert_eq!((guest.cpu.fs_base(), guest.regs.r15), (base, base));
        }
        let base = 0x1000 * (1 + u64::from(number));
        guest.cpu.set_fs_base(base).unwrap();
        guest.regs.r15 = base;
        // As long as it takes for the timer to fire.
        guest.cpu.wait_for_interrupt();
        let what = guest.cpu.take_interrupt().unwrap();
        let Guest {
            host, cpu, regs, ..
        } = &mut guest;
        entry::interrupt(host, cpu, Some(regs), what);
    }
    assert!(turns.iter().all(|&count| count > 80), "{turns:?}");
}

#[test]
fn who_yields_lets_others_go_first_and_who_is_alone_goes_on() {
    let mut guest = guest(2);
    assert_eq!(guest.call(SchedOp, [YIELD, 0]), 0);
    start(&mut guest, 1, &[0]);
    for _ in 0..4 {
        yields(&mut guest);
    }
}

/// Lets the vCPU that runs yield to the other one.
fn yields(guest: &mut Guest) {
    let before = runs(guest, &guest.cpu);
    guest.regs.rax = SchedOp.number();
    guest.regs.rdi = YIELD;
    assert_eq!(guest.syscall(), Next::Schedule);
    go_on(guest);
    assert_ne!(runs(guest, &guest.cpu), before);
}

#[test]
fn who_sleeps_is_woken_by_its_timer_and_by_others() {
    let mut guest = guest(1);
    guest.state(|state| state.callbacks.event = CODE);
    // Its VIRQ of timers, on port 1.
    guest.put(DATA, &[0_u32, 0, 0]);
    assert_eq!(
        guest.call(dom0_abi::hypercalls::Hypercall::EventChannelOp, [1, DATA]),
        0
    );
    let soon = guest.host.time.now(&guest.cpu) + 5_000_000;
    assert_eq!(guest.call(SetTimerOp, [soon]), 0);
    guest.regs.rax = SchedOp.number();
    guest.regs.rdi = BLOCK;
    assert_eq!(guest.syscall(), Next::Schedule);
    go_on(&mut guest);
    assert!(guest.host.time.now(&guest.cpu) >= soon);
    assert_eq!(guest.regs.rip, CODE);
}

#[test]
fn a_vcpu_that_is_down_waits_where_it_was() {
    let mut guest = guest(2);
    start(&mut guest, 1, &[0]);
    if runs(&guest, &guest.cpu) == Some(1) {
        yields(&mut guest);
    }
    assert_eq!(vcpu_op_any(&mut guest, DOWN, 0), Next::Schedule);
    go_on(&mut guest);
    assert_eq!(runs(&guest, &guest.cpu), Some(1));
    assert_eq!(vcpu_op(&mut guest, IS_UP, 0), 0);
    let _ = vcpu_op_any(&mut guest, UP, 0);
    assert_eq!(vcpu_op_any(&mut guest, DOWN, 1), Next::Schedule);
    go_on(&mut guest);
    assert_eq!((runs(&guest, &guest.cpu), guest.regs.rax), (Some(0), 0));
    assert_eq!(vcpu_op(&mut guest, IS_UP, 1), 0);
}

#[test]
fn a_domain_that_is_shut_down_leaves_all_cpus_and_its_memory_comes_back() {
    let guest = Guest::dom0();
    let free = guest.host.frames.statistics().free;
    let neighbour = guest.neighbour();
    let host = &guest.host;
    let domain = host.domains.get(neighbour.domid).unwrap();
    host.machine.take_ipi_log();
    host.shut_down(&guest.cpu, &domain, 3);
    host.shut_down(&guest.cpu, &domain, 3);
    assert!(!host.is_at_rest(&guest.cpu, &domain));
    assert_eq!(host.machine.take_ipi_log().len(), 1);
    let mut regs = neighbour.regs;
    let cpu = &guest.other_cpu;
    let what = cpu.take_interrupt().unwrap();
    assert_eq!(what, Interrupt::Ipi(Ipi::Reschedule));
    assert_eq!(entry::look_again(host, cpu, &mut regs), Next::Schedule);
    assert_eq!(next(host, cpu, &mut regs), Next::Schedule);
    assert!(host.is_at_rest(&guest.cpu, &domain));
    assert_eq!(runs(&guest, cpu), None);
    end(&guest, &domain);
    drop(domain);
    assert!(host.reap_domain(&guest.cpu, neighbour.domid, &mut { Budget::FULL }));
    assert_eq!(host.frames.statistics().free, free);
    // Another one has its place.
    let again = guest.neighbour();
    assert_eq!(again.regs.rip, CODE);
}

fn end(guest: &Guest, domain: &Domain) {
    let undo = UndoQueue::new();
    let memory = guest.host.memory(&guest.cpu, &undo);
    let mut budget = Budget::ENDLESS;
    let progress = teardown::release(memory, &guest.host.domains, domain, &mut budget);
    assert_eq!(progress, Progress::Done);
}

#[test]
fn another_domain_is_shut_down_by_who_controls_it_alone() {
    let mut guest = Guest::dom0();
    let neighbour = guest.neighbour();
    let request = |domain_id| SchedRemoteShutdown {
        domain_id,
        _pad0: 0,
        reason: 2,
    };
    let shut_down = |guest: &mut Guest, domain| {
        guest.put(DATA, &request(domain));
        guest.call(SchedOp, [4, DATA])
    };
    for (domain, errno) in [
        (DomId::DOM0, Errno::EPERM),
        (DomId::SELF, Errno::EPERM),
        (DomId::new(8), Errno::ESRCH),
        (DomId::new(0x7ff1), Errno::ESRCH),
    ] {
        assert_eq!(shut_down(&mut guest, domain), failure(errno));
    }
    assert_eq!(shut_down(&mut guest, neighbour.domid), 0);
    let domain = guest.host.domains.get(neighbour.domid).unwrap();
    assert_eq!(domain.shutdown.reason().map(|reason| reason.0), Some(2));
    drop(domain);
    let mut other = Guest::ordinary();
    assert_eq!(shut_down(&mut other, DomId::DOM0), failure(Errno::EPERM));
}

#[test]
fn a_watchdog_that_nobody_sees_to_ends_its_domain() {
    let mut guest = Guest::ordinary();
    let set = |guest: &mut Guest, id, timeout| {
        guest.put(DATA, &SchedWatchdog { id, timeout });
        guest.call(SchedOp, [6, DATA])
    };
    let einval = failure(Errno::EINVAL);
    assert_eq!(set(&mut guest, 0, 0), einval);
    assert_eq!(set(&mut guest, 1, 5), einval);
    assert_eq!(set(&mut guest, 0, 5), 1);
    assert_eq!(set(&mut guest, 0, 50), 2);
    assert_eq!(set(&mut guest, 0, 5), failure(Errno::ENOSPC));
    assert_eq!(
        (set(&mut guest, 3, 5), set(&mut guest, u32::MAX, 5)),
        (einval, einval)
    );
    assert_eq!((set(&mut guest, 2, 0), set(&mut guest, 2, 1)), (0, einval));
    assert_eq!(set(&mut guest, 1, 9), 0);
    let start = guest.host.time.now(&guest.cpu);
    while !guest.domain(|domain| domain.shutdown.is_down()) {
        guest.cpu.wait_for_interrupt();
        if let Some(what) = guest.cpu.take_interrupt() {
            entry::interrupt(&guest.host, &guest.cpu, None, what);
        }
    }
    let took = guest.host.time.now(&guest.cpu) - start;
    assert!((8_900_000_000..9_100_000_000).contains(&took), "{took}");
    let reason = guest.domain(|domain| domain.shutdown.reason());
    assert_eq!(reason.map(|reason| reason.0), Some(4));
    assert!(guest.cpu.has_notes());
}

#[test]
fn who_is_pinned_runs_there_until_that_ends() {
    let mut guest = guest(1);
    guest.host.cpu_up(&guest.other_cpu);
    with(&guest, 0, |guest, vcpu| {
        let all = CpuSet::from_words([u64::MAX; CpuSet::WORDS]);
        let now = guest.host.time.now(&guest.cpu);
        let _ = guest
            .host
            .scheduler()
            .set_affinity(vcpu.index, &all, &all, now);
    });
    go_on(&mut guest);
    let pin = |guest: &mut Guest, pcpu: i32| {
        guest.put(DATA, &SchedPinOverride { pcpu });
        guest.regs.rax = SchedOp.number();
        [guest.regs.rdi, guest.regs.rsi] = [7, DATA];
        let next = guest.syscall();
        (next, guest.regs.rax as i64)
    };
    for pcpu in [-1, 2, 255, 256, i32::MAX] {
        assert_eq!(pin(&mut guest, pcpu), (Next::Guest, failure(Errno::EINVAL)));
    }
    assert_eq!(pin(&mut guest, 1), (Next::Schedule, 0));
    assert_eq!(
        next(&guest.host, &guest.cpu, &mut guest.regs),
        Next::Schedule
    );
    let mut regs = CpuUserRegs::new_zeroed();
    assert_eq!(next(&guest.host, &guest.other_cpu, &mut regs), Next::Guest);
    assert_eq!(
        (runs(&guest, &guest.cpu), runs(&guest, &guest.other_cpu)),
        (None, Some(0))
    );
    let pinned = with(&guest, 0, |guest, vcpu| {
        guest.host.scheduler().pin_override(vcpu.index)
    });
    assert_eq!(pinned, Some(CpuId::new(1)));
    let on_other: [u8; 4] = guest.other_cpu.read_guest(GuestAddr::new(DATA)).unwrap();
    assert_eq!(on_other, 1_i32.to_le_bytes());
    let mut other = Guest::ordinary();
    other.put(DATA, &SchedPinOverride { pcpu: 0 });
    assert_eq!(other.call(SchedOp, [7, DATA]), failure(Errno::EPERM));
}
