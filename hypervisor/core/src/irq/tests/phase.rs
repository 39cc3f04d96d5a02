//! The decisions, for each phase and kind.

use crate::irq::phase::{Effect, Kind, Phase};

const OPEN: Effect = effect(Some(true), false);
const CLOSE: Effect = effect(Some(false), false);
const NONE: Effect = effect(None, false);

const fn effect(open: Option<bool>, tell: bool) -> Effect {
    Effect { open, tell }
}

#[test]
fn every_phase_and_event() {
    use Kind::{Edge, Level};
    use Phase::{Idle, Owed, Served, Unbound};
    let arrived = [
        (Unbound, Level, Unbound, CLOSE),
        (Unbound, Edge, Unbound, CLOSE),
        (Idle, Level, Served, effect(Some(false), true)),
        (Idle, Edge, Served, effect(None, true)),
        (Served, Level, Served, CLOSE),
        (Served, Edge, Owed, CLOSE),
        (Owed, Level, Owed, CLOSE),
        (Owed, Edge, Owed, CLOSE),
    ];
    for (phase, kind, next, effect) in arrived {
        assert_eq!(phase.arrived(kind), (next, effect), "{phase:?} {kind:?}");
    }
    let ended = [
        (Unbound, Level, Unbound, NONE),
        (Unbound, Edge, Unbound, NONE),
        (Idle, Level, Idle, NONE),
        (Idle, Edge, Idle, NONE),
        (Served, Level, Idle, OPEN),
        (Served, Edge, Idle, NONE),
        (Owed, Level, Served, effect(Some(true), true)),
        (Owed, Edge, Served, effect(Some(true), true)),
    ];
    for (phase, kind, next, effect) in ended {
        assert_eq!(phase.ended(kind), (next, effect), "{phase:?} {kind:?}");
    }
}

/// A source is open where the table of the module says so, whatever has happened before.
#[test]
fn a_source_is_open_as_its_phase_says() {
    for kind in [Kind::Level, Kind::Edge] {
        let is_open = |phase| match phase {
            Phase::Unbound | Phase::Owed => false,
            Phase::Idle => true,
            Phase::Served => kind == Kind::Edge,
        };
        let mut todo = vec![Phase::bound()];
        let mut seen = vec![];
        while let Some((phase, effect)) = todo.pop() {
            assert_eq!(effect.open.unwrap_or(is_open(phase)), is_open(phase));
            if !seen.contains(&phase) {
                seen.push(phase);
                todo.extend([phase.arrived(kind), phase.ended(kind), Phase::unbound()]);
                // A step that leaves the source alone may do so.
                for (next, effect) in [phase.arrived(kind), phase.ended(kind)] {
                    let after = effect.open.unwrap_or(is_open(phase));
                    assert_eq!(after, is_open(next), "{phase:?} to {next:?}");
                }
            }
        }
    }
}
