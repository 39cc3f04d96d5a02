//! Who uses what.

use core::fmt;

use dom0_abi::addr::Mfn;
use dom0_abi::arch::{HYPERVISOR_FIRST_SLOT, HYPERVISOR_LAST_SLOT};
use dom0_abi::ids::{DomId, GrantRef, VcpuId};
use oxen_arch::paging_facts::SPARE_SLOT;

use super::entries::{Place, Wrong};
use super::{Finding, Problem, grants};
use crate::domain::Domain;
use crate::domain::table::{DomainRef, MAX_DOMAINS};
use crate::frame::{Kind, TypeState};
use crate::host::Host;
use crate::page_type::{HeldType, Level, PageType};

/// What a use is of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// It stays whose it is.
    General,
    /// It stays whose it is, and this.
    Type(PageType),
}

/// Who uses a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Entry `index` of a table.
    Entry {
        /// The table.
        table: Mfn,
        /// Which entry.
        index: u16,
    },
    /// Its own type, whatever that is.
    Type,
    /// The domain that it is allocated to.
    Owner,
    /// The domain's pin.
    Pin,
    /// A vCPU, as the root of kernel mode.
    KernelRoot(DomId, VcpuId),
    /// A vCPU, as the root of user mode.
    UserRoot(DomId, VcpuId),
    /// A vCPU, as part of a descriptor table.
    Descriptors(DomId, VcpuId),
    /// A domain, as the page that it shares with the hypervisor.
    SharedInfo(DomId),
    /// The page to which a vCPU's `vcpu_info` was moved.
    VcpuInfo(DomId, VcpuId),
    /// The page with a vCPU's control block of the FIFO form of events.
    ControlBlock(DomId, VcpuId),
    /// A domain, as a page of event words.
    EventArray(DomId),
    /// A domain, as part of its grant table.
    GrantTable(DomId),
    /// The grant of a domain that somebody uses.
    Grant(DomId, GrantRef),
    /// A domain, by a handle for which it is mapped for devices.
    DeviceMap(DomId, u32),
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry { table, index } => write!(f, "entry {index} of table {table}"),
            Self::Type => f.write_str("its own type"),
            Self::Owner => f.write_str("its owner"),
            Self::Pin => f.write_str("a pin"),
            Self::KernelRoot(domain, vcpu) => {
                write!(f, "domain {domain} vcpu {vcpu} as kernel root")
            }
            Self::UserRoot(domain, vcpu) => write!(f, "domain {domain} vcpu {vcpu} as user root"),
            Self::Descriptors(domain, vcpu) => {
                write!(f, "domain {domain} vcpu {vcpu} as descriptors")
            }
            Self::SharedInfo(domain) => write!(f, "domain {domain} as shared page"),
            Self::VcpuInfo(domain, vcpu) => write!(f, "domain {domain} vcpu {vcpu} as vcpu_info"),
            Self::ControlBlock(domain, vcpu) => {
                write!(f, "domain {domain} vcpu {vcpu} as control block")
            }
            Self::EventArray(domain) => write!(f, "domain {domain} as event words"),
            Self::GrantTable(domain) => write!(f, "domain {domain} as part of its grant table"),
            Self::Grant(domain, reference) => write!(f, "grant {reference} of domain {domain}"),
            Self::DeviceMap(domain, handle) => {
                write!(f, "domain {domain} by handle {handle}, for devices")
            }
        }
    }
}

/// One use of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// The frame.
    pub mfn: Mfn,
    /// As what.
    pub needs: Needs,
    /// Whose use it is.
    pub by: By,
}

/// What the walk comes across.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A use. Entries that must not be make them too.
    Use(Use),
    /// Something that must not be.
    Finding(Finding),
}

/// Visits all uses of all frames, and all entries that must not be.
pub fn visit(host: &Host, visit: &mut dyn FnMut(Seen)) {
    for mfn in (0..host.frames.end().get()).map(Mfn::new) {
        of_record(host, mfn, visit);
        if let Some((level, upto)) = table(host, mfn) {
            of_table(host, mfn, level, upto, visit);
        }
    }
    for domain in domains(host) {
        of_domain(&domain, visit);
        grants::visit(host, &domain, visit);
    }
}

/// All domains that there are.
pub(super) fn domains(host: &Host) -> impl Iterator<Item = DomainRef<'_>> {
    ids().filter_map(|id| host.domains.get(id))
}

/// All numbers that domains can have.
pub(super) fn ids() -> impl Iterator<Item = DomId> {
    (0..MAX_DOMAINS).filter_map(|id| u16::try_from(id).ok().map(DomId::new))
}

fn of_record(host: &Host, mfn: Mfn, visit: &mut dyn FnMut(Seen)) {
    let Some((kind, state)) = host.frames.words(mfn) else {
        return;
    };
    let mut used = |needs, by| visit(Seen::Use(Use { mfn, needs, by }));
    if let Kind::Owned {
        is_allocated: true, ..
    } = kind
    {
        used(Needs::General, By::Owner);
    }
    if !matches!(state, TypeState::None { .. }) {
        used(Needs::General, By::Type);
    }
    if let TypeState::InUse {
        ty,
        is_pinned: true,
        ..
    } = state
    {
        used(Needs::Type(ty), By::Pin);
    }
}

/// The level of a table, and how many of its entries hold references.
fn table(host: &Host, mfn: Mfn) -> Option<(Level, u16)> {
    match host.frames.type_state(mfn)? {
        TypeState::InUse {
            ty: PageType::Table(level),
            ..
        } => Some((level, 512)),
        TypeState::Parked {
            ty: PageType::Table(level),
            progress,
        }
        | TypeState::Undoing {
            ty: PageType::Table(level),
            progress,
            ..
        } => Some((level, progress)),
        _ => None,
    }
}

fn of_table(host: &Host, table: Mfn, level: Level, upto: u16, visit: &mut dyn FnMut(Seen)) {
    let Some((Kind::Owned { owner, .. }, state)) = host.frames.words(table) else {
        return;
    };
    let place = Place { host, owner, level };
    let in_use = matches!(state, TypeState::InUse { .. });
    for index in 0..upto {
        let at = table.word(index.into());
        let Ok(entry) = host.mem().load_u64(at) else {
            let wrong = Wrong::Hypervisor;
            let what = Problem::Entry {
                index,
                entry: 0,
                wrong,
            };
            visit(Seen::Finding(Finding { mfn: table, what }));
            return;
        };
        if level == Level::L4
            && (HYPERVISOR_FIRST_SLOT..=HYPERVISOR_LAST_SLOT).contains(&usize::from(index))
        {
            if in_use && !is_own_slot(host, index, entry) {
                let what = Problem::Slot { index, entry };
                visit(Seen::Finding(Finding { mfn: table, what }));
            }
            continue;
        }
        if entry == 0 {
            continue;
        }
        let (used, wrong) = place.look(entry);
        if let Some(wrong) = wrong {
            let what = Problem::Entry {
                index,
                entry,
                wrong,
            };
            visit(Seen::Finding(Finding { mfn: table, what }));
        }
        if let Some((mfn, needs)) = used {
            let by = By::Entry { table, index };
            visit(Seen::Use(Use { mfn, needs, by }));
        }
    }
}

/// Whether a slot of a root holds what the machine wants there, apart from what CPUs mark. What notes a twin `twins` judges.
fn is_own_slot(host: &Host, index: u16, entry: u64) -> bool {
    const MARKS: u64 = 0x60;
    if usize::from(index) == SPARE_SLOT && host.machine.uses_twins() {
        return true;
    }
    let wanted = host.machine.root_entry(usize::from(index)).unwrap_or(0);
    (entry ^ wanted) & !MARKS == 0
}

fn of_domain(domain: &Domain, visit: &mut dyn FnMut(Seen)) {
    let mut used = |mfn, ty, by| {
        let needs = Needs::Type(ty);
        visit(Seen::Use(Use { mfn, needs, by }));
    };
    if let Some(mfn) = domain.shared_info_held() {
        used(mfn, PageType::Writable, By::SharedInfo(domain.id));
    }
    for mfn in domain.events.held_arrays() {
        used(mfn, PageType::Writable, By::EventArray(domain.id));
    }
    for vcpu in domain.vcpus() {
        if let Some(mfn) = vcpu.info_held() {
            used(mfn, PageType::Writable, By::VcpuInfo(domain.id, vcpu.id));
        }
        let control = vcpu.queues.lock().control();
        if let Some(control) = control {
            let by = By::ControlBlock(domain.id, vcpu.id);
            used(control.mfn(), PageType::Writable, by);
        }
        let state = vcpu.lock();
        let root = PageType::Table(Level::L4);
        if let Some(mfn) = state.kernel_root() {
            used(mfn, root, By::KernelRoot(domain.id, vcpu.id));
        }
        if let Some(mfn) = state.user_root.as_ref().map(HeldType::mfn) {
            used(mfn, root, By::UserRoot(domain.id, vcpu.id));
        }
        for mfn in state.tables.frames() {
            let by = By::Descriptors(domain.id, vcpu.id);
            used(mfn, PageType::Descriptors, by);
        }
    }
}
