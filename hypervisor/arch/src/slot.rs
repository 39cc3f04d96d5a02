//! A place for one value that is reached by counted references and given back when the last of them is gone.
//!
//! This is what a domain lives in: no allocation that could fail, no reference that outlives its value, and an end in two
//! steps. [`Slot::retire`] lets nobody in any more; [`Slot::reap`], called by whoever cleans up, takes the value out once
//! the last reference is dropped. [`Slot::reap_when`] does so once its owner has made it ready, which may take several steps.
//!
//! UNSAFETY: safe Rust has no shared container whose value can be taken out again without waiting for a writer's lock.
//! The whole state is one atomic word, so that every transition is one compare-exchange.

use core::cell::UnsafeCell;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::Deref;

use crate::sync::atomic::{AtomicU64, Ordering};

/// Bits of the state that count references.
const COUNT: u64 = 0xffff_ffff;
/// Somebody is putting the value in or taking it out, and has the cell for himself.
const EXCLUSIVE: u64 = 1 << 32;
/// The cell holds a value.
const FILLED: u64 = 1 << 33;
/// No new reference is given.
const RETIRED: u64 = 1 << 34;

/// The place.
///
/// INVARIANT: references exist only while `FILLED` is set, and their number is the count. `EXCLUSIVE` is set only by a
/// transition from a state with count 0, and no reference is given while it is set.
pub struct Slot<T> {
    state: AtomicU64,
    cell: UnsafeCell<Option<T>>,
}

// SAFETY: the value is shared by `&T` on several CPUs (so `T: Sync`) and moved in by one and out by another (`T: Send`);
// the protocol of `state` excludes everything else.
#[allow(unsafe_code)]
unsafe impl<T: Send + Sync> Sync for Slot<T> {}

/// Why a value was not put in: the slot is taken. Gives the value back.
#[derive(Debug)]
pub struct Occupied<T>(pub T);

impl<T> Slot<T> {
    /// An empty slot.
    pub const fn new() -> Self {
        Self {
            state: AtomicU64::new(0),
            cell: UnsafeCell::new(None),
        }
    }

    /// Puts a value in and returns the first reference to it. Refused, with the value, if there is one already.
    pub fn fill(&self, value: T) -> Result<SlotRef<'_, T>, Occupied<T>> {
        // ORDERING: Acquire pairs with the Release of `reap`, whose access to the cell comes first.
        if self
            .state
            .compare_exchange(0, EXCLUSIVE, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            return Err(Occupied(value));
        }
        // SAFETY: 1. `EXCLUSIVE` was set by us, from the empty state, so nobody else is in the cell. 2. There is no
        // reference, since the count was 0, and none is given until the store below.
        #[allow(unsafe_code)]
        unsafe {
            *self.cell.get() = Some(value);
        }
        // ORDERING: Release pairs with the Acquire of `acquire`: who gets a reference sees the value.
        self.state.store(FILLED | 1, Ordering::Release);
        Ok(SlotRef { slot: self })
    }

    /// Returns a reference to the value; `None` if there is none, or it is retired.
    pub fn acquire(&self) -> Option<SlotRef<'_, T>> {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            if state & (FILLED | RETIRED) != FILLED || state & COUNT == COUNT {
                return None;
            }
            // ORDERING: Acquire pairs with the Release of `fill`.
            match self.state.compare_exchange_weak(
                state,
                state.wrapping_add(1),
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(SlotRef { slot: self }),
                Err(now) => state = now,
            }
        }
    }

    /// Gives no reference from now on. Returns whether there is a value that was not retired before.
    pub fn retire(&self) -> bool {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            if state & (FILLED | RETIRED) != FILLED {
                return false;
            }
            match self.state.compare_exchange_weak(
                state,
                state | RETIRED,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
    }

    /// Takes the value out and empties the slot, if it is retired and nobody refers to it.
    pub fn reap(&self) -> Option<T> {
        self.reap_when(|_| true)
    }

    /// The same if `is_ready` says so of the value, which it may change. If not, or while another CPU asks that, the value stays.
    pub fn reap_when(&self, is_ready: impl FnOnce(&mut T) -> bool) -> Option<T> {
        // ORDERING: Acquire pairs with the Release of every dropped reference, and of who asked before: what they did with the value
        // comes first.
        self.state
            .compare_exchange(
                FILLED | RETIRED,
                EXCLUSIVE,
                Ordering::Acquire,
                Ordering::Relaxed,
            )
            .ok()?;
        // SAFETY: 1. The count was 0 and `RETIRED` set, so no reference exists. 2. `EXCLUSIVE` was set by us; while it is
        // the only bit, `fill` and `reap_when` fail and `acquire` gives nothing: also if `is_ready` never returns. 3. The borrow ends
        // before the state changes.
        #[allow(unsafe_code)]
        let cell = unsafe { &mut *self.cell.get() };
        let value = cell.take_if(is_ready);
        let left = if cell.is_some() { FILLED | RETIRED } else { 0 };
        // ORDERING: Release pairs with the Acquire of `fill`, or above.
        self.state.store(left, Ordering::Release);
        value
    }

    /// How many references there are.
    pub fn references(&self) -> u32 {
        (self.state.load(Ordering::Relaxed) & COUNT) as u32
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.load(Ordering::Relaxed);
        f.debug_struct("Slot")
            .field("filled", &(state & FILLED != 0))
            .field("retired", &(state & RETIRED != 0))
            .field("references", &(state & COUNT))
            .finish()
    }
}

/// One counted reference to the value of a slot.
pub struct SlotRef<'a, T> {
    slot: &'a Slot<T>,
}

impl<'a, T> SlotRef<'a, T> {
    /// The slot that it refers to.
    pub(crate) fn slot(&self) -> &'a Slot<T> {
        self.slot
    }

    /// Ends without giving the reference back: that is the caller's to do, by [`SlotRef::from_slot`].
    pub(crate) fn into_slot(self) -> &'a Slot<T> {
        ManuallyDrop::new(self).slot
    }

    /// The reference that [`SlotRef::into_slot`] left.
    ///
    /// # Safety
    ///
    /// There must be one, and nobody else may make it this.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn from_slot(slot: &'a Slot<T>) -> Self {
        Self { slot }
    }

    /// Returns one more reference, to a retired value too; `None` if the count is at its limit.
    pub fn try_clone(&self) -> Option<Self> {
        let mut state = self.slot.state.load(Ordering::Relaxed);
        loop {
            if state & COUNT == COUNT {
                return None;
            }
            match self.slot.state.compare_exchange_weak(
                state,
                state.wrapping_add(1),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(Self { slot: self.slot }),
                Err(now) => state = now,
            }
        }
    }
}

impl<T> Deref for SlotRef<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: 1. This reference is in the count, so by the invariant of `Slot` the cell is filled and nobody writes to
        // it or takes the value out before we are dropped. 2. The borrow of `self` ends before that.
        #[allow(unsafe_code)]
        let value = unsafe { (*self.slot.cell.get()).as_ref() };
        match value {
            Some(value) => value,
            // SAFETY: as above: the slot is filled.
            #[allow(unsafe_code)]
            None => unsafe { core::hint::unreachable_unchecked() },
        }
    }
}

impl<T> Drop for SlotRef<'_, T> {
    fn drop(&mut self) {
        // ORDERING: Release pairs with the Acquire of `reap`.
        self.slot.state.fetch_sub(1, Ordering::Release);
    }
}

impl<T: fmt::Debug> fmt::Debug for SlotRef<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_value_is_taken_out_only_when_retired_and_alone() {
        let token = Arc::new(5);
        let slot = Slot::new();
        assert!(slot.acquire().is_none() && !slot.retire() && slot.reap().is_none());
        let first = slot.fill(token.clone()).unwrap();
        assert!(matches!(slot.fill(Arc::new(6)), Err(Occupied(value)) if *value == 6));
        let second = slot.acquire().unwrap();
        assert_eq!((**first, slot.references()), (5, 2));
        assert!(slot.reap().is_none(), "not retired");
        assert!(slot.retire() && !slot.retire());
        assert!(slot.acquire().is_none(), "retired");
        let third = second.try_clone().unwrap();
        drop(first);
        drop(second);
        assert!(slot.reap().is_none(), "still referred to");
        assert_eq!(**third, 5);
        drop(third);
        assert_eq!(slot.reap().as_deref(), Some(&5));
        assert_eq!(Arc::strong_count(&token), 1);
        assert!(slot.reap().is_none());
        // And it can be used again.
        drop(slot.fill(token.clone()).unwrap());
        assert_eq!(slot.references(), 0);
        drop(slot);
        assert_eq!(Arc::strong_count(&token), 1);
    }

    #[test]
    fn a_value_stays_until_it_is_ready() {
        fn countdown(value: &mut u32) -> bool {
            *value -= 1;
            *value == 0
        }
        let slot = Slot::new();
        assert!(slot.reap_when(|_: &mut u32| true).is_none());
        let first = slot.fill(3).unwrap();
        slot.retire();
        assert!(slot.reap_when(countdown).is_none(), "referred to");
        assert_eq!(*first, 3);
        drop(first);
        assert!(slot.reap_when(countdown).is_none());
        assert!(slot.acquire().is_none() && slot.fill(9).is_err());
        let meanwhile = |value: &mut u32| {
            assert!(slot.reap().is_none(), "somebody has it");
            countdown(value)
        };
        assert!(slot.reap_when(meanwhile).is_none());
        assert_eq!(slot.reap_when(countdown), Some(0));
        assert!(slot.fill(9).is_ok());
    }

    #[test]
    fn readers_race_with_the_end() {
        let rounds = if cfg!(miri) { 3 } else { 300 };
        for _ in 0..rounds {
            let slot = Slot::new();
            drop(slot.fill(std::string::String::from("value")).unwrap());
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        while let Some(value) = slot.acquire() {
                            assert_eq!(&**value, "value");
                        }
                    });
                }
                scope.spawn(|| {
                    assert!(slot.retire());
                    while slot.reap().is_none() {
                        std::thread::yield_now();
                    }
                });
            });
            assert_eq!(slot.references(), 0);
        }
    }
}
