//! `memory_op(exchange)`: frames given for others of another size or at lower addresses.
//!
//! The call takes frames apart and puts others together, half of it may fail, and the guest chooses both lists, their
//! lengths, and how far it says the call has come. Twice that was enough to make a hypervisor write where it should not.
//! Here each way to fail must leave frames, accounts and tables as they were, up to the last whole step.
#![no_std]
#![no_main]
// UNSAFETY: frames of the guest go and come.
#![allow(unsafe_code)]

mod failures;
mod places;
mod shapes;
mod works;

use dom0_abi::addr::GuestAddr;
use dom0_abi::errno::Errno;
use dom0_abi::handle::GuestHandle;
use dom0_abi::ids::DomId;
use dom0_abi::memory::{MemoryExchange, MemoryReservation};
use guest_pv_drivers::hypercall::memory::{self, reservation};
use kit::Report;
use kit::frames::{Window, mfn_of, set_mfn, take};
use kit::memory::machine_to_physical;

kit::guest!("memory-exchange", main);

type Answer = Result<u64, Errno>;

static WINDOW: Window = Window::new();

fn main(report: &mut Report) {
    works::check(report);
    failures::check(report);
    places::check(report);
    shapes::check(report);
}

/// One side of an exchange: so many extents, listed at an address.
fn side(address: u64, count: u64, order: u32) -> MemoryReservation {
    MemoryReservation {
        extent_start: GuestHandle::new(GuestAddr::new(address)),
        nr_extents: count,
        ..reservation(&mut [], order, 0)
    }
}

/// Where a list is.
fn address_of(list: &mut [u64]) -> u64 {
    memory::list(list).addr().get()
}

/// Makes an exchange of which so many extents are said to be done; returns the answer and how many are then.
fn exchange(input: MemoryReservation, output: MemoryReservation, done: u64) -> (Answer, u64) {
    let mut argument = MemoryExchange {
        input,
        output,
        nr_exchanged: done,
    };
    // SAFETY: the frames are of `frames::take`, which nothing of Rust's is in, or none that the hypervisor may let go;
    // the lists are arrays of the checks, or where Rust has nothing.
    let answer = unsafe { memory::exchange(&mut argument) };
    (answer, argument.nr_exchanged)
}

/// How many pages the domain has.
fn pages() -> u64 {
    memory::current_reservation(DomId::SELF).expect("a domain can ask for its own pages")
}

/// Frames of the guest with their pfns, `N` of each in a row.
struct Frames<const N: usize> {
    pfns: [u64; N],
    mfns: [u64; N],
}

impl<const N: usize> Frames<N> {
    fn new() -> Self {
        let first = take(N as u64);
        let pfns = core::array::from_fn(|index| first + index as u64);
        Self {
            pfns,
            mfns: pfns.map(mfn_of),
        }
    }

    /// Whether each frame is the guest's and has its pfn in the machine-to-physical table.
    fn are_there(&self) -> bool {
        let told = self
            .pfns
            .iter()
            .zip(&self.mfns)
            .all(|(&pfn, &mfn)| machine_to_physical(mfn) == Some(pfn));
        let own = self
            .mfns
            .iter()
            .all(|&mfn| WINDOW.set(kit::frames::writable(mfn)).is_ok());
        WINDOW.close();
        told && own
    }

    /// Notes what the frames are now.
    fn note(&mut self, mfns: [u64; N]) {
        self.mfns = mfns;
        for (&pfn, &mfn) in self.pfns.iter().zip(&mfns) {
            set_mfn(pfn, mfn);
        }
    }
}

/// The frames of an extent.
fn run<const N: usize>(first: u64) -> [u64; N] {
    core::array::from_fn(|index| first + index as u64)
}
