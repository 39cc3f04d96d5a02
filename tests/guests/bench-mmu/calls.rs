//! Hypercalls that do next to nothing, flushes, and descriptors.

use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::DomId;
use dom0_abi::xen::{MmuextCommand, MmuextOp};
use guest_pv_drivers::hypercall;
use kit::descriptors::{FLAT_CODE64, FLAT_DATA};
use kit::memory;
use kit::page_tables::{self, operation, protect};

use crate::Bench;

/// One operation of `mmuext_op`.
pub fn extended(operation: &MmuextOp) -> u64 {
    let list = core::ptr::from_ref(operation).expose_provenance() as u64;
    let myself = u64::from(DomId::SELF.get());
    // SAFETY: the callers' operations change nothing that Rust knows of.
    unsafe { hypercall::raw(Hypercall::MmuextOp.number(), [list, 1, 0, myself, 0]) }
}

pub fn measure(bench: &mut Bench) {
    bench.row("hypercall-shortest", |_| {
        // SAFETY: this takes no pointer, and the flag is clear already.
        unsafe { hypercall::raw(Hypercall::FpuTaskswitch.number(), [0; 5]) }
    });
    bench.row("xen-version", |_| {
        // SAFETY: this command takes no pointer.
        unsafe { hypercall::raw(Hypercall::XenVersion.number(), [0; 5]) }
    });
    let invalidate = operation(MmuextCommand::InvlpgLocal, memory::image().0, 0);
    bench.row("invlpg-local", |_| extended(&invalidate));
    let flush = operation(MmuextCommand::TlbFlushLocal, 0, 0);
    bench.row("tlb-flush-local", |_| extended(&flush));
    descriptors(bench);
}

fn descriptors(bench: &mut Bench) {
    let pages = [page_tables::page(), page_tables::page()];
    for page in pages {
        page.set_word(1, FLAT_DATA);
        page.set_word(511, FLAT_CODE64);
        if protect(page).is_err() {
            bench.report.skip("descriptors", "no page is read-only");
            return;
        }
    }
    let frames = pages.map(|page| page.mfn());
    let set = |index: usize| {
        let list = frames[index..].as_ptr().expose_provenance() as u64;
        // SAFETY: the guest uses no selector of its own.
        unsafe { hypercall::raw(Hypercall::SetGdt.number(), [list, 512, 0, 0, 0]) }
    };
    bench.row("set-gdt-same", |_| set(0));
    bench.row("set-gdt-other", |index| set(index as usize & 1));
    let place = pages[0].machine() + 24;
    bench.row("update-descriptor", |index| {
        let descriptor = if index & 1 == 0 {
            FLAT_DATA
        } else {
            FLAT_CODE64
        };
        // SAFETY: as above.
        unsafe {
            hypercall::raw(
                Hypercall::UpdateDescriptor.number(),
                [place, descriptor, 0, 0, 0],
            )
        }
    });
    // SAFETY: as above.
    unsafe { hypercall::raw(Hypercall::SetGdt.number(), [0; 5]) };
}
