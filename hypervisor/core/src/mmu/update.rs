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
use crate::page_type::{HeldType, Level, PageType, Stop, UsedL1, twin};

/// How often an entry may change under our hands before the caller has to try again (XSA-318).
const RETRIES: u32 = 32;

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// It is replaced.
    Done,
    /// It is this, and stays.
    Kept(Entry),
}

/// Replaces entry `index` of a table by what `wanted` makes of it; `None` keeps it.
///
/// `EINVAL`, `EBUSY`, `EPERM`: the new entry is not allowed, see [`Hold::take`]. [`Stop::Again`] further if the entry changes
/// all the time.
pub(super) fn replace(
    memory: Memory<'_>,
    reach: &Reach<'_>,
    table: &HeldType,
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
    let at = table.mfn().word(index.into());
    let no_table = |BadFrame| Stop::Refused(Errno::EINVAL);
    let has_twin = level == Level::L4 && memory.machine.uses_twins();
    let exchange = |old: Entry, new: Entry| {
        let exchanged = if has_twin {
            twin::exchange(memory, table, index, old, new)
        } else {
            memory.mem().compare_exchange_u64(at, old.0, new.0)
        };
        exchanged.map_err(no_table)
    };
    let mut old = Entry(memory.mem().load_u64(at).map_err(no_table)?);
    for _ in 0..RETRIES {
        let Some(new) = wanted(old) else {
            return Ok(Replaced::Kept(old));
        };
        let new = reach.check(level, new)?;
        let exchanged = if is_harmless(old, new) {
            exchange(old, new)?
        } else {
            let hold = Hold::take(&memory, reach, level, new, budget)?;
            let exchanged = exchange(old, hold.entry())?;
            if exchanged.is_ok() {
                hold.into_entry();
                Hold::from_entry(&memory, level, old).end();
            }
            exchanged
        };
        match exchanged {
            Ok(_) => return Ok(Replaced::Done),
            Err(now) => old = Entry(now),
        }
    }
    Err(Stop::Again)
}

/// The straight way: replaces an entry of an L1 table in use by what `wanted` makes of it, and returns what it was. `None`, and
/// nothing has changed, if anything is out of the ordinary: then [`replace`] says what it is, or does it.
///
/// Inlined, since it is made of the short cases only: who holds the table calls nothing but what seldom happens.
#[inline(always)]
pub(super) fn replace_at_once(
    table: &UsedL1<'_>,
    reach: &Reach<'_>,
    index: u16,
    wanted: impl FnOnce(Entry) -> Option<Entry>,
) -> Option<Entry> {
    let memory = table.memory();
    let at = table.mfn().word(index.into());
    let word = memory.mem().word(at).ok()?;
    let old = Entry(word.load());
    let new = reach.page_rules.check(wanted(old)?).ok()?;
    let exchange = || word.compare_exchange(old.0, new.0).is_ok();
    if is_harmless(old, new) {
        return exchange().then_some(old);
    }
    let hold = Hold::take_page_at_once(memory, reach, new)?;
    if !exchange() {
        hold.give_back();
        return None;
    }
    hold.into_entry();
    Hold::from_entry(memory, Level::L1, old).end();
    Some(old)
}

/// Whether neither references nor rights change (XSA-182): both entries hold the same.
fn is_harmless(old: Entry, new: Entry) -> bool {
    let changed = old.0 ^ new.0;
    (old.is_present() && changed & !HARMLESS == 0) || !(old.is_present() || new.is_present())
}
