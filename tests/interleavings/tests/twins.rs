//! A root and its twin, which several CPUs write to: both hold the same at the end, and what a CPU has taken out of the root is
//! in neither any more when its references end.
#![forbid(unsafe_code)]

use dom0_abi::addr::Mfn;
use dom0_abi::ids::DomId;
use interleavings::Machine;
use interleavings::frame::{Frames, Memory};
use interleavings::page_type::HeldType;
use interleavings::page_type::entry::Entry;
use interleavings::twin;
use loom::sync::Arc;
use loom::thread;

const OWNER: DomId = DomId::new(1);
const ROOT: Mfn = Mfn::new(0);
const TWIN: Mfn = Mfn::new(1);
const SLOT: u16 = 3;

struct Host {
    machine: Machine,
    frames: Frames,
}

impl Host {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            machine: Machine::of(2),
            frames: Frames::of(OWNER, 2),
        })
    }

    fn slot(&self, page: Mfn) -> u64 {
        self.machine.load_u64(page.word(SLOT.into())).unwrap()
    }

    fn exchange(&self, old: u64, new: u64) -> Result<u64, u64> {
        let memory = Memory {
            machine: &self.machine,
            frames: &self.frames,
        };
        let root = HeldType::to(ROOT);
        twin::exchange(memory, &root, SLOT, Entry(old), Entry(new)).unwrap()
    }

    /// Replaces whatever the slot holds, as `mmu::update` does. No entry is ever written twice, so the old one may be in neither
    /// page from then on: its references end now.
    fn replace(&self, new: u64) -> u64 {
        let mut old = self.slot(ROOT);
        while let Err(now) = self.exchange(old, new) {
            old = now;
        }
        assert_ne!(self.slot(TWIN), old, "a CPU may still run on it");
        assert_ne!(self.slot(ROOT), old);
        old
    }
}

/// Lets CPUs write these entries at the same time, each its own in order; then both pages hold the same, one that was written
/// last, and every other one was taken out by one CPU.
fn race(preemptions: Option<usize>, cpus: &'static [&'static [u64]]) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(move || {
        let host = Host::new();
        let write = |host: &Host, entries: &[u64]| -> Vec<u64> {
            entries.iter().map(|&new| host.replace(new)).collect()
        };
        let others: Vec<_> = cpus[1..]
            .iter()
            .map(|entries| {
                let host = host.clone();
                thread::spawn(move || write(&host, entries))
            })
            .collect();
        let mut taken = write(&host, cpus[0]);
        for other in others {
            taken.extend(other.join().unwrap());
        }
        let last = host.slot(ROOT);
        assert_eq!(host.slot(TWIN), last);
        assert!(cpus.iter().any(|entries| entries.last() == Some(&last)));
        taken.push(last);
        taken.sort_unstable();
        let mut all: Vec<_> = cpus.iter().copied().flatten().copied().collect();
        all.push(0);
        all.sort_unstable();
        assert_eq!(taken, all);
    });
}

#[test]
fn two_cpus_that_write_one_slot_leave_both_pages_alike() {
    race(None, &[&[0x1007], &[0x2007]]);
}

#[test]
fn what_is_taken_out_is_in_neither_page() {
    race(Some(3), &[&[0x1007, 0x3007], &[0x2007, 0x4007]]);
}

#[test]
fn three_cpus_that_write_one_slot_leave_both_pages_alike() {
    race(Some(2), &[&[0x1007], &[0x2007], &[0x3007]]);
}

#[test]
fn who_comes_too_late_changes_neither_page() {
    loom::model(|| {
        let host = Host::new();
        assert_eq!(host.exchange(0, 0x1007), Ok(0));
        assert_eq!(host.exchange(0, 0x2007), Err(0x1007));
        assert_eq!([host.slot(ROOT), host.slot(TWIN)], [0x1007; 2]);
    });
}
