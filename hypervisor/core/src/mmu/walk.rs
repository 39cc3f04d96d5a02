//! From a guest's address to the L1 entry that maps it.

use dom0_abi::addr::{GuestAddr, Mfn};
use dom0_abi::ids::DomId;
use oxen_arch::guest_range::is_canonical;

use crate::frame::Memory;
use crate::page_type::entry::Entry;
use crate::page_type::promote::is_ours;
use crate::page_type::{Level, PageType, Stop, TypeRef};

/// The L1 table that maps an address under a root, and the index in it. `None`: there is none, or the address is not a
/// guest's.
///
/// Another vCPU may change the tables meanwhile; what is found then is still a table in use of this domain, by the reference
/// that is taken, and which one is that domain's affair. The caller holds the root.
#[inline]
pub(super) fn l1_slot<'m>(
    memory: Memory<'m>,
    root: Mfn,
    owner: DomId,
    address: GuestAddr,
) -> Result<Option<(TypeRef<'m>, u16)>, Stop> {
    let address = address.get();
    if !is_canonical(address) {
        return Ok(None);
    }
    let index = |level: Level| ((address >> level.shift()) & 511) as u16;
    if is_ours(Level::L4, index(Level::L4)) {
        return Ok(None);
    }
    let mut table = root;
    for level in [Level::L4, Level::L3, Level::L2] {
        let at = table.at(usize::from(index(level)).wrapping_mul(8));
        let entry = memory.mem().load_u64(at).map_or(Entry::EMPTY, Entry);
        if !entry.is_present() {
            return Ok(None);
        }
        table = entry.mfn();
    }
    if let Some(table) = TypeRef::share_at_once(memory, table, PageType::Table(Level::L1), owner) {
        return Ok(Some((table, index(Level::L1))));
    }
    match TypeRef::share(memory, table, PageType::Table(Level::L1), owner) {
        Ok(table) => Ok(Some((table, index(Level::L1)))),
        Err(Stop::Again) => Err(Stop::Again),
        Err(Stop::Refused(_)) => Ok(None),
    }
}

/// The frame that an address leads to under a root, if it leads to one. Neither the mapping nor the frame is held: both may
/// be others by now. As [`l1_slot`].
pub(crate) fn mapped_page(
    memory: Memory<'_>,
    root: Mfn,
    owner: DomId,
    address: GuestAddr,
) -> Result<Option<Mfn>, Stop> {
    let Some((table, index)) = l1_slot(memory, root, owner, address)? else {
        return Ok(None);
    };
    let at = table.mfn().at(usize::from(index).wrapping_mul(8));
    let entry = memory.mem().load_u64(at).map_or(Entry::EMPTY, Entry);
    Ok(entry.is_present().then(|| entry.mfn()))
}
