//! What `memory_op` tells about memory, and the commands that are not for paravirtual guests.
//!
//! Every command number is tried, with each kind of bad pointer and with progress that nothing has made (the bits above
//! the command): a guest chooses both. The frames of the machine-to-physical table are the one piece of the hypervisor's
//! memory that a guest may map, and it may only read them.
#![no_std]
#![no_main]
// UNSAFETY: hypercalls with bare arguments.
#![allow(unsafe_code)]

mod commands;
mod machine;
mod others;

use core::ptr;

use dom0_abi::addr::GuestAddr;
use dom0_abi::errno::Errno;
use dom0_abi::handle::GuestHandle;
use dom0_abi::ids::DomId;
use guest_pv_drivers::hypercall::memory::memory_op;
use kit::Report;

kit::guest!("memory-queries", main);

fn main(report: &mut Report) {
    machine::check(report);
    commands::check(report);
    others::check(report);
}

/// Domains that do not exist, as far as `memory_op` is concerned.
const NOBODY: [DomId; 7] = [
    DomId::new(1),
    DomId::IO,
    DomId::XEN,
    DomId::COW,
    DomId::INVALID,
    DomId::IDLE,
    DomId::new(0xffff),
];

/// A command with its argument. None of this guest's calls changes which frames it has.
fn call<T>(command: u64, argument: &mut T) -> Result<u64, Errno> {
    // SAFETY: the callers hand over the structure that the command takes, or more.
    unsafe { memory_op(command, ptr::from_mut(argument) as u64) }
}

/// A list at an address.
const fn at<T>(address: u64) -> GuestHandle<T> {
    GuestHandle::new(GuestAddr::new(address))
}
