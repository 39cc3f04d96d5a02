//! Every word there can be, as far as it matters.

use dom0_abi::ids::{DomId, Port, VcpuId};
use proptest::prelude::*;

use crate::event::cell::PortCell;
use crate::event::word::{Binding, PortState, PortWord, Priority, Refused, VirqNumber};
use crate::irq::Pirq;

fn states() -> Vec<PortState> {
    let mut states = vec![PortState::Free, PortState::Ipi];
    let pirqs = [0, 1, 23, 1279].map(|number| Pirq::new(number).unwrap());
    states.extend(pirqs.map(PortState::Pirq));
    let domains = [0, 1, 1023, 0x7ff0, 0xffff].map(DomId::new);
    let ports = [0, 1, 4095, (1 << 17) - 1].map(Port::new);
    for remote in domains {
        states.push(PortState::Unbound { remote });
        states.extend(ports.map(|port| PortState::Interdomain { remote, port }));
    }
    states.extend((0..24).map(|virq| PortState::Virq(VirqNumber::new(virq).unwrap())));
    states
}

fn bindings() -> impl Iterator<Item = Binding> {
    states()
        .into_iter()
        .flat_map(|state| (0..128).map(move |vcpu| (state, vcpu)))
        .map(|(state, vcpu)| Binding {
            state,
            vcpu: VcpuId::new(vcpu),
        })
}

#[test]
fn a_word_says_what_was_put_in() {
    for binding in bindings() {
        let word = PortWord::new(binding);
        assert_eq!(word.binding(), binding);
        assert_eq!((word.holds(), word.is_locked()), (0, false));
        assert_eq!(PortWord::from_bits(word.bits()), word);
    }
    assert_eq!(PortWord::new(Binding::FREE), PortWord::FREE);
    assert_eq!(VirqNumber::new(24), None);
}

#[test]
fn i22_only_what_events_come_through_is_held_and_then_it_stays() {
    for binding in bindings() {
        let word = PortWord::new(binding);
        let is_alive = !matches!(binding.state, PortState::Free | PortState::Unbound { .. });
        match word.held() {
            Ok(held) => {
                assert!(is_alive);
                assert_eq!((held.binding(), held.holds()), (binding, 1));
                let twice = held.held().unwrap();
                assert_eq!((twice.binding(), twice.holds()), (binding, 2));
                assert_eq!(twice.bits() - PortWord::HOLD, held.bits());
                // Locked, it is held no more, and those who hold it still count.
                let locked = twice.locked().unwrap();
                assert_eq!((locked.binding(), locked.holds()), (binding, 2));
                assert_eq!(locked.held(), Err(Refused::Locked));
                assert_eq!(locked.unlocked(), twice);
            }
            Err(refused) => assert_eq!((refused, is_alive), (Refused::State, false)),
        }
        let locked = word.locked().unwrap();
        assert_eq!(locked.locked(), Err(Refused::Locked));
        assert_eq!(locked.moved(VcpuId::new(1)), Err(Refused::Locked));
        assert_eq!((locked.binding(), locked.unlocked()), (binding, word));
    }
}

#[test]
fn a_port_is_held_as_often_as_the_word_can_count() {
    let mut word = PortWord::new(Binding::first(PortState::Ipi));
    for count in 1..=0xfff {
        word = word.held().unwrap();
        assert_eq!((word.holds(), word.state()), (count, PortState::Ipi));
    }
    assert_eq!(word.held(), Err(Refused::TooMany));
}

#[test]
fn who_is_told_is_chosen_for_what_belongs_to_no_vcpu() {
    for binding in bindings() {
        let can_move = match binding.state {
            PortState::Unbound { .. } | PortState::Interdomain { .. } | PortState::Pirq(_) => true,
            PortState::Virq(virq) => ![0, 1, 7, 13].contains(&virq.get()),
            PortState::Ipi | PortState::Free => false,
        };
        for vcpu in [0, 1, 127].map(VcpuId::new) {
            let moved = PortWord::new(binding).moved(vcpu);
            let expected = PortWord::new(Binding { vcpu, ..binding });
            let refused = Err(Refused::State);
            assert_eq!(moved, if can_move { Ok(expected) } else { refused });
        }
    }
}

/// What belongs to the FIFO form stays with the port, whatever else becomes of it, and no longer.
#[test]
fn priority_and_what_is_owed_stay_with_the_port() {
    for binding in bindings() {
        let word = PortWord::new(binding);
        assert_eq!(
            (word.priority(), word.is_owed()),
            (Priority::DEFAULT, false)
        );
        if binding.state == PortState::Free {
            let urgent = word.with_priority(Priority::DEFAULT);
            assert_eq!(
                (urgent, word.owed()),
                (Err(Refused::State), Err(Refused::State))
            );
            continue;
        }
        for priority in Priority::all() {
            let urgent = word.with_priority(priority).unwrap();
            assert_eq!((urgent.binding(), urgent.priority()), (binding, priority));
            let locked = urgent.locked().unwrap();
            assert_eq!(locked.with_priority(priority), Err(Refused::Locked));
            // An event is owed though the port is being changed.
            let owed = locked.owed().unwrap();
            assert_eq!(
                (owed.owed(), owed.priority()),
                (Err(Refused::State), priority)
            );
            let remote = DomId::new(9);
            let offered = owed.unlocked_as(PortState::Unbound { remote });
            let vcpu = binding.vcpu;
            let state = PortState::Unbound { remote };
            assert_eq!(offered.binding(), Binding { state, vcpu });
            assert_eq!((offered.priority(), offered.is_owed()), (priority, true));
            let paid = offered.paid().unwrap();
            assert_eq!(
                (paid.priority(), paid.paid()),
                (priority, Err(Refused::State))
            );
            assert_eq!(owed.unlocked_as(PortState::Free), PortWord::FREE);
        }
    }
    assert_eq!(Priority::new(15).map(Priority::get), Some(15));
    assert_eq!(Priority::new(16), None);
}

proptest! {
    #[test]
    fn no_bits_mislead(bits: u64) {
        let word = PortWord::from_bits(bits);
        let binding = word.binding();
        prop_assert!(binding.vcpu.get() < 256);
        if let Ok(held) = word.held() {
            prop_assert_eq!(held.binding(), binding);
            prop_assert_eq!(held.holds(), word.holds() + 1);
        }
    }
}

#[test]
fn a_cell_is_what_it_was_unless_it_is_changed() {
    let cell = PortCell::new();
    assert_eq!(cell.hold().map(drop), Err(PortState::Free));
    let remote = DomId::new(5);
    cell.publish(Binding::first(PortState::Unbound { remote }));
    assert!(cell.tell(VcpuId::new(3)));
    drop(cell.lock());
    let expected = Binding {
        state: PortState::Unbound { remote },
        vcpu: VcpuId::new(3),
    };
    assert_eq!(cell.binding(), expected);
    cell.lock().set(PortState::Ipi);
    assert_eq!(cell.binding().vcpu, VcpuId::new(3), "who is told stays");
    let held = cell.hold().unwrap();
    assert_eq!(held.binding(), cell.binding());
    assert!(!cell.tell(VcpuId::new(0)));
    drop(held);
    cell.lock().set(PortState::Free);
    assert_eq!(cell.binding(), Binding::FREE);
}
