//! The queues of a vCPU, one for each priority, and the way of a port into one.
//!
//! A queue is a list through event words (`word`) that the guest takes from at its head, which the vCPU's control block names. We put in at the
//! tail, which we alone know: a tail that the guest has not taken out gets a successor; otherwise the queue is empty, and the head is
//! written anew. Who puts a port in has claimed it before, by the bit that says that it is in a queue.
//!
//! INVARIANT: nothing that a guest wrote is followed: tails and homes are ours. A guest that writes what it likes loses its own events.
//! INVARIANT: a port is claimed under the lock of its home, the vCPU in whose queue it was last. So nobody there who takes it for the tail
//! mistakes its being in another queue for its being in this one. From then on it is the tail of no other queue.
//! INVARIANT: event words and control blocks are touched under the lock of some vCPU of the domain, and looked up under it: who has
//! made them unreachable and then has had every such lock once may give them back (XSA-107, 343, 344).
//! LOCK: rank `Queues`, for a few accesses. One at a time, under which nobody waits for anything.
//! ABI: `public/event_channel.h`, "FIFO ABI".

use core::mem::offset_of;

use dom0_abi::addr::Maddr;
use dom0_abi::event_channel::{FIFO_MAX_QUEUES, FifoControlBlock};
use dom0_abi::ids::{Port, VcpuId};
use oxen_arch::memory::{BadFrame, PhysMem};
use oxen_arch::sync::{SpinLock, fence_behind_exchange};

use super::word::{Bits, EventWord};
use crate::event::cell::PortCell;
use crate::event::word::Priority;

/// One queue of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Whose.
    pub vcpu: VcpuId,
    /// Which.
    pub priority: Priority,
}

impl Queue {
    const fn bits(self) -> u16 {
        (self.vcpu.get() << 4 | self.priority.get()) as u16
    }

    const fn from_bits(bits: u16) -> Self {
        Self {
            vcpu: VcpuId::new(bits as u32 >> 4),
            priority: Priority::low_bits(bits as u32),
        }
    }
}

/// Where a port's word is, and where we keep the queue that it was in last.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// The word.
    pub word: EventWord,
    /// Two bytes, 0 at first.
    pub home: Maddr,
}

impl Slot {
    fn home(self, mem: &PhysMem) -> Result<Queue, BadFrame> {
        mem.load_u16(self.home).map(Queue::from_bits)
    }
}

/// How the queues and words of a domain are found.
pub trait Places {
    /// The queues of a vCPU.
    fn queues(&self, vcpu: VcpuId) -> Option<&SpinLock<Queues>>;
    /// The place of a port, for as long as the caller holds the lock of some queues. `None`: there is no page for it, or not any more.
    fn slot(&self, port: Port) -> Option<Slot>;
}

/// What came of making a port pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised {
    /// It was not pending before, nor owed an event.
    pub is_first: bool,
    /// The vCPU is to be told: one of its queues is not empty any more.
    pub tells: bool,
}

/// What came of changing a word.
#[derive(Clone, Copy)]
struct Changed {
    /// What it was before.
    before: Bits,
    /// As in [`Raised`].
    tells: bool,
}

/// The queues of a vCPU.
#[derive(Debug)]
pub struct Queues {
    /// The port that was put in last; 0 is none.
    tails: [Port; FIFO_MAX_QUEUES],
    /// Heads that were to be written when there was no control block; 0 is none.
    early: [Port; FIFO_MAX_QUEUES],
    /// The control block, in a page that is held writable.
    control: Option<Maddr>,
}

const NO_PORT: Port = Port::new(0);

impl Queues {
    /// Empty, without a control block.
    pub const fn new() -> Self {
        Self {
            tails: [NO_PORT; FIFO_MAX_QUEUES],
            early: [NO_PORT; FIFO_MAX_QUEUES],
            control: None,
        }
    }

    /// The control block.
    pub fn control(&self) -> Option<Maddr> {
        self.control
    }

    /// The control block is there from now on. Returns whether the vCPU is to be told of what came before.
    pub fn set_control(&mut self, mem: &PhysMem, control: Maddr) -> Result<bool, BadFrame> {
        self.control = Some(control);
        let mut tells = false;
        for (priority, early) in Priority::all().zip(core::mem::replace(
            &mut self.early,
            [NO_PORT; FIFO_MAX_QUEUES],
        )) {
            if early != NO_PORT {
                tells |= write_head(mem, control, priority, early)?;
            }
        }
        Ok(tells)
    }

    /// Forgets all. Returns the control block, whose page is the caller's to give back.
    pub fn end(&mut self) -> Option<Maddr> {
        core::mem::take(self).control
    }

    /// A port that is claimed elsewhere is not the tail here any more.
    fn leave(&mut self, port: Port, priority: Priority) {
        if let Some(tail) = self.tails.get_mut(priority.index())
            && *tail == port
        {
            *tail = NO_PORT;
        }
    }

    /// Puts a port in that the caller has claimed. Returns whether the vCPU is to be told.
    fn append(
        &mut self,
        mem: &PhysMem,
        places: &impl Places,
        port: Port,
        priority: Priority,
    ) -> Result<bool, BadFrame> {
        let Some(tail) = self.tails.get_mut(priority.index()) else {
            return Ok(false);
        };
        let last = core::mem::replace(tail, port);
        // The port itself was taken out before it was claimed.
        if last != NO_PORT
            && last != port
            && let Some(slot) = places.slot(last)
            && slot.word.link(mem, port)?
        {
            return Ok(false);
        }
        match self.control {
            Some(control) => write_head(mem, control, priority, port),
            None => {
                if let Some(early) = self.early.get_mut(priority.index()) {
                    *early = port;
                }
                Ok(false)
            }
        }
    }
}

impl Default for Queues {
    fn default() -> Self {
        Self::new()
    }
}

/// Names the head of a queue that was empty, then says that it is not. Returns whether that was not said before.
fn write_head(
    mem: &PhysMem,
    control: Maddr,
    priority: Priority,
    port: Port,
) -> Result<bool, BadFrame> {
    let at = |offset: usize| Maddr::new(control.get().wrapping_add(offset as u64));
    let head = offset_of!(FifoControlBlock, head).wrapping_add(priority.index().wrapping_mul(4));
    mem.store_u32(at(head), port.get())?;
    let bit = 1_u32.wrapping_shl(priority.get());
    let ready = mem.fetch_or_u32(at(offset_of!(FifoControlBlock, ready)), bit)?;
    Ok(ready & bit == 0)
}

/// Makes a port pending, and puts it into a queue unless it is masked or in one. If there is no word that could say so, the port is owed an event,
/// which is for who adds the word to pay.
pub fn raise(
    mem: &PhysMem,
    places: &impl Places,
    cell: &PortCell,
    port: Port,
    to: Queue,
) -> Result<Raised, BadFrame> {
    let raise = || change(mem, places, port, to, |word| word.raise(mem), |_| true);
    let mut raised = raise()?;
    if raised.is_none() {
        let is_first = cell.owe();
        // ORDERING: pairs with who adds the word (`setup::add`): he says that it is there, then looks for what is owed. One of both
        // sees the other.
        fence_behind_exchange();
        if places.slot(port).is_none() || !cell.pay() {
            let tells = false;
            return Ok(Raised { is_first, tells });
        }
        // It has come in between. Should it be gone again, so is the port.
        raised = raise()?;
    }
    Ok(Raised {
        is_first: raised.is_some_and(|raised| !raised.before.is_pending()),
        tells: raised.is_some_and(|raised| raised.tells),
    })
}

/// Unmasks a port, and puts it into a queue if it is pending and in none. Returns whether the vCPU is to be told.
pub fn unmask(
    mem: &PhysMem,
    places: &impl Places,
    port: Port,
    to: Queue,
) -> Result<bool, BadFrame> {
    let unmask = |word: EventWord| word.unmask(mem).map(Bits::unmasked);
    let changed = change(mem, places, port, to, unmask, Bits::is_pending)?;
    Ok(changed.is_some_and(|changed| changed.tells))
}

/// Changes the word of a port, and puts the port into a queue if it is idle and `is_due` by what was there before. `None`: there is no word.
fn change(
    mem: &PhysMem,
    places: &impl Places,
    port: Port,
    to: Queue,
    change: impl Fn(EventWord) -> Result<Bits, BadFrame>,
    is_due: impl Fn(Bits) -> bool,
) -> Result<Option<Changed>, BadFrame> {
    let mut said = None;
    for _ in 0..2 {
        // Without a lock, so it may be another one by the time that we have it.
        let Some(slot) = places.slot(port) else {
            return Ok(None);
        };
        let home = slot.home(mem)?;
        let Some(lock) = places.queues(home.vcpu) else {
            return Ok(None);
        };
        let mut queues = lock.lock();
        let Some(slot) = places.slot(port) else {
            return Ok(None);
        };
        let before = match said {
            Some(before) => before,
            None => change(slot.word)?,
        };
        said = Some(before);
        let quiet = Some(Changed {
            before,
            tells: false,
        });
        if !before.is_idle() || !is_due(before) {
            return Ok(quiet);
        }
        if slot.home(mem)? != home {
            continue;
        }
        if !slot.word.claim(mem)? {
            return Ok(quiet);
        }
        mem.store_u16(slot.home, to.bits())?;
        if home != to {
            queues.leave(port, home.priority);
        }
        if home.vcpu != to.vcpu {
            drop(queues);
            let Some(lock) = places.queues(to.vcpu) else {
                return Ok(quiet);
            };
            queues = lock.lock();
            if places.slot(port).is_none() {
                return Ok(quiet);
            }
        }
        let tells = queues.append(mem, places, port, to.priority)?;
        return Ok(Some(Changed { before, tells }));
    }
    // The port was put into a queue elsewhere between two looks, the first of which came behind our change of its word: who takes it out
    // there sees that.
    let tells = false;
    Ok(said.map(|before| Changed { before, tells }))
}
