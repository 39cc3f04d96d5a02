//! The log ring: the last lines, for `xl dmesg`.

use core::ops::Deref;

use oxen_arch::sync::atomic::{AtomicU8, Ordering};

/// The last bytes that were pushed, as many as the storage holds, each with a number that counts up and wraps: by those
/// numbers a reader goes on where it stopped. ABI: public/sysctl.h, `xen_sysctl_readconsole`.
///
/// INVARIANT: the size of the storage is a power of two; `end - start` is at most that.
pub struct LogRing<S> {
    bytes: S,
    /// The number of the oldest byte that is kept.
    start: u32,
    /// The number that the next byte gets.
    end: u32,
}

impl<S: Deref<Target = [AtomicU8]>> LogRing<S> {
    /// An empty ring in `bytes`; `None` unless their number is a power of two that the numbers can tell apart.
    pub fn new(bytes: S) -> Option<Self> {
        let is_usable = bytes.len().is_power_of_two() && bytes.len() <= 1 << 30;
        is_usable.then_some(Self {
            bytes,
            start: 0,
            end: 0,
        })
    }

    /// Adds a byte; of a full ring the oldest goes.
    pub fn push(&mut self, byte: u8) {
        if self.len() == self.bytes.len() {
            self.start = self.start.wrapping_add(1);
        }
        if let Some(slot) = self.slot(self.end) {
            slot.store(byte, Ordering::Relaxed);
        }
        self.end = self.end.wrapping_add(1);
    }

    /// How many bytes are kept.
    pub fn len(&self) -> usize {
        self.end.wrapping_sub(self.start) as usize
    }

    /// Whether no byte is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies bytes out, from number `from` on, or from the oldest if that one is gone, never was, or is not given.
    /// Returns how many bytes were copied, and the number to go on from.
    pub fn read(&self, from: Option<u32>, into: &mut [u8]) -> (usize, u32) {
        let kept = |&number: &u32| number.wrapping_sub(self.start) as usize <= self.len();
        let mut number = from.filter(kept).unwrap_or(self.start);
        let mut nr_copied: usize = 0;
        for byte in into {
            if number == self.end {
                break;
            }
            *byte = self
                .slot(number)
                .map_or(0, |slot| slot.load(Ordering::Relaxed));
            number = number.wrapping_add(1);
            nr_copied = nr_copied.saturating_add(1);
        }
        (nr_copied, number)
    }

    /// Forgets the bytes before number `up_to`; nothing, if that one is not kept.
    pub fn clear(&mut self, up_to: u32) {
        if up_to.wrapping_sub(self.start) as usize <= self.len() {
            self.start = up_to;
        }
    }

    fn slot(&self, number: u32) -> Option<&AtomicU8> {
        self.bytes
            .get(number as usize & self.bytes.len().wrapping_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Ring = LogRing<Vec<AtomicU8>>;

    fn ring(size: usize) -> Ring {
        LogRing::new((0..size).map(|_| AtomicU8::new(0)).collect()).unwrap()
    }

    fn push(ring: &mut Ring, text: &[u8]) {
        text.iter().for_each(|&byte| ring.push(byte));
    }

    fn read(ring: &Ring, from: Option<u32>) -> (Vec<u8>, u32) {
        let mut buffer = [0; 64];
        let (len, next) = ring.read(from, &mut buffer);
        (buffer[..len].to_vec(), next)
    }

    #[test]
    fn a_reader_goes_on_where_it_stopped() {
        let mut ring = ring(8);
        assert_eq!(read(&ring, None), (vec![], 0));
        push(&mut ring, b"abc");
        assert_eq!(read(&ring, None), (b"abc".to_vec(), 3));
        assert_eq!(read(&ring, Some(3)), (vec![], 3));
        push(&mut ring, b"defghij");
        assert_eq!(read(&ring, Some(3)), (b"defghij".to_vec(), 10));
        // Bytes 0 and 1 are gone; 11 never was.
        assert_eq!(read(&ring, None), (b"cdefghij".to_vec(), 10));
        assert_eq!(read(&ring, Some(1)), (b"cdefghij".to_vec(), 10));
        assert_eq!(read(&ring, Some(11)), (b"cdefghij".to_vec(), 10));
        // A small buffer.
        let mut two = [0; 2];
        assert_eq!((ring.read(Some(4), &mut two), two), ((2, 6), *b"ef"));
    }

    #[test]
    fn only_a_power_of_two_will_do() {
        assert!(LogRing::new(Vec::<AtomicU8>::new()).is_none());
        assert!(LogRing::new(vec![AtomicU8::new(0), AtomicU8::new(0), AtomicU8::new(0)]).is_none());
    }

    #[test]
    fn what_is_cleared_is_gone() {
        let mut ring = ring(8);
        push(&mut ring, b"abcd");
        ring.clear(2);
        assert_eq!(read(&ring, None).0, b"cd");
        ring.clear(1);
        ring.clear(9);
        assert_eq!(ring.len(), 2);
        ring.clear(4);
        assert!(ring.is_empty());
    }

    #[test]
    fn numbers_wrap() {
        let mut ring = Ring {
            start: u32::MAX - 2,
            end: u32::MAX - 2,
            ..ring(8)
        };
        push(&mut ring, b"abcdefghijk");
        assert_eq!(read(&ring, None), (b"defghijk".to_vec(), 8));
        assert_eq!(read(&ring, Some(u32::MAX)), (b"defghijk".to_vec(), 8));
        assert_eq!(read(&ring, Some(7)).0, b"k");
    }

    proptest! {
        #[test]
        fn it_keeps_the_last_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..100), from in any::<u32>()) {
            let mut ring = ring(16);
            push(&mut ring, &bytes);
            prop_assert_eq!(read(&ring, None).0, &bytes[bytes.len().saturating_sub(16)..]);
            ring.read(Some(from), &mut [0; 40]);
            ring.clear(from);
            prop_assert!(ring.len() <= 16);
        }
    }
}
