//! A vCPU and the CPUs that run it and cause things for it. Signals, ports, pollers and the scheduler are the hypervisor's own; what calls them
//! there needs a machine, so its order of calls is repeated here: a function says whose.

use dom0_abi::ids::{Port, VcpuId};

use crate::boot::CpuId;
use crate::domain::shutdown::Shutdown;
use crate::domain::signals::Signals;
use crate::event::Domain;
use crate::sched::{
    Ask, CpuRecord, DomainRecord, Glance, Scheduler, Shared, VcpuIndex, VcpuRecord,
};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Rank, SpinLock};
use crate::tlb::CpuSet;

const NOW: u64 = 5_000_000;
/// The vCPU, as the scheduler knows it.
const INDEX: VcpuIndex = VcpuIndex::new(0);
const ID: VcpuId = VcpuId::new(0);

/// As the hypervisor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// It runs.
    Running,
    /// It sleeps until an event or an NMI can be delivered.
    Blocked,
    /// It sleeps until that, or until this port is pending, or any.
    Polling(Option<Port>),
}

/// As the hypervisor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Return to the guest.
    Guest,
    /// Ask the scheduler.
    Schedule,
    /// The host ends.
    Shutdown,
}

/// What the CPU alone touches that runs the vCPU.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// Whether it runs.
    pub run: RunState,
    /// Whether an NMI was delivered.
    pub in_nmi: bool,
    /// Whether it was called for events. It does not come to an answer here.
    pub in_upcall: bool,
    /// What the CPU that looked last does.
    pub next: Next,
}

/// A CPU that runs vCPUs.
struct Cpu {
    id: CpuId,
    /// It has to ask the scheduler: known to itself alone.
    note: AtomicBool,
    /// It runs the vCPU.
    runs: AtomicBool,
    /// Interrupts on their way to it: to look, and to ask.
    event: AtomicBool,
    reschedule: AtomicBool,
}

/// A host with one vCPU, whose domain owns the hardware.
pub struct Host {
    shared: Shared,
    cpus: Vec<Cpu>,
    records: Vec<CpuRecord>,
    vcpus: Vec<VcpuRecord>,
    domains: Vec<DomainRecord>,
    /// Its domain's ports.
    pub domain: Domain,
    /// What is caused for it.
    pub signals: Signals,
    shutdown: Shutdown,
    state: SpinLock<State>,
}

impl Host {
    /// So many CPUs, the first of which runs the vCPU.
    pub fn new(cpus: u32) -> Self {
        let ids = || (0..cpus).map(CpuId::new);
        let cpu = |id| Cpu {
            id,
            note: AtomicBool::new(false),
            runs: AtomicBool::new(false),
            event: AtomicBool::new(false),
            reschedule: AtomicBool::new(false),
        };
        let host = Self {
            shared: Shared::new(),
            cpus: ids().map(cpu).collect(),
            records: ids().map(CpuRecord::new).collect(),
            vcpus: vec![VcpuRecord::new()],
            domains: vec![DomainRecord::new()],
            domain: Domain::new(1),
            signals: Signals::new(),
            shutdown: Shutdown::new(),
            state: SpinLock::new(
                Rank::Vcpu,
                State {
                    run: RunState::Running,
                    in_nmi: false,
                    in_upcall: false,
                    next: Next::Guest,
                },
            ),
        };
        let sched = host.sched();
        sched.cpu_up(CpuId::new(0)).unwrap();
        let all: CpuSet = ids().collect();
        sched.attach(INDEX, 0, &all, &all).unwrap();
        sched.up(INDEX, 0).unwrap();
        host.go_on(0, Next::Schedule);
        for id in ids().skip(1) {
            sched.cpu_up(id).unwrap();
        }
        host
    }

    fn sched(&self) -> Scheduler<'_> {
        Scheduler::new(&self.shared, &self.records, &self.vcpus, &self.domains)
    }

    /// Its state, when all is done.
    pub fn state(&self) -> State {
        *self.state.lock()
    }

    // What other CPUs do, of which the first argument is the number.

    /// Sends an event.
    pub fn send(&self, cpu: usize, port: Port) {
        let polls = |_| {
            self.signals.note_event();
            self.kick(cpu);
        };
        self.domain.deliver_and(port, || self.kick(cpu), polls);
    }

    /// As `VCPUOP_send_nmi`.
    pub fn send_nmi(&self, cpu: usize) {
        self.signals.send_nmi();
        self.kick(cpu);
    }

    /// As a timer that ends a poll.
    pub fn end_poll(&self, cpu: usize) {
        self.signals.end_poll();
        self.kick(cpu);
    }

    /// Lets it stand still, and go on.
    pub fn pause_and_unpause(&self, cpu: usize) {
        let kicks = self.sched().pause(INDEX, NOW).unwrap();
        self.interrupt_to_ask(cpu, &kicks);
        let kicks = self.sched().unpause(INDEX, NOW).unwrap();
        self.interrupt_to_ask(cpu, &kicks);
    }

    /// As `Host::shut_down`.
    pub fn shut_down(&self, cpu: usize) {
        self.shutdown.enter(0);
        self.signals.call_attention();
        self.kick(cpu);
    }

    /// As `Host::kick`.
    fn kick(&self, cpu: usize) {
        match self.sched().glance(INDEX) {
            Glance::Awake => {}
            Glance::Runs(on) if on == self.cpus[cpu].id => {}
            Glance::Runs(on) => {
                let event = &self.cpus[on.get() as usize].event;
                event.swap(true, Ordering::AcqRel);
            }
            Glance::Sleeps => {
                let kicks = self.sched().wake(INDEX, NOW).unwrap();
                self.interrupt_to_ask(cpu, &kicks);
            }
        }
    }

    /// As `Host::interrupt_to_ask`.
    fn interrupt_to_ask(&self, cpu: usize, kicks: &CpuSet) {
        for id in kicks.iter() {
            let other = &self.cpus[id.get() as usize];
            if id == self.cpus[cpu].id {
                other.note.store(true, Ordering::Relaxed);
            } else {
                other.reschedule.swap(true, Ordering::AcqRel);
            }
        }
    }

    // What the CPU does that runs it.

    /// As `SCHEDOP_block`.
    pub fn block(&self, cpu: usize) {
        self.call(cpu, |state| {
            state.in_upcall = false;
            state.run = RunState::Blocked;
            self.signals.call_attention();
        });
    }

    /// As `SCHEDOP_poll`, of one port or of any.
    pub fn poll(&self, cpu: usize, port: Option<Port>) {
        self.call(cpu, |state| {
            if port.is_some_and(|port| self.domain.is_pending(port)) {
                return;
            }
            let _: [bool; 2] = [
                self.signals.take_end_of_poll(),
                self.signals.take_new_event(),
            ];
            self.domain.pollers.enter(ID);
            state.run = RunState::Polling(port);
            self.signals.call_attention();
        });
    }

    /// Makes a call and goes back to the guest.
    pub fn leave(&self, cpu: usize) {
        self.call(cpu, |_| ());
    }

    fn call(&self, cpu: usize, call: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        call(&mut state);
        let next = self.before_return(cpu, &mut state);
        drop(state);
        self.go_on(cpu, next);
    }

    /// Does what comes next until that is a return to the guest, or nothing.
    fn go_on(&self, cpu: usize, mut next: Next) {
        while next == Next::Schedule {
            match self.schedule(cpu) {
                Some(then) => next = then,
                None => return,
            }
        }
    }

    /// Takes the interrupts that are on their way to all CPUs, until none is.
    pub fn settle(&self) {
        let mut left = 16;
        while let Some(cpu) = self.cpus.iter().position(Cpu::is_interrupted) {
            let at = &self.cpus[cpu];
            at.event.swap(false, Ordering::AcqRel);
            if at.reschedule.swap(false, Ordering::AcqRel) {
                at.note.store(true, Ordering::Relaxed);
            }
            let next = match at.runs.load(Ordering::Relaxed) {
                true => self.look_again(cpu),
                false => Next::Schedule,
            };
            self.go_on(cpu, next);
            left -= 1;
            assert!(left > 0, "it does not come to rest");
        }
    }

    /// As `switch::next`. `None`: there is nobody to run.
    fn schedule(&self, cpu: usize) -> Option<Next> {
        let at = &self.cpus[cpu];
        at.note.store(false, Ordering::Relaxed);
        let decision = self.sched().pick(at.id, Ask::Again, NOW).unwrap();
        self.interrupt_to_ask(cpu, &decision.kicks);
        if decision.leave.is_some() {
            at.runs.store(false, Ordering::Relaxed);
        }
        if decision.run.is_some() && !at.runs.load(Ordering::Relaxed) {
            at.runs.store(true, Ordering::Relaxed);
            self.signals.call_attention();
        }
        if let Some(left) = decision.leave {
            let kicks = self.sched().saved(left, NOW).unwrap();
            self.interrupt_to_ask(cpu, &kicks);
        }
        match decision.run {
            Some(_) => Some(self.look_again(cpu)),
            None if at.note.load(Ordering::Relaxed) => Some(Next::Schedule),
            None => None,
        }
    }

    fn look_again(&self, cpu: usize) -> Next {
        let mut state = self.state.lock();
        self.before_return(cpu, &mut state)
    }

    /// As `return_path::before_return` and `deliver_and_decide`.
    fn before_return(&self, cpu: usize, state: &mut State) -> Next {
        let has_note = self.cpus[cpu].note.load(Ordering::Relaxed);
        let is_quiet = !self.signals.has_attention() && !has_note && !self.is_deliverable(state);
        if !is_quiet {
            self.signals.take_attention();
            state.next = self.decide(cpu, state);
            if state.next != Next::Guest || self.signals.has_nmi() {
                self.signals.call_attention();
            }
        }
        state.next
    }

    /// As `return_path::decide`.
    fn decide(&self, cpu: usize, state: &mut State) -> Next {
        if !self.shutdown.is_down() {
            self.deliver(cpu, state);
        }
        if self.shutdown.reason().is_some() {
            return Next::Shutdown;
        }
        let has_note = self.cpus[cpu].note.load(Ordering::Relaxed);
        match state.run {
            RunState::Running if !has_note => Next::Guest,
            _ => Next::Schedule,
        }
    }

    /// As `return_path::deliver`.
    fn deliver(&self, cpu: usize, state: &mut State) {
        if state.run != RunState::Running && !self.has_woken(cpu, state) {
            return;
        }
        if self.signals.has_nmi() && !state.in_nmi && self.signals.take_nmi() {
            state.in_nmi = true;
        }
        if self.is_deliverable(state) {
            state.in_upcall = true;
        }
    }

    /// As `return_path::has_woken`.
    fn has_woken(&self, cpu: usize, state: &mut State) -> bool {
        self.wake(cpu, state);
        if state.run != RunState::Running {
            // Refused if it sleeps already.
            let _ = self.sched().block(INDEX);
            self.wake(cpu, state);
        }
        state.run == RunState::Running
    }

    /// As `return_path::wake`.
    fn wake(&self, cpu: usize, state: &mut State) {
        let awake = match state.run {
            RunState::Running => return,
            RunState::Blocked => self.is_deliverable(state),
            RunState::Polling(_) if self.signals.take_end_of_poll() => true,
            RunState::Polling(None) => self.is_deliverable(state) || self.signals.take_new_event(),
            RunState::Polling(Some(port)) => {
                self.is_deliverable(state) || self.domain.is_pending(port)
            }
        };
        if awake || self.signals.has_nmi() && !state.in_nmi {
            if let RunState::Polling(_) = state.run {
                self.domain.pollers.leave(ID);
            }
            state.run = RunState::Running;
            self.signals.call_attention();
            self.kick(cpu);
        }
    }

    fn is_deliverable(&self, state: &State) -> bool {
        self.domain.is_told() && !state.in_upcall
    }
}

impl Cpu {
    fn is_interrupted(&self) -> bool {
        [&self.event, &self.reschedule]
            .iter()
            .any(|interrupt| interrupt.load(Ordering::Acquire))
    }
}
