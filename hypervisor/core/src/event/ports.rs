//! The ports of a domain: how many there are, and the way to each.
//!
//! Their words lie in pages that are added as numbers are taken, and stay until the domain is gone: so whoever has found a port may go on
//! looking at it. A domain whose numbers stay below 512 has one page, and none has more than eight, which is the most that its ports
//! cost the host; like its vCPUs, and as on Xen, they are not counted as its memory.
//!
//! INVARIANT (I22): a port is reached only by [`Ports::cell`], which looks whether there is one (XSA-221, 317, 340); what is valid once
//! stays valid.
//! INVARIANT: a number is taken before its word says that it is a port, and given back behind its being free.
//! LOCK: rank `Ports`, for the numbers alone, for a few instructions. No port is locked or waited for under it, and nobody who sends needs it.

use core::fmt;

use dom0_abi::errno::Errno;
use dom0_abi::ids::Port;
use oxen_arch::memory::FrameBox;
use oxen_arch::sync::atomic::{AtomicU32, Ordering};
use oxen_arch::sync::{Rank, SpinLock};
use oxen_arch::write_once::WriteOnce;

use super::cell::PortCell;
use super::numbers::Numbers;
use super::pollers::Pollers;
use super::two_level::NR_PORTS;
use super::word::Binding;
use crate::frame::Memory;

/// Ports that become valid at a time, as on Xen: callers see the border.
const STEP: u32 = 64;
/// Ports whose words are in one page.
const PER_PAGE: usize = 512;
/// Pages, if all ports are in use.
pub const MAX_PAGES: usize = NR_PORTS as usize / PER_PAGE;

type Page = [PortCell; PER_PAGE];

/// The ports.
pub struct Ports {
    pages: [WriteOnce<FrameBox<Page>>; MAX_PAGES],
    /// Ports below this are valid. It only grows.
    valid: AtomicU32,
    /// Ports below this may be taken.
    limit: u32,
    numbers: SpinLock<Taken>,
    /// The vCPUs that wait for any of them.
    pub pollers: Pollers,
}

struct Taken {
    numbers: Numbers,
    /// The domain ends: no more are taken.
    is_over: bool,
}

impl Ports {
    /// No port, and as many possible as the form of events has.
    pub fn new() -> Self {
        Self {
            pages: [const { WriteOnce::new() }; MAX_PAGES],
            valid: AtomicU32::new(STEP),
            limit: NR_PORTS,
            numbers: SpinLock::new(
                Rank::Ports,
                Taken {
                    numbers: Numbers::new(),
                    is_over: false,
                },
            ),
            pollers: Pollers::new(),
        }
    }

    /// Allows no port above this one. Only before the domain is known: limits do not shrink below ports that exist.
    pub fn set_highest(&mut self, highest: u32) {
        self.limit = NR_PORTS.min(highest.saturating_add(1));
    }

    /// What a port is. `EINVAL`: there is none of this number.
    pub fn binding(&self, port: Port) -> Result<Binding, Errno> {
        if port.get() >= self.valid.load(Ordering::Acquire) {
            return Err(Errno::EINVAL);
        }
        // Of those that were never in use the page may be missing.
        Ok(self.word(port).map_or(Binding::FREE, PortCell::binding))
    }

    /// The port of this number. `EINVAL`: there is none, or it was never in use.
    pub fn cell(&self, port: Port) -> Result<&PortCell, Errno> {
        if port.get() >= self.valid.load(Ordering::Acquire) {
            return Err(Errno::EINVAL);
        }
        self.word(port).ok_or(Errno::EINVAL)
    }

    fn word(&self, port: Port) -> Option<&PortCell> {
        let index = port.get() as usize;
        let page = self.pages.get(index / PER_PAGE)?.get()?;
        page.get(index % PER_PAGE)
    }

    /// Takes the lowest free number. `ENOSPC`: there is none below the limit; `EINVAL`: the domain ends; `ENOMEM`: there is no
    /// frame for its word. Nothing is taken then.
    pub fn reserve(&self, memory: Memory<'_>) -> Result<Reserved<'_>, Errno> {
        let mut taken = self.numbers.lock();
        if taken.is_over {
            return Err(Errno::EINVAL);
        }
        let number = taken.numbers.lowest_free(self.limit).ok_or(Errno::ENOSPC)?;
        let index = number as usize;
        let page = self.pages.get(index / PER_PAGE).ok_or(Errno::ENOSPC)?;
        if page.get().is_none()
            && let Err(refused) = page.set(place_page(memory)?)
        {
            // Under the lock there is nobody else.
            memory.unplace(refused);
        }
        let cell = page.get().and_then(|page| page.get(index % PER_PAGE));
        let cell = cell.ok_or(Errno::ENOSPC)?;
        taken.numbers.take(number);
        // ORDERING: Release pairs with the Acquire of whoever asks whether the port is valid. Under the lock it only grows.
        if number >= self.valid.load(Ordering::Relaxed) {
            let valid = (number / STEP).wrapping_add(1).wrapping_mul(STEP);
            self.valid.store(valid, Ordering::Release);
        }
        Ok(Reserved {
            ports: self,
            port: Port::new(number),
            cell,
        })
    }

    /// Lets somebody else have the number of a port that is free.
    pub(super) fn give_back(&self, port: Port) {
        self.numbers.lock().numbers.give_back(port.get());
    }

    /// The lowest port that is in use, or about to be.
    pub(super) fn lowest_taken(&self) -> Option<Port> {
        self.numbers.lock().numbers.lowest_taken().map(Port::new)
    }

    /// Lets nobody take a port any more.
    pub(super) fn end(&self) {
        self.numbers.lock().is_over = true;
    }

    /// Gives the pages back. Nobody else has the domain any more.
    pub fn clear(&mut self, memory: Memory<'_>) {
        for page in &mut self.pages {
            if let Some(page) = page.take() {
                memory.unplace(page);
            }
        }
    }
}

impl Default for Ports {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports")
            .field("valid", &self.valid)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// Out of line: the page passes through the stack.
#[inline(never)]
fn place_page(memory: Memory<'_>) -> Result<FrameBox<Page>, Errno> {
    if !memory.frames.can_spare(1) {
        return Err(Errno::ENOMEM);
    }
    let page: Page = core::array::from_fn(|_| PortCell::new());
    memory.place(page).map_err(|_| Errno::ENOMEM)
}

/// A number that is taken, and whose port is still free. Dropped, the number is given back.
#[must_use]
pub struct Reserved<'a> {
    ports: &'a Ports,
    port: Port,
    cell: &'a PortCell,
}

impl<'a> Reserved<'a> {
    /// The number.
    pub fn port(&self) -> Port {
        self.port
    }

    /// Makes it a port.
    pub fn publish(self, binding: Binding) {
        let this = core::mem::ManuallyDrop::new(self);
        this.cell.publish(binding);
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.ports.give_back(self.port);
    }
}
