//! The model machine's memory as the hypervisor sees it: every access asks the frame's bit first.
//!
//! INVARIANT: a frame that an object of the hypervisor lives in has no bit set; the object gives it back zeroed. The
//! object itself is kept beside the frames, so nothing here could be unsound; what counts is that the refusals are the
//! same as on the machine.

use core::fmt;
use core::ops::{Deref, DerefMut};
use std::boxed::Box;
use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::vec;
use std::vec::Vec;

use dom0_abi::addr::{Maddr, Mfn, PAGE_SIZE, Pfn};
use dom0_abi::arch::INVALID_M2P_ENTRY;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::frames::{Frames, GARBAGE, update};
use crate::boot::MfnRange;
pub use crate::frame_bits::BadFrame;
pub use crate::line::Line;
use crate::line::{LINE, WORDS};
pub use crate::mem_word::MemWord;
use crate::sync::atomic::{AtomicU64, Ordering};

const LINES: usize = WORDS / LINE;

/// The machine's memory, by frame. Every access checks that the frame is RAM and holds no object of the hypervisor. An
/// access never crosses the end of a frame. A refused access changes nothing.
pub struct PhysMem {
    frames: Arc<Frames>,
}

macro_rules! atomics {
    ($($load:ident $store:ident $type:ident;)*) => {$(
        /// Reads a naturally aligned number at once, sequentially consistent.
        pub fn $load(&self, at: Maddr) -> Result<$type, BadFrame> {
            let (word, shift) = self.aligned(at, size_of::<$type>())?;
            Ok((word.load(Ordering::SeqCst) >> shift) as $type)
        }

        /// Writes a naturally aligned number at once, sequentially consistent.
        pub fn $store(&self, at: Maddr, value: $type) -> Result<(), BadFrame> {
            let (word, shift) = self.aligned(at, size_of::<$type>())?;
            let mask = u64::from($type::MAX) << shift;
            update(word, Ordering::SeqCst, |old| old & !mask | u64::from(value) << shift);
            Ok(())
        }
    )*};
}

/// A frame of memory, for one operation that is made of a few accesses to its words.
#[derive(Clone, Copy)]
pub struct MemPage<'m> {
    mem: &'m PhysMem,
    mfn: Mfn,
}

impl<'m> MemPage<'m> {
    /// The word of this number, if a frame has so many.
    pub fn word(self, index: usize) -> Result<MemWord<'m>, BadFrame> {
        let offset = index.checked_mul(8).filter(|&offset| offset < PAGE_SIZE);
        self.mem.word(self.mfn.at(offset.ok_or(BadFrame)?))
    }
}

/// A place in RAM to look at often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot(Maddr);

/// A [`Spot`] that can be another one later.
#[derive(Debug)]
pub struct SpotCell(AtomicU64);

impl SpotCell {
    /// With this one in it.
    pub const fn new(spot: Spot) -> Self {
        Self(AtomicU64::new(spot.0.get()))
    }

    /// What is in it.
    #[inline(always)]
    pub fn get(&self) -> Spot {
        Spot(Maddr::new(self.0.load(Ordering::SeqCst)))
    }

    /// Puts another one into it.
    pub fn set(&self, spot: Spot) {
        self.0.store(spot.0.get(), Ordering::SeqCst);
    }
}

impl PhysMem {
    pub(super) fn new(frames: Arc<Frames>) -> Self {
        Self { frames }
    }

    /// Reads a value.
    pub fn read<T: FromBytes>(&self, at: Maddr) -> Result<T, BadFrame> {
        self.frames.bits.check(at, size_of::<T>())?;
        Ok(read_value(|into| self.frames.read(at, into)))
    }

    /// Writes a value.
    pub fn write<T: IntoBytes + Immutable>(&self, at: Maddr, value: &T) -> Result<(), BadFrame> {
        self.write_bytes(at, value.as_bytes())
    }

    /// Reads bytes.
    pub fn read_bytes(&self, at: Maddr, into: &mut [u8]) -> Result<(), BadFrame> {
        self.frames.bits.check(at, into.len())?;
        self.frames.read(at, into);
        Ok(())
    }

    /// Writes bytes.
    pub fn write_bytes(&self, at: Maddr, from: &[u8]) -> Result<(), BadFrame> {
        self.frames.bits.check(at, from.len())?;
        self.frames.write(at, from);
        Ok(())
    }

    /// Copies bytes from one frame, or one place of it, to another. A guest may write to both at the same time; where the two places
    /// have bytes in common, those are then any mix of old and new ones.
    pub fn copy_bytes(&self, from: Maddr, to: Maddr, len: usize) -> Result<(), BadFrame> {
        self.frames.bits.check(from, len)?;
        self.frames.bits.check(to, len)?;
        let mut bytes = [0; PAGE_SIZE];
        // One that was checked is not longer than a frame.
        let bytes = bytes.get_mut(..len).ok_or(BadFrame)?;
        self.read_bytes(from, bytes)?;
        self.write_bytes(to, bytes)
    }

    /// Makes a frame zeros.
    pub fn zero_frame(&self, mfn: Mfn) -> Result<(), BadFrame> {
        self.frames.bits.check(mfn.start(), PAGE_SIZE)?;
        self.frames.zero_frame(mfn);
        Ok(())
    }

    /// Copies a frame.
    pub fn copy_frame(&self, from: Mfn, to: Mfn) -> Result<(), BadFrame> {
        let mut bytes = [0; PAGE_SIZE];
        self.frames.bits.check(to.start(), PAGE_SIZE)?;
        self.read_bytes(from.start(), &mut bytes)?;
        self.write_bytes(to.start(), &bytes)
    }

    /// Rids all caches of a frame: what devices and uncached mappings see of it is what was written last.
    pub fn flush_cache(&self, mfn: Mfn) -> Result<(), BadFrame> {
        self.frames.bits.check(mfn.start(), PAGE_SIZE)?;
        let mut flushes = self.cache_flushes_of_all();
        let count = flushes.entry(mfn).or_default();
        *count = count.saturating_add(1);
        Ok(())
    }

    /// How often [`Self::flush_cache`] was asked for a frame. Only the model knows.
    pub fn cache_flushes(&self, mfn: Mfn) -> u64 {
        self.cache_flushes_of_all().get(&mfn).copied().unwrap_or(0)
    }

    fn cache_flushes_of_all(&self) -> MutexGuard<'_, BTreeMap<Mfn, u64>> {
        let flushes = self.frames.cache_flushes.lock();
        flushes.unwrap_or_else(PoisonError::into_inner)
    }

    atomics! {
        load_u8 store_u8 u8;
        load_u16 store_u16 u16;
        load_u32 store_u32 u32;
        load_u64 store_u64 u64;
    }

    /// A naturally aligned word that is looked at and changed, checked once for both.
    pub fn word(&self, at: Maddr) -> Result<MemWord<'_>, BadFrame> {
        self.aligned(at, 8).map(|(word, _)| MemWord(word))
    }

    /// A frame whose words are looked at and changed, checked once for all of them.
    pub fn page(&self, mfn: Mfn) -> Result<MemPage<'_>, BadFrame> {
        self.frames.bits.check(mfn.start(), PAGE_SIZE)?;
        Ok(MemPage { mem: self, mfn })
    }

    /// A place for two bytes, aligned, to look at often.
    pub fn spot(&self, at: Maddr) -> Result<Spot, BadFrame> {
        self.load_u16(at).map(|_| Spot(at))
    }

    /// Reads the two bytes that are there now. On the machine nobody asks whose the frame is by now; here what may not be looked at any more
    /// reads as garbage.
    pub fn look(&self, at: Spot) -> u32 {
        u32::from(self.load_u16(at.0).unwrap_or(GARBAGE as u16))
    }

    /// Peeks at an aligned word; 0 where there is no RAM. On the machine nobody asks whose the frame is; here what may not be looked at
    /// reads as garbage.
    pub fn peek_u64(&self, at: Maddr) -> u64 {
        match self.load_u64(at) {
            Ok(word) => word,
            Err(BadFrame) if self.frames.is_ram(at.mfn()) => GARBAGE,
            Err(BadFrame) => 0,
        }
    }

    /// Replaces an aligned word if it is `current`; `Ok` and `Err` of the inner result hold what was there.
    pub fn compare_exchange_u64(
        &self,
        at: Maddr,
        current: u64,
        new: u64,
    ) -> Result<Result<u64, u64>, BadFrame> {
        Ok(self.word(at)?.compare_exchange(current, new))
    }

    /// Sets bits of an aligned word; returns what was there.
    pub fn fetch_or_u64(&self, at: Maddr, value: u64) -> Result<u64, BadFrame> {
        Ok(self.aligned(at, 8)?.0.fetch_or(value, Ordering::SeqCst))
    }

    /// Keeps only the bits in `value` of an aligned word; returns what was there.
    pub fn fetch_and_u64(&self, at: Maddr, value: u64) -> Result<u64, BadFrame> {
        Ok(self.aligned(at, 8)?.0.fetch_and(value, Ordering::SeqCst))
    }

    /// Replaces an aligned word; returns what was there.
    pub fn swap_u64(&self, at: Maddr, value: u64) -> Result<u64, BadFrame> {
        Ok(self.aligned(at, 8)?.0.swap(value, Ordering::SeqCst))
    }

    /// Sets bits of half an aligned word; returns what was there.
    pub fn fetch_or_u32(&self, at: Maddr, value: u32) -> Result<u32, BadFrame> {
        let (word, shift) = self.aligned(at, 4)?;
        let old = word.fetch_or(u64::from(value) << shift, Ordering::SeqCst);
        Ok((old >> shift) as u32)
    }

    /// Keeps only the bits in `value` of half an aligned word; returns what was there.
    pub fn fetch_and_u32(&self, at: Maddr, value: u32) -> Result<u32, BadFrame> {
        let (word, shift) = self.aligned(at, 4)?;
        let old = word.fetch_and(!(u64::from(!value) << shift), Ordering::SeqCst);
        Ok((old >> shift) as u32)
    }

    /// Replaces half an aligned word if it is `current`; `Ok` and `Err` of the inner result hold what was there.
    pub fn compare_exchange_u32(
        &self,
        at: Maddr,
        current: u32,
        new: u32,
    ) -> Result<Result<u32, u32>, BadFrame> {
        let (word, shift) = self.aligned(at, 4)?;
        let half = |whole: u64| (whole >> shift) as u32;
        let exchanged = word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| {
            let others = old & !(u64::from(u32::MAX) << shift);
            (half(old) == current).then_some(others | u64::from(new) << shift)
        });
        Ok(exchanged.map(half).map_err(half))
    }

    /// The first word of a frame that is not 0, from word `from` on, and which it is.
    pub fn next_nonzero_word(
        &self,
        mfn: Mfn,
        from: usize,
    ) -> Result<Option<(usize, u64)>, BadFrame> {
        let found = self.line_where(mfn, from / LINE..LINES, |line| {
            line.word_from(from).is_some()
        });
        Ok(found?.and_then(|line| line.word_from(from)))
    }

    /// The first line of a frame in which a word is not 0, from the one of word `from` on.
    pub fn next_nonzero_line(&self, mfn: Mfn, from: usize) -> Result<Option<Line>, BadFrame> {
        self.line_where(mfn, from / LINE..LINES, |line| line.words != [0; LINE])
    }

    /// The last line of a frame in which a word is not 0, and that begins below word `below`.
    pub fn last_nonzero_line(&self, mfn: Mfn, below: usize) -> Result<Option<Line>, BadFrame> {
        let lines = (0..below.min(WORDS).div_ceil(LINE)).rev();
        self.line_where(mfn, lines, |line| line.words != [0; LINE])
    }

    fn line_where(
        &self,
        mfn: Mfn,
        mut lines: impl Iterator<Item = usize>,
        is_wanted: impl Fn(&Line) -> bool,
    ) -> Result<Option<Line>, BadFrame> {
        self.frames.bits.check(mfn.start(), PAGE_SIZE)?;
        let frame = self.frames.frame(mfn).ok_or(BadFrame)?;
        Ok(lines.find_map(|number| {
            let first = number * LINE;
            let words = frame.get(first..)?.first_chunk::<LINE>()?;
            let words = words.each_ref().map(|word| word.load(Ordering::SeqCst));
            Some(Line { first, words }).filter(&is_wanted)
        }))
    }

    /// The word that holds a number of `len` bytes, and how far to the left it lies there.
    fn aligned(&self, at: Maddr, len: usize) -> Result<(&AtomicU64, usize), BadFrame> {
        self.frames.bits.check_aligned(at, len)?;
        Ok((self.frames.word(at).ok_or(BadFrame)?, at.offset() % 8 * 8))
    }
}

impl fmt::Debug for PhysMem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PhysMem { .. }")
    }
}

/// Has `fill` write the bytes of a value.
pub(super) fn read_value<T: FromBytes>(fill: impl FnOnce(&mut [u8])) -> T {
    let (mut small, mut large);
    let bytes = if size_of::<T>() <= 64 {
        small = [0; 64];
        &mut small[..size_of::<T>()]
    } else {
        large = vec![0; size_of::<T>()];
        &mut large[..]
    };
    fill(bytes);
    T::read_from_bytes(bytes).unwrap_or_else(|_| unreachable!("the length is that of the type"))
}

/// Frames that are taken out of [`PhysMem`] until this is dropped; then they are zeroed and go back.
struct Taken {
    frames: Arc<Frames>,
    range: MfnRange,
}

impl Taken {
    fn new(mem: &PhysMem, range: MfnRange) -> Option<Self> {
        mem.frames.bits.take(range).then(|| Self {
            frames: mem.frames.clone(),
            range,
        })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.frames.zero(self.range);
        self.frames.bits.set(self.range);
    }
}

/// A hypervisor object that lives in whole frames. While it exists, [`PhysMem`] refuses those frames.
pub struct FrameBox<T> {
    value: Box<T>,
    taken: Taken,
}

impl<T> FrameBox<T> {
    /// Puts the value into the frames. Gives it back if there are too few of them, or one is not ordinary RAM; then
    /// nothing has changed.
    pub fn new(mem: &PhysMem, frames: MfnRange, value: T) -> Result<Self, T> {
        if frames.bytes() < size_of::<T>() as u64 || align_of::<T>() > PAGE_SIZE {
            return Err(value);
        }
        match Taken::new(mem, frames) {
            Some(taken) => Ok(Self {
                value: Box::new(value),
                taken,
            }),
            None => Err(value),
        }
    }

    /// Drops the value and gives the frames back, zeroed.
    pub fn into_frames(self) -> MfnRange {
        self.taken.range
    }
}

impl<T> Deref for FrameBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for FrameBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for FrameBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameBox")
            .field("frames", &self.taken.range)
            .field("value", &self.value)
            .finish()
    }
}

/// Frames as plain bytes of the hypervisor. While this exists, [`PhysMem`] refuses them. What they hold at first is not
/// specified.
pub struct FrameBuf {
    bytes: Vec<u8>,
    taken: Taken,
}

impl FrameBuf {
    /// Takes the frames; `None`, and nothing changed, if one is not ordinary RAM.
    pub fn new(mem: &PhysMem, frames: MfnRange) -> Option<Self> {
        let taken = Taken::new(mem, frames)?;
        Some(Self {
            bytes: vec![GARBAGE as u8; usize::try_from(frames.bytes()).ok()?],
            taken,
        })
    }

    /// Gives the frames back, zeroed.
    pub fn into_frames(self) -> MfnRange {
        self.taken.range
    }
}

impl Deref for FrameBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for FrameBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl fmt::Debug for FrameBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameBuf")
            .field("frames", &self.taken.range)
            .finish_non_exhaustive()
    }
}

/// A table that is made at boot and lives for ever.
#[derive(Debug)]
pub struct BootSlice<T>(Box<[T]>);

impl<T> BootSlice<T> {
    pub(super) fn new(values: Vec<T>) -> Self {
        Self(values.into_boxed_slice())
    }
}

impl<T> Deref for BootSlice<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

/// The machine-to-physical table: what each frame is called by the guest that has it. It lives in frames that guests may
/// map, but not writable.
pub struct M2p {
    frames: Arc<Frames>,
    len: u64,
}

impl M2p {
    /// How many frames a table for so many frames has.
    pub(super) fn frames_for(max_mfn: Mfn) -> u64 {
        max_mfn.get().div_ceil(PAGE_SIZE as u64 / 8)
    }

    /// Puts the table into frames that are taken and that nobody has used. Panics if they are too few.
    pub(super) fn new(frames: Arc<Frames>, range: MfnRange, max_mfn: Mfn) -> Self {
        assert!(range.len() >= Self::frames_for(max_mfn));
        frames.set_m2p(range);
        Self {
            frames,
            len: max_mfn.get(),
        }
    }

    /// Writes an entry. Frames behind the end of the table have none.
    pub fn set(&self, mfn: Mfn, pfn: Option<Pfn>) {
        if let Some(entry) = self.entry(mfn) {
            entry.store(pfn.map_or(INVALID_M2P_ENTRY, Pfn::get), Ordering::Relaxed);
        }
    }

    /// Reads an entry.
    pub fn get(&self, mfn: Mfn) -> Option<Pfn> {
        let value = self.entry(mfn)?.load(Ordering::Relaxed);
        (value != INVALID_M2P_ENTRY).then_some(Pfn::new(value))
    }

    fn entry(&self, mfn: Mfn) -> Option<&AtomicU64> {
        let start = self.frames.m2p().start.start().get();
        let at = (mfn.get() < self.len).then(|| Maddr::new(start + mfn.get() * 8))?;
        self.frames.word(at)
    }
}

impl fmt::Debug for M2p {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("M2p").field("len", &self.len).finish()
    }
}

/// What a loader put into memory: its frames are private until they are asked for.
pub struct ModuleMemory {
    bytes: Vec<u8>,
    taken: Taken,
}

impl ModuleMemory {
    /// `None` if the frames are too few or not ordinary RAM.
    pub(super) fn new(mem: &PhysMem, range: MfnRange, bytes: Vec<u8>) -> Option<Self> {
        let fits = bytes.len() as u64 <= range.bytes();
        Some(Self {
            bytes,
            taken: fits.then(|| Taken::new(mem, range)).flatten()?,
        })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn into_frames(self) -> MfnRange {
        let Self { bytes, taken } = self;
        let (frames, range) = (taken.frames.clone(), taken.range);
        drop(taken);
        for (mfn, part) in range.iter().zip(bytes.chunks(PAGE_SIZE)) {
            frames.write(mfn.start(), part);
        }
        range
    }
}
