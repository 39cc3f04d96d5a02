//! Who has which frame of the machine's memory.
//!
//! `table`: a record per frame. `word`: how a frame changes hands. `allocator`: the free ones. `handle`: frames that are
//! held and belong to nobody. `refs`: references to a domain's frames.
//!
//! A frame is free, held by an [`OwnedFrames`] or the hypervisor itself, or a domain's. Each way between those consumes
//! the proof of the state before: no frame is ever in two hands, and none gets lost, because handles give back what
//! they hold when they are dropped.
//!
//! INVARIANT: frames that the hypervisor uses for itself are never owned by a domain.
//! LOCK: the free lists have rank `Frames`; records of frames that are not free change by compare-exchange.

mod allocator;
mod handle;
mod refs;
mod table;
mod word;

use dom0_abi::addr::{Mfn, PAGE_SIZE};
use dom0_abi::errno::Errno;
use dom0_abi::ids::DomId;
use oxen_arch::Machine;
use oxen_arch::boot::MfnRange;
use oxen_arch::memory::{BootSlice, FrameBox, PhysMem};
use oxen_arch::sync::{Rank, SpinLock};

use allocator::FreeLists;
pub use allocator::{MAX_ORDER, MIN_ADDRESS_BITS};
pub use handle::OwnedFrames;
pub use refs::FrameRef;
pub use table::FrameRecord;
use table::Table;
use word::{Effect, Event, Kind};

/// Where frames may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Anywhere, high memory first.
    Anywhere,
    /// Where addresses have at most so many bits. With fewer than [`MIN_ADDRESS_BITS`] there is no such frame.
    AddressBits(u8),
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
    lists: SpinLock<Lists>,
}

struct Lists {
    free: FreeLists,
    total: u64,
}

impl Frames {
    /// Makes the frame table and takes all frames that boot left over. `None`: the table does not fit into memory.
    pub fn new(machine: &Machine) -> Option<Self> {
        let records = machine.zeroed_boot_slice(usize::try_from(machine.max_mfn().get()).ok()?)?;
        let frames = Self {
            records,
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

    /// Allocates 2^`order` frames, aligned to their number. `ENOMEM`: there is no such block, or the order is above
    /// [`MAX_ORDER`]. The frames hold whatever their last owner left.
    pub fn alloc(&self, order: u8, placement: Placement) -> Result<OwnedFrames<'_>, Errno> {
        if order > MAX_ORDER {
            return Err(Errno::ENOMEM);
        }
        let address_bits = match placement {
            Placement::Anywhere => u8::MAX,
            Placement::AddressBits(bits) => bits,
        };
        let index = self
            .lists
            .lock()
            .free
            .take(self.table(), order, address_bits)
            .ok_or(Errno::ENOMEM)?;
        let range = MfnRange::of(index.mfn(), 1 << order).ok_or(Errno::ENOMEM)?;
        Ok(OwnedFrames::new(self, range))
    }

    /// Allocates `nr_frames` frames in a row: a block of the next order, of which the tail goes back. Fails as
    /// [`Frames::alloc`]; `EINVAL` for no frame.
    pub fn alloc_contiguous(
        &self,
        nr_frames: u64,
        placement: Placement,
    ) -> Result<OwnedFrames<'_>, Errno> {
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
    /// number of frames. `EIO`: a frame cannot be zeroed; then the frames are free and the domain has none of them.
    pub fn assign(
        &self,
        frames: OwnedFrames<'_>,
        owner: DomId,
        scrub: Scrub,
        mem: &PhysMem,
    ) -> Result<MfnRange, Errno> {
        if scrub == Scrub::Zero {
            for mfn in frames.range().iter() {
                mem.zero_frame(mfn).map_err(|_| Errno::EIO)?;
            }
        }
        let range = frames.into_range();
        for mfn in range.iter() {
            let assigned = self
                .table()
                .of(mfn)
                .map(|record| record.apply(Event::Assign(owner)));
            debug_assert_eq!(
                assigned,
                Some(Ok(Effect::None)),
                "{mfn} was held and not private"
            );
        }
        Ok(range)
    }

    /// Takes a frame from a domain that gives it back. It is free as soon as nobody has a reference to it. `EINVAL`: it
    /// is not the domain's, or was given back before.
    pub fn release_domain_frame(&self, mfn: Mfn, owner: DomId) -> Result<(), Errno> {
        self.apply(mfn, Event::GiveBack(owner))
    }

    /// Takes a reference to a frame of a domain. `EINVAL`: it is not the domain's. `EBUSY`: there are too many.
    pub fn acquire(&self, mfn: Mfn, owner: DomId) -> Result<FrameRef<'_>, Errno> {
        FrameRef::acquire(self, mfn, owner)
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

    /// How many references there are to a frame of a domain, that of its being allocated included; 0 for others.
    pub fn reference_count(&self, mfn: Mfn) -> u32 {
        match self.table().of(mfn).map(|record| record.word().kind()) {
            Some(Kind::Owned { count, .. }) => count,
            _ => 0,
        }
    }

    /// How much memory there is, and how much of it is free.
    pub fn statistics(&self) -> Statistics {
        let lists = self.lists.lock();
        Statistics {
            total: lists.total,
            free: lists.free.nr_free(),
        }
    }

    /// Moves an object into frames of its own. The value comes back if there are none.
    pub fn place<T>(&self, mem: &PhysMem, value: T) -> Result<FrameBox<T>, T> {
        let nr_frames = size_of::<T>().div_ceil(PAGE_SIZE).max(1);
        match self.alloc_contiguous(nr_frames as u64, Placement::Anywhere) {
            Ok(frames) => {
                let object = FrameBox::new(mem, frames.range(), value)?;
                frames.into_range();
                Ok(object)
            }
            Err(_) => Err(value),
        }
    }

    /// Ends an object and gives its frames back, zeroed.
    pub fn unplace<T>(&self, object: FrameBox<T>) {
        self.put(object.into_frames());
    }

    /// Applies an event to a frame's record, and frees the frame if that was the last hand it was in.
    fn apply(&self, mfn: Mfn, event: Event) -> Result<(), Errno> {
        let record = self.table().of(mfn).ok_or(Errno::EINVAL)?;
        if record.apply(event)? == Effect::Free {
            self.put(MfnRange::new(mfn, Mfn::new(mfn.get().saturating_add(1))));
        }
        Ok(())
    }

    fn put(&self, range: MfnRange) {
        self.lists.lock().free.put(self.table(), range);
    }

    fn table(&self) -> Table<'_> {
        Table(&self.records)
    }
}

#[cfg(test)]
mod tests;
