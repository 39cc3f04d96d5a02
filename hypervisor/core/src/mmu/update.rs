//! Replaces one entry of a table that is in use.
//!
//! The entry is replaced by compare-exchange, so that who takes an entry out of memory has its references, whoever else
//! writes to the same table, and so that no accessed or dirty bit that a CPU sets is lost. What the new entry needs is
//! taken before, what the old one held is given back after.

use dom0_abi::errno::Errno;
use oxen_arch::memory::BadFrame;

use crate::budget::Budget;
use crate::frame::Memory;
use crate::page_type::entry::{Entry, HARMLESS};
use crate::page_type::hold::{Hold, Reach};
use crate::page_type::promote::is_ours;
use crate::page_type::{Level, PageType, Stop, TypeRef, twin};

/// How often an entry may change under our hands before the caller has to try again (XSA-318).
const RETRIES: u32 = 32;

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replaced {
    /// It was this, and is replaced.
    Was(Entry),
    /// It is this, and stays.
    Kept(Entry),
}

/// Replaces entry `index` of a table by what `wanted` makes of it; `None` keeps it.
///
/// `EINVAL`, `EBUSY`, `EPERM`: the new entry is not allowed, see [`Hold::take`]. [`Stop::Again`] further if the entry changes
/// all the time.
#[inline]
pub(super) fn replace(
    memory: Memory<'_>,
    reach: &Reach<'_>,
    table: &TypeRef<'_>,
    index: u16,
    budget: &mut Budget,
    mut wanted: impl FnMut(Entry) -> Option<Entry>,
) -> Result<Replaced, Stop> {
    let PageType::Table(level) = table.ty() else {
        return Err(Errno::EINVAL.into());
    };
    if is_ours(level, index) {
        return Err(Errno::EINVAL.into());
    }
    let at = table.mfn().at(usize::from(index).wrapping_mul(8));
    let no_table = |BadFrame| Stop::Refused(Errno::EINVAL);
    let mut old = Entry(memory.mem().load_u64(at).map_err(no_table)?);
    for _ in 0..RETRIES {
        let Some(new) = wanted(old) else {
            return Ok(Replaced::Kept(old));
        };
        let new = reach.check(level, new)?;
        let exchange = |new: Entry| {
            let exchanged = if level == Level::L4 && memory.machine.uses_twins() {
                twin::exchange(memory, table, index, old, new)
            } else {
                memory.mem().compare_exchange_u64(at, old.0, new.0)
            };
            exchanged.map_err(no_table)
        };
        let exchanged = if is_harmless(old, new) {
            exchange(new)?
        } else {
            let hold = match level {
                Level::L1 => Hold::take_page(memory, reach, new)?,
                _ => Hold::take(memory, reach, level, new, budget)?,
            };
            let exchanged = exchange(hold.entry())?;
            if exchanged.is_ok() {
                hold.into_entry();
                drop(Hold::from_entry(memory, level, old));
            }
            exchanged
        };
        match exchanged {
            Ok(_) => return Ok(Replaced::Was(old)),
            Err(now) => old = Entry(now),
        }
    }
    Err(Stop::Again)
}

/// Whether neither references nor rights change (XSA-182): both entries hold the same.
fn is_harmless(old: Entry, new: Entry) -> bool {
    let changed = old.0 ^ new.0;
    (old.is_present() && changed & !HARMLESS == 0) || !(old.is_present() || new.is_present())
}
