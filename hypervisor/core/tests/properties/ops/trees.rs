//! Writes to tables as if they were memory, and whole trees of tables.

use super::*;

impl Maker<'_> {
    /// A write of the kernel to one of its tables.
    pub(super) fn trapped(&mut self) -> Op {
        let tables = &self.world.players[self.slot].frames;
        let level = if self.rng.percent(90) {
            Level::L1
        } else {
            self.level()
        };
        let table = self.table(self.slot, level);
        let index = table.and_then(|table| tables.iter().position(|&mfn| mfn == table));
        let page = match index {
            Some(index) => linear(index),
            None => self.address() & !0xfff,
        };
        let at = page + self.index(level) * 8;
        let values = [self.entry(level), self.entry(level)];
        let byte = self.rng.next() as u8;
        let bit = byte & 63;
        let forms: [&[u8]; 8] = [
            &[0x48, 0x89, 0x07],
            &[0x48, 0x87, 0x07],
            &[0xf0, 0x48, 0x0f, 0xb1, 0x1f],
            &[0xf0, 0x80, 0x27, byte],
            &[0xf0, 0x80, 0x0f, byte],
            &[0xf0, 0x48, 0x0f, 0xba, 0x37, bit],
            &[0xf0, 0x48, 0x0f, 0xba, 0x2f, bit],
            &[0x48, 0x89, 0x1f],
        ];
        let form = self.rng.pick(&forms).unwrap();
        Op::Trapped(at, values, form.to_vec())
    }

    /// A tree of tables, built in memory that is no table yet, and used as one at the end.
    pub(super) fn tree(&mut self) -> Vec<Op> {
        let levels = [Level::L1, Level::L2, Level::L3, Level::L4];
        let depth = 1 + self.rng.below(4) as usize;
        let mut ops = Vec::new();
        let mut children = Vec::new();
        for (number, &level) in levels.iter().take(depth).enumerate() {
            let width = if number + 1 == depth {
                1
            } else {
                1 + self.rng.below(3)
            };
            let mut tables = Vec::new();
            for _ in 0..width {
                let table = self.loose(self.slot);
                tables.push(table);
                ops.extend(self.unmap(table));
                ops.push(Op::Call(self.extended(16, table)));
                let fill = self.fill(level, table, &children);
                ops.push(Op::Call(fill));
            }
            children = tables;
        }
        let top = children[0];
        let command = match depth {
            4 if self.rng.percent(40) => 5,
            4 if self.rng.percent(40) => 15,
            depth => depth as u32 - 1,
        };
        ops.push(Op::Call(self.extended(command, top)));
        if self.rng.percent(50) {
            ops.push(Op::Call(self.extended(4, top)));
        }
        ops
    }

    /// Takes away what the first table maps of a frame.
    pub(super) fn unmap(&mut self, mfn: Mfn) -> Option<Op> {
        let frames = &self.world.players[self.slot].frames;
        let index = frames.iter().position(|&its| its == mfn)?;
        let entry = if self.rng.percent(50) {
            0
        } else {
            mfn.start().get() | PRESENT | USER
        };
        Some(Op::Call(Call {
            call: Hypercall::UpdateVaMapping,
            args: [linear(index), entry, self.rng.below(3), 0, 0],
            data: Vec::new(),
        }))
    }

    pub(super) fn extended(&mut self, command: u32, mfn: Mfn) -> Call {
        let mut op = MmuextOp::new_zeroed();
        (op.cmd, op.arg1) = (command, mfn.get());
        let at = linear(ARGS + self.seat) + 0x800;
        Call {
            call: Hypercall::MmuextOp,
            args: [at, 1, 0, SELF, 0],
            data: vec![(at, op.as_bytes().to_vec())],
        }
    }

    pub(super) fn fill(&mut self, level: Level, table: Mfn, children: &[Mfn]) -> Call {
        let count = match self.rng.below(4) {
            0 => 40 + self.rng.below(40),
            _ => 1 + self.rng.below(12),
        };
        let mut list = Vec::new();
        for _ in 0..count {
            let index = self.rng.below(512);
            let val = match self.rng.pick(children) {
                Some(child) => child.start().get() | PRESENT | WRITABLE | USER,
                // Such that most are allowed.
                None => {
                    let frames = &self.world.players[self.slot].frames;
                    let frame = self.rng.pick(frames).unwrap().start().get();
                    let writable = if self.rng.percent(20) { WRITABLE } else { 0 };
                    frame | PRESENT | USER | writable
                }
            };
            let val = if self.rng.one_in(60) {
                self.entry(level)
            } else {
                val
            };
            let ptr = table.start().get() + index * 8;
            list.push(MmuUpdate { ptr, val });
        }
        if level == Level::L4 && self.rng.percent(80) {
            let frames = &self.world.players[self.slot].frames;
            let val = frames[L3].start().get() | PRESENT | WRITABLE | USER;
            list.push(MmuUpdate {
                ptr: table.start().get(),
                val,
            });
        }
        let at = linear(ARGS + self.seat);
        Call {
            call: Hypercall::MmuUpdate,
            args: [at, list.len() as u64, 0, SELF, 0],
            data: vec![(at, list.as_bytes().to_vec())],
        }
    }
}
