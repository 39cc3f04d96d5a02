//! The two-level form of pending and masked ports: a bit of each for every port in the page that the domain shares with us, and in each
//! vCPU's `vcpu_info` a selector with a bit for each word of the former.
//!
//! All of it is the guest's to write at any moment: what is read here decides only whether that guest is told of something.
//! What `port` is has been found out before; here it is a number of a bit.
//!
//! ORDERING: all accesses are sequentially consistent. An event is made known in the order pending bit, selector bit, upcall byte,
//! and the guest looks in the opposite one: it clears the byte, takes the selector, takes the bits. So a bit that it misses has its selector
//! bit set behind its look, and a selector bit that it misses the byte. Between "set pending, look at mask" here and "clear
//! mask, look at pending" there, in the guest or in [`unmask`], one of both sees the other.
//! ABI: `public/event_channel.h`, "two-level".

use core::mem::offset_of;

use dom0_abi::addr::{Maddr, Mfn};
use dom0_abi::event_channel::TWO_LEVEL_NR_CHANNELS;
use dom0_abi::ids::Port;
use dom0_abi::xen::{SharedInfo, VcpuInfo};
use oxen_arch::memory::{BadFrame, MemPage, MemWord, PhysMem};

/// How many ports there are.
pub const NR_PORTS: u32 = TWO_LEVEL_NR_CHANNELS as u32;

/// What came of making a port pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raised {
    /// It was pending already: whoever made it so has told the vCPU.
    Before,
    /// It is masked: who unmasks it tells the vCPU.
    Masked,
    /// Its vCPU is to be told.
    New,
}

/// The words of one kind in the shared page, a bit for each port.
#[derive(Clone, Copy)]
struct Row<'m> {
    page: MemPage<'m>,
    first: usize,
}

impl<'m> Row<'m> {
    /// Where the word is that has the bit of a port, and the bit.
    #[inline(always)]
    fn bit(self, port: Port) -> Result<(MemWord<'m>, u64), BadFrame> {
        let index = (port.get() % NR_PORTS) as usize / 64;
        let word = self.page.word(self.first.wrapping_add(index))?;
        Ok((word, 1_u64.wrapping_shl(port.get())))
    }

    #[inline(always)]
    fn is_set(self, port: Port) -> Result<bool, BadFrame> {
        let (word, bit) = self.bit(port)?;
        Ok(word.load() & bit != 0)
    }

    /// Sets the bit; returns what it was.
    #[inline(always)]
    fn set(self, port: Port) -> Result<bool, BadFrame> {
        let (word, bit) = self.bit(port)?;
        Ok(word.fetch_or(bit) & bit != 0)
    }

    /// Clears the bit; returns what it was.
    fn clear(self, port: Port) -> Result<bool, BadFrame> {
        let (word, bit) = self.bit(port)?;
        Ok(word.fetch_and(!bit) & bit != 0)
    }
}

/// What of the shared page is this form's.
struct Bits<'m> {
    pending: Row<'m>,
    mask: Row<'m>,
}

impl<'m> Bits<'m> {
    #[inline(always)]
    fn of(mem: &'m PhysMem, shared: Mfn) -> Result<Self, BadFrame> {
        let page = mem.page(shared)?;
        let row = |offset: usize| Row {
            page,
            first: offset / 8,
        };
        Ok(Self {
            pending: row(offset_of!(SharedInfo, evtchn_pending)),
            mask: row(offset_of!(SharedInfo, evtchn_mask)),
        })
    }
}

/// Makes a port pending.
#[inline(always)]
pub fn raise(mem: &PhysMem, shared: Mfn, port: Port) -> Result<Raised, BadFrame> {
    let bits = Bits::of(mem, shared)?;
    if bits.pending.set(port)? {
        return Ok(Raised::Before);
    }
    match bits.mask.is_set(port)? {
        true => Ok(Raised::Masked),
        false => Ok(Raised::New),
    }
}

/// Tells the vCPU whose `vcpu_info` is at `info` that a port is pending. Returns whether it has to be woken: it has not been told of any
/// port of the same word since it looked last. One without `vcpu_info` is told of everything when it gets one.
pub fn tell(mem: &PhysMem, info: Maddr, port: Port) -> Result<bool, BadFrame> {
    const SELECTOR: u64 = offset_of!(VcpuInfo, evtchn_pending_sel) as u64;
    let word = 1_u64.wrapping_shl((port.get() % NR_PORTS) / 64);
    let selector = Maddr::new(info.get().wrapping_add(SELECTOR));
    let is_new = mem.fetch_or_u64(selector, word)? & word == 0;
    if is_new {
        mem.store_u8(info, 1)?;
    }
    Ok(is_new)
}

/// Unmasks a port. Returns whether its vCPU is to be told: it was masked, and is pending.
pub fn unmask(mem: &PhysMem, shared: Mfn, port: Port) -> Result<bool, BadFrame> {
    let bits = Bits::of(mem, shared)?;
    Ok(bits.mask.clear(port)? && bits.pending.is_set(port)?)
}

/// Whether a port is pending, masked or not.
pub fn is_pending(mem: &PhysMem, shared: Mfn, port: Port) -> Result<bool, BadFrame> {
    Bits::of(mem, shared)?.pending.is_set(port)
}

/// Whether a port is pending, as far as this form has it and its page is there.
pub fn was_pending(mem: &PhysMem, shared: Mfn, port: Port) -> bool {
    port.get() < NR_PORTS && is_pending(mem, shared, port) == Ok(true)
}

/// Forgets that a port was pending: who gets its number next hears nothing of it. Returns whether it was: no, if this form has no such port.
pub fn forget(mem: &PhysMem, shared: Mfn, port: Port) -> Result<bool, BadFrame> {
    // Most ports are not pending when they are closed.
    Ok(was_pending(mem, shared, port) && Bits::of(mem, shared)?.pending.clear(port)?)
}
