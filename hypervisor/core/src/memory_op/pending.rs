//! The one large step of an exchange that a domain may have under way.
//!
//! Nobody is charged for what such a step keeps, so there is one for each domain: 2 MiB, however many vCPUs it has. Another vCPU that
//! wants to begin one waits by going on later, as for a frame that is being changed.
//!
//! INVARIANT: what is kept is the step of the vCPU that is named with it.
//! LOCK: rank `Domain`, held for a few instructions.

use dom0_abi::ids::VcpuId;
use oxen_arch::sync::{Rank, SpinLock};

use super::HeldExchange;
use crate::page_type::Stop;

/// Whose step it is, and what is kept of it while that vCPU is not at work on it.
#[derive(Debug)]
pub struct PendingExchange(SpinLock<Option<(VcpuId, Option<HeldExchange>)>>);

impl Default for PendingExchange {
    fn default() -> Self {
        Self::new()
    }
}

impl PendingExchange {
    /// None is under way.
    pub const fn new() -> Self {
        Self(SpinLock::new(Rank::Domain, None))
    }

    /// Begins one for this vCPU, or takes up its own: what was kept of that comes along. [`Stop::Again`]: another vCPU has one.
    pub(super) fn enter(&self, vcpu: VcpuId) -> Result<Option<HeldExchange>, Stop> {
        let mut pending = self.0.lock();
        match pending.as_mut() {
            Some((whose, held)) if *whose == vcpu => Ok(held.take()),
            Some(_) => Err(Stop::Again),
            None => {
                *pending = Some((vcpu, None));
                Ok(None)
            }
        }
    }

    /// Keeps what is to be gone on with by the vCPU that entered.
    pub(super) fn keep(&self, vcpu: VcpuId, held: HeldExchange) {
        *self.0.lock() = Some((vcpu, Some(held)));
    }

    /// Says that the step of the vCPU that entered is over.
    pub(super) fn leave(&self) {
        *self.0.lock() = None;
    }

    /// Takes out what is kept, for the end of the domain.
    #[must_use = "frames that do not come back are lost"]
    pub fn take(&self) -> Option<HeldExchange> {
        self.0.lock().take().and_then(|(_, held)| held)
    }

    /// How many frames the step that is kept has exchanged.
    #[cfg(test)]
    pub(super) fn done(&self) -> Option<u64> {
        let pending = self.0.lock();
        let (_, held) = pending.as_ref()?;
        held.as_ref().map(HeldExchange::done)
    }
}
