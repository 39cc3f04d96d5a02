//! Whether and why a domain has shut down: one atomic word, since any of its vCPUs, or its toolstack, may be the first.
//!
//! INVARIANT: once it is down it stays down, and the reason stays as it was at that moment.

use core::fmt;

use dom0_abi::sched::ShutdownReason;
use oxen_arch::sync::atomic::{AtomicU32, Ordering};

const DOWN: u32 = 1 << 9;
const LATCHED: u32 = 1 << 8;
const REASON: u32 = 0xff;

/// The state.
#[derive(Debug)]
pub struct Shutdown(AtomicU32);

impl Shutdown {
    /// A domain that runs.
    pub fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Settles the reason that a later shutdown is reported with, if that is still open.
    pub fn latch(&self, reason: u8) {
        // A failure means that it is settled already.
        let _ = self.0.compare_exchange(
            0,
            LATCHED | u32::from(reason),
            Ordering::AcqRel,
            Ordering::Acquire,
        );
    }

    /// Shuts down. The reason is the one that was settled first. The domain's vCPUs have to hear of it ([`crate::host::Host::shut_down`]).
    pub(crate) fn enter(&self, reason: u8) {
        self.latch(reason);
        self.0.fetch_or(DOWN, Ordering::AcqRel);
    }

    /// Whether the domain has shut down.
    pub fn is_down(&self) -> bool {
        self.0.load(Ordering::Acquire) & DOWN != 0
    }

    /// Why it has, if it has.
    pub fn reason(&self) -> Option<Reason> {
        let word = self.0.load(Ordering::Acquire);
        (word & DOWN != 0).then_some(Reason((word & REASON) as u8))
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

/// The reason, as the guest gave it: a number of the ABI's, or none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason(pub u8);

impl Reason {
    /// The reason, if the ABI knows it.
    pub fn known(self) -> Option<ShutdownReason> {
        ShutdownReason::try_from(u32::from(self.0)).ok()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.known() {
            Some(ShutdownReason::PowerOff) => f.write_str("power off"),
            Some(ShutdownReason::Reboot) => f.write_str("reboot"),
            Some(ShutdownReason::Suspend) => f.write_str("suspend"),
            Some(ShutdownReason::Crash) => f.write_str("crash"),
            Some(ShutdownReason::Watchdog) => f.write_str("watchdog"),
            Some(ShutdownReason::SoftReset) => f.write_str("soft reset"),
            None => write!(f, "unknown reason {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays() {
        let plain = Shutdown::new();
        assert_eq!(plain.reason(), None);
        plain.enter(1);
        plain.enter(3);
        plain.latch(4);
        assert_eq!((plain.is_down(), plain.reason()), (true, Some(Reason(1))));

        let latched = Shutdown::new();
        latched.latch(0);
        assert_eq!((latched.is_down(), latched.reason()), (false, None));
        latched.latch(2);
        latched.enter(3);
        assert_eq!(latched.reason(), Some(Reason(0)));
    }

    #[test]
    fn every_byte_is_a_reason() {
        for byte in 0..=u8::MAX {
            let state = Shutdown::new();
            state.enter(byte);
            assert_eq!(state.reason(), Some(Reason(byte)));
            assert_eq!(Reason(byte).known().is_some(), byte <= 5);
        }
    }
}
