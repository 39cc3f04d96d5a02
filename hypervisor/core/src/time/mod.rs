//! Time: what the clock means, what guests are told of it, and what happens at some time.
//!
//! *System time* is nanoseconds since the hypervisor began, by a scale that guests are told: so a guest that reads its own
//! time-stamp counter comes to the same number as we do. All times here are of it.

pub mod areas;
pub mod guest;
pub mod queue;
pub mod runstate;
pub mod scale;
pub mod timers;
pub mod wall;

use dom0_abi::sched::ShutdownReason;
use dom0_abi::xen::Virq;
use oxen_arch::sync::atomic::Ordering;
use oxen_arch::{CalendarTime, ClockTime, Cpu, Machine, Notes};

use crate::domain::Domain;
use crate::domain::vcpu::Vcpu;
use crate::event::virq;
use crate::host::Host;
use queue::Queues;
use scale::Scale;
use timers::Change;
use wall::WallClock;

/// A time that does not come.
pub(crate) const NEVER: u64 = u64::MAX;
/// How many vCPUs are told of their timers before the CPU looks at something else.
const BATCH: usize = 32;

/// The time of a machine.
pub struct Time {
    scale: Scale,
    start: ClockTime,
    /// The counters of all CPUs are alike.
    is_stable: bool,
    /// What is to happen on each CPU.
    pub(crate) queues: Queues,
    /// What time it is outside.
    pub(crate) wall: WallClock,
    /// What the real-time clock said when the hypervisor began, to a second.
    pub real_time_clock: Option<CalendarTime>,
}

impl Time {
    /// System time begins now. `vcpus`: how many there can be. `None`: there is too little memory.
    pub fn new(machine: &Machine, cpu: &Cpu, vcpus: usize) -> Option<Self> {
        let (scale, start) = (Scale::of_khz(machine.tsc_khz()), cpu.clock());
        let real_time_clock = machine.real_time_clock();
        let read_at = scale.nanoseconds(start.until(cpu.clock()));
        Some(Self {
            scale,
            start,
            is_stable: machine.clocks_agree(),
            queues: Queues::new(machine, vcpus)?,
            wall: WallClock::new(real_time_clock, read_at),
            real_time_clock,
        })
    }

    /// System time.
    pub fn now(&self, cpu: &Cpu) -> u64 {
        self.scale.nanoseconds(self.start.until(cpu.clock()))
    }

    /// The clock at a system time.
    fn clock_at(&self, time: u64) -> ClockTime {
        self.start.after(self.scale.cycles(time))
    }
}

impl Host {
    /// Sets the CPU's timer to what is to be done first, for a vCPU or by the scheduler.
    pub(crate) fn arm(&self, cpu: &Cpu) {
        self.arm_if(cpu, |first, armed| first != armed);
    }

    /// Sets it if `is_needed` says so of what is to be done first, and what it is set to.
    fn arm_if(&self, cpu: &Cpu, is_needed: impl FnOnce(u64, u64) -> bool) {
        let Some(pcpu) = self.pcpu(cpu) else {
            return;
        };
        let first = self.time.queues.first(cpu.id()).unwrap_or(NEVER);
        let first = first.min(pcpu.asks_at.load(Ordering::Relaxed));
        if is_needed(first, pcpu.armed.load(Ordering::Relaxed)) {
            pcpu.armed.store(first, Ordering::Relaxed);
            let is_ever = first != NEVER;
            cpu.set_timer(is_ever.then(|| self.time.clock_at(first)));
        }
    }

    /// The CPU asks the scheduler again at this time at the latest. Its timer is not set to later than it was: an interrupt for nothing,
    /// once, is cheaper than to set it each time.
    pub(crate) fn ask_at(&self, cpu: &Cpu, time: Option<u64>) {
        if let Some(pcpu) = self.pcpu(cpu) {
            pcpu.asks_at.store(time.unwrap_or(NEVER), Ordering::Relaxed);
            self.arm_if(cpu, |first, armed| first < armed);
        }
    }

    /// Lets what is to happen to a vCPU happen on this CPU, which runs it from now on.
    pub(crate) fn bring_timers(&self, cpu: &Cpu, vcpu: &Vcpu) {
        if (vcpu.timers).come_here(&self.time.queues, cpu, vcpu.index) {
            self.arm(cpu);
        }
    }

    /// Changes a timer of a vCPU; it fires on this CPU.
    pub fn change_timer(&self, cpu: &Cpu, vcpu: &Vcpu, change: Change) {
        let (queues, now) = (&self.time.queues, || self.time.now(cpu));
        if vcpu.timers.change(queues, cpu, vcpu.index, now, change) {
            self.arm(cpu);
        }
    }

    /// Sets the timer of a vCPU that fires once, on this CPU. One whose time has passed `now` does so here, without an interrupt.
    pub fn set_once(&self, cpu: &Cpu, domain: &Domain, vcpu: &Vcpu, now: u64, time: u64) {
        let is_due = time <= now;
        self.change_timer(cpu, vcpu, Change::Once((!is_due).then_some(time)));
        if is_due {
            virq::raise(self, cpu, domain, vcpu, Virq::Timer);
        }
    }

    /// Does what is to be done by now on this CPU, whose timer has fired.
    pub fn timer_fired(&self, cpu: &Cpu) {
        let now = self.time.now(cpu);
        if let Some(pcpu) = self.pcpu(cpu) {
            pcpu.armed.store(NEVER, Ordering::Relaxed);
            if pcpu.asks_at.load(Ordering::Relaxed) <= now {
                pcpu.asks_at.store(NEVER, Ordering::Relaxed);
                cpu.note(Notes::SCHEDULE);
            }
        }
        let due = || self.time.queues.take_due(cpu.id(), now);
        for index in core::iter::from_fn(due).take(BATCH) {
            let Some((domain, vcpu)) = self.vcpu_numbers.get(index) else {
                continue;
            };
            // Its number may be another one's by now, whose timers say so.
            if let Some(domain) = self.domains.get(domain)
                && let Some(vcpu) = domain.vcpu(vcpu)
            {
                self.tell_due(cpu, &domain, vcpu, now);
            }
        }
        self.arm(cpu);
    }

    /// A vCPU sleeps from now on: only what happens to it once wakes it.
    pub fn sleep_begins(&self, cpu: &Cpu, vcpu: &Vcpu) {
        vcpu.timers.sleep_begins(&self.time.queues, cpu, vcpu.index);
    }

    /// A vCPU sleeps no more, and hears of what it has missed.
    pub fn sleep_ends(&self, cpu: &Cpu, domain: &Domain, vcpu: &Vcpu) {
        let (queues, now) = (&self.time.queues, self.time.now(cpu));
        let (has_missed, is_first) = vcpu.timers.sleep_ends(queues, cpu, vcpu.index, now);
        if has_missed {
            virq::raise(self, cpu, domain, vcpu, Virq::Timer);
        }
        if is_first {
            self.arm(cpu);
        }
    }

    fn tell_due(&self, cpu: &Cpu, domain: &Domain, vcpu: &Vcpu, now: u64) {
        let due = (vcpu.timers).take_due(&self.time.queues, cpu, vcpu.index, now);
        if due.timer {
            virq::raise(self, cpu, domain, vcpu, Virq::Timer);
        }
        if due.watchdog {
            let reason = ShutdownReason::Watchdog.get() as u8;
            self.shut_down(cpu, domain, reason);
        }
        if due.poll {
            vcpu.signals.end_poll();
            self.kick(cpu, vcpu);
        }
    }
}
