use super::*;

const LEVELS: [Level; 4] = [Level::L1, Level::L2, Level::L3, Level::L4];

fn all_types() -> Vec<PageType> {
    let tables = LEVELS.map(PageType::Table);
    [PageType::Writable, PageType::Descriptors]
        .into_iter()
        .chain(tables)
        .collect()
}

fn stamps() -> [TlbStamp; 3] {
    [TlbStamp::NEVER, TlbStamp::from_bits(7), TlbStamp::LAST]
}

fn all_states() -> Vec<TypeState> {
    let mut states = Vec::new();
    let next = [None, FrameIndex::new(0), FrameIndex::new(0xffff_fffe)];
    for stamp in stamps() {
        states.push(TypeState::None { was: None, stamp });
        states.extend(all_types().into_iter().map(|ty| TypeState::None {
            was: Some(ty),
            stamp,
        }));
    }
    for ty in all_types() {
        for count in [1, 2, u32::MAX - 1, u32::MAX] {
            states.extend([false, true].map(|is_pinned| TypeState::InUse {
                ty,
                count,
                is_pinned,
            }));
        }
        states.push(TypeState::Changing { ty });
        for progress in [0, 1, 511, 512] {
            states.push(TypeState::Parked { ty, progress });
            states.extend(next.map(|next| TypeState::Undoing { ty, progress, next }));
        }
    }
    states
}

fn all_events() -> Vec<TypeEvent> {
    let mut events = vec![
        TypeEvent::Finish,
        TypeEvent::Pin,
        TypeEvent::Unpin,
        TypeEvent::Release,
        TypeEvent::Abandon,
        TypeEvent::Park(9),
        TypeEvent::Queue(9, FrameIndex::new(3)),
    ];
    for ty in all_types() {
        events.extend([TypeEvent::Share(ty), TypeEvent::Claim(ty)]);
    }
    for stamp in stamps() {
        events.extend([
            TypeEvent::GiveUp(0, stamp),
            TypeEvent::GiveUp(9, stamp),
            TypeEvent::Undone(stamp),
        ]);
    }
    events
}

#[test]
fn every_state_is_unpacked_as_it_was_packed_and_all_words_differ() {
    let states = all_states();
    let mut seen = std::collections::BTreeSet::new();
    for &state in &states {
        let word = TypeWord::new(state);
        assert_eq!(TypeWord::from_bits(word.bits()).state(), state);
        assert!(seen.insert(word.bits()), "{state:?}");
        assert!(!word.is_incoherent() && word.incoherent().is_incoherent());
        assert_eq!(word.incoherent().state(), state);
    }
    assert_eq!(
        TypeWord::NEVER_USED.state(),
        TypeState::None {
            was: None,
            stamp: TlbStamp::NEVER
        }
    );
}

/// How many general references a type holds.
fn general(state: TypeState) -> i32 {
    i32::from(!matches!(state, TypeState::None { .. }))
}

/// How many type references there are, that of who makes the frame ready included.
fn references(state: TypeState) -> i64 {
    match state {
        TypeState::InUse { count, .. } => i64::from(count),
        _ => 0,
    }
}

fn type_of(state: TypeState) -> Option<PageType> {
    match state {
        TypeState::None { .. } => None,
        TypeState::InUse { ty, .. }
        | TypeState::Changing { ty }
        | TypeState::Parked { ty, .. }
        | TypeState::Undoing { ty, .. } => Some(ty),
    }
}

/// The books that a change must keep, whatever the change: written from the table of `docs/page-types.md`.
#[test]
fn i02_i03_every_event_in_every_state_keeps_the_books() {
    for state in all_states() {
        for event in all_events() {
            for word in [TypeWord::new(state), TypeWord::new(state).incoherent()] {
                let Ok((after, effect)) = word.after(event) else {
                    continue;
                };
                let new = after.state();
                let story = format!("{event:?} on {state:?}: {new:?}, {effect:?}");

                // A type is never exchanged for another one: only taken up from none, or given up.
                if let (Some(old), Some(new)) = (type_of(state), type_of(new)) {
                    assert_eq!(old, new, "{story}");
                }
                // What the type holds is what the caller gave, or what it gets back.
                let given = match effect {
                    TypeEffect::First | TypeEffect::Claimed { .. } => 1,
                    TypeEffect::Untyped => -1,
                    _ => 0,
                };
                assert_eq!(general(new) - general(state), given, "{story}");
                // References come and go one by one, with the effect that says so.
                let change = match (effect, event) {
                    (TypeEffect::Shared | TypeEffect::First, _) => 1,
                    (_, TypeEvent::Finish) => 1,
                    (_, TypeEvent::Release) => -1,
                    _ => 0,
                };
                assert_eq!(references(new) - references(state), change, "{story}");
                // Tables that hold references do not simply end.
                if let (Some(PageType::Table(_)), TypeState::None { .. }, TypeState::InUse { .. }) =
                    (type_of(state), new, state)
                {
                    panic!("{story}");
                }
                // A time is that of somebody who had the frame alone.
                if let TypeState::None { .. } = new {
                    let was_alone = matches!(
                        state,
                        TypeState::Changing { .. } | TypeState::Undoing { .. }
                    );
                    assert!(was_alone, "{story}");
                }
                // Caches are written back exactly by who makes a frame ready.
                let is_ready = matches!(event, TypeEvent::Finish);
                assert_eq!(
                    after.is_incoherent(),
                    word.is_incoherent() && !is_ready,
                    "{story}"
                );
                // A pin ends only by being ended.
                let pinned = |state| {
                    matches!(
                        state,
                        TypeState::InUse {
                            is_pinned: true,
                            ..
                        }
                    )
                };
                if pinned(state) != pinned(new) {
                    assert!(
                        matches!(event, TypeEvent::Pin | TypeEvent::Unpin),
                        "{story}"
                    );
                }
            }
        }
    }
}

#[test]
fn nobody_shares_what_is_not_in_use_as_that() {
    for state in all_states() {
        for ty in all_types() {
            let got = TypeWord::new(state).after(TypeEvent::Share(ty));
            let wanted = match state {
                TypeState::InUse {
                    ty: found,
                    count: u32::MAX,
                    ..
                } if found == ty => Err(TypeRefused::TooMany),
                TypeState::InUse { ty: found, .. } if found == ty => Ok(TypeEffect::Shared),
                TypeState::Undoing { .. } => Err(TypeRefused::Undoing),
                TypeState::Changing { ty: found } if found == ty => Err(TypeRefused::Busy),
                _ => Err(TypeRefused::OtherType),
            };
            assert_eq!(got.map(|(_, effect)| effect), wanted, "{ty:?} of {state:?}");
        }
    }
}

/// XSA-408: the decision is a function of the old use and the new one alone.
#[test]
fn every_change_of_use_is_flushed_and_no_other() {
    for new in all_types() {
        assert!(!needs_flush(None, new), "fresh from the allocator");
        for was in all_types() {
            assert_eq!(
                needs_flush(Some(was), new),
                was != new,
                "{was:?} to {new:?}"
            );
        }
    }
}

#[test]
fn who_claims_is_told_what_to_flush() {
    for stamp in stamps() {
        for was in all_types().into_iter().map(Some).chain([None]) {
            for ty in all_types() {
                let word = TypeWord::new(TypeState::None { was, stamp });
                let (after, effect) = word.after(TypeEvent::Claim(ty)).unwrap();
                if ty == PageType::Writable && was.is_none_or(|was| was == ty) {
                    assert_eq!(effect, TypeEffect::First);
                    continue;
                }
                assert_eq!(after.state(), TypeState::Changing { ty });
                assert_eq!(
                    effect,
                    TypeEffect::Claimed {
                        was,
                        stamp,
                        is_incoherent: false
                    }
                );
            }
        }
    }
}

/// A writable page with another cache mode becomes a table only by way of somebody who is told to write caches back.
#[test]
fn an_incoherent_frame_says_so_until_it_is_ready() {
    let word = TypeWord::NEVER_USED.incoherent();
    let (word, effect) = word.after(TypeEvent::Claim(PageType::Writable)).unwrap();
    assert_eq!(effect, TypeEffect::First);
    assert!(word.is_incoherent());
    let now = TlbStamp::from_bits(5);
    let (word, _) = word.after(TypeEvent::Release).unwrap();
    let (word, _) = word.after(TypeEvent::GiveUp(0, now)).unwrap();
    let (word, effect) = word
        .after(TypeEvent::Claim(PageType::Table(Level::L1)))
        .unwrap();
    assert_eq!(
        effect,
        TypeEffect::Claimed {
            was: Some(PageType::Writable),
            stamp: now,
            is_incoherent: true
        }
    );
    let (word, _) = word.after(TypeEvent::Finish).unwrap();
    assert!(!word.is_incoherent());
}

/// The short ways are the general one, where they are one at all.
#[test]
fn short_ways_lead_where_the_general_one_does() {
    let mut taken = [0; 5];
    let mut agrees = |way: usize, short: Option<TypeWord>, general, effect| {
        let has_many = |word: TypeWord| word.bits() & COUNT >= MANY;
        if matches!((short, general), (None, Ok((word, _))) if has_many(word)) {
            // There the general one is asked.
        } else if let Some(word) = short {
            taken[way] += 1;
            assert_eq!(general, Ok((word, effect)), "way {way}");
        } else {
            assert!(
                !matches!(general, Ok((_, found)) if found == effect),
                "way {way} would have been as good"
            );
        }
    };
    for state in all_states() {
        for word in [TypeWord::new(state), TypeWord::new(state).incoherent()] {
            for ty in all_types() {
                let share = word.after(TypeEvent::Share(ty));
                agrees(0, word.shared(ty), share, TypeEffect::Shared);
            }
            let claim = word.after(TypeEvent::Claim(PageType::Writable));
            agrees(1, word.first_writable(), claim, TypeEffect::First);
            let was_writable = type_of(state) == Some(PageType::Writable);
            let release = word.after(TypeEvent::Release);
            agrees(2, word.released(), release, TypeEffect::Done);
            let short = word.last_writable();
            if short.is_some() || was_writable {
                agrees(3, short, release, TypeEffect::Last);
            }
            let is_changing = matches!(state, TypeState::Changing { .. });
            for stamp in stamps() {
                let short = is_changing.then(|| word.given_up(stamp));
                let general = word.after(TypeEvent::GiveUp(0, stamp));
                agrees(4, short, general, TypeEffect::Untyped);
            }
        }
    }
    assert!(taken.iter().all(|&times| times > 0), "{taken:?}");
}
