//! What lets vCPUs run and stop, and who has to hear of it.

use dom0_abi::ids::DomId;
use dom0_abi::vcpu::Runstate;
use dom0_abi::xen::Virq;
use oxen_arch::tlb::CpuSet;
use oxen_arch::{Cpu, Ipi, Notes};

use crate::domain::vcpu::Vcpu;
use crate::domain::{Capabilities, Domain};
use crate::event::virq;
use crate::host::Host;
use crate::sched::{self, Glance, Scheduler, VcpuIndex};

impl Host {
    /// The scheduler of this host.
    #[inline(always)]
    pub fn scheduler(&self) -> Scheduler<'_> {
        self.schedule.view()
    }

    /// Makes the CPU one of those that run vCPUs. It asks next.
    pub fn cpu_up(&self, cpu: &Cpu) {
        let up = self.scheduler().cpu_up(cpu.id());
        debug_assert!(up.is_ok(), "every CPU has a record");
        cpu.note(Notes::SCHEDULE);
    }

    /// Lets all other CPUs look for this host.
    pub fn call_cpus(&self, cpu: &Cpu) {
        for (id, _) in self.cpus().filter(|(id, _)| *id != cpu.id()) {
            self.machine.interrupt(id, Ipi::Reschedule);
        }
    }

    /// Sees to it that CPUs ask the scheduler, soon.
    pub(crate) fn interrupt_to_ask(&self, cpu: &Cpu, cpus: &CpuSet, now: u64) {
        if cpus.is_empty() {
            return;
        }
        let mut others = *cpus;
        if others.contains(cpu.id()) {
            self.ask_soon(cpu, now);
            others.remove(cpu.id());
        }
        for id in others.iter() {
            self.machine.interrupt(id, Ipi::Reschedule);
        }
    }

    /// Sees to it that this CPU asks, unless it would only hear that it goes on, and until when.
    fn ask_soon(&self, cpu: &Cpu, now: u64) {
        match self.scheduler().goes_on(cpu.id(), now) {
            Some(next_event) => self.ask_at(cpu, next_event),
            None => cpu.note(Notes::SCHEDULE),
        }
    }

    /// The same for what the scheduler answered. It refuses what makes no sense for a vCPU in its state, which is no harm then.
    pub(super) fn interrupt_to_ask_if(
        &self,
        cpu: &Cpu,
        answer: Result<CpuSet, sched::Error>,
        now: u64,
    ) {
        if let Ok(cpus) = answer {
            self.interrupt_to_ask(cpu, &cpus, now);
        }
    }

    /// Sees to it that a vCPU looks again whether an event, or whatever else it may wait for, has come: called behind the cause, which
    /// was made visible by a sequentially consistent locked operation.
    ///
    /// A vCPU looks on every way back to its guest: so one that waits for a CPU, or runs on this one, needs nothing. One that sleeps is
    /// made to run; the CPU of one that runs elsewhere is interrupted. This takes locks from rank `Scheduler` on, and waits for nothing else:
    /// callers hold ports.
    #[inline(always)]
    pub fn kick(&self, cpu: &Cpu, vcpu: &Vcpu) {
        match self.scheduler().glance(vcpu.index) {
            Glance::Awake => {}
            Glance::Runs(on) if on == cpu.id() => {}
            Glance::Runs(on) => self.machine.interrupt(on, Ipi::Event),
            Glance::Sleeps => self.wake(cpu, vcpu),
        }
    }

    /// Lets a vCPU go on that sleeps; nothing, if it does not.
    #[inline(never)]
    pub(crate) fn wake(&self, cpu: &Cpu, vcpu: &Vcpu) {
        let now = self.time.now(cpu);
        vcpu.runstate.wakes(now);
        self.interrupt_to_ask_if(cpu, self.scheduler().wake(vcpu.index, now), now);
    }

    /// Says that the vCPU which this CPU runs is about to sleep. Who calls looks behind this whether it need not: if so, it
    /// [wakes](Self::wake) it.
    pub(crate) fn is_about_to_sleep(&self, vcpu: &Vcpu) {
        // Refused if it sleeps already.
        let _: Result<(), sched::Error> = self.scheduler().block(vcpu.index);
    }

    /// Makes a vCPU, which is down, one that the scheduler knows. `false`: it has no place for vCPUs of such a domain.
    pub(crate) fn begin_scheduling(&self, domain: DomId, vcpu: VcpuIndex) -> bool {
        // No CPU is excluded, and one is up: the one that runs this.
        let all = CpuSet::from_words([u64::MAX; CpuSet::WORDS]);
        let attached = (self.scheduler()).attach(vcpu, domain.get().into(), &all, &all);
        attached.is_ok()
    }

    /// Takes that back. No CPU runs it: who does keeps its domain.
    pub(crate) fn end_scheduling(&self, cpu: &Cpu, vcpu: VcpuIndex) {
        let now = self.time.now(cpu);
        self.interrupt_to_ask_if(cpu, self.scheduler().down(vcpu, now), now);
        let detached = self.scheduler().detach(vcpu);
        debug_assert!(detached.is_ok(), "{detached:?}");
    }

    /// Starts a vCPU, whose state says what it begins with.
    pub fn bring_up(&self, cpu: &Cpu, vcpu: &Vcpu) {
        let now = self.time.now(cpu);
        vcpu.runstate.enter(Runstate::Runnable, || now);
        self.interrupt_to_ask_if(cpu, self.scheduler().up(vcpu.index, now), now);
    }

    /// Stops a vCPU. If it runs, it does so until its CPU has asked.
    pub fn bring_down(&self, cpu: &Cpu, vcpu: &Vcpu) {
        let now = self.time.now(cpu);
        self.interrupt_to_ask_if(cpu, self.scheduler().down(vcpu.index, now), now);
    }

    /// Shuts a domain down; none of its vCPUs goes on, and dom0 is told that something has become of a domain. The reason is the one that
    /// was settled first. If it owns the hardware, the host ends as soon as one of them looks.
    pub fn shut_down(&self, cpu: &Cpu, domain: &Domain, reason: u8) {
        domain.shutdown.enter(reason);
        for vcpu in domain.vcpus() {
            vcpu.signals.call_attention();
            if domain.capabilities.contains(Capabilities::HARDWARE) {
                self.kick(cpu, vcpu);
            } else {
                self.stop_for_good(cpu, vcpu);
            }
        }
        virq::raise_global(self, cpu, Virq::DomExc);
    }

    /// Lets a vCPU of a domain that has shut down stand still, once.
    pub(crate) fn stop_for_good(&self, cpu: &Cpu, vcpu: &Vcpu) {
        if vcpu.stops() {
            let now = self.time.now(cpu);
            self.interrupt_to_ask_if(cpu, self.scheduler().pause(vcpu.index, now), now);
        }
    }

    /// Lets each vCPU of a domain run on one CPU alone, that of its number as far as there are so many.
    pub fn pin_vcpus(&self, cpu: &Cpu, domain: &Domain) {
        let now = self.time.now(cpu);
        for (vcpu, (id, _)) in domain.vcpus().zip(self.cpus()) {
            let here = CpuSet::one(id);
            let pinned = self.scheduler().set_affinity(vcpu.index, &here, &here, now);
            self.interrupt_to_ask_if(cpu, pinned, now);
        }
    }

    /// Whether none of a domain's vCPUs is on any CPU. If it has shut down none will be again.
    pub fn is_at_rest(&self, cpu: &Cpu, domain: &Domain) -> bool {
        let now = self.time.now(cpu);
        domain.vcpus().all(|vcpu| {
            let info = self.scheduler().info(vcpu.index, now);
            info.is_ok_and(|info| info.place == sched::Place::Off)
        })
    }

    /// The next domain of this number begins with the weight and cap that every domain begins with.
    pub(crate) fn forget_parameters(&self, domain: DomId) {
        if let Some(record) = self.schedule.domain(domain.get().into()) {
            record.set_params(sched::DomainParams::DEFAULT);
        }
    }
}
