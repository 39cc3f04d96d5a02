//! What a CPU runs next.

use oxen_arch::boot::CpuId;
use oxen_arch::sync::atomic::{Ordering, fence};
use oxen_arch::tlb::CpuSet;

use super::cpu::CpuRecord;
use super::queue::{Moving, Queue, Why, slice};
use super::record::VcpuRecord;
use super::state::{Event, Place, Refused};
use super::steps::step;
use super::{BATCH, Scheduler, VcpuIndex};

/// What a CPU does from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Decision {
    /// Whom it runs; none: it idles.
    pub run: Option<VcpuIndex>,
    /// Whom it runs no more. Once its registers are in memory, `Scheduler::saved` is told so.
    pub leave: Option<VcpuIndex>,
    /// When it has to ask again. `None`: not before something happens.
    pub next_event: Option<u64>,
    /// Other CPUs that are to ask again now.
    pub kicks: CpuSet,
}

/// Why a CPU asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Its time has come, it was interrupted, or the vCPU that it runs has gone to sleep.
    Again,
    /// The vCPU that it runs lets another one go first, if one waits.
    Yield,
}

impl Scheduler<'_> {
    /// Decides what this CPU does. It asks when `next_event` has come, when it was named in `kicks`, when the vCPU that it runs has
    /// gone to sleep or yields, and once when it is up.
    pub fn pick(&self, id: CpuId, ask: Ask, now: u64) -> Result<Decision, super::Error> {
        let cpu = self.cpu(id)?;
        let mut decision = Decision {
            run: None,
            leave: None,
            next_event: None,
            kicks: CpuSet::EMPTY,
        };
        let called = &cpu.hints.called;
        let was_called = called.load(Ordering::SeqCst) && called.swap(false, Ordering::SeqCst);
        let mut has_helped = false;
        let mut queue = cpu.queue.lock();
        queue.advance(self.records, now);
        let mut left = BATCH;
        while left > 0 && queue.unpark(self.records, now) {
            step();
            left = left.saturating_sub(1);
        }
        if !self.keeps(&mut queue, ask, now) {
            decision.leave = self.leave(&mut queue, now);
        }
        if queue.current.is_none() {
            self.begin(&mut queue, now, &mut left);
        }
        while queue.current.is_none() && left > 0 {
            // In this order: see `helper`.
            self.shared.idle.insert(id);
            self.publish(cpu, &queue, now);
            drop(queue);
            fence(Ordering::SeqCst);
            let stolen = self.steal(id, now);
            let found = stolen.is_some();
            has_helped |= found;
            if let Some(moving) = stolen {
                decision.kicks = decision.kicks.union(&self.enqueue(id, moving, now));
            }
            queue = cpu.queue.lock();
            queue.advance(self.records, now);
            self.begin(&mut queue, now, &mut left);
            if !found {
                break;
            }
        }
        if queue.current.is_some() {
            self.shared.idle.remove(id);
        }
        decision.run = queue.current.as_ref().map(|current| current.vcpu);
        decision.next_event = self.arm(&mut queue, now, left);
        self.publish(cpu, &queue, now);
        if let Some(helper) = self.helper(&queue) {
            decision.kicks.insert(helper);
        }
        drop(queue);
        if was_called && !has_helped && decision.run.is_some() {
            decision.kicks = decision.kicks.union(&self.relay());
        }
        decision.kicks.remove(id);
        Ok(decision)
    }

    /// When this CPU has to ask, if all that a decision would change now is that: as for whoever has woken somebody that waits for his turn
    /// here. `None`: it has to ask now.
    pub fn goes_on(&self, id: CpuId, now: u64) -> Option<Option<u64>> {
        let cpu = self.cpu(id).ok()?;
        if cpu.hints.called.load(Ordering::SeqCst) {
            return None;
        }
        let mut queue = cpu.queue.lock();
        queue.advance(self.records, now);
        let parked = queue.parked.first(self.records.vcpus);
        let end = queue.current.as_ref()?.end;
        let is_due = |time: u64| time <= now;
        if parked.is_some_and(|(_, end)| is_due(end)) || end.is_some_and(is_due) {
            return None;
        }
        let goes_on = self.keeps(&mut queue, Ask::Again, now);
        goes_on.then(|| self.arm(&mut queue, now, BATCH))
    }

    /// Whether the CPU goes on with the vCPU that it runs.
    fn keeps(&self, queue: &mut Queue, ask: Ask, now: u64) -> bool {
        let id = queue.cpu;
        let first = queue.ready.first(self.records.vcpus);
        let sharers = queue.sharers();
        let Some(current) = &mut queue.current else {
            return false;
        };
        let Some(record) = self.records.vcpu(current.vcpu) else {
            return false;
        };
        if !record.state().is_runnable() || !record.is_allowed_on(id) {
            return false;
        }
        let Some(domain) = self.records.domain_of(record) else {
            return false;
        };
        if current.granted.is_none_or(|granted| granted == 0) {
            current.granted = domain.grant(now, || slice(sharers, self.least()));
            if current.granted == Some(0) {
                return false;
            }
        }
        let is_over = current.end.is_some_and(|end| end <= now);
        if is_over {
            current.end = None;
        }
        if is_over && self.has_better_home(record, id) {
            return false;
        }
        let started = current.started;
        let mut keeps = true;
        if let Some((_, first)) = first {
            let time = record.virtual_time();
            keeps = match ask {
                Ask::Yield => {
                    // What it might have had before the other one it gives up.
                    record.set_virtual_time(time.max(first));
                    false
                }
                Ask::Again if is_over => time <= first,
                Ask::Again => {
                    now.saturating_sub(started) < self.least()
                        || !queue.is_urgent(self.records, first)
                }
            };
        }
        queue.reweigh(record, domain.params().weight);
        keeps
    }

    /// Whether the vCPU likes other CPUs better than this one.
    fn is_away(&self, record: &VcpuRecord, id: CpuId) -> bool {
        !record.soft.contains(id)
            && !record
                .soft
                .load()
                .intersection(&record.allowed())
                .is_empty()
    }

    /// Whether a CPU idles that the vCPU likes better than this one.
    fn has_better_home(&self, record: &VcpuRecord, id: CpuId) -> bool {
        let soft = record.soft.load().intersection(&record.allowed());
        !soft.contains(id) && !soft.intersection(&self.shared.idle.load()).is_empty()
    }

    /// Ends the run of the current vCPU.
    fn leave(&self, queue: &mut Queue, now: u64) -> Option<VcpuIndex> {
        let vcpu = queue.stop(self.records, now)?;
        let left = self.records.vcpu(vcpu)?.change(Event::Leave);
        debug_assert!(left.is_ok(), "only its CPU takes it from there: {left:?}");
        Some(vcpu)
    }

    /// Begins to run the first one that may.
    fn begin(&self, queue: &mut Queue, now: u64, left: &mut u32) {
        let id = queue.cpu;
        while *left > 0
            && let Some((vcpu, _)) = queue.ready.first(self.records.vcpus)
        {
            step();
            *left = left.saturating_sub(1);
            let Some(record) = self.records.vcpu(vcpu) else {
                return;
            };
            let slice = || slice(queue.sharers(), self.least());
            let domain = self.records.domain_of(record);
            let granted = domain.and_then(|domain| domain.grant(now, slice));
            if granted == Some(0) {
                queue.take_out(self.records, vcpu);
                queue.park(self.records, vcpu, now);
                continue;
            }
            match record.change(Event::Start(id)) {
                Ok(_) => {
                    queue.ready.remove(self.records.vcpus, vcpu);
                    queue.start(vcpu, granted, now);
                    queue.advance(self.records, now);
                    return;
                }
                Err(refused) => {
                    debug_assert_eq!(refused, Refused::NotRunnable);
                    if let (Some(granted), Some(domain)) = (granted, domain) {
                        domain.settle(now, granted as i64);
                    }
                    // Whoever stopped it finds that done. Unless it was let go on meanwhile: then it has its turn again.
                    if record.change(Event::Remove).is_ok() {
                        queue.take_out(self.records, vcpu);
                    }
                }
            }
        }
    }

    /// Takes somebody who may run here from a queue in which he waits.
    fn steal(&self, id: CpuId, now: u64) -> Option<Moving> {
        let mut others = self.shared.online.load();
        others.remove(id);
        let mut from = id;
        while let Some(other) = others.first_from(from) {
            step();
            others.remove(other);
            from = other;
            let Ok(cpu) = self.cpu(other) else { continue };
            if cpu.hints.reach.contains(id)
                && let Some(moving) = self.take_from(cpu, id, now)
            {
                return Some(moving);
            }
        }
        None
    }

    fn take_from(&self, cpu: &CpuRecord, id: CpuId, now: u64) -> Option<Moving> {
        let mut queue = cpu.queue.lock();
        queue.advance(self.records, now);
        let vcpu = queue.ready.first_for(self.records.vcpus, id)?;
        let record = self.records.vcpu(vcpu)?;
        record.change(Event::Take).ok()?;
        let moving = queue.moving(record, vcpu, Why::Moved);
        queue.take_out(self.records, vcpu);
        self.publish(cpu, &queue, now);
        Some(moving)
    }

    /// When the CPU has to think again.
    fn arm(&self, queue: &mut Queue, now: u64, left: u32) -> Option<u64> {
        let mut next = queue.parked.first(self.records.vcpus).map(|(_, end)| end);
        let mut at_least = |time: u64| next = Some(next.map_or(time, |next| next.min(time)));
        if left == 0 {
            // There was more to be done than a CPU does at once.
            at_least(now);
        }
        let sharers = queue.sharers();
        let first = queue.ready.first(self.records.vcpus);
        if let Some(current) = &mut queue.current
            && let Some(record) = self.records.vcpu(current.vcpu)
        {
            if first.is_some() || self.is_away(record, queue.cpu) {
                let latest = now.saturating_add(slice(sharers, self.least()));
                let end = current.end.map_or(latest, |end| end.min(latest));
                current.end = Some(end);
                at_least(end);
            } else {
                current.end = None;
            }
            let earliest = current.started.saturating_add(self.least());
            if earliest > now && first.is_some_and(|(_, first)| first < record.virtual_time()) {
                at_least(earliest);
            }
            if let Some(granted) = current.granted {
                at_least(now.saturating_add(granted));
            }
        }
        queue.armed = next;
        next
    }

    /// Says that everything of a vCPU is in memory which a decision made this CPU leave. Until then nobody else can have it.
    pub fn saved(&self, vcpu: VcpuIndex, now: u64) -> Result<CpuSet, super::Error> {
        let record = self.vcpu(vcpu)?;
        let (_, after, _) = record.change(Event::Saved)?;
        Ok(match after.place() {
            Place::Moving => {
                let moving = Moving {
                    vcpu,
                    why: Why::Moved,
                    ahead: 0,
                    level: Some(record.level.load(Ordering::Relaxed)),
                };
                self.place(moving, now)
            }
            _ => CpuSet::EMPTY,
        })
    }
}
