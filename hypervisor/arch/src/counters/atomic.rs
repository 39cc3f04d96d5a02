//! The atomics of a bench build: those of `core`, and each locked instruction is counted.
//!
//! They have the layout of those, and as much of their surface as is used. An exchange that is tried again counts each time;
//! loads, and stores that need no fence, do not count: on x86 they are plain moves. On the host these are counted too, as accesses.

/// Nobody does anything with one that would be counted.
pub use core::sync::atomic::AtomicPtr;
pub use core::sync::atomic::Ordering;

use core::sync::atomic;

use zerocopy::FromZeros;

use super::{Event, access, count};

/// A fence; the one that waits for stores is counted.
#[inline(always)]
pub fn fence(order: Ordering) {
    if order == Ordering::SeqCst {
        count(Event::Locked);
    }
    atomic::fence(order);
}

macro_rules! counted {
    ($($(#[$meta:meta])* $name:ident($value:ty) $({ $($operation:ident),* })?;)*) => {$(
        $(#[$meta])*
        #[derive(FromZeros, Debug, Default)]
        #[repr(transparent)]
        pub struct $name(atomic::$name);

        impl $name {
            /// Makes one.
            pub const fn new(value: $value) -> Self {
                Self(atomic::$name::new(value))
            }

            /// Loads the value.
            #[inline(always)]
            pub fn load(&self, order: Ordering) -> $value {
                access();
                self.0.load(order)
            }

            /// Stores a value; counted if all CPUs are to see the order, for then it is an exchange.
            #[inline(always)]
            pub fn store(&self, value: $value, order: Ordering) {
                access();
                if order == Ordering::SeqCst {
                    count(Event::Locked);
                }
                self.0.store(value, order);
            }

            /// Stores a value and returns what was there.
            #[inline(always)]
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                access();
                count(Event::Locked);
                self.0.swap(value, order)
            }

            /// Stores a value if `current` is there; the error is what was there instead.
            #[inline(always)]
            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                access();
                count(Event::Locked);
                self.0.compare_exchange(current, new, success, failure)
            }

            /// As [`Self::compare_exchange`], which on x86 is the same.
            #[inline(always)]
            pub fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(current, new, success, failure)
            }

            /// Stores what `update` makes of the value, until nobody comes in between; `Err` where it makes nothing of it.
            #[inline(always)]
            pub fn fetch_update(
                &self,
                success: Ordering,
                failure: Ordering,
                mut update: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                let mut now = self.load(failure);
                while let Some(new) = update(now) {
                    match self.compare_exchange_weak(now, new, success, failure) {
                        Ok(before) => return Ok(before),
                        Err(other) => now = other,
                    }
                }
                Err(now)
            }

            $($(
                #[doc = concat!("`", stringify!($operation), "` of the value and another; returns what was there.")]
                #[inline(always)]
                pub fn $operation(&self, value: $value, order: Ordering) -> $value {
                    access();
                    count(Event::Locked);
                    self.0.$operation(value, order)
                }
            )*)?
        }
    )*};
}

counted! {
    /// A truth value.
    AtomicBool(bool);
    /// A byte.
    AtomicU8(u8) { fetch_add, fetch_sub, fetch_and, fetch_or };
    /// Two bytes.
    AtomicU16(u16) { fetch_add, fetch_sub, fetch_and, fetch_or };
    /// Four bytes.
    AtomicU32(u32) { fetch_add, fetch_sub, fetch_and, fetch_or };
    /// Eight bytes.
    AtomicU64(u64) { fetch_add, fetch_sub, fetch_and, fetch_or };
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;

    fn locked(by: impl FnOnce()) -> u64 {
        let before = read(Event::Locked);
        by();
        read(Event::Locked) - before
    }

    #[test]
    fn what_is_a_locked_instruction_is_counted_and_nothing_else() {
        let word = AtomicU64::new(1);
        let plain = locked(|| {
            word.store(2, Ordering::Release);
            assert_eq!(word.load(Ordering::SeqCst), 2);
            fence(Ordering::Acquire);
        });
        assert_eq!(plain, 0);
        assert_eq!(locked(|| word.store(3, Ordering::SeqCst)), 1);
        assert_eq!(locked(|| fence(Ordering::SeqCst)), 1);
        let all = locked(|| {
            assert_eq!(word.swap(4, Ordering::Relaxed), 3);
            assert_eq!(word.fetch_add(1, Ordering::Relaxed), 4);
            assert_eq!(word.fetch_sub(2, Ordering::Relaxed), 5);
            assert_eq!(word.fetch_or(4, Ordering::Relaxed), 3);
            assert_eq!(word.fetch_and(1, Ordering::Relaxed), 7);
        });
        assert_eq!((all, word.load(Ordering::Relaxed)), (5, 1));
    }

    #[cfg(not(target_os = "none"))]
    #[test]
    fn every_access_is_one() {
        let word = AtomicU64::new(1);
        let before = super::super::accesses();
        word.store(2, Ordering::Relaxed);
        assert_eq!(word.load(Ordering::Relaxed), 2);
        assert_eq!(word.swap(3, Ordering::Relaxed), 2);
        assert_eq!(word.fetch_add(1, Ordering::Relaxed), 3);
        let (order, failed) = (Ordering::Relaxed, Ordering::Relaxed);
        assert_eq!(word.compare_exchange(0, 1, order, failed), Err(4));
        assert_eq!(super::super::accesses() - before, 5);
    }

    #[test]
    fn every_attempt_counts() {
        let word = AtomicU64::new(1);
        let (order, failed) = (Ordering::Relaxed, Ordering::Relaxed);
        assert_eq!(
            locked(|| {
                assert_eq!(word.compare_exchange(2, 3, order, failed), Err(1));
                assert_eq!(word.compare_exchange(1, 3, order, failed), Ok(1));
            }),
            2
        );
        let none = locked(|| assert_eq!(word.fetch_update(order, failed, |_| None), Err(3)));
        assert_eq!(none, 0);
        let mut rounds = 0;
        let tried_again = locked(|| {
            let done = word.fetch_update(order, failed, |now| {
                rounds += 1;
                if rounds == 1 {
                    // Somebody came in between.
                    word.store(7, Ordering::Relaxed);
                }
                Some(now + 1)
            });
            assert_eq!(done, Ok(7));
        });
        assert_eq!((tried_again, word.load(order)), (2, 8));
    }
}
