//! What events, timers and wake-ups cost does not grow with the machine: accesses to shared words are counted, each load, store and
//! locked operation, those to guests' memory too. Only the build that counts has these tests (`counters`).
//!
//! Where something is kept in order, by its time or its turn, a way into a heap or tree may be longer by what a level of it costs.

use dom0_abi::addr::GuestAddr;
use dom0_abi::arch::CpuUserRegs;
use dom0_abi::event_channel::{AllocUnbound, BindInterdomain, EventChannelCommand};
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::{DomId, Port, VcpuId};
use oxen_arch::counters::accesses;
use oxen_arch::registers::ENTRY_SYSCALL;
use oxen_arch::{Cpu, Ipi, SimConfig};
use zerocopy::{FromZeros, Immutable, IntoBytes};

use crate::domain::Capabilities;
use crate::event::send::send;
use crate::host::Host;
use crate::switch;
use crate::testing::{DATA, Guest, start};
use crate::trap::entry;
use crate::trap::return_path::Next;

const FEW: u16 = 2;
const MANY: u16 = 1000;
/// The number of the first domain that sleeps.
const FIRST: u16 = 10;
/// A command of `vcpu_op`.
const STOP_PERIODIC: u64 = 7;
/// Cycles of the model machine's clock: ten seconds.
const A_WHILE: u64 = 20_000_000_000;
/// How much higher a balanced tree of a thousand is than one of two, at most.
const LEVELS: u64 = 13;
/// At most so many accesses are made for a level of a queue of the scheduler, which changes on the way down and up.
const PER_LEVEL_OF_TREE: u64 = 32;
/// A leftist heap of a thousand has ways to the right of at most nine steps. To set a timer goes such ways twice: out, and in.
const STEPS_OF_HEAP: u64 = 2 * 9;
/// At most so many accesses are made for each: down, and up again.
const PER_STEP_OF_HEAP: u64 = 12;

/// Domains on CPU 1 that sleep, each with a timer there, and a port whose other end is one of the first domain's.
struct Machine {
    guest: Guest,
    /// The first domain's ports, in the order of the domains.
    ports: Vec<Port>,
}

/// Makes a hypercall on a CPU.
fn call(host: &Host, cpu: &Cpu, regs: &CpuUserRegs, call: Hypercall, args: [u64; 2]) -> Next {
    let mut regs = *regs;
    regs.rax = call.number();
    [regs.rdi, regs.rsi] = args;
    regs.entry_vector = ENTRY_SYSCALL;
    let next = entry::handle_syscall(host, cpu, &mut regs);
    assert!(
        next != Next::Guest || regs.rax == 0,
        "{call:?} {}",
        regs.rax
    );
    next
}

fn events<T: IntoBytes + Immutable>(
    host: &Host,
    cpu: &Cpu,
    regs: &CpuUserRegs,
    command: EventChannelCommand,
    argument: &T,
) {
    let at = GuestAddr::new(DATA);
    cpu.write_guest(at, argument).unwrap();
    let args = [command.get().into(), DATA];
    assert_eq!(
        call(host, cpu, regs, Hypercall::EventChannelOp, args),
        Next::Guest
    );
}

impl Machine {
    fn new(sleepers: u16) -> Self {
        let guest = Guest::configured(DomId::new(7), Capabilities::empty(), |config| {
            // So much that there is a number for each vCPU.
            config.memory_map = SimConfig::new(1200 << 20).memory_map;
        });
        // With an interrupt waiting no CPU idles until its next timer.
        let idle = guest.other_cpu.id();
        guest.host.machine.interrupt(idle, Ipi::Event);
        let mut machine = Self {
            guest,
            ports: Vec::new(),
        };
        for number in 0..sleepers {
            machine.add(DomId::new(FIRST + number), u64::from(number));
        }
        // All of them have slept so long that it does not matter how long.
        machine.guest.host.machine.advance_tsc(A_WHILE);
        machine
    }

    fn add(&mut self, id: DomId, number: u64) {
        let Guest {
            host,
            cpu,
            other_cpu,
            regs,
            domid,
            ..
        } = &self.guest;
        let unbound = AllocUnbound {
            dom: DomId::SELF,
            remote_dom: id,
            port: Port::new(0),
        };
        events(host, cpu, regs, EventChannelCommand::AllocUnbound, &unbound);
        let made: AllocUnbound = self.guest.get(DATA);
        let (mut own, ..) = start(host, other_cpu, id, Capabilities::empty(), 1);
        let mut bind = BindInterdomain::new_zeroed();
        (bind.remote_dom, bind.remote_port) = (*domid, made.port);
        events(
            host,
            other_cpu,
            &own,
            EventChannelCommand::BindInterdomain,
            &bind,
        );
        // Each behind the one before: that makes the longest ways to the right.
        let then = (1 << 40) + number * 1000;
        let set = call(host, other_cpu, &own, Hypercall::SetTimerOp, [then, 0]);
        assert_eq!(set, Next::Guest);
        // What came when the port was bound is taken note of.
        let shared = host.domains.get(id).unwrap().shared_info;
        host.mem().write(shared.at(0), &0_u8).unwrap();
        host.mem().store_u64(shared.at(8), 0).unwrap();
        host.mem().store_u64(shared.at(2048), 0).unwrap();
        let slept = call(host, other_cpu, &own, Hypercall::SchedOp, [1, 0]);
        assert_eq!(slept, Next::Schedule);
        assert_eq!(switch::next(host, other_cpu, &mut own), Next::Schedule);
        self.ports.push(made.port);
    }

    /// What it costs to send an event to a domain of a place in the row, behind the reading of the argument: how the model machine finds a
    /// guest's memory is chance.
    fn send(&self, place: usize) -> u64 {
        let Guest { host, cpu, .. } = &self.guest;
        let domain = host.domains.get(self.guest.domid).unwrap();
        let before = accesses();
        assert_eq!(send(host, cpu, &domain, self.ports[place]), Ok(()));
        accesses() - before
    }

    /// What it costs to wake the vCPU of a domain.
    fn wake(&self, place: usize) -> u64 {
        let Guest { host, cpu, .. } = &self.guest;
        let id = DomId::new(FIRST + place as u16);
        let domain = host.domains.get(id).unwrap();
        let vcpu = domain.vcpu(VcpuId::new(0)).unwrap();
        let before = accesses();
        host.kick(cpu, vcpu);
        let cost = accesses() - before;
        let info = host.scheduler().info(vcpu.index, host.time.now(cpu));
        assert!(!info.unwrap().is_blocked);
        cost
    }
}

#[test]
fn to_send_an_event_costs_the_same_with_a_thousand_domains() {
    let costs = |sleepers: u16| {
        let machine = Machine::new(sleepers);
        let last = usize::from(sleepers) - 1;
        // Those that wake somebody, the first and another one; and those that are pending already.
        [0, last, 0, last].map(|place| machine.send(place))
    };
    let few = costs(FEW);
    assert!(few[0] > few[2] && few[2] > 0, "{few:?}");
    assert_eq!(few, costs(MANY));
}

#[test]
fn to_wake_a_vcpu_costs_the_same_with_a_thousand_that_sleep() {
    let costs = |sleepers: u16| {
        let machine = Machine::new(sleepers);
        [0, usize::from(sleepers) - 1].map(|place| machine.wake(place))
    };
    let few = costs(FEW);
    assert!(few[0] > 0, "{few:?}");
    assert_eq!(few, costs(MANY));
}

#[test]
fn to_wake_a_vcpu_costs_a_few_levels_of_a_tree_more_with_a_thousand_that_are_ready() {
    let most = |sleepers: u16| {
        let machine = Machine::new(sleepers);
        let costs = (0..usize::from(sleepers)).map(|place| machine.wake(place));
        costs.max().unwrap()
    };
    let (few, many) = (most(FEW), most(MANY));
    assert!(many <= few + LEVELS * PER_LEVEL_OF_TREE, "{few} {many}");
}

#[test]
fn to_set_a_timer_costs_a_few_steps_of_a_heap_more_with_a_thousand_that_are_set() {
    let most = |sleepers: u16| {
        let machine = Machine::new(sleepers);
        let Guest {
            host, other_cpu, ..
        } = &machine.guest;
        let id = DomId::new(FIRST + sleepers);
        let (regs, ..) = start(host, other_cpu, id, Capabilities::empty(), 1);
        // It ticks from the beginning, which would come before all that is set.
        let stopped = call(
            host,
            other_cpu,
            &regs,
            Hypercall::VcpuOp,
            [STOP_PERIODIC, 0],
        );
        assert_eq!(stopped, Next::Guest);
        let mut most = 0;
        for turn in 0..2000_u64 {
            // Before all others, behind them, between them, or none any more.
            let time = match turn % 4 {
                0 => (1 << 39) + turn,
                1 => (1 << 41) + turn,
                2 => (1 << 40) + turn * 7919 % 1000 * 1000,
                _ => 0,
            };
            let before = accesses();
            let set = call(host, other_cpu, &regs, Hypercall::SetTimerOp, [time, 0]);
            assert_eq!(set, Next::Guest);
            most = most.max(accesses() - before);
            if turn % 4 == 0 {
                assert_eq!(host.time.queues.first(other_cpu.id()), Some(time));
            }
        }
        most
    };
    let (few, many) = (most(FEW), most(MANY));
    let bound = few + STEPS_OF_HEAP * PER_STEP_OF_HEAP;
    assert!(many <= bound, "{few} {many}");
}
