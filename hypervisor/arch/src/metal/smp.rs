//! The other CPUs: how they are started, told something, and stopped.
//!
//! They start one after the other, before there is a guest and before the rest of the hypervisor, and then sleep until they are
//! interrupted. A CPU that does not come in time, or cannot do what the first one can, is told to wait for a start that never comes,
//! and its place is the next one's: so numbers of CPUs have no gaps.
//!
//! The first CPU and the one that starts meet in [`MEETING`]. INVARIANT: at most one CPU is there, since at most one can have got a
//! stack (`trampoline`).

use core::arch::naked_asm;
use core::fmt;

use arrayvec::ArrayVec;
use dom0_abi::addr::Maddr;

use super::acpi::Topology;
use super::cpu::{self, Cpu, read_tsc};
use super::entry::Handlers;
use super::machine::{Machine, load_syscall};
use super::mtrr::Mtrrs;
use super::trampoline::Trampoline;
use super::{apic, descriptors, layout, per_cpu, power, time};
use crate::boot::{BootModule, CpuId, PhysicalId};
use crate::clock::{Sample, Skew};
use crate::cpu_features::{Features, Lack};
use crate::interrupts::Ipi;
use crate::memory_map::MemoryMap;
use crate::sync::Once;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::tlb::CpuSet;

/// How long a CPU may take for each step, in milliseconds: it is there in less than one, but a machine that is itself simulated, on
/// busy CPUs, may let it wait.
const PATIENCE_MS: u64 = 2_000;
/// How often a CPU that starts is asked for the time at least, and for how long at most if the answers say little: a CPU of a machine
/// that is itself simulated does not always run.
const QUESTIONS: u32 = 16;
const QUESTIONING_MS: u64 = 4;
/// The most CPUs that are used.
pub(super) const CAPACITY: usize = CpuSet::CAPACITY as usize;

/// Why a CPU is not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CpuRefusal {
    /// It did not answer.
    Silent,
    /// It began, and was not heard of again.
    Lost,
    /// Its number is beyond what the APICs of this machine can name.
    Unreachable,
    /// There is no memory below 1 MiB to start it in.
    NoLowMemory,
    /// It cannot do what the first CPU can.
    Lacks(Lack),
    /// It says that it is another one.
    Impostor,
}

impl fmt::Display for CpuRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("it does not answer"),
            Self::Lost => f.write_str("it began to start and was not heard of again"),
            Self::Unreachable => f.write_str("no interrupt reaches a CPU of this number"),
            Self::NoLowMemory => f.write_str("there is no memory below 1 MiB to start it in"),
            Self::Lacks(lack) => write!(f, "it lacks what the first CPU has: {lack}"),
            Self::Impostor => f.write_str("another CPU came in its place"),
        }
    }
}

/// A CPU that was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StartedCpu {
    /// Its number from now on.
    pub id: CpuId,
    /// How far its time-stamp counter is from the first CPU's.
    pub skew: Skew,
    /// Its memory-type ranges were other ones than the first CPU's, whose it now has.
    pub had_other_memory_types: bool,
}

/// What became of one of the CPUs that firmware named, all but the first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuReport {
    /// The number of its APIC.
    pub apic_id: u32,
    /// It runs, or why not.
    pub outcome: Result<StartedCpu, CpuRefusal>,
}

/// The CPUs that run, and what became of all.
struct Cpus {
    /// The numbers of their APICs, each at the CPU's own number.
    apic_ids: ArrayVec<u32, CAPACITY>,
    /// What ACPI calls them, in the same order.
    acpi_ids: ArrayVec<u32, CAPACITY>,
    reports: ArrayVec<CpuReport, CAPACITY>,
}

static CPUS: Once<Cpus> = Once::new();

/// What a CPU that starts is compared with.
struct FirstCpu {
    features: Features,
    mtrrs: Option<Mtrrs>,
}

static FIRST: Once<FirstCpu> = Once::new();

/// Nobody has come.
const AWAITED: u32 = 0;
/// It has come, and may not stay: `lacks` says why.
const REFUSED: u32 = 1;
/// It is ready, and answers questions.
const READY: u32 = 2;
/// It may begin to work.
const ADMITTED: u32 = 3;

/// Where the first CPU meets the one that starts. ORDERING: what is written before a change of `phase`, `question` or `answer` is
/// read behind its new value: Release and Acquire.
struct Meeting {
    phase: AtomicU32,
    /// The number of the APIC that is expected.
    expected: AtomicU32,
    /// What the CPU lacks; 0 if it is another than the one that is expected.
    lacks: AtomicU64,
    had_other_memory_types: AtomicBool,
    /// The number of the last question, and of the last answer.
    question: AtomicU32,
    answer: AtomicU32,
    answered: AtomicU64,
    /// What is to be added to its counter.
    offset: AtomicU64,
}

static MEETING: Meeting = Meeting {
    phase: AtomicU32::new(AWAITED),
    expected: AtomicU32::new(0),
    lacks: AtomicU64::new(0),
    had_other_memory_types: AtomicBool::new(false),
    question: AtomicU32::new(0),
    answer: AtomicU32::new(0),
    answered: AtomicU64::new(0),
    offset: AtomicU64::new(0),
};

/// What starts the others: where they begin, and with which tables.
pub(super) struct Origin<'a> {
    pub(super) map: &'a MemoryMap,
    pub(super) modules: &'a [BootModule],
    /// The first page tables.
    pub(super) low_root: Maddr,
    /// Our own.
    pub(super) root: Maddr,
    /// [`entry`].
    pub(super) entry: u64,
}

/// The address of the code that a CPU calls once it has a stack.
pub(super) fn entry<H: Handlers>() -> u64 {
    first_steps::<H> as *const () as u64
}

/// Starts CPUs until there are `count`, counted with the one that runs; their areas are mapped and their records written.
pub(super) fn start_others(topology: &Topology, count: usize, origin: &Origin<'_>) {
    FIRST.call_once(|| FirstCpu {
        features: Features::of(cpu::cpuid),
        mtrrs: Mtrrs::read(),
    });
    let mut cpus = Cpus {
        apic_ids: ArrayVec::new(),
        acpi_ids: ArrayVec::new(),
        reports: ArrayVec::new(),
    };
    let (first, others) = match topology.cpus.split_first() {
        Some((first, others)) => (*first, others),
        None => (apic::id(), &[][..]),
    };
    cpus.apic_ids.push(first);
    if count > 1 {
        let trampoline = Trampoline::new(
            origin.map,
            origin.modules,
            origin.low_root,
            origin.root,
            origin.entry,
        );
        start_each(&mut cpus, others, count, trampoline.as_ref());
        if let Some(trampoline) = trampoline {
            trampoline.clear();
        }
    }
    let names = cpus.apic_ids.iter().map(|id| topology.acpi_id(*id));
    cpus.acpi_ids = names.collect();
    CPUS.call_once(|| cpus);
}

fn start_each(cpus: &mut Cpus, others: &[u32], count: usize, trampoline: Option<&Trampoline>) {
    for &apic_id in others {
        let Ok(id) = u32::try_from(cpus.apic_ids.len()) else {
            return;
        };
        if cpus.apic_ids.len() >= count || cpus.reports.is_full() {
            return;
        }
        let outcome = match trampoline {
            _ if !apic::reaches(apic_id) => Err(CpuRefusal::Unreachable),
            None => Err(CpuRefusal::NoLowMemory),
            Some(trampoline) => start_one(apic_id, CpuId::new(id), trampoline),
        };
        if outcome.is_ok() {
            cpus.apic_ids.push(apic_id);
        }
        cpus.reports.push(CpuReport { apic_id, outcome });
    }
}

/// Starts a CPU. One that is refused waits for another start afterwards, and has left its stack.
fn start_one(apic_id: u32, id: CpuId, trampoline: &Trampoline) -> Result<StartedCpu, CpuRefusal> {
    /// SPEC: Intel SDM volume 3, 9.4.4.1, which says 10 ms. CPUs of this century are there at once, and older ones that start
    /// too early are started a second time.
    const RESET_MS: u64 = 1;
    MEETING.phase.store(AWAITED, Ordering::Relaxed);
    MEETING.expected.store(apic_id, Ordering::Relaxed);
    MEETING.question.store(0, Ordering::Relaxed);
    MEETING.answer.store(0, Ordering::Relaxed);
    trampoline.offer(per_cpu::stack_at_start(id.get()));
    apic::reset(apic_id);
    time::wait_until(RESET_MS, || false);
    apic::start(apic_id, trampoline.page());
    if !time::wait_until(10, || trampoline.is_taken()) {
        // The first one may come before the CPU is ready.
        apic::start(apic_id, trampoline.page());
    }
    time::wait_until(PATIENCE_MS, || trampoline.is_taken());
    let outcome = if trampoline.withdraw() {
        meet(id)
    } else {
        Err(CpuRefusal::Silent)
    };
    if outcome.is_err() {
        apic::reset(apic_id);
        time::wait_until(RESET_MS, || false);
    }
    outcome
}

/// The first CPU's part of the meeting.
fn meet(id: CpuId) -> Result<StartedCpu, CpuRefusal> {
    let phase = || MEETING.phase.load(Ordering::Acquire);
    if !time::wait_until(PATIENCE_MS, || phase() != AWAITED) {
        return Err(CpuRefusal::Lost);
    }
    if phase() == REFUSED {
        let lacks = Lack::from_bits(MEETING.lacks.load(Ordering::Relaxed));
        return Err(lacks.map_or(CpuRefusal::Impostor, CpuRefusal::Lacks));
    }
    // Within a microsecond.
    let is_near = |skew: &Skew| skew.error() <= u64::from(time::tsc_khz() / 1000);
    let begin = read_tsc();
    let mut skew = Skew::UNKNOWN;
    for question in 1.. {
        let asked = read_tsc();
        let is_late = asked.wrapping_sub(begin) > time::cycles(QUESTIONING_MS);
        if question > QUESTIONS && (is_late || is_near(&skew)) {
            break;
        }
        MEETING.question.store(question, Ordering::Release);
        let has_answer = || MEETING.answer.load(Ordering::Acquire) == question;
        if !time::wait_until(PATIENCE_MS, has_answer) {
            return Err(CpuRefusal::Lost);
        }
        skew.learn(Sample {
            asked,
            answered: MEETING.answered.load(Ordering::Relaxed),
            heard: read_tsc(),
        });
    }
    let offset = skew.offset().cast_unsigned();
    MEETING.offset.store(offset, Ordering::Relaxed);
    MEETING.phase.store(ADMITTED, Ordering::Release);
    Ok(StartedCpu {
        id,
        skew,
        had_other_memory_types: MEETING.had_other_memory_types.load(Ordering::Relaxed),
    })
}

/// A CPU's first steps in the image, still on the first page tables: takes the hypervisor's own, and its stack.
// SAFETY (of callers): only ever jumped to by the trampoline, with a stack that this CPU alone has, and tables that map it and the
// image.
#[unsafe(naked)]
unsafe extern "C" fn first_steps<H: Handlers>(stack: u64, root: u64) -> ! {
    naked_asm!(
        "mov cr3, rsi",
        "mov rsp, rdi",
        "xor ebp, ebp",
        "call {begin}",
        "ud2",
        begin = sym begin::<H>,
    )
}

/// What a CPU does that has just been started.
extern "C" fn begin<H: Handlers>() -> ! {
    let cpu = Cpu::current();
    if let Some(first) = FIRST.get() {
        if let Some(lack) = Features::of(cpu::cpuid).lacks(&first.features) {
            refuse(lack.bits());
        }
        cpu::load_protections();
        let mtrrs = Mtrrs::read();
        let is_other = mtrrs != first.mtrrs;
        if let (true, Some(mtrrs)) = (is_other, &first.mtrrs) {
            mtrrs.load(cpu);
        }
        MEETING
            .had_other_memory_types
            .store(is_other, Ordering::Relaxed);
    }
    descriptors::load_gdt(&cpu.local);
    descriptors::load_idt::<H>();
    load_syscall::<H>(&cpu.local);
    apic::enable(false);
    if apic::id() != MEETING.expected.load(Ordering::Relaxed) {
        refuse(0);
    }
    MEETING.phase.store(READY, Ordering::Release);
    let mut answer = 0;
    while MEETING.phase.load(Ordering::Acquire) != ADMITTED {
        let question = MEETING.question.load(Ordering::Acquire);
        if question != answer {
            answer = question;
            MEETING.answered.store(read_tsc(), Ordering::Relaxed);
            MEETING.answer.store(answer, Ordering::Release);
        }
        core::hint::spin_loop();
    }
    let offset = MEETING.offset.load(Ordering::Relaxed);
    cpu.local.clock_offset.set(offset);
    H::idle(cpu)
}

/// Says that this CPU cannot stay, and waits to be reset.
fn refuse(lacks: u64) -> ! {
    MEETING.lacks.store(lacks, Ordering::Relaxed);
    MEETING.phase.store(REFUSED, Ordering::Release);
    power::halt()
}

/// The number of a CPU's APIC.
pub(super) fn apic_id(cpu: CpuId) -> Option<u32> {
    CPUS.get()?.apic_ids.get(cpu.get() as usize).copied()
}

/// Makes a CPU serve its mailbox.
pub(super) fn interrupt(cpu: CpuId, vector: u8) {
    if let Some(apic_id) = apic_id(cpu) {
        apic::interrupt(apic_id, vector);
    }
}

/// The end is near: every CPU but the one with this APIC stands still.
static STOPPER: AtomicU32 = AtomicU32::new(NOBODY);
/// The number of no APIC: interrupts to it go to all.
const NOBODY: u32 = u32::MAX;
/// How many CPUs stand still.
static STOPPED: AtomicU32 = AtomicU32::new(0);

/// Stops all other CPUs for ever, whatever they do, and waits a moment until they have. The second call does nothing.
pub fn stop_others() {
    const MS: u64 = 20;
    let Some(cpus) = CPUS.get() else {
        return;
    };
    let others = (cpus.apic_ids.len() as u32).wrapping_sub(1);
    let me = apic::id();
    let is_first = || STOPPER.compare_exchange(NOBODY, me, Ordering::AcqRel, Ordering::Relaxed);
    if others == 0 || is_first().is_err() {
        return;
    }
    for id in cpus.apic_ids.iter().filter(|id| **id != me) {
        apic::interrupt_by_nmi(*id);
    }
    time::wait_until(MS, || STOPPED.load(Ordering::Relaxed) == others);
}

/// Called at each NMI: if the CPU is to stop, it does. One that comes to the CPU that stops the others is a device's.
pub(super) fn stop_if_asked() {
    let stopper = STOPPER.load(Ordering::Acquire);
    if stopper != NOBODY && stopper != apic::id() {
        STOPPED.fetch_add(1, Ordering::Relaxed);
        power::halt()
    }
}

impl Machine {
    /// How many CPUs run. They have the numbers below that.
    pub fn nr_cpus(&self) -> usize {
        CPUS.get().map_or(1, |cpus| cpus.apic_ids.len())
    }

    /// What firmware calls a CPU. `None`: there is none of this number.
    pub fn physical_id(&self, cpu: CpuId) -> Option<PhysicalId> {
        let (cpus, place) = (CPUS.get()?, cpu.get() as usize);
        Some(PhysicalId {
            apic: *cpus.apic_ids.get(place)?,
            acpi: *cpus.acpi_ids.get(place)?,
        })
    }

    /// Whether the time-stamp counters of all CPUs are alike.
    pub fn clocks_agree(&self) -> bool {
        let started = self.cpu_reports().iter().filter_map(|cpu| cpu.outcome.ok());
        started.into_iter().all(|cpu| cpu.skew.offset() == 0)
    }

    /// What became of each of the others that were to be started.
    pub fn cpu_reports(&self) -> &[CpuReport] {
        CPUS.get().map_or(&[], |cpus| &cpus.reports)
    }

    /// Interrupts a CPU, which may be the caller's own. What it is to see must have been written before.
    pub fn interrupt(&self, cpu: CpuId, what: Ipi) {
        interrupt(cpu, what.vector());
    }

    /// Whether CPUs have the APIC whose registers are model-specific ones.
    pub fn has_x2apic(&self) -> bool {
        apic::is_x2()
    }
}

const _: () = assert!(CAPACITY <= layout::MAX_CPUS);
