//! Calls about page tables.

use super::*;

impl Maker<'_> {
    pub(super) fn mmu_update_request(&mut self, tables: usize) -> MmuUpdate {
        let level = self.level();
        let table = self.table(tables, level).filter(|_| self.rng.percent(80));
        let mfn = match table {
            Some(table) => table,
            None if self.rng.percent(70) => self.loose(tables),
            None => self.mfn(),
        };
        let command = match self.rng.below(20) {
            0 => 1,
            1..4 => 2,
            4 => self.rng.below(8),
            _ => 0,
        };
        let offset = self.index(level) * 8;
        MmuUpdate {
            ptr: mfn.start().get().wrapping_add(offset) | command,
            val: self.entry(level),
        }
    }

    pub fn mmu_update(&mut self, length: u64) -> Call {
        let mut data = Vec::new();
        let (foreign, tables) = self.foreign();
        let list: Vec<_> = (0..length)
            .map(|_| self.mmu_update_request(tables))
            .collect();
        let at = self.data(&mut data, list.as_bytes());
        let done = self.done(&mut data);
        Call {
            call: Hypercall::MmuUpdate,
            args: [at, self.count(length), done, foreign, 0],
            data,
        }
    }

    pub(super) fn count(&mut self, length: u64) -> u64 {
        match self.rng.below(40) {
            0 => length + 1,
            1 => length | 1 << 31,
            _ => length,
        }
    }

    pub(super) fn mmuext_request(&mut self) -> MmuextOp {
        let mut op = MmuextOp::new_zeroed();
        op.cmd = match self.rng.below(40) {
            0..10 => self.rng.below(4) as u32,
            10..18 => 4,
            18..21 => 5,
            21..24 => 15,
            24..28 => 16,
            28..31 => 17,
            31 => 13,
            32..38 => 6 + self.rng.below(6) as u32,
            _ => self.rng.below(24) as u32,
        };
        let mfn = match op.cmd {
            // What could be pinned, or is.
            level @ 0..4 if self.rng.percent(80) => {
                let levels = [Level::L1, Level::L2, Level::L3, Level::L4];
                let (slot, level) = (self.slot, levels[level as usize]);
                let loose = self.loose(slot);
                self.table(slot, level)
                    .filter(|_| self.rng.percent(50))
                    .unwrap_or(loose)
            }
            4 if self.rng.percent(80) => {
                let pinned = self.frames(
                    self.slot,
                    |state| matches!(state, TypeState::InUse { is_pinned, .. } if is_pinned),
                );
                let any = self.mfn();
                self.rng.pick(&pinned).unwrap_or(any)
            }
            5 | 15 if self.rng.percent(85) => {
                let any = self.mfn();
                let slot = self.slot;
                self.table(slot, Level::L4).unwrap_or(any)
            }
            _ => self.mfn(),
        };
        op.arg1 = mfn.get();
        op.arg2 = self.mfn().get();
        match op.cmd {
            7 | 9 | 11 => op.arg1 = self.address(),
            13 => {
                op.arg1 = linear(self.rng.below(FRAMES as u64) as usize);
                op.arg2 = self.rng.below(9000);
            }
            _ => {}
        }
        if matches!(op.cmd, 8 | 9) {
            op.arg2 = linear(ARGS);
        }
        op
    }

    pub fn mmuext_op(&mut self, length: u64) -> Call {
        let mut data = Vec::new();
        let (foreign, _) = self.foreign();
        let list: Vec<_> = (0..length).map(|_| self.mmuext_request()).collect();
        let at = self.data(&mut data, list.as_bytes());
        let done = self.done(&mut data);
        Call {
            call: Hypercall::MmuextOp,
            args: [at, self.count(length), done, foreign & 0xffff, 0],
            data,
        }
    }

    pub(super) fn address(&mut self) -> u64 {
        match self.rng.below(20) {
            0 => self.rng.next(),
            1 => 0xffff_8000_0000_0000 + self.rng.below(1 << 43),
            2 => self.rng.below(1 << 32),
            _ => linear(self.rng.below(FRAMES as u64) as usize),
        }
    }

    pub fn update_va_mapping(&mut self) -> Call {
        let mut va = self.address();
        if va >> 13 == linear(ARGS) >> 13 && !self.rng.one_in(20) {
            va = linear(LOOSE);
        }
        let flags = match self.rng.below(8) {
            0 => linear(ARGS) | self.rng.below(3),
            1 => self.rng.next(),
            _ => self.rng.below(3) | self.rng.below(2) << 2,
        };
        let entry = self.entry(Level::L1);
        let (foreign, _) = self.foreign();
        let call = if foreign == SELF {
            Hypercall::UpdateVaMapping
        } else {
            Hypercall::UpdateVaMappingOtherdomain
        };
        Call {
            call,
            args: [va, entry, flags, foreign & 0xffff, 0].map_owner(call),
            data: Vec::new(),
        }
    }
}
