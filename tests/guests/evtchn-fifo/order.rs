//! Pending, masked, linked: what comes in which order, and who is told when.

use core::sync::atomic::{AtomicU32, Ordering};

use dom0_abi::callback::{CallbackRegister, CallbackType};
use dom0_abi::errno::Errno;
use dom0_abi::ids::{DomId, Port};
use guest_pv_drivers::hypercall::{self, events};
use kit::Report;
use kit::trap::{self, Context};

use crate::VCPU;
use crate::kernel::{Found, Kernel, LINK, LINKED, MASKED, PENDING};

pub fn check(report: &mut Report, kernel: &mut Kernel) {
    for number in 7..=12 {
        report.equal("a port", events::bind_ipi(VCPU), Ok(Port::new(number)));
    }
    words(report, kernel);
    masks(report, kernel);
    priorities(report, kernel);
    closed(report, kernel);
    connected(report, kernel);
    polls(report, kernel);
    upcall(report, kernel);
}

fn send(report: &mut Report, ports: &[u32]) {
    for &port in ports {
        let port = Port::new(port);
        report.equal(format_args!("{port:?}: send"), events::send(port), Ok(()));
    }
}

/// What is in the words of a queue, and in the control block.
fn words(report: &mut Report, kernel: &mut Kernel) {
    let [first, second, third] = [7, 8, 9].map(Port::new);
    send(report, &[7]);
    report.equal(
        "told of the first",
        kernel.upcall().swap(0, Ordering::SeqCst),
        1,
    );
    report.equal("the first", kernel.bits(first), PENDING | LINKED);
    send(report, &[8, 9, 8]);
    report.equal(
        "not told of the others",
        kernel.upcall().load(Ordering::SeqCst),
        0,
    );
    report.equal(
        "the first, followed",
        kernel.bits(first),
        PENDING | LINKED | 8,
    );
    report.equal(
        "the second, followed",
        kernel.bits(second),
        PENDING | LINKED | 9,
    );
    report.equal("the third", kernel.bits(third), PENDING | LINKED);
    report.equal("all three", kernel.drain(), Found::of(&[7, 8, 9]));
    report.equal("nothing is left", kernel.bits(second), 0);
    // The queue ends with the third: it begins anew.
    send(report, &[9, 7]);
    report.equal("again", kernel.drain(), Found::of(&[9, 7]));
    // Pending already, not masked, and in no queue: it is put into one.
    kernel.word(first).fetch_or(PENDING, Ordering::SeqCst);
    send(report, &[7]);
    report.equal("pending by hand", kernel.drain(), Found::of(&[7]));
    // In a queue already: for all that anybody knows.
    kernel.word(first).fetch_or(LINKED, Ordering::SeqCst);
    send(report, &[7]);
    report.equal("linked by hand", kernel.drain(), Found::of(&[]));
    report.equal("pending alone", kernel.bits(first), PENDING | LINKED);
    kernel.word(first).store(0, Ordering::SeqCst);
}

fn masks(report: &mut Report, kernel: &mut Kernel) {
    let port = Port::new(10);
    kernel.mask(port);
    send(report, &[10, 10]);
    report.equal("masked", kernel.bits(port), PENDING | MASKED);
    report.equal("nobody is told", kernel.upcall().load(Ordering::SeqCst), 0);
    report.equal("unmask", events::unmask(port), Ok(()));
    report.equal("in a queue", kernel.bits(port), PENDING | LINKED);
    report.equal("unmask again", events::unmask(port), Ok(()));
    report.equal("once", kernel.drain(), Found::of(&[10]));
    kernel.mask(port);
    report.equal("unmask, quiet", events::unmask(port), Ok(()));
    report.equal("nothing", kernel.bits(port), 0);
    // Masked while it waits: taken out, and put in again when it is unmasked.
    send(report, &[10, 11]);
    kernel.mask(port);
    report.equal("the other one", kernel.drain(), Found::of(&[11]));
    report.equal("still pending", kernel.bits(port), PENDING | MASKED);
    report.equal("unmask late", events::unmask(port), Ok(()));
    report.equal("late", kernel.drain(), Found::of(&[10]));
}

fn priorities(report: &mut Report, kernel: &mut Kernel) {
    for (port, priority) in [(7, 15), (8, 0), (9, 3), (10, 3)] {
        report.equal(
            format_args!("port {port} to {priority}"),
            events::set_priority(Port::new(port), priority),
            Ok(()),
        );
    }
    for priority in [16, 17, 1 << 31, u32::MAX] {
        report.equal(
            format_args!("port 11 to {priority}"),
            events::set_priority(Port::new(11), priority),
            Err(Errno::EINVAL),
        );
    }
    for port in [4000, 1 << 17, u32::MAX] {
        report.equal(
            format_args!("port {port} to 1"),
            events::set_priority(Port::new(port), 1),
            Err(Errno::EINVAL),
        );
    }
    send(report, &[7, 12, 10, 9, 8, 11]);
    report.equal(
        "what is ready",
        kernel.ready().load(Ordering::SeqCst),
        1 << 0 | 1 << 3 | 1 << 7 | 1 << 15,
    );
    report.equal(
        "by priority, then in order",
        kernel.drain(),
        Found::of(&[8, 10, 9, 12, 11, 7]),
    );
    // What waits stays where it is; the next time it is elsewhere, and nothing follows it here.
    send(report, &[9, 10]);
    report.equal(
        "port 10 to 15",
        events::set_priority(Port::new(10), 15),
        Ok(()),
    );
    send(report, &[12]);
    report.equal("as it was", kernel.drain(), Found::of(&[9, 10, 12]));
    send(report, &[7, 10, 9, 12]);
    report.equal("port 7, then 10", kernel.bits(Port::new(7)) & LINK, 10);
    report.equal("as it is", kernel.drain(), Found::of(&[9, 12, 7, 10]));
}

/// A port that is closed while it waits is no event, and its number is nobody's before it is taken out.
fn closed(report: &mut Report, kernel: &mut Kernel) {
    let port = Port::new(8);
    send(report, &[8, 11]);
    report.equal("close", events::close(port), Ok(()));
    report.equal("in its queue still", kernel.bits(port), LINKED);
    report.equal("another number", events::bind_ipi(VCPU), Ok(Port::new(13)));
    report.equal("the other one", kernel.drain(), Found::of(&[11]));
    report.equal("the number again", events::bind_ipi(VCPU), Ok(port));
    report.equal("quiet", kernel.bits(port), 0);
    send(report, &[11, 8]);
    report.equal(
        "with the priority of a new one",
        kernel.drain(),
        Found::of(&[11, 8]),
    );
    let free = Port::new(1500);
    report.equal(
        "a port that is none",
        events::send(free),
        Err(Errno::EINVAL),
    );
}

/// Between two ports of the same domain.
fn connected(report: &mut Report, kernel: &mut Kernel) {
    let offered = events::alloc_unbound(DomId::SELF, DomId::SELF).unwrap_or_default();
    report.equal("send to nobody", events::send(offered), Ok(()));
    report.equal("nothing", kernel.bits(offered), 0);
    let port = events::bind_interdomain(DomId::SELF, offered).unwrap_or_default();
    report.equal("connected", (offered.get(), port.get()), (14, 15));
    report.equal("pending from the first", kernel.drain(), Found::of(&[15]));
    send(report, &[15, 14]);
    report.equal("both ways", kernel.drain(), Found::of(&[14, 15]));
}

fn polls(report: &mut Report, kernel: &mut Kernel) {
    let port = Port::new(12);
    kernel.mask(port);
    send(report, &[12]);
    report.equal("poll", events::poll(&[port], 0), Ok(()));
    report.equal("poll two", events::poll(&[Port::new(11), port], 0), Ok(()));
    kernel.word(port).store(0, Ordering::SeqCst);
    kernel.drain();
}

static UPCALLS: AtomicU32 = AtomicU32::new(0);

/// The vector whose stub is the event callback here.
const VECTOR: u8 = 0x80;

fn on_upcall(context: &mut Context) -> bool {
    let is_ours = context.trap.vector == VECTOR;
    if is_ours {
        UPCALLS.fetch_add(1, Ordering::Relaxed);
        // Until the byte is clear it would come again.
        if let Ok(kernel) = Kernel::new() {
            kernel.upcall().store(0, Ordering::SeqCst);
        }
    }
    is_ours
}

/// The kernel is entered when a queue begins, and not for what follows in it.
fn upcall(report: &mut Report, kernel: &mut Kernel) {
    let callback = CallbackRegister {
        kind: CallbackType::Event.get(),
        flags: 0,
        _pad0: 0,
        address: trap::stub_address(VECTOR),
    };
    // SAFETY: a stub takes a frame without error code as that of any trap.
    let registered = unsafe { hypercall::register_callback(&callback) };
    report.equal("event callback", registered, Ok(0));
    trap::with_hook(on_upcall, || {
        UPCALLS.store(0, Ordering::Relaxed);
        kernel.upcall_mask().store(0, Ordering::SeqCst);
        send(report, &[11]);
        report.equal("an upcall at once", UPCALLS.load(Ordering::Relaxed), 1);
        send(report, &[12, 11]);
        report.equal("none for what follows", UPCALLS.load(Ordering::Relaxed), 1);
        send(report, &[9]);
        report.equal("one for another queue", UPCALLS.load(Ordering::Relaxed), 2);
        kernel.upcall_mask().store(1, Ordering::SeqCst);
    });
    report.equal("all", kernel.drain(), Found::of(&[9, 11, 12]));
}
