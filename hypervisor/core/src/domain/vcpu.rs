//! Virtual CPUs.
//!
//! The state of a vCPU has one lock, rank `Vcpu`. The CPU that runs it takes the lock when the guest enters the hypervisor
//! and gives it back before the guest goes on or the CPU sleeps; nobody else needs it to send an event or an NMI.
//! What others cause for it beside events is in [`super::signals`]; who lets it sleep or run calls for its attention here.

use core::fmt;

use dom0_abi::addr::Mfn;
use dom0_abi::arch::CpuUserRegs;
use dom0_abi::ids::{Port, VcpuId};
use oxen_arch::FpuArea;
use oxen_arch::boot::CpuId;
use oxen_arch::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use oxen_arch::sync::{Guard, Rank, SpinLock};

use super::numbers::NO_NUMBER;
use super::privileged_state::PrivilegedState;
use super::signals::Signals;
use super::trap_table::TrapTable;
use super::upcall::Upcall;
use crate::descriptor::Tables;
use crate::event::VirqPorts;
use crate::event::fifo::queues::Queues;
use crate::event::polled::PolledPorts;
use crate::frame::UndoQueue;
use crate::grant::FreeHandles;
use crate::page_type::HeldType;
use crate::sched::VcpuIndex;
use crate::time::areas::Areas;
use crate::time::runstate::RunstateAccount;
use crate::time::timers::VcpuTimers;

/// One vCPU.
#[derive(Debug)]
pub struct Vcpu {
    /// Its number.
    pub id: VcpuId,
    /// Events.
    pub upcall: Upcall,
    /// Page tables that it took out of use, its domain's or those of domains that that controls.
    pub undo: UndoQueue,
    /// What else is caused for it.
    pub signals: Signals,
    /// The ports of its VIRQs.
    pub virqs: VirqPorts,
    /// Its queues of ports, if its domain uses the FIFO form of events.
    pub queues: SpinLock<Queues>,
    /// Handles for grants that it maps next.
    pub handles: FreeHandles,
    /// Its number among all of the machine.
    pub index: VcpuIndex,
    /// Its timers.
    pub timers: VcpuTimers,
    /// What became of its time.
    pub runstate: RunstateAccount,
    /// Where its guest wants to be told of time.
    pub areas: Areas,
    /// What keeps the page of its `vcpu_info` writable, if the guest has moved that.
    info_hold: SpinLock<Option<HeldType>>,
    /// Its state says what it begins with, or has become.
    is_initialised: AtomicBool,
    /// It stands still because its domain has shut down.
    stands_still: AtomicBool,
    is_in_user_mode: AtomicBool,
    /// The CPU that may hold translations of it, or [`NO_CPU`].
    last_cpu: AtomicU32,
    state: SpinLock<VcpuState>,
}

impl Vcpu {
    /// Makes a vCPU that was never run. It may be started if `state` has a root.
    pub fn new(id: VcpuId, upcall: Upcall, state: VcpuState) -> Self {
        let is_initialised = state.root.is_some();
        Self {
            id,
            upcall,
            undo: UndoQueue::new(),
            signals: Signals::new(),
            virqs: VirqPorts::new(),
            queues: SpinLock::new(Rank::Queues, Queues::new()),
            handles: FreeHandles::new(),
            index: NO_NUMBER,
            timers: VcpuTimers::new(),
            runstate: RunstateAccount::new(),
            areas: Areas::new(),
            info_hold: SpinLock::new(Rank::Domain, None),
            is_initialised: AtomicBool::new(is_initialised),
            stands_still: AtomicBool::new(false),
            is_in_user_mode: AtomicBool::new(false),
            last_cpu: AtomicU32::new(NO_CPU),
            state: SpinLock::new(Rank::Vcpu, state),
        }
    }

    /// Locks the state.
    pub fn lock(&self) -> Guard<'_, VcpuState> {
        self.state.lock()
    }

    /// Locks the state, unless somebody has locked it: for whoever has locked another one's.
    pub fn try_lock(&self) -> Option<Guard<'_, VcpuState>> {
        self.state.try_lock()
    }

    /// Kernel or user. It changes where it runs, or while its state says what it begins with: no lock is needed to ask there.
    #[inline(always)]
    pub fn mode(&self) -> GuestMode {
        match self.is_in_user_mode.load(Ordering::Relaxed) {
            false => GuestMode::Kernel,
            true => GuestMode::User,
        }
    }

    /// It is in this mode from now on.
    pub(crate) fn set_mode(&self, mode: GuestMode) {
        let is_user = mode == GuestMode::User;
        self.is_in_user_mode.store(is_user, Ordering::Relaxed);
    }

    /// Whether its state says what it begins with, or has become.
    pub fn is_initialised(&self) -> bool {
        self.is_initialised.load(Ordering::Acquire)
    }

    /// Says so, once and for all.
    pub(crate) fn initialised(&self) {
        self.is_initialised.store(true, Ordering::Release);
    }

    /// Notes the CPU that is going to run it.
    pub fn runs_on(&self, cpu: CpuId) {
        self.last_cpu.store(cpu.get(), Ordering::Release);
    }

    /// The CPU that ran it last: no other one holds translations of it.
    pub fn last_cpu(&self) -> Option<CpuId> {
        match self.last_cpu.load(Ordering::Acquire) {
            NO_CPU => None,
            cpu => Some(CpuId::new(cpu)),
        }
    }

    /// Keeps the page of its `vcpu_info` writable for good. Given back if one is kept already.
    pub fn hold_info(&self, hold: HeldType) -> Result<(), HeldType> {
        let mut held = self.info_hold.lock();
        match *held {
            Some(_) => Err(hold),
            None => {
                *held = Some(hold);
                Ok(())
            }
        }
    }

    /// Takes that back, at the end of the domain.
    pub fn take_info_hold(&self) -> Option<HeldType> {
        self.info_hold.lock().take()
    }

    /// The page of its `vcpu_info`, if the guest has moved that.
    pub(crate) fn info_held(&self) -> Option<Mfn> {
        self.info_hold.lock().as_ref().map(HeldType::mfn)
    }

    /// Notes that it stands still because its domain has shut down. `false`: it did before.
    pub(crate) fn stops(&self) -> bool {
        !self.stands_still.swap(true, Ordering::AcqRel)
    }

    /// Lets it sleep, or run. `state` is the vCPU's own.
    pub fn set_run(&self, state: &mut VcpuState, run: RunState) {
        state.run = run;
        self.signals.call_attention();
    }
}

/// No CPU has run it.
const NO_CPU: u32 = u32::MAX;

/// Everything that only the CPU that runs a vCPU touches.
pub struct VcpuState {
    /// Registers, while it is on no CPU; otherwise they are where the entry stub put them.
    pub regs: CpuUserRegs,
    /// Handlers of exceptions and of `int`.
    pub traps: TrapTable,
    /// The other entry points.
    pub callbacks: Callbacks,
    /// Where the kernel is entered from user mode.
    pub kernel_stack: KernelStack,
    /// The root that kernel mode runs on; none any more once the domain ends.
    pub root: Option<HeldType>,
    /// The root that user mode runs on, once the kernel gave one.
    pub user_root: Option<HeldType>,
    /// Descriptor tables.
    pub tables: Tables,
    /// Segment bases, while it is on no CPU.
    pub bases: SegmentBases,
    /// Control and debug registers.
    pub privileged: PrivilegedState,
    /// FPU registers, while it is on no CPU.
    pub fpu: FpuArea,
    /// What it polls, if that is several ports.
    pub polled: PolledPorts,
    /// An NMI was delivered and its handler has not ended by `iret` yet.
    pub in_nmi: bool,
    /// Whether it runs.
    run: RunState,
}

impl VcpuState {
    /// The state of a vCPU whose first instruction is described by `regs` and which runs on `root`; without one it is none to begin with.
    pub const fn new(
        regs: CpuUserRegs,
        root: Option<HeldType>,
        privileged: PrivilegedState,
    ) -> Self {
        Self {
            regs,
            traps: TrapTable::EMPTY,
            callbacks: Callbacks::NONE,
            kernel_stack: KernelStack { ss: 0, sp: 0 },
            root,
            user_root: None,
            tables: Tables::EMPTY,
            bases: SegmentBases {
                fs: 0,
                gs_kernel: 0,
                gs_user: 0,
            },
            privileged,
            fpu: FpuArea::new(),
            polled: PolledPorts::new(),
            in_nmi: false,
            run: RunState::Running,
        }
    }
}

impl VcpuState {
    /// Whether it runs.
    pub const fn run(&self) -> RunState {
        self.run
    }

    /// Says that it never runs again, once no CPU runs it.
    pub fn retire(&mut self) {
        self.run = RunState::Offline;
    }

    /// The root that it runs on in this mode.
    pub fn loaded_root(&self, mode: GuestMode) -> Option<Mfn> {
        let root = match mode {
            GuestMode::Kernel => &self.root,
            GuestMode::User => &self.user_root,
        };
        root.as_ref().map(HeldType::mfn)
    }

    /// The root that kernel mode runs on.
    pub fn kernel_root(&self) -> Option<Mfn> {
        self.root.as_ref().map(HeldType::mfn)
    }
}

impl fmt::Debug for VcpuState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VcpuState")
            .field("root", &self.root)
            .field("callbacks", &self.callbacks)
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}

/// Both run in ring 3 of the CPU; which of them runs is known here alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestMode {
    /// The guest's kernel: it may make hypercalls.
    Kernel,
    /// The guest's user code.
    User,
}

/// Whether a vCPU runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// It does, or would if a CPU were free.
    Running,
    /// It sleeps until an event or an NMI can be delivered.
    Blocked,
    /// It sleeps until that, or until this port is pending; with no port, until one of [`VcpuState::polled`] is, or if these are none, until any
    /// port has become so.
    Polling(Option<Port>),
    /// It never runs again.
    Offline,
}

/// An entry point that the kernel registered. The address is canonical; 0 means that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Callback {
    /// Where it begins.
    pub address: u64,
    /// Whether it is entered with events masked.
    pub masks_events: bool,
}

impl Callback {
    /// None is registered.
    pub const NONE: Self = Self {
        address: 0,
        masks_events: false,
    };
}

/// All entry points beside those of the trap table, where the one for NMIs is too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Callbacks {
    /// For events, always entered with events masked.
    pub event: u64,
    /// For selectors that cannot be loaded.
    pub failsafe: Callback,
    /// For `syscall` of 64-bit user code.
    pub syscall: Callback,
    /// For `syscall` of 32-bit code.
    pub syscall32: Callback,
    /// For `sysenter`.
    pub sysenter: Callback,
}

impl Callbacks {
    /// None is registered.
    pub const NONE: Self = Self {
        event: 0,
        failsafe: Callback::NONE,
        syscall: Callback::NONE,
        syscall32: Callback::NONE,
        sysenter: Callback::NONE,
    };
}

/// Where the kernel is entered from user mode. The selector is reported back and never loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelStack {
    /// Selector.
    pub ss: u16,
    /// Stack pointer.
    pub sp: u64,
}

/// Segment bases; each is canonical.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentBases {
    /// Of FS.
    pub fs: u64,
    /// Of GS in kernel mode.
    pub gs_kernel: u64,
    /// Of GS in user mode.
    pub gs_user: u64,
}
