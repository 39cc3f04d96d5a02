//! Who has which frame of the machine's memory, and what it is used as.
//!
//! `table`: a record per frame. `word`: how a frame changes hands. `type_word`: how it changes its use. `allocator`: the free
//! ones. `owners`: those of each domain. `handle`: frames that are held and belong to nobody; `clean`: those that a domain may
//! get; `taken`: those that a domain may get back. `kept`: those that the hypervisor finds by numbers. `refs`: references to a
//! domain's frames. `twins`: frames of ours that are copies of roots. What types mean is the room `page_type`'s.
//!
//! A frame is free, held by an [`OwnedFrames`] or the hypervisor itself, or a domain's. Each way between those consumes
//! the proof of the state before: no frame is ever in two hands, and none gets lost, because handles give back what
//! they hold when they are dropped.
//!
//! INVARIANT: frames that the hypervisor uses for itself are never owned by a domain.
//! INVARIANT (I5): a frame is free only when nobody has a reference to it, hence without a type. It keeps the time since when
//! no entry leads to it, and before anybody gets it every CPU that has not flushed since then does.
//! LOCK: the free lists have rank `Frames`, the lists of each domain `Owners`; records of frames that are not free change
//! by compare-exchange.

mod allocator;
mod clean;
mod handle;
mod kept;
mod owners;
mod refs;
mod table;
mod taken;
mod twins;
pub(crate) mod type_word;
pub(crate) mod undo;
mod word;

use dom0_abi::addr::{Mfn, PAGE_SIZE};
use dom0_abi::errno::Errno;
use dom0_abi::ids::DomId;
use oxen_arch::boot::MfnRange;
use oxen_arch::memory::{BootSlice, FrameBox, PhysMem};
use oxen_arch::sync::{Rank, SpinLock};
use oxen_arch::tlb::TlbStamp;
use oxen_arch::{Cpu, Machine};

use allocator::FreeLists;
pub use allocator::{MAX_ORDER, MIN_ADDRESS_BITS};
pub use clean::{CleanFrames, HeldFrames, RESERVE};
pub use handle::OwnedFrames;
pub use owners::Charge;
use owners::{Owners, Paid};
pub use refs::FrameRef;
use table::Table;
pub use table::{FrameIndex, FrameRecord};
pub use taken::TakenFrames;
pub use type_word::TypeState;
use type_word::{TypeEffect, TypeEvent, TypeRefused, TypeWord};
pub use undo::UndoQueue;
pub(crate) use undo::{Unpaid, Work};
pub(crate) use word::Kind;
use word::{Effect, Event};

/// Where frames may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Anywhere, high memory first.
    Anywhere,
    /// Where addresses have at most so many bits. With fewer than [`MIN_ADDRESS_BITS`] there is no such frame.
    AddressBits(u8),
}

impl Placement {
    fn address_bits(self) -> u8 {
        match self {
            Self::Anywhere => u8::MAX,
            Self::AddressBits(bits) => bits,
        }
    }
}

/// Whether frames are zeroed before a domain gets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scrub {
    /// They are. Frames that may have held anybody's data leave the hypervisor only so.
    Zero,
    /// They stay as they are: the hypervisor has filled them for this domain, or builds dom0, before which nobody had
    /// secrets in them.
    Keep,
}

/// How much memory there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Frames that were ever free: all RAM but what boot kept.
    pub total: u64,
    /// Frames that are free.
    pub free: u64,
}

/// All frames of the machine.
pub struct Frames {
    records: BootSlice<FrameRecord>,
    owners: Owners,
    lists: SpinLock<Lists>,
}

struct Lists {
    free: FreeLists,
    total: u64,
}

impl Lists {
    /// Whether so many frames are free beside the [`RESERVE`].
    fn can_spare(&self, nr_frames: u64) -> bool {
        self.free.nr_free() >= nr_frames.saturating_add(RESERVE)
    }
}

/// The frames in the hands of a CPU: what every change of them needs to know.
#[derive(Clone, Copy)]
pub struct Memory<'m> {
    /// All frames.
    pub frames: &'m Frames,
    /// The machine that they are in.
    pub machine: &'m Machine,
    /// The CPU that makes the change.
    pub cpu: &'m Cpu,
    /// Where page tables go that have lost their last reference.
    pub undo: &'m UndoQueue,
}

impl Frames {
    /// Makes the frame table and takes all frames that boot left over. `None`: the table does not fit into memory.
    pub fn new(machine: &Machine) -> Option<Self> {
        let count = machine.max_mfn().get().min(table::MAX_RECORDS);
        let records = machine.zeroed_boot_slice(usize::try_from(count).ok()?)?;
        let frames = Self {
            records,
            owners: Owners::new(machine)?,
            lists: SpinLock::new(
                Rank::Frames,
                Lists {
                    free: FreeLists::EMPTY,
                    total: 0,
                },
            ),
        };
        for range in machine.take_free_ranges() {
            drop(frames.adopt(range));
        }
        Some(frames)
    }

    /// Takes over frames that were never free: what a boot module lay in. The caller has them to itself.
    pub fn adopt(&self, range: MfnRange) -> OwnedFrames<'_> {
        let end = Mfn::new(range.end.get().min(self.table().end()));
        let range = MfnRange::new(range.start, end);
        let mut lists = self.lists.lock();
        lists.total = lists.total.saturating_add(range.len());
        drop(lists);
        OwnedFrames::new(self, range)
    }

    /// The domain that has the frame; a domain that has given it back has it no more.
    pub fn owner(&self, mfn: Mfn) -> Option<DomId> {
        match self.table().of(mfn)?.word().kind() {
            Kind::Owned {
                owner,
                is_allocated: true,
                ..
            } => Some(owner),
            _ => None,
        }
    }

    /// Whether the domain has the frame.
    #[inline]
    pub fn is_of(&self, mfn: Mfn, owner: DomId) -> bool {
        self.table()
            .of(mfn)
            .is_some_and(|record| record.word().is_of(owner))
    }

    /// Whether the frame could be taken from a domain for good: nobody refers to it.
    pub(crate) fn can_be_taken(&self, mfn: Mfn, from: DomId) -> bool {
        let kind = self.table().of(mfn).map(|record| record.word().kind());
        matches!(kind, Some(Kind::Owned { owner, is_allocated: true, count: 1 }) if owner == from)
    }

    /// How many references there are to a frame of a domain, that of its being allocated included; 0 for others.
    pub fn reference_count(&self, mfn: Mfn) -> u32 {
        match self.table().of(mfn).map(|record| record.word().kind()) {
            Some(Kind::Owned { count, .. }) => count,
            _ => 0,
        }
    }

    /// What the frame is used as. That of a frame to which the caller has no reference may change at any moment.
    pub fn type_state(&self, mfn: Mfn) -> Option<TypeState> {
        Some(self.table().of(mfn)?.type_word().state())
    }

    /// How many frames a domain is charged for: those that it has, with those that it gave back and that somebody still refers to,
    /// and those that it is about to get.
    pub fn count_of(&self, owner: DomId) -> u64 {
        self.owners.count(owner)
    }

    /// Visits the frames that [`Self::count_of`] counts. The domain must stand still.
    pub fn visit_of(&self, owner: DomId, visit: impl FnMut(Mfn)) {
        self.owners.walk(self.table(), owner, visit);
    }

    /// One more than the highest frame that there is a record of.
    pub fn end(&self) -> Mfn {
        Mfn::new(self.table().end())
    }

    /// What a frame is, and is used as: for those who compare it with what they find (`audit`).
    pub(crate) fn words(&self, mfn: Mfn) -> Option<(Kind, TypeState)> {
        let record = self.table().of(mfn)?;
        Some((record.word().kind(), record.type_word().state()))
    }

    /// Visits the free blocks: the first frame of each, and its order.
    pub(crate) fn visit_free(&self, visit: impl FnMut(Mfn, u8)) {
        self.lists.lock().free.visit(self.table(), visit);
    }

    /// The next frame that the end of the domain has not come to. It comes once.
    pub(crate) fn next_to_release(&self, owner: DomId) -> Option<Mfn> {
        self.owners.next_held(self.table(), owner)
    }

    /// Whether so many frames are free beside the [`RESERVE`].
    pub(crate) fn can_spare(&self, nr_frames: u64) -> bool {
        self.lists.lock().can_spare(nr_frames)
    }

    /// How much memory there is, and how much of it is free.
    pub fn statistics(&self) -> Statistics {
        let lists = self.lists.lock();
        Statistics {
            total: lists.total,
            free: lists.free.nr_free(),
        }
    }

    /// The record of a frame.
    #[inline]
    pub(crate) fn record(&self, mfn: Mfn) -> Option<&FrameRecord> {
        self.table().of(mfn)
    }

    /// Applies an event that leaves the frame with an owner.
    fn event(&self, mfn: Mfn, event: Event) -> Result<Effect, Errno> {
        let record = self.table().of(mfn).ok_or(Errno::EINVAL)?;
        Ok(record.apply(event)?)
    }

    /// Applies an event to the type of a frame that the table has.
    #[inline]
    pub(crate) fn type_event(&self, mfn: Mfn, event: TypeEvent) -> Result<TypeEffect, TypeRefused> {
        let record = self.table().of(mfn).ok_or(TypeRefused::NotSo)?;
        record.apply_type(event)
    }

    /// Frees frames, of which the first `clean` are zeroed and forgotten.
    fn put(&self, range: MfnRange, clean: u64) {
        self.lists.lock().free.put(self.table(), range, clean);
    }

    fn table(&self) -> Table<'_> {
        Table(&self.records)
    }
}

impl<'m> Memory<'m> {
    /// The machine's memory.
    pub fn mem(&self) -> &'m PhysMem {
        self.machine.mem()
    }

    /// Allocates 2^`order` frames, aligned to their number. `ENOMEM`: there is no such block, or the order is above
    /// [`MAX_ORDER`]. The frames hold whatever their last owner left, but nobody has a way to them, on no CPU.
    pub fn alloc(&self, order: u8, placement: Placement) -> Result<OwnedFrames<'m>, Errno> {
        if order > MAX_ORDER {
            return Err(Errno::ENOMEM);
        }
        let frames = self.frames;
        let (index, _) = frames
            .lists
            .lock()
            .free
            .take(frames.table(), order, placement.address_bits())
            .ok_or(Errno::ENOMEM)?;
        let range = MfnRange::of(index.mfn(), 1 << order).ok_or(Errno::ENOMEM)?;
        self.forget_uses(range);
        Ok(OwnedFrames::new(frames, range))
    }

    /// Makes sure that nothing is left of how frames were used before: translations, lines in caches.
    fn forget_uses(&self, range: MfnRange) {
        let mut latest = TlbStamp::NEVER;
        for mfn in range.iter() {
            let Some(record) = self.frames.table().of(mfn) else {
                continue;
            };
            let word = record.type_word();
            if word == TypeWord::NEVER_USED {
                continue;
            }
            if let TypeState::None { stamp, .. } = word.state() {
                latest = latest.max(stamp);
            }
            if word.is_incoherent() {
                // A frame that was free is RAM.
                let _ = self.mem().flush_cache(mfn);
            }
            record.set_type_word(TypeWord::NEVER_USED);
        }
        if latest != TlbStamp::NEVER {
            let others = self.machine.flush_stale(self.cpu, latest);
            self.undo.note(Work::Shootdown(others));
        }
    }

    /// Allocates `nr_frames` frames in a row: a block of the next order, of which the tail goes back. Fails as
    /// [`Memory::alloc`]; `EINVAL` for no frame.
    pub fn alloc_contiguous(
        &self,
        nr_frames: u64,
        placement: Placement,
    ) -> Result<OwnedFrames<'m>, Errno> {
        if nr_frames == 0 {
            return Err(Errno::EINVAL);
        }
        let order = nr_frames
            .checked_next_power_of_two()
            .ok_or(Errno::ENOMEM)?
            .ilog2();
        let block = self.alloc(u8::try_from(order).map_err(|_| Errno::ENOMEM)?, placement)?;
        let (wanted, _tail) = block.split(nr_frames);
        Ok(wanted)
    }

    /// Gives frames to a domain: each gets an owner and one reference, that of its being allocated. Takes time with the
    /// number of frames. `EIO`: a frame cannot be zeroed; `EINVAL`: no domain has that number; then the frames are free and
    /// the domain has none of them.
    pub fn assign(
        &self,
        frames: OwnedFrames<'_>,
        owner: DomId,
        scrub: Scrub,
    ) -> Result<MfnRange, Errno> {
        if !self.frames.owners.can_own(owner) {
            return Err(Errno::EINVAL);
        }
        if scrub == Scrub::Zero {
            for mfn in frames.range().iter() {
                self.mem().zero_frame(mfn).map_err(|_| Errno::EIO)?;
            }
        }
        let range = frames.into_range();
        let table = self.frames.table();
        self.frames.owners.own(table, owner, range, Paid::Now);
        Ok(range)
    }

    /// Takes a frame from a domain that gives it back. It is free, and has no pfn any more, as soon as nobody has a reference
    /// to it. `EINVAL`: it is not the domain's, or was given back before.
    pub fn release_domain_frame(&self, mfn: Mfn, owner: DomId) -> Result<(), Errno> {
        self.apply(mfn, Event::GiveBack(owner))
    }

    /// Takes a reference to a frame of a domain. `EINVAL`: it is not the domain's. `EBUSY`: there are too many.
    pub fn acquire(&self, mfn: Mfn, owner: DomId) -> Result<FrameRef<'m>, Errno> {
        FrameRef::acquire(*self, mfn, owner)
    }

    /// Moves an object into frames of its own. The value comes back if there are none.
    pub fn place<T>(&self, value: T) -> Result<FrameBox<T>, T> {
        let nr_frames = size_of::<T>().div_ceil(PAGE_SIZE).max(1);
        match self.alloc_contiguous(nr_frames as u64, Placement::Anywhere) {
            Ok(frames) => {
                let object = FrameBox::new(self.mem(), frames.range(), value)?;
                frames.into_range();
                Ok(object)
            }
            Err(_) => Err(value),
        }
    }

    /// Ends an object and gives its frames back, zeroed.
    pub fn unplace<T>(&self, object: FrameBox<T>) {
        self.frames.put(object.into_frames(), 0);
    }

    /// Applies an event to a frame's record, and frees the frame if that was the last hand it was in.
    fn apply(&self, mfn: Mfn, event: Event) -> Result<(), Errno> {
        let record = self.frames.table().of(mfn).ok_or(Errno::EINVAL)?;
        let owner = match record.word().kind() {
            Kind::Owned { owner, .. } => owner,
            _ => return Err(Errno::EINVAL),
        };
        if record.apply(event)? == Effect::Free {
            let index = FrameIndex::new(mfn.get()).ok_or(Errno::EINVAL)?;
            self.frames.owners.remove(self.frames.table(), owner, index);
            self.leave(mfn);
            self.machine.m2p().set(mfn, None);
            self.frames.put(MfnRange::one(mfn), 0);
            self.undo.note(Work::Freed);
        }
        Ok(())
    }

    /// Remembers that the last entry that led to the frame is gone as of now, and what it was used as last: it may become the
    /// same domain's again without passing through the free lists.
    fn leave(&self, mfn: Mfn) {
        if let Some(record) = self.frames.table().of(mfn) {
            let old = record.type_word();
            let was = match old.state() {
                TypeState::None { was, .. } => was,
                _ => None,
            };
            let stamp = self.machine.tlb_stamp();
            record.set_type_word(old.with(TypeState::None { was, stamp }));
        }
    }
}

#[cfg(test)]
mod tests;
