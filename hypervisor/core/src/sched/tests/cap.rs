//! Caps.

use proptest::prelude::*;

use super::super::cap::{PERIOD, Pool, full};

#[test]
fn a_word_is_unpacked_as_it_was_packed() {
    for left in [0, 1, -1, i32::MAX, i32::MIN] {
        assert_eq!(Pool::from_bits(Pool::new(7, left).bits()).left(), left);
    }
}

#[test]
fn a_cap_is_per_cent_of_a_cpu() {
    assert_eq!(full(0), None);
    assert_eq!(full(1), Some(PERIOD / 100));
    assert_eq!(full(100), Some(PERIOD));
    assert_eq!(full(10_000), Some(100 * PERIOD));
    assert_eq!(full(u16::MAX), None, "more than any machine has");
}

#[test]
fn a_clock_that_is_behind_fills_nothing_up() {
    let pool = Pool::new(0, 0).at(5 * PERIOD, 1000);
    assert_eq!(pool.at(4 * PERIOD, 1000), pool);
    assert_eq!(pool.at(5 * PERIOD + 1, 1000), pool);
}

proptest! {
    /// Whatever is taken and given back: what was used is no more than what the periods brought, and that of two before.
    #[test]
    fn no_more_is_granted_than_the_periods_bring(
        full in 1_u64..1_000_000_000,
        steps in prop::collection::vec((0_u64..3 * PERIOD, 0_u64..PERIOD, 0_u64..100), 1..80),
    ) {
        let (mut now, mut pool, mut used) = (0, Pool::new(0, 0), 0_u64);
        for (pause, wanted, part) in steps {
            now += pause;
            let (behind, granted) = pool.at(now, full).take(wanted);
            prop_assert!(granted <= wanted);
            // Some is overstayed by one hundredth, some is given back.
            let done = granted * part / 99;
            pool = behind.settle(granted as i64 - done as i64, full);
            used += done;
            prop_assert!(i64::from(pool.left()) <= 2 * full as i64);
            let brought = (now / PERIOD) * full;
            prop_assert!(used <= brought + granted / 99 + 1, "{} {}", used, brought);
        }
    }
}
