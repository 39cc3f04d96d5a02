//! Mutable state of a kernel that has one vCPU and no events.

use core::cell::UnsafeCell;

/// A static that is only ever used by one thread of control at a time.
pub struct Single<T>(UnsafeCell<T>);

// SAFETY: a guest has one vCPU and takes no events, so there is no second thread.
unsafe impl<T> Sync for Single<T> {}

impl<T> Single<T> {
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    pub const fn as_ptr(&self) -> *mut T {
        self.0.get()
    }
}

impl<T: Copy> Single<T> {
    pub fn get(&self) -> T {
        // SAFETY: see `Sync` above; no reference to the value ever exists.
        unsafe { self.0.get().read() }
    }

    pub fn set(&self, value: T) {
        // SAFETY: as for `get`.
        unsafe { self.0.get().write(value) }
    }
}
