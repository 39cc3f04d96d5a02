//! Frames, entries and addresses that could be meant.

use super::*;

impl Maker<'_> {
    pub(super) fn controls(&self) -> bool {
        self.slot == 0
    }

    /// The frames of a domain that are in some state.
    pub(super) fn frames(&self, slot: usize, wanted: impl Fn(TypeState) -> bool) -> Vec<Mfn> {
        let frames = &self.world.players[slot].frames;
        let state = |mfn: &Mfn| self.world.host.frames.type_state(*mfn);
        let found = frames.iter().filter(|mfn| state(mfn).is_some_and(&wanted));
        found.copied().collect()
    }

    /// A table of some level, if there is one.
    pub(super) fn table(&mut self, slot: usize, level: Level) -> Option<Mfn> {
        let wanted = PageType::Table(level);
        let tables = self.frames(slot, |state| match state {
            TypeState::InUse { ty, .. }
            | TypeState::Parked { ty, .. }
            | TypeState::Undoing { ty, .. } => ty == wanted,
            _ => false,
        });
        self.rng.pick(&tables)
    }

    pub(super) fn table_among(&mut self, frames: &[Mfn], level: Level) -> Option<Mfn> {
        let wanted = PageType::Table(level);
        let is_one = |mfn: &Mfn| match self.world.host.frames.type_state(*mfn) {
            Some(TypeState::InUse { ty, .. } | TypeState::Parked { ty, .. }) => ty == wanted,
            _ => false,
        };
        let tables: Vec<_> = frames.iter().copied().filter(is_one).collect();
        self.rng.pick(&tables)
    }

    /// A frame that is nothing in particular.
    pub(super) fn loose(&mut self, slot: usize) -> Mfn {
        let loose = self.frames(slot, |state| match state {
            TypeState::None { .. } => true,
            TypeState::InUse { ty, .. } => ty == PageType::Writable,
            _ => false,
        });
        // Pages that are needed for arguments are spared, mostly.
        let from = &self.world.players[slot].frames[ARGS..LOOSE];
        let loose: Vec<_> = loose
            .into_iter()
            .filter(|mfn| !from.contains(mfn) || self.rng.one_in(20))
            .collect();
        let any = self.world.players[slot].frames[LOOSE];
        self.rng.pick(&loose).unwrap_or(any)
    }

    pub(super) fn level(&mut self) -> Level {
        let levels = [
            Level::L1,
            Level::L1,
            Level::L1,
            Level::L2,
            Level::L2,
            Level::L3,
            Level::L4,
        ];
        self.rng.pick(&levels).unwrap()
    }

    /// A frame of the caller's, as a rule.
    pub(super) fn mfn(&mut self) -> Mfn {
        let slot = if self.rng.percent(88) {
            self.slot
        } else {
            self.rng.below(3) as usize
        };
        match self.rng.below(20) {
            0..8 => self.loose(slot),
            8..13 => {
                let level = self.level();
                let any = self.loose(slot);
                self.table(slot, level).unwrap_or(any)
            }
            13..17 => {
                let frames = &self.world.players[slot].frames;
                self.rng.pick(frames).unwrap()
            }
            17 => {
                let end = self.world.host.frames.end().get();
                Mfn::new(self.rng.below(end + 8))
            }
            18 => {
                let odd = [0, 0xfee00, 0xfec00, 0xf_ffff, 0xb8, 0x3_ffff_ffff, 1 << 40];
                Mfn::new(self.rng.pick(&odd).unwrap())
            }
            _ => self.world.host.machine.m2p_frames().start,
        }
    }

    /// An entry for a table of some level.
    pub(super) fn entry(&mut self, level: Level) -> u64 {
        if self.rng.percent(14) {
            return 0;
        }
        if self.rng.percent(3) {
            return self.rng.next();
        }
        let mfn = match level {
            Level::L1 => self.mfn(),
            _ if self.rng.percent(15) => self.mfn(),
            level => {
                let slot = self.slot;
                let loose = self.loose(slot);
                if self.rng.percent(20) {
                    loose
                } else {
                    self.table(slot, below(level)).unwrap_or(loose)
                }
            }
        };
        let mut flags = PRESENT | USER;
        if self.rng.percent(65) {
            flags |= WRITABLE;
        }
        if self.rng.percent(50) {
            flags |= self.rng.next() & MARKS;
        }
        if self.rng.percent(6) {
            flags ^= PRESENT;
        }
        if self.rng.percent(8) {
            flags ^= USER;
        }
        if self.rng.percent(10) {
            flags |= 1 << self.rng.below(12);
        }
        if self.rng.percent(10) {
            flags |= 1 << (52 + self.rng.below(12));
        }
        mfn.start().get() | flags
    }

    pub(super) fn index(&mut self, level: Level) -> u64 {
        match level {
            Level::L1 if self.rng.percent(60) => self.rng.below(FRAMES as u64),
            Level::L4 if self.rng.percent(20) => 254 + self.rng.below(20),
            _ if self.rng.percent(10) => self.rng.below(512),
            _ => self.rng.pick(&[0, 0, 1, 2, 2, 3, 4, 511]).unwrap(),
        }
    }
}
