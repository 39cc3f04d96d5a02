//! How many lines somebody may cause to be logged.

/// Lines that may come at once after a pause.
const BURST: u8 = 10;

/// A bucket of tokens, one for each line; it fills up again with time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    tokens: u8,
    /// When the last token came in, in ticks.
    filled_at: u64,
    /// Lines that were left out since the last one that was not.
    left_out: u32,
}

impl TokenBucket {
    /// A full bucket.
    pub const FULL: Self = Self {
        tokens: BURST,
        filled_at: 0,
        left_out: 0,
    };

    /// Decides over a line at time `now`, when a token comes every `ticks_per_token` ticks (0: there is no clock yet,
    /// and every line passes). `Some`: it may be written, and so many were left out before it.
    ///
    /// A clock that goes back brings no tokens, and takes none.
    pub fn take(&mut self, now: u64, ticks_per_token: u64) -> Option<u32> {
        let Some(new) = now
            .saturating_sub(self.filled_at)
            .checked_div(ticks_per_token)
        else {
            return Some(0);
        };
        let missing = BURST.saturating_sub(self.tokens);
        if new >= u64::from(missing) {
            self.tokens = BURST;
            self.filled_at = self.filled_at.max(now);
        } else {
            self.tokens = self.tokens.saturating_add(new as u8);
            self.filled_at = self
                .filled_at
                .saturating_add(new.saturating_mul(ticks_per_token));
        }
        match self.tokens.checked_sub(1) {
            Some(tokens) => {
                self.tokens = tokens;
                Some(core::mem::take(&mut self.left_out))
            }
            None => {
                self.left_out = self.left_out.saturating_add(1);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_then_one_line_per_token() {
        let mut bucket = TokenBucket::FULL;
        for line in 0..10 {
            assert_eq!(bucket.take(1000, 100), Some(0), "line {line}");
        }
        assert_eq!(bucket.take(1000, 100), None);
        assert_eq!(bucket.take(1099, 100), None);
        assert_eq!(bucket.take(1100, 100), Some(2));
        assert_eq!(bucket.take(1199, 100), None);
        assert_eq!(bucket.take(1200, 100), Some(1));
        // A pause fills the bucket, but not over its rim.
        for _ in 0..10 {
            assert_eq!(bucket.take(1_000_000, 100), Some(0));
        }
        assert_eq!(bucket.take(1_000_000, 100), None);
    }

    #[test]
    fn a_clock_that_goes_back_changes_nothing() {
        let mut bucket = TokenBucket::FULL;
        while bucket.take(1000, 100).is_some() {}
        assert_eq!(bucket.take(0, 100), None);
        assert_eq!(bucket.take(1050, 100), None);
        assert_eq!(bucket.take(1100, 100), Some(3));
    }

    #[test]
    fn without_a_clock_every_line_passes() {
        let mut bucket = TokenBucket::FULL;
        assert!((0..100).all(|_| bucket.take(0, 0) == Some(0)));
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_time_allow(
            steps in proptest::collection::vec(0u64..300, 1..200),
            ticks in 1u64..500,
        ) {
            let mut bucket = TokenBucket::FULL;
            let (mut now, mut passed, mut told, mut dropped) = (0, 0, 0, 0);
            for step in steps {
                now += step;
                match bucket.take(now, ticks) {
                    Some(left_out) => {
                        passed += 1;
                        told += left_out;
                    }
                    None => dropped += 1,
                }
            }
            prop_assert!(passed <= u64::from(BURST) + now / ticks);
            prop_assert_eq!(told + bucket.left_out, dropped);
        }

        #[test]
        fn no_time_panics(times in proptest::collection::vec(any::<(u64, u64)>(), 1..50)) {
            let mut bucket = TokenBucket::FULL;
            for (now, ticks) in times {
                bucket.take(now, ticks);
            }
        }
    }
}
