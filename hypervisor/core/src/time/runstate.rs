//! What became of a vCPU's time, as guests and tools see it. ABI: `public/vcpu.h`, `RUNSTATE_*`.

use dom0_abi::vcpu::{Runstate, VcpuRunstateInfo};
use oxen_arch::sync::{Rank, SpinLock};

#[derive(Debug)]
struct Account {
    state: Runstate,
    since: u64,
    /// Nanoseconds in each state, but for those since then.
    times: [u64; 4],
}

/// The account of one vCPU; its lock has rank `Time`.
#[derive(Debug)]
pub struct RunstateAccount(SpinLock<Account>);

impl RunstateAccount {
    /// Of a vCPU that has not run, since the host began.
    pub const fn new() -> Self {
        let account = Account {
            state: Runstate::Offline,
            since: 0,
            times: [0; 4],
        };
        Self(SpinLock::new(Rank::Time, account))
    }

    /// The vCPU is in this state from now on; `now` is asked if it was in another one. Returns whether it was.
    pub fn enter(&self, state: Runstate, now: impl FnOnce() -> u64) -> bool {
        self.0.lock().enter(state, now)
    }

    /// The vCPU, if it sleeps, waits for a CPU from now on.
    pub fn wakes(&self, now: u64) {
        let mut account = self.0.lock();
        if account.state == Runstate::Blocked {
            account.enter(Runstate::Runnable, || now);
        }
    }

    /// All of it, as of now.
    pub fn info(&self, now: u64) -> VcpuRunstateInfo {
        let account = self.0.lock();
        VcpuRunstateInfo {
            state: account.state.get(),
            _pad0: 0,
            state_entry_time: account.since,
            time: account.times_at(now),
        }
    }
}

impl Default for RunstateAccount {
    fn default() -> Self {
        Self::new()
    }
}

impl Account {
    fn enter(&mut self, state: Runstate, now: impl FnOnce() -> u64) -> bool {
        if self.state == state {
            return false;
        }
        let now = now();
        self.times = self.times_at(now);
        (self.state, self.since) = (state, self.since.max(now));
        true
    }

    fn times_at(&self, now: u64) -> [u64; 4] {
        let mut times = self.times;
        if let Some(time) = times.get_mut(self.state.get() as usize) {
            *time = time.saturating_add(now.saturating_sub(self.since));
        }
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_time_is_in_some_state() {
        let account = RunstateAccount::new();
        let steps = [
            (10, Runstate::Runnable),
            (15, Runstate::Running),
            (40, Runstate::Blocked),
            (41, Runstate::Running),
        ];
        for (now, state) in steps {
            assert!(account.enter(state, || now));
            assert!(!account.enter(state, || now + 1));
        }
        let info = account.info(100);
        assert_eq!(info.time, [25 + 59, 5, 1, 10]);
        assert_eq!((info.state, info.state_entry_time), (0, 41));
        assert_eq!(info.time.iter().sum::<u64>(), 100);
        // A clock that is a little behind takes nothing back.
        account.enter(Runstate::Blocked, || 40);
        let info = account.info(100);
        assert_eq!((info.time[2], info.state_entry_time), (1 + 59, 41));
    }
}
