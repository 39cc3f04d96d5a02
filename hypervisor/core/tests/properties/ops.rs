//! What guests do: calls, valid and hostile, made of frames that could be meant.

use dom0_abi::addr::{GuestAddr, Mfn};
use dom0_abi::handle::GuestHandle;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::DomId;
use dom0_abi::memory::{MemoryCommand, MemoryExchange, MemoryReservation};
use dom0_abi::xen::{MmuUpdate, MmuextOp, MulticallEntry};
use oxen_core::frame::TypeState;
use oxen_core::page_type::{Level, PageType};
use zerocopy::{FromZeros, IntoBytes};

use crate::rng::Rng;
use crate::world::{ARGS, FRAMES, L3, LOOSE, MARKS, PRESENT, Scene, USER, WRITABLE, linear};

/// A call, and what has to be in memory for it.
#[derive(Clone, Debug)]
pub struct Call {
    pub call: Hypercall,
    pub args: [u64; 5],
    pub data: Vec<(u64, Vec<u8>)>,
}

/// Something that a vCPU does.
#[derive(Clone, Debug)]
pub enum Op {
    Call(Call),
    Write(u64, Vec<u8>),
    Read(u64, usize),
    /// By an instruction, with rax and rbx, to an address that is mapped read-only.
    Trapped(u64, [u64; 2], Vec<u8>),
    EnterUser,
}

const SELF: u64 = 0x7ff0;
const IO: u64 = 0x7ff1;
const XEN: u64 = 0x7ff2;

/// Makes operations for one vCPU.
pub struct Maker<'a> {
    pub world: Scene<'a>,
    pub rng: &'a mut Rng,
    pub slot: usize,
    pub seat: usize,
    /// Where the next data goes to.
    place: u64,
}

impl<'a> Maker<'a> {
    pub fn new(world: Scene<'a>, rng: &'a mut Rng, slot: usize, seat: usize) -> Self {
        Self {
            world,
            rng,
            slot,
            seat,
            place: linear(ARGS + seat),
        }
    }

    fn controls(&self) -> bool {
        self.slot == 0
    }

    /// The frames of a domain that are in some state.
    fn frames(&self, slot: usize, wanted: impl Fn(TypeState) -> bool) -> Vec<Mfn> {
        let frames = &self.world.players[slot].frames;
        let state = |mfn: &Mfn| self.world.host.frames.type_state(*mfn);
        let found = frames.iter().filter(|mfn| state(mfn).is_some_and(&wanted));
        found.copied().collect()
    }

    /// A table of some level, if there is one.
    fn table(&mut self, slot: usize, level: Level) -> Option<Mfn> {
        let wanted = PageType::Table(level);
        let tables = self.frames(slot, |state| match state {
            TypeState::InUse { ty, .. }
            | TypeState::Parked { ty, .. }
            | TypeState::Undoing { ty, .. } => ty == wanted,
            _ => false,
        });
        self.rng.pick(&tables)
    }

    fn table_among(&mut self, frames: &[Mfn], level: Level) -> Option<Mfn> {
        let wanted = PageType::Table(level);
        let is_one = |mfn: &Mfn| match self.world.host.frames.type_state(*mfn) {
            Some(TypeState::InUse { ty, .. } | TypeState::Parked { ty, .. }) => ty == wanted,
            _ => false,
        };
        let tables: Vec<_> = frames.iter().copied().filter(is_one).collect();
        self.rng.pick(&tables)
    }

    /// A frame that is nothing in particular.
    fn loose(&mut self, slot: usize) -> Mfn {
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

    fn level(&mut self) -> Level {
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
    fn mfn(&mut self) -> Mfn {
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
    fn entry(&mut self, level: Level) -> u64 {
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

    fn index(&mut self, level: Level) -> u64 {
        match level {
            Level::L1 if self.rng.percent(60) => self.rng.below(FRAMES as u64),
            Level::L4 if self.rng.percent(20) => 254 + self.rng.below(20),
            _ if self.rng.percent(10) => self.rng.below(512),
            _ => self.rng.pick(&[0, 0, 1, 2, 2, 3, 4, 511]).unwrap(),
        }
    }

    fn mmu_update_request(&mut self, tables: usize) -> MmuUpdate {
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

    /// Puts something where a call finds it; a few times, where it does not.
    fn data(&mut self, call: &mut Vec<(u64, Vec<u8>)>, bytes: &[u8]) -> u64 {
        if self.rng.percent(2) {
            let odd = [0, 1 << 47, 0xffff_8000_0000_0000, linear(ARGS) - 16, !7];
            return self.rng.pick(&odd).unwrap();
        }
        let page = linear(ARGS + self.seat);
        if self.place + bytes.len() as u64 > page + 0x1000 {
            self.place = page;
        }
        let at = self.place;
        self.place += (bytes.len() as u64).next_multiple_of(8);
        call.push((at, bytes.to_vec()));
        at
    }

    fn done(&mut self, data: &mut Vec<(u64, Vec<u8>)>) -> u64 {
        if self.rng.percent(60) {
            0
        } else {
            self.data(data, &[0; 8])
        }
    }

    /// How long a list is.
    fn length(&mut self) -> u64 {
        match self.rng.below(10) {
            0 => 0,
            1..6 => 1,
            6..9 => 1 + self.rng.below(6),
            _ => 1 + self.rng.below(50),
        }
    }

    /// Whose pages; and the number of a place whose tables.
    fn foreign(&mut self) -> (u64, usize) {
        let chance = if self.controls() { 30 } else { 4 };
        if !self.rng.percent(chance) {
            return (SELF, self.slot);
        }
        let other = 1 + self.rng.below(2) as usize;
        let id = u64::from(self.world.players[other].id.get());
        match self.rng.below(8) {
            0 => (IO, self.slot),
            1 => (XEN, self.slot),
            2 => (self.rng.below(8), self.slot),
            3 | 4 => ((id + 1) << 16 | id, other),
            5 if self.world.wild => ((id + 1) << 16 | SELF, other),
            5 | 6 => {
                if let Some(dead) = self.world.dying.first() {
                    (u64::from(dead.get()), self.slot)
                } else {
                    (id, self.slot)
                }
            }
            _ => (id, self.slot),
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

    fn count(&mut self, length: u64) -> u64 {
        match self.rng.below(40) {
            0 => length + 1,
            1 => length | 1 << 31,
            _ => length,
        }
    }

    fn mmuext_request(&mut self) -> MmuextOp {
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

    fn address(&mut self) -> u64 {
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

    fn set_gdt(&mut self) -> Call {
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

    fn update_descriptor(&mut self) -> Call {
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
    fn memory_op(&mut self) -> Call {
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
    fn given_away(&mut self) -> Mfn {
        if self.rng.percent(20) {
            return self.mfn();
        }
        let unused = self.frames(self.slot, |state| matches!(state, TypeState::None { .. }));
        let any = self.loose(self.slot);
        self.rng.pick(&unused).unwrap_or(any)
    }

    /// Selectors make the page of the LDT that they lead to one of descriptors.
    fn set_segment_base(&mut self) -> Call {
        const LOCAL: u64 = 4;
        let index = self.rng.below(9000);
        Call {
            call: Hypercall::SetSegmentBase,
            args: [3, index << 3 | LOCAL | 3, 0, 0, 0],
            data: Vec::new(),
        }
    }

    /// Works on tables of a domain that ends.
    fn about_the_dying(&mut self, length: u64) -> Call {
        let dying = self.rng.pick(&self.world.dying).unwrap();
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

    fn plain_call(&mut self) -> Call {
        let length = self.length();
        if self.controls() && self.rng.percent(8) && !self.world.dying.is_empty() {
            return self.about_the_dying(length);
        }
        match self.rng.below(25) {
            20 | 21 => self.set_segment_base(),
            22..25 => self.memory_op(),
            0..9 => self.mmu_update(length),
            9..14 => {
                let length = length.min(12);
                self.mmuext_op(length)
            }
            14..18 => self.update_va_mapping(),
            18 => self.set_gdt(),
            _ => self.update_descriptor(),
        }
    }

    fn multicall(&mut self) -> Call {
        let mut data = Vec::new();
        let count = 1 + self.rng.below(4);
        let mut list = Vec::new();
        for _ in 0..count {
            let inner = self.plain_call();
            let mut entry = MulticallEntry::new_zeroed();
            entry.op = inner.call.number();
            entry.args[..5].copy_from_slice(&inner.args);
            data.extend(inner.data);
            list.push(entry);
        }
        let at = self.data(&mut data, list.as_bytes());
        Call {
            call: Hypercall::Multicall,
            args: [at, count, 0, 0, 0],
            data,
        }
    }

    /// A call with one request, which can be refused as a whole.
    pub fn single(&mut self) -> Call {
        let mut call = match self.rng.below(5) {
            0 | 1 => self.mmu_update(1),
            2 => self.mmuext_op(1),
            3 => {
                let mut call = self.update_va_mapping();
                // Which fails behind the change if the map of vCPUs cannot be read.
                call.args[2] &= 7;
                call
            }
            _ => self.set_gdt(),
        };
        if matches!(call.call, Hypercall::MmuUpdate | Hypercall::MmuextOp) {
            call.args[1] = 1;
        }
        call
    }

    /// A write of the kernel to one of its tables.
    fn trapped(&mut self) -> Op {
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
    fn tree(&mut self) -> Vec<Op> {
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
    fn unmap(&mut self, mfn: Mfn) -> Option<Op> {
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

    fn extended(&mut self, command: u32, mfn: Mfn) -> Call {
        let mut op = MmuextOp::new_zeroed();
        (op.cmd, op.arg1) = (command, mfn.get());
        let at = linear(ARGS + self.seat) + 0x800;
        Call {
            call: Hypercall::MmuextOp,
            args: [at, 1, 0, SELF, 0],
            data: vec![(at, op.as_bytes().to_vec())],
        }
    }

    fn fill(&mut self, level: Level, table: Mfn, children: &[Mfn]) -> Call {
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

    /// One operation, or several that belong together.
    pub fn ops(&mut self) -> Vec<Op> {
        if self.rng.one_in(12) {
            self.tree()
        } else {
            vec![self.op()]
        }
    }

    /// An address where something can be written, or could be not long ago.
    fn writable(&mut self) -> u64 {
        let player = &self.world.players[self.slot];
        let is_one = |state| {
            matches!(
                state,
                Some(
                    TypeState::InUse {
                        ty: PageType::Writable,
                        ..
                    } | TypeState::None {
                        was: Some(PageType::Writable),
                        ..
                    }
                )
            )
        };
        let state = |index: &usize| self.world.host.frames.type_state(player.frames[*index]);
        let indexes: Vec<_> = (LOOSE..player.frames.len().min(512))
            .filter(|index| is_one(state(index)))
            .collect();
        linear(self.rng.pick(&indexes).unwrap_or(LOOSE))
    }

    /// Calls only, of any kind.
    pub fn calls(&mut self) -> Vec<Call> {
        let ops = if self.rng.one_in(8) {
            self.tree()
        } else if self.rng.one_in(8) {
            vec![Op::Call(self.multicall())]
        } else {
            vec![Op::Call(self.plain_call())]
        };
        let calls = ops.into_iter().filter_map(|op| match op {
            Op::Call(call) => Some(call),
            _ => None,
        });
        calls.collect()
    }

    fn op(&mut self) -> Op {
        match self.rng.below(30) {
            20..23 => self.trapped(),
            23 => Op::EnterUser,
            24..30 => {
                let at = self.writable() + self.rng.below(512) * 8;
                Op::Write(at, self.entry(Level::L1).to_le_bytes().to_vec())
            }
            0..4 => {
                let at = self.address() + self.rng.below(512) * 8;
                let entry = self.entry(Level::L1);
                Op::Write(at, entry.to_le_bytes().to_vec())
            }
            4..6 => {
                let at = self.address();
                Op::Read(at, 1 + self.rng.below(64) as usize)
            }
            6 => Op::Call(self.multicall()),
            _ => Op::Call(self.plain_call()),
        }
    }
}

fn below(level: Level) -> Level {
    level.below().unwrap_or(Level::L1)
}

/// Where the owner stands in the arguments of a call.
trait MapOwner {
    fn map_owner(self, call: Hypercall) -> Self;
}

impl MapOwner for [u64; 5] {
    fn map_owner(self, call: Hypercall) -> Self {
        let [va, entry, flags, owner, rest] = self;
        if call == Hypercall::UpdateVaMapping {
            [va, entry, flags, 0, rest]
        } else {
            [va, entry, flags, owner, rest]
        }
    }
}
