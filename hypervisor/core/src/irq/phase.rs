//! What becomes of an interrupt that arrives, until its domain has answered. Pure.
//!
//! | phase | its source | what comes next |
//! |---|---|---|
//! | `Unbound` | closed | an interrupt that was on its way is dropped |
//! | `Idle` | open | an interrupt is told |
//! | `Served` | closed for a level, else open | the answer; another edge or message closes the source, and is owed |
//! | `Owed` | closed | the answer: the source is opened, and what is owed is told |

/// How an interrupt behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It comes again until its device is served.
    Level,
    /// It comes once. While its source is closed it may be lost.
    Edge,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No port is told of it.
    Unbound,
    /// None has arrived.
    Idle,
    /// The domain was told, and has not answered.
    Served,
    /// The same, and another one has come since.
    Owed,
}

/// What is to be done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Effect {
    /// Whether the source is opened, or closed.
    pub open: Option<bool>,
    /// Whether the domain is told.
    pub tell: bool,
}

impl Effect {
    const NONE: Self = Self {
        open: None,
        tell: false,
    };
    const OPEN: Self = Self {
        open: Some(true),
        tell: false,
    };
    const CLOSE: Self = Self {
        open: Some(false),
        tell: false,
    };

    const fn and_tell(self) -> Self {
        Self { tell: true, ..self }
    }
}

impl Phase {
    /// An interrupt has arrived.
    pub const fn arrived(self, kind: Kind) -> (Self, Effect) {
        match (self, kind) {
            (Self::Unbound, _) => (Self::Unbound, Effect::CLOSE),
            (Self::Idle, Kind::Level) => (Self::Served, Effect::CLOSE.and_tell()),
            (Self::Idle, Kind::Edge) => (Self::Served, Effect::NONE.and_tell()),
            // It was on its way when the source was closed: it is held still, and comes again behind the answer.
            (Self::Served, Kind::Level) => (Self::Served, Effect::CLOSE),
            (Self::Served | Self::Owed, _) => (Self::Owed, Effect::CLOSE),
        }
    }

    /// The domain has answered.
    pub const fn ended(self, kind: Kind) -> (Self, Effect) {
        match (self, kind) {
            (Self::Served, Kind::Level) => (Self::Idle, Effect::OPEN),
            (Self::Served, Kind::Edge) => (Self::Idle, Effect::NONE),
            (Self::Owed, _) => (Self::Served, Effect::OPEN.and_tell()),
            (Self::Unbound | Self::Idle, _) => (self, Effect::NONE),
        }
    }

    /// A port was bound.
    pub const fn bound() -> (Self, Effect) {
        (Self::Idle, Effect::OPEN)
    }

    /// No port is bound any more.
    pub const fn unbound() -> (Self, Effect) {
        (Self::Unbound, Effect::CLOSE)
    }

    /// The source has been closed by somebody else: it is as the phase has it again.
    pub const fn restored(self, kind: Kind) -> (Self, Effect) {
        match (self, kind) {
            (Self::Idle, _) | (Self::Served, Kind::Edge) => (self, Effect::OPEN),
            (Self::Unbound | Self::Owed, _) | (Self::Served, Kind::Level) => (self, Effect::NONE),
        }
    }
}
