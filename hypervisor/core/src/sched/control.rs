//! What happens to vCPUs and CPUs: everything but the decision itself.

use oxen_arch::boot::CpuId;
use oxen_arch::sync::atomic::{Ordering, fence};
use oxen_arch::tlb::CpuSet;

use super::queue::{Moving, Why};
use super::record::{NONE, VcpuRecord};
use super::state::{Effect, Event, Place};
use super::{Error, Scheduler, VcpuIndex};

/// What there is to know of a vCPU at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuInfo {
    /// Where it is.
    pub place: Place,
    /// It wants to run and may.
    pub is_runnable: bool,
    /// It sleeps.
    pub is_blocked: bool,
    /// It is down.
    pub is_down: bool,
    /// How many times it is paused.
    pub pauses: u16,
    /// The CPUs on which it may run now.
    pub allowed: CpuSet,
    /// How long it ran, in nanoseconds.
    pub ran: u64,
}

/// What somebody has to do who brings a vCPU something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glance {
    /// To wake it.
    Sleeps,
    /// To interrupt this CPU, which runs it.
    Runs(CpuId),
    /// Nothing: it begins to run before it does anything else.
    Awake,
}

/// What a vCPU does that does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// It wants to run and may.
    Waits,
    /// It wants to sleep.
    Sleeps,
    /// It is down, or is not allowed to run.
    StandsStill,
}

/// What of its affinity is to change.
enum Change<'a> {
    Affinity(&'a CpuSet, &'a CpuSet),
    Pin(Option<CpuId>),
}

impl Scheduler<'_> {
    /// Makes a CPU one of those that run vCPUs. It asks for its first decision next.
    pub fn cpu_up(&self, cpu: CpuId) -> Result<(), Error> {
        self.cpu(cpu)?;
        self.shared.online.insert(cpu);
        Ok(())
    }

    /// Gives a record to a vCPU of this domain, which is down.
    ///
    /// `NoSuch`: no such domain, or no record of this number. `State`: the record is somebody's. `NoCpu`: it could run nowhere.
    /// Callers see to it that a record is given once at a time.
    pub fn attach(
        &self,
        vcpu: VcpuIndex,
        domain: u32,
        hard: &CpuSet,
        soft: &CpuSet,
    ) -> Result<(), Error> {
        let record = self.records.vcpu(vcpu).ok_or(Error::NoSuch)?;
        let parameters = self.records.domains.get(domain as usize);
        let weight = parameters.ok_or(Error::NoSuch)?.params().weight;
        if record.domain.load(Ordering::Relaxed) != NONE {
            return Err(Error::State);
        }
        self.check(hard)?;
        record.hard.store(hard);
        record.soft.store(soft);
        record.pinned.store(NONE, Ordering::Relaxed);
        record.home.store(NONE, Ordering::Relaxed);
        record.virtual_time.store(0, Ordering::Relaxed);
        record.carried.store(0, Ordering::Relaxed);
        record.ran.store(0, Ordering::Relaxed);
        record.weight.store(weight.get().into(), Ordering::Relaxed);
        record.domain.store(domain, Ordering::Release);
        Ok(())
    }

    /// Takes the record of a vCPU back, which is down and on no CPU. `Busy`: not yet. `State`: it is not down.
    pub fn detach(&self, vcpu: VcpuIndex) -> Result<(), Error> {
        let record = self.vcpu(vcpu)?;
        let state = record.state();
        if !state.is_down() {
            return Err(Error::State);
        }
        if state.place() != Place::Off {
            return Err(Error::Busy);
        }
        record.reset();
        record.domain.store(NONE, Ordering::Release);
        Ok(())
    }

    /// Starts a vCPU, or lets one that was stopped go on. As for all of these: the CPUs that are to ask again now.
    pub fn up(&self, vcpu: VcpuIndex, now: u64) -> Result<CpuSet, Error> {
        self.happen(vcpu, Event::Up, now)
    }

    /// Stops a vCPU. One that runs stops when its CPU has asked again; until then, and until it is saved, it is not off.
    pub fn down(&self, vcpu: VcpuIndex, now: u64) -> Result<CpuSet, Error> {
        self.happen(vcpu, Event::Down, now)
    }

    /// Lets a vCPU stand still until as many `unpause` have come. As `down` for one that runs.
    pub fn pause(&self, vcpu: VcpuIndex, now: u64) -> Result<CpuSet, Error> {
        self.happen(vcpu, Event::Pause, now)
    }

    /// Takes one `pause` back.
    pub fn unpause(&self, vcpu: VcpuIndex, now: u64) -> Result<CpuSet, Error> {
        self.happen(vcpu, Event::Unpause, now)
    }

    /// Says that the vCPU which this CPU runs wants to sleep. Then the CPU looks whether that for which it sleeps has come: if so it calls
    /// `wake` and goes on; if not it asks what to do.
    ///
    /// Who wakes does it the other way round: first the event, then `wake`. One of the two sees the other.
    pub fn block(&self, vcpu: VcpuIndex) -> Result<(), Error> {
        let record = self.vcpu(vcpu)?;
        let (before, after, _) = record.change(Event::Block)?;
        self.count(record, before.is_runnable(), after.is_runnable());
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// What there is to do for whoever brings a vCPU something, and has made that visible as for [`Self::wake`].
    #[inline(always)]
    pub fn glance(&self, vcpu: VcpuIndex) -> Glance {
        let Some(record) = self.records.vcpu(vcpu) else {
            return Glance::Awake;
        };
        let state = record.state();
        match state.place() {
            _ if state.is_blocked() => Glance::Sleeps,
            Place::Running(cpu) => Glance::Runs(cpu),
            _ => Glance::Awake,
        }
    }

    /// What a vCPU does that does not run. One that does not exist stands still.
    pub fn rest(&self, vcpu: VcpuIndex) -> Rest {
        match self.records.vcpu(vcpu).map(VcpuRecord::state) {
            Some(state) if state.is_runnable() => Rest::Waits,
            Some(state) if state.is_blocked() => Rest::Sleeps,
            _ => Rest::StandsStill,
        }
    }

    /// Whether a vCPU is down. One that does not exist is.
    pub fn is_down(&self, vcpu: VcpuIndex) -> bool {
        let record = self.records.vcpu(vcpu);
        record.is_none_or(|record| record.state().is_down())
    }

    /// Whether nobody waits for the CPU of the vCPU that it runs: then a yield changes nothing.
    pub fn is_alone(&self, cpu: CpuId) -> bool {
        self.cpu(cpu).is_ok_and(|cpu| cpu.hints.is_alone())
    }

    /// Lets a vCPU go on that sleeps; nothing, if it does not. This is all that is needed to wake, on whatever CPU.
    ///
    /// The caller has made visible what it wakes for by a sequentially consistent locked operation, as setting a pending bit
    /// is: so one that is awake costs a load.
    pub fn wake(&self, vcpu: VcpuIndex, now: u64) -> Result<CpuSet, Error> {
        if self.vcpu(vcpu)?.state().is_blocked() {
            self.happen(vcpu, Event::Wake, now)
        } else {
            Ok(CpuSet::EMPTY)
        }
    }

    /// Sets where a vCPU may run, and where it likes to. It obeys when this returns, but for one that runs: that runs on until its CPU,
    /// which is among those to be interrupted, has asked again.
    ///
    /// `NoCpu`: it could run nowhere. `Busy`: try again.
    pub fn set_affinity(
        &self,
        vcpu: VcpuIndex,
        hard: &CpuSet,
        soft: &CpuSet,
        now: u64,
    ) -> Result<CpuSet, Error> {
        self.check(hard)?;
        self.change_affinity(vcpu, Change::Affinity(hard, soft), now)
    }

    /// Lets a vCPU run on this CPU alone whatever its affinity is, or ends that. Refused as `set_affinity` is.
    /// ABI: `public/sched.h`, `SCHEDOP_pin_override`.
    pub fn set_pin_override(
        &self,
        vcpu: VcpuIndex,
        cpu: Option<CpuId>,
        now: u64,
    ) -> Result<CpuSet, Error> {
        if let Some(cpu) = cpu {
            self.check(&CpuSet::one(cpu))?;
        }
        self.change_affinity(vcpu, Change::Pin(cpu), now)
    }

    /// The CPU that a vCPU is to run on whatever its affinity is, if that is so.
    pub fn pin_override(&self, vcpu: VcpuIndex) -> Option<CpuId> {
        match self.vcpu(vcpu).ok()?.pinned.load(Ordering::Relaxed) {
            NONE => None,
            cpu => Some(CpuId::new(cpu)),
        }
    }

    /// The CPU that a vCPU is tied to: the only one on which it may run now.
    pub fn only_cpu(&self, vcpu: VcpuIndex) -> Option<CpuId> {
        let allowed = self.vcpu(vcpu).ok()?.allowed();
        let mut cpus = allowed.iter();
        cpus.next().filter(|_| cpus.next().is_none())
    }

    /// What there is to know of a vCPU.
    pub fn info(&self, vcpu: VcpuIndex, now: u64) -> Result<VcpuInfo, Error> {
        let record = self.vcpu(vcpu)?;
        if let Place::Running(cpu) = record.state().place() {
            self.cpu(cpu)?.queue.lock().advance(self.records, now);
        }
        let state = record.state();
        Ok(VcpuInfo {
            place: state.place(),
            is_runnable: state.is_runnable(),
            is_blocked: state.is_blocked(),
            is_down: state.is_down(),
            pauses: state.pauses(),
            allowed: record.allowed(),
            ran: record.ran.load(Ordering::Relaxed),
        })
    }

    fn check(&self, allowed: &CpuSet) -> Result<(), Error> {
        let online = self.shared.online.load();
        if allowed.intersection(&online).is_empty() {
            return Err(Error::NoCpu);
        }
        Ok(())
    }

    fn happen(&self, vcpu: VcpuIndex, event: Event, now: u64) -> Result<CpuSet, Error> {
        let record = self.vcpu(vcpu)?;
        let (before, after, effect) = record.change(event)?;
        self.count(record, before.is_runnable(), after.is_runnable());
        Ok(match effect {
            Effect::None => CpuSet::EMPTY,
            Effect::Place => self.place(self.woken(record, vcpu, now), now),
            Effect::Interrupt(cpu) => CpuSet::one(cpu),
            Effect::Remove(cpu) => {
                self.remove(vcpu, record, cpu, now)?;
                CpuSet::EMPTY
            }
        })
    }

    fn count(&self, record: &VcpuRecord, before: bool, after: bool) {
        if before != after
            && let Some(domain) = self.records.domain_of(record)
        {
            domain.count(after);
        }
    }

    /// Takes a vCPU out of a queue that must not run any more. If it is not there now, or runs again, others have seen to that.
    fn remove(
        &self,
        vcpu: VcpuIndex,
        record: &VcpuRecord,
        id: CpuId,
        now: u64,
    ) -> Result<(), Error> {
        let cpu = self.cpu(id)?;
        let mut queue = cpu.queue.lock();
        queue.advance(self.records, now);
        if record.state().place() == Place::Queued(id) && record.change(Event::Remove).is_ok() {
            queue.take_out(self.records, vcpu);
            self.publish(cpu, &queue, now);
        }
        Ok(())
    }

    fn change_affinity(
        &self,
        vcpu: VcpuIndex,
        change: Change<'_>,
        now: u64,
    ) -> Result<CpuSet, Error> {
        let record = self.vcpu(vcpu)?;
        let moving = match record.state().place() {
            Place::Moving | Place::Leaving(_) => return Err(Error::Busy),
            Place::Off => {
                record.change(Event::Claim).map_err(|_| Error::Busy)?;
                self.woken(record, vcpu, now)
            }
            Place::Queued(id) => self.claim(vcpu, record, id, now).ok_or(Error::Busy)?,
            Place::Running(id) => {
                let queue = self.cpu(id)?.queue.lock();
                // Only that CPU, with this lock, takes it from there.
                if record.state().place() != Place::Running(id) {
                    return Err(Error::Busy);
                }
                change.write(record);
                drop(queue);
                // It may also like another one better now, and is to look around after a slice.
                return Ok(CpuSet::one(id));
            }
        };
        change.write(record);
        Ok(self.place(moving, now))
    }

    /// Takes a vCPU out of the queue in which it waits.
    fn claim(&self, vcpu: VcpuIndex, record: &VcpuRecord, id: CpuId, now: u64) -> Option<Moving> {
        let cpu = self.cpu(id).ok()?;
        let mut queue = cpu.queue.lock();
        queue.advance(self.records, now);
        if record.state().place() != Place::Queued(id) {
            return None;
        }
        record.change(Event::Take).ok()?;
        let moving = queue.moving(record, vcpu, Why::Woken);
        queue.take_out(self.records, vcpu);
        self.publish(cpu, &queue, now);
        Some(moving)
    }
}

impl Change<'_> {
    /// Writes it down, for whoever has the vCPU or the lock of the CPU that runs it.
    fn write(&self, record: &VcpuRecord) {
        match self {
            Self::Affinity(hard, soft) => {
                record.hard.store(hard);
                record.soft.store(soft);
            }
            Self::Pin(cpu) => {
                let number = cpu.map_or(NONE, CpuId::get);
                record.pinned.store(number, Ordering::Relaxed);
            }
        }
    }
}
