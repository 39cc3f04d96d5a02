//! What an administrator may set, as plain data: the parameters that the tools know of `credit2`.
//!
//! A domain has a weight and a cap, the machine has a shortest run. There is nothing else: the other knobs of that scheduler are
//! options of its command line (how far loads of run queues may differ and the like), which no tool can reach, and this one has
//! no counterpart to them. Parameters of single vCPUs exist in the interface; for a scheduler that has none the call is refused
//! with `EINVAL` by whoever decodes it.

use core::num::NonZero;

use dom0_abi::errno::Errno;

/// How much a domain's vCPUs get, each of them, against others: twice the weight, twice the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(NonZero<u16>);

impl Weight {
    /// What a domain begins with.
    pub const DEFAULT: Self = match Self::new(256) {
        Some(weight) => weight,
        None => Self(NonZero::<u16>::MIN),
    };

    /// Wraps a number; there is no weight 0.
    pub const fn new(weight: u16) -> Option<Self> {
        match NonZero::new(weight) {
            Some(weight) => Some(Self(weight)),
            None => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0.get()
    }

    /// Virtual time of so much work: units, of which a vCPU of the default weight uses one in sixteen nanoseconds, and what is
    /// left over from the division, to be carried.
    pub(super) fn virtual_time(self, nanoseconds: u64, carried: u16) -> (u64, u16) {
        let weight = NonZero::<u64>::from(self.0);
        let work = nanoseconds
            .saturating_mul(UNITS)
            .saturating_add(carried.into());
        (work / weight, (work % weight) as u16)
    }

    /// The same for lengths that need not be exact.
    pub(super) fn span(self, nanoseconds: u64) -> u64 {
        self.virtual_time(nanoseconds, 0).0
    }
}

/// Units of virtual time in a nanosecond at weight 1. A clock of 64 bits then serves for 36 years, however small the weight.
const UNITS: u64 = 16;

/// The parameters of a domain. ABI: `public/domctl.h`, `xen_domctl_sched_credit2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainParams {
    /// Its share against others.
    pub weight: Weight,
    /// Per cent of one CPU that all its vCPUs may have together; 0: as much as there is.
    pub cap: u16,
}

impl DomainParams {
    /// What a domain begins with.
    pub const DEFAULT: Self = Self {
        weight: Weight::DEFAULT,
        cap: 0,
    };

    /// What a call sets, as `credit2` takes it: weight 0 leaves the weight as it is, cap `0xffff` the cap.
    pub fn updated(self, weight: u16, cap: u16) -> Self {
        Self {
            weight: Weight::new(weight).unwrap_or(self.weight),
            cap: if cap == u16::MAX { self.cap } else { cap },
        }
    }
}

/// How long a vCPU runs at least before another one may take its CPU, in microseconds. ABI: `public/sysctl.h`,
/// `xen_sysctl_credit2_schedule`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit(u32);

impl RateLimit {
    /// A millisecond.
    pub const DEFAULT: Self = Self(1000);
    const MIN: u32 = 100;
    const MAX: u32 = 500_000;

    /// `EINVAL`: neither 0, which is none, nor in the range that the ABI gives. ABI: `XEN_SYSCTL_SCHED_RATELIMIT_MIN`, `_MAX`.
    pub fn new(microseconds: u32) -> Result<Self, Errno> {
        match microseconds {
            0 | Self::MIN..=Self::MAX => Ok(Self(microseconds)),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The number.
    pub const fn microseconds(self) -> u32 {
        self.0
    }

    /// In nanoseconds.
    pub(super) const fn nanoseconds(self) -> u64 {
        (self.0 as u64).saturating_mul(1000)
    }

    /// The one of so many nanoseconds.
    pub(super) const fn of_nanoseconds(nanoseconds: u64) -> Self {
        Self((nanoseconds / 1000) as u32)
    }
}
