//! The wall clock: what time it was outside when system time was 0, which each domain is told in the page that it shares with us.
//!
//! It comes from the real-time clock at boot, to a second, and from the control domain later. Nothing here asks for it.
//!
//! LOCK: rank `Time`. Who tells a domain holds that domain's shared page (rank `Domain`) before, and writes the value that is set then:
//! so what a page says is never older than what was set when it was last written.

use core::mem::offset_of;

use dom0_abi::addr::{Mfn, PAGE_SIZE};
use dom0_abi::ids::DomId;
use dom0_abi::xen::SharedInfo;
use oxen_arch::CalendarTime;
use oxen_arch::memory::{BadFrame, PhysMem};
use oxen_arch::sync::{Rank, SpinLock};

use crate::budget::Budget;
use crate::domain::Domain;
use crate::domain::table::MAX_DOMAINS;
use crate::host::Host;

const SECOND: u64 = 1_000_000_000;

/// How many numbers of domains are looked at for one unit of budget.
const NUMBERS: usize = 8;

/// A time outside: seconds since 1970, and nanoseconds of the second.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct WallTime {
    seconds: u64,
    nanoseconds: u32,
}

impl WallTime {
    /// What it was at system time 0, when it is `seconds` and `nanoseconds`, however many these are, at `system_time`. `None`: it
    /// was before 1970, or there is no number for it.
    pub fn of_system_time_0(seconds: u64, nanoseconds: u32, system_time: u64) -> Option<Self> {
        let then = u128::from(seconds)
            .saturating_mul(SECOND.into())
            .saturating_add(nanoseconds.into())
            .checked_sub(system_time.into())?;
        let nanoseconds = then.checked_rem(SECOND.into())?;
        Some(Self {
            seconds: u64::try_from(then.checked_div(SECOND.into())?).ok()?,
            nanoseconds: u32::try_from(nanoseconds).ok()?,
        })
    }
}

/// The wall clock of a machine.
pub struct WallClock(SpinLock<State>);

struct State {
    /// What time it was at system time 0.
    origin: WallTime,
    /// The domains from this number on may not have been told.
    told_below: usize,
}

impl WallClock {
    /// Begins with what the real-time clock said at a system time in ns; with the beginning of 1970 if it said nothing.
    pub fn new(clock: Option<CalendarTime>, system_time: u64) -> Self {
        let seconds = clock.map(CalendarTime::seconds_since_1970);
        let origin = seconds.and_then(|it| WallTime::of_system_time_0(it, 0, system_time));
        let state = State {
            origin: origin.unwrap_or_default(),
            told_below: MAX_DOMAINS,
        };
        Self(SpinLock::new(Rank::Time, state))
    }

    /// Sets it: all domains are to be told.
    fn set(&self, origin: WallTime) {
        let mut state = self.0.lock();
        if state.origin != origin {
            *state = State {
                origin,
                told_below: 0,
            };
        }
    }

    /// Takes the next numbers of domains that are to be told: from this one on.
    fn take_next(&self) -> Option<usize> {
        let mut state = self.0.lock();
        let first = state.told_below;
        state.told_below = first.saturating_add(NUMBERS);
        (first < MAX_DOMAINS).then_some(first)
    }

    /// Writes it to a shared page, which stays one meanwhile.
    fn write(&self, mem: &PhysMem, page: Mfn) -> Result<(), BadFrame> {
        const { assert!(size_of::<SharedInfo>() <= PAGE_SIZE) }
        let state = self.0.lock();
        let WallTime {
            seconds,
            nanoseconds,
        } = state.origin;
        let version = page.at(offset_of!(SharedInfo, wc_version));
        let odd = mem.load_u32(version)? | 1;
        mem.store_u32(version, odd)?;
        mem.store_u32(page.at(offset_of!(SharedInfo, wc_sec)), seconds as u32)?;
        mem.store_u32(page.at(offset_of!(SharedInfo, wc_nsec)), nanoseconds)?;
        let high = seconds.wrapping_shr(32) as u32;
        mem.store_u32(page.at(offset_of!(SharedInfo, wc_sec_hi)), high)?;
        mem.store_u32(version, odd.wrapping_add(1))
    }
}

impl Host {
    /// Tells a domain the wall clock. One that ends has no page for it any more.
    pub fn tell_wall_clock(&self, domain: &Domain) {
        domain.with_shared_page(|page| {
            // The page is held, so it is there.
            let _: Result<(), BadFrame> = self.time.wall.write(self.mem(), page);
        });
    }

    /// Sets the wall clock and tells all domains, as far as the budget goes. `false`: there are more to tell, and who asks for the same
    /// once more goes on with them. Of two who ask for different times in turns, none may come to an end.
    #[must_use]
    pub fn set_wall_clock(&self, origin: WallTime, budget: &mut Budget) -> bool {
        self.time.wall.set(origin);
        while let Some(first) = self.time.wall.take_next() {
            let mut units = 1;
            for number in first..first.saturating_add(NUMBERS) {
                let id = u16::try_from(number).map(DomId::new);
                if let Some(domain) = id.ok().and_then(|id| self.domains.get(id)) {
                    self.tell_wall_clock(&domain);
                    units = u32::saturating_add(units, 2);
                }
            }
            if !budget.take(units) {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nanoseconds_are_carried() {
        let of = |seconds, nanoseconds, system_time| {
            WallTime::of_system_time_0(seconds, nanoseconds, system_time)
                .map(|time| (time.seconds, time.nanoseconds))
        };
        assert_eq!(of(5, 7, 0), Some((5, 7)));
        assert_eq!(of(5, 7, 8), Some((4, 999_999_999)));
        assert_eq!(of(5, 4_000_000_001, 0), Some((9, 1)));
        assert_eq!(of(0, 9, 9), Some((0, 0)));
        assert_eq!(of(0, 9, 10), None);
        assert_eq!(of(1, 0, u64::MAX), None);
        assert_eq!(of(u64::MAX, 999_999_999, 0), Some((u64::MAX, 999_999_999)));
        assert_eq!(of(u64::MAX, 1_000_000_000, 0), None);
    }
}
