//! Slots, and for each CPU a seat: where it keeps the counted reference to what it works for from one entry to the next.
//!
//! A CPU that runs a guest needs the guest's domain at every entry, and nobody may take the domain away meanwhile. So it takes a
//! reference once, with the part of the value that entries want (its vCPU), and finds both in two loads, without counting.
//!
//! UNSAFETY: the reference outlives every scope of the code that took it, which safe Rust can say only of statics, and there
//! are none here. Slots and seats are one object, so neither outlives the other.

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ptr::{self, NonNull};

use crate::Cpu;
use crate::memory::BootSlice;
use crate::slot::{Slot, SlotRef};
use crate::sync::atomic::{AtomicU8, Ordering};

/// Slots, and the seats of all CPUs.
pub struct SlotTable<T, P> {
    slots: BootSlice<Slot<T>>,
    seats: BootSlice<Seat<T, P>>,
}

/// What one CPU keeps.
///
/// INVARIANT: whoever brought the state to `BUSY` has the cell for himself until he changes it again. In the state `TAKEN`
/// the cell holds pointers into the value of a slot of the same table, and one reference of that slot's count is the
/// seat's.
pub struct Seat<T, P> {
    state: AtomicU8,
    taken: UnsafeCell<Option<Taken<T, P>>>,
}

struct Taken<T, P> {
    slot: NonNull<Slot<T>>,
    value: NonNull<T>,
    part: NonNull<P>,
}

/// Nothing is kept.
const EMPTY: u8 = 0;
/// Something is kept, and the CPU is not using it.
const TAKEN: u8 = 1;
/// Somebody is in the cell, or uses what is kept.
const BUSY: u8 = 2;

// SAFETY: `&T` and `&P` are used on the CPU of the seat, and references to `T` are given back on any (so `T: Send + Sync` as for
// `Slot`); the states exclude everything else.
#[allow(unsafe_code)]
unsafe impl<T: Send + Sync, P: Sync> Sync for Seat<T, P> {}
// SAFETY: as above: the pointers are references that may be anywhere.
#[allow(unsafe_code)]
unsafe impl<T: Send + Sync, P: Sync> Send for Seat<T, P> {}

impl<T, P> Seat<T, P> {
    /// A seat in which nothing is kept.
    pub const fn new() -> Self {
        Self {
            state: AtomicU8::new(EMPTY),
            taken: UnsafeCell::new(None),
        }
    }

    /// Goes from a state to `BUSY`, if it is that. On the machine only the seat's own CPU comes here, one entry after the
    /// other: so a load and a store are as good as an exchange. On the host a test may confuse the CPUs of two machines.
    #[inline(always)]
    fn claim(&self, from: u8) -> bool {
        if cfg!(target_os = "none") {
            let is_there = self.state.load(Ordering::Relaxed) == from;
            if is_there {
                self.state.store(BUSY, Ordering::Relaxed);
            }
            return is_there;
        }
        self.state
            .compare_exchange(from, BUSY, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Ends what `claim` began.
    #[inline(always)]
    fn settle(&self, state: u8) {
        self.state.store(state, Ordering::Release);
    }
}

impl<T, P> Default for Seat<T, P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, P> SlotTable<T, P> {
    /// Puts slots and seats, the latter by the numbers of the CPUs, together.
    pub const fn new(slots: BootSlice<Slot<T>>, seats: BootSlice<Seat<T, P>>) -> Self {
        Self { slots, seats }
    }

    /// The slot of this number.
    pub fn slot(&self, index: usize) -> Option<&Slot<T>> {
        self.slots.get(index)
    }

    /// Keeps a reference in the CPU's seat, with the part of the value that `part` finds. Refused, and the reference is given back, if
    /// something is kept there, there is no such part, or the slot is another table's.
    pub fn sit(
        &self,
        cpu: &Cpu,
        reference: SlotRef<'_, T>,
        part: impl for<'a> FnOnce(&'a T) -> Option<&'a P>,
    ) -> bool {
        let (Some(seat), Some(part)) = (self.seat(cpu), part(&reference)) else {
            return false;
        };
        let (value, part) = (NonNull::from(&*reference), NonNull::from(part));
        let is_ours = |slot| self.slots.as_ptr_range().contains(&ptr::from_ref(slot));
        if !is_ours(reference.slot()) || !seat.claim(EMPTY) {
            return false;
        }
        let slot = NonNull::from(reference.into_slot());
        // SAFETY: the cell is ours: the state is `BUSY`, and we made it so.
        #[allow(unsafe_code)]
        unsafe {
            *seat.taken.get() = Some(Taken { slot, value, part });
        }
        seat.settle(TAKEN);
        true
    }

    /// What the CPU keeps; `None` if that is nothing, or the code that runs is using it already.
    #[inline(always)]
    pub fn enter(&self, cpu: &Cpu) -> Option<Entered<'_, T, P>> {
        let seat = self.seat(cpu)?;
        if !seat.claim(TAKEN) {
            return None;
        }
        Some(Entered {
            seat,
            stays: PhantomData,
        })
    }

    /// Gives back what the CPU keeps. `false`, and nothing is done, if that is nothing or in use.
    pub fn leave(&self, cpu: &Cpu) -> bool {
        let Some(seat) = self.seat(cpu) else {
            return false;
        };
        if !seat.claim(TAKEN) {
            return false;
        }
        // SAFETY: the cell is ours: the state is `BUSY`, and we made it so.
        #[allow(unsafe_code)]
        let taken = unsafe { (*seat.taken.get()).take() };
        if let Some(taken) = taken {
            // SAFETY: 1. The slot is in this table, so it is there. 2. The seat's reference is in its count, and the seat forgets
            // it here.
            #[allow(unsafe_code)]
            drop(unsafe { SlotRef::from_slot(taken.slot.as_ref()) });
        }
        seat.settle(EMPTY);
        true
    }

    #[inline(always)]
    fn seat(&self, cpu: &Cpu) -> Option<&Seat<T, P>> {
        self.seats.get(usize::try_from(cpu.id().get()).ok()?)
    }
}

/// What a CPU keeps, in use until this is dropped: it cannot be given back meanwhile.
pub struct Entered<'t, T, P> {
    seat: &'t Seat<T, P>,
    stays: PhantomData<*const ()>,
}

impl<T, P> Entered<'_, T, P> {
    /// The value, and the part of it.
    #[inline(always)]
    pub fn both(&self) -> (&T, &P) {
        // SAFETY: 1. The state was `TAKEN` and is `BUSY` for as long as `self` is there, so by the invariant of `Seat` the cell
        // is filled, nobody writes to it, and a reference is counted. 2. So the value stays as `Slot` promises, and its part
        // with it, which was borrowed from it; both borrows end before `self`.
        #[allow(unsafe_code)]
        unsafe {
            let taken = (*self.seat.taken.get()).as_ref().unwrap_unchecked();
            (taken.value.as_ref(), taken.part.as_ref())
        }
    }
}

impl<T, P> Drop for Entered<'_, T, P> {
    #[inline(always)]
    fn drop(&mut self) {
        self.seat.settle(TAKEN);
    }
}

#[cfg(test)]
mod tests {
    use std::string::String;

    use super::*;
    use crate::{Machine, SimConfig};

    type Table = SlotTable<[String; 2], String>;

    fn table(machine: &Machine) -> Table {
        let slots = machine.boot_slice(3, |_| Slot::new()).unwrap();
        let seats = machine.boot_slice(machine.nr_cpus(), |_| Seat::new());
        SlotTable::new(slots, seats.unwrap())
    }

    fn machine() -> Machine {
        let mut config = SimConfig::new(16 << 20);
        config.cpus = 2;
        Machine::new(config).0
    }

    fn value() -> [String; 2] {
        ["first".into(), "second".into()]
    }

    #[test]
    fn what_a_cpu_keeps_stays_until_it_leaves() {
        let machine = machine();
        let [cpu, other] = [0, 1].map(|id| machine.cpu(crate::CpuId::new(id)));
        let table = table(&machine);
        let slot = table.slot(1).unwrap();
        assert!(table.enter(&cpu).is_none() && !table.leave(&cpu));
        let reference = slot.fill(value()).unwrap();
        assert!(table.sit(&cpu, reference, |both| both.get(1)));
        assert!(slot.retire() && slot.reap().is_none(), "a seat counts");
        assert!(table.enter(&other).is_none(), "each has a seat of its own");
        for _ in 0..2 {
            let entered = table.enter(&cpu).unwrap();
            assert_eq!(entered.both().0[0], "first");
            assert_eq!(entered.both().1, "second");
            assert!(table.enter(&cpu).is_none(), "in use");
            assert!(!table.leave(&cpu), "in use");
        }
        assert!(table.leave(&cpu) && !table.leave(&cpu));
        assert!(table.enter(&cpu).is_none());
        assert_eq!(slot.reap(), Some(value()));
    }

    #[test]
    fn a_seat_is_taken_once_by_what_the_table_has() {
        let machine = machine();
        let cpu = machine.cpu(crate::CpuId::new(0));
        let (table, another) = (table(&machine), table(&machine));
        let slot = table.slot(0).unwrap();
        let foreign = another.slot(0).unwrap();
        assert!(!table.sit(&cpu, foreign.fill(value()).unwrap(), |both| both.first()));
        assert_eq!(foreign.references(), 0, "given back");
        assert!(!table.sit(&cpu, slot.fill(value()).unwrap(), |both| both.get(2)));
        assert!(table.sit(&cpu, slot.acquire().unwrap(), |both| both.first()));
        assert!(!table.sit(&cpu, slot.acquire().unwrap(), |both| both.first()));
        assert_eq!(slot.references(), 1);
    }
}
