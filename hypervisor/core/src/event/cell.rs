//! A port as all CPUs see it: its word, changed by compare-exchange.
//!
//! Who sends holds the port for the few instructions between finding out where an event goes and having put it there. Who
//! changes what a port is locks it, and waits for the others to let go. A CPU that holds a port waits at most for the lock of a vCPU's
//! queues (`fifo`), under which nobody waits, and one that locks two takes them in the order of [`PortId`], so every wait ends (design, rule 4:
//! these are waits of instructions, not of work).

use dom0_abi::ids::{DomId, Port, VcpuId};
use oxen_arch::sync::atomic::{AtomicU64, Ordering};
use oxen_arch::sync::spin_loop;

use super::word::{Binding, PortState, PortWord, Priority, Refused};

/// A port, among those of all domains. Two are locked in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortId {
    /// Whose.
    pub domain: DomId,
    /// Which.
    pub port: Port,
}

/// A port.
#[derive(Debug)]
pub struct PortCell(AtomicU64);

impl PortCell {
    /// One that is nobody's.
    pub fn new() -> Self {
        Self(AtomicU64::new(PortWord::FREE.bits()))
    }

    /// What the port is at this moment; while it is being changed, what it was.
    pub fn binding(&self) -> Binding {
        self.word().binding()
    }

    fn word(&self) -> PortWord {
        // ORDERING: Acquire pairs with the Release of whoever made the port what it is.
        PortWord::from_bits(self.0.load(Ordering::Acquire))
    }

    /// Makes a port of a free number what the caller has taken the number for.
    pub fn publish(&self, binding: Binding) {
        debug_assert_eq!(self.word(), PortWord::FREE);
        self.0
            .store(PortWord::new(binding).bits(), Ordering::Release);
    }

    /// Holds the port as it is. Refused, with what it is, if it is being changed, or no events are sent through it or arrive.
    #[inline(always)]
    pub fn hold(&self) -> Result<Held<'_>, PortState> {
        loop {
            match self.change(PortWord::held) {
                Ok(word) => return Ok(Held { cell: self, word }),
                // There are fewer CPUs than that; it costs nothing to be right nevertheless.
                Err((Refused::TooMany, _)) => spin_loop(),
                Err((Refused::Locked | Refused::State, word)) => return Err(word.state()),
            }
        }
    }

    /// Locks the port, once nobody else has it locked, and waits until nobody holds it.
    #[inline(never)]
    pub fn lock(&self) -> Locked<'_> {
        let word = loop {
            match self.change(PortWord::locked) {
                Ok(word) => break word,
                Err(_) => spin_loop(),
            }
        };
        // ORDERING: the Acquire pairs with the Release of each hold's end: what was done under it comes before what follows.
        while self.word().holds() > 0 {
            spin_loop();
        }
        Locked {
            cell: self,
            state: word.state(),
        }
    }

    /// Locks two ports, each with its name.
    pub fn lock_both<'a>(
        (first, a): (PortId, &'a Self),
        (second, b): (PortId, &'a Self),
    ) -> (Locked<'a>, Locked<'a>) {
        debug_assert_ne!(first, second, "nobody waits for himself");
        if first < second {
            let a = a.lock();
            (a, b.lock())
        } else {
            let b = b.lock();
            (a.lock(), b)
        }
    }

    /// Chooses the vCPU that is told, of a port of which that may be chosen. `false`: it is none of those.
    pub fn tell(&self, vcpu: VcpuId) -> bool {
        loop {
            match self.change(|word| word.moved(vcpu)) {
                Ok(_) => return true,
                Err((Refused::State, _)) => return false,
                Err(_) => spin_loop(),
            }
        }
    }

    /// How urgent its events are in the FIFO form.
    pub fn priority(&self) -> Priority {
        self.word().priority()
    }

    /// Chooses that. `false`: the port is nobody's.
    pub fn set_priority(&self, priority: Priority) -> bool {
        loop {
            match self.change(|word| word.with_priority(priority)) {
                Ok(_) => return true,
                Err((Refused::State, _)) => return false,
                Err(_) => spin_loop(),
            }
        }
    }

    /// Whether it is owed an event.
    pub fn is_owed(&self) -> bool {
        self.word().is_owed()
    }

    /// Owes it an event, also while it is locked. `false`: one is owed already, or it is nobody's.
    pub fn owe(&self) -> bool {
        self.change(PortWord::owed).is_ok()
    }

    /// Takes the event that it is owed. `false`: there is none.
    pub fn pay(&self) -> bool {
        self.is_owed() && self.change(PortWord::paid).is_ok()
    }

    /// Applies a change; the error has the word that refused it.
    #[inline(always)]
    fn change(
        &self,
        change: impl Fn(PortWord) -> Result<PortWord, Refused>,
    ) -> Result<PortWord, (Refused, PortWord)> {
        let mut bits = self.0.load(Ordering::Acquire);
        loop {
            let old = PortWord::from_bits(bits);
            let new = change(old).map_err(|refused| (refused, old))?;
            match self.0.compare_exchange_weak(
                bits,
                new.bits(),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Ok(new),
                Err(now) => bits = now,
            }
        }
    }
}

impl Default for PortCell {
    fn default() -> Self {
        Self::new()
    }
}

/// A port that stays what it is until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Held<'a> {
    cell: &'a PortCell,
    word: PortWord,
}

impl Held<'_> {
    /// What it is. The vCPU is the one of the moment when it was held.
    #[inline(always)]
    pub fn binding(&self) -> Binding {
        self.word.binding()
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // ORDERING: Release pairs with the Acquire of `lock`.
        self.cell.0.fetch_sub(PortWord::HOLD, Ordering::Release);
    }
}

/// A port that the caller alone changes. Dropped, it is what it was.
#[derive(Debug)]
#[must_use]
pub struct Locked<'a> {
    cell: &'a PortCell,
    state: PortState,
}

impl Locked<'_> {
    /// What it is.
    pub fn state(&self) -> PortState {
        self.state
    }

    /// Makes it something else; who is told stays, unless the port is free then. It stays locked.
    pub fn set(&mut self, state: PortState) {
        self.state = state;
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // An event may be owed meanwhile; nothing else changes: it is locked, not held, and `tell` waits.
        let unlocked = self.cell.change(|word| Ok(word.unlocked_as(self.state)));
        debug_assert!(unlocked.is_ok());
    }
}
