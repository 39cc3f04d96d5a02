//! Grants of the guest's to itself: its table, and the operations of `grant_table_op`, one at a time or as lists.

use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use dom0_abi::addr::GuestAddr;
use dom0_abi::errno::Errno;
use dom0_abi::grant_table::{
    CopyPtr, GrantCopy, GrantTableCommand, GrantType, MapGrantRef, SetupTable, UnmapGrantRef,
};
use dom0_abi::handle::GuestHandle;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::{DomId, GrantRef};
use guest_pv_drivers::hypercall;

use crate::memory::{PAGE, Page, pte};
use crate::page_tables::{Lab, WRITABLE, page};

/// What no hypervisor writes as a status.
pub const UNTOUCHED: i16 = 77;
/// What an entry begins with that grants a frame.
pub const PERMIT: u16 = GrantType::PermitAccess as u16;

/// The first frame of the guest's grant table, and tables in which grants can be mapped.
pub struct Grants {
    /// The tables by which that and what is mapped is reached.
    pub lab: Lab,
}

impl Grants {
    /// Where the table is mapped.
    const SLOT: usize = 1;
    /// From this slot on nothing is mapped.
    pub const FREE_SLOT: usize = 16;

    /// Maps the table. `None`: refused.
    pub fn new(lab: Lab) -> Option<Self> {
        let mfn = setup(DomId::SELF, 1).ok()?.1;
        lab.map(Self::SLOT, (mfn * PAGE) | WRITABLE).ok()?;
        Some(Self { lab })
    }

    /// An entry.
    pub fn at(&self, reference: u32) -> &AtomicU64 {
        let at = Lab::address(Self::SLOT) as usize + reference as usize * 8;
        // SAFETY: the table is mapped there for good, and whoever changes it does so by atomic accesses.
        unsafe { &*ptr::with_exposed_provenance(at) }
    }

    /// What an entry is that grants a frame to a domain.
    pub fn granting(flags: u16, to: DomId, mfn: u64) -> u64 {
        u64::from(flags) | (u64::from(to.get()) << 16) | (mfn << 32)
    }

    /// Writes an entry.
    pub fn set(&self, reference: u32, flags: u16, to: DomId, mfn: u64) {
        let entry = Self::granting(flags, to, mfn);
        self.at(reference).store(entry, Ordering::SeqCst);
    }

    /// The flags of an entry.
    pub fn flags(&self, reference: u32) -> u16 {
        self.at(reference).load(Ordering::SeqCst) as u16
    }

    /// Grants a fresh page to the guest itself.
    pub fn fresh(&self, reference: u32, flags: u16) -> &'static Page {
        let page = page();
        self.set(reference, PERMIT | flags, DomId::DOM0, page.mfn());
        page
    }

    /// The entry of a slot where things are mapped, without what CPUs mark.
    pub fn entry(&self, slot: usize) -> u64 {
        self.lab.table(1).entry(slot) & !(pte::A | pte::D)
    }
}

/// Makes operations of one kind in place.
pub fn operate<T>(command: GrantTableCommand, ops: &mut [T]) -> Result<u64, Errno> {
    let count = ops.len() as u64;
    let at = ops.as_mut_ptr().expose_provenance() as u64;
    bare(command.get().into(), at, count)
}

/// The call with any arguments.
pub fn bare(command: u64, ops: u64, count: u64) -> Result<u64, Errno> {
    // SAFETY: the callers hand over what the command takes, or nothing that is mapped; what gets mapped are places of which Rust
    // knows nothing.
    unsafe { hypercall::call(Hypercall::GrantTableOp, [command, ops, count, 0, 0]) }
}

/// Asks for the frames of a table: the status, the first frame, and how many were told.
pub fn setup(dom: DomId, nr_frames: u32) -> Result<(i16, u64, usize), Errno> {
    let mut frames = [u64::MAX; 70];
    let mut op = [SetupTable {
        dom,
        _pad0: 0,
        nr_frames,
        status: UNTOUCHED,
        _pad1: [0; 3],
        frame_list: GuestHandle::new(GuestAddr::new(
            frames.as_mut_ptr().expose_provenance() as u64
        )),
    }];
    operate(GrantTableCommand::SetupTable, &mut op)?;
    // SAFETY: the hypervisor has written them.
    let frames = unsafe { (&raw const frames).read_volatile() };
    let told = frames.iter().filter(|&&mfn| mfn != u64::MAX).count();
    Ok((op[0].status, frames[0], told))
}

/// A map of a grant, to be made.
pub fn map_op(dom: DomId, reference: u32, flags: u32, host_addr: u64) -> MapGrantRef {
    MapGrantRef {
        host_addr,
        flags,
        grant_ref: GrantRef::new(reference),
        dom,
        status: UNTOUCHED,
        handle: 0xaaaa,
        dev_bus_addr: 0,
    }
}

/// Maps what a domain grants; the status says whether that was done.
pub fn map_of(dom: DomId, reference: u32, flags: u32, host_addr: u64) -> MapGrantRef {
    let mut ops = [map_op(dom, reference, flags, host_addr)];
    if operate(GrantTableCommand::MapGrantRef, &mut ops) != Ok(0) {
        ops[0].status = UNTOUCHED;
    }
    let [done] = ops;
    done
}

/// Maps a grant of the guest's own.
pub fn map(reference: u32, flags: u32, host_addr: u64) -> MapGrantRef {
    map_of(DomId::DOM0, reference, flags, host_addr)
}

/// Ends a map, or parts of it; the status.
pub fn unmap(handle: u32, host_addr: u64, dev_bus_addr: u64) -> i16 {
    let mut ops = [UnmapGrantRef {
        host_addr,
        dev_bus_addr,
        handle,
        status: UNTOUCHED,
        _pad0: 0,
    }];
    if operate(GrantTableCommand::UnmapGrantRef, &mut ops) != Ok(0) {
        return UNTOUCHED;
    }
    ops[0].status
}

/// An end of a copy: a grant or a frame, and where in it.
pub fn copy_end(domid: DomId, u: u64, offset: u16) -> CopyPtr {
    CopyPtr {
        u,
        domid,
        offset,
        _pad0: 0,
    }
}

/// Copies; the status.
pub fn copy(source: CopyPtr, dest: CopyPtr, len: u16, flags: u16) -> i16 {
    let mut ops = [GrantCopy {
        source,
        dest,
        len,
        flags,
        status: UNTOUCHED,
        _pad0: 0,
    }];
    if operate(GrantTableCommand::Copy, &mut ops) != Ok(0) {
        return UNTOUCHED;
    }
    ops[0].status
}
