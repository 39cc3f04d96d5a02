//! The ports of a domain: how many there are, and the way to each.
//!
//! Their words lie in pages that are added as numbers are taken, and stay until the domain is gone: so whoever has found a port may go on
//! looking at it. A domain whose numbers stay below 512 has one page, and none has more than eight as long as it uses the two-level form. In the FIFO
//! form it may have 256, for each eight of these two frames to find them by, and one for each page of event words that it adds (`fifo`): all
//! ports of a domain cost the host 448 frames at most. Like its vCPUs, and as on Xen, they are not counted as its memory: its limit of
//! ports bounds them.
//!
//! INVARIANT (I22): a port is reached only by [`Ports::cell`], which looks whether there is one (XSA-221, 317, 340); what is valid once
//! stays valid.
//! INVARIANT: which form of events the domain uses is whether there is a page of two-level bits ([`Ports::bits`]). That changes under the lock
//! of the numbers, and back to the two-level form only while none is taken: so no port has a number that the form does not have.
//! INVARIANT: a number is taken before its word says that it is a port, and given back behind its being free.
//! LOCK: rank `Ports`, for the numbers alone, for a few instructions. No port is locked or waited for under it, and nobody who sends needs it.

use core::fmt;

use dom0_abi::addr::Mfn;
use dom0_abi::errno::Errno;
use dom0_abi::event_channel::FIFO_NR_CHANNELS;
use dom0_abi::ids::Port;
use oxen_arch::memory::FrameBox;
use oxen_arch::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use oxen_arch::sync::{Rank, SpinLock};
use oxen_arch::write_once::WriteOnce;

use super::cell::PortCell;
use super::fifo::Fifo;
use super::numbers::{AllNumbers, place};
use super::pollers::Pollers;
use super::two_level::NR_PORTS;
use super::word::Binding;
use crate::budget::Budget;
use crate::domain::teardown::FRAME;
use crate::frame::Memory;

/// Ports that become valid at a time, as on Xen: callers see the border.
const STEP: u32 = 64;
/// How many numbers are looked at for one that is in no queue.
const NEAR: usize = 64;
/// Ports whose words are in one page.
const PER_PAGE: usize = 512;
/// Pages of as many ports as the two-level form has.
const PAGES: usize = NR_PORTS as usize / PER_PAGE;

type Page = [PortCell; PER_PAGE];

/// As many ports as the two-level form has.
#[derive(Default)]
pub(super) struct Block([WriteOnce<FrameBox<Page>>; PAGES]);

/// The ports.
pub struct Ports {
    pages: Block,
    /// The page of the bits of the two-level form, or [`NO_PAGE`].
    bits: AtomicU64,
    /// What the FIFO form needs, from the first time that the domain chooses it.
    fifo: WriteOnce<FrameBox<Fifo>>,
    /// Ports below this are valid. It only grows.
    valid: AtomicU32,
    /// Ports below this may be taken, as far as the form of events has them.
    limit: u32,
    numbers: SpinLock<Taken>,
    /// The vCPUs that wait for any of them.
    pub pollers: Pollers,
}

/// No access to this frame succeeds: the highest that there could be.
const NO_PAGE: Mfn = Mfn::new(u64::MAX >> 12);

struct Taken {
    numbers: AllNumbers,
    /// The domain ends: no more are taken.
    is_over: bool,
}

impl Ports {
    /// No port, and as many possible as the form of events has: the two-level one, with its bits in this page.
    pub fn new(shared_info: Mfn) -> Self {
        Self {
            pages: Block::default(),
            bits: AtomicU64::new(shared_info.get()),
            fifo: WriteOnce::new(),
            valid: AtomicU32::new(STEP),
            limit: FIFO_NR_CHANNELS,
            numbers: SpinLock::new(
                Rank::Ports,
                Taken {
                    numbers: AllNumbers::new(),
                    is_over: false,
                },
            ),
            pollers: Pollers::new(),
        }
    }

    /// Allows no port above this one. Only before the domain is known: limits do not shrink below ports that exist.
    pub fn set_highest(&mut self, highest: u32) {
        self.limit = FIFO_NR_CHANNELS.min(highest.saturating_add(1));
    }

    /// Ports below this may be taken, as far as the form of events has them.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// The page of the two-level form's bits. In the FIFO form it is none that can be accessed: so whoever uses that form learns of the other one
    /// without asking.
    #[inline]
    pub fn bits(&self) -> Mfn {
        // ORDERING: pairs with `begin_fifo`.
        Mfn::new(self.bits.load(Ordering::Acquire))
    }

    /// Whether the domain uses the FIFO form.
    pub fn is_fifo(&self) -> bool {
        self.bits() == NO_PAGE
    }

    /// What the FIFO form needs, if the domain has ever used it.
    pub(super) fn fifo(&self) -> Option<&Fifo> {
        self.fifo.get().map(|fifo| &**fifo)
    }

    /// The same, made if it is not there. `ENOMEM`: there is no frame for it.
    pub(super) fn fifo_or_new(&self, memory: Memory<'_>) -> Result<&Fifo, Errno> {
        if self.fifo().is_none()
            && let Err(second) = self.fifo.set(place(memory, Fifo::new())?)
        {
            memory.unplace(second);
        }
        // Otherwise somebody is just putting another one in.
        self.fifo().ok_or(Errno::EAGAIN)
    }

    /// The pages of event words that are held: for the auditor, while nothing moves.
    pub(crate) fn held_arrays(&self) -> impl Iterator<Item = Mfn> {
        self.fifo().into_iter().flat_map(Fifo::held)
    }

    /// Lets the domain use the FIFO form from now on.
    pub(super) fn begin_fifo(&self) {
        let taken = self.numbers.lock();
        // ORDERING: Release pairs with the Acquire of `bits`.
        self.bits.store(NO_PAGE.get(), Ordering::Release);
        drop(taken);
    }

    /// Lets the domain use the two-level form again, with its bits in this page. `false`, and nothing changed: some number is taken.
    pub(super) fn end_fifo(&self, shared_info: Mfn) -> bool {
        let taken = self.numbers.lock();
        let is_empty = taken.numbers.lowest_taken().is_none();
        if is_empty {
            self.bits.store(shared_info.get(), Ordering::Release);
        }
        is_empty
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
    #[inline(always)]
    pub fn cell(&self, port: Port) -> Result<&PortCell, Errno> {
        // The words of ports that are not valid yet are those of free ones, as far as there are any.
        self.word(port).ok_or(Errno::EINVAL)
    }

    #[inline(always)]
    fn word(&self, port: Port) -> Option<&PortCell> {
        let index = port.get() as usize;
        let page = match self.pages.0.get(index / PER_PAGE) {
            Some(page) => page.get()?,
            None => self.page_beyond(port)?,
        };
        page.get(index % PER_PAGE)
    }

    /// A port that has been in use, if it is one of those that the two-level form has.
    #[inline]
    pub(super) fn near(&self, port: Port) -> Option<&PortCell> {
        let index = port.get() as usize;
        let page = self.pages.0.get(index / PER_PAGE)?.get()?;
        page.get(index % PER_PAGE)
    }

    /// The page of a port that the two-level form does not have.
    #[cold]
    #[inline(never)]
    fn page_beyond(&self, port: Port) -> Option<&Page> {
        let page = self.fifo()?.block(port)?.page(port)?;
        page.get().map(|page| &**page)
    }

    /// Takes the lowest free number; in the FIFO form the lowest that nothing `is_linked` of, if there is one near: its first event would come where
    /// that of the port is which had the number before. `ENOSPC`: there is none below the limit; `EINVAL`: the domain ends; `ENOMEM`: there is no
    /// frame for its word. Nothing is taken then.
    pub fn reserve(
        &self,
        memory: Memory<'_>,
        is_linked: impl Fn(Port) -> bool,
    ) -> Result<Reserved<'_>, Errno> {
        let mut taken = self.numbers.lock();
        if taken.is_over {
            return Err(Errno::EINVAL);
        }
        let numbers = &mut taken.numbers;
        let number = if self.is_fifo() {
            let lowest = numbers.lowest_free(self.limit).ok_or(Errno::ENOSPC)?;
            let mut near = (lowest..self.limit).take(NEAR);
            let quiet = near.find(|&near| numbers.is_free(near) && !is_linked(Port::new(near)));
            quiet.unwrap_or(lowest)
        } else {
            let limit = self.limit.min(NR_PORTS);
            numbers.lowest_free(limit).ok_or(Errno::ENOSPC)?
        };
        let port = Port::new(number);
        let block = match number < NR_PORTS {
            true => &self.pages,
            false => {
                let fifo = self.fifo().ok_or(Errno::ENOSPC)?;
                fifo.block_or_new(port, memory)?
            }
        };
        let page = block.page(port).ok_or(Errno::ENOSPC)?;
        if page.get().is_none()
            && let Err(refused) = page.set(place_page(memory)?)
        {
            // Under the lock there is nobody else.
            memory.unplace(refused);
        }
        let cell = page
            .get()
            .and_then(|page| page.get(number as usize % PER_PAGE));
        let cell = cell.ok_or(Errno::ENOSPC)?;
        numbers.take(number, memory)?;
        // ORDERING: Release pairs with the Acquire of whoever asks whether the port is valid. Under the lock it only grows.
        if number >= self.valid.load(Ordering::Relaxed) {
            let valid = (number / STEP).wrapping_add(1).wrapping_mul(STEP);
            self.valid.store(valid, Ordering::Release);
        }
        Ok(Reserved {
            ports: self,
            port,
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

    /// Gives the pages back, as far as the budget goes; `true`: all of them. Nobody else has the domain any more.
    pub fn clear(&mut self, memory: Memory<'_>, budget: &mut Budget) -> bool {
        let numbers = &mut self.numbers.get_mut().numbers;
        if !(self.pages.clear(memory, budget) && numbers.clear(memory, budget)) {
            return false;
        }
        if let Some(fifo) = self.fifo.get_mut()
            && !(fifo.clear(memory, budget) && budget.take(FRAME))
        {
            return false;
        }
        if let Some(fifo) = self.fifo.take() {
            memory.unplace(fifo);
        }
        true
    }
}

impl Block {
    fn page(&self, port: Port) -> Option<&WriteOnce<FrameBox<Page>>> {
        self.0.get(port.get() as usize / PER_PAGE % PAGES)
    }

    pub(super) fn clear(&mut self, memory: Memory<'_>, budget: &mut Budget) -> bool {
        for page in &mut self.0 {
            if page.get().is_some() && !budget.take(FRAME) {
                return false;
            }
            if let Some(page) = page.take() {
                memory.unplace(page);
            }
        }
        true
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
    place(memory, core::array::from_fn(|_| PortCell::new()))
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
