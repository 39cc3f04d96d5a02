//! Cycles of the clock as nanoseconds, by the formula that guests are told to use: so both come to the same number.

/// How many nanoseconds a cycle has. ABI: `public/xen.h`, `struct vcpu_time_info`: cycles are shifted (to the left; to the right if the
/// shift is negative), multiplied, and the product is shifted to the right by 32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scale {
    multiplier: u32,
    shift: i8,
}

impl Scale {
    /// For a counter of this frequency: with as many digits as the multiplier can have.
    pub fn of_khz(khz: u32) -> Self {
        const NANOSECONDS: u128 = 1_000_000;
        let khz = u128::from(khz.max(1));
        // The least shift for which the multiplier fits. With 20, a million of them in a cycle do.
        let by = |shift: i8| {
            let digits = 32_u32.saturating_add_signed(i32::from(shift).saturating_neg());
            let exact = NANOSECONDS.wrapping_shl(digits).checked_div(khz)?;
            Some((u32::try_from(exact).ok()?, shift))
        };
        let (multiplier, shift) = (-31..=20).find_map(by).unwrap_or((u32::MAX, 20));
        Self { multiplier, shift }
    }

    /// What cycles are multiplied by.
    pub const fn multiplier(self) -> u32 {
        self.multiplier
    }

    /// By how many bits cycles are shifted before.
    pub const fn shift(self) -> i8 {
        self.shift
    }

    /// The nanoseconds of so many cycles, rounded down.
    pub fn nanoseconds(self, cycles: u64) -> u64 {
        let by = u32::from(self.shift.unsigned_abs());
        let shifted = if self.shift < 0 {
            cycles.wrapping_shr(by)
        } else {
            cycles.wrapping_shl(by)
        };
        let product = u128::from(shifted).wrapping_mul(self.multiplier.into());
        product.wrapping_shr(32) as u64
    }

    /// The least number of cycles that has so many nanoseconds; the largest number there is if none has.
    pub fn cycles(self, nanoseconds: u64) -> u64 {
        let by = u32::from(self.shift.unsigned_abs());
        let multiplier = u64::from(self.multiplier.max(1));
        // As on paper, a digit of 32 bits at a time: the CPU divides 64 bits at once, and not more without a function.
        let upper = nanoseconds.checked_div(multiplier).unwrap_or(0);
        let rest = nanoseconds.checked_rem(multiplier).unwrap_or(0);
        let lower = rest.wrapping_shl(32).div_ceil(multiplier);
        let shifted = u128::from(upper)
            .wrapping_shl(32)
            .wrapping_add(lower.into());
        let cycles = if self.shift < 0 {
            shifted.wrapping_shl(by)
        } else {
            let all = 1_u128.wrapping_shl(by).wrapping_sub(1);
            shifted.wrapping_add(all).wrapping_shr(by)
        };
        u64::try_from(cycles).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frequencies_of_machines() {
        // 1 GHz: a cycle is a nanosecond.
        let one = Scale::of_khz(1_000_000);
        assert_eq!((one.multiplier(), one.shift()), (1 << 31, 1));
        assert_eq!(one.nanoseconds(123_456_789), 123_456_789);
        let three = Scale::of_khz(3_000_000);
        assert_eq!(three.shift(), -1);
        assert!(three.nanoseconds(3_000_000_000).abs_diff(1_000_000_000) <= 1);
        // What no machine has.
        assert_eq!(Scale::of_khz(0), Scale::of_khz(1));
        assert!(Scale::of_khz(1).nanoseconds(1) > 999_000);
    }

    proptest! {
        #[test]
        fn an_hour_is_an_hour(khz in 1_000_u32..=u32::MAX) {
            let cycles = u64::from(khz) * 3_600_000;
            let error = Scale::of_khz(khz).nanoseconds(cycles).abs_diff(3_600_000_000_000);
            prop_assert!(error < 3_600 + 4_000, "{error}");
        }

        #[test]
        fn the_least_cycles_are_the_least(khz in 1_000_u32..=u32::MAX, time in 0..1_u64 << 60) {
            let scale = Scale::of_khz(khz);
            let cycles = scale.cycles(time);
            prop_assert!(cycles == u64::MAX || scale.nanoseconds(cycles) >= time);
            let unit = 1 << scale.shift().min(0).unsigned_abs();
            prop_assert!(cycles < unit || scale.nanoseconds(cycles - unit) < time);
        }
    }
}
