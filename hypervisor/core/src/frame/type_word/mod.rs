//! The type word of a frame and the ways in which it changes, as pure functions.
//!
//! | bits | what |
//! |---|---|
//! | 0..44 | the payload: type references ([`TypeState::InUse`]), the next frame of the queue ([`TypeState::Undoing`]), or the time from which on stale translations may exist ([`TypeState::None`]) |
//! | 44..54 | entries that hold references ([`TypeState::Parked`], [`TypeState::Undoing`]) |
//! | 54..57 | the type; of a frame without one, the last type it had |
//! | 57..60 | which [`TypeState`] |
//! | 60 | pinned |
//! | 61 | it was mapped writable with a cache mode that is not coherent with ours |
//!
//! INVARIANT (I2): a frame has one type at a time, and gets another one only by way of [`TypeState::None`], that is, with no
//! reference of the old type left.
//! INVARIANT: in every state but `None` the type holds exactly one general reference to the frame. Whoever makes the first
//! step away from `None` gives it, whoever makes the last one back takes it.
//! INVARIANT: from `Changing`, which one CPU holds alone, the ways lead to `InUse` (the contents were checked), `Parked` (to
//! be gone on with by anybody), and to `Undoing` or `None` (given up). `Parked` and `Undoing` say how many entries hold
//! references, so that a promotion that stopped, and a demotion, leave and find the same books (I10).
//! INVARIANT (I5): the time in `None` was taken by a CPU that had the frame alone, in `Changing` or `Undoing`: so it is behind
//! the end of every use, those included that began and ended on other CPUs while this one ended its own.

use oxen_arch::tlb::TlbStamp;

use super::table::FrameIndex;

/// The entries of a page table or of a page of descriptors.
pub const ENTRIES: u16 = 512;

/// A level of the page tables: that of a table, and of the entries in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Its entries map pages.
    L1,
    /// Its entries lead to L1 tables.
    L2,
    /// Its entries lead to L2 tables.
    L3,
    /// A root.
    L4,
}

impl Level {
    /// The level of the tables that entries of this level lead to.
    pub const fn below(self) -> Option<Self> {
        match self {
            Self::L1 => None,
            Self::L2 => Some(Self::L1),
            Self::L3 => Some(Self::L2),
            Self::L4 => Some(Self::L3),
        }
    }

    /// The lowest bit of an address that an entry of this level translates.
    pub const fn shift(self) -> u32 {
        match self {
            Self::L1 => 12,
            Self::L2 => 21,
            Self::L3 => 30,
            Self::L4 => 39,
        }
    }
}

/// What a frame may be used as, all else being excluded for that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageType {
    /// A guest may write to it.
    Writable,
    /// A page table.
    Table(Level),
    /// A page of segment descriptors.
    Descriptors,
}

/// What a frame is used as now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypeState {
    /// Nothing that has a type.
    None {
        /// What it was used as last, since it left the allocator.
        was: Option<PageType>,
        /// Translations made from how it was used then may exist on CPUs that have not flushed since.
        stamp: TlbStamp,
    },
    /// It has the type.
    InUse {
        /// The type.
        ty: PageType,
        /// References to it, at least one.
        count: u32,
        /// One of the references is the domain's own pin.
        is_pinned: bool,
    },
    /// One CPU makes it ready for the type: flushes, checks the contents.
    Changing {
        /// The type that it will have.
        ty: PageType,
    },
    /// Being made ready stopped half-way, and nobody is at it.
    Parked {
        /// The type that it is to have.
        ty: PageType,
        /// The entries below this one have been checked and hold references.
        progress: u16,
    },
    /// It has lost the type; what its entries hold is still to be given back. In a queue, or with the CPU that took it there.
    Undoing {
        /// The type that it had.
        ty: PageType,
        /// The entries below this one still hold references.
        progress: u16,
        /// What comes behind it in the queue.
        next: Option<FrameIndex>,
    },
}

/// What may happen to a frame's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TypeEvent {
    /// Somebody wants to use it as this, and finds it so already.
    Share(PageType),
    /// Somebody wants to use it as this. Where it had no type, that takes over a general reference of the caller's.
    Claim(PageType),
    /// It is ready: the one reference is that of who claimed it.
    Finish,
    /// Being made ready stops for now.
    Park(u16),
    /// Whoever has it alone gives the type up: what its first entries hold goes back, so many of them. The stamp was taken
    /// since he has it alone.
    GiveUp(u16, TlbStamp),
    /// A reference ends, whose last trace was removed from memory before.
    Release,
    /// The reference of the caller's becomes the domain's pin.
    Pin,
    /// The pin becomes a reference of the caller's.
    Unpin,
    /// It is put into the queue, before the given frame: so many entries hold references.
    Queue(u16, Option<FrameIndex>),
    /// No entry holds a reference any more.
    Undone(TlbStamp),
    /// Being made ready is to be given up by somebody else, because the domain ends.
    Abandon,
}

/// What a change means for who made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TypeEffect {
    /// Nothing more is to be done.
    Done,
    /// The caller has a reference; it keeps the general reference that it came with.
    Shared,
    /// The caller has a reference, and the type has the general reference.
    First,
    /// The caller alone makes the frame ready, and the type has the general reference. Before anything else it flushes what
    /// may be left of how the frame was used.
    Claimed {
        /// What may be left.
        was: Option<PageType>,
        /// Since when.
        stamp: TlbStamp,
        /// Caches have to be written back too.
        is_incoherent: bool,
    },
    /// The caller alone goes on to make the frame ready, from this entry on, or gives it up; it keeps its general reference.
    Resumed(u16),
    /// That was the last reference: the caller alone has the frame, and gives the type up, with nothing to be undone.
    Last,
    /// So many of its entries hold references that have to be given back: the caller puts the frame into a queue.
    ToUndo(u16),
    /// The type has given up its general reference: the caller has it.
    Untyped,
}

/// Why a frame does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TypeRefused {
    /// It is used as something else.
    OtherType,
    /// Another CPU makes it ready; it will be soon.
    Busy,
    /// Its entries have to be given back first.
    Undoing,
    /// There are as many references as can be counted.
    TooMany,
    /// It is pinned, or is not, already.
    Pinned,
    /// It is not in a state in which this can happen.
    NotSo,
}

/// The packed word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TypeWord(u64);

const PAYLOAD: u64 = (1 << 44) - 1;
const PROGRESS_SHIFT: u32 = 44;
const PROGRESS: u64 = 0x3ff;
const TYPE_SHIFT: u32 = 54;
const TYPE: u64 = 7;
const STATE_SHIFT: u32 = 57;
const STATE: u64 = 7;
const PINNED: u64 = 1 << 60;
const INCOHERENT: u64 = 1 << 61;

/// What tells a type from another, and from none.
const HAS_TYPE: u64 = STATE << STATE_SHIFT | TYPE << TYPE_SHIFT;
/// References, which are counted in 32 bits of the payload.
const COUNT: u64 = u32::MAX as u64;
/// So many of them that the short ways leave the frame to the general one: so each is a single comparison.
const MANY: u64 = 1 << 30;
/// What is set in a count that is not below that.
const ARE_MANY: u64 = COUNT & !(MANY - 1);
const WRITABLE: u64 = encode_type(Some(PageType::Writable));

const NONE: u64 = 0;
const IN_USE: u64 = 1;
const CHANGING: u64 = 2;
const PARKED: u64 = 3;
const UNDOING: u64 = 4;

const fn encode_type(ty: Option<PageType>) -> u64 {
    (match ty {
        None => 0,
        Some(PageType::Writable) => 1,
        Some(PageType::Table(Level::L1)) => 2,
        Some(PageType::Table(Level::L2)) => 3,
        Some(PageType::Table(Level::L3)) => 4,
        Some(PageType::Table(Level::L4)) => 5,
        Some(PageType::Descriptors) => 6,
    }) << TYPE_SHIFT
}

const fn decode_type(word: u64) -> Option<PageType> {
    match (word >> TYPE_SHIFT) & TYPE {
        0 => None,
        2 => Some(PageType::Table(Level::L1)),
        3 => Some(PageType::Table(Level::L2)),
        4 => Some(PageType::Table(Level::L3)),
        5 => Some(PageType::Table(Level::L4)),
        6 => Some(PageType::Descriptors),
        _ => Some(PageType::Writable),
    }
}

impl TypeWord {
    /// The word of a frame that nobody has used since it came from the allocator.
    pub(crate) const NEVER_USED: Self = Self(0);

    /// Takes the word as the table holds it.
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The word as the table holds it.
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// Packs; of a frame that is coherent.
    pub(crate) const fn new(state: TypeState) -> Self {
        let (kind, ty, progress, payload, pinned) = match state {
            TypeState::None { was, stamp } => (NONE, was, 0, stamp.bits(), false),
            TypeState::InUse {
                ty,
                count,
                is_pinned,
            } => (IN_USE, Some(ty), 0, count as u64, is_pinned),
            TypeState::Changing { ty } => (CHANGING, Some(ty), 0, 0, false),
            TypeState::Parked { ty, progress } => (PARKED, Some(ty), progress, 0, false),
            TypeState::Undoing { ty, progress, next } => (
                UNDOING,
                Some(ty),
                progress,
                FrameIndex::pack(next) as u64,
                false,
            ),
        };
        let pinned = if pinned { PINNED } else { 0 };
        Self(
            (payload & PAYLOAD)
                | ((progress as u64 & PROGRESS) << PROGRESS_SHIFT)
                | encode_type(ty)
                | (kind << STATE_SHIFT)
                | pinned,
        )
    }

    /// Unpacks.
    pub(crate) const fn state(self) -> TypeState {
        let payload = self.0 & PAYLOAD;
        let progress = ((self.0 >> PROGRESS_SHIFT) & PROGRESS) as u16;
        let was = decode_type(self.0);
        // A state other than `None` has a type.
        let ty = match was {
            Some(ty) => ty,
            None => PageType::Writable,
        };
        match (self.0 >> STATE_SHIFT) & STATE {
            IN_USE => TypeState::InUse {
                ty,
                count: payload as u32,
                is_pinned: self.0 & PINNED != 0,
            },
            CHANGING => TypeState::Changing { ty },
            PARKED => TypeState::Parked { ty, progress },
            UNDOING => TypeState::Undoing {
                ty,
                progress,
                next: FrameIndex::unpack(payload as u32),
            },
            _ => TypeState::None {
                was,
                stamp: TlbStamp::from_bits(payload),
            },
        }
    }

    /// The word with a reference more, if the frame has the type: the common case of [`TypeEvent::Share`]. `None`: ask
    /// [`Self::after`].
    #[inline]
    pub(crate) const fn shared(self, ty: PageType) -> Option<Self> {
        let wanted = IN_USE << STATE_SHIFT | encode_type(Some(ty));
        if self.0 & (HAS_TYPE | ARE_MANY) == wanted {
            Some(Self(self.0.wrapping_add(1)))
        } else {
            None
        }
    }

    /// The word with a reference less, if that was not the last one: the common case of [`TypeEvent::Release`]. `None`: ask
    /// [`Self::after`].
    #[inline]
    pub(crate) const fn released(self) -> Option<Self> {
        let two = IN_USE << STATE_SHIFT | 2;
        if (self.0 & (STATE << STATE_SHIFT | COUNT)).wrapping_sub(two) < MANY {
            Some(Self(self.0.wrapping_sub(1)))
        } else {
            None
        }
    }

    /// The word with the first reference of a writable frame, if that needs nothing else: the case of [`TypeEvent::Claim`]
    /// that is [`TypeEffect::First`]. `None`: ask [`Self::after`].
    #[inline]
    pub(crate) const fn first_writable(self) -> Option<Self> {
        // Without a type, and no other type before.
        let other = STATE << STATE_SHIFT | (TYPE << TYPE_SHIFT) & !WRITABLE;
        if self.0 & other == NONE << STATE_SHIFT {
            Some(Self(
                IN_USE << STATE_SHIFT | WRITABLE | 1 | self.0 & INCOHERENT,
            ))
        } else {
            None
        }
    }

    /// The word without the last reference of a writable frame: that case of [`TypeEvent::Release`], which is
    /// [`TypeEffect::Last`]. `None`: ask [`Self::after`].
    #[inline]
    pub(crate) const fn last_writable(self) -> Option<Self> {
        if self.0 & !INCOHERENT == IN_USE << STATE_SHIFT | WRITABLE | 1 {
            Some(Self(
                CHANGING << STATE_SHIFT | WRITABLE | self.0 & INCOHERENT,
            ))
        } else {
            None
        }
    }

    /// The word of a frame in `Changing` whose type is given up, with nothing to be undone: [`TypeEvent::GiveUp`], which is
    /// [`TypeEffect::Untyped`] then.
    #[inline]
    pub(crate) const fn given_up(self, stamp: TlbStamp) -> Self {
        let kept = TYPE << TYPE_SHIFT | INCOHERENT;
        Self(NONE << STATE_SHIFT | self.0 & kept | stamp.bits())
    }

    /// Whether caches have to be written back before the frame gets a type other than writable, or another owner.
    pub(crate) const fn is_incoherent(self) -> bool {
        self.0 & INCOHERENT != 0
    }

    /// The same word, of a frame that was mapped with a cache mode that is not coherent with ours.
    pub(crate) const fn incoherent(self) -> Self {
        Self(self.0 | INCOHERENT)
    }

    /// The word of this state, as coherent as before.
    pub(crate) const fn with(self, state: TypeState) -> Self {
        Self(Self::new(state).0 | (self.0 & INCOHERENT))
    }

    /// The word after an event, and what that means for who made it. The short ways of the hot events come first.
    #[inline]
    pub(crate) fn after(self, event: TypeEvent) -> Result<(Self, TypeEffect), TypeRefused> {
        let state = self.state();
        let (next, effect) = match (event, state) {
            (
                TypeEvent::Share(wanted) | TypeEvent::Claim(wanted),
                TypeState::InUse {
                    ty,
                    count,
                    is_pinned,
                },
            ) if ty == wanted => {
                let count = count.checked_add(1).ok_or(TypeRefused::TooMany)?;
                let next = TypeState::InUse {
                    ty,
                    count,
                    is_pinned,
                };
                (next, TypeEffect::Shared)
            }
            (TypeEvent::Claim(ty), TypeState::None { was, stamp }) => {
                if ty == PageType::Writable && !needs_flush(was, ty) {
                    let next = TypeState::InUse {
                        ty,
                        count: 1,
                        is_pinned: false,
                    };
                    return Ok((self.with(next), TypeEffect::First));
                }
                let effect = TypeEffect::Claimed {
                    was,
                    stamp,
                    is_incoherent: self.is_incoherent(),
                };
                (TypeState::Changing { ty }, effect)
            }
            (TypeEvent::Claim(wanted), TypeState::Parked { ty, progress }) if ty == wanted => {
                (TypeState::Changing { ty }, TypeEffect::Resumed(progress))
            }
            (TypeEvent::Share(wanted) | TypeEvent::Claim(wanted), other) => {
                return Err(match other {
                    TypeState::Changing { ty } if ty == wanted => TypeRefused::Busy,
                    TypeState::Undoing { .. } => TypeRefused::Undoing,
                    _ => TypeRefused::OtherType,
                });
            }

            (TypeEvent::Finish, TypeState::Changing { ty }) => {
                let next = TypeState::InUse {
                    ty,
                    count: 1,
                    is_pinned: false,
                };
                // Whoever makes a frame ready for a type that matters has written the caches back.
                return Ok((Self::new(next), TypeEffect::Done));
            }
            (TypeEvent::Park(progress), TypeState::Changing { ty }) => {
                (TypeState::Parked { ty, progress }, TypeEffect::Done)
            }
            (TypeEvent::Abandon, TypeState::Parked { ty, progress }) => {
                (TypeState::Changing { ty }, TypeEffect::Resumed(progress))
            }
            (TypeEvent::GiveUp(progress, _), TypeState::Changing { ty })
                if progress > 0 && matches!(ty, PageType::Table(_)) =>
            {
                to_undo(ty, progress)
            }
            (TypeEvent::GiveUp(_, stamp), TypeState::Changing { .. }) => {
                return Ok((self.given_up(stamp), TypeEffect::Untyped));
            }

            (
                TypeEvent::Release,
                TypeState::InUse {
                    ty,
                    count,
                    is_pinned,
                },
            ) => match count.checked_sub(1).ok_or(TypeRefused::NotSo)? {
                // The pin is a reference, and ends otherwise.
                0 if is_pinned => return Err(TypeRefused::NotSo),
                0 if matches!(ty, PageType::Table(_)) => to_undo(ty, ENTRIES),
                0 => (TypeState::Changing { ty }, TypeEffect::Last),
                count => {
                    let next = TypeState::InUse {
                        ty,
                        count,
                        is_pinned,
                    };
                    (next, TypeEffect::Done)
                }
            },
            (
                TypeEvent::Pin,
                TypeState::InUse {
                    ty,
                    count,
                    is_pinned,
                },
            ) => {
                if is_pinned {
                    return Err(TypeRefused::Pinned);
                }
                let next = TypeState::InUse {
                    ty,
                    count,
                    is_pinned: true,
                };
                (next, TypeEffect::Done)
            }
            (
                TypeEvent::Unpin,
                TypeState::InUse {
                    ty,
                    count,
                    is_pinned,
                },
            ) => {
                if !is_pinned {
                    return Err(TypeRefused::Pinned);
                }
                let next = TypeState::InUse {
                    ty,
                    count,
                    is_pinned: false,
                };
                (next, TypeEffect::Done)
            }
            (TypeEvent::Queue(progress, next), TypeState::Undoing { ty, .. }) => {
                (TypeState::Undoing { ty, progress, next }, TypeEffect::Done)
            }
            (TypeEvent::Undone(stamp), TypeState::Undoing { ty, .. }) => {
                let next = TypeState::None {
                    was: Some(ty),
                    stamp,
                };
                (next, TypeEffect::Untyped)
            }
            _ => return Err(TypeRefused::NotSo),
        };
        Ok((self.with(next), effect))
    }
}

/// The end of a table, of which so many entries hold references.
fn to_undo(ty: PageType, progress: u16) -> (TypeState, TypeEffect) {
    let next = None;
    let state = TypeState::Undoing { ty, progress, next };
    (state, TypeEffect::ToUndo(progress))
}

/// Whether translations that come from the old use of a frame could do harm in the new one.
///
/// A writable one lets a guest change what is checked to stay as it is. A remembered table makes the CPU take for entries
/// of one level what was checked as something else. The same use as before is no danger: what is left of it is covered by
/// the stamps of the frames it leads to. A frame that comes from the allocator has nothing left (`Frames::alloc` flushes).
pub(crate) fn needs_flush(was: Option<PageType>, new: PageType) -> bool {
    was.is_some_and(|was| was != new)
}

#[cfg(test)]
mod tests;
