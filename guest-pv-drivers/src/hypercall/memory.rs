//! `memory_op`: frames for the guest and what there is to know about memory. ABI: `public/memory.h`.

use core::ptr;

use dom0_abi::addr::GuestAddr;
use dom0_abi::errno::Errno;
use dom0_abi::handle::GuestHandle;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::DomId;
use dom0_abi::memory::{
    AcquireResource, AddToPhysmap, E820Entry, MachphysMapping, MachphysMfnList, MemoryCommand,
    MemoryDomain, MemoryExchange, MemoryMap, MemoryReservation,
};

use super::call;

/// Issues a command with any argument, or none that exists: for tests, and for what has no function below.
///
/// # Safety
///
/// `argument` must be what the command takes, or memory that nobody minds the hypervisor to write; what the command does
/// to the guest's memory is in the caller's hands.
#[doc(alias = "HYPERVISOR_memory_op")]
pub unsafe fn memory_op(command: u64, argument: u64) -> Result<u64, Errno> {
    // SAFETY: the caller's promise is the same.
    unsafe { call(Hypercall::MemoryOp, [command, argument, 0, 0, 0]) }
}

/// Issues a command that reads and may write `argument`.
///
/// # Safety
///
/// `T` must be what the ABI defines for the command; the rest is as for [`memory_op`].
unsafe fn with<T>(command: MemoryCommand, argument: &mut T) -> Result<u64, Errno> {
    // SAFETY: the hypervisor accesses no more than the command's structure.
    unsafe { memory_op(command as u64, ptr::from_mut(argument) as u64) }
}

/// A list in this guest's memory, as structures carry it; the hypervisor may write it.
pub fn list<T>(entries: &mut [T]) -> GuestHandle<T> {
    let address = entries.as_mut_ptr().expose_provenance();
    GuestHandle::new(GuestAddr::new(address as u64))
}

/// Extents of `1 << order` frames of the calling domain, for the functions that take a reservation.
pub fn reservation(extents: &mut [u64], order: u32, mem_flags: u32) -> MemoryReservation {
    MemoryReservation {
        nr_extents: extents.len() as u64,
        extent_start: list(extents),
        extent_order: order,
        mem_flags,
        domid: DomId::SELF,
        _pad0: [0; 3],
    }
}

/// Asks for frames; the list is filled with the first mfn of each extent. Returns how many extents there were.
///
/// # Safety
///
/// The list that `reservation` names must be there and be written by nobody else.
#[doc(alias = "XENMEM_increase_reservation")]
pub unsafe fn increase_reservation(reservation: &mut MemoryReservation) -> Result<u64, Errno> {
    // SAFETY: the hypervisor reads the structure and writes the list that the caller answers for.
    unsafe { with(MemoryCommand::IncreaseReservation, reservation) }
}

/// Gives frames back, by their mfns. Returns how many extents were taken.
///
/// # Safety
///
/// Nothing that Rust knows of may lie in the frames.
#[doc(alias = "XENMEM_decrease_reservation")]
pub unsafe fn decrease_reservation(reservation: &mut MemoryReservation) -> Result<u64, Errno> {
    // SAFETY: the hypervisor reads the structure and its list; the caller answers for the frames.
    unsafe { with(MemoryCommand::DecreaseReservation, reservation) }
}

/// Asks for frames for the pfns in the list, which is filled with the first mfn of each extent. Returns how many extents
/// there were.
///
/// # Safety
///
/// As for [`increase_reservation`].
#[doc(alias = "XENMEM_populate_physmap")]
pub unsafe fn populate_physmap(reservation: &mut MemoryReservation) -> Result<u64, Errno> {
    // SAFETY: the hypervisor reads the structure and reads and writes the list that the caller answers for.
    unsafe { with(MemoryCommand::PopulatePhysmap, reservation) }
}

/// Exchanges frames for others of another order or at lower addresses; [`MemoryExchange::nr_exchanged`] says how far that
/// went.
///
/// # Safety
///
/// As for [`decrease_reservation`] for the frames that go, as for [`increase_reservation`] for the list of those that
/// come.
#[doc(alias = "XENMEM_exchange")]
pub unsafe fn exchange(exchange: &mut MemoryExchange) -> Result<u64, Errno> {
    // SAFETY: the hypervisor accesses the structure and its lists; the caller answers for those and for the frames.
    unsafe { with(MemoryCommand::Exchange, exchange) }
}

/// The highest frame of RAM.
#[doc(alias = "XENMEM_maximum_ram_page")]
pub fn maximum_ram_page() -> Result<u64, Errno> {
    // SAFETY: this command takes no argument and touches no memory.
    unsafe { memory_op(MemoryCommand::MaximumRamPage as u64, 0) }
}

fn of_domain(command: MemoryCommand, domid: DomId) -> Result<u64, Errno> {
    // SAFETY: the hypervisor reads the structure.
    unsafe { with(command, &mut MemoryDomain { domid }) }
}

/// How many pages a domain has.
#[doc(alias = "XENMEM_current_reservation")]
pub fn current_reservation(domid: DomId) -> Result<u64, Errno> {
    of_domain(MemoryCommand::CurrentReservation, domid)
}

/// How many pages a domain may have.
#[doc(alias = "XENMEM_maximum_reservation")]
pub fn maximum_reservation(domid: DomId) -> Result<u64, Errno> {
    of_domain(MemoryCommand::MaximumReservation, domid)
}

/// The highest pfn of a domain, as far as it has told.
#[doc(alias = "XENMEM_maximum_gpfn")]
pub fn maximum_gpfn(domid: DomId) -> Result<u64, Errno> {
    of_domain(MemoryCommand::MaximumGpfn, domid)
}

/// Where the machine-to-physical table is.
#[doc(alias = "XENMEM_machphys_mapping")]
pub fn machphys_mapping() -> Result<MachphysMapping, Errno> {
    let mut mapping = MachphysMapping {
        v_start: 0,
        v_end: 0,
        max_mfn: 0,
    };
    // SAFETY: the hypervisor writes the structure.
    unsafe { with(MemoryCommand::MachphysMapping, &mut mapping) }?;
    Ok(mapping)
}

/// The first frame of each 2 MiB of the machine-to-physical table. Returns how many were written to `frames`.
#[doc(alias = "XENMEM_machphys_mfn_list")]
pub fn machphys_mfn_list(frames: &mut [u64]) -> Result<usize, Errno> {
    let mut argument = MachphysMfnList {
        max_extents: u32::try_from(frames.len()).unwrap_or(u32::MAX),
        _pad0: 0,
        extent_start: list(frames),
        nr_extents: 0,
        _pad1: 0,
    };
    // SAFETY: the hypervisor writes the structure and at most `max_extents` frames.
    unsafe { with(MemoryCommand::MachphysMfnList, &mut argument) }?;
    Ok(argument.nr_extents as usize)
}

fn map_of(command: MemoryCommand, entries: &mut [E820Entry]) -> Result<usize, Errno> {
    let mut argument = MemoryMap {
        nr_entries: u32::try_from(entries.len()).unwrap_or(u32::MAX),
        _pad0: 0,
        buffer: list(entries),
    };
    // SAFETY: the hypervisor writes the structure and at most `nr_entries` entries.
    unsafe { with(command, &mut argument) }?;
    Ok(argument.nr_entries as usize)
}

/// The domain's memory map, if its toolstack has set one. Returns how many entries were written.
#[doc(alias = "XENMEM_memory_map")]
pub fn memory_map(entries: &mut [E820Entry]) -> Result<usize, Errno> {
    map_of(MemoryCommand::MemoryMap, entries)
}

/// The machine's memory map, for the control domain. Returns how many entries were written.
#[doc(alias = "XENMEM_machine_memory_map")]
pub fn machine_memory_map(entries: &mut [E820Entry]) -> Result<usize, Errno> {
    map_of(MemoryCommand::MachineMemoryMap, entries)
}

/// Puts something at a pfn of a translated domain.
///
/// # Safety
///
/// Whatever Rust knows to be at the pfn must stay true.
#[doc(alias = "XENMEM_add_to_physmap")]
pub unsafe fn add_to_physmap(what: &mut AddToPhysmap) -> Result<u64, Errno> {
    // SAFETY: the hypervisor reads the structure; the caller answers for the pfn.
    unsafe { with(MemoryCommand::AddToPhysmap, what) }
}

/// Tells the frames of a resource, or with no list its size in `nr_frames`.
///
/// # Safety
///
/// The list that `resource` names must be there and be written by nobody else.
#[doc(alias = "XENMEM_acquire_resource")]
pub unsafe fn acquire_resource(resource: &mut AcquireResource) -> Result<u64, Errno> {
    // SAFETY: the hypervisor accesses the structure and writes the list that the caller answers for.
    unsafe { with(MemoryCommand::AcquireResource, resource) }
}
