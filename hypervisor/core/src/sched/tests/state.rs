//! The state word: every event in every state.

use super::super::state::{Effect, Event, Place, Refused, StateWord};
use super::world::cpu;

/// What a state consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    pauses: u16,
    is_blocked: bool,
    is_down: bool,
    place: Place,
}

impl State {
    fn of(word: StateWord) -> Self {
        Self {
            pauses: word.pauses(),
            is_blocked: word.is_blocked(),
            is_down: word.is_down(),
            place: word.place(),
        }
    }

    fn bits(self) -> u64 {
        let (place, cpu) = match self.place {
            Place::Off => (0, 0),
            Place::Moving => (1, 0),
            Place::Queued(cpu) => (2, cpu.get()),
            Place::Running(cpu) => (3, cpu.get()),
            Place::Leaving(cpu) => (4, cpu.get()),
        };
        u64::from(self.pauses)
            | u64::from(self.is_blocked) << 16
            | u64::from(self.is_down) << 17
            | place << 24
            | u64::from(cpu) << 32
    }

    fn is_runnable(self) -> bool {
        self.pauses == 0 && !self.is_blocked && !self.is_down
    }
}

fn places() -> Vec<Place> {
    let mut places = vec![Place::Off, Place::Moving];
    for id in [0, 1, 255, u32::MAX] {
        places.extend([
            Place::Queued(cpu(id)),
            Place::Running(cpu(id)),
            Place::Leaving(cpu(id)),
        ]);
    }
    places
}

fn states() -> Vec<State> {
    let mut states = Vec::new();
    for place in places() {
        for pauses in [0, 1, 2, u16::MAX] {
            for flags in 0..4 {
                let (is_blocked, is_down) = (flags & 1 != 0, flags & 2 != 0);
                states.push(State {
                    pauses,
                    is_blocked,
                    is_down,
                    place,
                });
            }
        }
    }
    states
}

/// The same rules, in the form of what is wanted.
fn wanted(old: State, event: Event) -> Result<(State, Effect), Refused> {
    let at = |place| State { place, ..old };
    let mut new = old;
    match event {
        Event::Up => new.is_down = false,
        Event::Down => new.is_down = true,
        Event::Wake => new.is_blocked = false,
        Event::Block if matches!(old.place, Place::Running(_)) => new.is_blocked = true,
        Event::Pause => new.pauses = old.pauses.checked_add(1).ok_or(Refused::Pauses)?,
        Event::Unpause => new.pauses = old.pauses.checked_sub(1).ok_or(Refused::Pauses)?,
        _ => {
            let runs = old.is_runnable();
            return match (event, old.place) {
                (Event::Claim, Place::Off) => Ok((at(Place::Moving), Effect::Place)),
                (Event::Queue(cpu), Place::Moving) => Ok((
                    at(if runs { Place::Queued(cpu) } else { Place::Off }),
                    Effect::None,
                )),
                (Event::Take, Place::Queued(_)) => Ok((at(Place::Moving), Effect::Place)),
                (Event::Start(cpu), Place::Queued(at_cpu)) if cpu == at_cpu => match runs {
                    true => Ok((at(Place::Running(cpu)), Effect::None)),
                    false => Err(Refused::NotRunnable),
                },
                (Event::Remove, Place::Queued(_)) => match runs {
                    true => Err(Refused::Runnable),
                    false => Ok((at(Place::Off), Effect::None)),
                },
                (Event::Leave, Place::Running(cpu)) => Ok((at(Place::Leaving(cpu)), Effect::None)),
                (Event::Saved, Place::Leaving(_)) => match runs {
                    true => Ok((at(Place::Moving), Effect::Place)),
                    false => Ok((at(Place::Off), Effect::None)),
                },
                _ => Err(Refused::Place),
            };
        }
    }
    let effect = match (event, old.place) {
        (Event::Up | Event::Wake | Event::Unpause, Place::Off) if new.is_runnable() => {
            new.place = Place::Moving;
            Effect::Place
        }
        (Event::Down | Event::Pause, Place::Queued(cpu)) => Effect::Remove(cpu),
        (Event::Down | Event::Pause, Place::Running(cpu)) => Effect::Interrupt(cpu),
        _ => Effect::None,
    };
    Ok((new, effect))
}

#[test]
fn every_event_in_every_state() {
    for state in states() {
        let word = StateWord::from_bits(state.bits());
        assert_eq!((State::of(word), word.bits()), (state, state.bits()));
        assert_eq!(word.is_runnable(), state.is_runnable());
        for event in [
            Event::Up,
            Event::Down,
            Event::Block,
            Event::Wake,
            Event::Pause,
            Event::Unpause,
            Event::Claim,
            Event::Queue(cpu(1)),
            Event::Take,
            Event::Start(cpu(1)),
            Event::Remove,
            Event::Leave,
            Event::Saved,
        ] {
            let got = word
                .after(event)
                .map(|(word, effect)| (State::of(word), effect));
            assert_eq!(got, wanted(state, event), "{event:?} in {state:?}");
        }
    }
}
