//! Domains: what a guest is given, and what it is to the host.
//!
//! A domain's own fields change by atomics alone; what belongs to one of its vCPUs is behind that vCPU's lock.

pub mod builder;
pub mod dom0;
pub mod initialise;
pub mod numbers;
pub mod privileged_state;
pub mod shutdown;
pub mod signals;
pub mod table;
pub mod teardown;
pub mod trap_table;
pub mod upcall;
pub mod vcpu;

use core::iter;

use arrayvec::ArrayVec;
use bitflags::bitflags;
use dom0_abi::addr::Mfn;
use dom0_abi::ids::{DomId, DomainHandle, VcpuId};
use dom0_abi::xen::{SharedInfo, VmAssist};
use oxen_arch::memory::{BadFrame, FrameBox, PhysMem};
use oxen_arch::sync::atomic::{AtomicU64, Ordering};
use oxen_arch::sync::{Rank, SpinLock};

use crate::event::Ports;
use crate::frame::{Frames, UndoQueue};
use crate::grant::{GrantTable, Limits};
use crate::memory_op::PendingExchange;
use crate::memory_op::map::DomainMap;
use crate::page_type::HeldType;
use crate::page_type::entry::{EntryRules, PageRules};
use crate::policy::ports::PortRights;
use shutdown::Shutdown;
use vcpu::Vcpu;

/// The most vCPUs that a domain can have.
pub const MAX_VCPUS: usize = 128;

bitflags! {
    /// What a domain may do beyond itself. None is implied by another or by a domain's number.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Capabilities: u32 {
        /// Makes, controls and inspects domains, and reads what is the host's.
        const CONTROL = 1 << 0;
        /// Owns devices, ports and interrupts. When it ends, the host ends.
        const HARDWARE = 1 << 1;
        /// Writes to the host's console and reads from it.
        const CONSOLE = 1 << 2;
    }
}

/// One domain.
#[derive(Debug)]
pub struct Domain {
    /// Its number.
    pub id: DomId,
    /// What it may do beyond itself.
    pub capabilities: Capabilities,
    /// What entries of its L1 tables may be: those of a domain with its capabilities.
    pub(crate) page_rules: PageRules,
    /// The UUID that its toolstack gave it.
    pub handle: DomainHandle,
    /// The page that it shares with the hypervisor.
    pub shared_info: Mfn,
    /// What keeps that page writable as long as the domain lives.
    shared_info_hold: SpinLock<Option<HeldType>>,
    /// The behaviours that it switched on.
    pub assists: Assists,
    /// Whether and why it ended.
    pub shutdown: Shutdown,
    /// The I/O ports that it may reach.
    pub ports: PortRights,
    /// Its event channel ports.
    pub events: Ports,
    /// How much memory it may have.
    pub memory: MemoryAccount,
    /// The memory map that its toolstack gave it.
    pub map: DomainMap,
    /// Page tables that its beginning or its end took out of use; each vCPU has a queue of its own.
    pub undo: UndoQueue,
    /// An exchange of frames that has not come to its end.
    pub exchange: PendingExchange,
    /// What it grants, and what it maps of what others grant.
    pub grants: GrantTable,
    vcpus: ArrayVec<FrameBox<Vcpu>, MAX_VCPUS>,
}

impl Domain {
    /// Makes a domain that has no vCPU yet and runs nowhere.
    pub fn new(
        id: DomId,
        capabilities: Capabilities,
        rules: &EntryRules,
        ports: PortRights,
        shared_info: Mfn,
    ) -> Self {
        Self {
            id,
            capabilities,
            page_rules: *rules.pages(capabilities.contains(Capabilities::HARDWARE)),
            handle: [0; 16],
            shared_info,
            shared_info_hold: SpinLock::new(Rank::Domain, None),
            assists: Assists(AtomicU64::new(0)),
            shutdown: Shutdown::new(),
            ports,
            events: Ports::new(shared_info),
            memory: MemoryAccount::default(),
            map: DomainMap::new(),
            undo: UndoQueue::new(),
            exchange: PendingExchange::new(),
            grants: GrantTable::new(Limits::DEFAULT),
            vcpus: ArrayVec::new(),
        }
    }

    /// How many frames it has, but for those that it shares with the hypervisor.
    pub fn nr_pages(&self, frames: &Frames) -> u64 {
        frames.count_of(self.id).saturating_sub(self.nr_shared())
    }

    /// The most frames that it may be charged for: what it shares with the hypervisor comes on top of its limit.
    pub fn highest_charge(&self) -> u64 {
        let limit = self.memory.limit.load(Ordering::Relaxed);
        limit.saturating_add(self.nr_shared())
    }

    /// Frames that the hypervisor gave it for what the two share, which nobody counts as its memory: a page, and its grant table.
    fn nr_shared(&self) -> u64 {
        u64::from(self.grants.nr_frames()).saturating_add(1)
    }

    /// Keeps the shared page writable from now on: it can be mapped so, and be nothing else.
    pub fn hold_shared_info(&self, hold: HeldType) {
        *self.shared_info_hold.lock() = Some(hold);
    }

    /// Does something with the shared page, if it is still held: it stays so meanwhile.
    pub(crate) fn with_shared_page(&self, act: impl FnOnce(Mfn)) {
        let hold = self.shared_info_hold.lock();
        if let Some(hold) = &*hold {
            act(hold.mfn());
        }
    }

    /// What keeps the shared page writable.
    pub(crate) fn shared_info_held(&self) -> Option<Mfn> {
        self.shared_info_hold.lock().as_ref().map(HeldType::mfn)
    }

    /// Adds the vCPU of the next number; refused, with the vCPU, if there are too many or it has another number.
    pub fn add_vcpu(&mut self, vcpu: FrameBox<Vcpu>) -> Result<(), FrameBox<Vcpu>> {
        if usize::try_from(vcpu.id.get()) != Ok(self.vcpus.len()) {
            return Err(vcpu);
        }
        self.vcpus
            .try_push(vcpu)
            .map_err(arrayvec::CapacityError::element)
    }

    /// Takes the last vCPU out again, to give its memory back.
    pub fn pop_vcpu(&mut self) -> Option<FrameBox<Vcpu>> {
        self.vcpus.pop()
    }

    /// Whether there is a vCPU.
    pub fn has_vcpus(&self) -> bool {
        !self.vcpus.is_empty()
    }

    /// The vCPU of this number.
    pub fn vcpu(&self, id: VcpuId) -> Option<&Vcpu> {
        self.vcpus
            .get(usize::try_from(id.get()).ok()?)
            .map(|vcpu| &**vcpu)
    }

    /// All vCPUs, in the order of their numbers.
    pub fn vcpus(&self) -> impl Iterator<Item = &Vcpu> {
        self.vcpus.iter().map(|vcpu| &**vcpu)
    }

    /// What waits to be undone for it: in its own queue, and in those of its vCPUs.
    pub fn undo_queues(&self) -> impl Iterator<Item = &UndoQueue> {
        let of_vcpus = self.vcpus().map(|vcpu| &vcpu.undo);
        iter::once(&self.undo).chain(of_vcpus)
    }

    /// Why the last NMI came, as the shared page says it.
    pub fn nmi_reason(&self, mem: &PhysMem) -> Result<u64, BadFrame> {
        mem.load_u64(self.shared_info.at(Self::NMI_REASON))
    }

    /// Adds to the reasons of the last NMI.
    pub fn add_nmi_reason(&self, mem: &PhysMem, reason: u64) -> Result<(), BadFrame> {
        mem.fetch_or_u64(self.shared_info.at(Self::NMI_REASON), reason)
            .map(|_| ())
    }

    const NMI_REASON: usize = core::mem::offset_of!(SharedInfo, arch)
        + core::mem::offset_of!(dom0_abi::arch::ArchSharedInfo, nmi_reason);
}

/// The behaviours that a domain switched on by `vm_assist`, as a bit map of the ABI's numbers.
#[derive(Debug)]
pub struct Assists(AtomicU64);

impl Assists {
    /// Whether one is on.
    pub fn has(&self, assist: VmAssist) -> bool {
        let bit = 1_u64.wrapping_shl(assist.get());
        self.0.load(Ordering::Relaxed) & bit != 0
    }

    /// Switches one on or off.
    pub fn set(&self, assist: VmAssist, on: bool) {
        let bit = 1_u64.wrapping_shl(assist.get());
        if on {
            self.0.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.0.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Whether one is on.
    pub fn contains(&self, assist: VmAssist) -> bool {
        self.bits() & 1_u64.wrapping_shl(assist.get()) != 0
    }

    /// The map.
    pub fn bits(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many frames a domain may have.
#[derive(Debug, Default)]
pub struct MemoryAccount {
    /// The most frames that it may have.
    pub limit: AtomicU64,
}
