//! Each invariant by itself, in the smallest scene that shows it.

use dom0_abi::addr::Mfn;
use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::xen::{MmuUpdate, MmuextOp};
use oxen_arch::paging_facts::SPARE_SLOT;
use oxen_core::audit::{self, Problem, Tally, Wrong};
use oxen_core::budget::Budget;
use oxen_core::domain::teardown::{self, Progress};
use oxen_core::frame::{Placement, Scrub, TypeState, UndoQueue};
use oxen_core::page_type::hold::Reach;
use oxen_core::page_type::{Level, PageType, TypeRef, promote, undo};
use zerocopy::{FromZeros, IntoBytes};

use crate::ops::{Call, Maker};
use crate::rng::Rng;
use crate::world::{
    ARGS, Config, L1, L2, L3, LOOSE, MARKS, Outcome, PRESENT, ROOT, USER, WRITABLE, World, linear,
};

mod auditor;
mod calls;
mod events;
mod grants;
mod reach;
mod types;

const SELF: u64 = 0x7ff0;
const PIN_L1: u32 = 0;
const UNPIN: u32 = 4;
const NEW_ROOT: u32 = 5;
/// A frame that the first table does not map, one that it maps read-only, one that it maps writable.
const UNMAPPED: usize = LOOSE + 2;
const READABLE: usize = LOOSE + 1;
const MAPPED: usize = LOOSE;

const BUSY: i64 = Errno::EBUSY.as_return();
const INVALID: i64 = Errno::EINVAL.as_return();
const FAULT: i64 = Errno::EFAULT.as_return();
const FORBIDDEN: i64 = Errno::EPERM.as_return();

fn all_modes() -> [Config; 3] {
    [(false, false), (true, false), (false, true)].map(|(pcid, xpti)| Config {
        pcid,
        xpti,
        ..Config::of(0)
    })
}

fn world() -> World {
    World::new(Config::of(0))
}

fn returned(outcome: Outcome) -> i64 {
    match outcome {
        Outcome::Returned(value) => value,
        other => panic!("{other:?}"),
    }
}

impl World {
    fn update(&mut self, slot: usize, foreign: u64, list: &[(u64, u64)]) -> i64 {
        let list: Vec<_> = list
            .iter()
            .map(|&(ptr, val)| MmuUpdate { ptr, val })
            .collect();
        let at = linear(ARGS);
        assert!(self.write(slot, 0, at, list.as_bytes()));
        let args = [at, list.len() as u64, 0, foreign, 0];
        returned(self.call_whole(slot, 0, Hypercall::MmuUpdate.number(), args))
    }

    fn extended(&mut self, slot: usize, command: u32, mfn: Mfn) -> i64 {
        let mut op = MmuextOp::new_zeroed();
        (op.cmd, op.arg1) = (command, mfn.get());
        let at = linear(ARGS);
        assert!(self.write(slot, 0, at, op.as_bytes()));
        let args = [at, 1, 0, SELF, 0];
        returned(self.call_whole(slot, 0, Hypercall::MmuextOp.number(), args))
    }

    fn map(&mut self, slot: usize, index: usize, entry: u64, flags: u64) -> i64 {
        let args = [linear(index), entry, flags, 0, 0];
        let number = Hypercall::UpdateVaMapping.number();
        returned(self.call_whole(slot, 0, number, args))
    }

    fn gdt(&mut self, slot: usize, mfn: Mfn) -> i64 {
        assert!(self.write(slot, 0, linear(ARGS), mfn.as_bytes()));
        let args = [linear(ARGS), 512, 0, 0, 0];
        returned(self.call_whole(slot, 0, Hypercall::SetGdt.number(), args))
    }

    fn frame(&self, slot: usize, index: usize) -> Mfn {
        self.players[slot].frames[index]
    }

    /// The machine address of an entry.
    fn at(&self, slot: usize, table: usize, index: u64) -> u64 {
        self.frame(slot, table).start().get() + index * 8
    }

    /// An entry that leads to a frame.
    fn to(&self, slot: usize, index: usize, flags: u64) -> u64 {
        self.players[slot].entry(index, flags | PRESENT | USER)
    }

    fn ty(&self, slot: usize, index: usize) -> Option<PageType> {
        match self.host.frames.type_state(self.frame(slot, index)) {
            Some(TypeState::InUse { ty, .. }) => Some(ty),
            _ => None,
        }
    }

    fn sound(&mut self) {
        self.check().unwrap();
    }
}
