//! What stands for `arch::sync`.

use std::fmt;
use std::ops::{Deref, DerefMut};

pub use arch::sync::Rank;
pub use loom::hint::spin_loop;

/// As `arch::sync::fence_behind_exchange`.
pub fn fence_behind_exchange() {
    atomic::fence(atomic::Ordering::SeqCst);
}

/// What stands for the atomics.
pub mod atomic {
    use std::fmt;
    use std::sync::atomic::AtomicU64 as Plain;
    use std::sync::{Arc, Mutex, PoisonError};

    pub use loom::sync::atomic::*;
    use zerocopy::FromZeros;

    /// A word of the model checker that is as long as a word, and may begin as zeroes like any other.
    ///
    /// The checker's own is longer. It is kept elsewhere, and this is its number; 0: it has not been looked at.
    #[derive(FromZeros)]
    pub struct AtomicU64 {
        number: Plain,
    }

    type Word = loom::sync::atomic::AtomicU64;

    loom::lazy_static! {
        // Not the checker's lock: threads of a model are never preempted while they hold it.
        static ref WORDS: Mutex<Vec<Arc<Word>>> = Mutex::new(Vec::new());
    }

    impl AtomicU64 {
        /// A word that begins so.
        pub fn new(value: u64) -> Self {
            Self {
                number: Plain::new(create(value)),
            }
        }

        /// As the checker's own.
        pub fn load(&self, order: Ordering) -> u64 {
            in_order(order);
            self.word().load(order)
        }

        /// As the checker's own.
        pub fn store(&self, value: u64, order: Ordering) {
            self.word().store(value, order);
        }

        /// As the checker's own.
        pub fn swap(&self, value: u64, order: Ordering) -> u64 {
            let old = self.word().swap(value, order);
            in_order(order);
            old
        }

        /// As the checker's own.
        pub fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
            self.word().fetch_add(value, order)
        }

        /// As the checker's own.
        pub fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
            self.word().fetch_sub(value, order)
        }

        /// As the checker's own.
        pub fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
            let old = self.word().fetch_or(value, order);
            in_order(order);
            old
        }

        /// As the checker's own.
        pub fn fetch_and(&self, value: u64, order: Ordering) -> u64 {
            let old = self.word().fetch_and(value, order);
            in_order(order);
            old
        }

        /// As the checker's own.
        pub fn fetch_max(&self, value: u64, order: Ordering) -> u64 {
            self.word().fetch_max(value, order)
        }

        /// As the checker's own.
        pub fn compare_exchange(
            &self,
            old: u64,
            new: u64,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u64, u64> {
            self.word().compare_exchange(old, new, success, failure)
        }

        /// As the checker's own.
        pub fn compare_exchange_weak(
            &self,
            old: u64,
            new: u64,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u64, u64> {
            self.word()
                .compare_exchange_weak(old, new, success, failure)
        }

        fn word(&self) -> Arc<Word> {
            use std::sync::atomic::Ordering::Relaxed;
            if self.number.load(Relaxed) == 0 {
                self.number.store(create(0), Relaxed);
            }
            let index = self.number.load(Relaxed) as usize - 1;
            let words = WORDS.lock().unwrap_or_else(PoisonError::into_inner);
            words[index].clone()
        }
    }

    impl fmt::Debug for AtomicU64 {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.word().fmt(f)
        }
    }

    /// The checker takes accesses in an order that all CPUs agree on for less than they are, unless there is a fence: before a load,
    /// behind a change.
    fn in_order(order: Ordering) {
        if order == Ordering::SeqCst {
            fence(Ordering::SeqCst);
        }
    }

    fn create(value: u64) -> u64 {
        let word = Arc::new(Word::new(value));
        let mut words = WORDS.lock().unwrap_or_else(PoisonError::into_inner);
        words.push(word);
        words.len() as u64
    }
}

/// What stands for a lock. Its rank is left to the tests of the real one.
pub struct SpinLock<T>(loom::sync::Mutex<T>);

/// A [`SpinLock`] that is held.
pub struct Guard<'a, T>(loom::sync::MutexGuard<'a, T>);

impl<T> SpinLock<T> {
    /// A lock that nobody holds.
    pub fn new(_: Rank, value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    /// Waits for the lock.
    pub fn lock(&self) -> Guard<'_, T> {
        Guard(self.0.lock().expect("who held it failed"))
    }
}

impl<T: fmt::Debug> fmt::Debug for SpinLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}
