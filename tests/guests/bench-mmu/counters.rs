//! What a bench build of Oxen counts beside instructions, asked for by a hypercall that nothing else answers.

use core::fmt;

use dom0_abi::xen::HYPERCALL_ARCH_7;
use guest_pv_drivers::hypercall;
use kit::println;

/// More than there are.
const MOST: usize = 16;
/// What the second argument asks for.
const COUNT: u64 = 0;
const NAME: u64 = 1;

/// The counters of the hypervisor; none where it does not count.
pub struct Counters {
    /// Each in eight bytes, the first one lowest.
    names: [u64; MOST],
    how_many: usize,
    /// What two readings, one behind the other, differ by.
    own: Counts,
}

/// How often each of them was.
#[derive(Clone, Copy)]
pub struct Counts([u64; MOST]);

fn ask(index: usize, what: u64) -> u64 {
    // SAFETY: this takes no pointer, and where it has no meaning it does nothing.
    unsafe { hypercall::raw(HYPERCALL_ARCH_7, [index as u64, what, 0, 0, 0]) }
}

impl Counters {
    /// Finds out what there is.
    pub fn find() -> Self {
        let mut found = Self {
            names: [0; MOST],
            how_many: 0,
            own: Counts([0; MOST]),
        };
        for (index, name) in found.names.iter_mut().enumerate() {
            let Ok(word) = hypercall::decode(ask(index, NAME)) else {
                break;
            };
            *name = word;
            found.how_many = index + 1;
        }
        found.own = found.around(|| ()).0;
        found
    }

    /// Does something, and tells what it made the hypervisor do.
    pub fn around<R>(&self, work: impl FnOnce() -> R) -> (Counts, R) {
        let before = self.read();
        let result = work();
        (self.read().minus(&before).minus(&self.own), result)
    }

    fn read(&self) -> Counts {
        let mut counts = Counts([0; MOST]);
        for (index, count) in counts.0[..self.how_many].iter_mut().enumerate() {
            *count = ask(index, COUNT);
        }
        counts
    }

    /// Prints them for a row: what they come to for one of the `operations`.
    pub fn print(&self, row: &str, counts: &Counts, operations: u64) {
        for (name, total) in self.names[..self.how_many].iter().zip(counts.0) {
            let bytes = name.to_le_bytes();
            let name = core::str::from_utf8(&bytes).unwrap_or("?");
            let name = name.trim_end_matches('\0');
            println!("COUNT {row} {name} {}", Share { total, operations });
        }
    }
}

impl Counts {
    /// More than anything.
    pub const MAX: Self = Self([u64::MAX; MOST]);

    /// What is left, counter by counter.
    pub fn minus(&self, other: &Self) -> Self {
        Self(core::array::from_fn(|index| {
            self.0[index].saturating_sub(other.0[index])
        }))
    }

    /// The lesser, counter by counter.
    pub fn min(&self, other: &Self) -> Self {
        Self(core::array::from_fn(|index| {
            self.0[index].min(other.0[index])
        }))
    }
}

/// A quotient, in thousandths if it is not whole.
struct Share {
    total: u64,
    operations: u64,
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let thousandths = (self.total * 1000 + self.operations / 2) / self.operations;
        let (whole, rest) = (thousandths / 1000, thousandths % 1000);
        match rest {
            0 => write!(f, "{whole}"),
            rest => write!(f, "{whole}.{rest:03}"),
        }
    }
}
