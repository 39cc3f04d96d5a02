//! The clock that all CPUs share, as arithmetic: how fast a counter runs, how far the counter of one CPU is from that of
//! another, how many ticks of a timer there are until some time.
//!
//! The clock counts cycles of the first CPU's time-stamp counter. Another CPU adds to its own counter an offset that is
//! measured when it starts, 0 if its counter cannot be told from the first one's.
#![forbid(unsafe_code)]

/// A reading of the clock, in cycles. All CPUs agree on it, but for what [`Skew::error`] says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClockTime(u64);

impl ClockTime {
    /// The reading of so many cycles.
    pub const fn from_cycles(cycles: u64) -> Self {
        Self(cycles)
    }

    /// The bare count.
    pub const fn cycles(self) -> u64 {
        self.0
    }

    /// So many cycles later; the last time there is if that is beyond it.
    pub const fn after(self, cycles: u64) -> Self {
        Self(self.0.saturating_add(cycles))
    }

    /// Cycles from now until then; none if that has passed.
    pub const fn until(self, then: Self) -> u64 {
        then.0.saturating_sub(self.0)
    }
}

/// The frequency, in kHz, of a counter that went on by `cycles` while another, of `ticks_hz`, went on by `ticks`. `None` if that
/// is nothing that a counter does.
pub fn frequency_khz(cycles: u64, ticks: u64, ticks_hz: u64) -> Option<u32> {
    let hertz = u128::from(cycles)
        .checked_mul(ticks_hz.into())?
        .checked_div(ticks.into())?;
    u32::try_from(hertz / 1000).ok().filter(|khz| *khz > 0)
}

/// How many ticks of a CPU's timer a cycle has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerRate {
    /// Ticks in 2^32 cycles.
    ticks: u64,
}

impl TimerRate {
    /// The rate of a timer that went on by `ticks` in `cycles`.
    pub fn new(ticks: u32, cycles: u64) -> Self {
        // Rounded up, as below: a timer that fires too early fires in vain.
        let ticks = (u64::from(ticks.max(1)) << 32).div_ceil(cycles.max(1));
        Self { ticks }
    }

    /// The ticks until so many cycles have passed, and one, since the first may be nearly over. Not more than the timer can count,
    /// so that it fires early if that is far away.
    pub fn ticks(self, cycles: u64) -> u32 {
        let ticks = u128::from(cycles)
            .wrapping_mul(self.ticks.into())
            .div_ceil(1 << 32);
        u32::try_from(ticks.saturating_add(1)).unwrap_or(u32::MAX)
    }
}

/// A question of one CPU to another what time it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// The counter of who asked, before.
    pub asked: u64,
    /// The counter of who answered.
    pub answered: u64,
    /// The counter of who asked, when the answer was there.
    pub heard: u64,
}

/// How far the counter of one CPU is from that of another: what must be added to the former.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Skew {
    least: i64,
    most: i64,
}

impl Skew {
    /// Knows nothing.
    pub const UNKNOWN: Self = Self {
        least: i64::MIN,
        most: i64::MAX,
    };

    /// Learns from an answer, which was given between question and hearing.
    pub fn learn(&mut self, sample: Sample) {
        let from = |cycles: u64| cycles.wrapping_sub(sample.answered).cast_signed();
        self.least = self.least.max(from(sample.asked));
        self.most = self.most.min(from(sample.heard));
    }

    /// What is to be added: nothing, if the counters may well agree.
    pub fn offset(self) -> i64 {
        if self.least <= 0 && self.most >= 0 {
            return 0;
        }
        self.middle()
    }

    /// How far off the offset may be.
    pub fn error(self) -> u64 {
        let offset = self.offset();
        self.most.abs_diff(offset).max(self.least.abs_diff(offset))
    }

    /// Rounded towards the lesser one. Answers contradict each other if the counters do not run alike: then it is in between.
    fn middle(self) -> i64 {
        let middle = (i128::from(self.least) + i128::from(self.most)).div_euclid(2);
        // In between two numbers of this size.
        middle as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_end_where_they_can_not_go_on() {
        let (now, last) = (ClockTime::from_cycles(10), ClockTime::from_cycles(u64::MAX));
        assert_eq!(now.after(5).cycles(), 15);
        assert_eq!(last.after(1), last);
        assert_eq!(now.until(now.after(7)), 7);
        assert_eq!(now.after(7).until(now), 0);
    }

    #[test]
    fn frequencies_follow_from_two_counters() {
        const PM_TIMER: u64 = 3_579_545;
        // 10 ms at 2 GHz.
        assert_eq!(frequency_khz(20_000_000, 35_795, PM_TIMER), Some(2_000_025));
        assert_eq!(
            frequency_khz(u64::MAX, 1, u64::MAX),
            None,
            "no counter is that fast"
        );
        assert_eq!(frequency_khz(1, u64::MAX, 1), None, "or that slow");
        assert_eq!(frequency_khz(1, 0, 1), None);
    }

    #[test]
    fn a_timer_fires_no_earlier_than_asked_unless_it_is_far_away() {
        // 100 MHz beside 3 GHz.
        let rate = TimerRate::new(200_000, 6_000_000);
        for cycles in [0, 1, 29, 30, 31, 3_000_000, 40_000_000_000] {
            let ticks = u64::from(rate.ticks(cycles));
            // Even if the first of them is over at once.
            assert!((ticks - 1) * 30 >= cycles, "{cycles}: {ticks}");
            let late = 90 + cycles / 1_000_000;
            assert!(ticks * 30 <= cycles + late, "{cycles}: {ticks}");
        }
        assert_eq!(rate.ticks(u64::MAX), u32::MAX);
        // A timer as fast as the counter, one that stands still, a counter that does.
        assert_eq!(TimerRate::new(1000, 1000).ticks(5), 6);
        assert_eq!(TimerRate::new(0, u64::MAX).ticks(0), 1);
        assert_eq!(TimerRate::new(u32::MAX, 0).ticks(u64::MAX), u32::MAX);
    }

    fn skew(samples: &[(u64, u64, u64)]) -> Skew {
        let mut skew = Skew::UNKNOWN;
        for &(asked, answered, heard) in samples {
            skew.learn(Sample {
                asked,
                answered,
                heard,
            });
        }
        skew
    }

    #[test]
    fn counters_that_may_agree_are_left_alone() {
        let skew = skew(&[(100, 110, 200), (300, 390, 400)]);
        assert_eq!((skew.offset(), skew.error()), (0, 10));
    }

    #[test]
    fn each_answer_narrows_what_the_offset_may_be() {
        // Behind by 1000: answers 20 to 80 after the question.
        let behind = skew(&[(5000, 4080, 5100), (6000, 5020, 6100), (7000, 6050, 7060)]);
        assert_eq!((behind.offset(), behind.error()), (995, 15));
        // Ahead, by more than all that was counted.
        let ahead = skew(&[(10, 1_000_050, 90)]);
        assert_eq!((ahead.offset(), ahead.error()), (-1_000_000, 40));
        let wrapped = skew(&[(10, u64::MAX - 29, 50)]);
        assert_eq!((wrapped.offset(), wrapped.error()), (60, 20));
    }

    #[test]
    fn counters_that_run_apart_have_an_error_as_large_as_that() {
        let apart = skew(&[(1000, 900, 1010), (2000, 1700, 2010)]);
        assert_eq!((apart.offset(), apart.error()), (205, 95));
        assert_eq!(Skew::UNKNOWN.offset(), 0);
    }
}
