//! What a vCPU polls, where that is several ports. Which vCPUs poll is in `pollers`, whose order of steps holds for these ports too.

use arrayvec::ArrayVec;
use dom0_abi::ids::Port;

use super::send;
use crate::domain::Domain;
use crate::host::Host;

/// The most ports that one poll may name. ABI: `public/sched.h`, `SCHEDOP_poll`, leaves it open; this is Xen's limit.
pub const MAX_POLLED: usize = 128;

/// The ports that a vCPU polls, if they are several, as they were when the poll began: what its memory says later is not asked.
#[derive(Debug)]
pub struct PolledPorts(ArrayVec<Port, MAX_POLLED>);

impl PolledPorts {
    /// None.
    pub const fn new() -> Self {
        Self(ArrayVec::new_const())
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds one. `false`: there are as many as there can be.
    pub fn add(&mut self, port: Port) -> bool {
        self.0.try_push(port).is_ok()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether one is pending, masked or not, or has been closed, for which nobody could wait any longer. Of none, any that has just
    /// become so is one.
    pub fn end_poll(&self, host: &Host, domain: &Domain) -> bool {
        let is_over = |port: &Port| send::is_pending(host, domain, *port) != Ok(false);
        self.0.is_empty() || self.0.iter().any(is_over)
    }
}

impl Default for PolledPorts {
    fn default() -> Self {
        Self::new()
    }
}
