//! The frame table: one record for each frame of RAM, and for the holes between.
//!
//! A record of zeroes is that of a private frame, so that boot makes the table by zeroing it.

use dom0_abi::addr::Mfn;
use dom0_abi::ids::DomId;
use oxen_arch::sync::atomic::{AtomicU64, Ordering};
use zerocopy::FromZeros;

use super::type_word::{PageType, TypeEffect, TypeEvent, TypeRefused, TypeWord};
use super::word::{Effect, Event, Kind, OwnerWord, Refused};

/// What is kept of one frame.
#[derive(FromZeros)]
#[repr(C)]
pub struct FrameRecord {
    /// An [`OwnerWord`].
    owner: AtomicU64,
    /// A [`TypeWord`].
    ty: AtomicU64,
    /// [`Links`]: of a block among the free ones, under the allocator's lock; of a domain's frame among its others, under
    /// the lock of that list.
    links: AtomicU64,
}

const _: () = assert!(size_of::<FrameRecord>() == 24);

/// The neighbours of a frame in its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Links {
    /// The one before this.
    pub(crate) previous: Option<FrameIndex>,
    /// The one behind this.
    pub(crate) next: Option<FrameIndex>,
}

/// The number of a frame that fits the table: `u32::MAX` never occurs, it means "none" in links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FrameIndex(u32);

const NO_INDEX: u32 = u32::MAX;

/// How many records there can be: each has an index.
pub(super) const MAX_RECORDS: u64 = NO_INDEX as u64;

impl FrameIndex {
    /// The index of a frame; `None` if no table is that long.
    pub(crate) fn new(mfn: u64) -> Option<Self> {
        u32::try_from(mfn)
            .ok()
            .filter(|&index| index != NO_INDEX)
            .map(Self)
    }

    /// The index as a number.
    pub(crate) const fn get(self) -> u32 {
        self.0
    }

    /// The frame.
    pub(crate) const fn mfn(self) -> Mfn {
        Mfn::new(self.0 as u64)
    }

    /// Packs an index that may be missing.
    pub(crate) const fn pack(index: Option<Self>) -> u32 {
        match index {
            Some(index) => index.0,
            None => NO_INDEX,
        }
    }

    /// Unpacks what [`Self::pack`] made.
    pub(crate) const fn unpack(value: u32) -> Option<Self> {
        if value == NO_INDEX {
            None
        } else {
            Some(Self(value))
        }
    }
}

impl FrameRecord {
    /// What the frame is now.
    pub(crate) fn word(&self) -> OwnerWord {
        // ORDERING: pairs with the changes below: who sees a frame's new state sees what was done before it.
        OwnerWord::from_bits(self.owner.load(Ordering::Acquire))
    }

    /// Makes the frame head a free block, or private. The caller holds the frame alone.
    pub(crate) fn set(&self, kind: Kind) {
        // ORDERING: pairs with `word`.
        self.owner
            .store(OwnerWord::new(kind).bits(), Ordering::Release);
    }

    /// Takes a reference if the frame is the domain's. Fails as [`Event::Acquire`].
    #[inline]
    pub(crate) fn acquire(&self, owner: DomId) -> Result<(), Refused> {
        if self.acquire_at_once(owner) {
            return Ok(());
        }
        self.apply(Event::Acquire(owner)).map(|_| ())
    }

    /// The same without trying hard. `false`: it cannot be, or the word was just changed by another CPU; nothing has changed.
    #[inline(always)]
    pub(crate) fn acquire_at_once(&self, owner: DomId) -> bool {
        let word = self.word();
        let new = word.acquired(owner);
        new.is_some_and(|new| self.exchange_word(word, new))
    }

    /// Changes the owner word from one to another that was made of it. `false`: another CPU has just changed it.
    #[inline(always)]
    pub(crate) fn exchange_word(&self, word: OwnerWord, new: OwnerWord) -> bool {
        exchange(&self.owner, word.bits(), new.bits())
    }

    /// Ends a reference if it is not the last one. `false`: it may be, and nothing has changed.
    #[inline]
    pub(crate) fn release_one_of_many(&self) -> bool {
        let word = self.word();
        let new = word.released();
        new.is_some_and(|new| exchange(&self.owner, word.bits(), new.bits()))
    }

    /// Applies an event, against whatever other CPUs do meanwhile.
    #[inline(never)]
    pub(crate) fn apply(&self, event: Event) -> Result<Effect, Refused> {
        update(&self.owner, |bits| {
            let (new, effect) = OwnerWord::from_bits(bits).after(event)?;
            Ok((new.bits(), effect))
        })
    }

    /// What the frame is used as now.
    pub(crate) fn type_word(&self) -> TypeWord {
        // ORDERING: as `word`.
        TypeWord::from_bits(self.ty.load(Ordering::Acquire))
    }

    /// Makes the type word this. The caller holds the frame alone.
    pub(crate) fn set_type_word(&self, word: TypeWord) {
        self.ty.store(word.bits(), Ordering::Release);
    }

    /// Says that the frame is mapped with a cache mode that is not coherent with ours. The caller has a reference.
    pub(crate) fn mark_incoherent(&self) {
        let bit = TypeWord::from_bits(0).incoherent().bits();
        self.ty.fetch_or(bit, Ordering::AcqRel);
    }

    /// Refers to the type, if the frame has it. Fails as [`TypeEvent::Share`].
    #[inline]
    pub(crate) fn share_type(&self, ty: PageType) -> Result<(), TypeRefused> {
        if self.share_type_at_once(ty).is_some() {
            return Ok(());
        }
        self.apply_type(TypeEvent::Share(ty)).map(|_| ())
    }

    /// The same without trying hard: returns the word before and after. `None`: it cannot be, or the word was just changed by another
    /// CPU; nothing has changed.
    #[inline]
    pub(crate) fn share_type_at_once(&self, ty: PageType) -> Option<(TypeWord, TypeWord)> {
        let word = self.type_word();
        let new = word.shared(ty)?;
        self.exchange_type(word, new).then_some((word, new))
    }

    /// Changes the type word from one to another that was made of it. `false`: another CPU has just changed it.
    #[inline(always)]
    pub(crate) fn exchange_type(&self, word: TypeWord, new: TypeWord) -> bool {
        exchange(&self.ty, word.bits(), new.bits())
    }

    /// Applies an event to the type, against whatever other CPUs do meanwhile.
    #[inline(never)]
    pub(crate) fn apply_type(&self, event: TypeEvent) -> Result<TypeEffect, TypeRefused> {
        update(&self.ty, |bits| {
            let (new, effect) = TypeWord::from_bits(bits).after(event)?;
            Ok((new.bits(), effect))
        })
    }

    /// The neighbours in the list.
    pub(crate) fn links(&self) -> Links {
        // ORDERING: the list's lock orders all accesses to links.
        let packed = self.links.load(Ordering::Relaxed);
        Links {
            previous: FrameIndex::unpack((packed >> 32) as u32),
            next: FrameIndex::unpack(packed as u32),
        }
    }

    /// Changes the neighbours.
    pub(crate) fn set_links(&self, links: Links) {
        let packed = u64::from(FrameIndex::pack(links.previous)) << 32
            | u64::from(FrameIndex::pack(links.next));
        self.links.store(packed, Ordering::Relaxed);
    }
}

/// Replaces a word if it still is `old`.
#[inline]
fn exchange(word: &AtomicU64, old: u64, new: u64) -> bool {
    // ORDERING: as `update`.
    let exchanged = word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire);
    exchanged.is_ok()
}

/// Changes a word to what `after` makes of it, against whatever other CPUs do meanwhile.
#[inline]
fn update<E, R>(word: &AtomicU64, after: impl Fn(u64) -> Result<(u64, E), R>) -> Result<E, R> {
    // ORDERING: Release pairs with the Acquire of who frees the frame, so that all uses happen before, and lets who gets the
    // type next see what was done under the last.
    let mut bits = word.load(Ordering::Acquire);
    loop {
        let (new, effect) = after(bits)?;
        match word.compare_exchange_weak(bits, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Ok(effect),
            Err(now) => bits = now,
        }
    }
}

/// The records, for those who look frames up: no more than there are indexes.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a>(pub(super) &'a [FrameRecord]);

impl<'a> Table<'a> {
    /// The record of a frame.
    pub(crate) fn get(self, index: FrameIndex) -> Option<&'a FrameRecord> {
        #[cfg(test)]
        super::allocator::tests::count_access();
        self.0.get(usize::try_from(index.get()).ok()?)
    }

    /// The record of a frame by its number.
    #[inline]
    pub(crate) fn of(self, mfn: Mfn) -> Option<&'a FrameRecord> {
        #[cfg(test)]
        super::allocator::tests::count_access();
        self.0.get(usize::try_from(mfn.get()).ok()?)
    }

    /// Puts a frame that is in no list at the head of one.
    #[inline]
    pub(crate) fn push(self, head: &mut Option<FrameIndex>, index: FrameIndex) {
        let next = head.replace(index);
        if let Some(record) = self.get(index) {
            record.set_links(Links {
                previous: None,
                next,
            });
        }
        self.set_previous(next, Some(index));
    }

    /// Takes a frame out of the list that has this head.
    #[inline]
    pub(crate) fn unlink(self, head: &mut Option<FrameIndex>, index: FrameIndex) {
        let Some(record) = self.get(index) else {
            return;
        };
        let Links { previous, next } = record.links();
        match previous.and_then(|previous| self.get(previous)) {
            Some(record) => record.set_links(Links {
                next,
                ..record.links()
            }),
            None => *head = next,
        }
        self.set_previous(next, previous);
    }

    /// Says what comes before a frame in its list; nothing happens without a frame.
    #[inline]
    pub(crate) fn set_previous(self, of: Option<FrameIndex>, previous: Option<FrameIndex>) {
        if let Some(record) = of.and_then(|of| self.get(of)) {
            record.set_links(Links {
                previous,
                ..record.links()
            });
        }
    }

    /// One more than the highest frame with a record and an index.
    pub(crate) fn end(self) -> u64 {
        u64::try_from(self.0.len())
            .unwrap_or(u64::MAX)
            .min(u64::from(NO_INDEX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_unpacked_as_they_were_packed() {
        let record = FrameRecord::new_zeroed();
        let some = FrameIndex::new;
        for links in [
            Links {
                previous: None,
                next: None,
            },
            Links {
                previous: some(0),
                next: None,
            },
            Links {
                previous: None,
                next: some(0),
            },
            Links {
                previous: some(u64::from(u32::MAX) - 1),
                next: some(7),
            },
        ] {
            record.set_links(links);
            assert_eq!(record.links(), links);
        }
        assert_eq!(FrameIndex::new(u64::from(u32::MAX)), None);
        assert_eq!(FrameIndex::new(1 << 32), None);
    }

    #[test]
    fn zeroes_are_a_private_frame() {
        assert_eq!(FrameRecord::new_zeroed().word(), OwnerWord::PRIVATE);
    }
}
