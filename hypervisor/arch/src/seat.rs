//! Slots, and for each CPU a seat: where it keeps the counted reference to what it works for from one entry to the next.
//!
//! A CPU that runs a guest needs the guest's domain at every entry, and nobody may take the domain away meanwhile. So it takes a
//! reference once, with the part of the value that entries want (its vCPU), and finds both in its own record, without counting.
//!
//! UNSAFETY: the reference outlives every scope of the code that took it, which safe Rust can say only of statics, and there
//! are none here. A seat says whose it is by a number that no two tables have, so nobody else looks at what is kept there.

use core::marker::PhantomData;
use core::ptr::{self, NonNull};

use crate::Cpu;
use crate::memory::BootSlice;
use crate::slot::{Slot, SlotRef};
use crate::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// Slots, and what CPUs keep of them.
pub struct SlotTable<T, P> {
    slots: BootSlice<Slot<T>>,
    number: u64,
    parts: PhantomData<fn() -> P>,
}

/// What one CPU keeps, in its record. Only the CPU itself comes here, one piece of code after the other: the atomics are but
/// cells that the records of a model machine may have.
///
/// INVARIANT: if `slot` is not null, it is a slot of one table, the others are a value in it and a part of that, and one reference of
/// the slot's count is the seat's. `owner` is the number of that table, or [`NOBODY`] as long as somebody uses what is kept.
pub(crate) struct Seat {
    owner: AtomicU64,
    slot: AtomicPtr<()>,
    value: AtomicPtr<()>,
    part: AtomicPtr<()>,
}

/// The number of no table.
const NOBODY: u64 = 0;
/// The number of the next table.
static NEXT: AtomicU64 = AtomicU64::new(NOBODY + 1);

impl Seat {
    /// A seat in which nothing is kept.
    pub(crate) const fn new() -> Self {
        Self {
            owner: AtomicU64::new(NOBODY),
            slot: AtomicPtr::new(ptr::null_mut()),
            value: AtomicPtr::new(ptr::null_mut()),
            part: AtomicPtr::new(ptr::null_mut()),
        }
    }
}

impl<T: Send + Sync, P: Sync> SlotTable<T, P> {
    /// A table of these slots.
    pub fn new(slots: BootSlice<Slot<T>>) -> Self {
        Self {
            slots,
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            parts: PhantomData,
        }
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
        let seat = cpu.seat();
        let Some(part) = part(&reference) else {
            return false;
        };
        let (value, part) = (NonNull::from(&*reference), NonNull::from(part));
        let is_ours = |slot| self.slots.as_ptr_range().contains(&ptr::from_ref(slot));
        let is_free = seat.slot.load(Ordering::Relaxed).is_null();
        if !is_ours(reference.slot()) || !is_free {
            return false;
        }
        let slot = NonNull::from(reference.into_slot());
        seat.slot.store(slot.as_ptr().cast(), Ordering::Relaxed);
        seat.value.store(value.as_ptr().cast(), Ordering::Relaxed);
        seat.part.store(part.as_ptr().cast(), Ordering::Relaxed);
        seat.owner.store(self.number, Ordering::Relaxed);
        true
    }

    /// What the CPU keeps of this table; `None` if that is nothing, or the code that runs is using it already.
    #[inline(always)]
    pub fn enter<'t>(&'t self, cpu: &'t Cpu) -> Option<Entered<'t, T, P>> {
        let seat = cpu.seat();
        if seat.owner.load(Ordering::Relaxed) != self.number {
            return None;
        }
        seat.owner.store(NOBODY, Ordering::Relaxed);
        Some(Entered {
            seat,
            table: self,
            stays: PhantomData,
        })
    }

    /// Takes what the CPU keeps out of its seat. `None`, and nothing is done, if that is nothing of this table, or in use.
    pub fn leave(&self, cpu: &Cpu) -> Option<SlotRef<'_, T>> {
        let seat = cpu.seat();
        if seat.owner.load(Ordering::Relaxed) != self.number {
            return None;
        }
        seat.owner.store(NOBODY, Ordering::Relaxed);
        let slot = seat.slot.load(Ordering::Relaxed);
        seat.slot.store(ptr::null_mut(), Ordering::Relaxed);
        // SAFETY: 1. By its number what was kept is a slot of this table, so it is there. 2. The seat's reference is in its count,
        // and the seat forgets it here.
        #[allow(unsafe_code)]
        Some(unsafe { SlotRef::from_slot(&*slot.cast::<Slot<T>>()) })
    }
}

/// What a CPU keeps, in use until this is dropped: it cannot be given back meanwhile.
pub struct Entered<'t, T, P> {
    seat: &'t Seat,
    table: &'t SlotTable<T, P>,
    stays: PhantomData<*const ()>,
}

impl<T, P> Entered<'_, T, P> {
    /// The value, and the part of it.
    #[inline(always)]
    pub fn both(&self) -> (&T, &P) {
        let value = self.seat.value.load(Ordering::Relaxed).cast::<T>();
        let part = self.seat.part.load(Ordering::Relaxed).cast::<P>();
        // SAFETY: 1. The seat was this table's, so by its invariant these are a `T` and a `P`, and a reference is counted; that stays
        // so for as long as `self` is there, since nobody changes a seat that is in use. 2. So the value stays as `Slot` promises,
        // and its part with it, which was borrowed from it; both borrows end before `self`. 3. Another thread may have
        // taken the reference, on a CPU that a host plays: hence the bounds of `SlotTable`.
        #[allow(unsafe_code)]
        unsafe {
            (&*value, &*part)
        }
    }
}

impl<T, P> Drop for Entered<'_, T, P> {
    #[inline(always)]
    fn drop(&mut self) {
        self.seat.owner.store(self.table.number, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::string::String;

    use super::*;
    use crate::{Machine, SimConfig};

    type Table = SlotTable<[String; 2], String>;

    fn table(machine: &Machine) -> Table {
        SlotTable::new(machine.boot_slice(3, |_| Slot::new()).unwrap())
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
        assert!(table.enter(&cpu).is_none() && table.leave(&cpu).is_none());
        let reference = slot.fill(value()).unwrap();
        assert!(table.sit(&cpu, reference, |both| both.get(1)));
        assert!(slot.retire() && slot.reap().is_none(), "a seat counts");
        assert!(table.enter(&other).is_none(), "each has a seat of its own");
        for _ in 0..2 {
            let entered = table.enter(&cpu).unwrap();
            assert_eq!(entered.both().0[0], "first");
            assert_eq!(entered.both().1, "second");
            assert!(table.enter(&cpu).is_none(), "in use");
            assert!(table.leave(&cpu).is_none(), "in use");
            let next = table.slot(2).unwrap().fill(value()).unwrap();
            assert!(!table.sit(&cpu, next, |both| both.first()), "in use");
            assert!(table.slot(2).unwrap().retire());
            assert!(table.slot(2).unwrap().reap().is_some(), "given back");
        }
        let another = self::table(&machine);
        assert!(another.enter(&cpu).is_none(), "not what it has");
        assert!(another.leave(&cpu).is_none(), "not what it has");
        assert!(table.leave(&cpu).is_some() && table.leave(&cpu).is_none());
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
