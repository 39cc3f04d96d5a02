//! How the form is chosen, how it grows, and what it leaves.

use core::sync::atomic::Ordering;

use dom0_abi::errno::Errno;
use dom0_abi::ids::{Port, VcpuId};
use guest_pv_drivers::hypercall::events;
use kit::Report;
use kit::memory::Page;
use kit::page_tables::Table;

use crate::VCPU;
use crate::kernel::{Found, Kernel, LINKED, MASKED, OFFSET, PAGES, PENDING, PER_PAGE};

/// A page that is never given.
static OTHER: Page = Page::new();

/// What is refused, and that nothing of it chooses the form.
pub fn before(report: &mut Report, kernel: &Kernel) {
    let frame = kernel.control_frame();
    let port = events::bind_ipi(VCPU).unwrap_or_default();
    report.equal(
        "words without a control block",
        events::expand_array(kernel.words_frame(0)),
        Err(Errno::EOPNOTSUPP),
    );
    report.equal(
        "a priority in the two-level form",
        events::set_priority(port, 3),
        Err(Errno::ENOSYS),
    );
    for offset in [1, 4, 4096 - 71, 4096 - 64, 4096, 1 << 31, u32::MAX] {
        report.equal(
            format_args!("a control block at {offset:#x}"),
            events::init_control(VCPU, frame, offset),
            Err(Errno::EINVAL),
        );
    }
    for vcpu in [1, 127, 128, 1 << 20, u32::MAX] {
        report.equal(
            format_args!("a control block of vCPU {vcpu}"),
            events::init_control(VcpuId::new(vcpu), frame, 0),
            Err(Errno::ENOENT),
        );
    }
    let boot_root = Table::boot_root().mfn;
    for (what, frame) in [
        ("a root", boot_root),
        ("no frame", 1 << 39),
        ("no frame at all", u64::MAX),
    ] {
        report.equal(
            format_args!("a control block in {what}"),
            events::init_control(VCPU, frame, 0),
            Err(Errno::EINVAL),
        );
    }
    report.equal("send", events::send(port), Ok(()));
    report.equal(
        "it is the two-level form still",
        kernel.take_two_level(port),
        true,
    );
}

/// The form is chosen while events are pending, and more come before there are words for them.
pub fn switch(report: &mut Report, kernel: &mut Kernel) {
    for number in 1..=6 {
        report.equal("a port", events::bind_ipi(VCPU), Ok(Port::new(number)));
    }
    let [pending, quiet, early] = [2, 3, 5].map(Port::new);
    report.equal("send", events::send(pending), Ok(()));
    report.equal(
        "the control block",
        events::init_control(VCPU, kernel.control_frame(), OFFSET),
        Ok(17),
    );
    report.equal(
        "another control block",
        events::init_control(VCPU, OTHER.mfn(), 0),
        Err(Errno::EINVAL),
    );
    report.equal("send without words", events::send(early), Ok(()));
    report.equal("and again", events::send(early), Ok(()));
    kernel.upcall().store(0, Ordering::SeqCst);
    report.equal("unmask without words", events::unmask(quiet), Ok(()));
    report.equal("nothing is ready", kernel.ready().load(Ordering::SeqCst), 0);
    report.equal(
        "words in a root",
        events::expand_array(Table::boot_root().mfn),
        Err(Errno::EINVAL),
    );
    report.equal("words", events::expand_array(kernel.words_frame(0)), Ok(()));
    report.equal(
        "what is ready",
        kernel.ready().load(Ordering::SeqCst),
        1 << 7,
    );
    report.equal("told", kernel.upcall().load(Ordering::SeqCst), 1);
    report.equal(
        "what came before the words",
        kernel.drain(),
        Found::of(&[pending.get(), early.get()]),
    );
    kernel.take_two_level(pending);
    kernel.take_two_level(early);
}

/// Ports that the two-level form does not have.
pub fn many(report: &mut Report, kernel: &mut Kernel) {
    let mut last = Port::new(0);
    let highest = PAGES as u32 * PER_PAGE - 1;
    while last.get() < highest {
        match events::bind_ipi(VCPU) {
            Ok(port) => last = port,
            Err(error) => return report.equal("one more port", Err(error), Ok(last)),
        }
    }
    report.equal("the last port", last.get(), highest);
    for port in [4095, 4096, highest] {
        report.equal(
            format_args!("send to {port} without words"),
            events::send(Port::new(port)),
            Ok(()),
        );
    }
    for page in 1..PAGES {
        report.equal(
            format_args!("page {page} of words"),
            events::expand_array(kernel.words_frame(page)),
            Ok(()),
        );
    }
    report.equal(
        "what came before the words",
        kernel.drain(),
        Found::of(&[4095, 4096, highest]),
    );
    for port in [highest, 1, 4096, 2047, 2048] {
        report.equal(
            format_args!("send to {port}"),
            events::send(Port::new(port)),
            Ok(()),
        );
    }
    report.equal(
        "far ports",
        kernel.drain(),
        Found::of(&[highest, 1, 4096, 2047, 2048]),
    );
    // To the last: all of them one page that the guest never looks at.
    for page in PAGES..128 {
        let added = events::expand_array(OTHER.mfn());
        if added != Ok(()) {
            report.equal(format_args!("page {page} of words"), added, Ok(()));
        }
    }
    report.equal(
        "one page too many",
        events::expand_array(OTHER.mfn()),
        Err(Errno::ENOSPC),
    );
    let port = Port::new(2000);
    kernel.mask(port);
    report.equal("left pending", events::send(port), Ok(()));
    report.equal("left in a queue", events::send(Port::new(7)), Ok(()));
}

/// After a reset the two-level form is there again, and the other one can be chosen anew.
pub fn again(report: &mut Report, kernel: &mut Kernel) {
    let was = kernel.bits(Port::new(2000));
    report.equal("what was left", was & !PENDING, MASKED);
    report.equal(
        "words behind the reset",
        events::expand_array(kernel.words_frame(0)),
        Err(Errno::EOPNOTSUPP),
    );
    let first = Port::new(1);
    report.equal("the first port", events::bind_ipi(VCPU), Ok(first));
    report.equal("send", events::send(first), Ok(()));
    report.equal(
        "it is the two-level form",
        kernel.take_two_level(first),
        true,
    );
    report.equal(
        "the word is left alone",
        kernel.bits(first) & (PENDING | LINKED),
        0,
    );
    kernel.forget();
    kernel.upcall().store(0, Ordering::SeqCst);
    report.equal(
        "the control block anew",
        events::init_control(VCPU, kernel.control_frame(), OFFSET),
        Ok(17),
    );
    report.equal(
        "words anew",
        events::expand_array(kernel.words_frame(0)),
        Ok(()),
    );
    // Xen lets arrive once more what came before the words of the first time.
    kernel.drain();
    report.equal("send", events::send(first), Ok(()));
    report.equal("it arrives", kernel.drain(), Found::of(&[1]));
}
