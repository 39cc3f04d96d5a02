//! What a bench build counts: what is dear on hardware and yet one instruction like any other. It is counted where the
//! instruction stands, by the CPU that executes it, for itself; the sum of a CPU lies in its record (`per_cpu`).
//!
//! Without the feature `counters` nothing of this is in an image. The feature decides whether is counted, and nothing else.
//! What boot does before it runs on a CPU's own stack is not counted, nor what it sets once and for all.
#![forbid(unsafe_code)]

#[cfg(feature = "counters")]
#[doc(hidden)]
pub mod atomic;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A load of CR3; not those of an exception that hits an entry stub while a twin is loaded.
    Cr3Write,
    /// A flush of all translations, or of all that have one PCID, that is not the side effect of another root.
    Flush,
    /// A flush of the translations of one page.
    PageFlush,
    /// A locked instruction, or a fence, which waits for the same: changes of atomics by what they were, attempts included;
    /// stores that all CPUs see in one order; each lock that is taken. Not counted are the making of a value by
    /// [`Once`](crate::sync::Once), and what the CPU locks by itself when it walks page tables or loads segments.
    Locked,
    /// A write of a model-specific register.
    MsrWrite,
    /// An interrupt that is sent to another CPU.
    Ipi,
}

impl Event {
    /// All of them, in the order of their counts.
    pub const ALL: [Self; 6] = [
        Self::Cr3Write,
        Self::Flush,
        Self::PageFlush,
        Self::Locked,
        Self::MsrWrite,
        Self::Ipi,
    ];

    /// What heads its column: a word of at most eight bytes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cr3Write => "cr3",
            Self::Flush => "flush",
            Self::PageFlush => "invlpg",
            Self::Locked => "locked",
            Self::MsrWrite => "wrmsr",
            Self::Ipi => "ipi",
        }
    }
}

/// Counts one.
#[inline(always)]
pub fn count(event: Event) {
    #[cfg(feature = "counters")]
    kept::with(|counts| counts.add(event));
    #[cfg(not(feature = "counters"))]
    let _ = event;
}

/// How often it was on the running CPU; on the host, in the running thread.
#[cfg(feature = "counters")]
pub fn read(event: Event) -> u64 {
    kept::with(|counts| counts.get(event)).unwrap_or(0)
}

/// Counts an access to a word that CPUs share, be it locked or not: on the host alone, where nobody counts instructions.
#[cfg(feature = "counters")]
#[inline(always)]
fn access() {
    #[cfg(not(target_os = "none"))]
    kept::access();
}

/// How many such accesses there were in the running thread. The model machine's memory is made of such words.
#[cfg(all(feature = "counters", not(target_os = "none")))]
pub fn accesses() -> u64 {
    kept::accesses()
}

#[cfg(all(feature = "counters", target_os = "none"))]
use crate::backend::counters as kept;

#[cfg(all(feature = "counters", not(target_os = "none")))]
mod kept {
    use core::cell::Cell;

    use super::Counts;

    std::thread_local! {
        static COUNTS: Counts = const { Counts::new() };
        static ACCESSES: Cell<u64> = const { Cell::new(0) };
    }

    pub(super) fn access() {
        // A thread that is about to end has nobody who asks.
        let _ = ACCESSES.try_with(|accesses| accesses.set(accesses.get().wrapping_add(1)));
    }

    pub(super) fn accesses() -> u64 {
        ACCESSES.get()
    }

    /// Lets `work` at the counts of this thread, unless it is about to end.
    pub(super) fn with<R>(work: impl FnOnce(&Counts) -> R) -> Option<R> {
        COUNTS.try_with(work).ok()
    }
}

/// The counts of one CPU, which nobody else touches. An NMI that comes between load and store may lose one.
#[cfg(feature = "counters")]
pub(crate) struct Counts([core::cell::Cell<u64>; Event::ALL.len()]);

#[cfg(feature = "counters")]
impl Counts {
    pub(crate) const fn new() -> Self {
        Self([const { core::cell::Cell::new(0) }; Event::ALL.len()])
    }

    /// Bytes from the start to the count of CR3 loads, for those of the entry stubs.
    #[cfg(target_os = "none")]
    pub(crate) const CR3_WRITES: usize = size_of::<u64>() * Event::Cr3Write as usize;

    #[inline(always)]
    fn add(&self, event: Event) {
        let count = &self.0[event as usize];
        count.set(count.get().wrapping_add(1));
    }

    fn get(&self, event: Event) -> u64 {
        self.0[event as usize].get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ() {
        for (index, event) in Event::ALL.into_iter().enumerate() {
            assert_eq!(event as usize, index);
            assert!((1..=8).contains(&event.name().len()));
            assert!(event.name().bytes().all(|byte| byte.is_ascii_graphic()));
            for other in &Event::ALL[index + 1..] {
                assert_ne!(event.name(), other.name());
            }
        }
    }

    #[cfg(feature = "counters")]
    #[test]
    fn each_is_counted_for_itself() {
        let before = Event::ALL.map(read);
        for event in Event::ALL {
            for _ in 0..=event as usize {
                count(event);
            }
        }
        for event in Event::ALL {
            let index = event as usize;
            assert_eq!(read(event) - before[index], index as u64 + 1);
        }
    }
}
