//! The owner word of a frame and the ways in which it changes, as pure functions.
//!
//! | bits | what |
//! |---|---|
//! | 0..32 | general references, if owned; zeroed frames at the start of the block, if it heads a free one; the root, of a twin |
//! | 32..48 | the owning domain, if owned |
//! | 48..56 | order of the block, if it heads a free one |
//! | 60..62 | [`Kind`] |
//! | 62 | allocated: the domain has not given the frame back; this is one of the references |
//!
//! INVARIANT: an owned frame has at least one reference; `Private` is the word 0.

use dom0_abi::addr::Mfn;
use dom0_abi::ids::DomId;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Not RAM, the hypervisor's own, held by an `OwnedFrames`, or inside a block that another frame heads.
    Private,
    /// The first frame of a block on a free list.
    FreeHead {
        /// Binary logarithm of the number of frames in the block.
        order: u8,
        /// So many of its first frames are zeroed, and nothing is left of how they were used.
        clean: u32,
    },
    /// A domain's.
    Owned {
        /// Whose.
        owner: DomId,
        /// Whether the domain still has it.
        is_allocated: bool,
        /// General references, that of the allocation included.
        count: u32,
    },
    /// The hypervisor's own: the twin of a root (`twins`).
    Twin {
        /// Which root.
        root: Mfn,
    },
}

/// What may happen to a frame outside the free lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Whoever holds the private frame gives it to a domain.
    Assign(DomId),
    /// Somebody takes a reference, if the frame is this domain's.
    Acquire(DomId),
    /// A reference that was acquired ends.
    Release,
    /// The domain gives the frame back.
    GiveBack(DomId),
    /// The frame is taken from the domain at once, if nobody has a reference to it.
    Take(DomId),
    /// Whoever holds the private frame makes it the twin of this root.
    Pair(Mfn),
    /// The twin of this root is private again.
    Part(Mfn),
}

/// What is to be done after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// Nobody has the frame any more: who made the change puts it on a free list.
    Free,
}

/// Why an event cannot happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The frame is not private.
    NotPrivate,
    /// The frame is not the domain's, or the domain has given it back.
    NotOwned,
    /// There are as many references as can be counted.
    TooManyReferences,
    /// There is no reference that could end.
    NoReference,
    /// Somebody has a reference to it.
    InUse,
    /// The frame is not the twin of this root.
    NotTwin,
}

/// The packed word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnerWord(u64);

const COUNT: u64 = 0xffff_ffff;
const OWNER_SHIFT: u32 = 32;
const ORDER_SHIFT: u32 = 48;
const KIND: u64 = 3 << 60;
const KIND_FREE_HEAD: u64 = 1 << 60;
const KIND_OWNED: u64 = 2 << 60;
const KIND_TWIN: u64 = 3 << 60;
const ALLOCATED: u64 = 1 << 62;
/// What tells a domain's frame from all others.
const HAS_OWNER: u64 = KIND | ALLOCATED | 0xffff << OWNER_SHIFT;
/// So many references that the short ways leave the frame to the general one: so each is a single comparison.
const MANY: u64 = 1 << 30;
/// What is set in a count that is not below that.
const ARE_MANY: u64 = COUNT & !(MANY - 1);

const fn owned_by(owner: DomId) -> u64 {
    KIND_OWNED | ALLOCATED | (owner.get() as u64) << OWNER_SHIFT
}

impl OwnerWord {
    /// The word of a private frame.
    pub(crate) const PRIVATE: Self = Self(0);

    /// Takes the word as the table holds it.
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The word as the table holds it.
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// Packs.
    pub(crate) const fn new(kind: Kind) -> Self {
        Self(match kind {
            Kind::Private => 0,
            Kind::FreeHead { order, clean } => {
                KIND_FREE_HEAD | (order as u64) << ORDER_SHIFT | clean as u64
            }
            Kind::Owned {
                owner,
                is_allocated,
                count,
            } => {
                let allocated = if is_allocated { ALLOCATED } else { 0 };
                KIND_OWNED | allocated | (owner.get() as u64) << OWNER_SHIFT | count as u64
            }
            Kind::Twin { root } => KIND_TWIN | root.get() & COUNT,
        })
    }

    /// Unpacks.
    pub(crate) const fn kind(self) -> Kind {
        match self.0 & KIND {
            KIND_FREE_HEAD => Kind::FreeHead {
                order: (self.0 >> ORDER_SHIFT) as u8,
                clean: (self.0 & COUNT) as u32,
            },
            KIND_OWNED => Kind::Owned {
                owner: DomId::new((self.0 >> OWNER_SHIFT) as u16),
                is_allocated: self.0 & ALLOCATED != 0,
                count: (self.0 & COUNT) as u32,
            },
            KIND_TWIN => Kind::Twin {
                root: Mfn::new(self.0 & COUNT),
            },
            _ => Kind::Private,
        }
    }

    /// Whether the frame is a domain's, or was and is still referred to.
    pub(crate) const fn is_owned(self) -> bool {
        self.0 & KIND == KIND_OWNED
    }

    /// Whether the frame is this domain's and was not given back.
    pub(crate) const fn is_of(self, owner: DomId) -> bool {
        self.0 & HAS_OWNER == owned_by(owner)
    }

    /// The word with a reference more, if the frame is the domain's: the common case of [`Event::Acquire`]. `None`: ask
    /// [`Self::after`].
    #[inline]
    pub(crate) const fn acquired(self, owner: DomId) -> Option<Self> {
        if self.0 & (HAS_OWNER | ARE_MANY) == owned_by(owner) {
            Some(Self(self.0.wrapping_add(1)))
        } else {
            None
        }
    }

    /// The word with a reference less, if that was not the last one: the common case of [`Event::Release`]. `None`: ask
    /// [`Self::after`].
    #[inline]
    pub(crate) const fn released(self) -> Option<Self> {
        let two = KIND_OWNED | 2;
        if (self.0 & (KIND | COUNT)).wrapping_sub(two) < MANY {
            Some(Self(self.0.wrapping_sub(1)))
        } else {
            None
        }
    }

    /// Whether the frame heads a free block of exactly this order.
    pub(crate) fn is_free_head(self, order: u8) -> bool {
        let clean = 0;
        self.0 & !COUNT == Self::new(Kind::FreeHead { order, clean }).0
    }

    /// The word after an event, and what then is to be done.
    pub(crate) fn after(self, event: Event) -> Result<(Self, Effect), Refused> {
        match (event, self.kind()) {
            (Event::Assign(owner), Kind::Private) => Ok((
                Self::new(Kind::Owned {
                    owner,
                    is_allocated: true,
                    count: 1,
                }),
                Effect::None,
            )),
            (Event::Pair(root), Kind::Private) => {
                Ok((Self::new(Kind::Twin { root }), Effect::None))
            }
            (Event::Assign(_) | Event::Pair(_), _) => Err(Refused::NotPrivate),
            (Event::Part(of), Kind::Twin { root }) if of == root => {
                Ok((Self::PRIVATE, Effect::None))
            }
            (Event::Part(_), _) => Err(Refused::NotTwin),

            // A frame that its domain has given back gains no references, so that it does become free one day.
            (
                Event::Acquire(domain),
                Kind::Owned {
                    owner,
                    is_allocated: true,
                    count,
                },
            ) if owner == domain => {
                let count = count.checked_add(1).ok_or(Refused::TooManyReferences)?;
                Ok((
                    Self::new(Kind::Owned {
                        owner,
                        is_allocated: true,
                        count,
                    }),
                    Effect::None,
                ))
            }
            (
                Event::GiveBack(domain),
                Kind::Owned {
                    owner,
                    is_allocated: true,
                    count,
                },
            ) if owner == domain => Self::less(owner, false, count),
            (
                Event::Take(domain),
                Kind::Owned {
                    owner,
                    is_allocated: true,
                    count,
                },
            ) if owner == domain => match count {
                1 => Ok((Self::PRIVATE, Effect::None)),
                _ => Err(Refused::InUse),
            },
            (Event::Acquire(_) | Event::GiveBack(_) | Event::Take(_), _) => Err(Refused::NotOwned),

            // The last reference of an allocated frame is that of the allocation: only `GiveBack` ends it.
            (
                Event::Release,
                Kind::Owned {
                    owner,
                    is_allocated,
                    count,
                },
            ) if count > u32::from(is_allocated) => Self::less(owner, is_allocated, count),
            (Event::Release, _) => Err(Refused::NoReference),
        }
    }

    /// One reference less.
    fn less(owner: DomId, is_allocated: bool, count: u32) -> Result<(Self, Effect), Refused> {
        match count.checked_sub(1).ok_or(Refused::NoReference)? {
            0 => Ok((Self::PRIVATE, Effect::Free)),
            count => Ok((
                Self::new(Kind::Owned {
                    owner,
                    is_allocated,
                    count,
                }),
                Effect::None,
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: DomId = DomId::new(0);
    const B: DomId = DomId::new(0x7fef);
    const R: Mfn = Mfn::new(0);
    const S: Mfn = Mfn::new(0xffff_fffe);

    fn owned(owner: DomId, is_allocated: bool, count: u32) -> Kind {
        Kind::Owned {
            owner,
            is_allocated,
            count,
        }
    }

    fn all_kinds() -> Vec<Kind> {
        let mut kinds = vec![Kind::Private];
        kinds.extend([R, S].map(|root| Kind::Twin { root }));
        kinds.extend(
            (0..=super::super::allocator::MAX_ORDER)
                .flat_map(|order| [0, 1, 1 << order].map(|clean| Kind::FreeHead { order, clean })),
        );
        kinds.dedup();
        for owner in [A, B, DomId::new(u16::MAX)] {
            for is_allocated in [false, true] {
                kinds.extend(
                    [1, 2, 3, u32::MAX - 1, u32::MAX]
                        .map(|count| owned(owner, is_allocated, count)),
                );
            }
        }
        kinds
    }

    #[test]
    fn every_kind_is_unpacked_as_it_was_packed_and_all_words_differ() {
        let kinds = all_kinds();
        for (at, &kind) in kinds.iter().enumerate() {
            let word = OwnerWord::new(kind);
            assert_eq!(OwnerWord::from_bits(word.bits()).kind(), kind);
            assert!(
                kinds[..at]
                    .iter()
                    .all(|&other| OwnerWord::new(other) != word),
                "{kind:?}"
            );
        }
        assert_eq!(OwnerWord::new(Kind::Private), OwnerWord::PRIVATE);
        assert_eq!(OwnerWord::from_bits(0), OwnerWord::PRIVATE);
    }

    /// The same rules, written as a table instead of code.
    fn wanted(kind: Kind, event: Event) -> Result<(Kind, Effect), Refused> {
        let less = |owner, is_allocated, count| match count {
            1 => Ok((Kind::Private, Effect::Free)),
            _ => Ok((owned(owner, is_allocated, count - 1), Effect::None)),
        };
        match (kind, event) {
            (Kind::Private, Event::Assign(to)) => Ok((owned(to, true, 1), Effect::None)),
            (Kind::Private, Event::Pair(root)) => Ok((Kind::Twin { root }, Effect::None)),
            (_, Event::Assign(_) | Event::Pair(_)) => Err(Refused::NotPrivate),
            (Kind::Twin { root: R }, Event::Part(R)) | (Kind::Twin { root: S }, Event::Part(S)) => {
                Ok((Kind::Private, Effect::None))
            }
            (_, Event::Part(_)) => Err(Refused::NotTwin),
            (Kind::Private | Kind::FreeHead { .. } | Kind::Twin { .. }, Event::Release) => {
                Err(Refused::NoReference)
            }
            (Kind::Private | Kind::FreeHead { .. } | Kind::Twin { .. }, _) => {
                Err(Refused::NotOwned)
            }
            (
                Kind::Owned {
                    is_allocated: true,
                    count: 1,
                    ..
                },
                Event::Release,
            ) => Err(Refused::NoReference),
            (
                Kind::Owned {
                    owner,
                    is_allocated,
                    count,
                },
                Event::Release,
            ) => less(owner, is_allocated, count),
            (
                Kind::Owned {
                    is_allocated: false,
                    ..
                },
                _,
            ) => Err(Refused::NotOwned),
            (
                Kind::Owned { owner, .. },
                Event::Acquire(domain) | Event::GiveBack(domain) | Event::Take(domain),
            ) if owner != domain => Err(Refused::NotOwned),
            (
                Kind::Owned {
                    count: u32::MAX, ..
                },
                Event::Acquire(_),
            ) => Err(Refused::TooManyReferences),
            (Kind::Owned { owner, count, .. }, Event::Acquire(_)) => {
                Ok((owned(owner, true, count + 1), Effect::None))
            }
            (Kind::Owned { owner, count, .. }, Event::GiveBack(_)) => less(owner, false, count),
            (Kind::Owned { count: 1, .. }, Event::Take(_)) => Ok((Kind::Private, Effect::None)),
            (Kind::Owned { .. }, Event::Take(_)) => Err(Refused::InUse),
        }
    }

    #[test]
    fn every_event_in_every_state() {
        for kind in all_kinds() {
            for event in [
                Event::Assign(A),
                Event::Assign(B),
                Event::Acquire(A),
                Event::Acquire(B),
                Event::Release,
                Event::GiveBack(A),
                Event::GiveBack(B),
                Event::Take(A),
                Event::Take(B),
                Event::Pair(R),
                Event::Pair(S),
                Event::Part(R),
                Event::Part(S),
            ] {
                let got = OwnerWord::new(kind)
                    .after(event)
                    .map(|(word, effect)| (word.kind(), effect));
                assert_eq!(got, wanted(kind, event), "{event:?} on {kind:?}");
            }
        }
    }

    #[test]
    fn short_ways_lead_where_the_general_one_does() {
        for kind in all_kinds() {
            let word = OwnerWord::new(kind);
            let has_many = matches!(kind, Kind::Owned { count, .. } if u64::from(count) >= MANY);
            let agrees = |short: Option<OwnerWord>, event| {
                let general = match word.after(event) {
                    Ok((word, Effect::None)) => Some(word),
                    _ => None,
                };
                assert!(short == general || short.is_none() && has_many);
            };
            for owner in [A, B] {
                agrees(word.acquired(owner), Event::Acquire(owner));
            }
            agrees(word.released(), Event::Release);
        }
    }

    #[test]
    fn a_free_head_is_of_one_order() {
        for clean in [0, 5, 8] {
            let word = OwnerWord::new(Kind::FreeHead { order: 3, clean });
            assert!(word.is_free_head(3));
            assert!(!word.is_free_head(2) && !word.is_free_head(4));
        }
        assert!(!OwnerWord::PRIVATE.is_free_head(0));
        assert!(!OwnerWord::new(owned(A, true, 1)).is_free_head(0));
    }
}
