//! The state of a vCPU as the scheduler sees it, packed into a word, and the ways in which it changes, as pure functions.
//!
//! | bits | what |
//! |---|---|
//! | 0..16 | how many times it is paused |
//! | 16 | it sleeps until something wakes it |
//! | 17 | it is down: never started, or stopped |
//! | 24..27 | [`Place`] |
//! | 32..64 | the CPU of the place |
//!
//! INVARIANT: while it is `Queued`, it is in the queue of that CPU and in no other, and only who holds the lock of that queue
//! takes it out. `Running` and `Leaving` are left by that CPU alone. `Moving` belongs to one CPU, that which brought it there.

use oxen_arch::boot::CpuId;

/// Where a vCPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: it does not want to run, or may not.
    Off,
    /// On its way into a queue; it has nothing on any CPU.
    Moving,
    /// In the queue of a CPU.
    Queued(CpuId),
    /// A CPU runs it.
    Running(CpuId),
    /// A CPU has stopped running it, but its registers are not all in memory yet.
    Leaving(CpuId),
}

/// What may happen to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It is started.
    Up,
    /// It is stopped.
    Down,
    /// It goes to sleep: said by the CPU that runs it.
    Block,
    /// Something happened that it may wait for.
    Wake,
    /// Somebody wants it to stand still.
    Pause,
    /// That somebody no longer does.
    Unpause,
    /// Somebody wants to have it who changes what may only change while nobody looks, though it does not run.
    Claim,
    /// Who has it puts it into the queue of a CPU.
    Queue(CpuId),
    /// Who holds the lock of its queue takes it out, to put it into another one.
    Take,
    /// The CPU of its queue begins to run it.
    Start(CpuId),
    /// Who holds the lock of its queue takes it out, because it must not run.
    Remove,
    /// Its CPU stops to run it.
    Leave,
    /// Its CPU has all its registers in memory.
    Saved,
}

/// What is to be done after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// Whoever made the change has it now, and puts it into a queue.
    Place,
    /// It is in the queue of this CPU, and must come out.
    Remove(CpuId),
    /// This CPU runs it, and must think again.
    Interrupt(CpuId),
}

/// Why an event cannot happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is in another place.
    Place,
    /// It must not run.
    NotRunnable,
    /// It may run.
    Runnable,
    /// It is paused as many times as can be counted, or not at all.
    Pauses,
}

/// The packed word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct StateWord(u64);

const PAUSES: u64 = 0xffff;
const BLOCKED: u64 = 1 << 16;
const DOWN: u64 = 1 << 17;
const PLACE: u64 = 7 << PLACE_SHIFT | 0xffff_ffff << CPU_SHIFT;
const PLACE_SHIFT: u32 = 24;
const CPU_SHIFT: u32 = 32;

impl StateWord {
    /// The word of a vCPU that was never started.
    pub(super) const DOWN: Self = Self(DOWN);

    /// Takes the word as it is stored.
    pub(super) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The word as it is stored.
    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    /// Where it is.
    pub(super) const fn place(self) -> Place {
        let cpu = CpuId::new((self.0 >> CPU_SHIFT) as u32);
        match (self.0 >> PLACE_SHIFT) & 7 {
            1 => Place::Moving,
            2 => Place::Queued(cpu),
            3 => Place::Running(cpu),
            4 => Place::Leaving(cpu),
            _ => Place::Off,
        }
    }

    /// Whether it wants to run and may.
    pub(super) const fn is_runnable(self) -> bool {
        self.0 & (PAUSES | BLOCKED | DOWN) == 0
    }

    /// Whether it sleeps.
    pub(super) const fn is_blocked(self) -> bool {
        self.0 & BLOCKED != 0
    }

    /// Whether it is down.
    pub(super) const fn is_down(self) -> bool {
        self.0 & DOWN != 0
    }

    /// How many times it is paused.
    pub(super) const fn pauses(self) -> u16 {
        (self.0 & PAUSES) as u16
    }

    const fn at(self, place: Place) -> Self {
        let (number, cpu) = match place {
            Place::Off => (0, 0),
            Place::Moving => (1, 0),
            Place::Queued(cpu) => (2, cpu.get()),
            Place::Running(cpu) => (3, cpu.get()),
            Place::Leaving(cpu) => (4, cpu.get()),
        };
        Self(self.0 & !PLACE | number << PLACE_SHIFT | (cpu as u64) << CPU_SHIFT)
    }

    /// The word after an event, and what then is to be done.
    pub(super) fn after(self, event: Event) -> Result<(Self, Effect), Refused> {
        let place = self.place();
        match (event, place) {
            (Event::Up, _) => Ok(Self(self.0 & !DOWN).woken()),
            (Event::Wake, _) => Ok(Self(self.0 & !BLOCKED).woken()),
            (Event::Unpause, _) => match self.pauses() {
                0 => Err(Refused::Pauses),
                _ => Ok(Self(self.0.wrapping_sub(1)).woken()),
            },
            (Event::Down, _) => Ok(Self(self.0 | DOWN).stopped()),
            (Event::Pause, _) => match self.pauses() {
                u16::MAX => Err(Refused::Pauses),
                _ => Ok(Self(self.0.wrapping_add(1)).stopped()),
            },
            // Its own CPU says so, and thinks again anyway.
            (Event::Block, Place::Running(_)) => Ok((Self(self.0 | BLOCKED), Effect::None)),

            (Event::Claim, Place::Off) => Ok((self.at(Place::Moving), Effect::Place)),
            (Event::Queue(cpu), Place::Moving) if self.is_runnable() => {
                Ok((self.at(Place::Queued(cpu)), Effect::None))
            }
            (Event::Queue(_), Place::Moving) => Ok((self.at(Place::Off), Effect::None)),
            (Event::Take, Place::Queued(_)) => Ok((self.at(Place::Moving), Effect::Place)),
            (Event::Start(cpu), Place::Queued(queue)) if cpu == queue => {
                if self.is_runnable() {
                    Ok((self.at(Place::Running(cpu)), Effect::None))
                } else {
                    Err(Refused::NotRunnable)
                }
            }
            (Event::Remove, Place::Queued(_)) => {
                if self.is_runnable() {
                    Err(Refused::Runnable)
                } else {
                    Ok((self.at(Place::Off), Effect::None))
                }
            }
            (Event::Leave, Place::Running(cpu)) => Ok((self.at(Place::Leaving(cpu)), Effect::None)),
            (Event::Saved, Place::Leaving(_)) => {
                if self.is_runnable() {
                    Ok((self.at(Place::Moving), Effect::Place))
                } else {
                    Ok((self.at(Place::Off), Effect::None))
                }
            }
            _ => Err(Refused::Place),
        }
    }

    /// Behind something that may have made it runnable.
    fn woken(self) -> (Self, Effect) {
        match self.place() {
            Place::Off if self.is_runnable() => (self.at(Place::Moving), Effect::Place),
            _ => (self, Effect::None),
        }
    }

    /// Behind something that has made it not runnable.
    fn stopped(self) -> (Self, Effect) {
        match self.place() {
            Place::Queued(cpu) => (self, Effect::Remove(cpu)),
            Place::Running(cpu) => (self, Effect::Interrupt(cpu)),
            _ => (self, Effect::None),
        }
    }
}
