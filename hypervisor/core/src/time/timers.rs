//! The timers of a vCPU: one that fires once, one that fires again and again, the end of a poll, and what ends the domain if it does not see to it.
//!
//! Who sleeps is not woken by what happens again and again: it hears of it when it wakes.
//!
//! INVARIANT: what is in the queue of a CPU for a vCPU (`queue`) is the earliest of its timers, or nothing is: both are changed together
//! under the lock here, rank `Time`. What fires is told to the guest when the lock is given back.

use oxen_arch::Cpu;
use oxen_arch::sync::{Rank, SpinLock};

use super::NEVER;
use super::queue::Queues;
use crate::sched::VcpuIndex;

/// The shortest period: 1 ms. What would fire more often does so as rarely as that.
pub const SHORTEST_PERIOD: u64 = 1_000_000;

/// How often the timer fires of a vCPU that has not said anything yet.
pub const FIRST_PERIOD: u64 = 10_000_000;

/// A change of one of the timers. Times are nanoseconds of system time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// The one that fires once: then, or not at all.
    Once(Option<u64>),
    /// The one that fires again and again, every so many nanoseconds from now on, or not at all.
    Periodic(Option<u64>),
    /// The end of a poll.
    Poll(Option<u64>),
    /// One of those that shut the domain down, of the first vCPU: then, or it is given back.
    Watchdog(usize, Option<u64>),
}

/// How many timers a domain has that shut it down.
pub const WATCHDOGS: usize = 2;

/// What has come to its time.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Due {
    /// The guest's timer.
    pub timer: bool,
    /// The end of a poll.
    pub poll: bool,
    /// The end of the domain.
    pub watchdog: bool,
}

#[derive(Clone, Copy, Debug)]
struct Period {
    next: u64,
    length: u64,
}

#[derive(Debug)]
struct Times {
    once: Option<u64>,
    period: Option<Period>,
    poll: Option<u64>,
    watchdogs: [Option<u64>; WATCHDOGS],
    /// The vCPU sleeps: nothing happens again and again to it.
    sleeps: bool,
}

/// The timers of one vCPU.
#[derive(Debug)]
pub struct VcpuTimers(SpinLock<Times>);

impl Default for VcpuTimers {
    fn default() -> Self {
        Self::new()
    }
}

impl VcpuTimers {
    /// None is set.
    pub const fn new() -> Self {
        let times = Times {
            once: None,
            period: None,
            poll: None,
            watchdogs: [None; WATCHDOGS],
            sleeps: false,
        };
        Self(SpinLock::new(Rank::Time, times))
    }

    /// Changes one of them; `now` is asked where it matters. Returns whether this CPU has something else to do first than before.
    pub fn change(
        &self,
        queues: &Queues,
        cpu: &Cpu,
        vcpu: VcpuIndex,
        now: impl FnOnce() -> u64,
        change: Change,
    ) -> bool {
        let mut times = self.0.lock();
        match change {
            Change::Once(time) => times.once = time,
            Change::Periodic(length) => {
                times.period = length.map(|length| Period {
                    next: now().saturating_add(length),
                    length: length.max(SHORTEST_PERIOD),
                });
            }
            Change::Poll(time) => times.poll = time,
            Change::Watchdog(index, time) => {
                if let Some(watchdog) = times.watchdogs.get_mut(index) {
                    *watchdog = time;
                }
            }
        }
        queues.set(cpu.id(), vcpu, times.first())
    }

    /// Takes what has come to its time; the rest goes on on this CPU.
    pub fn take_due(&self, queues: &Queues, cpu: &Cpu, vcpu: VcpuIndex, now: u64) -> Due {
        let mut times = self.0.lock();
        let is_due = |time: u64| time <= now;
        let once = times.once.take_if(|time| is_due(*time)).is_some();
        let poll = times.poll.take_if(|time| is_due(*time)).is_some();
        let watchdogs = times.watchdogs.iter_mut();
        let ended = watchdogs.filter_map(|time| time.take_if(|time| is_due(*time)));
        let watchdog = ended.count() > 0;
        let mut again = false;
        if !times.sleeps
            && let Some(period) = &mut times.period
            && is_due(period.next)
        {
            again = true;
            period.skip_to(now);
        }
        queues.set(cpu.id(), vcpu, times.first());
        Due {
            timer: once || again,
            poll,
            watchdog,
        }
    }

    /// Whether one of the timers that end the domain is set.
    pub fn has_watchdog(&self, index: usize) -> bool {
        let times = self.0.lock();
        times.watchdogs.get(index).copied().flatten().is_some()
    }

    /// Says that the vCPU sleeps from now on.
    pub fn sleep_begins(&self, queues: &Queues, cpu: &Cpu, vcpu: VcpuIndex) {
        let mut times = self.0.lock();
        times.sleeps = true;
        if times.period.is_some() {
            queues.set(cpu.id(), vcpu, times.first());
        }
    }

    /// Says that it sleeps no more. Returns whether what happens again and again would have happened meanwhile, and as [`Self::change`].
    pub fn sleep_ends(
        &self,
        queues: &Queues,
        cpu: &Cpu,
        vcpu: VcpuIndex,
        now: u64,
    ) -> (bool, bool) {
        let mut times = self.0.lock();
        times.sleeps = false;
        let Some(period) = &mut times.period else {
            return (false, false);
        };
        let has_missed = period.next <= now;
        if has_missed {
            period.skip_to(now);
        }
        (has_missed, queues.set(cpu.id(), vcpu, times.first()))
    }

    /// Lets them fire on this CPU from now on. Returns as [`Self::change`] does.
    pub fn come_here(&self, queues: &Queues, cpu: &Cpu, vcpu: VcpuIndex) -> bool {
        let times = self.0.lock();
        let first = times.first();
        first.is_some() && queues.set(cpu.id(), vcpu, first)
    }

    /// Ends them all: the vCPU stops.
    pub fn stop(&self, queues: &Queues, cpu: &Cpu, vcpu: VcpuIndex) {
        let mut times = self.0.lock();
        (times.once, times.period, times.poll) = (None, None, None);
        times.watchdogs = [None; WATCHDOGS];
        queues.set(cpu.id(), vcpu, None);
    }
}

impl Period {
    /// The next time of its row that is not past: what was missed is missed.
    fn skip_to(&mut self, now: u64) {
        let late = now.saturating_sub(self.next);
        let into = late.checked_rem(self.length).unwrap_or(0);
        let rest = self.length.saturating_sub(into);
        self.next = now.saturating_add(rest);
    }
}

impl Times {
    fn first(&self) -> Option<u64> {
        let period = self.period.filter(|_| !self.sleeps);
        let period = period.map(|period| period.next);
        let [first, second] = self.watchdogs;
        let times = [self.once, period, self.poll, first, second];
        // In steps that take no branch: this is done each time that a timer is set.
        let earliest = times.map(|time| time.unwrap_or(NEVER));
        let first = earliest.into_iter().fold(NEVER, u64::min);
        (first != NEVER).then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use oxen_arch::boot::CpuId;
    use oxen_arch::{Machine, SimConfig};

    use super::*;

    const VCPU: VcpuIndex = VcpuIndex::new(3);
    const MS: u64 = 1_000_000;

    fn parts() -> (Machine, Cpu, Queues) {
        let machine = Machine::new(SimConfig::new(16 << 20)).0;
        let cpu = machine.cpu(CpuId::new(0));
        let queues = Queues::new(&machine, 8).unwrap();
        (machine, cpu, queues)
    }

    #[test]
    fn the_earliest_is_what_the_cpu_waits_for() {
        let (_machine, cpu, queues) = parts();
        let timers = VcpuTimers::new();
        let set = |change| timers.change(&queues, &cpu, VCPU, || 100, change);
        assert!(set(Change::Once(Some(5 * MS))));
        assert!(set(Change::Poll(Some(2 * MS))));
        set(Change::Periodic(Some(3 * MS)));
        let first = || queues.first(cpu.id());
        assert_eq!(first(), Some(2 * MS));
        set(Change::Poll(None));
        assert_eq!(first(), Some(3 * MS + 100));
        set(Change::Periodic(None));
        assert_eq!(first(), Some(5 * MS));
        timers.stop(&queues, &cpu, VCPU);
        assert_eq!(first(), None);
    }

    #[test]
    fn what_is_due_is_told_once() {
        let (_machine, cpu, queues) = parts();
        let timers = VcpuTimers::new();
        let set = |change| timers.change(&queues, &cpu, VCPU, || 0, change);
        set(Change::Once(Some(5)));
        set(Change::Poll(Some(6)));
        let due = |now| timers.take_due(&queues, &cpu, VCPU, now);
        assert_eq!(due(4), Due::default());
        let (timer, poll) = (true, true);
        set(Change::Watchdog(1, Some(7)));
        let none = Due::default();
        assert_eq!(due(5), Due { timer, ..none });
        assert_eq!(
            due(9),
            Due {
                poll,
                watchdog: true,
                ..none
            }
        );
        assert_eq!(due(u64::MAX), Due::default());
    }

    #[test]
    fn who_sleeps_is_not_woken_again_and_again() {
        let (_machine, cpu, queues) = parts();
        let timers = VcpuTimers::new();
        let set = |change| timers.change(&queues, &cpu, VCPU, || 0, change);
        set(Change::Periodic(Some(2 * MS)));
        set(Change::Once(Some(9 * MS)));
        timers.sleep_begins(&queues, &cpu, VCPU);
        assert_eq!(queues.first(cpu.id()), Some(9 * MS));
        let due = |now| timers.take_due(&queues, &cpu, VCPU, now);
        assert_eq!(due(5 * MS), Due::default());
        assert!(due(9 * MS).timer);
        assert_eq!(queues.first(cpu.id()), None);
        assert_eq!(timers.sleep_ends(&queues, &cpu, VCPU, 9 * MS), (true, true));
        assert_eq!(queues.first(cpu.id()), Some(10 * MS));
        timers.sleep_begins(&queues, &cpu, VCPU);
        assert!(!timers.sleep_ends(&queues, &cpu, VCPU, 9 * MS + 1).0);
        set(Change::Periodic(None));
        timers.sleep_begins(&queues, &cpu, VCPU);
        let nothing = (false, false);
        assert_eq!(timers.sleep_ends(&queues, &cpu, VCPU, 100 * MS), nothing);
    }

    /// XSA-20 is about periods that do not end.
    #[test]
    fn a_period_that_was_missed_often_fires_once() {
        let (_machine, cpu, queues) = parts();
        let timers = VcpuTimers::new();
        let due = |now| timers.take_due(&queues, &cpu, VCPU, now).timer;
        for length in [0, 1, MS, u64::MAX] {
            timers.change(&queues, &cpu, VCPU, || 0, Change::Periodic(Some(length)));
            let late = 1_000 * MS + 1;
            assert_eq!(due(late), length < u64::MAX);
            assert!(!due(late), "{length}");
            assert!(queues.first(cpu.id()).is_none_or(|first| first > late));
        }
    }
}
