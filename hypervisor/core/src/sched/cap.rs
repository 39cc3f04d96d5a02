//! Caps: how much a domain may still run in this period, as a packed word and pure functions, and the record of a domain.
//!
//! | bits | what |
//! |---|---|
//! | 0..32 | nanoseconds that are left, signed: negative if more was used than was there |
//! | 32..64 | the period for which this is, counted from the start of the clock |
//!
//! Time is given out before it is used: a vCPU takes a *grant* when it begins to run, and gives back what it has not used. So no
//! more runs, on all CPUs together, than what the periods brought, but for what a CPU overstays its grant, and that is taken
//! from the next one. Nothing has to happen when a period ends: whoever looks at the word next fills it up.
//!
//! INVARIANT: what is left is at most that of two periods. So in any time `t` a domain runs at most `cap * (t + 3 periods)`, and what
//! CPUs overstay.

use oxen_arch::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::params::{DomainParams, Weight};

/// How long a period is.
pub(super) const PERIOD: u64 = 10_000_000;
/// The most that a period brings: so much that two fit into 31 bits. That is a hundred CPUs; a greater cap is none.
const MOST: u64 = 1_000_000_000;
/// The shortest grant, unless less is left.
const SHORT: u64 = 250_000;

/// The packed word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pool(u64);

impl Pool {
    pub(super) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    pub(super) const fn new(period: u32, left: i32) -> Self {
        Self((period as u64) << 32 | left as u32 as u64)
    }

    pub(super) const fn left(self) -> i32 {
        self.0 as u32 as i32
    }

    const fn period(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The word at this time, of a domain that gets `full` each period.
    pub(super) fn at(self, now: u64, full: u64) -> Self {
        let period = (now / PERIOD) as u32;
        let gone = period.wrapping_sub(self.period());
        // A clock of another CPU that is a little behind is no reason to fill up.
        if gone == 0 || gone > u32::MAX / 2 {
            return self;
        }
        let more = full.saturating_mul(gone.into());
        let left = i64::from(self.left()).saturating_add_unsigned(more);
        Self::new(period, clamp(left.min(most(full))))
    }

    /// Takes up to so much; the word behind it, and how much it was.
    pub(super) fn take(self, wanted: u64) -> (Self, u64) {
        let there = u64::try_from(self.left()).unwrap_or(0);
        let granted = wanted.min(there);
        let left = i64::from(self.left()).saturating_sub_unsigned(granted);
        (Self::new(self.period(), clamp(left)), granted)
    }

    /// Gives back what was not used, or takes what was used beyond the grant.
    pub(super) fn settle(self, unused: i64, full: u64) -> Self {
        let left = i64::from(self.left()).saturating_add(unused);
        Self::new(self.period(), clamp(left.min(most(full))))
    }
}

fn most(full: u64) -> i64 {
    full.saturating_mul(2) as i64
}

fn clamp(left: i64) -> i32 {
    left.clamp(i32::MIN.into(), i32::MAX.into()) as i32
}

/// What a domain gets in a period; `None` if it may have all it wants.
pub(super) fn full(cap: u16) -> Option<u64> {
    let full = u64::from(cap).saturating_mul(PERIOD / 100);
    (cap != 0 && full <= MOST).then_some(full)
}

/// When the period of this time ends.
pub(super) const fn end_of_period(now: u64) -> u64 {
    (now / PERIOD).saturating_add(1).saturating_mul(PERIOD)
}

/// What the scheduler keeps of a domain.
#[derive(Debug)]
pub struct DomainRecord {
    /// Weight; cap in the upper half.
    params: AtomicU32,
    /// How many of its vCPUs want to run and may.
    runnable: AtomicU32,
    pool: AtomicU64,
}

impl Default for DomainRecord {
    fn default() -> Self {
        Self::new()
    }
}

impl DomainRecord {
    /// The record of a domain with the parameters that one begins with.
    pub fn new() -> Self {
        Self {
            params: AtomicU32::new(pack(DomainParams::DEFAULT)),
            runnable: AtomicU32::new(0),
            pool: AtomicU64::new(0),
        }
    }

    /// Its parameters.
    pub fn params(&self) -> DomainParams {
        let bits = self.params.load(Ordering::Relaxed);
        DomainParams {
            weight: Weight::new(bits as u16).unwrap_or(Weight::DEFAULT),
            cap: (bits >> 16) as u16,
        }
    }

    /// Sets them. A vCPU that runs or waits has them from its next slice on.
    pub fn set_params(&self, params: DomainParams) {
        self.params.store(pack(params), Ordering::Relaxed);
    }

    /// One of its vCPUs has become runnable, or is so no more.
    pub(super) fn count(&self, is_runnable: bool) {
        if is_runnable {
            self.runnable.fetch_add(1, Ordering::Relaxed);
        } else {
            self.runnable.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[cfg(test)]
    pub(super) fn runnable(&self) -> u32 {
        self.runnable.load(Ordering::Relaxed)
    }

    /// Whether it has used up what this period brought.
    pub(super) fn is_spent(&self, now: u64) -> bool {
        full(self.params().cap).is_some_and(|full| {
            let pool = Pool::from_bits(self.pool.load(Ordering::Relaxed));
            pool.at(now, full).left() <= 0
        })
    }

    /// Takes time for a vCPU that is to run for `slice`: a part, so that each of its vCPUs finds some. 0: nothing is left.
    /// `None`: it has no cap.
    pub(super) fn grant(&self, now: u64, slice: impl FnOnce() -> u64) -> Option<u64> {
        let full = full(self.params().cap)?;
        let sharers = u64::from(self.runnable.load(Ordering::Relaxed)).max(1);
        let share = full.checked_div(sharers).unwrap_or(full);
        let wanted = slice().min(share.max(SHORT));
        let mut granted = 0;
        self.change(|pool| {
            let (pool, taken) = pool.at(now, full).take(wanted);
            granted = taken;
            pool
        });
        Some(granted)
    }

    /// Settles a grant: `unused` is what was left, or negative, by how much it was overstayed.
    pub(super) fn settle(&self, now: u64, unused: i64) {
        if let Some(full) = full(self.params().cap) {
            self.change(|pool| pool.at(now, full).settle(unused, full));
        }
    }

    fn change(&self, mut by: impl FnMut(Pool) -> Pool) {
        let mut old = self.pool.load(Ordering::Relaxed);
        loop {
            let new = by(Pool::from_bits(old)).bits();
            // The word says everything itself: nothing else is ordered by it.
            let (order, failed) = (Ordering::Relaxed, Ordering::Relaxed);
            match self.pool.compare_exchange_weak(old, new, order, failed) {
                Ok(_) => return,
                Err(now) => old = now,
            }
        }
    }
}

fn pack(params: DomainParams) -> u32 {
    u32::from(params.cap) << 16 | u32::from(params.weight.get())
}
