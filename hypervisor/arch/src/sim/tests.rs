//! Tests of the model itself.

use std::vec::Vec;

use dom0_abi::addr::{Maddr, Mfn};

use super::*;
use crate::boot::{CpuId, MfnRange};

mod interrupt_tests;
mod machine_tests;
mod memory_tests;
mod segment_tests;
// Walks and flushes are plain safe code on one thread: slow to interpret, and an interpreter sees nothing new there.
#[cfg(not(miri))]
mod paging;

const MIB: u64 = 1 << 20;

fn range(start: u64, end: u64) -> MfnRange {
    MfnRange::new(Mfn::new(start), Mfn::new(end))
}
