//! The queue of one CPU: who waits for it, whom it runs, and its clock.
//!
//! The clock is virtual time: it goes as far as the vCPU goes that has come least far of those that are here. Times of vCPUs are
//! by the clock of their queue. What its zero means in other queues' terms is the *offset*: clock and offset together are
//! the *level*, by which queues are compared.
//!
//! INVARIANT: nobody comes into a queue further behind the clock than [`LAG`] of its own work, or else the clock goes back to where
//! he is; and nobody further ahead than [`MEMORY`] of its own work, or of the default weight's if that is less. Together with the
//! slice this is all that others may have before him.

use oxen_arch::boot::CpuId;
use oxen_arch::sync::atomic::Ordering;

use super::VcpuIndex;
use super::cap::{self, DomainRecord};
use super::params::Weight;
use super::record::VcpuRecord;
use super::tree::Tree;
use super::{GRAIN, LAG, MEMORY, SHORTEST, SLICE, TARGET};

/// A clock begins here, so that something can be behind it.
const BEGIN: u64 = 1 << 40;

/// Why a vCPU comes into a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It did not want to run, or was not allowed to: what it missed meanwhile is lost, but for a little.
    Woken,
    /// It wanted to run all the time, and keeps what it is owed.
    Moved,
}

/// A vCPU on its way. Whoever has this has the vCPU, and puts it into a queue.
#[derive(Debug)]
#[must_use]
pub(super) struct Moving {
    pub(super) vcpu: VcpuIndex,
    pub(super) why: Why,
    /// How far it was ahead of the clock where it comes from.
    pub(super) ahead: i64,
    /// How far it has come, in terms of all queues; `None` if it comes from nowhere.
    pub(super) level: Option<u64>,
}

/// Whom the CPU runs.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) vcpu: VcpuIndex,
    /// Since when it runs.
    pub(super) started: u64,
    /// Up to when its work is counted.
    pub(super) counted: u64,
    /// When its slice ends, if it has one.
    pub(super) end: Option<u64>,
    /// What is left of its grant, if its domain has a cap.
    pub(super) granted: Option<u64>,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) cpu: CpuId,
    /// Those who wait for the CPU, by their times.
    pub(super) ready: Tree,
    /// Those whose domains have nothing left, by the end of the period.
    pub(super) parked: Tree,
    pub(super) current: Option<Current>,
    pub(super) clock: u64,
    pub(super) offset: u64,
    /// The weights of all who are ready or run.
    pub(super) load: u64,
    /// When the CPU will think by itself.
    pub(super) armed: Option<u64>,
}

/// What all queues have before them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Records<'a> {
    pub(super) vcpus: &'a [VcpuRecord],
    pub(super) domains: &'a [DomainRecord],
}

impl<'a> Records<'a> {
    pub(super) fn vcpu(self, index: VcpuIndex) -> Option<&'a VcpuRecord> {
        self.vcpus.get(index.get())
    }

    pub(super) fn domain_of(self, record: &VcpuRecord) -> Option<&'a DomainRecord> {
        let index = record.domain.load(Ordering::Relaxed);
        self.domains.get(index as usize)
    }
}

/// How long a vCPU may run while others wait, where so many share a CPU.
pub(super) fn slice(sharers: u32, least: u64) -> u64 {
    let sharers = u64::from(sharers).max(1);
    let share = TARGET.checked_div(sharers).unwrap_or(SLICE);
    share.clamp(SHORTEST, SLICE).max(least)
}

/// How far `a` is ahead of `b`.
pub(super) fn ahead(a: u64, b: u64) -> i64 {
    a.wrapping_sub(b) as i64
}

impl Queue {
    pub(super) const fn new(cpu: CpuId) -> Self {
        Self {
            cpu,
            ready: Tree::EMPTY,
            parked: Tree::EMPTY,
            current: None,
            clock: BEGIN,
            offset: 0,
            load: 0,
            armed: None,
        }
    }

    /// How many vCPUs share the CPU.
    pub(super) fn sharers(&self) -> u32 {
        let running = u32::from(self.current.is_some());
        self.ready.len().saturating_add(running)
    }

    pub(super) fn level(&self) -> u64 {
        self.clock.wrapping_add(self.offset)
    }

    /// Counts what the current vCPU has done until now, and lets the clock follow.
    pub(super) fn advance(&mut self, records: Records<'_>, now: u64) {
        let first = self.ready.first(records.vcpus).map(|(_, time)| time);
        let running = self.current.as_mut().and_then(|current| {
            let record = records.vcpu(current.vcpu)?;
            let done = now.saturating_sub(current.counted);
            if done == 0 {
                return Some(record.virtual_time());
            }
            current.counted = now;
            record.charge(done);
            if let Some(granted) = &mut current.granted {
                if let Some(domain) = records.domain_of(record)
                    && done > *granted
                {
                    domain.settle(now, (*granted as i64).saturating_sub_unsigned(done));
                }
                *granted = granted.saturating_sub(done);
            }
            Some(record.virtual_time())
        });
        let least = match (first, running) {
            (Some(first), Some(running)) => first.min(running),
            (Some(only), None) | (None, Some(only)) => only,
            (None, None) => return,
        };
        self.clock = self.clock.max(least);
    }

    /// Lets the level be no further behind or ahead of another one.
    pub(super) fn approach(&mut self, other: u64, behind: u64, before: u64) {
        let distance = ahead(self.level(), other);
        let wanted = distance
            .min(before as i64)
            .max((behind as i64).wrapping_neg());
        let change = wanted.wrapping_sub(distance);
        self.offset = self.offset.wrapping_add(change as u64);
    }

    /// Finds the time, by this clock, at which somebody who comes from elsewhere goes on, and has it written.
    pub(super) fn admit(
        &mut self,
        records: Records<'_>,
        record: &VcpuRecord,
        moving: &Moving,
        weight: Weight,
    ) {
        let comes_home = record.home() == Some(self.cpu);
        let time = match (moving.why, moving.level) {
            (Why::Moved, Some(level)) if comes_home => level.wrapping_sub(self.offset),
            (Why::Woken, _) if comes_home => record.virtual_time(),
            (Why::Moved, Some(level)) => {
                match self.sharers() {
                    // Nobody here whose time says anything.
                    0 => self.approach(level, 0, 0),
                    // Who has the CPU alone had what nobody else wanted: only the latest of it counts.
                    1 => {
                        let longest = self.lightest(records, weight).span(MEMORY);
                        self.approach(level, longest, longest);
                    }
                    _ => {}
                }
                let distance = ahead(level, self.level());
                let time = self.clock.saturating_add_signed(distance);
                let longest = weight.min(Weight::DEFAULT).span(MEMORY);
                self.clock = self.clock.min(time.max(self.clock.saturating_sub(longest)));
                time
            }
            _ => self.clock.saturating_add_signed(moving.ahead),
        };
        let (behind, before) = match moving.why {
            Why::Woken => (LAG, SLICE),
            Why::Moved => (MEMORY, MEMORY),
        };
        let scale = match moving.why {
            Why::Woken => weight,
            Why::Moved => weight.min(Weight::DEFAULT),
        };
        let least = self.clock.saturating_sub(scale.span(behind));
        let most = self.clock.saturating_add(scale.span(before));
        record.set_virtual_time(time.max(least).min(most));
        record.home.store(self.cpu.get(), Ordering::Relaxed);
        record.weight.store(weight.get().into(), Ordering::Relaxed);
    }

    /// The least of some weights: that of the vCPU which runs, this one, the default.
    pub(super) fn lightest(&self, records: Records<'_>, weight: Weight) -> Weight {
        let current = self.current.as_ref();
        let running = current.and_then(|current| records.vcpu(current.vcpu));
        let running = running.map_or(weight, VcpuRecord::weight);
        running.min(weight).min(Weight::DEFAULT)
    }

    /// Puts a vCPU among those who wait for the CPU.
    pub(super) fn make_ready(&mut self, records: Records<'_>, vcpu: VcpuIndex) {
        if let Some(record) = records.vcpu(vcpu) {
            record.node.is_parked.store(false, Ordering::Relaxed);
            self.ready
                .insert(records.vcpus, vcpu, record.virtual_time());
            self.load = self.load.saturating_add(record.weight().get().into());
        }
    }

    /// Puts a vCPU among those whose domains have nothing left in this period.
    pub(super) fn park(&mut self, records: Records<'_>, vcpu: VcpuIndex, now: u64) {
        if let Some(record) = records.vcpu(vcpu) {
            record.node.is_parked.store(true, Ordering::Relaxed);
            self.parked
                .insert(records.vcpus, vcpu, cap::end_of_period(now));
        }
    }

    /// Takes out somebody who waits, for whatever.
    pub(super) fn take_out(&mut self, records: Records<'_>, vcpu: VcpuIndex) {
        let Some(record) = records.vcpu(vcpu) else {
            return;
        };
        if record.node.is_parked.load(Ordering::Relaxed) {
            self.parked.remove(records.vcpus, vcpu);
        } else if self.ready.remove(records.vcpus, vcpu) {
            self.unload(record);
        }
    }

    /// Makes one ready whose period has come, if there is one.
    pub(super) fn unpark(&mut self, records: Records<'_>, now: u64) -> bool {
        let due = |&(_, end): &(VcpuIndex, u64)| end <= now;
        let Some((vcpu, _)) = self.parked.first(records.vcpus).filter(due) else {
            return false;
        };
        self.parked.remove(records.vcpus, vcpu);
        if let Some(record) = records.vcpu(vcpu) {
            let moving = Moving {
                vcpu,
                why: Why::Woken,
                ahead: 0,
                level: None,
            };
            let weight = record.weight();
            self.admit(records, record, &moving, weight);
            self.make_ready(records, vcpu);
        }
        true
    }

    /// What somebody here has to go on with elsewhere.
    pub(super) fn moving(&self, record: &VcpuRecord, vcpu: VcpuIndex, why: Why) -> Moving {
        let time = record.virtual_time();
        Moving {
            vcpu,
            why,
            ahead: ahead(time, self.clock),
            level: Some(time.wrapping_add(self.offset)),
        }
    }

    /// Notes that the CPU runs this vCPU from now on, which waited here.
    pub(super) fn start(&mut self, vcpu: VcpuIndex, granted: Option<u64>, now: u64) {
        self.current = Some(Current {
            vcpu,
            started: now,
            counted: now,
            end: None,
            granted,
        });
    }

    /// Ends that; what is left of the grant goes back.
    pub(super) fn stop(&mut self, records: Records<'_>, now: u64) -> Option<VcpuIndex> {
        let current = self.current.take()?;
        let record = records.vcpu(current.vcpu)?;
        if let (Some(granted), Some(domain)) = (current.granted, records.domain_of(record)) {
            domain.settle(now, granted as i64);
        }
        self.unload(record);
        let level = record.virtual_time().wrapping_add(self.offset);
        record.level.store(level, Ordering::Relaxed);
        Some(current.vcpu)
    }

    /// The weight of the current vCPU may have changed.
    pub(super) fn reweigh(&mut self, record: &VcpuRecord, weight: Weight) {
        if record.weight() == weight {
            return;
        }
        self.unload(record);
        record.weight.store(weight.get().into(), Ordering::Relaxed);
        self.load = self.load.saturating_add(weight.get().into());
    }

    /// Whether this one should have the CPU before its slice comes by itself.
    pub(super) fn is_urgent(&self, records: Records<'_>, time: u64) -> bool {
        let current = self.current.as_ref();
        let running = current.and_then(|current| records.vcpu(current.vcpu));
        running.is_none_or(|running| {
            let grain = Weight::DEFAULT.span(GRAIN);
            time.saturating_add(grain) < running.virtual_time()
        })
    }

    fn unload(&mut self, record: &VcpuRecord) {
        self.load = self.load.saturating_sub(record.weight().get().into());
    }
}
