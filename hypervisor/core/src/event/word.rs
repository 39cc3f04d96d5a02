//! What a port is, packed into one word, and how that word may change. Pure: `cell` applies it.
//!
//! | bits | what |
//! |---|---|
//! | 0-2 | kind |
//! | 3 | locked: one CPU is changing what the port is |
//! | 4-15 | how many CPUs hold the port as it is |
//! | 16-31 | the domain at the other end, or that may connect |
//! | 32-49 | its port, or the number of a VIRQ, or of a device's interrupt |
//! | 50-57 | the vCPU that is told of events |
//! | 58-61 | how urgent events are in the FIFO form, as the difference from the default |
//! | 62 | an event is owed: it came when there was no place that says so to the guest |
//!
//! INVARIANT (I22): as long as a port is held it stays what it is: who locks it lets nobody hold it any more, and waits for those
//! that do. Only which vCPU is told may change meanwhile.

use dom0_abi::event_channel::{FIFO_PRIORITY_DEFAULT, FIFO_PRIORITY_MIN};
use dom0_abi::ids::{DomId, Port, VcpuId};
use dom0_abi::xen::{NR_VIRQS, Virq};

use crate::irq::Pirq;

/// How urgent the events of a port are in the FIFO form: 0 is the most urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(u8);

impl Priority {
    /// That of a new port. ABI: `public/event_channel.h`, `EVTCHN_FIFO_PRIORITY_DEFAULT`.
    pub const DEFAULT: Self = Self(FIFO_PRIORITY_DEFAULT as u8);

    /// The priority of this number, if there is one. ABI: `public/event_channel.h`, `EVTCHN_FIFO_PRIORITY_MIN`.
    pub const fn new(number: u32) -> Option<Self> {
        if number <= FIFO_PRIORITY_MIN {
            Some(Self(number as u8))
        } else {
            None
        }
    }

    /// That of the lowest four bits: each number that these can be is one.
    pub const fn low_bits(bits: u32) -> Self {
        Self((bits & FIFO_PRIORITY_MIN) as u8)
    }

    /// The bare number.
    pub const fn get(self) -> u32 {
        self.0 as u32
    }

    /// The number, to count queues by.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// All, the most urgent first.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=FIFO_PRIORITY_MIN).map(Self::low_bits)
    }
}

const _: () = assert!(FIFO_PRIORITY_MIN == 0b1111, "as many as four bits can be");

/// The number of a virtual interrupt: one that the ABI has room for, whether it names it or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirqNumber(u8);

impl VirqNumber {
    /// The number, if there is room for it. ABI: `public/xen.h`, `NR_VIRQS`.
    pub const fn new(number: u32) -> Option<Self> {
        if number < NR_VIRQS {
            Some(Self(number as u8))
        } else {
            None
        }
    }

    /// The bare number.
    pub const fn get(self) -> u32 {
        self.0 as u32
    }

    /// Whether each vCPU has its own. The others, those without a name too, exist once in a domain.
    pub fn is_per_vcpu(self) -> bool {
        Virq::try_from(self.get()).is_ok_and(Virq::is_per_vcpu)
    }
}

impl From<Virq> for VirqNumber {
    fn from(virq: Virq) -> Self {
        Self(virq.get() as u8)
    }
}

/// What a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// Nobody's.
    Free,
    /// Offered to a domain, which may not exist.
    Unbound {
        /// The domain.
        remote: DomId,
    },
    /// Connected.
    Interdomain {
        /// The domain at the other end.
        remote: DomId,
        /// Its port.
        port: Port,
    },
    /// A virtual interrupt.
    Virq(VirqNumber),
    /// An interrupt of a device.
    Pirq(Pirq),
    /// For events between vCPUs.
    Ipi,
}

/// What a port is, and which vCPU is told of its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// What it is.
    pub state: PortState,
    /// The vCPU.
    pub vcpu: VcpuId,
}

impl Binding {
    /// A port that is nobody's.
    pub const FREE: Self = Self::first(PortState::Free);

    /// A port whose events the first vCPU is told of.
    pub const fn first(state: PortState) -> Self {
        Self {
            state,
            vcpu: VcpuId::new(0),
        }
    }
}

/// The word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortWord(u64);

/// A change that cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Somebody is changing the port.
    Locked,
    /// As many CPUs hold it as the word can count.
    TooMany,
    /// It is not what it would have to be.
    State,
}

const FREE: u64 = 0;
const UNBOUND: u64 = 1;
const INTERDOMAIN: u64 = 2;
const VIRQ: u64 = 3;
const IPI: u64 = 4;
const PIRQ: u64 = 5;

const KIND: u64 = 0b111;
const LOCKED: u64 = 1 << 3;
const HOLD: u64 = 1 << 4;
const HOLDS: u64 = 0xfff << 4;
const REMOTE: u32 = 16;
const PORT: u32 = 32;
const PORT_MASK: u64 = 0x3_ffff;
const VCPU: u32 = 50;
const VCPU_MASK: u64 = 0xff << VCPU;
const PRIORITY: u32 = 58;
const PRIORITY_MASK: u64 = 0xf << PRIORITY;
const OWED: u64 = 1 << 62;

impl PortWord {
    /// A port that nobody has and nobody looks at.
    pub const FREE: Self = Self(FREE);

    /// The word of a port that is neither held nor locked.
    pub const fn new(binding: Binding) -> Self {
        let state = match binding.state {
            PortState::Free => FREE,
            PortState::Unbound { remote } => UNBOUND | (remote.get() as u64) << REMOTE,
            PortState::Interdomain { remote, port } => {
                let port = port.get() as u64 & PORT_MASK;
                INTERDOMAIN | (remote.get() as u64) << REMOTE | port << PORT
            }
            PortState::Virq(virq) => VIRQ | (virq.get() as u64) << PORT,
            PortState::Pirq(pirq) => PIRQ | (pirq.get() as u64) << PORT,
            PortState::Ipi => IPI,
        };
        Self(state | (binding.vcpu.get() as u64) << VCPU & VCPU_MASK)
    }

    /// The word with these bits.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Its bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// What the port is.
    #[inline(always)]
    pub const fn binding(self) -> Binding {
        Binding {
            state: self.state(),
            vcpu: VcpuId::new(((self.0 & VCPU_MASK) >> VCPU) as u32),
        }
    }

    /// What the port is, whoever is told.
    #[inline(always)]
    pub const fn state(self) -> PortState {
        let remote = DomId::new((self.0 >> REMOTE) as u16);
        let number = (self.0 >> PORT & PORT_MASK) as u32;
        match self.0 & KIND {
            UNBOUND => PortState::Unbound { remote },
            INTERDOMAIN => PortState::Interdomain {
                remote,
                port: Port::new(number),
            },
            VIRQ => match VirqNumber::new(number) {
                Some(virq) => PortState::Virq(virq),
                None => PortState::Free,
            },
            PIRQ => match Pirq::new(number) {
                Some(pirq) => PortState::Pirq(pirq),
                None => PortState::Free,
            },
            IPI => PortState::Ipi,
            _ => PortState::Free,
        }
    }

    /// Whether somebody is changing the port.
    #[inline(always)]
    pub const fn is_locked(self) -> bool {
        self.0 & LOCKED != 0
    }

    /// How many CPUs hold it.
    #[inline(always)]
    pub const fn holds(self) -> u64 {
        (self.0 & HOLDS) / HOLD
    }

    /// Held once more. Only what events arrive at, or are sent through, is held.
    #[inline(always)]
    pub const fn held(self) -> Result<Self, Refused> {
        match self.state() {
            _ if self.is_locked() => Err(Refused::Locked),
            PortState::Free | PortState::Unbound { .. } => Err(Refused::State),
            PortState::Interdomain { .. }
            | PortState::Virq(_)
            | PortState::Pirq(_)
            | PortState::Ipi => {
                if self.0 & HOLDS == HOLDS {
                    return Err(Refused::TooMany);
                }
                // No carry out of the count: it is not at its end.
                Ok(Self(self.0.wrapping_add(HOLD)))
            }
        }
    }

    /// What is taken from the bits when a hold ends.
    pub const HOLD: u64 = HOLD;

    /// Locked. Those who hold the port are to be waited for.
    pub const fn locked(self) -> Result<Self, Refused> {
        if self.is_locked() {
            return Err(Refused::Locked);
        }
        Ok(Self(self.0 | LOCKED))
    }

    /// Not locked any more, and otherwise as before.
    pub const fn unlocked(self) -> Self {
        Self(self.0 & !LOCKED)
    }

    /// Not locked any more, and of this state: all else stays, unless that is free.
    pub const fn unlocked_as(self, state: PortState) -> Self {
        const STAYS: u64 = VCPU_MASK | PRIORITY_MASK | OWED;
        match state {
            PortState::Free => Self::FREE,
            state => {
                let binding = Binding {
                    state,
                    vcpu: VcpuId::new(0),
                };
                Self(Self::new(binding).0 | self.0 & STAYS)
            }
        }
    }

    /// How urgent its events are in the FIFO form.
    pub const fn priority(self) -> Priority {
        let difference = (self.0 & PRIORITY_MASK) >> PRIORITY;
        Priority::low_bits(difference as u32 ^ FIFO_PRIORITY_DEFAULT)
    }

    /// With another priority: of what is a port.
    pub const fn with_priority(self, priority: Priority) -> Result<Self, Refused> {
        if self.is_locked() {
            return Err(Refused::Locked);
        }
        if matches!(self.state(), PortState::Free) {
            return Err(Refused::State);
        }
        let difference = (priority.get() ^ FIFO_PRIORITY_DEFAULT) as u64;
        Ok(Self(self.0 & !PRIORITY_MASK | difference << PRIORITY))
    }

    /// Whether an event is owed.
    pub const fn is_owed(self) -> bool {
        self.0 & OWED != 0
    }

    /// With an event that is owed: of what is a port and has none, locked or not.
    pub const fn owed(self) -> Result<Self, Refused> {
        if self.is_owed() || matches!(self.state(), PortState::Free) {
            return Err(Refused::State);
        }
        Ok(Self(self.0 | OWED))
    }

    /// With that event taken.
    pub const fn paid(self) -> Result<Self, Refused> {
        if !self.is_owed() {
            return Err(Refused::State);
        }
        Ok(Self(self.0 & !OWED))
    }

    /// With another vCPU to be told: of what may be moved. A VIRQ of which each vCPU has its own stays with that vCPU, and so
    /// do events between vCPUs.
    pub fn moved(self, vcpu: VcpuId) -> Result<Self, Refused> {
        if self.is_locked() {
            return Err(Refused::Locked);
        }
        match self.state() {
            PortState::Unbound { .. } | PortState::Interdomain { .. } | PortState::Pirq(_) => {}
            PortState::Virq(virq) if !virq.is_per_vcpu() => {}
            PortState::Virq(_) | PortState::Ipi | PortState::Free => return Err(Refused::State),
        }
        let vcpu = u64::from(vcpu.get()) << VCPU & VCPU_MASK;
        Ok(Self(self.0 & !VCPU_MASK | vcpu))
    }
}
