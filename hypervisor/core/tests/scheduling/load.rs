//! What vCPUs do.

use crate::rng::Rng;

const US: u64 = 1_000;
const MS: u64 = 1_000 * US;

/// What a vCPU does all day.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Load {
    /// It never sleeps.
    Hog,
    /// It never sleeps, and yields each time after about so long.
    Yielder(u64),
    /// It works and sleeps for about so long each.
    Sleeper(u64, u64),
    /// It wakes at each multiple of the first, and works for the second.
    Periodic(u64, u64),
    /// It works for long, then sleeps for long.
    Bursts(u64),
}

impl Load {
    /// One that sleeps, or may.
    pub fn any(rng: &mut Rng) -> Self {
        match rng.below(4) {
            0 => Self::Sleeper(rng.within(20 * US, 800 * US), rng.within(2 * MS, 50 * MS)),
            1 => Self::Periodic(rng.within(4 * MS, 40 * MS), rng.within(50 * US, 900 * US)),
            2 => Self::Sleeper(rng.within(5 * US, 60 * US), rng.within(100 * US, 3 * MS)),
            _ => Self::Bursts(rng.within(20 * MS, 300 * MS)),
        }
    }

    /// How long it works before it sleeps again; `None`: for ever.
    pub fn work(&self, rng: &mut Rng) -> Option<u64> {
        match *self {
            Self::Hog => None,
            Self::Sleeper(work, _) => Some(rng.within(work / 2, work * 3 / 2)),
            Self::Periodic(_, work) => Some(work),
            Self::Bursts(length) | Self::Yielder(length) => Some(rng.within(length / 4, length)),
        }
    }

    /// How long it sleeps.
    pub fn sleep(&self, now: u64, rng: &mut Rng) -> u64 {
        match *self {
            Self::Hog | Self::Yielder(_) => 0,
            Self::Sleeper(_, sleep) => rng.within(sleep / 2, sleep * 3 / 2),
            Self::Periodic(period, _) => period - now % period,
            Self::Bursts(length) => rng.within(length / 4, length * 2),
        }
    }

    /// Whether it yields where others sleep.
    pub fn yields(&self) -> bool {
        matches!(self, Self::Yielder(_))
    }
}
