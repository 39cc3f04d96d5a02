//! A place for a value that is put in once and read by all CPUs from then on, without counting and without waiting.
//!
//! What a table of a domain grows by lies in such places: it stays as long as the domain, so a reference to it is one load.
//!
//! UNSAFETY: `Once` waits for who is filling it, and panics if that one has panicked: guests may reach neither. Safe Rust has no other
//! shared place that is written behind a shared reference.

use core::cell::UnsafeCell;
use core::fmt;

use crate::sync::atomic::{AtomicU8, Ordering};

/// There is nothing.
const EMPTY: u8 = 0;
/// Somebody is putting the value in.
const BUSY: u8 = 1;
/// The value is there.
const FULL: u8 = 2;

/// The place.
///
/// INVARIANT: the state goes from `EMPTY` over `BUSY` to `FULL` and never back but by a reference of which there is one. Who brought
/// it to `BUSY` has the cell for himself; in the state `FULL` nobody writes to it.
pub struct WriteOnce<T> {
    state: AtomicU8,
    cell: UnsafeCell<Option<T>>,
}

// SAFETY: the value is shared by `&T` on several CPUs (so `T: Sync`) and moved in by one and out by another (`T: Send`); the
// states exclude everything else.
#[allow(unsafe_code)]
unsafe impl<T: Send + Sync> Sync for WriteOnce<T> {}

impl<T> WriteOnce<T> {
    /// A place with nothing in it.
    pub const fn new() -> Self {
        Self {
            state: AtomicU8::new(EMPTY),
            cell: UnsafeCell::new(None),
        }
    }

    /// The value, if it has been put in.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        // ORDERING: Acquire pairs with the Release of `set`: who sees `FULL` sees the value.
        if self.state.load(Ordering::Acquire) != FULL {
            return None;
        }
        // SAFETY: by the invariant nobody writes to the cell in this state, which ends only by a `&mut self`.
        #[allow(unsafe_code)]
        unsafe {
            (*self.cell.get()).as_ref()
        }
    }

    /// Puts a value in. Refused, with the value, if there is one, or somebody else is putting one in.
    pub fn set(&self, value: T) -> Result<(), T> {
        if self
            .state
            .compare_exchange(EMPTY, BUSY, Ordering::Relaxed, Ordering::Relaxed)
            .is_err()
        {
            return Err(value);
        }
        // SAFETY: the state is `BUSY`, and we made it so: by the invariant the cell is ours.
        #[allow(unsafe_code)]
        unsafe {
            *self.cell.get() = Some(value);
        }
        self.state.store(FULL, Ordering::Release);
        Ok(())
    }

    /// The value, for whoever has the only reference.
    pub fn get_mut(&mut self) -> Option<&mut T> {
        self.cell.get_mut().as_mut()
    }

    /// Takes the value out: who has the only reference may.
    pub fn take(&mut self) -> Option<T> {
        self.state = AtomicU8::new(EMPTY);
        self.cell.get_mut().take()
    }
}

impl<T> Default for WriteOnce<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for WriteOnce<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WriteOnce").field(&self.get()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::string::{String, ToString};
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_value_is_put_in_once_and_comes_out_once() {
        let token = Arc::new(5);
        let mut place = WriteOnce::new();
        assert!(place.get().is_none() && place.take().is_none());
        place.set(token.clone()).unwrap();
        assert_eq!(place.set(Arc::new(6)), Err(Arc::new(6)));
        assert_eq!(place.get(), Some(&token));
        assert_eq!(place.take(), Some(token.clone()));
        assert!(place.get().is_none());
        place.set(token.clone()).unwrap();
        drop(place);
        assert_eq!(Arc::strong_count(&token), 1);
    }

    #[test]
    fn of_many_one_is_first_and_all_see_its_value() {
        let rounds = if cfg!(miri) { 3 } else { 300 };
        for _ in 0..rounds {
            let place = WriteOnce::<String>::new();
            let firsts: usize = std::thread::scope(|scope| {
                let threads: std::vec::Vec<_> = (0..3)
                    .map(|number: u8| {
                        let place = &place;
                        scope.spawn(move || {
                            let is_first = place.set(number.to_string()).is_ok();
                            let seen = place.get();
                            assert!(seen.is_none_or(|value| value.len() == 1));
                            assert!(!is_first || seen == Some(&number.to_string()));
                            usize::from(is_first)
                        })
                    })
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap())
                    .sum()
            });
            assert_eq!(firsts, 1);
        }
    }
}
