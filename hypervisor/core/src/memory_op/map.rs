//! Memory maps, in the form that the BIOS gives them: the machine's, and those that toolstacks give domains.

use arrayvec::ArrayVec;
use dom0_abi::addr::{GuestAddr, PAGE_SHIFT};
use dom0_abi::errno::Errno;
use dom0_abi::memory::{E820Entry, ForeignMemoryMap, MemoryMap};
use oxen_arch::boot::MfnRange;
use oxen_arch::memory::FrameBox;
use oxen_arch::memory_map::{MemoryKind, MemoryRange};
use oxen_arch::sync::{Rank, SpinLock};

use super::target;
use crate::frame::Memory;
use crate::guest_access::GuestPtr;
use crate::hypercall::{CallCtx, HypercallResult, Reply};

/// Entries of a domain's map: as many as a BIOS has at most.
#[doc(alias = "E820MAX")]
pub const MAX_ENTRIES: usize = 128;

/// What an entry costs that is read or told, in units of the budget.
const ENTRY: u32 = 1;

type Entries = ArrayVec<E820Entry, MAX_ENTRIES>;

/// The map of a domain, if it was given one: in a frame of its own, since few have any.
/// LOCK: rank `Domain`.
pub struct DomainMap(SpinLock<Option<FrameBox<Entries>>>);

impl DomainMap {
    /// None.
    pub const fn new() -> Self {
        Self(SpinLock::new(Rank::Domain, None))
    }

    /// Replaces the map; one without entries is none. `ENOMEM`: there is no frame for it; the old one stays.
    fn set(&self, memory: Memory<'_>, entries: Entries) -> Result<(), Errno> {
        let new = match entries.is_empty() {
            true => None,
            false => Some(memory.place(entries).map_err(|_| Errno::ENOMEM)?),
        };
        let old = core::mem::replace(&mut *self.0.lock(), new);
        if let Some(old) = old {
            memory.unplace(old);
        }
        Ok(())
    }

    /// Gives the map's memory back.
    pub fn clear(&self, memory: Memory<'_>) {
        let old = self.0.lock().take();
        if let Some(old) = old {
            memory.unplace(old);
        }
    }

    /// Whether there is one.
    #[cfg(test)]
    pub(crate) fn is_set(&self) -> bool {
        self.0.lock().is_some()
    }

    /// The entry of this number; `None` behind the last.
    fn get(&self, index: usize) -> Option<E820Entry> {
        self.0.lock().as_ref()?.get(index).copied()
    }
}

impl Default for DomainMap {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for DomainMap {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("DomainMap").finish_non_exhaustive()
    }
}

/// Tells the caller its own map, as much as there is room for. `ENOSYS`: it has none. ABI: `public/memory.h`,
/// `XENMEM_memory_map`.
#[doc(alias = "XENMEM_memory_map")]
pub(super) fn memory_map(ctx: &mut CallCtx<'_>, arg: GuestAddr) -> HypercallResult {
    let place = GuestPtr::<MemoryMap>::new(arg);
    let mut argument = place.read(ctx.cpu)?;
    let map = &ctx.domain.map;
    map.get(0).ok_or(Errno::ENOSYS)?;
    let buffer = GuestPtr::from(argument.buffer);
    let mut count = 0_u32;
    while count < argument.nr_entries
        && let Some(entry) = map.get(count as usize)
    {
        ctx.budget.pay(ENTRY);
        buffer.element(count.into()).write(ctx.cpu, &entry)?;
        count = count.saturating_add(1);
    }
    argument.nr_entries = count;
    place.write(ctx.cpu, &argument)?;
    Ok(Reply::DONE)
}

/// Gives a domain a map, or takes it away. `EINVAL`: there are more entries than [`MAX_ENTRIES`]; `ENOMEM`: no frame is left for
/// it. The old map stays then. ABI: `public/memory.h`, `XENMEM_set_memory_map`.
#[doc(alias = "XENMEM_set_memory_map")]
pub(super) fn set_memory_map(ctx: &mut CallCtx<'_>, arg: GuestAddr) -> HypercallResult {
    let argument: ForeignMemoryMap = GuestPtr::new(arg).read(ctx.cpu)?;
    if argument.map.nr_entries as usize > MAX_ENTRIES {
        return Err(Errno::EINVAL);
    }
    let named = target(ctx, argument.domid)?;
    let buffer = GuestPtr::from(argument.map.buffer);
    let mut entries = Entries::new();
    for index in 0..argument.map.nr_entries {
        ctx.budget.pay(ENTRY);
        let entry = buffer.element(index.into()).read(ctx.cpu)?;
        entries.try_push(entry).map_err(|_| Errno::EINVAL)?;
    }
    named.domain().map.set(ctx.memory(), entries)?;
    Ok(Reply::DONE)
}

/// Tells the machine's map: what firmware says, with the interrupt controllers as reserved.
///
/// `EPERM`: the caller controls nothing. `EINVAL`: there must be room for one entry more than there are. Without a list only the
/// number is told. ABI: `public/memory.h`, `XENMEM_machine_memory_map`.
#[doc(alias = "XENMEM_machine_memory_map")]
pub(super) fn machine_memory_map(ctx: &mut CallCtx<'_>, arg: GuestAddr) -> HypercallResult {
    if !ctx.is_control() {
        return Err(Errno::EPERM);
    }
    let place = GuestPtr::<MemoryMap>::new(arg);
    let mut argument = place.read(ctx.cpu)?;
    let firmware = ctx.host.machine.memory_map();
    let reserved = ctx.host.io_memory.interrupt_controllers();
    let mut count = 0_u32;
    with_reserved(firmware.iter().copied(), &reserved, |_| {
        count = count.saturating_add(1);
        Ok(())
    })?;
    ctx.budget.pay(ENTRY.saturating_mul(count));
    let buffer = GuestPtr::from(argument.buffer);
    if !buffer.is_null() {
        if argument.nr_entries <= count {
            return Err(Errno::EINVAL);
        }
        let mut index = 0;
        with_reserved(firmware.iter().copied(), &reserved, |range| {
            let size = range.end.saturating_sub(range.start);
            let entry = E820Entry::new(range.start, size, range.kind as u32);
            let at = buffer.element(index);
            index = index.saturating_add(1);
            at.write(ctx.cpu, &entry)
        })?;
    }
    argument.nr_entries = count;
    place.write(ctx.cpu, &argument)?;
    Ok(Reply::DONE)
}

/// Visits ranges in order, with others laid over them as reserved. Both are in order and do not overlap among themselves.
fn with_reserved(
    ranges: impl Iterator<Item = MemoryRange>,
    reserved: &[MfnRange],
    mut visit: impl FnMut(MemoryRange) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let mut reserved = reserved.iter().map(|range| MemoryRange {
        start: range.start.get() << PAGE_SHIFT,
        end: range.end.get() << PAGE_SHIFT,
        kind: MemoryKind::Reserved,
    });
    let mut next = reserved.next();
    // Up to here all is said.
    let mut at = 0;
    for range in ranges {
        at = range.start.max(at);
        while let Some(over) = next.filter(|over| over.start < range.end) {
            if at < over.start {
                let end = over.start;
                visit(MemoryRange {
                    start: at,
                    end,
                    ..range
                })?;
            }
            visit(over)?;
            at = over.end.max(at);
            next = reserved.next();
        }
        if at < range.end {
            visit(MemoryRange { start: at, ..range })?;
            at = range.end;
        }
    }
    while let Some(over) = next {
        visit(over)?;
        next = reserved.next();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dom0_abi::addr::Mfn;

    fn laid_over(
        ranges: &[(u64, u64, MemoryKind)],
        over: &[(u64, u64)],
    ) -> Vec<(u64, u64, MemoryKind)> {
        let ranges = ranges.iter().map(|&(start, end, kind)| MemoryRange {
            start: start << 12,
            end: end << 12,
            kind,
        });
        let over: Vec<_> = over
            .iter()
            .map(|&(start, end)| MfnRange::new(Mfn::new(start), Mfn::new(end)))
            .collect();
        let mut seen = Vec::new();
        with_reserved(ranges, &over, |range| {
            seen.push((range.start >> 12, range.end >> 12, range.kind));
            Ok(())
        })
        .unwrap();
        seen
    }

    #[test]
    fn what_is_reserved_lies_over_what_is_said() {
        use MemoryKind::{Ram, Reserved as Res};
        for (ranges, over, wanted) in [
            (&[][..], &[][..], vec![]),
            (&[], &[(3, 4)], vec![(3, 4, Res)]),
            (
                &[(0, 9, Ram)],
                &[(3, 4)],
                vec![(0, 3, Ram), (3, 4, Res), (4, 9, Ram)],
            ),
            (&[(3, 4, Ram)], &[(3, 4)], vec![(3, 4, Res)]),
            (
                &[(0, 2, Ram)],
                &[(3, 4), (6, 8)],
                vec![(0, 2, Ram), (3, 4, Res), (6, 8, Res)],
            ),
            (&[(5, 7, Ram)], &[(3, 4)], vec![(3, 4, Res), (5, 7, Ram)]),
            // Over the end of one, all of the next and the start of the last.
            (
                &[(0, 3, Ram), (4, 5, Res), (6, 9, Ram)],
                &[(2, 7)],
                vec![(0, 2, Ram), (2, 7, Res), (7, 9, Ram)],
            ),
            (
                &[(0, 9, Ram)],
                &[(0, 1), (8, 9)],
                vec![(0, 1, Res), (1, 8, Ram), (8, 9, Res)],
            ),
        ] {
            assert_eq!(laid_over(ranges, over), wanted, "{ranges:?} {over:?}");
        }
    }
}
