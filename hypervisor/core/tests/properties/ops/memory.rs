//! Calls about descriptors, about frames that come and go, and about domains that end.

use super::*;

impl Maker<'_> {
    pub(super) fn set_gdt(&mut self) -> Call {
        let mut data = Vec::new();
        let pages = self.rng.below(5);
        let frames: Vec<u64> = (0..pages).map(|_| self.mfn().get()).collect();
        let at = self.data(&mut data, frames.as_bytes());
        let entries = pages * 512 - if pages > 0 { self.rng.below(512) } else { 0 };
        Call {
            call: Hypercall::SetGdt,
            args: [at, entries, 0, 0, 0],
            data,
        }
    }

    pub(super) fn update_descriptor(&mut self) -> Call {
        let frame = self.mfn();
        let descriptor = match self.rng.below(3) {
            0 => self.rng.next(),
            1 => 0x00cf_9300_0000_ffff,
            _ => 0,
        };
        let at = frame.start().get().wrapping_add(self.rng.below(512) * 8);
        Call {
            call: Hypercall::UpdateDescriptor,
            args: [at, descriptor, 0, 0, 0],
            data: Vec::new(),
        }
    }

    /// Frames that come and go.
    pub(super) fn memory_op(&mut self) -> Call {
        let mut data = Vec::new();
        let domid = match self.foreign().0 & 0xffff {
            IO | XEN => SELF,
            id => id,
        };
        let order = self.rng.pick(&[0, 0, 0, 0, 1, 2, 3]).unwrap();
        let count = 1 + self.rng.below(6);
        let command = match self.rng.below(10) {
            0..4 => MemoryCommand::DecreaseReservation,
            4 | 5 => MemoryCommand::IncreaseReservation,
            6 | 7 => MemoryCommand::PopulatePhysmap,
            _ => MemoryCommand::Exchange,
        };
        let mut number = u64::from(command.get());
        if self.rng.one_in(40) {
            number |= self.rng.next() & 0x3ff << 6;
        }
        let list: Vec<u64> = (0..count)
            .map(|_| match command {
                MemoryCommand::DecreaseReservation | MemoryCommand::Exchange => {
                    self.given_away().get()
                }
                _ => self.rng.below(1 << 20),
            })
            .collect();
        let start = self.data(&mut data, list.as_bytes());
        let reservation = |start, count, order| {
            let mut reservation = MemoryReservation::new_zeroed();
            reservation.extent_start = GuestHandle::new(GuestAddr::new(start));
            (reservation.nr_extents, reservation.extent_order) = (count, order);
            reservation.domid = DomId::new(domid as u16);
            reservation
        };
        let arg = if command == MemoryCommand::Exchange {
            let pfns: Vec<u64> = (0..8).map(|_| self.rng.below(1 << 20)).collect();
            let results = self.data(&mut data, pfns.as_bytes());
            let (from, to) = self.rng.pick(&[(0, 0), (0, 0), (0, 1), (1, 0)]).unwrap();
            let mut exchange = MemoryExchange::new_zeroed();
            let given = count >> to << to;
            exchange.input = reservation(start, given, from);
            exchange.output = reservation(results, given << from >> to, to);
            self.data(&mut data, exchange.as_bytes())
        } else {
            let start = if command == MemoryCommand::IncreaseReservation && self.rng.percent(30) {
                0
            } else {
                start
            };
            let reservation = reservation(start, count, order);
            self.data(&mut data, reservation.as_bytes())
        };
        Call {
            call: Hypercall::MemoryOp,
            args: [number, arg, 0, 0, 0],
            data,
        }
    }

    /// A frame to give away: mostly one that is not used.
    pub(super) fn given_away(&mut self) -> Mfn {
        if self.rng.percent(20) {
            return self.mfn();
        }
        let unused = self.frames(self.slot, |state| matches!(state, TypeState::None { .. }));
        let any = self.loose(self.slot);
        self.rng.pick(&unused).unwrap_or(any)
    }

    /// Selectors make the page of the LDT that they lead to one of descriptors.
    pub(super) fn set_segment_base(&mut self) -> Call {
        const LOCAL: u64 = 4;
        let index = self.rng.below(9000);
        Call {
            call: Hypercall::SetSegmentBase,
            args: [3, index << 3 | LOCAL | 3, 0, 0, 0],
            data: Vec::new(),
        }
    }

    /// Works on tables of a domain that ends.
    pub(super) fn about_the_dying(&mut self, length: u64) -> Call {
        let dying = self.rng.pick(self.world.dying).unwrap();
        let mut frames = Vec::new();
        let all = &self.world.host.frames;
        all.visit_of(dying, |mfn| frames.push(mfn));
        let (id, own) = (u64::from(dying.get()), self.loose(0));
        let any = |rng: &mut Rng| rng.pick(&frames).unwrap_or(own);
        let mut data = Vec::new();
        if self.rng.percent(50) {
            let mut list = Vec::new();
            for _ in 0..length {
                let level = self.level();
                let mut op = MmuextOp::new_zeroed();
                op.cmd = self.rng.below(5) as u32;
                let table = any(self.rng);
                op.arg1 = self.table_among(&frames, level).unwrap_or(table).get();
                list.push(op);
            }
            let at = self.data(&mut data, list.as_bytes());
            return Call {
                call: Hypercall::MmuextOp,
                args: [at, length, 0, id, 0],
                data,
            };
        }
        let mut list = Vec::new();
        for _ in 0..length {
            let level = self.level();
            let other = any(self.rng);
            let table = self.table_among(&frames, level).unwrap_or(other);
            let target = any(self.rng).start().get();
            let flags = PRESENT | USER | if self.rng.percent(50) { WRITABLE } else { 0 };
            let ptr = table.start().get() + self.index(level) * 8;
            let val = if self.rng.percent(30) {
                0
            } else {
                target | flags
            };
            list.push(MmuUpdate { ptr, val });
        }
        let at = self.data(&mut data, list.as_bytes());
        Call {
            call: Hypercall::MmuUpdate,
            args: [at, length, 0, (id + 1) << 16 | id, 0],
            data,
        }
    }
}
