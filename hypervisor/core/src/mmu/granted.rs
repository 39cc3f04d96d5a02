//! L1 entries that lead to granted frames: made, and taken away, where `grant` says.
//!
//! Such an entry holds what any other with the same bits does (`page_type::hold`), so whoever overwrites it, and whoever undoes
//! its table, ends just that. What its grant has beside that is `grant`'s affair. No request of a guest's makes an entry that
//! leads to another domain's frame, or changes what it allows: so there are never more of them than were made here.

use dom0_abi::addr::{GuestAddr, Maddr, Mfn};

use super::list::with_undone;
use super::update::{Replaced, replace, replace_at_once};
use super::walk::{l1_slot, l1_slot_at_once, l1_table};
use crate::frame::Memory;
use crate::hypercall::CallCtx;
use crate::page_type::entry::Entry;
use crate::page_type::hold::{Hold, Reach};
use crate::page_type::{Level, Stop, TypeRef, UsedL1};

/// How often an entry may change under our hands before the caller has to try again (XSA-318).
const RETRIES: u32 = 32;

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It maps this address, under the caller's kernel root.
    Address(GuestAddr),
    /// It is at this machine address, in an L1 table of the caller's. ABI: `public/grant_table.h`, `GNTMAP_contains_pte`.
    Entry(Maddr),
}

/// Finds an entry. `None`: there is no L1 table of the caller's for it, or the address is not that of an entry (XSA-227).
fn find<'a>(ctx: &CallCtx<'a>, place: Place) -> Result<Option<(TypeRef<'a>, u16)>, Stop> {
    let (memory, owner) = (ctx.memory(), ctx.domain.id);
    match place {
        Place::Address(address) => match ctx.state.kernel_root() {
            Some(root) => l1_slot(memory, root, owner, address),
            None => Ok(None),
        },
        Place::Entry(at) if !at.get().is_multiple_of(8) => Ok(None),
        Place::Entry(at) => {
            let index = (at.offset() / 8) as u16;
            let table = l1_table(memory, at.mfn(), owner)?;
            Ok(table.map(|table| (table, index)))
        }
    }
}

/// The same without trying hard. `None`: there is none, or another CPU has just changed something.
#[inline(always)]
fn find_at_once<'m>(
    memory: &'m Memory<'m>,
    ctx: &CallCtx<'_>,
    place: Place,
) -> Option<(UsedL1<'m>, u16)> {
    let owner = ctx.domain.id;
    match place {
        Place::Address(address) => {
            l1_slot_at_once(memory, ctx.state.kernel_root()?, owner, address)
        }
        Place::Entry(at) if !at.get().is_multiple_of(8) => None,
        Place::Entry(at) => {
            let index = (at.offset() / 8) as u16;
            Some((UsedL1::at_once(memory, at.mfn(), owner)?, index))
        }
    }
}

/// Puts an entry where it is wanted. `false`: there is no table for it, or it must not be, or its frame cannot be had so; nothing
/// has changed.
#[inline(always)]
pub(crate) fn put(
    ctx: &mut CallCtx<'_>,
    memory: &Memory<'_>,
    reach: &Reach<'_>,
    place: Place,
    entry: Entry,
) -> Result<bool, Stop> {
    let is_put = find_at_once(memory, ctx, place).is_some_and(|(table, index)| {
        replace_at_once(&table, reach, index, |_| Some(entry)).is_some()
    });
    if is_put {
        return Ok(true);
    }
    put_slowly(ctx, reach, place, entry)
}

#[cold]
#[inline(never)]
fn put_slowly(
    ctx: &mut CallCtx<'_>,
    reach: &Reach<'_>,
    place: Place,
    entry: Entry,
) -> Result<bool, Stop> {
    let result = with_undone(ctx, |ctx| {
        let Some((table, index)) = find(ctx, place)? else {
            return Ok(false);
        };
        let (memory, budget) = (ctx.memory(), &mut ctx.budget);
        let replaced = replace(memory, reach, table.held(), index, budget, |_| Some(entry))?;
        Ok(replaced == Replaced::Done)
    });
    match result {
        Err(Stop::Refused(_)) => Ok(false),
        other => other,
    }
}

/// An entry that is meant: it leads to this frame, and is writable or not.
#[derive(Clone, Copy)]
pub(crate) struct Meant {
    pub(crate) mfn: Mfn,
    pub(crate) is_writable: bool,
}

impl Meant {
    #[inline(always)]
    fn is(self, entry: Entry) -> bool {
        entry.is_present() && entry.mfn() == self.mfn && entry.is_writable() == self.is_writable
    }
}

/// Takes an entry away that is the one that is meant; puts in its place what is taken from `instead`.
/// `false`: there is none, or it leads elsewhere, or allows something else; nothing has changed.
#[inline(always)]
pub(crate) fn take(
    ctx: &mut CallCtx<'_>,
    memory: &Memory<'_>,
    place: Place,
    meant: Meant,
    instead: Option<GuestAddr>,
) -> Result<bool, Stop> {
    if instead.is_none() && take_at_once(ctx, memory, place, meant).is_some() {
        return Ok(true);
    }
    take_slowly(ctx, place, meant, instead)
}

/// Takes it away if nothing is out of the ordinary.
#[inline(always)]
fn take_at_once(ctx: &CallCtx<'_>, memory: &Memory<'_>, place: Place, meant: Meant) -> Option<()> {
    let (table, index) = find_at_once(memory, ctx, place)?;
    let word = memory.mem().word(table.mfn().word(index.into())).ok()?;
    let old = Entry(word.load());
    if !meant.is(old) || word.compare_exchange(old.0, 0).is_err() {
        return None;
    }
    Hold::from_entry(memory, Level::L1, old).end();
    Some(())
}

#[cold]
#[inline(never)]
fn take_slowly(
    ctx: &mut CallCtx<'_>,
    place: Place,
    meant: Meant,
    instead: Option<GuestAddr>,
) -> Result<bool, Stop> {
    with_undone(ctx, |ctx| {
        let Some((table, index)) = find(ctx, place)? else {
            return Ok(false);
        };
        let is_it = |entry| meant.is(entry);
        let at = table.mfn().word(index.into());
        let memory = ctx.memory();
        // Looked at before anything is moved.
        if !is_it(Entry::load(memory.mem(), at)) {
            return Ok(false);
        }
        let moved = match instead {
            None => None,
            Some(from) => match find(ctx, Place::Address(from))? {
                None => return Ok(false),
                Some((table, index)) => {
                    let from = table.mfn().word(index.into());
                    let taken = exchange(ctx, from, |_| true, Entry::EMPTY)?;
                    taken.map(|entry| (table, from, entry))
                }
            },
        };
        let new = moved.as_ref().map_or(Entry::EMPTY, |moved| moved.2);
        let taken = exchange(ctx, at, is_it, new);
        if let Some((_table, from, entry)) = moved {
            let is_back = !matches!(taken, Ok(Some(_)))
                && matches!(
                    memory.mem().compare_exchange_u64(from, 0, entry.0),
                    Ok(Ok(_))
                );
            let is_moved = matches!(taken, Ok(Some(_)));
            let hold = Hold::from_entry(&memory, Level::L1, entry);
            // Where it came from somebody may have put another one meanwhile: then it is lost.
            if is_back || is_moved {
                hold.into_entry();
            }
        }
        Ok(match taken? {
            Some(old) => {
                Hold::from_entry(&memory, Level::L1, old).end();
                true
            }
            None => false,
        })
    })
}

/// Exchanges an entry of a table that is in use, if it is the one. Whoever calls this has what the old one held, and answers for
/// what the new one does.
fn exchange(
    ctx: &CallCtx<'_>,
    at: Maddr,
    is_it: impl Fn(Entry) -> bool,
    new: Entry,
) -> Result<Option<Entry>, Stop> {
    let memory = ctx.memory();
    let mut old = Entry::load(memory.mem(), at);
    for _ in 0..RETRIES {
        if !is_it(old) {
            return Ok(None);
        }
        match memory.mem().compare_exchange_u64(at, old.0, new.0) {
            Ok(Ok(_)) => return Ok(Some(old)),
            Ok(Err(now)) => old = Entry(now),
            Err(_) => return Ok(None),
        }
    }
    Err(Stop::Again)
}
