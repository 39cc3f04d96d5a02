//! Records of frames, with the steps that `frame` and `page_type` make on them.
//!
//! The words and what changes them are the hypervisor's own. What calls them there needs a machine, so its order of calls is
//! repeated here: a function says whose. The bytes of a frame are cells of the checker, which fails if somebody reads
//! them while another writes, or without having seen the writes before.

use dom0_abi::addr::Mfn;
use dom0_abi::ids::DomId;
use loom::cell::UnsafeCell;
use zerocopy::FromZeros;

use crate::memory::Machine;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::tlb::TlbStamp;

#[path = "../../../hypervisor/core/src/frame/owners.rs"]
#[allow(dead_code)] // Of the lists of domains only their locks are used here.
mod owners;
#[path = "../../../hypervisor/core/src/frame/table.rs"]
#[allow(dead_code)] // Links and tables are the allocator's, which is not here.
mod table;
#[path = "../../../hypervisor/core/src/frame/type_word/mod.rs"]
pub mod type_word;
#[path = "../../../hypervisor/core/src/frame/undo.rs"]
#[allow(dead_code)] // As above.
mod undo;
#[path = "../../../hypervisor/core/src/frame/word.rs"]
#[allow(dead_code)] // As above.
mod word;

/// For the unit tests of the sources.
#[cfg(test)]
mod allocator {
    pub const MAX_ORDER: u8 = 18;

    pub mod tests {
        pub fn count_access() {}
    }
}

use owners::Owners;
use table::{FrameIndex, FrameRecord};
pub use type_word::{Level, PageType, TypeState};
use type_word::{TypeEffect, TypeEvent, TypeRefused, needs_flush};
use undo::ToUndo;
pub use undo::UndoQueue;
use word::{Effect, Event, Kind};

/// How many threads a model has at most.
const THREADS: usize = 3;

/// A few frames, with one queue of tables to be undone.
pub struct Frames {
    frames: Vec<Frame>,
    /// The queue.
    pub undo: UndoQueue,
    /// For their locks.
    owners: Owners,
    /// What time it is, for stamps.
    clock: AtomicU64,
}

/// As the hypervisor's.
#[derive(Clone, Copy)]
pub struct Memory<'h> {
    /// Its machine.
    pub machine: &'h Machine,
    /// Their records.
    pub frames: &'h Frames,
}

impl<'h> Memory<'h> {
    /// As `Memory::mem`.
    pub fn mem(&self) -> &'h Machine {
        self.machine
    }
}

struct Frame {
    record: FrameRecord,
    bytes: [UnsafeCell<()>; THREADS],
}

/// What became of a claim. As in `page_type::promote`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// There is a reference now.
    Ready,
    /// The frame is to be made ready from this entry on, by the caller alone. `flush`: what is older than this is to be flushed
    /// before.
    Work {
        /// The entry.
        next: u16,
        /// The stamp.
        flush: Option<TlbStamp>,
        /// Caches have to be written back.
        is_incoherent: bool,
    },
    /// Later.
    Again,
    /// Never.
    Refused,
}

impl Frames {
    /// Frames of a domain, each with the reference of its allocation and no type.
    pub fn of(domain: DomId, count: usize) -> Self {
        let frames = Self {
            frames: (0..count)
                .map(|_| Frame {
                    record: FrameRecord::new_zeroed(),
                    bytes: Default::default(),
                })
                .collect(),
            undo: UndoQueue::new(),
            owners: Owners::new(&Machine::of(0)).expect("boot has memory"),
            clock: AtomicU64::new(1),
        };
        for frame in &frames.frames {
            assert_eq!(frame.record.apply(Event::Assign(domain)), Ok(Effect::None));
            // So that every word is there before there are threads.
            frame.record.type_word();
        }
        frames
    }

    fn frame(&self, mfn: Mfn) -> &Frame {
        &self.frames[mfn.get() as usize]
    }

    fn record(&self, mfn: Mfn) -> &FrameRecord {
        &self.frame(mfn).record
    }

    /// The present time. Every stamp is another.
    pub fn now(&self) -> TlbStamp {
        TlbStamp::from_bits(self.clock.fetch_add(1, Ordering::Relaxed))
    }

    /// As `Frames::end`.
    pub fn end(&self) -> Mfn {
        Mfn::new(self.frames.len() as u64)
    }

    /// What the frame is used as.
    pub fn type_state(&self, mfn: Mfn) -> Option<TypeState> {
        Some(self.record(mfn).type_word().state())
    }

    /// As `Frames::type_event`.
    pub(crate) fn type_event(&self, mfn: Mfn, event: TypeEvent) -> Result<TypeEffect, TypeRefused> {
        self.record(mfn).apply_type(event)
    }

    /// References to a frame of a domain; 0: it is free.
    pub fn references(&self, mfn: Mfn) -> u32 {
        match self.record(mfn).word().kind() {
            Kind::Owned { count, .. } => count,
            _ => 0,
        }
    }

    /// As `Frames::with_twin`.
    pub fn with_twin<R>(&self, root: Mfn, what: impl FnOnce() -> R) -> Option<R> {
        match self.record(root).word().kind() {
            Kind::Owned { owner, .. } => self.owners.one_by_one(owner, what),
            _ => None,
        }
    }

    /// Somebody writes to the page: by a writable mapping, thread `me` of all.
    pub fn write(&self, mfn: Mfn, me: usize) {
        self.frame(mfn).bytes[me].with_mut(|_| ());
    }

    /// Somebody reads what was checked, and relies on it.
    pub fn read_checked(&self, mfn: Mfn) {
        for cell in &self.frame(mfn).bytes {
            cell.with(|_| ());
        }
    }

    /// Somebody has the bytes alone.
    pub fn use_alone(&self, mfn: Mfn) {
        for cell in &self.frame(mfn).bytes {
            cell.with_mut(|_| ());
        }
    }

    /// As `Memory::acquire`.
    pub fn acquire(&self, mfn: Mfn, owner: DomId) -> bool {
        self.record(mfn).acquire(owner).is_ok()
    }

    /// As the end of a `FrameRef`; whether the frame is free now.
    pub fn put(&self, mfn: Mfn) -> bool {
        if self.record(mfn).release_one_of_many() {
            return false;
        }
        let effect = self.record(mfn).apply(Event::Release);
        self.settle_owner(mfn, effect.expect("a reference that somebody holds"))
    }

    /// As `Memory::release_domain_frame`; whether the frame is free now. `None`: it is not the domain's.
    pub fn give_back(&self, mfn: Mfn, owner: DomId) -> Option<bool> {
        let effect = self.record(mfn).apply(Event::GiveBack(owner)).ok()?;
        Some(self.settle_owner(mfn, effect))
    }

    /// As `Memory::take_domain_frame`.
    pub fn take(&self, mfn: Mfn, owner: DomId) -> bool {
        let is_taken = self.record(mfn).apply(Event::Take(owner)).is_ok();
        if is_taken {
            self.leave(mfn);
        }
        is_taken
    }

    fn settle_owner(&self, mfn: Mfn, effect: Effect) -> bool {
        let is_free = effect == Effect::Free;
        if is_free {
            self.leave(mfn);
        }
        is_free
    }

    /// As `Memory::leave`. Nobody else can have the frame.
    fn leave(&self, mfn: Mfn) {
        self.use_alone(mfn);
        let stamp = self.now();
        let state = TypeState::None { was: None, stamp };
        let word = type_word::TypeWord::new(state);
        let is_incoherent = self.record(mfn).type_word().is_incoherent();
        let word = if is_incoherent {
            word.incoherent()
        } else {
            word
        };
        self.record(mfn).set_type_word(word);
    }

    /// As `Memory::alloc` and `Memory::assign` of a frame that was just freed by the caller.
    pub fn assign(&self, mfn: Mfn, owner: DomId) {
        self.use_alone(mfn);
        self.record(mfn)
            .set_type_word(type_word::TypeWord::NEVER_USED);
        let assigned = self.record(mfn).apply(Event::Assign(owner));
        assert_eq!(assigned, Ok(Effect::None));
    }

    /// As `TypeRef::share`.
    pub fn share(&self, mfn: Mfn, ty: PageType, owner: DomId) -> Claim {
        if !self.record(mfn).word().is_of(owner) {
            return Claim::Refused;
        }
        match self.record(mfn).share_type(ty) {
            Ok(()) if self.record(mfn).word().is_of(owner) => Claim::Ready,
            Ok(()) => {
                self.release(mfn);
                Claim::Refused
            }
            Err(TypeRefused::Busy | TypeRefused::Undoing) => Claim::Again,
            Err(_) => Claim::Refused,
        }
    }

    /// As `TypeRef::share_at_once`.
    fn share_at_once(&self, mfn: Mfn, ty: PageType, owner: DomId) -> bool {
        let record = self.record(mfn);
        if !record.word().is_of(owner) || record.share_type_at_once(ty).is_none() {
            return false;
        }
        let is_of = record.word().is_of(owner);
        if !is_of {
            self.release(mfn);
        }
        is_of
    }

    /// As `promote::claim`.
    pub fn claim(&self, mfn: Mfn, ty: PageType, owner: DomId) -> Claim {
        if self.share_at_once(mfn, ty, owner) {
            return Claim::Ready;
        }
        if !self.acquire(mfn, owner) {
            return Claim::Refused;
        }
        let claim = match self.type_event(mfn, TypeEvent::Claim(ty)) {
            // The type has the general reference now.
            Ok(TypeEffect::Claimed {
                was,
                stamp,
                is_incoherent,
            }) => {
                return Claim::Work {
                    next: 0,
                    flush: needs_flush(was, ty).then_some(stamp),
                    is_incoherent,
                };
            }
            Ok(TypeEffect::First) => return Claim::Ready,
            Ok(TypeEffect::Resumed(next)) => Claim::Work {
                next,
                flush: None,
                is_incoherent: false,
            },
            Ok(_) => Claim::Ready,
            Err(TypeRefused::Busy | TypeRefused::Undoing) => Claim::Again,
            Err(_) => Claim::Refused,
        };
        self.put(mfn);
        claim
    }

    /// As `TypeRef::writable`.
    pub fn writable(&self, mfn: Mfn, owner: DomId) -> Claim {
        let record = self.record(mfn);
        let owned = record.word();
        if !owned.is_of(owner) {
            return Claim::Refused;
        }
        let word = record.type_word();
        if let Some(new) = word.shared(PageType::Writable) {
            if record.exchange_type(word, new) {
                if record.word().is_of(owner) {
                    return Claim::Ready;
                }
                self.release(mfn);
                return Claim::Refused;
            }
        } else if let Some(new) = word.first_writable()
            && let Some(acquired) = owned.acquired(owner)
            && record.exchange_word(owned, acquired)
        {
            if record.exchange_type(word, new) {
                return Claim::Ready;
            }
            self.put(mfn);
        }
        let claim = self.claim(mfn, PageType::Writable, owner);
        if let Claim::Work { .. } = claim {
            self.finish(mfn);
            return Claim::Ready;
        }
        claim
    }

    /// As `promote::finish`.
    pub fn finish(&self, mfn: Mfn) {
        let finished = self.type_event(mfn, TypeEvent::Finish);
        assert_eq!(finished, Ok(TypeEffect::Done));
    }

    /// As `promote::park`.
    pub fn park(&self, mfn: Mfn, next: u16) {
        let parked = self.type_event(mfn, TypeEvent::Park(next));
        assert_eq!(parked, Ok(TypeEffect::Done));
    }

    /// As `promote::refuse`.
    pub fn refuse(&self, mfn: Mfn, next: u16) {
        self.give_up(mfn, next, self.now());
    }

    /// As `promote::abandon`; whether there was something to give up.
    pub fn abandon(&self, mfn: Mfn) -> bool {
        let abandoned = self.type_event(mfn, TypeEvent::Abandon);
        if let Ok(TypeEffect::Resumed(progress)) = abandoned {
            self.give_up(mfn, progress, self.now());
        }
        abandoned.is_ok()
    }

    /// As the end of a `TypeRef`.
    pub fn release(&self, mfn: Mfn) {
        self.release_at(mfn, || self.now());
    }

    /// The same with a clock.
    pub fn release_at(&self, mfn: Mfn, now: impl Fn() -> TlbStamp) {
        let record = self.record(mfn);
        let word = record.type_word();
        if let Some(new) = word.released() {
            if record.exchange_type(word, new) {
                return;
            }
        } else if let Some(alone) = word.last_writable()
            && record.exchange_type(word, alone)
        {
            record.set_type_word(alone.given_up(now()));
            self.put(mfn);
            return;
        }
        match self.type_event(mfn, TypeEvent::Release) {
            Ok(TypeEffect::Last) => self.give_up(mfn, 0, now()),
            Ok(effect) => self.settle(mfn, effect),
            Err(refused) => panic!("a reference that somebody holds: {refused:?}"),
        }
    }

    /// As `refs::give_up`.
    fn give_up(&self, mfn: Mfn, progress: u16, now: TlbStamp) {
        let given_up = self.type_event(mfn, TypeEvent::GiveUp(progress, now));
        self.settle(mfn, given_up.expect("it was in our hands"));
    }

    /// As `TypeRef::pin`; the reference ends if the frame is pinned already.
    pub fn pin(&self, mfn: Mfn) -> bool {
        let pinned = self.type_event(mfn, TypeEvent::Pin);
        if pinned.is_err() {
            self.release(mfn);
        }
        pinned.is_ok()
    }

    /// As `TypeRef::unpin`, and the end of the reference that it returns.
    pub fn unpin(&self, mfn: Mfn, owner: DomId) -> bool {
        if !self.acquire(mfn, owner) {
            return false;
        }
        let unpinned = self.type_event(mfn, TypeEvent::Unpin);
        if unpinned.is_ok() {
            let state = self.type_state(mfn);
            assert!(
                matches!(state, Some(TypeState::InUse { .. })),
                "a reference keeps the type, but it is {state:?}"
            );
            self.read_checked(mfn);
        }
        self.put(mfn);
        if unpinned.is_ok() {
            self.release(mfn);
        }
        unpinned.is_ok()
    }

    /// As `Frames::mark_incoherent`.
    pub fn mark_incoherent(&self, mfn: Mfn) {
        self.record(mfn).mark_incoherent();
    }

    /// As `page_type::refs::settle`.
    fn settle(&self, mfn: Mfn, effect: TypeEffect) {
        match effect {
            TypeEffect::ToUndo(progress) => self.undo.push(self, mfn, progress),
            TypeEffect::Untyped => {
                self.put(mfn);
            }
            _ => {}
        }
    }

    /// As `page_type::undo::drain`, of tables whose entries are empty; how many were undone, and how many of their entries
    /// held references.
    pub fn drain(&self) -> (u32, u32) {
        let mut undone = (0, 0);
        while !self.undo.is_empty() {
            let Some(table) = self.undo.pop(self) else {
                loom::thread::yield_now();
                continue;
            };
            self.use_alone(table.mfn);
            let event = TypeEvent::Undone(self.now());
            let effect = self.type_event(table.mfn, event);
            self.settle(table.mfn, effect.expect("it was in our hands"));
            self.undo.note_undone();
            undone = (undone.0 + 1, undone.1 + u32::from(table.progress));
        }
        undone
    }

    /// One table out of the queue and in again, with so many entries left, as when the budget is spent.
    pub fn drain_partly(&self, left: u16) -> bool {
        let table = self.undo.pop(self);
        let has_one = table.is_some();
        if let Some(table) = table {
            self.use_alone(table.mfn);
            let table = ToUndo {
                progress: left,
                ..table
            };
            self.undo.put_back(self, table);
        }
        has_one
    }

    /// The frame of this number.
    pub fn mfn(index: u32) -> Mfn {
        FrameIndex::new(u64::from(index)).map_or(Mfn::new(0), FrameIndex::mfn)
    }
}
