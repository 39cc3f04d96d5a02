//! Which vector of which CPU is whose.
//!
//! INVARIANT: an entry is taken by compare-exchange, and given back when its source is closed. What was on its way then arrives at nobody:
//! a vector that was given back is the last to be taken again.

use oxen_arch::interrupts::device_vectors_from;
use oxen_arch::memory::BootSlice;
use oxen_arch::sync::atomic::{AtomicU32, Ordering};
use oxen_arch::{CpuId, Machine, Target};

use super::Pirq;

/// Places of a CPU: one for every vector that there can be.
const PLACES: usize = 256;
/// Nobody's.
const FREE: u32 = 0;

/// See the module.
pub struct Vectors {
    /// Number of the pirq, plus one.
    places: BootSlice<AtomicU32>,
    nr_cpus: u32,
    /// How many were taken ever: where the search begins.
    taken: AtomicU32,
}

impl Vectors {
    /// All free. `None`: memory is short.
    pub fn new(machine: &Machine) -> Option<Self> {
        let count = machine.nr_cpus().checked_mul(PLACES)?;
        Some(Self {
            places: machine.boot_slice(count, |_| AtomicU32::new(FREE))?,
            nr_cpus: u32::try_from(machine.nr_cpus()).ok()?,
            taken: AtomicU32::new(0),
        })
    }

    fn place(&self, target: Target) -> Option<&AtomicU32> {
        let cpu = usize::try_from(target.cpu.get()).ok()?;
        let first = cpu.checked_mul(PLACES)?;
        self.places
            .get(first.checked_add(usize::from(target.vector))?)
    }

    /// Takes a vector, on each CPU in turn, that the machine's devices reach. `None`: there is none.
    pub fn take(&self, machine: &Machine, pirq: Pirq) -> Option<Target> {
        let turn = self.taken.fetch_add(1, Ordering::Relaxed);
        let cpus = (0..self.nr_cpus).map(|cpu| {
            let cpu = cpu.wrapping_add(turn).checked_rem(self.nr_cpus);
            CpuId::new(cpu.unwrap_or(0))
        });
        let used = turn.checked_div(self.nr_cpus).unwrap_or(0);
        cpus.flat_map(|cpu| device_vectors_from(used).map(move |vector| Target { cpu, vector }))
            .filter(|target| machine.message(*target).is_some())
            .find(|target| self.exchange(*target, FREE, owned_by(pirq)))
    }

    /// Gives one back.
    pub fn give_back(&self, target: Target, pirq: Pirq) {
        self.exchange(target, owned_by(pirq), FREE);
    }

    /// Whose a vector is.
    pub fn find(&self, target: Target) -> Option<Pirq> {
        let number = self.place(target)?.load(Ordering::Acquire);
        Pirq::new(number.checked_sub(1)?)
    }

    fn exchange(&self, target: Target, old: u32, new: u32) -> bool {
        let place = self.place(target);
        place.is_some_and(|place| {
            place
                .compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        })
    }
}

const fn owned_by(pirq: Pirq) -> u32 {
    pirq.get().saturating_add(1)
}
