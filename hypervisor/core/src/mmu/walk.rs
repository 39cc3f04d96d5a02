//! From a guest's address to the L1 entry that maps it.

use dom0_abi::addr::{GuestAddr, Mfn};
use dom0_abi::ids::DomId;
use oxen_arch::guest_range::check_guest_range;

use crate::frame::Memory;
use crate::page_type::entry::Entry;
use crate::page_type::{Level, PageType, Stop, TypeRef, UsedL1};

/// The L1 table that maps an address under a root, and the index in it. `None`: there is none, or the address is not a
/// guest's.
///
/// Another vCPU may change the tables meanwhile; what is found then is still a table in use of this domain, by the reference
/// that is taken, and which one is that domain's affair. The caller holds the root.
pub(super) fn l1_slot<'m>(
    memory: Memory<'m>,
    root: Mfn,
    owner: DomId,
    address: GuestAddr,
) -> Result<Option<(TypeRef<'m>, u16)>, Stop> {
    let Some((table, index)) = place(&memory, root, address) else {
        return Ok(None);
    };
    let table = l1_table(memory, table, owner)?;
    Ok(table.map(|table| (table, index)))
}

/// A frame as an L1 table, if it is one of the domain's.
pub(super) fn l1_table<'m>(
    memory: Memory<'m>,
    mfn: Mfn,
    owner: DomId,
) -> Result<Option<TypeRef<'m>>, Stop> {
    match TypeRef::share(memory, mfn, PageType::Table(Level::L1), owner) {
        Ok(table) => Ok(Some(table)),
        Err(Stop::Again) => Err(Stop::Again),
        Err(Stop::Refused(_)) => Ok(None),
    }
}

/// The same without trying hard. `None`: there is none, or another CPU has just changed something.
#[inline(always)]
pub(super) fn l1_slot_at_once<'m>(
    memory: &'m Memory<'m>,
    root: Mfn,
    owner: DomId,
    address: GuestAddr,
) -> Option<(UsedL1<'m>, u16)> {
    let (table, index) = place(memory, root, address)?;
    Some((UsedL1::at_once(memory, table, owner)?, index))
}

/// The L1 entry that maps an address under a root, as the CPU would find it: no table is held, so with other vCPUs it may be what
/// a frame has that was one just before. What it leads to has to be asked, like any number that the guest gives. `None`: there
/// is none.
#[inline(always)]
pub(super) fn l1_entry_at_once(
    memory: &Memory<'_>,
    root: Mfn,
    address: GuestAddr,
) -> Option<Entry> {
    let (table, index) = place(memory, root, address)?;
    Some(Entry::peek(memory.mem(), table.word(index.into())))
}

/// The frame that is in the place of the L1 table for an address, and the index in it. No table on the way is held, and none is
/// asked what it is, not even whether it is RAM: it may be any number, and the frame is an L1 table only if its record says so.
#[inline(always)]
fn place(memory: &Memory<'_>, root: Mfn, address: GuestAddr) -> Option<(Mfn, u16)> {
    check_guest_range(address, 1).ok()?;
    let index = |level: Level| ((address.get() >> level.shift()) & 511) as u16;
    let mem = memory.mem();
    let mut table = root;
    for level in [Level::L4, Level::L3, Level::L2] {
        let entry = Entry::peek(mem, table.word(index(level).into()));
        if !entry.is_present() {
            return None;
        }
        table = entry.mfn();
    }
    Some((table, index(Level::L1)))
}

/// The L1 entry that maps an address under a root; empty if there is none. The mapping is not held: it may be another by now.
/// As [`l1_slot`].
#[inline(never)]
pub(crate) fn l1_entry(
    memory: Memory<'_>,
    root: Mfn,
    owner: DomId,
    address: GuestAddr,
) -> Result<Entry, Stop> {
    let slot = l1_slot(memory, root, owner, address)?;
    Ok(slot.map_or(Entry::EMPTY, |(table, index)| {
        Entry::load(memory.mem(), table.mfn().word(index.into()))
    }))
}
