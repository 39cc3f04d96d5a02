//! The FIFO form of pending and masked ports: a word for each port in pages that the domain adds, and for each vCPU queues of ports, one for each
//! of 16 priorities.
//!
//! | file | what |
//! |---|---|
//! | `word` | the word of a port |
//! | `queues` | the queues of a vCPU, and how a port gets into one |
//! | `setup` | how the form is chosen, grows and is left: control blocks, pages of words |
//!
//! Who is told is as in the two-level form: the byte of the upcall, and a kick. The selector means nothing.
//!
//! A port may be there before the page of its word is. An event that comes then is owed: the port's own word notes it, and when the page comes it
//! arrives. So do bits that were pending in the two-level form. (The ABI lets a domain lose these. One that is just being set
//! by another CPU while the domain changes its form and adds the page may be.)
//!
//! INVARIANT: pages of words and control blocks are held writable from before anybody finds them until nobody does (see `queues`).
//! LOCK: `Setup`, rank `Domain`, for choosing, growing and leaving the form; queues, rank `Queues`. A send takes the latter of one vCPU
//! at a time, and of two at most.
//! ABI: `public/event_channel.h`, "FIFO ABI".

pub mod queues;
pub mod setup;
pub mod word;

use dom0_abi::addr::Mfn;
use dom0_abi::errno::Errno;
use dom0_abi::event_channel::FIFO_NR_CHANNELS;
use dom0_abi::ids::{Port, VcpuId};
use oxen_arch::Cpu;
use oxen_arch::memory::{BadFrame, FrameBox, PhysMem};
use oxen_arch::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use oxen_arch::sync::{Rank, SpinLock};
use oxen_arch::write_once::WriteOnce;

use self::queues::{Places, Queue, Queues, Raised, Slot};
use self::setup::Setup;
use self::word::{EventWord, PER_PAGE};
use super::numbers::{MORE, place};
use super::ports::Block;
use super::send;
use super::two_level::NR_PORTS;
use crate::budget::Budget;
use crate::domain::Domain;
use crate::domain::teardown::FRAME;
use crate::domain::vcpu::Vcpu;
use crate::frame::Memory;
use crate::host::Host;

/// The most pages of event words.
pub const MAX_ARRAYS: u32 = FIFO_NR_CHANNELS / PER_PAGE;

/// At the end of a domain so many places without a page are looked at for a unit of the budget.
const ARRAYS_PER_UNIT: u32 = 16;

/// In place of the number of a frame that there is not.
const NONE: u64 = 0xffff_ffff;

/// What a domain needs for the FIFO form. It stays when the domain leaves that.
pub struct Fifo {
    /// Of each page of words its number, in the lower half, and that of the frame of ours with its ports' homes.
    arrays: [AtomicU64; MAX_ARRAYS as usize],
    /// Pages below this are in use.
    live: AtomicU32,
    /// Ports that the two-level form does not have.
    blocks: [WriteOnce<FrameBox<Block>>; MORE],
    setup: SpinLock<Setup>,
    /// At the end of the domain: of the pages below this all is given back.
    cleared: u32,
}

/// A page of words, and the frame with its ports' homes: two bytes each. The numbers are there inverted: all zeroes are no page.
#[derive(Clone, Copy)]
struct Array(u64);

impl Array {
    const EMPTY: Self = Self(0);

    const fn of(words: u64, homes: u64) -> Self {
        Self(!(words & NONE | homes << 32))
    }

    const fn numbers(self) -> [u64; 2] {
        [!self.0 & NONE, !self.0 >> 32]
    }

    fn words(self) -> Option<Mfn> {
        let [words, _] = self.numbers();
        (words != NONE).then_some(Mfn::new(words))
    }

    fn homes(self) -> Option<Mfn> {
        let [_, homes] = self.numbers();
        (homes != NONE).then_some(Mfn::new(homes))
    }

    const fn with_words(self, words: Option<Mfn>) -> Self {
        let [_, homes] = self.numbers();
        match words {
            Some(words) => Self::of(words.get(), homes),
            None => Self::of(NONE, homes),
        }
    }

    const fn with_homes(self, homes: Mfn) -> Self {
        let [words, _] = self.numbers();
        Self::of(words, homes.get())
    }
}

impl Fifo {
    /// Without a page.
    pub fn new() -> Self {
        Self {
            arrays: [const { AtomicU64::new(Array::EMPTY.0) }; MAX_ARRAYS as usize],
            live: AtomicU32::new(0),
            blocks: [const { WriteOnce::new() }; MORE],
            setup: SpinLock::new(Rank::Domain, Setup::new()),
            cleared: 0,
        }
    }

    /// The block of a port that the two-level form does not have.
    pub(super) fn block(&self, port: Port) -> Option<&Block> {
        self.place_of_block(port)?.get().map(|block| &**block)
    }

    /// The same, made if it is not there. `ENOMEM`: there is no frame for it; `ENOSPC`: nobody has such a port.
    pub(super) fn block_or_new(&self, port: Port, memory: Memory<'_>) -> Result<&Block, Errno> {
        let block = self.place_of_block(port).ok_or(Errno::ENOSPC)?;
        if block.get().is_none()
            && let Err(second) = block.set(place(memory, Block::default())?)
        {
            memory.unplace(second);
        }
        self.block(port).ok_or(Errno::ENOSPC)
    }

    fn place_of_block(&self, port: Port) -> Option<&WriteOnce<FrameBox<Block>>> {
        let number = (port.get() / NR_PORTS) as usize;
        self.blocks.get(number.checked_sub(1)?)
    }

    /// Pages in use.
    fn live(&self) -> u32 {
        // ORDERING: pairs with `add` in `setup`: who sees the count sees the pages.
        self.live.load(Ordering::Acquire)
    }

    fn array(&self, index: u32) -> Array {
        let array = self.arrays.get(index as usize);
        array.map_or(Array::EMPTY, |array| Array(array.load(Ordering::Acquire)))
    }

    /// Under the lock of the setup.
    fn set_array(&self, index: u32, array: Array) {
        if let Some(place) = self.arrays.get(index as usize) {
            place.store(array.0, Ordering::Release);
        }
    }

    /// The pages of words that are held, in use or not: for the auditor, and while nothing moves.
    pub(crate) fn held(&self) -> impl Iterator<Item = Mfn> {
        (0..MAX_ARRAYS).filter_map(|index| self.array(index).words())
    }

    /// Gives back all that is ours, as far as the budget goes; `true`: all of it. Nobody has the domain any more.
    pub(super) fn clear(&mut self, memory: Memory<'_>, budget: &mut Budget) -> bool {
        while self.cleared < MAX_ARRAYS {
            let array = self.array(self.cleared);
            debug_assert!(array.words().is_none());
            let cost = match array.homes() {
                Some(_) => FRAME,
                None => u32::from(self.cleared.is_multiple_of(ARRAYS_PER_UNIT)),
            };
            if !budget.take(cost) {
                return false;
            }
            if let Some(homes) = array.homes() {
                memory.end_kept(homes);
            }
            self.cleared = self.cleared.saturating_add(1);
        }
        for place in &mut self.blocks {
            if let Some(block) = place.get_mut()
                && !(block.clear(memory, budget) && budget.take(FRAME))
            {
                return false;
            }
            if let Some(block) = place.take() {
                memory.unplace(block);
            }
        }
        true
    }
}

impl Default for Fifo {
    fn default() -> Self {
        Self::new()
    }
}

/// A domain that uses the FIFO form, or has.
struct InForm<'a> {
    domain: &'a Domain,
    fifo: &'a Fifo,
}

impl<'a> InForm<'a> {
    fn of(domain: &'a Domain) -> Option<Self> {
        let fifo = domain.events.fifo()?;
        Some(Self { domain, fifo })
    }

    /// Looks at the word of a port, or changes it. `None`: there is no such word.
    fn at_word<R>(&self, port: Port, access: impl FnOnce(EventWord) -> R) -> Option<R> {
        // Any lock does.
        let queues = self.queues(VcpuId::new(0))?.lock();
        let result = self.slot(port).map(|slot| access(slot.word));
        drop(queues);
        result
    }
}

impl Places for InForm<'_> {
    fn queues(&self, vcpu: VcpuId) -> Option<&SpinLock<Queues>> {
        self.domain.vcpu(vcpu).map(|vcpu| &vcpu.queues)
    }

    fn slot(&self, port: Port) -> Option<Slot> {
        let index = port.get() / PER_PAGE;
        if index >= self.fifo.live() {
            return None;
        }
        let array = self.fifo.array(index);
        let offset = (port.get() % PER_PAGE).wrapping_mul(2);
        Some(Slot {
            word: EventWord::of(array.words()?, port),
            home: array.homes()?.at(offset as usize),
        })
    }
}

fn queue_of(domain: &Domain, port: Port, vcpu: VcpuId) -> Option<Queue> {
    let priority = domain.events.cell(port).ok()?.priority();
    Some(Queue { vcpu, priority })
}

/// Makes a port pending, and tells its vCPU unless it is masked or told already. Nothing happens if the domain does not use this form, or its pages
/// are gone.
#[cold]
#[inline(never)]
pub(super) fn deliver(host: &Host, cpu: &Cpu, domain: &Domain, port: Port, vcpu: VcpuId) {
    let (Some(form), Some(to)) = (InForm::of(domain), queue_of(domain, port, vcpu)) else {
        return;
    };
    let Ok(cell) = domain.events.cell(port) else {
        return;
    };
    if let Ok(Raised { is_first, tells }) = queues::raise(host.mem(), &form, cell, port, to) {
        if tells {
            tell(host, cpu, domain, vcpu);
        }
        if is_first {
            send::wake_pollers(host, cpu, domain);
        }
    }
}

/// Unmasks a port, and tells its vCPU if it is pending and in no queue.
#[cold]
#[inline(never)]
pub(super) fn unmask(host: &Host, cpu: &Cpu, domain: &Domain, port: Port, vcpu: VcpuId) {
    if let (Some(form), Some(to)) = (InForm::of(domain), queue_of(domain, port, vcpu))
        && queues::unmask(host.mem(), &form, port, to) == Ok(true)
    {
        tell(host, cpu, domain, vcpu);
    }
}

/// Whether a port is pending, masked or not, or is owed an event.
#[cold]
#[inline(never)]
pub(super) fn is_pending(mem: &PhysMem, domain: &Domain, port: Port) -> Result<bool, BadFrame> {
    let bits = InForm::of(domain).and_then(|form| form.at_word(port, |word| word.look(mem)));
    match bits {
        Some(bits) => Ok(bits?.is_pending()),
        None => Ok(domain.events.cell(port).is_ok_and(|cell| cell.is_owed())),
    }
}

/// Whether a port is in a queue, though it may have been closed since it got there.
pub(super) fn is_linked(mem: &PhysMem, domain: &Domain, port: Port) -> bool {
    let bits = InForm::of(domain).and_then(|form| form.at_word(port, |word| word.look(mem)));
    matches!(bits, Some(Ok(bits)) if bits.is_linked())
}

/// Forgets that a port was pending: who gets its number next hears nothing of it.
#[cold]
#[inline(never)]
pub(super) fn forget(mem: &PhysMem, domain: &Domain, port: Port) {
    if let Some(form) = InForm::of(domain) {
        // Without the page there is nothing to forget. What is owed goes with the port.
        let _ = form.at_word(port, |word| word.forget(mem));
    }
}

fn tell(host: &Host, cpu: &Cpu, domain: &Domain, vcpu: VcpuId) {
    if let Some(vcpu) = domain.vcpu(vcpu) {
        tell_vcpu(host, cpu, vcpu);
    }
}

fn tell_vcpu(host: &Host, cpu: &Cpu, vcpu: &Vcpu) {
    if host.mem().store_u8(vcpu.upcall.location(), 1).is_ok() {
        host.kick(cpu, vcpu);
    }
}
