//! Through the same entry as a guest's: results, pages, frames, and the auditor's opinion.

use dom0_abi::addr::{GuestAddr, Mfn, Pfn};
use dom0_abi::errno::Errno;
use dom0_abi::handle::GuestHandle;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::DomId;
use dom0_abi::memory::{CONTINUATION_SHIFT, MemoryCommand, MemoryReservation};
use oxen_arch::sync::atomic::Ordering;
use zerocopy::{FromZeros, Immutable, IntoBytes};

use crate::audit::{Tally, audit};
use crate::budget::Budget;
use crate::frame::RESERVE;
use crate::page_type::TypeRef;
use crate::testing::{DATA, DATA_END, Guest, HOSTILE, READ_ONLY, failure};
use crate::trap::return_path::Next;

mod exchange;
mod queries;
mod random;
mod reservation;

/// Where arguments are.
const ARGUMENT: u64 = DATA;
/// Where lists are.
const LIST: u64 = DATA + 0x1000;
const OTHER_LIST: u64 = DATA + 0x2000;

/// A guest that may have 3000 pages.
fn guest() -> Guest {
    limited(Guest::dom0())
}

fn limited(guest: Guest) -> Guest {
    guest.domain(|domain| domain.memory.limit.store(3000, Ordering::Relaxed));
    guest
}

impl Guest {
    /// Makes a call to its end; returns its result and how many times it gave way.
    fn memory_op(&mut self, command: u64, arg: u64) -> (i64, u32) {
        let rip = self.regs.rip;
        self.regs.rax = Hypercall::MemoryOp.number();
        (self.regs.rdi, self.regs.rsi) = (command, arg);
        for times in 0..100_000 {
            assert_eq!(self.syscall(), Next::Guest);
            if self.regs.rip == rip {
                return (self.regs.rax as i64, times);
            }
            assert_eq!(self.regs.rip, rip - 2);
            assert_eq!(self.regs.rax, Hypercall::MemoryOp.number());
            self.regs.rip = rip;
            self.host.machine.agitate();
        }
        panic!("it goes on for ever")
    }

    /// A call with an argument that is put into memory.
    fn ask<T: IntoBytes + Immutable>(&mut self, command: MemoryCommand, argument: &T) -> i64 {
        self.put(ARGUMENT, argument);
        self.memory_op(command as u64, ARGUMENT).0
    }

    fn list<const N: usize>(&self, at: u64) -> [u64; N] {
        std::array::from_fn(|index| self.get(at + index as u64 * 8))
    }

    fn pages(&self) -> u64 {
        self.domain(|domain| domain.nr_pages(&self.host.frames))
    }

    fn free(&self) -> u64 {
        self.host.frames.statistics().free
    }

    fn pfn(&self, mfn: u64) -> Option<u64> {
        self.host.machine.m2p().get(Mfn::new(mfn)).map(Pfn::get)
    }

    fn is_own(&self, mfn: u64) -> bool {
        self.host.frames.is_of(Mfn::new(mfn), self.domid)
    }

    fn soil(&self, mfn: u64) {
        self.host
            .mem()
            .write_bytes(Mfn::new(mfn).start(), &[0xa5; 4096])
            .unwrap();
    }

    fn is_zero(&self, mfn: u64) -> bool {
        let mut bytes = [1; 4096];
        self.host
            .mem()
            .read_bytes(Mfn::new(mfn).start(), &mut bytes)
            .unwrap();
        bytes == [0; 4096]
    }

    /// Nothing contradicts anything.
    fn audit(&self) {
        let end = self.host.frames.end().get() as usize;
        let mut tallies = vec![Tally::NONE; end];
        audit(&self.host, &mut tallies, &mut |finding| {
            panic!("{finding:?}")
        })
        .unwrap();
    }
}

/// A reservation of the caller's, with a list at [`LIST`].
fn reservation(count: u64, order: u32) -> MemoryReservation {
    MemoryReservation {
        extent_start: GuestHandle::new(GuestAddr::new(LIST)),
        nr_extents: count,
        extent_order: order,
        domid: DomId::SELF,
        ..MemoryReservation::new_zeroed()
    }
}

fn at<T>(address: u64) -> GuestHandle<T> {
    GuestHandle::new(GuestAddr::new(address))
}
