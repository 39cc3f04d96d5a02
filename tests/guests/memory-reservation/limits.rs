//! All the memory there is, or all that the domain may have.

use dom0_abi::ids::DomId;
use guest_pv_drivers::hypercall::memory::{self, reservation};
use kit::frames::{Window, mfn_of, set_mfn, take, writable};
use kit::{Report, println};

use crate::{decrease, increase, is_clean, pages, populate, soil};

static WINDOW: Window = Window::new();

/// Extents of one call: so many that the hypervisor has to interrupt itself.
const BATCH: usize = 4096;
/// Frames whose content must not come back.
const DIRTY: usize = 256;

pub fn check(report: &mut Report) {
    let before = pages();
    let limit = memory::maximum_reservation(DomId::SELF).expect("a domain can ask for its limit");
    let first = take(DIRTY as u64);
    let mut dirty = [0; DIRTY];
    for (pfn, mfn) in (first..).zip(&mut dirty) {
        *mfn = mfn_of(pfn);
        WINDOW
            .set(writable(*mfn))
            .expect("an own frame can be mapped");
        soil(&WINDOW);
    }
    WINDOW.close();
    report.equal(
        "decrease: frames with content",
        decrease(reservation(&mut dirty, 0, 0)),
        Ok(DIRTY as u64),
    );

    // The lists stay in the guest's own frames: the pfns of each batch are those of the batch before.
    let mut taken = 0;
    let mut seen_again = 0;
    let mut clean = true;
    // Where the first extent of each batch is.
    let mut heads = [0; 64];
    let mut batches = 0;
    static LIST: [[kit::memory::Page; 8]; 64] =
        [const { [const { kit::memory::Page::new() }; 8] }; 64];
    while let Some(pages_of_list) = LIST.get(batches) {
        let start = pages_of_list[0].address();
        let list = core::ptr::with_exposed_provenance_mut::<u64>(start as usize);
        // SAFETY: eight pages in a row that only this loop uses, once each.
        let list = unsafe { core::slice::from_raw_parts_mut(list, BATCH) };
        list.fill(1 << 20);
        let done = populate(reservation(list, 0, 0)).expect("populate tells a count");
        for &mfn in list.iter().take(done as usize) {
            if dirty.contains(&mfn) {
                seen_again += 1;
                clean &= WINDOW.set(writable(mfn)).is_ok() && is_clean(&WINDOW);
            }
        }
        WINDOW.close();
        heads[batches] = done;
        batches += 1;
        taken += done;
        if done < BATCH as u64 {
            break;
        }
    }
    println!("{taken} frames in {batches} calls, {seen_again} of {DIRTY} seen again");
    report.check(
        "populate: all there is: came to an end",
        batches < 64,
        "no end",
    );
    report.equal(
        "populate: all there is: pages",
        pages(),
        before - DIRTY as u64 + taken,
    );
    report.check(
        "populate: all there is: within the limit",
        pages() <= limit,
        limit,
    );
    report.check(
        "populate: all there is: frames come again",
        seen_again > 0,
        "none",
    );
    report.check("populate: all there is: content", clean, "something else");
    report.equal(
        "nothing is left",
        [
            populate(reservation(&mut [1 << 20], 0, 0)),
            increase(reservation(&mut [0], 0, 0)),
            increase(reservation(&mut [0], 9, 0)),
        ],
        [Ok(0); 3],
    );
    if limit < u64::from(u32::MAX) {
        report.equal("the limit was reached", pages(), limit);
    }

    // One extent too many for what is left.
    let mut last = [0];
    for (pages_of_list, done) in LIST.iter().zip(heads) {
        let list =
            core::ptr::with_exposed_provenance_mut::<u64>(pages_of_list[0].address() as usize);
        // SAFETY: as above; the slice of that loop is gone.
        let list = unsafe { core::slice::from_raw_parts_mut(list, done as usize) };
        if last == [0] && !list.is_empty() {
            last = [list[0]];
            report.equal(
                "one frame is given back",
                decrease(reservation(&mut last, 0, 0)),
                Ok(1),
            );
            report.equal(
                "two do not fit",
                increase(reservation(&mut [0], 1, 0)),
                Ok(0),
            );
            report.equal(
                "of two in a row, one fits",
                increase(reservation(&mut [0; 2], 0, 0)),
                Ok(1),
            );
            // That one is lost: it took the place of the one given back.
            let rest = &mut list[1..];
            let right = rest.len() as u64;
            report.equal(
                "decrease: a batch",
                decrease(reservation(rest, 0, 0)),
                Ok(right),
            );
        } else if !list.is_empty() {
            report.equal(
                "decrease: a batch",
                decrease(reservation(list, 0, 0)),
                Ok(done),
            );
        }
    }
    let mut list = [0; DIRTY];
    for (pfn, entry) in (first..).zip(&mut list) {
        *entry = pfn;
    }
    report.equal(
        "populate: what was given",
        populate(reservation(&mut list, 0, 0)),
        Ok(DIRTY as u64),
    );
    for (pfn, mfn) in (first..).zip(list) {
        set_mfn(pfn, mfn);
    }
    report.equal("pages at the end", pages(), before + 1);
}
