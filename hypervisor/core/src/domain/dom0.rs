//! dom0, from its memory to a domain that can be started.

use arrayvec::ArrayVec;
use dom0_abi::addr::Mfn;
use dom0_abi::arch::LEGACY_MAX_VCPUS;
use dom0_abi::ids::{DomId, VcpuId};
use dom0_abi::xen::{VcpuInfo, VmAssist};
use oxen_arch::Cpu;
use oxen_arch::memory::BadFrame;
use oxen_arch::sync::atomic::Ordering;

use super::builder::Built;
use super::privileged_state::PrivilegedState;
use super::table::DomainRef;
use super::upcall::Upcall;
use super::vcpu::{Vcpu, VcpuState};
use super::{Capabilities, Domain};
use crate::budget::Budget;
use crate::grant::GrantTable;
use crate::host::{AddDomainError, Host};
use crate::page_type::hold::Reach;
use crate::page_type::{HeldType, Level, PageType, TypeRef, promote};
use crate::policy::ports::{MAX_HIDDEN, PortRange, PortRights};

/// As many pages as a domain has that may have any number: what tools take for that.
const UNLIMITED: u64 = u32::MAX as u64;

/// Ports of a serial line.
const SERIAL_PORTS: u16 = 8;

/// Makes dom0 of the memory that was built for it: all capabilities, vCPUs as the command line says, the ports of the machine but the serial line
/// in use and those in `hidden`, which firmware names. It may have `max_pages` pages, if there is a limit.
///
/// Fails as [`Host::add_domain`], or if there are too many ports to hide; the frames of `built` stay the owner's then.
// As its caller, and for the same reason.
#[inline(never)]
pub fn add<'h>(
    host: &'h Host,
    cpu: &Cpu,
    built: &Built,
    max_pages: Option<u64>,
    hidden: &[PortRange],
) -> Result<DomainRef<'h>, AddDomainError> {
    let serial = host.settings.serial_line().map(|line| {
        let last = line.io_base.saturating_add(SERIAL_PORTS.saturating_sub(1));
        PortRange::new(line.io_base, last)
    });
    let mut all_hidden = ArrayVec::<PortRange, MAX_HIDDEN>::new();
    for range in serial.into_iter().chain(hidden.iter().copied()) {
        all_hidden
            .try_push(range)
            .map_err(|_| AddDomainError::TooManyPorts)?;
    }
    let ports = PortRights::dom0(&all_hidden).map_err(|_| AddDomainError::TooManyPorts)?;
    let mut domain = Domain::new(
        DomId::DOM0,
        Capabilities::all(),
        &host.entry_rules,
        ports,
        built.shared_info,
    );
    domain.grants = GrantTable::new(host.settings.grant_limits);
    let limit = max_pages.unwrap_or(UNLIMITED);
    domain.memory.limit.store(limit, Ordering::Relaxed);
    if built.has_extended_cr3 {
        domain.assists.set(VmAssist::PaeExtendedCr3, true);
    }
    let mut root = Some(initial_root(host, cpu, &domain, built.root)?);
    let mut upcalls = ArrayVec::<Upcall, LEGACY_MAX_VCPUS>::new();
    for number in 0..nr_vcpus(host) as usize {
        let place = number.saturating_mul(size_of::<VcpuInfo>());
        let upcall = Upcall::new(host.mem(), built.shared_info.at(place));
        let upcall = upcall.map_err(|BadFrame| AddDomainError::PageTables)?;
        upcalls
            .try_push(upcall)
            .map_err(|_| AddDomainError::VcpuNumber)?;
    }
    // Made where they are needed: they are large.
    let vcpus = (0..LEGACY_MAX_VCPUS as u32)
        .zip(upcalls)
        .map(|(number, upcall)| {
            let privileged = PrivilegedState::new(host.cpuid.owned_bits());
            // The others are described by the first one's kernel.
            let state = VcpuState::new(built.start, root.take(), privileged);
            Vcpu::new(VcpuId::new(number), upcall, state)
        });
    let domain = host.add_domain(cpu, domain, vcpus)?;
    if host.settings.dom0_vcpus_pin {
        host.pin_vcpus(cpu, &domain);
    }
    Ok(domain)
}

/// How many vCPUs dom0 gets.
pub fn nr_vcpus(host: &Host) -> u32 {
    let nr_cpus = u32::try_from(host.machine.nr_cpus()).unwrap_or(u32::MAX);
    // So many have a place in the page that a domain shares with the hypervisor.
    host.settings
        .dom0_max_vcpus
        .count(nr_cpus)
        .min(LEGACY_MAX_VCPUS as u32)
}

/// Checks the tables that the builder wrote like any others, and pins their root: that is how kernels expect to find it. The
/// vCPU gets a reference of its own. The page that is shared with the hypervisor stays writable for good.
fn initial_root(
    host: &Host,
    cpu: &Cpu,
    domain: &Domain,
    root: Mfn,
) -> Result<HeldType, AddDomainError> {
    let memory = host.memory(cpu, &domain.undo);
    let reach = Reach::own(host, domain);
    let ty = PageType::Table(Level::L4);
    let acquire = || {
        let mut budget = Budget::ENDLESS;
        promote::acquire(memory, &reach, root, ty, &mut budget)
            .map_err(|_| AddDomainError::PageTables)
    };
    let shared = TypeRef::writable(memory, domain.shared_info, domain.id);
    let shared = shared.map_err(|_| AddDomainError::PageTables)?;
    domain.hold_shared_info(shared.into_held());
    acquire()?.pin().map_err(|_| AddDomainError::PageTables)?;
    Ok(acquire()?.into_held())
}
