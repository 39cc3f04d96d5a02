//! Replaces one entry of a table that is in use.
//!
//! The entry is replaced by compare-exchange, so that who takes an entry out of memory has its references, whoever else
//! writes to the same table, and so that no accessed or dirty bit that a CPU sets is lost. What the new entry needs is
//! taken before, what the old one held is given back after.

use dom0_abi::addr::Maddr;
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

/// What an entry is to become.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// This,
    pub(super) entry: Entry,
    /// but that these bits stay as they are,
    pub(super) kept: u64,
    /// and only if it is this now.
    pub(super) instead_of: Option<Entry>,
}

impl From<Entry> for Wanted {
    fn from(entry: Entry) -> Self {
        Self {
            entry,
            kept: 0,
            instead_of: None,
        }
    }
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// It is replaced.
    Done,
    /// It is this, and stays.
    Kept(Entry),
}

/// Replaces entry `index` of a table.
///
/// `EINVAL`, `EBUSY`, `EPERM`: the new entry is not allowed, see [`Hold::take`]. [`Stop::Again`] further if the entry changes
/// all the time.
pub(super) fn replace(
    memory: &Memory<'_>,
    reach: &Reach<'_>,
    table: &HeldType,
    index: u16,
    wanted: &Wanted,
    budget: &mut Budget,
) -> Result<Replaced, Stop> {
    match table.ty() {
        // The tables that matter: all that depends on the level is known here when the hypervisor is built.
        PageType::Table(Level::L1) => {
            replace_in_l1(memory, reach, table.mfn().word(index.into()), wanted)
        }
        PageType::Table(level) if !is_ours(level, index) => {
            replace_above(memory, reach, (table, level), index, wanted, budget)
        }
        _ => Err(Errno::EINVAL.into()),
    }
}

/// The straight way: replaces an entry of an L1 table in use by what `wanted` makes of it, and returns what it was. `None`, and
/// nothing has changed, if anything is out of the ordinary: then [`replace`] says what it is, or does it.
///
/// Inlined, since it is made of the short cases only: who holds the table calls nothing but what seldom happens.
#[inline(always)]
pub(super) fn replace_at_once(
    table: &UsedL1<'_, '_>,
    reach: &Reach<'_>,
    index: u16,
    wanted: impl FnOnce(Entry) -> Option<Entry>,
) -> Option<Entry> {
    let memory = *table.memory();
    let at = table.mfn().word(index.into());
    let word = memory.mem().word(at).ok()?;
    let old = Entry(word.load());
    let new = reach.check(Level::L1, wanted(old)?).ok()?;
    let exchange = || word.compare_exchange(old.0, new.0).is_ok();
    if is_harmless(old, new) {
        return exchange().then_some(old);
    }
    let hold = Hold::take_page_at_once(memory, reach, new)?;
    if !exchange() {
        return None;
    }
    hold.into_entry();
    drop(Hold::from_entry(memory, Level::L1, old));
    Some(old)
}

/// The same for an entry of an L1 table.
#[inline(never)]
fn replace_in_l1(
    memory: &Memory<'_>,
    reach: &Reach<'_>,
    at: Maddr,
    wanted: &Wanted,
) -> Result<Replaced, Stop> {
    let word = memory.mem().word(at).map_err(no_table)?;
    replace_by(
        Entry(word.load()),
        wanted,
        |entry| reach.check(Level::L1, entry),
        |entry| Hold::take_page(*memory, reach, entry),
        |old, new| Ok(word.compare_exchange(old.0, new.0)),
        |old| drop(Hold::from_entry(*memory, Level::L1, old)),
    )
}

/// The same for an entry of another table.
#[inline(never)]
fn replace_above(
    memory: &Memory<'_>,
    reach: &Reach<'_>,
    (table, level): (&HeldType, Level),
    index: u16,
    wanted: &Wanted,
    budget: &mut Budget,
) -> Result<Replaced, Stop> {
    let at = table.mfn().word(index.into());
    let has_twin = level == Level::L4 && memory.machine.uses_twins();
    replace_by(
        Entry(memory.mem().load_u64(at).map_err(no_table)?),
        wanted,
        |entry| reach.check(level, entry),
        |entry| Hold::take(*memory, reach, level, entry, budget),
        |old, new| {
            let exchanged = if has_twin {
                twin::exchange(*memory, table, index, old, new)
            } else {
                memory.mem().compare_exchange_u64(at, old.0, new.0)
            };
            exchanged.map_err(no_table)
        },
        |old| drop(Hold::from_entry(*memory, level, old)),
    )
}

/// Replaces an entry, which was `old` when it was looked at: by what `check` makes of the new one, with the references that `take`
/// takes for it, by `exchange`; then `end` ends those of the old one.
#[inline(always)]
fn replace_by<'m>(
    mut old: Entry,
    wanted: &Wanted,
    check: impl Fn(Entry) -> Result<Entry, Errno>,
    mut take: impl FnMut(Entry) -> Result<Hold<'m>, Stop>,
    exchange: impl Fn(Entry, Entry) -> Result<Result<u64, u64>, Stop>,
    end: impl Fn(Entry),
) -> Result<Replaced, Stop> {
    for _ in 0..RETRIES {
        if wanted.instead_of.is_some_and(|expected| expected != old) {
            return Ok(Replaced::Kept(old));
        }
        let new = check(Entry(wanted.entry.0 | old.0 & wanted.kept))?;
        let exchanged = if is_harmless(old, new) {
            exchange(old, new)?
        } else {
            let hold = take(new)?;
            let exchanged = exchange(old, hold.entry())?;
            if exchanged.is_ok() {
                hold.into_entry();
                end(old);
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

/// A table that cannot be accessed is none.
fn no_table(BadFrame: BadFrame) -> Stop {
    Stop::Refused(Errno::EINVAL)
}

/// Whether neither references nor rights change (XSA-182): both entries hold the same.
fn is_harmless(old: Entry, new: Entry) -> bool {
    let changed = old.0 ^ new.0;
    (old.is_present() && changed & !HARMLESS == 0) || !(old.is_present() || new.is_present())
}
