use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::budget::Budget;
use crate::event::numbers::{AllNumbers, Numbers};
use crate::frame::UndoQueue;
use crate::testing::Guest;

#[test]
fn all_numbers_are_taken_from_the_lowest_on() {
    let mut numbers = Numbers::first();
    assert_eq!(numbers.lowest_taken(), None);
    for number in 1..4096 {
        assert_eq!(numbers.lowest_free(4096), Some(number));
        assert_eq!(numbers.lowest_free(number), None, "the limit");
        numbers.take(number);
    }
    assert_eq!(numbers.lowest_free(4096), None);
    for number in 1..4096 {
        assert_eq!(numbers.lowest_taken(), Some(number));
        numbers.give_back(number);
        assert_eq!(numbers.lowest_free(4096), Some(1));
    }
    assert_eq!(numbers.lowest_taken(), None);
}

proptest! {
    #[test]
    fn numbers_are_as_a_set_of_them(steps in proptest::collection::vec((any::<bool>(), 0_u32..4200), 1..600)) {
        let mut numbers = Numbers::first();
        let mut taken = BTreeSet::new();
        for (takes, pick) in steps {
            if takes {
                let lowest = (1..4096).find(|number| !taken.contains(number)).filter(|&number| number < pick);
                prop_assert_eq!(numbers.lowest_free(pick), lowest);
                if let Some(number) = lowest {
                    numbers.take(number);
                    taken.insert(number);
                }
            } else if let Some(&number) = taken.range(pick % 64..).next() {
                numbers.give_back(number);
                taken.remove(&number);
            }
            prop_assert_eq!(numbers.lowest_taken(), taken.first().copied());
        }
    }
}

#[test]
fn numbers_beyond_the_first_block_are_taken_from_the_lowest_on_and_their_frames_go_back() {
    const ALL: u32 = 1 << 17;
    let guest = Guest::ordinary();
    let free = guest.host.frames.statistics().free;
    let undo = UndoQueue::new();
    let memory = guest.host.memory(&guest.cpu, &undo);
    let mut numbers = AllNumbers::new();
    for number in 1..ALL {
        assert_eq!(numbers.lowest_free(u32::MAX), Some(number));
        assert_eq!(numbers.lowest_free(number), None, "the limit");
        assert!(numbers.is_free(number));
        numbers.take(number, memory).unwrap();
        assert!(!numbers.is_free(number));
    }
    assert_eq!(numbers.lowest_free(u32::MAX), None);
    assert!(!numbers.is_free(ALL));
    // 31 blocks, and what finds them.
    assert_eq!(guest.host.frames.statistics().free, free - 32);
    for number in [ALL - 1, 70_000, 4096, 4095] {
        numbers.give_back(number);
        assert_eq!(numbers.lowest_free(ALL), Some(number));
    }
    for number in [4095, 4096, 70_000, ALL - 1] {
        numbers.take(number, memory).unwrap();
    }
    for number in 1..ALL {
        assert_eq!(numbers.lowest_taken(), Some(number));
        numbers.give_back(number);
    }
    assert_eq!(numbers.lowest_taken(), None);
    assert!(numbers.clear(memory, &mut { Budget::ENDLESS }));
    assert_eq!(guest.host.frames.statistics().free, free);
}
