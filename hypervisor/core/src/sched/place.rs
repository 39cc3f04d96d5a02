//! Where a vCPU goes that becomes ready, and how it gets there.

use oxen_arch::boot::CpuId;
use oxen_arch::sync::atomic::{Ordering, fence};
use oxen_arch::tlb::CpuSet;

use super::cpu::CpuRecord;
use super::queue::{Moving, Queue, Why, ahead};
use super::record::VcpuRecord;
use super::state::{Event, Place};
use super::steps::step;
use super::{
    DIFFERENCE, DomainParams, FORGET, LAG, LOOKS, MEMORY, Scheduler, VcpuIndex, Weight, cap,
};

impl Scheduler<'_> {
    /// What a vCPU that was nowhere has to go on with.
    pub(super) fn woken(&self, record: &VcpuRecord, vcpu: VcpuIndex, now: u64) -> Moving {
        let home = record.home().and_then(|home| self.cpu(home).ok());
        let missed = match home {
            None => 0,
            // The clock of a CPU that does nothing stands still, and says nothing of what was missed.
            Some(home) if home.hints.load() == 0 => {
                (record.weight().span(LAG) as i64).wrapping_neg()
            }
            Some(home) => ahead(record.virtual_time(), home.hints.estimate(now).clock),
        };
        Moving {
            vcpu,
            why: Why::Woken,
            ahead: missed,
            level: None,
        }
    }

    /// Puts a vCPU where it goes best; the CPUs that are to think again.
    pub(super) fn place(&self, moving: Moving, now: u64) -> CpuSet {
        match self.records.vcpu(moving.vcpu) {
            Some(record) => {
                let to = self.choose(record, &moving, now);
                self.enqueue(to, moving, now)
            }
            None => CpuSet::EMPTY,
        }
    }

    /// The CPU that is best: one that idles, if there is one. A CPU that idles and was chosen is nobody else's choice.
    fn choose(&self, record: &VcpuRecord, moving: &Moving, now: u64) -> CpuId {
        let online = self.shared.online.load();
        let mut allowed = record.allowed().intersection(&online);
        if allowed.is_empty() {
            allowed = online;
        }
        let last = record.home().filter(|&cpu| allowed.contains(cpu));
        let first = last
            .or_else(|| allowed.first_from(CpuId::BOOT))
            .unwrap_or(CpuId::BOOT);
        if allowed == CpuSet::one(first) {
            return first;
        }
        let mut soft = record.soft.load().intersection(&allowed);
        if soft.is_empty() {
            soft = allowed;
        }
        let weight = record.weight();
        // A domain that has nothing left needs no idle CPU.
        let domain = self.records.domain_of(record);
        if domain.is_some_and(|domain| domain.is_spent(now)) {
            return first;
        }
        let idle = self.shared.idle.load().intersection(&allowed);
        // Mostly none does.
        let groups = if idle.is_empty() {
            &[][..]
        } else {
            &[soft, allowed]
        };
        for among in groups {
            let among = among.intersection(&idle);
            // Another one may be quicker; then there is one less to ask.
            let mut from = first;
            for _ in 0..LOOKS {
                step();
                match among.first_from(from) {
                    Some(cpu) if self.shared.idle.remove(cpu) => return cpu,
                    Some(cpu) => from = CpuId::new(cpu.get().wrapping_add(1)),
                    None => break,
                }
            }
        }
        let first = if soft.contains(first) {
            first
        } else {
            soft.first_from(first).unwrap_or(first)
        };
        match (moving.why, moving.level) {
            (Why::Moved, Some(level)) => self.furthest(first, &soft, level, weight, now),
            _ => self.lightest(first, &soft, weight),
        }
    }

    /// Of some CPUs the one with the least load; this one, if the difference is not worth the way.
    fn lightest(&self, first: CpuId, among: &CpuSet, weight: Weight) -> CpuId {
        let load = |cpu: CpuId| self.cpu(cpu).map_or(u64::MAX, |cpu| cpu.hints.load());
        let worth = load(first).saturating_sub(weight.get().into());
        let (mut best, mut least) = (first, worth);
        for cpu in self.looks(first, among) {
            let load = load(cpu);
            if load < least {
                (best, least) = (cpu, load);
            }
        }
        best
    }

    /// Of some CPUs the one that has come furthest ahead of this vCPU, which waits with less where it is than it would there. This
    /// is what makes several queues share as one.
    fn furthest(
        &self,
        first: CpuId,
        among: &CpuSet,
        level: u64,
        weight: Weight,
        now: u64,
    ) -> CpuId {
        let (mut best, mut most) = (first, weight.span(DIFFERENCE) as i64);
        for cpu in self.looks(first, among) {
            let Ok(record) = self.cpu(cpu) else { continue };
            let distance = ahead(record.hints.estimate(now).level, level);
            if distance > most {
                (best, most) = (cpu, distance);
            }
            // What a queue was owed long ago is forgotten, lest it takes as long to make up for.
            let longest = weight.min(Weight::DEFAULT).span(FORGET);
            if distance < (longest as i64).wrapping_neg() {
                let mut queue = record.queue.lock();
                queue.approach(level, longest, u64::MAX / 2);
                record.hints.publish(&queue, self.records, now);
            }
        }
        best
    }

    /// A few others of these CPUs, in turns.
    fn looks(&self, first: CpuId, among: &CpuSet) -> impl Iterator<Item = CpuId> + use<> {
        let mut others = *among;
        others.remove(first);
        let next = self.cpu(first).ok().map(|cpu| &cpu.hints.next);
        let mut from = next.map_or(0, |next| next.load(Ordering::Relaxed));
        let mut list = arrayvec::ArrayVec::<CpuId, LOOKS>::new();
        for _ in 0..LOOKS {
            step();
            let Some(cpu) = others.first_from(CpuId::new(from)) else {
                break;
            };
            others.remove(cpu);
            let _ = list.try_push(cpu);
            from = cpu.get().wrapping_add(1);
        }
        if let Some(next) = next {
            next.store(from, Ordering::Relaxed);
        }
        list.into_iter()
    }

    /// Puts a vCPU into this queue; the CPUs that are to think again.
    pub(super) fn enqueue(&self, to: CpuId, moving: Moving, now: u64) -> CpuSet {
        let (Some(record), Ok(cpu)) = (self.records.vcpu(moving.vcpu), self.cpu(to)) else {
            return CpuSet::EMPTY;
        };
        let mut kicks = CpuSet::EMPTY;
        let mut queue = cpu.queue.lock();
        queue.advance(self.records, now);
        if queue.sharers() == 1 && moving.why == Why::Woken {
            self.join(&mut queue, record, now);
        }
        let domain = self.records.domain_of(record);
        let params = domain.map_or(DomainParams::DEFAULT, |domain| domain.params());
        queue.admit(self.records, record, &moving, params.weight);
        let queued = record.change(Event::Queue(to));
        let is_queued = queued.is_ok_and(|(_, after, _)| after.place() == Place::Queued(to));
        // It may have been chosen because it idles, and then does not count as idle until it has thought again.
        if queue.current.is_none() {
            self.shared.idle.remove(to);
            kicks.insert(to);
        }
        if !is_queued {
            // It was stopped on the way, and is nowhere.
        } else if domain.is_some_and(|domain| domain.is_spent(now)) {
            queue.park(self.records, moving.vcpu, now);
            let end = cap::end_of_period(now);
            if queue.armed.is_none_or(|armed| armed > end) {
                kicks.insert(to);
            }
        } else {
            let is_urgent = queue.is_urgent(self.records, record.virtual_time());
            queue.make_ready(self.records, moving.vcpu);
            if is_urgent || queue.current.as_ref().is_some_and(|at| at.end.is_none()) {
                kicks.insert(to);
            }
        }
        self.publish(cpu, &queue, now);
        if let Some(helper) = self.helper(&queue) {
            kicks.insert(helper);
        }
        kicks
    }

    /// A queue that was one vCPU's is shared from now on: its clock went by nobody else's, and now means something to others.
    fn join(&self, queue: &mut Queue, record: &VcpuRecord, now: u64) {
        let contended = self.shared.contended.load();
        if contended.is_empty() {
            return;
        }
        let mut peers = record.allowed().intersection(&contended);
        peers.remove(queue.cpu);
        let peer = peers.first_from(queue.cpu);
        if let Some(peer) = peer.and_then(|peer| self.cpu(peer).ok()) {
            let level = peer.hints.estimate(now).level;
            let lightest = queue.lightest(self.records, record.weight());
            queue.approach(level, 0, lightest.span(MEMORY));
        }
    }

    /// Tells others what a queue is like.
    pub(super) fn publish(&self, cpu: &CpuRecord, queue: &Queue, now: u64) {
        cpu.hints.publish(queue, self.records, now);
        if queue.sharers() > 1 {
            self.shared.contended.insert(queue.cpu);
        } else {
            self.shared.contended.remove(queue.cpu);
        }
    }

    /// A CPU that idles and may run somebody who waits here, beyond the one whom this CPU is about to run.
    ///
    /// The other half is `pick`: a CPU says that it idles before it looks for somebody to run. Here somebody is in a queue before
    /// idle CPUs are looked for. With a fence on both sides one of the two sees the other.
    pub(super) fn helper(&self, queue: &Queue) -> Option<CpuId> {
        let spare = u32::from(queue.current.is_none());
        if queue.ready.len() <= spare {
            return None;
        }
        fence(Ordering::SeqCst);
        self.call(|| queue.ready.reach(self.records.vcpus))
    }

    /// Calls one of these CPUs that idles, if any does.
    fn call(&self, reach: impl FnOnce() -> CpuSet) -> Option<CpuId> {
        let idle = self.shared.idle.load();
        // Mostly none does.
        if idle.is_empty() {
            return None;
        }
        let idle = idle.intersection(&reach());
        // Who is quicker takes one for somebody else.
        let cpu = idle.iter().find(|&cpu| self.shared.idle.remove(cpu))?;
        if let Ok(record) = self.cpu(cpu) {
            record.hints.called.store(true, Ordering::SeqCst);
        }
        Some(cpu)
    }

    /// Calls another CPU in the place of this one, which was called and has found something else to do.
    pub(super) fn relay(&self) -> CpuSet {
        let mut called = CpuSet::EMPTY;
        for cpu in self.shared.online.load().iter() {
            step();
            if let Ok(record) = self.cpu(cpu)
                && let Some(helper) = self.call(|| record.hints.reach.load())
            {
                called.insert(helper);
            }
        }
        called
    }
}
