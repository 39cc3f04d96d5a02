//! Pending, masked, selector, upcall: who is told, when, and how often.

use core::sync::atomic::{AtomicU32, Ordering};

use dom0_abi::callback::{CallbackRegister, CallbackType};
use dom0_abi::event_channel::EventChannelCommand;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::Port;
use dom0_abi::xen::MulticallEntry;
use guest_pv_drivers::hypercall::{self, events};
use kit::Report;
use kit::trap::{self, Context};

use crate::VCPU;
use crate::shared::Shared;

pub fn check(report: &mut Report, shared: Shared) {
    let mut ports = [Port::new(0); 130];
    for port in &mut ports {
        *port = events::bind_ipi(VCPU).unwrap_or_default();
    }
    shared.take();
    for port in [ports[0], ports[62], ports[63], ports[129]] {
        one(report, shared, port);
    }
    selector(report, shared, ports[0], ports[1]);
    by_hand(report, shared, ports[2]);
    closed(report, shared);
    upcall(report, shared, ports[3]);
    for port in ports {
        shared.clear_pending(port);
    }
    shared.take();
}

fn one(report: &mut Report, shared: Shared, port: Port) {
    let word = 1 << (port.get() / 64);
    report.equal(format_args!("{port:?}: send"), events::send(port), Ok(()));
    report.equal(
        format_args!("{port:?}: pending"),
        shared.is_pending(port),
        true,
    );
    report.equal(format_args!("{port:?}: told"), shared.take(), (1, word));
    report.equal(
        format_args!("{port:?}: send again"),
        events::send(port),
        Ok(()),
    );
    report.equal(
        format_args!("{port:?}: not told of what is pending"),
        shared.take(),
        (0, 0),
    );
    shared.clear_pending(port);
    shared.set_masked(port, true);
    report.equal(
        format_args!("{port:?}: send, masked"),
        events::send(port),
        Ok(()),
    );
    report.equal(
        format_args!("{port:?}: pending, masked"),
        shared.is_pending(port),
        true,
    );
    report.equal(
        format_args!("{port:?}: not told of what is masked"),
        shared.take(),
        (0, 0),
    );
    report.equal(
        format_args!("{port:?}: unmask"),
        events::unmask(port),
        Ok(()),
    );
    report.equal(
        format_args!("{port:?}: not masked"),
        shared.is_masked(port),
        false,
    );
    report.equal(
        format_args!("{port:?}: told when unmasked"),
        shared.take(),
        (1, word),
    );
    report.equal(
        format_args!("{port:?}: unmask again"),
        events::unmask(port),
        Ok(()),
    );
    report.equal(
        format_args!("{port:?}: not told twice"),
        shared.take(),
        (0, 0),
    );
    shared.clear_pending(port);
    shared.set_masked(port, true);
    report.equal(
        format_args!("{port:?}: unmask, quiet"),
        events::unmask(port),
        Ok(()),
    );
    report.equal(
        format_args!("{port:?}: nothing to tell"),
        shared.take(),
        (0, 0),
    );
}

/// A selector bit that is set says that the vCPU was told, whatever the byte says.
fn selector(report: &mut Report, shared: Shared, first: Port, second: Port) {
    report.equal("first of a word", events::send(first), Ok(()));
    shared.upcall().store(0, Ordering::SeqCst);
    report.equal("second of a word", events::send(second), Ok(()));
    report.equal("told once for both", shared.take(), (0, 1));
    shared.clear_pending(first);
    shared.clear_pending(second);
    // And the byte that is set already stays.
    shared.upcall().store(1, Ordering::SeqCst);
    report.equal("send with the byte set", events::send(first), Ok(()));
    report.equal("byte and selector", shared.take(), (1, 1));
    shared.clear_pending(first);
}

/// Bits that the guest sets itself are as good as the hypervisor's.
fn by_hand(report: &mut Report, shared: Shared, port: Port) {
    shared.set_pending(port);
    report.equal("send what is pending by hand", events::send(port), Ok(()));
    report.equal("nobody is told", shared.take(), (0, 0));
    shared.set_masked(port, true);
    report.equal(
        "unmask what is pending by hand",
        events::unmask(port),
        Ok(()),
    );
    report.equal("told", shared.take(), (1, 1));
    shared.clear_pending(port);
}

/// Unmasking a port that is nobody's is no error, and does nothing.
fn closed(report: &mut Report, shared: Shared) {
    let port = events::bind_ipi(VCPU).unwrap_or_default();
    report.equal("close", events::close(port), Ok(()));
    shared.set_pending(port);
    shared.set_masked(port, true);
    report.equal("unmask a closed port", events::unmask(port), Ok(()));
    report.equal("it stays masked", shared.is_masked(port), true);
    report.equal("and nobody is told", shared.take(), (0, 0));
    shared.set_masked(port, false);
    // What was pending before is there when the number is given out again.
    report.equal("the number again", events::bind_ipi(VCPU), Ok(port));
    report.equal("pending since before", shared.is_pending(port), true);
    report.equal("close again", events::close(port), Ok(()));
    report.equal("closing clears it", shared.is_pending(port), false);
    shared.set_masked(Port::new(0), true);
    report.equal("unmask port 0", events::unmask(Port::new(0)), Ok(()));
    report.equal("port 0 stays masked", shared.is_masked(Port::new(0)), true);
    shared.set_masked(Port::new(0), false);
}

static UPCALLS: AtomicU32 = AtomicU32::new(0);

/// The vector whose stub is the event callback here.
const VECTOR: u8 = 0x80;

fn on_upcall(context: &mut Context) -> bool {
    let is_ours = context.trap.vector == VECTOR;
    if is_ours {
        UPCALLS.fetch_add(1, Ordering::Relaxed);
        // Until the byte is clear it would come again.
        if let Ok(shared) = Shared::map() {
            shared.upcall().store(0, Ordering::SeqCst);
        }
    }
    is_ours
}

/// The kernel is entered once it lets itself be, and not before.
fn upcall(report: &mut Report, shared: Shared, port: Port) {
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
        report.equal("send with upcalls masked", events::send(port), Ok(()));
        report.equal("no upcall", UPCALLS.load(Ordering::Relaxed), 0);
        shared.mask().store(0, Ordering::SeqCst);
        // A kernel that finds something pending makes any call.
        let _ = hypercall::xen_version();
        report.equal(
            "an upcall with the next call",
            UPCALLS.load(Ordering::Relaxed),
            1,
        );
        report.equal(
            "upcalls are not masked behind it",
            shared.mask().load(Ordering::SeqCst),
            0,
        );
        shared.take();
        shared.clear_pending(port);
        report.equal("send", events::send(port), Ok(()));
        report.equal("an upcall at once", UPCALLS.load(Ordering::Relaxed), 2);
        shared.take();
        shared.clear_pending(port);
        // In a batch: at its end.
        let argument = port;
        let entry = || MulticallEntry {
            op: Hypercall::EventChannelOp.number(),
            result: u64::MAX,
            args: [
                EventChannelCommand::Send as u64,
                &raw const argument as u64,
                0,
                0,
                0,
                0,
            ],
        };
        let mut entries = [entry(), entry()];
        // SAFETY: both read a port number.
        let result = unsafe { hypercall::multicall(&mut entries) };
        report.equal("two in a batch", result, Ok(0));
        report.equal("one upcall", UPCALLS.load(Ordering::Relaxed), 3);
        report.equal("results", [entries[0].result, entries[1].result], [0, 0]);
        shared.mask().store(1, Ordering::SeqCst);
    });
    shared.take();
    shared.clear_pending(port);
}
