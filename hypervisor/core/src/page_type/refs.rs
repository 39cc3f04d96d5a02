//! References to the type of a frame.

use core::fmt;
use core::mem;

use dom0_abi::addr::Mfn;
use dom0_abi::errno::Errno;
use dom0_abi::ids::DomId;
use oxen_arch::sync::atomic::{Ordering, fence};

use super::{Level, PageType, Stop};
use crate::frame::type_word::{TypeEffect, TypeEvent, TypeRefused, TypeState, TypeWord};
use crate::frame::{FrameRecord, FrameRef, Memory};

/// A reference to a type: as long as it exists, the frame has this type, is checked for it, is not free and not another
/// domain's. Dropping it ends the reference. Of a page table, dropping the last one puts it into the queue of tables to be
/// undone and costs no more than any other (`undo`).
#[must_use = "dropping the reference ends it"]
pub struct TypeRef<'m> {
    memory: Memory<'m>,
    held: HeldType,
}

/// A reference to a type that lives in what outlives a call: a vCPU, a domain. It has to come back by
/// [`TypeRef::from_held`], or the frame is lost to everybody.
#[must_use = "a reference that does not come back is never ended"]
#[derive(Debug, PartialEq, Eq)]
pub struct HeldType {
    mfn: Mfn,
    ty: PageType,
}

impl HeldType {
    /// The frame.
    pub const fn mfn(&self) -> Mfn {
        self.mfn
    }

    /// The type.
    pub const fn ty(&self) -> PageType {
        self.ty
    }
}

impl<'m> TypeRef<'m> {
    /// Takes up a reference that is counted already: by a claim that is finished, in an entry, by a pin.
    #[inline]
    pub(crate) fn counted(memory: Memory<'m>, mfn: Mfn, ty: PageType) -> Self {
        let held = HeldType { mfn, ty };
        Self { memory, held }
    }

    /// Refers to a frame of a domain that has the type already.
    ///
    /// `EINVAL`: it is not the domain's, or has another type. [`Stop::Again`]: it is being changed; whoever does that may be
    /// waiting in the undo queue of the caller.
    #[inline]
    pub fn share(memory: Memory<'m>, mfn: Mfn, ty: PageType, owner: DomId) -> Result<Self, Stop> {
        let record = memory.frames.record(mfn).ok_or(Errno::EINVAL)?;
        // Asked first, so that nobody can keep the types of somebody else's frames from ending.
        if !record.word().is_of(owner) {
            return Err(Errno::EINVAL.into());
        }
        match record.share_type(ty) {
            Ok(()) => Self::counted(memory, mfn, ty).of(record, owner),
            Err(TypeRefused::Busy | TypeRefused::Undoing) => Err(Stop::Again),
            Err(_) => Err(Errno::EINVAL.into()),
        }
    }

    /// The same without trying hard. `None`: it cannot be, or another CPU has just changed something.
    #[inline(always)]
    pub(super) fn share_at_once(
        memory: Memory<'m>,
        mfn: Mfn,
        ty: PageType,
        owner: DomId,
    ) -> Option<Self> {
        let record = memory.frames.record(mfn)?;
        if !record.word().is_of(owner) || record.share_type_at_once(ty).is_none() {
            return None;
        }
        Self::counted(memory, mfn, ty).of(record, owner).ok()
    }

    /// Makes a frame of a domain writable for somebody, or finds it so.
    ///
    /// `EINVAL`: it is not the domain's, or has another type. [`Stop::Again`] as for [`Self::share`].
    #[inline]
    pub fn writable(memory: Memory<'m>, mfn: Mfn, owner: DomId) -> Result<Self, Stop> {
        let record = memory.frames.record(mfn).ok_or(Errno::EINVAL)?;
        if Self::take_writable_at_once(&memory, record, mfn, owner) {
            return Ok(Self::counted(memory, mfn, PageType::Writable));
        }
        if !record.word().is_of(owner) {
            return Err(Errno::EINVAL.into());
        }
        super::promote::claim_writable(memory, mfn, owner)
    }

    /// The same for the frame of a record, without trying hard. `false`: it cannot be, or another CPU has just changed something;
    /// nothing has changed.
    #[inline(always)]
    pub(super) fn take_writable_at_once(
        memory: &Memory<'m>,
        record: &FrameRecord,
        mfn: Mfn,
        owner: DomId,
    ) -> bool {
        // Asked first, so that nobody can keep the types of somebody else's frames from ending, and again when the frame cannot
        // change hands any more.
        let owned = record.word();
        let Some(acquired) = owned.acquired(owner) else {
            return false;
        };
        let word = record.type_word();
        if let Some(new) = word.shared(PageType::Writable) {
            if !record.exchange_type(word, new) {
                return false;
            }
            let is_of = record.word().is_of(owner);
            if !is_of {
                end_last(memory, mfn);
            }
            return is_of;
        }
        match word.first_writable() {
            Some(new) if record.exchange_word(owned, acquired) => {
                let is_first = record.exchange_type(word, new);
                if !is_first {
                    FrameRef::end_last(memory, mfn);
                }
                is_first
            }
            _ => false,
        }
    }

    /// Asks again who has the frame, now that it cannot change hands.
    #[inline]
    fn of(self, record: &FrameRecord, owner: DomId) -> Result<Self, Stop> {
        if record.word().is_of(owner) {
            Ok(self)
        } else {
            Err(Errno::EINVAL.into())
        }
    }

    /// The frame.
    pub fn mfn(&self) -> Mfn {
        self.held.mfn
    }

    /// The type.
    pub fn ty(&self) -> PageType {
        self.held.ty
    }

    /// The reference as such.
    pub fn held(&self) -> &HeldType {
        &self.held
    }

    /// Leaves the reference to something that outlives the call.
    #[inline]
    pub fn into_held(self) -> HeldType {
        let HeldType { mfn, ty } = self.held;
        let held = HeldType { mfn, ty };
        mem::forget(self);
        held
    }

    /// Takes it back.
    pub fn from_held(memory: Memory<'m>, held: HeldType) -> Self {
        Self { memory, held }
    }

    /// Leaves the reference to an entry of a page table.
    pub(super) fn into_entry(self) {
        mem::forget(self);
    }

    /// Leaves the reference to the domain, as its pin. `EINVAL`: there is one already, or the domain has given the frame back;
    /// the reference ends.
    pub fn pin(self) -> Result<(), Errno> {
        let frames = self.memory.frames;
        if frames.type_event(self.held.mfn, TypeEvent::Pin).is_err() {
            return Err(Errno::EINVAL);
        }
        // ORDERING: pairs with the end of the domain (`domain::teardown`): it gives the frame back and then looks for a pin.
        // One of the two sees what the other did.
        fence(Ordering::SeqCst);
        if frames.is_given_back(self.held.mfn)
            && frames.type_event(self.held.mfn, TypeEvent::Unpin).is_ok()
        {
            return Err(Errno::EINVAL);
        }
        mem::forget(self);
        Ok(())
    }

    /// Takes the reference that a domain left as its pin, even if it has given the frame back meanwhile. `EINVAL`: it has left
    /// none, or the frame is not its own.
    pub fn unpin(memory: Memory<'m>, mfn: Mfn, owner: DomId) -> Result<Self, Errno> {
        let frames = memory.frames;
        if !frames.is_or_was_of(mfn, owner) || frames.type_event(mfn, TypeEvent::Unpin).is_err() {
            return Err(Errno::EINVAL);
        }
        // The reference that was the pin is this one, so neither type nor owner can change any more.
        let unpinned = match frames.type_state(mfn) {
            Some(TypeState::InUse { ty, .. }) => Self::counted(memory, mfn, ty),
            _ => return Err(Errno::EINVAL),
        };
        if frames.is_or_was_of(mfn, owner) {
            Ok(unpinned)
        } else {
            // It changed hands in between, and this was the pin of the next owner.
            unpinned.pin()?;
            Err(Errno::EINVAL)
        }
    }
}

/// Does what follows from a change that took a type away.
pub(super) fn settle(memory: Memory<'_>, mfn: Mfn, effect: TypeEffect) {
    match effect {
        TypeEffect::ToUndo(progress) => memory.undo.push(memory.frames, mfn, progress),
        TypeEffect::Untyped => drop(FrameRef::from_raw(memory, mfn)),
        _ => {}
    }
}

impl Drop for TypeRef<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        let Self { memory, held } = self;
        let record = memory.frames.record(held.mfn);
        if !record.is_some_and(|record| end_at_once(memory, record, held.mfn)) {
            end_last(memory, held.mfn);
        }
    }
}

/// A reference to the type of an L1 table, for as long as one straight way takes: as a [`TypeRef`], but it knows the record, and
/// fits into registers.
#[must_use = "dropping the reference ends it"]
pub(crate) struct UsedL1<'m> {
    memory: &'m Memory<'m>,
    record: &'m FrameRecord,
    mfn: Mfn,
    /// Its type word without this reference, and with it.
    without: TypeWord,
    with: TypeWord,
}

impl<'m> UsedL1<'m> {
    /// As [`TypeRef::share`], without trying hard. `None`: it cannot be, or another CPU has just changed something.
    #[inline(always)]
    pub(crate) fn at_once(memory: &'m Memory<'m>, mfn: Mfn, owner: DomId) -> Option<Self> {
        let record = memory.frames.record(mfn)?;
        if !record.word().is_of(owner) {
            return None;
        }
        let (without, with) = record.share_type_at_once(PageType::Table(Level::L1))?;
        if !record.word().is_of(owner) {
            end_last(memory, mfn);
            return None;
        }
        Some(Self {
            memory,
            record,
            mfn,
            without,
            with,
        })
    }

    /// The frame.
    #[inline(always)]
    pub(crate) fn mfn(&self) -> Mfn {
        self.mfn
    }

    /// The frames that it is one of.
    #[inline(always)]
    pub(crate) fn memory(&self) -> &'m Memory<'m> {
        self.memory
    }
}

impl Drop for UsedL1<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // Nearly always nobody has come or gone meanwhile. Who is the last one is told by the word, not by what was in between: with
        // this reference it was not the only one, so a word that is the same has another one left.
        if !self.record.exchange_type(self.with, self.without) {
            end_last(self.memory, self.mfn);
        }
    }
}

/// Ends a reference whose last trace is gone from memory, if it is not the last one, or the last one to a writable frame that
/// somebody refers to otherwise, as nearly always its domain. `false`: it is another one, or another CPU has just changed
/// something.
#[inline(always)]
pub(super) fn end_at_once(memory: &Memory<'_>, record: &FrameRecord, mfn: Mfn) -> bool {
    let word = record.type_word();
    if let Some(new) = word.released() {
        return record.exchange_type(word, new);
    }
    match word.last_writable() {
        Some(alone) if record.exchange_type(word, alone) => {
            // The frame is ours alone, so nobody changes the word meanwhile.
            record.set_type_word(alone.given_up(memory.machine.tlb_stamp()));
            if !record.release_one_of_many() {
                FrameRef::end_last(memory, mfn);
            }
            true
        }
        _ => false,
    }
}

/// Ends a reference that may be the last one, and does what follows from that.
#[cold]
#[inline(never)]
pub(super) fn end_last(memory: &Memory<'_>, mfn: Mfn) {
    match memory.frames.type_event(mfn, TypeEvent::Release) {
        Ok(TypeEffect::Last) => give_up(*memory, mfn, 0),
        Ok(effect) => settle(*memory, mfn, effect),
        Err(refused) => {
            debug_assert!(
                false,
                "{mfn} lost a reference that somebody holds: {refused:?}"
            );
        }
    }
}

/// Gives up the type of a frame in our hands, of whose entries so many hold references.
pub(super) fn give_up(memory: Memory<'_>, mfn: Mfn, progress: u16) {
    let stamp = memory.machine.tlb_stamp();
    let given_up = TypeEvent::GiveUp(progress, stamp);
    match memory.frames.type_event(mfn, given_up) {
        Ok(effect) => settle(memory, mfn, effect),
        Err(refused) => debug_assert!(false, "{mfn} was in our hands: {refused:?}"),
    }
}

impl fmt::Debug for TypeRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypeRef")
            .field("mfn", &self.held.mfn)
            .field("ty", &self.held.ty)
            .finish()
    }
}
