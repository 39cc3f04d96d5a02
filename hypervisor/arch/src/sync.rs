//! Locks with an order, and the atomics. All of `core` takes both from here and from nowhere else, so that a model
//! checker can replace them.
//!
//! INVARIANT: a CPU takes a lock only if its [`Rank`] is above those of all locks it holds; then no circle of waiting
//! CPUs exists. A CPU that waits for a lock serves its mailbox (`tlb`): the holder may wait for that. On the host every
//! thread keeps a list of what it holds, and a lock out of order panics and names both.
#![forbid(unsafe_code)]

use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
#[cfg(not(feature = "counters"))]
pub use core::sync::atomic;

use spin::RelaxStrategy;
use spin::mutex::{TicketMutex, TicketMutexGuard};

#[cfg(feature = "counters")]
pub use crate::counters::atomic;
use crate::counters::{Event, count};

/// A value that is made once, by whoever comes first.
pub use spin::Once;

/// A sequentially consistent fence, for whoever has just changed some word by a read-modify-write: on the machine each of these is
/// a full barrier already, so only the compiler is told.
#[inline(always)]
pub fn fence_behind_exchange() {
    if cfg!(target_os = "none") {
        core::sync::atomic::compiler_fence(atomic::Ordering::SeqCst);
    } else {
        atomic::fence(atomic::Ordering::SeqCst);
    }
}

/// To be called in every loop that waits for another CPU: does meanwhile what others want of this one, so that no two wait for
/// each other in vain. On the host the sender of a request sees to it.
#[inline]
pub fn spin_loop() {
    core::hint::spin_loop();
    #[cfg(target_os = "none")]
    crate::backend::serve_requests();
}

/// Waiting for a lock. Who holds it may be waiting for this CPU to flush its TLB.
struct Serving;

impl RelaxStrategy for Serving {
    #[inline]
    fn relax() {
        spin_loop();
    }
}

/// The order of locks: what comes later here is taken later.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Rank {
    /// One vCPU. First of all: the CPU that runs it holds its lock from entry to exit, and takes whatever the entry needs.
    Vcpu,
    /// The table of all domains.
    Domains,
    /// One domain as a whole.
    Domain,
    /// Grants and their mappings.
    Grants,
    /// The event channel ports of a domain.
    Ports,
    /// Which interrupts of devices are whose.
    InterruptMap,
    /// One of them, and what became of it.
    Interrupt,
    /// The queues of event channel ports of a vCPU.
    Queues,
    /// The queues of the scheduler.
    Scheduler,
    /// The timers of a vCPU, and what became of its time.
    Time,
    /// What is to happen at some time on a CPU.
    TimerQueues,
    /// Page tables to be given back: references end everywhere.
    Undo,
    /// The list of a domain's frames.
    Owners,
    /// The frame allocator.
    Frames,
    /// What boot left to be taken; descriptions of the machine.
    Machine,
    /// The log ring and the way of lines to it.
    Log,
    /// The console: late, because everybody may want to say something.
    Console,
    /// The devices inside `arch`, which the console writes to.
    Devices,
}

/// A lock that serves CPUs in the order of their coming, with a rank.
pub struct SpinLock<T: ?Sized> {
    rank: Rank,
    inner: TicketMutex<T, Serving>,
}

/// A [`SpinLock`] that is held. It ends on the CPU on which it began.
pub struct Guard<'a, T: ?Sized> {
    inner: TicketMutexGuard<'a, T, Serving>,
    rank: Rank,
    not_send: PhantomData<*const ()>,
}

impl<T> SpinLock<T> {
    /// Makes a lock that is not held.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self {
            rank,
            inner: TicketMutex::new(value),
        }
    }

    /// Gives the value back.
    pub fn into_inner(self) -> T {
        self.inner.into_inner()
    }
}

impl<T: ?Sized> SpinLock<T> {
    /// Waits for the lock. On the host this panics if a lock of this rank or one above is held.
    pub fn lock(&self) -> Guard<'_, T> {
        held::check(self.rank);
        let inner = self.inner.lock();
        count(Event::Locked);
        held::push(self.rank);
        Guard {
            inner,
            rank: self.rank,
            not_send: PhantomData,
        }
    }

    /// Takes the lock if nobody holds it. The rank does not matter, because who does not wait closes no circle.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        let inner = self.inner.try_lock()?;
        count(Event::Locked);
        held::push(self.rank);
        Some(Guard {
            inner,
            rank: self.rank,
            not_send: PhantomData,
        })
    }

    /// Reaches the value without locking: who has the only reference needs no lock.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }
}

impl<T: ?Sized> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        held::pop(self.rank);
    }
}

impl<T: ?Sized> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: ?Sized> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for SpinLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpinLock")
            .field("rank", &self.rank)
            .field("value", &&self.inner)
            .finish()
    }
}

#[cfg(target_os = "none")]
mod held {
    use super::Rank;

    pub(super) fn check(_: Rank) {}
    pub(super) fn push(_: Rank) {}
    pub(super) fn pop(_: Rank) {}
}

#[cfg(not(target_os = "none"))]
mod held {
    //! The ranks that this thread holds.

    use core::cell::RefCell;
    use std::vec::Vec;

    use super::Rank;

    std::thread_local! {
        static HELD: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn check(rank: Rank) {
        let highest = HELD.with_borrow(|held| held.iter().copied().max());
        if let Some(highest) = highest.filter(|highest| *highest >= rank) {
            panic!("lock of rank {rank:?} taken while one of rank {highest:?} is held");
        }
    }

    pub(super) fn push(rank: Rank) {
        HELD.with_borrow_mut(|held| held.push(rank));
    }

    pub(super) fn pop(rank: Rank) {
        HELD.with_borrow_mut(|held| {
            if let Some(at) = held.iter().rposition(|held| *held == rank) {
                held.remove(at);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::string::String;

    use super::*;

    fn message(of: impl FnOnce()) -> String {
        let payload = catch_unwind(AssertUnwindSafe(of)).expect_err("nothing panicked");
        payload
            .downcast_ref::<String>()
            .cloned()
            .unwrap_or_default()
    }

    #[test]
    fn ascending_ranks_may_nest_and_end_in_any_order() {
        let (a, b, c) = (
            SpinLock::new(Rank::Domains, 1),
            SpinLock::new(Rank::Ports, 2),
            SpinLock::new(Rank::Console, 3),
        );
        let (held_a, held_b) = (a.lock(), b.lock());
        drop(held_a);
        let held_c = c.lock();
        drop(held_b);
        assert_eq!(*held_c, 3);
        drop(held_c);
        assert_eq!(*a.lock(), 1);
    }

    #[test]
    fn an_entry_holds_its_vcpu_and_takes_every_other_lock() {
        let vcpu = SpinLock::new(Rank::Vcpu, ());
        let held = vcpu.lock();
        for rank in [
            Rank::Domains,
            Rank::Domain,
            Rank::Grants,
            Rank::Ports,
            Rank::Scheduler,
            Rank::Time,
            Rank::Frames,
            Rank::Machine,
            Rank::Log,
            Rank::Console,
            Rank::Devices,
        ] {
            let other = SpinLock::new(rank, ());
            drop(other.lock());
        }
        drop(held);
    }

    #[test]
    fn a_lock_out_of_order_names_both_ranks() {
        let (low, high) = (
            SpinLock::new(Rank::Domain, ()),
            SpinLock::new(Rank::Frames, ()),
        );
        let text = message(|| {
            let _high = high.lock();
            let _low = low.lock();
        });
        assert_eq!(
            text,
            "lock of rank Domain taken while one of rank Frames is held"
        );
        // Both are free again, and forgotten.
        let _low = low.lock();
        let _high = high.lock();
    }

    #[test]
    fn two_locks_of_one_rank_never_nest() {
        let (a, b) = (SpinLock::new(Rank::Vcpu, ()), SpinLock::new(Rank::Vcpu, ()));
        let text = message(|| {
            let _a = a.lock();
            let _b = b.lock();
        });
        assert!(text.contains("Vcpu taken while one of rank Vcpu"), "{text}");
        let _a = a.lock();
        assert!(b.try_lock().is_some(), "who does not wait may");
        assert!(a.try_lock().is_none());
        assert!(format!("{b:?}").contains("Vcpu"));
    }

    #[test]
    fn it_excludes() {
        let count = SpinLock::new(Rank::Domains, 0u32);
        let rounds = if cfg!(miri) { 20 } else { 2000 };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..rounds {
                        let mut count = count.lock();
                        let before = *count;
                        *count = before + 1;
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), 4 * rounds);
    }
}
