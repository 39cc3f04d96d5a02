//! References to the type of a frame.

use core::fmt;
use core::mem;

use dom0_abi::addr::Mfn;
use dom0_abi::errno::Errno;
use dom0_abi::ids::DomId;
use oxen_arch::sync::atomic::{Ordering, fence};

use super::{PageType, Stop};
use crate::frame::type_word::{TypeEffect, TypeEvent, TypeRefused, TypeState};
use crate::frame::{FrameRef, Memory};

/// A reference to a type: as long as it exists, the frame has this type, is checked for it, is not free and not another
/// domain's. Dropping it ends the reference. Of a page table, dropping the last one puts it into the queue of tables to be
/// undone and costs no more than any other (`undo`).
#[must_use = "dropping the reference ends it"]
pub struct TypeRef<'m> {
    memory: Memory<'m>,
    mfn: Mfn,
    ty: PageType,
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
    pub(crate) fn counted(memory: Memory<'m>, mfn: Mfn, ty: PageType) -> Self {
        Self { memory, mfn, ty }
    }

    /// Refers to a frame of a domain that has the type already.
    ///
    /// `EINVAL`: it is not the domain's, or has another type. [`Stop::Again`]: it is being changed; whoever does that may be
    /// waiting in the undo queue of the caller.
    #[inline]
    pub fn share(memory: Memory<'m>, mfn: Mfn, ty: PageType, owner: DomId) -> Result<Self, Stop> {
        // Asked first, so that nobody can keep the types of somebody else's frames from ending.
        if !memory.frames.is_of(mfn, owner) {
            return Err(Errno::EINVAL.into());
        }
        match memory.frames.type_event(mfn, TypeEvent::Share(ty)) {
            Ok(_) => Self::counted(memory, mfn, ty).of(owner),
            Err(TypeRefused::Busy | TypeRefused::Undoing) => Err(Stop::Again),
            Err(_) => Err(Errno::EINVAL.into()),
        }
    }

    /// Makes a frame of a domain writable for somebody, or finds it so.
    ///
    /// `EINVAL`: it is not the domain's, or has another type. [`Stop::Again`] as for [`Self::share`].
    #[inline]
    pub fn writable(memory: Memory<'m>, mfn: Mfn, owner: DomId) -> Result<Self, Stop> {
        let ty = PageType::Writable;
        if !memory.frames.is_of(mfn, owner) {
            return Err(Errno::EINVAL.into());
        }
        match memory.frames.type_event(mfn, TypeEvent::Share(ty)) {
            Ok(_) => Self::counted(memory, mfn, ty).of(owner),
            Err(_) => super::promote::claim_writable(memory, mfn, owner),
        }
    }

    /// Asks again who has the frame, now that it cannot change hands.
    fn of(self, owner: DomId) -> Result<Self, Stop> {
        if self.memory.frames.is_of(self.mfn, owner) {
            Ok(self)
        } else {
            Err(Errno::EINVAL.into())
        }
    }

    /// The frame.
    pub fn mfn(&self) -> Mfn {
        self.mfn
    }

    /// The type.
    pub fn ty(&self) -> PageType {
        self.ty
    }

    /// Leaves the reference to something that outlives the call.
    pub fn into_held(self) -> HeldType {
        let held = HeldType {
            mfn: self.mfn,
            ty: self.ty,
        };
        mem::forget(self);
        held
    }

    /// Takes it back.
    pub fn from_held(memory: Memory<'m>, held: HeldType) -> Self {
        Self::counted(memory, held.mfn, held.ty)
    }

    /// Leaves the reference to an entry of a page table.
    pub(super) fn into_entry(self) {
        mem::forget(self);
    }

    /// Leaves the reference to the domain, as its pin. `EINVAL`: there is one already, or the domain has given the frame back;
    /// the reference ends.
    pub fn pin(self) -> Result<(), Errno> {
        let frames = self.memory.frames;
        if frames.type_event(self.mfn, TypeEvent::Pin).is_err() {
            return Err(Errno::EINVAL);
        }
        // ORDERING: pairs with the end of the domain (`domain::teardown`): it gives the frame back and then looks for a pin.
        // One of the two sees what the other did.
        fence(Ordering::SeqCst);
        if frames.is_given_back(self.mfn) && frames.type_event(self.mfn, TypeEvent::Unpin).is_ok() {
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
    fn drop(&mut self) {
        let memory = self.memory;
        let released = memory
            .frames
            .release_type(self.mfn, || memory.machine.tlb_stamp());
        match released {
            Ok(effect) => settle(self.memory, self.mfn, effect),
            Err(refused) => {
                debug_assert!(
                    false,
                    "{} lost a reference that somebody holds: {refused:?}",
                    self.mfn
                );
            }
        }
    }
}

impl fmt::Debug for TypeRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypeRef")
            .field("mfn", &self.mfn)
            .field("ty", &self.ty)
            .finish()
    }
}
