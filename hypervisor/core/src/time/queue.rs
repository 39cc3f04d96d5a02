//! For each CPU, a queue of what is to happen at some time.
//!
//! An entry is of a vCPU: it has at most one, in the queue of one CPU. Entries lie in one table, by the vCPU's number; a queue
//! is a leftist heap of them, so to put one in or to take one out, be it the first or not, costs a logarithm of how many there are.
//!
//! INVARIANT: links and times of an entry belong to the lock of the queue that `queue` names, and `queue` changes under that lock only; of an entry
//! in no queue they are its vCPU's, whose lock all callers of [`Queues::set`] hold. Locks: rank `TimerQueues`, one at a time.

use oxen_arch::Machine;
use oxen_arch::boot::CpuId;
use oxen_arch::memory::BootSlice;
use oxen_arch::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use oxen_arch::sync::{Rank, SpinLock};

use crate::sched::VcpuIndex;

/// Stands for no entry and no CPU.
const NONE: u32 = u32::MAX;

/// What is to happen to one vCPU.
#[derive(Debug)]
struct Entry {
    /// The CPU in whose queue it is, or [`NONE`].
    queue: AtomicU32,
    time: AtomicU64,
    parent: AtomicU32,
    left: AtomicU32,
    right: AtomicU32,
    /// How many steps to the right there are below it, and one.
    height: AtomicU32,
}

impl Entry {
    fn new() -> Self {
        Self {
            queue: AtomicU32::new(NONE),
            time: AtomicU64::new(0),
            parent: AtomicU32::new(NONE),
            left: AtomicU32::new(NONE),
            right: AtomicU32::new(NONE),
            height: AtomicU32::new(1),
        }
    }
}

/// The queues of all CPUs.
pub struct Queues {
    entries: BootSlice<Entry>,
    /// For each CPU the first entry, or [`NONE`].
    queues: BootSlice<SpinLock<u32>>,
}

impl Queues {
    /// Empty queues for the machine's CPUs, and so many vCPUs. `None`: there is too little memory.
    pub fn new(machine: &Machine, vcpus: usize) -> Option<Self> {
        let queue = |_| SpinLock::new(Rank::TimerQueues, NONE);
        Some(Self {
            entries: machine.boot_slice(vcpus, |_| Entry::new())?,
            queues: machine.boot_slice(machine.nr_cpus(), queue)?,
        })
    }

    /// Lets something happen to a vCPU at that time, on this CPU, in the place of what was to happen; `None`: nothing. Returns whether it
    /// is the first thing that this CPU has to do now.
    ///
    /// The caller sees to it that nobody else does that for the same vCPU.
    pub fn set(&self, cpu: CpuId, vcpu: VcpuIndex, time: Option<u64>) -> bool {
        let number = vcpu.number();
        let Some(entry) = self.entry(number) else {
            return false;
        };
        let old = entry.queue.load(Ordering::Relaxed);
        if let Some(queue) = self.queues.get(old as usize) {
            let mut first = queue.lock();
            // It may just have come to its time.
            if entry.queue.load(Ordering::Relaxed) == old {
                if let Some(time) = time.filter(|&time| old == cpu.get() && self.fits(entry, time))
                {
                    entry.time.store(time, Ordering::Relaxed);
                    return *first == number;
                }
                self.take_out(&mut first, number);
            }
        }
        let (Some(time), Some(queue)) = (time, self.queues.get(cpu.get() as usize)) else {
            return false;
        };
        let mut first = queue.lock();
        entry.time.store(time, Ordering::Relaxed);
        entry.queue.store(cpu.get(), Ordering::Relaxed);
        *first = self.merge(*first, number);
        *first == number
    }

    /// Takes out what has come to its time on this CPU, the earliest first.
    pub fn take_due(&self, cpu: CpuId, now: u64) -> Option<VcpuIndex> {
        let mut first = self.queues.get(cpu.get() as usize)?.lock();
        let number = *first;
        let entry = self.entry(number)?;
        if entry.time.load(Ordering::Relaxed) > now {
            return None;
        }
        self.take_out(&mut first, number);
        Some(VcpuIndex::new(number))
    }

    /// When something is to happen on this CPU.
    pub fn first(&self, cpu: CpuId) -> Option<u64> {
        let first = self.queues.get(cpu.get() as usize)?.lock();
        let entry = self.entry(*first)?;
        Some(entry.time.load(Ordering::Relaxed))
    }

    fn entry(&self, number: u32) -> Option<&Entry> {
        self.entries.get(number as usize)
    }

    fn height(&self, number: u32) -> u32 {
        self.entry(number)
            .map_or(0, |entry| entry.height.load(Ordering::Relaxed))
    }

    /// Whether one comes before another; nobody comes before nobody.
    fn is_before(&self, one: u32, other: u32) -> bool {
        let time = |number| {
            self.entry(number)
                .map(|entry| entry.time.load(Ordering::Relaxed))
        };
        match (time(one), time(other)) {
            (Some(one), Some(other)) => one <= other,
            (one, _) => one.is_some(),
        }
    }

    /// Whether an entry may stay in its place with another time: not before the one above it, nor after those below.
    fn fits(&self, entry: &Entry, time: u64) -> bool {
        let is = |link: &AtomicU32, in_order: fn(u64, u64) -> bool| {
            let other = self.entry(link.load(Ordering::Relaxed));
            other.is_none_or(|other| in_order(other.time.load(Ordering::Relaxed), time))
        };
        let (above, below) = (|above, time| above <= time, |below, time| time <= below);
        is(&entry.parent, above) && is(&entry.left, below) && is(&entry.right, below)
    }

    fn set_parent(&self, number: u32, parent: u32) {
        if let Some(entry) = self.entry(number) {
            entry.parent.store(parent, Ordering::Relaxed);
        }
    }

    /// Puts two heaps into one, and returns its first entry. The ways to the right are short, and only they are gone.
    fn merge(&self, one: u32, other: u32) -> u32 {
        let order = |one, other| {
            if self.is_before(one, other) {
                (one, other)
            } else {
                (other, one)
            }
        };
        let (root, mut rest) = order(one, other);
        self.set_parent(root, NONE);
        let mut last = root;
        while rest != NONE {
            let Some(entry) = self.entry(last) else {
                break;
            };
            let (next, left) = order(entry.right.load(Ordering::Relaxed), rest);
            entry.right.store(next, Ordering::Relaxed);
            self.set_parent(next, last);
            (last, rest) = (next, left);
        }
        // Each of them has another entry to its right now.
        self.settle(last, true);
        root
    }

    /// Makes the heap a leftist one again from an entry upwards, below which something has changed: up to the first one, or as far as
    /// heights change.
    fn settle(&self, number: u32, is_all: bool) {
        let mut number = number;
        let mut goes_on = true;
        while let Some(entry) = self.entry(number) {
            let left = entry.left.load(Ordering::Relaxed);
            let right = entry.right.load(Ordering::Relaxed);
            let (of_left, of_right) = (self.height(left), self.height(right));
            if of_left < of_right {
                entry.left.store(right, Ordering::Relaxed);
                entry.right.store(left, Ordering::Relaxed);
            }
            let height = of_left.min(of_right).saturating_add(1);
            let before = entry.height.swap(height, Ordering::Relaxed);
            if !goes_on {
                return;
            }
            goes_on = is_all || height != before;
            number = entry.parent.load(Ordering::Relaxed);
        }
    }

    fn take_out(&self, first: &mut u32, number: u32) {
        let Some(entry) = self.entry(number) else {
            return;
        };
        let parent = entry.parent.load(Ordering::Relaxed);
        let left = entry.left.swap(NONE, Ordering::Relaxed);
        let right = entry.right.swap(NONE, Ordering::Relaxed);
        let below = self.merge(left, right);
        self.set_parent(below, parent);
        match self.entry(parent) {
            None => *first = below,
            Some(above) => {
                let side = if above.left.load(Ordering::Relaxed) == number {
                    &above.left
                } else {
                    &above.right
                };
                side.store(below, Ordering::Relaxed);
                self.settle(parent, false);
            }
        }
        entry.parent.store(NONE, Ordering::Relaxed);
        entry.height.store(1, Ordering::Relaxed);
        entry.queue.store(NONE, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::vec::Vec;

    use oxen_arch::SimConfig;
    use proptest::prelude::*;

    use super::*;

    const VCPUS: u32 = 24;

    fn queues(vcpus: u32) -> Queues {
        let mut config = SimConfig::new(16 << 20);
        config.cpus = 2;
        let machine = Machine::new(config).0;
        Queues::new(&machine, vcpus as usize).unwrap()
    }

    /// Parents, heights and order of a heap; returns its size.
    fn check(queues: &Queues, number: u32, parent: u32) -> usize {
        let Some(entry) = queues.entry(number) else {
            return 0;
        };
        let [left, right] = [&entry.left, &entry.right].map(|side| side.load(Ordering::Relaxed));
        assert_eq!(entry.parent.load(Ordering::Relaxed), parent);
        assert!(parent == NONE || queues.is_before(parent, number));
        assert!(queues.height(left) >= queues.height(right));
        assert_eq!(queues.height(number), queues.height(right) + 1);
        1 + check(queues, left, number) + check(queues, right, number)
    }

    proptest! {
        #[test]
        fn queues_are_what_lists_are(
            steps in proptest::collection::vec((0..2_u32, 0..VCPUS, 0..40_u64, 0..4), 0..300)
        ) {
            let queues = queues(VCPUS);
            let mut model = BTreeMap::<u32, (u32, u64)>::new();
            for (cpu, vcpu, time, kind) in steps {
                let id = CpuId::new(cpu);
                let least = |model: &BTreeMap<u32, (u32, u64)>| {
                    model.values().filter(|(on, _)| *on == cpu).map(|(_, time)| *time).min()
                };
                match kind {
                    0 => {
                        queues.set(id, VcpuIndex::new(vcpu), None);
                        model.remove(&vcpu);
                    }
                    1 => match queues.take_due(id, time) {
                        Some(due) => {
                            let (on, then) = model.remove(&due.number()).unwrap();
                            prop_assert_eq!(on, cpu);
                            prop_assert!(then <= time && least(&model).is_none_or(|other| then <= other));
                        }
                        None => prop_assert!(least(&model).is_none_or(|then| then > time)),
                    },
                    _ => {
                        let is_first = queues.set(id, VcpuIndex::new(vcpu), Some(time));
                        model.insert(vcpu, (cpu, time));
                        prop_assert!(!is_first || least(&model) == Some(time));
                        prop_assert!(is_first || least(&model) <= Some(time));
                    }
                }
                prop_assert_eq!(queues.first(id), least(&model));
                let sizes = [0, 1].map(|cpu| check(&queues, *queues.queues[cpu].lock(), NONE));
                prop_assert_eq!(sizes[0] + sizes[1], model.len());
            }
        }
    }

    #[test]
    fn the_ways_that_are_gone_stay_short() {
        let queues = queues(1000);
        let times: Vec<u64> = (0..1000).map(|number| number * 7919 % 1000).collect();
        for (number, time) in (0..).zip(&times) {
            queues.set(CpuId::new(0), VcpuIndex::new(number), Some(*time));
            let first = *queues.queues[0].lock();
            assert!(1 << queues.height(first) <= number + 2);
        }
        for expected in 0..1000 {
            let due = queues.take_due(CpuId::new(0), u64::MAX).unwrap();
            assert_eq!(times[due.number() as usize], expected);
        }
    }
}
