use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::event::numbers::Numbers;

#[test]
fn all_numbers_are_taken_from_the_lowest_on() {
    let mut numbers = Numbers::new();
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
        let mut numbers = Numbers::new();
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
