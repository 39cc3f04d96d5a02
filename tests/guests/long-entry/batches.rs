//! Batches of calls, each of which is as long as it may be without a list of its own, or has one.

use dom0_abi::hypercalls::Hypercall;
use dom0_abi::memory::MemoryCommand;
use dom0_abi::xen::{MmuextCommand, UVMF_ALL, UVMF_INVLPG, UVMF_TLB_FLUSH};
use kit::Report;
use kit::frames::{mfn_of, take};
use kit::page_tables::{Lab, WRITABLE};

use crate::{INNER, SELF, batch, fill};

const MANY: usize = 500;

pub fn check(report: &mut Report) {
    let frames = take(2);
    mappings(report, frames);
    inner_lists(report, frames);
    let list = INNER[0].address();
    for (name, call, arguments, right) in [
        ("versions", Hypercall::XenVersion, [1, list, 0, 0, 0], 0),
        (
            "memory maps",
            Hypercall::MemoryOp,
            [MemoryCommand::SetMemoryMap as u64, list, 0, 0, 0],
            0,
        ),
        ("flags of the FPU", Hypercall::FpuTaskswitch, [0; 5], 0),
    ] {
        // For the memory map: the caller's domain, 128 entries, which lie at the list itself.
        fill(&INNER, [SELF, 128, list].into_iter());
        batch(report, name, MANY, Ok(right), |_| (call, arguments));
    }
}

/// Addresses that are mapped elsewhere, with flushes of all kinds.
fn mappings(report: &mut Report, frames: u64) {
    // The window of the kit is hung in by whoever was here first.
    let address = Lab::address(9);
    for (name, flags) in [
        (
            "mappings with a flush of all CPUs",
            UVMF_TLB_FLUSH | UVMF_ALL,
        ),
        ("mappings with a flush of a page", UVMF_INVLPG | UVMF_ALL),
    ] {
        batch(report, name, MANY, Ok(0), |index| {
            let entry = mfn_of(frames + index as u64 % 2) << 12 | WRITABLE;
            (Hypercall::UpdateVaMapping, [address, entry, flags, 0, 0])
        });
    }
}

/// Each call with a list of its own.
fn inner_lists(report: &mut Report, frames: u64) {
    const EACH: u64 = 40;
    for (name, command) in [
        ("batches of cleared pages", MmuextCommand::ClearPage),
        ("batches of copied pages", MmuextCommand::CopyPage),
        ("batches of flushed caches", MmuextCommand::FlushCache),
    ] {
        let words = (0..EACH).flat_map(|_| [command as u64, mfn_of(frames), mfn_of(frames + 1)]);
        let list = fill(&INNER, words);
        batch(report, name, MANY / 5, Ok(0), |_| {
            (Hypercall::MmuextOp, [list, EACH, 0, SELF, 0])
        });
    }
}
