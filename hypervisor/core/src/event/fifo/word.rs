//! The word of a port in the FIFO form: whether it is pending, masked, in a queue, and which port follows it there.
//!
//! It is the guest's to write at any moment. What is read here is one word at a time and decides only whether that guest is told of
//! something: no number in it is ever followed. Every loop ends, however fast the guest writes.
//!
//! ORDERING: all accesses are sequentially consistent. Between "set pending, look at mask" here and "clear mask, look at pending" there, in
//! the guest or in [`EventWord::unmask`], one of both sees the other, since both are one word.
//! ABI: `public/event_channel.h`, "FIFO ABI".

use dom0_abi::addr::{Maddr, Mfn};
use dom0_abi::event_channel as abi;
use dom0_abi::ids::Port;
use oxen_arch::memory::{BadFrame, PhysMem};

/// Words in a page.
pub const PER_PAGE: u32 = 1024;

const PENDING: u32 = 1 << abi::FIFO_PENDING;
const MASKED: u32 = 1 << abi::FIFO_MASKED;
const LINKED: u32 = 1 << abi::FIFO_LINKED;
const BUSY: u32 = 1 << abi::FIFO_BUSY;
const LINK: u32 = abi::FIFO_LINK_MASK;

/// How often a link is tried before the guest is asked to keep off, and how often then.
const TRIES: u32 = 4;

/// Where the word of a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventWord(Maddr);

/// What was in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits(u32);

impl Bits {
    /// Whether the port was pending.
    pub const fn is_pending(self) -> bool {
        self.0 & PENDING != 0
    }

    /// Whether it was in a queue.
    pub const fn is_linked(self) -> bool {
        self.0 & LINKED != 0
    }

    /// Whether it was neither masked nor in a queue: pending, it is to be put into one.
    pub const fn is_idle(self) -> bool {
        self.0 & (MASKED | LINKED) == 0
    }

    /// The same of a port that has just been unmasked.
    pub const fn unmasked(self) -> Self {
        Self(self.0 & !MASKED)
    }
}

impl EventWord {
    /// The word of a port in its page.
    pub const fn of(page: Mfn, port: Port) -> Self {
        Self(page.at((port.get() % PER_PAGE).wrapping_mul(4) as usize))
    }

    /// Makes the port pending.
    pub fn raise(self, mem: &PhysMem) -> Result<Bits, BadFrame> {
        mem.fetch_or_u32(self.0, PENDING).map(Bits)
    }

    /// Unmasks the port.
    pub fn unmask(self, mem: &PhysMem) -> Result<Bits, BadFrame> {
        mem.fetch_and_u32(self.0, !MASKED).map(Bits)
    }

    /// Forgets that the port was pending. In a queue it stays: the guest takes it out, and finds nothing to do.
    pub fn forget(self, mem: &PhysMem) -> Result<(), BadFrame> {
        mem.fetch_and_u32(self.0, !PENDING).map(|_| ())
    }

    /// Looks at it.
    pub fn look(self, mem: &PhysMem) -> Result<Bits, BadFrame> {
        mem.load_u32(self.0).map(Bits)
    }

    /// Says that the port is in a queue. `false`: it was already.
    pub fn claim(self, mem: &PhysMem) -> Result<bool, BadFrame> {
        Ok(mem.fetch_or_u32(self.0, LINKED)? & LINKED == 0)
    }

    /// Lets a port follow this one, if this one is in a queue still. `false`: the guest has taken it out, or does not let the word
    /// rest, which it may not while the word says that it is busy.
    pub fn link(self, mem: &PhysMem, next: Port) -> Result<bool, BadFrame> {
        for round in 0..TRIES.wrapping_mul(2) {
            if round == TRIES {
                mem.fetch_or_u32(self.0, BUSY)?;
            }
            let old = mem.load_u32(self.0)?;
            if old & LINKED == 0 {
                break;
            }
            let new = old & !(LINK | BUSY) | next.get() & LINK;
            if mem.compare_exchange_u32(self.0, old, new)?.is_ok() {
                return Ok(true);
            }
        }
        mem.fetch_and_u32(self.0, !BUSY)?;
        Ok(false)
    }
}
