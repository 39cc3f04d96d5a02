//! Frames that cannot be given, at each position of a list: what was taken before comes back.

use dom0_abi::errno::Errno;
use guest_pv_drivers::hypercall::memory::{self, reservation};
use kit::frames::{Window, readable, writable};
use kit::memory::PAGE;
use kit::page_tables::{self, Table};
use kit::{Report, start_info};

use crate::{Frames, exchange, pages, run};

static HOLDER: Window = Window::new();

pub fn check(report: &mut Report) {
    let table = memory::maximum_ram_page().unwrap_or(0);
    let mut machphys = [0];
    memory::machphys_mfn_list(&mut machphys).expect("dom0 may ask for the table's frames");

    let held = Frames::<1>::new();
    let page = page_tables::page();
    page_tables::protect(page).expect("an own page can be mapped read-only");
    page_tables::pin(1, page.mfn()).expect("a page of zeroes is a table");
    page_tables::unmap(page).expect("an own page can be unmapped");

    HOLDER
        .set(writable(held.mfns[0]))
        .expect("an own frame can be mapped");
    bad(report, "mapped to be written", held.mfns[0]);
    HOLDER
        .set(readable(held.mfns[0]))
        .expect("an own frame can be mapped");
    bad(report, "mapped to be read", held.mfns[0]);
    HOLDER.close();
    for (name, mfn) in [
        ("the root", Table::boot_root().mfn),
        ("a pinned table", page.mfn()),
        ("the shared info page", start_info().shared_info / PAGE),
        ("the machine-to-physical table's", machphys[0]),
        ("frame 0", 0),
        ("a device's", 0xf_ec00),
        ("behind the end of RAM", table + 1),
        ("far away", 1 << 40),
        ("the last number", u64::MAX),
    ] {
        bad(report, name, mfn);
    }
    // It was in use in none of these, and can be given at last.
    report.check("the frame that was mapped", held.are_there(), "missing");

    twice(report);
    no_memory(report);
}

/// A bad frame alone, and behind good ones.
fn bad(report: &mut Report, name: &str, mfn: u64) {
    let before = pages();
    let mut got = [1 << 20];
    let seen = exchange(
        reservation(&mut [mfn], 0, 0),
        reservation(&mut got, 0, 0),
        0,
    );
    report.equal(
        format_args!("{name}"),
        (seen, got, pages()),
        ((Err(Errno::EINVAL), 0), [1 << 20], before),
    );

    // In one step of four: nothing of it is done, wherever the bad one stands.
    for place in 0..4 {
        let frames = Frames::<4>::new();
        let mut given = frames.mfns;
        given[place] = mfn;
        let mut got = [frames.pfns[0]];
        let seen = exchange(
            reservation(&mut given, 0, 0),
            reservation(&mut got, 2, 0),
            0,
        );
        report.equal(
            format_args!("{name}: in place {place} of a step"),
            (seen, got[0], pages()),
            ((Err(Errno::EINVAL), 0), frames.pfns[0], before),
        );
        report.check(
            format_args!("{name}: in place {place} of a step: frames"),
            frames.are_there(),
            "missing",
        );
    }

    // In steps of one: what came before is done.
    let mut frames = Frames::<4>::new();
    let mut given = frames.mfns;
    given[2] = mfn;
    let mut got = frames.pfns;
    let seen = exchange(
        reservation(&mut given, 0, 0),
        reservation(&mut got, 0, 0),
        0,
    );
    report.equal(
        format_args!("{name}: in the third step"),
        (seen, [got[2], got[3]], pages()),
        (
            (Err(Errno::EINVAL), 2),
            [frames.pfns[2], frames.pfns[3]],
            before,
        ),
    );
    let now = [got[0], got[1], frames.mfns[2], frames.mfns[3]];
    let other = now[0] != frames.mfns[0] && now[1] != frames.mfns[1];
    frames.note(now);
    report.check(
        format_args!("{name}: in the third step: frames"),
        frames.are_there() && other,
        "missing",
    );
}

fn twice(report: &mut Report) {
    let before = pages();
    let frames = Frames::<1>::new();
    let [mfn] = frames.mfns;
    let mut got = [frames.pfns[0]];
    let seen = exchange(
        reservation(&mut [mfn, mfn], 0, 0),
        reservation(&mut got, 1, 0),
        0,
    );
    report.equal(
        "twice in one step",
        (seen, got, pages()),
        ((Err(Errno::EINVAL), 0), frames.pfns, before),
    );
    report.check("twice in one step: frames", frames.are_there(), "missing");

    let mut frames = Frames::<2>::new();
    let [mfn, other] = frames.mfns;
    let mut got = frames.pfns;
    let seen = exchange(
        reservation(&mut [mfn, mfn], 0, 0),
        reservation(&mut got, 0, 0),
        0,
    );
    report.equal(
        "twice in two steps",
        (seen, got[1], pages()),
        ((Err(Errno::EINVAL), 1), frames.pfns[1], before),
    );
    frames.note([got[0], other]);
    report.check("twice in two steps: frames", frames.are_there(), "missing");

    // One extent over the frames of the other.
    let mut frames = Frames::<4>::new();
    let mut got = [frames.pfns[0]];
    let seen = exchange(
        reservation(&mut { frames.mfns }, 0, 0),
        reservation(&mut got, 2, 0),
        0,
    );
    report.equal("four in a row", seen, (Ok(0), 4));
    frames.note(run(got[0]));
    let first = got[0];
    let mut got = [frames.pfns[0]];
    let seen = exchange(
        reservation(&mut [first, first + 1], 1, 0),
        reservation(&mut got, 2, 0),
        0,
    );
    report.equal(
        "extents that overlap",
        (seen, got[0], pages()),
        ((Err(Errno::EINVAL), 0), frames.pfns[0], before),
    );
    report.check(
        "extents that overlap: frames",
        frames.are_there(),
        "missing",
    );
}

/// What is wanted does not exist: the frames come back with their content.
fn no_memory(report: &mut Report) {
    let before = pages();
    let frames = Frames::<4>::new();
    HOLDER
        .set(writable(frames.mfns[3]))
        .expect("an own frame can be mapped");
    HOLDER.write(5, 0x1234);
    HOLDER.close();
    for bits in [1, 12] {
        let mut got = [frames.pfns[0]];
        let seen = exchange(
            reservation(&mut { frames.mfns }, 0, 0),
            reservation(&mut got, 2, bits),
            0,
        );
        report.equal(
            format_args!("{bits} address bits, of which there is no memory"),
            (seen, got[0], pages()),
            ((Err(Errno::ENOMEM), 0), frames.pfns[0], before),
        );
        report.check(
            format_args!("{bits} address bits, of which there is no memory: frames"),
            frames.are_there(),
            "missing",
        );
    }
    HOLDER
        .set(readable(frames.mfns[3]))
        .expect("an own frame can be mapped");
    report.equal("no memory: content", HOLDER.read(5), 0x1234);
    HOLDER.close();
}
