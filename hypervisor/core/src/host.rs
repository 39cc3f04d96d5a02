//! The whole hypervisor of one machine. Everything hangs off this; nothing is static, so that many machines fit into a
//! process. On the metal the image holds the only one.

mod debug_keys;

use core::fmt;

use arrayvec::ArrayString;
use dom0_abi::arch::CpuUserRegs;
use dom0_abi::ids::{DomId, VcpuId};
use dom0_abi::xen::Virq;
use oxen_arch::boot::{BootInfo, CpuId};
use oxen_arch::memory::{BootSlice, FrameBox, PhysMem};
use oxen_arch::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use oxen_arch::{Cpu, Machine};

use crate::address_space::Pcids;
use crate::budget::Budget;
use crate::cmdline::CommandLine;
use crate::console::{Console, Input, Out};
use crate::domain::numbers::VcpuNumbers;
use crate::domain::table::{DomainRef, DomainTable};
use crate::domain::vcpu::Vcpu;
use crate::domain::{Capabilities, Domain, teardown};
use crate::error;
use crate::event::virq;
use crate::frame::{Frames, Memory, UndoQueue};
use crate::irq::Irqs;
use crate::page_type::entry::EntryRules;
use crate::policy::cpuid::{CpuidPolicy, HostFacts};
use crate::policy::io_memory::IoMemory;
use crate::policy::msr::MsrPolicy;
use crate::switch::SchedulerTables;
use crate::time::{NEVER, Time};
use crate::trap::return_path::{HostEnd, Wish};

/// The hypervisor of one machine.
pub struct Host {
    /// The machine.
    pub machine: Machine,
    /// Its memory, by frame.
    pub frames: Frames,
    /// All domains.
    pub domains: DomainTable,
    /// The log, and the console of the control domain.
    pub console: Console,
    /// What guests see of CPUID.
    pub cpuid: CpuidPolicy,
    /// What guests see of model-specific registers.
    pub msrs: MsrPolicy,
    /// What entries of page tables may be.
    pub entry_rules: EntryRules,
    /// What of the machine's addresses devices are that domains may reach.
    pub io_memory: IoMemory,
    /// Interrupts of devices.
    pub irqs: Irqs,
    /// What the command line says.
    pub settings: CommandLine,
    command_line: ArrayString<2048>,
    /// Time, and what is to happen when.
    pub time: Time,
    /// The numbers of all vCPUs.
    pub vcpu_numbers: VcpuNumbers,
    /// What the scheduler decides by.
    pub(crate) schedule: SchedulerTables,
    entry_budget: AtomicU32,
    pcpus: BootSlice<Pcpu>,
}

/// What a host cannot begin without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostError {
    /// There is too little memory for the tables that are made at boot.
    NoMemory,
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory => f.write_str("too little memory for the tables of the hypervisor"),
        }
    }
}

impl Host {
    /// Takes over a machine, on `cpu`: makes the tables that live for ever, then hands all other memory to the frame
    /// allocator. `console` may hold lines already.
    pub fn new(
        machine: Machine,
        cpu: &Cpu,
        boot: &BootInfo,
        settings: CommandLine,
        console: Console,
    ) -> Result<Self, HostError> {
        let domains = DomainTable::new(&machine).ok_or(HostError::NoMemory)?;
        let pcpus = machine
            .boot_slice(machine.nr_cpus(), |_| Pcpu::default())
            .ok_or(HostError::NoMemory)?;
        let capacity = VcpuNumbers::capacity(&machine);
        let time = Time::new(&machine, cpu, capacity).ok_or(HostError::NoMemory)?;
        let vcpu_numbers = VcpuNumbers::new(&machine).ok_or(HostError::NoMemory)?;
        let schedule = SchedulerTables::new(&machine, capacity).ok_or(HostError::NoMemory)?;
        let irqs = Irqs::new(&machine).ok_or(HostError::NoMemory)?;
        let frames = Frames::new(&machine).ok_or(HostError::NoMemory)?;
        let facts = HostFacts {
            tsc_khz: machine.tsc_khz(),
            max_mfn: machine.max_mfn(),
        };
        let cpuid = CpuidPolicy::derive(&facts, |leaf, subleaf| cpu.cpuid(leaf, subleaf));
        let entry_rules = EntryRules::new(machine.paging(), machine.tlb_mode(), machine.max_mfn());
        let msrs = MsrPolicy::derive(&cpuid, |msr| cpu.read_msr(msr));
        let host = Self {
            machine,
            frames,
            domains,
            cpuid,
            msrs,
            entry_rules,
            io_memory: IoMemory::new(),
            irqs,
            time,
            vcpu_numbers,
            schedule,
            entry_budget: AtomicU32::new(Budget::FULL.units()),
            console,
            settings,
            command_line: boot.command_line,
            pcpus,
        };
        host.cpu_up(cpu);
        Ok(host)
    }

    /// The machine's memory.
    pub fn mem(&self) -> &PhysMem {
        self.machine.mem()
    }

    /// The frames in the hands of a CPU, for whoever has this queue.
    pub fn memory<'a>(&'a self, cpu: &'a Cpu, undo: &'a UndoQueue) -> Memory<'a> {
        Memory {
            frames: &self.frames,
            machine: &self.machine,
            cpu,
            undo,
        }
    }

    /// What an entry of a guest begins with.
    pub fn entry_budget(&self) -> Budget {
        Budget::new(self.entry_budget.load(Ordering::Relaxed))
    }

    /// Makes entries of guests give way sooner, or later: where they do must make no difference.
    pub fn set_entry_budget(&self, budget: Budget) {
        self.entry_budget.store(budget.units(), Ordering::Relaxed);
    }

    /// The command line, as the loader gave it.
    pub fn command_line(&self) -> &str {
        &self.command_line
    }

    /// The console, for a CPU that has something to say now.
    pub fn out(&self, cpu: &Cpu) -> Out<'_> {
        self.console.on(&self.machine, cpu.tsc())
    }

    /// The record of a CPU.
    pub fn pcpu(&self, cpu: &Cpu) -> Option<&Pcpu> {
        self.pcpu_of(cpu.id())
    }

    /// The record of the CPU of this number.
    pub fn pcpu_of(&self, id: CpuId) -> Option<&Pcpu> {
        self.pcpus.get(usize::try_from(id.get()).ok()?)
    }

    /// The records of all CPUs, in the order of their numbers.
    pub fn cpus(&self) -> impl Iterator<Item = (CpuId, &Pcpu)> {
        (0..u32::MAX).map(CpuId::new).zip(self.pcpus.iter())
    }

    /// Makes a domain with its vCPUs and makes it known. On failure there is no such domain, and no memory is lost.
    pub fn add_domain(
        &self,
        cpu: &Cpu,
        domain: Domain,
        vcpus: impl IntoIterator<Item = Vcpu>,
    ) -> Result<DomainRef<'_>, AddDomainError> {
        let undo = UndoQueue::new();
        let memory = self.memory(cpu, &undo);
        // One after the other into frames of their own: each is too large for many copies of it on a stack.
        let mut placed = place_domain(memory, domain)?;
        for vcpu in vcpus {
            if let Err(error) = add_vcpu(self, memory, &mut placed, vcpu) {
                self.discard_domain(memory, placed);
                return Err(error);
            }
        }
        let added = self.domains.insert(placed).map_err(|refused| {
            self.discard_domain(memory, refused);
            AddDomainError::DomainNumber
        });
        // Behind that, so that whoever sets it finds either a domain or nobody who has not read it yet.
        added.inspect(|domain| self.tell_wall_clock(domain))
    }

    /// Frees the rest of a domain whose end is done ([`teardown::release`]) and whose frames are all free, as far as the budget goes, and
    /// then takes it out of the table; dom0 is told. From the first time on nobody finds it. `false`: somebody still refers to it, or there
    /// is more to do; try again.
    pub fn reap_domain(&self, cpu: &Cpu, id: DomId, budget: &mut Budget) -> bool {
        if self.frames.count_of(id) > 0 {
            return false;
        }
        let undo = UndoQueue::new();
        let memory = self.memory(cpu, &undo);
        let rest = self.domains.take(id, |domain| {
            let is_empty = self.empty_domain(memory, domain, budget);
            if is_empty && domain.capabilities.contains(Capabilities::HARDWARE) {
                self.irqs.release(&self.machine, id);
            }
            is_empty
        });
        let Some(rest) = rest else {
            return false;
        };
        memory.unplace(rest);
        self.forget_parameters(id);
        virq::raise_global(self, cpu, Virq::DomExc);
        true
    }

    /// Gives back a domain that nobody has heard of.
    fn discard_domain(&self, memory: Memory<'_>, mut domain: FrameBox<Domain>) {
        let mut budget = Budget::ENDLESS;
        let is_empty = self.empty_domain(memory, &mut domain, &mut budget);
        debug_assert!(is_empty);
        memory.unplace(domain);
    }

    /// Gives back what of the hypervisor's memory a domain has, as far as the budget goes. `true`: all but the domain itself. Nobody else has
    /// the domain, or will.
    fn empty_domain(&self, memory: Memory<'_>, domain: &mut Domain, budget: &mut Budget) -> bool {
        while domain.has_vcpus() {
            if !budget.take(teardown::VCPU) {
                return false;
            }
            if let Some(vcpu) = domain.pop_vcpu() {
                self.release_vcpu(memory, vcpu);
            }
        }
        domain.map.clear(memory);
        domain.events.clear(memory, budget) && domain.grants.free(memory, budget)
    }

    fn release_vcpu(&self, memory: Memory<'_>, vcpu: FrameBox<Vcpu>) {
        vcpu.timers.stop(&self.time.queues, memory.cpu, vcpu.index);
        self.end_scheduling(memory.cpu, vcpu.index);
        self.vcpu_numbers.give_back(vcpu.index);
        teardown::release_vcpu(memory, &mut vcpu.lock());
        memory.unplace(vcpu);
    }

    /// Serves the serial line. `regs` are those of the guest that was interrupted, if one was.
    pub fn serial_interrupt(&self, cpu: &Cpu, regs: Option<&CpuUserRegs>) {
        while let Some(byte) = self.machine.serial_read() {
            match self.out(cpu).input(byte) {
                Input::ForDom0 => virq::raise_global(self, cpu, Virq::Console),
                Input::Key(key) => debug_keys::pressed(self, cpu, regs, key),
                Input::Nothing => {}
            }
        }
    }

    /// Does what another CPU wants to be done on this one.
    pub fn called(&self, cpu: &Cpu) {
        debug_keys::answer(self, cpu);
    }

    /// Ends the host. Who asked for it by `noreboot` finds the machine standing still instead of starting again.
    pub fn end(&self, cpu: &Cpu, end: HostEnd) -> ! {
        let noreboot = self.settings.noreboot;
        let what = match end.wish() {
            Wish::PowerOff => "halting",
            Wish::RestartUnlessAsked if noreboot => "halting",
            Wish::Restart | Wish::RestartUnlessAsked => "restarting",
        };
        error!(self.out(cpu), "{end}: {what}");
        match end.wish() {
            Wish::PowerOff => self.machine.power_off(),
            Wish::RestartUnlessAsked if noreboot => self.machine.halt(),
            Wish::Restart | Wish::RestartUnlessAsked => self.machine.reboot(),
        }
    }
}

#[inline(never)]
fn place_domain(memory: Memory<'_>, domain: Domain) -> Result<FrameBox<Domain>, AddDomainError> {
    memory.place(domain).map_err(|_| AddDomainError::NoMemory)
}

#[inline(never)]
fn add_vcpu(
    host: &Host,
    memory: Memory<'_>,
    domain: &mut Domain,
    mut vcpu: Vcpu,
) -> Result<(), AddDomainError> {
    let Some(index) = host.vcpu_numbers.take(domain.id, vcpu.id) else {
        teardown::release_vcpu(memory, &mut vcpu.lock());
        return Err(AddDomainError::VcpuNumber);
    };
    vcpu.index = index;
    if !host.begin_scheduling(domain.id, index) {
        host.vcpu_numbers.give_back(index);
        teardown::release_vcpu(memory, &mut vcpu.lock());
        return Err(AddDomainError::DomainNumber);
    }
    let placed = memory.place(vcpu).map_err(|vcpu| {
        host.end_scheduling(memory.cpu, index);
        host.vcpu_numbers.give_back(index);
        teardown::release_vcpu(memory, &mut vcpu.lock());
        AddDomainError::NoMemory
    })?;
    domain.add_vcpu(placed).map_err(|refused| {
        host.release_vcpu(memory, refused);
        AddDomainError::VcpuNumber
    })
}

/// Why a domain was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddDomainError {
    /// There is no memory for it.
    NoMemory,
    /// Its number is taken or too large.
    DomainNumber,
    /// A vCPU's number is not the next one, or there are too many, in the domain or in all.
    VcpuNumber,
    /// Its page tables are not what a domain's may be.
    PageTables,
    /// There are more ports to hide from it than a domain's rights can list.
    TooManyPorts,
}

/// What a physical CPU does.
#[derive(Debug)]
pub struct Pcpu {
    /// Domain and vCPU that it runs, as others may know it; see [`Pcpu::encode`].
    running: AtomicU64,
    /// When a debug key has asked it to answer, or [`NOT_ASKED`].
    asked_at: AtomicU64,
    /// What its TLB keeps of vCPUs.
    pub pcids: Pcids,
    /// When it asks the scheduler again, in system time. This and the next are the CPU's own.
    pub(crate) asks_at: AtomicU64,
    /// What its timer is set to, in system time.
    pub(crate) armed: AtomicU64,
}

/// A time at which nobody asks.
const NOT_ASKED: u64 = u64::MAX;
/// A CPU that runs no vCPU.
const NOTHING: u64 = u64::MAX;

impl Default for Pcpu {
    fn default() -> Self {
        Self {
            running: AtomicU64::new(NOTHING),
            asked_at: AtomicU64::new(NOT_ASKED),
            pcids: Pcids::new(),
            asks_at: AtomicU64::new(NEVER),
            armed: AtomicU64::new(NEVER),
        }
    }
}

impl Pcpu {
    /// The vCPU that it runs.
    pub fn running(&self) -> Option<(DomId, VcpuId)> {
        match self.running.load(Ordering::Acquire) {
            NOTHING => None,
            word => Some((DomId::new((word >> 32) as u16), VcpuId::new(word as u32))),
        }
    }

    /// Notes the vCPU that it runs from now on.
    pub fn runs(&self, domain: DomId, vcpu: VcpuId) {
        let word = Self::encode(domain, vcpu);
        self.running.store(word, Ordering::Release);
    }

    /// Notes that it runs none any more.
    pub fn runs_nothing(&self) {
        self.running.store(NOTHING, Ordering::Release);
    }

    const fn encode(domain: DomId, vcpu: VcpuId) -> u64 {
        (domain.get() as u64) << 32 | vcpu.get() as u64
    }
}

#[cfg(test)]
mod tests;
