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

/// Where in its page the data begins: behind what a list takes that begins below the page, so that no call overwrites its own
/// arguments, which would be others then when it goes on.
const BEGIN: u64 = 64;

/// The longest request of a list.
const GAP: u64 = size_of::<MmuextOp>() as u64;

/// Makes operations for one vCPU.
pub struct Maker<'a> {
    pub world: Scene<'a>,
    pub rng: &'a mut Rng,
    pub slot: usize,
    pub seat: usize,
    /// Where the next data goes to.
    place: u64,
}

mod events;
mod grants;
mod memory;
mod mmu;
mod pages;
mod trees;

impl<'a> Maker<'a> {
    pub fn new(world: Scene<'a>, rng: &'a mut Rng, slot: usize, seat: usize) -> Self {
        Self {
            world,
            rng,
            slot,
            seat,
            place: linear(ARGS + seat) + BEGIN,
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
            self.place = page + BEGIN;
        }
        let at = self.place;
        // Lists are counted one longer than they are, sometimes: what lies behind is no other call's of the same batch.
        self.place += (bytes.len() as u64).next_multiple_of(8) + GAP;
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

    fn plain_call(&mut self) -> Call {
        let length = self.length();
        if self.controls() && self.rng.percent(8) && !self.world.dying.is_empty() {
            return self.about_the_dying(length);
        }
        match self.rng.below(34) {
            31..34 => self.event_call(),
            25..31 => self.grant_call(),
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
        match self.rng.below(34) {
            30..34 => self.grant(),
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
