//! Values that are too large for a stack, made and used inside memory that the caller lends.
//!
//! Unpacking a kernel needs decoder states of tens of kilobytes for a moment, while a CPU's stack has 16 to 32 KiB and
//! there is no heap above `arch`. The memory comes back zeroed, as a type's bytes are not for reading: its padding was
//! never written. For the same reason a value is only lent to whoever uses it: one that was forgotten would leave its padding
//! behind.
#![allow(unsafe_code)]

use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use xz4rust::XzStaticDecoder;

/// A value of type `T` inside borrowed bytes. Dropping it drops the value and zeroes its bytes.
pub struct Placed<'a, T> {
    // INVARIANT: aligned, inside the bytes borrowed for 'a, and holds a valid `T`.
    value: NonNull<T>,
    bytes: PhantomData<(&'a mut [u8], T)>,
}

impl<'a, T> Placed<'a, T> {
    /// The bytes that are always enough for a value of this type, wherever they begin.
    pub const SIZE: usize = size_of::<T>() + align_of::<T>();

    /// Makes a value inside `memory` and calls `work` with it; `None` if that is too small.
    #[inline(always)]
    pub fn with<R>(
        memory: &'a mut [u8],
        make: impl FnOnce() -> T,
        work: impl FnOnce(&mut T) -> R,
    ) -> Option<R> {
        Some(work(&mut *Self::new_with(memory, make)?))
    }

    /// Inlined, and the result written through a reference, so that an optimised build makes it in place.
    #[inline(always)]
    fn new_with(memory: &'a mut [u8], make: impl FnOnce() -> T) -> Option<Self> {
        let mut slot = slot::<T>(memory)?;
        // SAFETY: `slot` returns an aligned place inside `memory`, which is borrowed exclusively for 'a; no value needs
        // to be valid there to form a reference to `MaybeUninit`.
        let value = unsafe { slot.as_mut() }.write(make());
        Some(Self {
            value: NonNull::from(value),
            bytes: PhantomData,
        })
    }
}

impl<'a, const DICTIONARY: usize> Placed<'a, XzStaticDecoder<DICTIONARY>> {
    /// Makes an xz decoder with its dictionary inside `memory`, without it ever being on a stack, and calls `work` with
    /// it; `None` if `memory` is too small.
    pub fn with_xz_decoder<R>(
        memory: &'a mut [u8],
        work: impl FnOnce(&mut XzStaticDecoder<DICTIONARY>) -> R,
    ) -> Option<R> {
        Some(work(&mut *Self::xz_decoder(memory)?))
    }

    fn xz_decoder(memory: &'a mut [u8]) -> Option<Self> {
        let slot = slot::<XzStaticDecoder<DICTIONARY>>(memory)?;
        // SAFETY: the place is aligned, of the size stated, and borrowed exclusively for 'a, which is all that the
        // function asks; it does not read the memory and leaves a valid decoder in it.
        let value = unsafe {
            XzStaticDecoder::init_or_reset_at_address(
                slot.as_ptr().cast(),
                size_of::<XzStaticDecoder<DICTIONARY>>(),
            )
        };
        Some(Self {
            value: NonNull::new(value)?,
            bytes: PhantomData,
        })
    }
}

/// The first place for a `T` in `memory`.
fn slot<T>(memory: &mut [u8]) -> Option<NonNull<MaybeUninit<T>>> {
    let skip = memory.as_ptr().align_offset(align_of::<T>());
    let place = memory.get_mut(skip..)?.get_mut(..size_of::<T>())?;
    NonNull::new(place.as_mut_ptr().cast())
}

impl<T> Deref for Placed<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the invariant of `value`; `self` holds the exclusive borrow of the bytes.
        unsafe { self.value.as_ref() }
    }
}

impl<T> DerefMut for Placed<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for `deref`, and `self` is borrowed exclusively.
        unsafe { self.value.as_mut() }
    }
}

impl<T> Drop for Placed<'_, T> {
    fn drop(&mut self) {
        // SAFETY: the value is valid and is not used again; afterwards its bytes, still borrowed exclusively, are made
        // plain zeroes, which is what a `[u8]` may hold.
        unsafe {
            self.value.drop_in_place();
            self.value.cast::<u8>().write_bytes(0, size_of::<T>());
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::rc::Rc;
    use std::vec;

    #[test]
    fn value_lives_in_the_memory_and_leaves_zeroes() {
        let witness = Rc::new(());
        let mut memory = [0xffu8; 64];
        let range = memory.as_ptr_range();
        let mut placed = Placed::new_with(&mut memory[1..], || (7u64, witness.clone())).unwrap();
        assert!(range.contains(&core::ptr::from_ref(&*placed).cast()));
        assert_eq!(core::ptr::from_ref(&*placed).addr() % 8, 0);
        placed.0 += 1;
        assert_eq!((placed.0, Rc::strong_count(&witness)), (8, 2));
        drop(placed);
        assert_eq!(Rc::strong_count(&witness), 1);
        assert_eq!(memory.iter().filter(|byte| **byte == 0).count(), 16);
    }

    #[test]
    fn too_little_memory_is_refused() {
        let mut memory = vec![0u8; Placed::<u64>::SIZE];
        assert!(Placed::new_with(&mut memory, || 0u64).is_some());
        assert!(Placed::new_with(&mut memory[..7], || 0u64).is_none());
        assert!(Placed::<XzStaticDecoder<4096>>::xz_decoder(&mut memory).is_none());
    }

    #[test]
    fn an_xz_decoder_made_in_place_works() {
        // "oxen\n", packed by xz --check=crc32.
        let packed = PACKED;
        let mut memory = vec![0xffu8; Placed::<XzStaticDecoder<4096>>::SIZE];
        let mut output = [0; 16];
        let mut decoder = Placed::<XzStaticDecoder<4096>>::xz_decoder(&mut memory).unwrap();
        let done = decoder.decode(packed, &mut output).unwrap();
        assert!(done.is_end_of_stream());
        assert_eq!(&output[..done.output_produced()], b"oxen\n");
    }

    const PACKED: &[u8] = &[
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x01, 0x69, 0x22, 0xde, 0x36, 0x02, 0x00, 0x21,
        0x01, 0x00, 0x00, 0x00, 0x00, 0x37, 0x27, 0x97, 0xd6, 0x01, 0x00, 0x04, 0x6f, 0x78, 0x65,
        0x6e, 0x0a, 0x00, 0x00, 0x00, 0x00, 0x0e, 0x39, 0x7c, 0x26, 0x00, 0x01, 0x19, 0x05, 0xbc,
        0xe8, 0xec, 0xcb, 0x90, 0x42, 0x99, 0x0d, 0x01, 0x00, 0x00, 0x00, 0x00, 0x01, 0x59, 0x5a,
    ];
}
