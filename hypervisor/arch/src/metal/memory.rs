//! The machine's memory by frame, through the direct map.
//!
//! INVARIANT: a frame whose bit in `PhysMem::bits` is set holds nothing but bytes: no object of the hypervisor, no page
//! table of our half, no part of the image. Every access tests the bit, and a `FrameBox` or `FrameBuf` clears the bits of
//! its frames for as long as it lives. So nothing that `core` does with frame numbers can break memory safety.

use core::arch::asm;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use dom0_abi::addr::{Maddr, Mfn, PAGE_SIZE, Pfn};
use dom0_abi::arch::INVALID_M2P_ENTRY;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::fault::fixup;
use super::layout;
use crate::boot::MfnRange;
pub use crate::frame_bits::BadFrame;
use crate::frame_bits::FrameBits;
pub use crate::line::Line;
use crate::line::{LINE, WORDS};
pub use crate::mem_word::MemWord;
use crate::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// The machine's memory, by frame.
pub struct PhysMem {
    bits: FrameBits<BootSlice<AtomicU64>>,
}

/// Where the direct map shows a byte.
pub(super) fn direct(at: Maddr) -> *mut u8 {
    layout::DIRECT_MAP.wrapping_add(at.get()) as *mut u8
}

macro_rules! atomics {
    ($($load:ident $store:ident $atomic:ident $int:ident;)*) => {
        $(
            /// Loads a naturally aligned number.
            #[inline]
            pub fn $load(&self, at: Maddr) -> Result<$int, BadFrame> {
                Ok(self.atomic::<$atomic>(at)?.load(Ordering::SeqCst))
            }

            /// Stores a naturally aligned number.
            #[inline]
            pub fn $store(&self, at: Maddr, value: $int) -> Result<(), BadFrame> {
                self.atomic::<$atomic>(at)?.store(value, Ordering::SeqCst);
                Ok(())
            }
        )*
    };
}

/// Puts into `any` what is in any word of the line at `at`, and sets ZF if that is nothing.
macro_rules! any_of_line {
    () => {
        "mov {any}, [{at}]
         or {any}, [{at} + 8]
         or {any}, [{at} + 16]
         or {any}, [{at} + 24]
         or {any}, [{at} + 32]
         or {any}, [{at} + 40]
         or {any}, [{at} + 48]
         or {any}, [{at} + 56]"
    };
}

/// A frame of memory, for one operation that is made of a few accesses to its words: not to be kept, as a [`MemWord`].
#[derive(Clone, Copy)]
pub struct MemPage<'m>(&'m [AtomicU64; PAGE_SIZE / 8]);

impl<'m> MemPage<'m> {
    /// The word of this number, if a frame has so many.
    #[inline(always)]
    pub fn word(self, index: usize) -> Result<MemWord<'m>, BadFrame> {
        self.0.get(index).map(MemWord).ok_or(BadFrame)
    }
}

/// A place in RAM to look at often: whether there is RAM is asked once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot(u64);

/// A [`Spot`] that can be another one later.
#[derive(Debug)]
pub struct SpotCell(AtomicU64);

impl SpotCell {
    /// With this one in it.
    pub const fn new(spot: Spot) -> Self {
        Self(AtomicU64::new(spot.0))
    }

    /// What is in it.
    #[inline(always)]
    pub fn get(&self) -> Spot {
        Spot(self.0.load(Ordering::SeqCst))
    }

    /// Puts another one into it.
    pub fn set(&self, spot: Spot) {
        self.0.store(spot.0, Ordering::SeqCst);
    }
}

impl PhysMem {
    pub(super) fn new(bits: FrameBits<BootSlice<AtomicU64>>) -> Self {
        Self { bits }
    }

    /// Opens frames to access: they are, or have become, ordinary memory.
    ///
    /// # Safety
    ///
    /// The frames must be RAM that the direct map covers, and hold no object that anything still refers to.
    pub(super) unsafe fn open(&self, frames: MfnRange) {
        self.bits.set(frames);
    }

    /// Where `len` bytes at `at` are, if they may be accessed.
    #[inline]
    fn check(&self, at: Maddr, len: usize) -> Result<NonNull<u8>, BadFrame> {
        self.bits.check(at, len)?;
        // SAFETY: the direct map does not begin at 0, and covers every frame that has a bit.
        Ok(unsafe { NonNull::new_unchecked(direct(at)) })
    }

    /// A word of memory as an atomic. The reference must not outlive the operation: hence private.
    #[inline]
    fn atomic<A>(&self, at: Maddr) -> Result<&A, BadFrame> {
        self.bits.check_aligned(at, size_of::<A>())?;
        // SAFETY: in bounds of a frame that is mapped and holds only bytes (`check`), aligned; any bytes are a valid
        // atomic integer, the only types this is called with.
        Ok(unsafe { &*direct(at).cast_const().cast::<A>() })
    }

    /// Reads a value. A guest may write at the same time: the value is then any mix of old and new bytes.
    pub fn read<T: FromBytes>(&self, at: Maddr) -> Result<T, BadFrame> {
        let from = self.check(at, size_of::<T>())?;
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: `check` covers the source; the destination is the value's own room.
        unsafe { copy(value.as_mut_ptr().cast(), from.as_ptr(), size_of::<T>()) };
        // SAFETY: every byte has been written, and `FromBytes` accepts any.
        Ok(unsafe { value.assume_init() })
    }

    /// Writes a value.
    pub fn write<T: IntoBytes + Immutable>(&self, at: Maddr, value: &T) -> Result<(), BadFrame> {
        self.write_bytes(at, value.as_bytes())
    }

    /// Reads bytes.
    pub fn read_bytes(&self, at: Maddr, into: &mut [u8]) -> Result<(), BadFrame> {
        let from = self.check(at, into.len())?;
        // SAFETY: `check` covers the source.
        unsafe { copy(into.as_mut_ptr(), from.as_ptr(), into.len()) };
        Ok(())
    }

    /// Writes bytes.
    pub fn write_bytes(&self, at: Maddr, from: &[u8]) -> Result<(), BadFrame> {
        let into = self.check(at, from.len())?;
        // SAFETY: `check` covers the destination.
        unsafe { copy(into.as_ptr(), from.as_ptr(), from.len()) };
        Ok(())
    }

    /// Copies bytes from one frame, or one place of it, to another. A guest may write to both at the same time; where the two places
    /// have bytes in common, those are then any mix of old and new ones.
    pub fn copy_bytes(&self, from: Maddr, to: Maddr, len: usize) -> Result<(), BadFrame> {
        let from = self.check(from, len)?;
        let to = self.check(to, len)?;
        // SAFETY: `check` covers both.
        unsafe { copy(to.as_ptr(), from.as_ptr(), len) };
        Ok(())
    }

    /// Fills a frame with zeros.
    pub fn zero_frame(&self, mfn: Mfn) -> Result<(), BadFrame> {
        let frame = self.check(mfn.start(), PAGE_SIZE)?;
        // SAFETY: `check` covers the frame.
        unsafe { zero(frame.as_ptr(), PAGE_SIZE) };
        Ok(())
    }

    /// Copies a frame.
    pub fn copy_frame(&self, from: Mfn, to: Mfn) -> Result<(), BadFrame> {
        let from = self.check(from.start(), PAGE_SIZE)?;
        let to = self.check(to.start(), PAGE_SIZE)?;
        // SAFETY: `check` covers both frames; a frame copied onto itself stays as it is.
        unsafe { copy(to.as_ptr(), from.as_ptr(), PAGE_SIZE) };
        Ok(())
    }

    /// Rids all caches of a frame: what devices and uncached mappings see of it is what was written last.
    pub fn flush_cache(&self, mfn: Mfn) -> Result<(), BadFrame> {
        /// SPEC: Intel SDM volume 2, CPUID leaf 1: every 64-bit CPU has lines of 64 bytes for this instruction.
        const LINE: usize = 64;
        let frame = self.check(mfn.start(), PAGE_SIZE)?;
        // SAFETY: `check` covers the frame; the instruction changes no value in memory. The fences order it with accesses
        // before and behind.
        unsafe {
            asm!("mfence", options(nostack, preserves_flags));
            for offset in (0..PAGE_SIZE).step_by(LINE) {
                asm!("clflush [{}]", in(reg) frame.as_ptr().wrapping_add(offset), options(nostack, preserves_flags));
            }
            asm!("mfence", options(nostack, preserves_flags));
        }
        Ok(())
    }

    atomics! {
        load_u8 store_u8 AtomicU8 u8;
        load_u16 store_u16 AtomicU16 u16;
        load_u32 store_u32 AtomicU32 u32;
        load_u64 store_u64 AtomicU64 u64;
    }

    /// A naturally aligned word that is looked at and changed, checked once for both.
    #[inline(always)]
    pub fn word(&self, at: Maddr) -> Result<MemWord<'_>, BadFrame> {
        self.atomic(at).map(MemWord)
    }

    /// A frame whose words are looked at and changed, checked once for all of them.
    #[inline(always)]
    pub fn page(&self, mfn: Mfn) -> Result<MemPage<'_>, BadFrame> {
        let frame = self.check(mfn.start(), PAGE_SIZE)?;
        // SAFETY: in bounds of a frame that is mapped and holds only bytes (`check`), aligned; any bytes are valid atomic integers.
        Ok(MemPage(unsafe { frame.cast().as_ref() }))
    }

    /// A place for two bytes, aligned, to look at often.
    pub fn spot(&self, at: Maddr) -> Result<Spot, BadFrame> {
        self.bits.check_aligned(at, size_of::<u16>())?;
        Ok(Spot(direct(at) as u64))
    }

    /// Reads the two bytes that are there now. Whose the frame is by now is not asked: if it is nobody's to look at any more, that is any
    /// number.
    #[inline(always)]
    pub fn look(&self, at: Spot) -> u32 {
        let value: u32;
        // SAFETY: once RAM that the direct map shows, always: `spot` has asked. Should an object of ours live there now, Rust
        // knows of no access to it: for all it can tell the number comes from nowhere.
        unsafe {
            asm!(
                "movzx {:e}, word ptr [{}]", out(reg) value, in(reg) at.0,
                options(nostack, preserves_flags, readonly),
            );
        }
        value
    }

    /// Peeks at a naturally aligned word; 0 where there is no RAM. Whose the frame is is not asked: what is found is any number, until
    /// something that is held says otherwise. One that is no RAM costs a fault.
    #[inline(always)]
    pub fn peek_u64(&self, at: Maddr) -> u64 {
        if at.get() >= layout::DIRECT_MAP_SIZE {
            return 0;
        }
        let value: u64;
        // SAFETY: an address of the direct map, which shows nothing but RAM: where it shows nothing this faults and goes on behind
        // itself, with the 0. No device is asked. Should an object of ours live there, Rust knows of no access to it, as in `look`.
        unsafe {
            asm!(
                "2: mov {value}, [{at}]",
                "3:",
                fixup!("2b", "3b"),
                value = inout(reg) 0_u64 => value,
                at = in(reg) direct(at),
                options(nostack, preserves_flags, readonly),
            );
        }
        value
    }

    /// Replaces `current` by `new`; the inner error is what was there instead.
    #[inline]
    pub fn compare_exchange_u64(
        &self,
        at: Maddr,
        current: u64,
        new: u64,
    ) -> Result<Result<u64, u64>, BadFrame> {
        Ok(self.word(at)?.compare_exchange(current, new))
    }

    /// Sets bits; returns what was there.
    pub fn fetch_or_u64(&self, at: Maddr, value: u64) -> Result<u64, BadFrame> {
        Ok(self.word(at)?.fetch_or(value))
    }

    /// Clears the bits that `value` lacks; returns what was there.
    pub fn fetch_and_u64(&self, at: Maddr, value: u64) -> Result<u64, BadFrame> {
        Ok(self.word(at)?.fetch_and(value))
    }

    /// Replaces a word; returns what was there.
    pub fn swap_u64(&self, at: Maddr, value: u64) -> Result<u64, BadFrame> {
        Ok(self.atomic::<AtomicU64>(at)?.swap(value, Ordering::SeqCst))
    }

    /// Sets bits of half a word; returns what was there.
    pub fn fetch_or_u32(&self, at: Maddr, value: u32) -> Result<u32, BadFrame> {
        Ok(self
            .atomic::<AtomicU32>(at)?
            .fetch_or(value, Ordering::SeqCst))
    }

    /// Clears the bits of half a word that `value` lacks; returns what was there.
    pub fn fetch_and_u32(&self, at: Maddr, value: u32) -> Result<u32, BadFrame> {
        Ok(self
            .atomic::<AtomicU32>(at)?
            .fetch_and(value, Ordering::SeqCst))
    }

    /// Replaces half a word if it is `current`; the inner error is what was there instead.
    pub fn compare_exchange_u32(
        &self,
        at: Maddr,
        current: u32,
        new: u32,
    ) -> Result<Result<u32, u32>, BadFrame> {
        let half = self.atomic::<AtomicU32>(at)?;
        Ok(half.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst))
    }

    /// The first word of a frame that is not 0, from word `from` on, and which it is.
    pub fn next_nonzero_word(
        &self,
        mfn: Mfn,
        mut from: usize,
    ) -> Result<Option<(usize, u64)>, BadFrame> {
        while let Some(line) = self.next_nonzero_line(mfn, from)? {
            if let Some(found) = line.word_from(from) {
                return Ok(Some(found));
            }
            from = line.end();
        }
        Ok(None)
    }

    /// The first line of a frame in which a word is not 0, from the one of word `from` on.
    #[inline]
    pub fn next_nonzero_line(&self, mfn: Mfn, from: usize) -> Result<Option<Line>, BadFrame> {
        let frame = self.check(mfn.start(), PAGE_SIZE)?.as_ptr();
        let first = from / LINE * LINE;
        if first >= WORDS {
            return Ok(None);
        }
        let end = frame.wrapping_add(PAGE_SIZE);
        let mut at = frame.wrapping_add(first * 8);
        // SAFETY: `check` covers the frame, in which every line from `at` to its end lies. Others may write to it at the same
        // time, hence no Rust access.
        unsafe {
            asm!(
                "2:",
                any_of_line!(),
                "jnz 3f",
                "add {at}, 64",
                "cmp {at}, {end}",
                "jb 2b",
                "3:",
                at = inout(reg) at,
                end = in(reg) end,
                any = out(reg) _,
                options(readonly, nostack),
            );
        }
        if at == end {
            return Ok(None);
        }
        Ok(Some(self.line(frame, at)))
    }

    /// The last line of a frame in which a word is not 0, and that begins below word `below`.
    #[inline]
    pub fn last_nonzero_line(&self, mfn: Mfn, below: usize) -> Result<Option<Line>, BadFrame> {
        let frame = self.check(mfn.start(), PAGE_SIZE)?.as_ptr();
        let lines = below.min(WORDS).div_ceil(LINE);
        if lines == 0 {
            return Ok(None);
        }
        let before = frame.wrapping_sub(LINE * 8);
        let mut at = before.wrapping_add(lines * LINE * 8);
        // SAFETY: as above, for every line from the frame's start to `at`.
        unsafe {
            asm!(
                "2:",
                any_of_line!(),
                "jnz 3f",
                "sub {at}, 64",
                "cmp {at}, {before}",
                "jne 2b",
                "3:",
                at = inout(reg) at,
                before = in(reg) before,
                any = out(reg) _,
                options(readonly, nostack),
            );
        }
        if at == before {
            return Ok(None);
        }
        Ok(Some(self.line(frame, at)))
    }

    /// The line at `at` in a frame that `check` covers.
    #[inline]
    fn line(&self, frame: *mut u8, at: *mut u8) -> Line {
        // SAFETY: a line of a frame that is mapped and holds only bytes, aligned; any bytes are valid atomics.
        let words = unsafe { &*at.cast_const().cast::<[AtomicU64; LINE]>() };
        Line {
            first: (at as usize).wrapping_sub(frame as usize) / 8,
            words: words.each_ref().map(|word| word.load(Ordering::Acquire)),
        }
    }

    /// Takes frames out of ordinary memory for an object; false, and nothing done, unless all of them were in it.
    ///
    /// The bit stops later accesses, not one that is under way on another CPU: like any allocator's caller, `core` passes
    /// frames that it has just been given and that nobody else knows.
    fn close(&self, frames: MfnRange) -> bool {
        self.bits.take(frames)
    }
}

/// Copies bytes that a guest may be writing to: hence not a Rust copy.
///
/// # Safety
///
/// Both ranges must be mapped; the destination must belong to the caller, or hold only bytes.
unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: as the caller promises; the direction flag is clear by the calling convention.
    unsafe {
        asm!(
            "rep movsq",
            "mov ecx, {tail:e}",
            "rep movsb",
            tail = in(reg) len % 8,
            inout("rcx") len / 8 => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Fills whole words with zeros.
///
/// # Safety
///
/// The range must be mapped, a multiple of eight bytes, and hold only bytes.
pub(super) unsafe fn zero(at: *mut u8, len: usize) {
    // SAFETY: as the caller promises.
    unsafe { fill(at.cast(), 0, len / 8) };
}

/// Fills words with a value.
///
/// # Safety
///
/// As for [`zero`]: `count` words at `at` must be mapped and nobody else's.
pub(super) unsafe fn fill(at: *mut u64, value: u64, count: usize) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!("rep stosq", in("rax") value, inout("rcx") count => _, inout("rdi") at => _, options(nostack, preserves_flags));
    }
}

/// A table that is made at boot and lives for ever.
pub struct BootSlice<T> {
    start: NonNull<T>,
    count: usize,
}

// SAFETY: it is a `&'static [T]` by another name.
unsafe impl<T: Sync> Send for BootSlice<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for BootSlice<T> {}

impl<T> BootSlice<T> {
    /// # Safety
    ///
    /// `start` must point at `count` valid values that nothing else ever changes or moves.
    pub(super) unsafe fn new(start: NonNull<T>, count: usize) -> Self {
        Self { start, count }
    }
}

impl<T> Deref for BootSlice<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: by the contract of `new`.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

/// A hypervisor object that lives in whole frames. While it exists, [`PhysMem`] refuses those frames.
pub struct FrameBox<T> {
    object: NonNull<T>,
    frames: MfnRange,
    owns: PhantomData<T>,
}

// SAFETY: it owns its object.
unsafe impl<T: Send> Send for FrameBox<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for FrameBox<T> {}

impl<T> FrameBox<T> {
    /// Moves `value` into `frames`. Gives it back if it does not fit, or if they are not all ordinary memory.
    pub fn new(mem: &PhysMem, frames: MfnRange, value: T) -> Result<Self, T> {
        let Some(object) = take(mem, frames, size_of::<T>(), align_of::<T>()) else {
            return Err(value);
        };
        let object = object.cast::<T>();
        // SAFETY: `take` has found room for a T, aligned, that nothing else accesses from now on.
        unsafe { object.write(value) };
        Ok(Self {
            object,
            frames,
            owns: PhantomData,
        })
    }

    /// Drops the object and gives its frames back as ordinary memory, zeroed.
    pub fn into_frames(self) -> MfnRange {
        let this = core::mem::ManuallyDrop::new(self);
        // SAFETY: the object was written by `new` and is not used again, since `self` is gone.
        unsafe { this.object.drop_in_place() };
        give_back(this.frames)
    }
}

impl<T> Deref for FrameBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the object lives as long as `self`.
        unsafe { self.object.as_ref() }
    }
}

impl<T> DerefMut for FrameBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and `self` is borrowed alone.
        unsafe { self.object.as_mut() }
    }
}

impl<T: core::fmt::Debug> core::fmt::Debug for FrameBox<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        (**self).fmt(f)
    }
}

/// Plain bytes in whole frames. While it exists, [`PhysMem`] refuses those frames.
pub struct FrameBuf {
    bytes: NonNull<[u8]>,
    frames: MfnRange,
}

// SAFETY: it owns its bytes.
unsafe impl Send for FrameBuf {}
// SAFETY: as above.
unsafe impl Sync for FrameBuf {}

impl FrameBuf {
    /// Takes `frames` as a buffer of all their bytes, with whatever is in them. `None` unless all are ordinary memory.
    pub fn new(mem: &PhysMem, frames: MfnRange) -> Option<Self> {
        let len = usize::try_from(frames.len()).ok()?.checked_mul(PAGE_SIZE)?;
        let start = take(mem, frames, len, 1)?;
        Some(Self {
            bytes: NonNull::slice_from_raw_parts(start, len),
            frames,
        })
    }

    /// Gives the frames back as ordinary memory, zeroed.
    pub fn into_frames(self) -> MfnRange {
        give_back(self.frames)
    }
}

impl Deref for FrameBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the frames are mapped, hold bytes and are closed to everybody else.
        unsafe { self.bytes.as_ref() }
    }
}

impl DerefMut for FrameBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed alone.
        unsafe { self.bytes.as_mut() }
    }
}

/// Closes `frames` and says where they are, if `len` bytes fit.
fn take(mem: &PhysMem, frames: MfnRange, len: usize, align: usize) -> Option<NonNull<u8>> {
    let room = usize::try_from(frames.len()).ok()?.checked_mul(PAGE_SIZE)?;
    if len > room || align > PAGE_SIZE || !mem.close(frames) {
        return None;
    }
    NonNull::new(direct(frames.start.start()))
}

fn give_back(frames: MfnRange) -> MfnRange {
    for mfn in frames.iter() {
        // SAFETY: the frame was closed by `take` and its object is gone.
        unsafe { zero(direct(mfn.start()), PAGE_SIZE) };
    }
    // SAFETY: as above.
    unsafe { super::machine::open_frames(frames) };
    frames
}

/// The table from machine frames to the frame numbers of their owners, which every guest may read.
pub struct M2p {
    entries: BootSlice<AtomicU64>,
}

impl M2p {
    pub(super) fn new(entries: BootSlice<AtomicU64>) -> Self {
        Self { entries }
    }

    /// Says which of its owner's frames `mfn` is. Nothing happens for a frame that the table does not cover.
    pub fn set(&self, mfn: Mfn, pfn: Option<Pfn>) {
        if let Some(entry) = usize::try_from(mfn.get())
            .ok()
            .and_then(|index| self.entries.get(index))
        {
            entry.store(pfn.map_or(INVALID_M2P_ENTRY, Pfn::get), Ordering::Relaxed);
        }
    }

    /// Which of its owner's frames `mfn` is.
    pub fn get(&self, mfn: Mfn) -> Option<Pfn> {
        let entry = self
            .entries
            .get(usize::try_from(mfn.get()).ok()?)?
            .load(Ordering::Relaxed);
        (entry != INVALID_M2P_ENTRY).then_some(Pfn::new(entry))
    }
}

/// What a loader put into memory, and the frames around it. Closed to `PhysMem` until the frames are taken.
pub struct ModuleMemory {
    start: Maddr,
    len: usize,
}

impl ModuleMemory {
    /// # Safety
    ///
    /// The bytes must be in RAM that the direct map covers, in frames that are closed to `PhysMem` and that hold nothing
    /// else, and no other `ModuleMemory` may share a frame with them.
    pub(super) unsafe fn new(start: Maddr, len: usize) -> Self {
        Self { start, len }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: by the contract of `new`; the frames stay closed as long as `self` is there.
        unsafe { core::slice::from_raw_parts(direct(self.start), self.len) }
    }

    /// The frames that the bytes lie in.
    pub(crate) fn frames(&self) -> MfnRange {
        frames_of(self.start, self.len as u64)
    }

    pub(crate) fn into_frames(self) -> MfnRange {
        let frames = ModuleMemory::frames(&self);
        let (head, end) = (self.start.offset(), self.start.offset() + self.len);
        let tail = frames.len() as usize * PAGE_SIZE - end;
        let first = direct(frames.start.start());
        // SAFETY: the module's own frames, closed to everybody else; what is written lies outside the module.
        unsafe {
            first.write_bytes(0, head);
            first.add(end).write_bytes(0, tail);
        }
        // SAFETY: `bytes` can no longer be called, and there is no other object in these frames.
        unsafe { super::machine::open_frames(frames) };
        frames
    }
}

/// The frames that hold `len` bytes at `start`.
pub(super) fn frames_of(start: Maddr, len: u64) -> MfnRange {
    let end = Maddr::new(
        start
            .get()
            .saturating_add(len)
            .saturating_add(PAGE_SIZE as u64 - 1),
    );
    MfnRange::new(start.mfn(), end.mfn())
}
