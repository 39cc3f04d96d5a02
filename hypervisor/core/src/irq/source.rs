//! Where an interrupt comes from, opened and closed.

use oxen_arch::{LineMode, Machine, Target};

use super::message::MessageSource;
use super::phase::{Effect, Kind, Phase};
use super::{Mapping, Record};

/// Where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A line.
    Line {
        /// Its number.
        gsi: u32,
    },
    /// A function on the bus.
    Message(MessageSource),
}

impl Source {
    fn kind(self, mode: LineMode) -> Kind {
        match self {
            Self::Line { .. } if mode.is_level => Kind::Level,
            Self::Line { .. } | Self::Message(_) => Kind::Edge,
        }
    }

    /// Lets interrupts arrive, or no more.
    pub fn open(self, machine: &Machine, mode: LineMode, target: Target, is_open: bool) {
        match self {
            Self::Line { gsi } => {
                machine.set_line(gsi, mode, target.vector, is_open);
            }
            // A function whose registers its domain has moved elsewhere is closed to all.
            Self::Message(message) => {
                let _ = message.open(machine, is_open);
            }
        }
    }
}

impl Record {
    /// Goes on to another phase, and opens or closes the source. Returns the mapping, if its domain is to be told.
    pub(super) fn step(
        &mut self,
        machine: &Machine,
        next: impl FnOnce(Phase, Kind) -> (Phase, Effect),
    ) -> Option<&Mapping> {
        let mode = self.mode;
        let mapping = self.mapping()?;
        let (phase, effect) = next(mapping.phase, mapping.source.kind(mode));
        mapping.phase = phase;
        if let (Some(is_open), Some(target)) = (effect.open, mapping.target) {
            mapping.source.open(machine, mode, target, is_open);
        }
        effect.tell.then_some(mapping)
    }
}
