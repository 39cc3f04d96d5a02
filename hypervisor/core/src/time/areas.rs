//! Where a vCPU's guest wants to be told of time, in addresses of its own kernel: claims, which are checked at each use.

use dom0_abi::addr::GuestAddr;
use oxen_arch::sync::atomic::{AtomicU64, Ordering};

/// An address that no guest has.
const NOWHERE: u64 = u64::MAX;

/// The places of one vCPU.
#[derive(Debug)]
pub struct Areas {
    runstate: AtomicU64,
    time: AtomicU64,
}

impl Areas {
    /// Nowhere.
    pub const fn new() -> Self {
        Self {
            runstate: AtomicU64::new(NOWHERE),
            time: AtomicU64::new(NOWHERE),
        }
    }

    /// Where its run state is to be kept.
    pub fn runstate(&self) -> Option<GuestAddr> {
        get(&self.runstate)
    }

    /// Where a copy of the time is to be kept.
    pub fn time(&self) -> Option<GuestAddr> {
        get(&self.time)
    }

    /// Changes where its run state is to be kept.
    pub fn set_runstate(&self, at: GuestAddr) {
        self.runstate.store(at.get(), Ordering::Relaxed);
    }

    /// Changes where a copy of the time is to be kept.
    pub fn set_time(&self, at: GuestAddr) {
        self.time.store(at.get(), Ordering::Relaxed);
    }
}

impl Default for Areas {
    fn default() -> Self {
        Self::new()
    }
}

fn get(place: &AtomicU64) -> Option<GuestAddr> {
    let at = place.load(Ordering::Relaxed);
    (at != NOWHERE).then_some(GuestAddr::new(at))
}
