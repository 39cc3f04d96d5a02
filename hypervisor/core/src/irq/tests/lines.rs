//! Lines: from a device to a port and back.

use super::*;

/// A line of the PCI bus, level and low.
const PCI: u32 = 17;
/// One of the ISA bus, edge and high.
const ISA: u32 = 5;

fn bound(gsi: u32) -> (Kernel, Port) {
    let mut kernel = Kernel::new();
    assert_eq!(kernel.map(gsi), 0);
    let port = kernel.bind(gsi).unwrap();
    (kernel, port)
}

#[test]
fn a_level_comes_once_until_it_is_answered_and_again_while_it_is_held() {
    let (mut kernel, port) = bound(PCI);
    kernel.guest.host.machine.hold_line(PCI, true);
    assert_eq!(kernel.interrupts(), 1);
    assert!(kernel.take(port));
    assert_eq!(kernel.interrupts(), 0, "it is not answered");
    assert!(!kernel.is_pending(port));
    // The device was not served.
    assert_eq!(kernel.eoi(PCI), 0);
    assert_eq!(kernel.interrupts(), 1);
    assert!(kernel.take(port));
    kernel.guest.host.machine.hold_line(PCI, false);
    assert_eq!(kernel.eoi(PCI), 0);
    assert_eq!(kernel.interrupts(), 0);
    assert!(!kernel.is_pending(port));
    // An answer without a question changes nothing.
    assert_eq!(kernel.eoi(PCI), 0);
    kernel.guest.host.machine.hold_line(PCI, true);
    assert_eq!(kernel.interrupts(), 1);
    assert!(kernel.take(port));
}

#[test]
fn edges_that_come_too_fast_are_one_behind_the_answer() {
    let (mut kernel, port) = bound(ISA);
    let edge = |kernel: &Kernel| {
        kernel.guest.host.machine.hold_line(ISA, true);
        kernel.guest.host.machine.hold_line(ISA, false);
    };
    edge(&kernel);
    assert_eq!(kernel.interrupts(), 1);
    assert!(kernel.take(port));
    let mut count = 0;
    for _ in 0..50 {
        edge(&kernel);
        count += kernel.interrupts();
    }
    assert_eq!(count, 1, "a storm keeps nobody busy");
    assert!(!kernel.is_pending(port));
    assert_eq!(kernel.eoi(ISA), 0);
    assert!(kernel.take(port), "it is told behind the answer");
    assert_eq!(kernel.eoi(ISA), 0);
    edge(&kernel);
    assert_eq!(kernel.interrupts(), 1);
    assert!(kernel.take(port));
}

#[test]
fn what_is_not_bound_is_closed() {
    let mut kernel = Kernel::new();
    let open = |kernel: &Kernel| kernel.guest.host.machine.is_line_open(PCI);
    kernel.guest.host.machine.hold_line(PCI, true);
    assert_eq!(kernel.map(PCI), 0);
    assert!(!open(&kernel));
    assert_eq!(kernel.interrupts(), 0);
    let port = kernel.bind(PCI).unwrap();
    assert_eq!(kernel.interrupts(), 1, "it was held before");
    assert!(kernel.take(port));
    assert_eq!(kernel.eoi(PCI), 0);
    kernel.close(port);
    assert_eq!(kernel.interrupts(), 1);
    assert!(!open(&kernel), "nobody is told, so it is closed");
    let port = kernel.bind(PCI).unwrap();
    assert_eq!(kernel.interrupts(), 1);
    assert!(kernel.take(port));
    assert_eq!(kernel.unmap(PCI), 0);
    assert!(!open(&kernel));
    assert_eq!(kernel.eoi(PCI), failure(Errno::EINVAL));
    kernel.close(port);
}

#[test]
fn a_level_on_its_way_while_its_line_is_mapped_anew_is_not_the_last() {
    let (mut kernel, old) = bound(PCI);
    kernel.guest.host.machine.hold_line(PCI, true);
    assert_eq!(kernel.unmap(PCI), 0);
    assert_eq!(kernel.map(PCI), 0);
    let port = kernel.bind(PCI).unwrap();
    // The one on its way is nobody's; its end finds a line that arrives elsewhere, as something else.
    assert_eq!(kernel.interrupts(), 2);
    assert!(kernel.take(port));
    assert!(!kernel.is_pending(old));
}

#[test]
fn what_may_be_done_to_a_line_and_when() {
    let mut kernel = Kernel::new();
    let lines = kernel.guest.host.irqs.nr_lines();
    let einval = failure(Errno::EINVAL);
    assert_eq!(kernel.bind(PCI), Err(einval), "not mapped");
    assert_eq!(kernel.bind(u32::MAX), Err(einval));
    assert_eq!(kernel.map(lines), einval);
    assert_eq!(kernel.unmap(PCI), einval);
    assert_eq!(kernel.setup(lines, 1, 1), einval);
    assert_eq!(kernel.setup(PCI, 0, 0), 0);
    assert_eq!(kernel.setup(PCI, 1, 1), 0);
    assert_eq!(kernel.map(PCI), 0);
    assert_eq!(kernel.map(PCI), 0, "as before");
    let port = kernel.bind(PCI).unwrap();
    assert_eq!(kernel.bind(PCI), Err(failure(Errno::EEXIST)));
    assert_eq!(kernel.setup(PCI, 0, 0), failure(Errno::EEXIST));
    let mut status = Status::new_zeroed();
    (status.dom, status.port) = (DomId::SELF, port);
    assert_eq!(kernel.event(EventChannelCommand::Status, &mut status), 0);
    assert_eq!(status.status, 3);
    let number: u32 = status.variant();
    assert_eq!(number, PCI);
    let mut query = IrqStatusQuery { irq: PCI, flags: 0 };
    assert_eq!(
        kernel.physdev(PhysdevCommand::IrqStatusQuery, &mut query),
        0
    );
    assert_eq!(query.flags, 3, "it needs an end, and would be shared");
    // The hypervisor's own: mapped as any other, never bound.
    kernel.guest.host.irqs.keep_line(4);
    assert_eq!(kernel.map(4), 0);
    assert_eq!(kernel.bind(4), Err(failure(Errno::EBUSY)));
    assert_eq!(kernel.setup(4, 1, 1), failure(Errno::EEXIST));
}

#[test]
fn a_domain_without_devices_has_no_interrupts() {
    let mut guest = Guest::ordinary();
    for command in PhysdevCommand::ALL {
        use PhysdevCommand as Cmd;
        let is_own = matches!(
            command,
            Cmd::SetIopl | Cmd::SetIobitmap | Cmd::PirqEoiGmfnV1 | Cmd::PirqEoiGmfnV2
        );
        let result = guest.call(Hypercall::PhysdevOp, [command.get().into(), DATA]);
        assert_eq!(result == failure(Errno::EPERM), !is_own, "{command:?}");
    }
    let bind = EventChannelCommand::BindPirq.get();
    guest.put(DATA, &BindPirq::new_zeroed());
    let result = guest.call(Hypercall::EventChannelOp, [bind.into(), DATA]);
    assert_eq!(result, failure(Errno::EPERM));
}

/// Vectors are spread over CPUs, and there are some for all lines; given back they can be had again.
#[test]
fn vectors_come_back() {
    let mut kernel = Kernel::new();
    for _ in 0..100 {
        for gsi in 0..24 {
            assert_eq!(kernel.map(gsi), 0);
        }
        for gsi in 0..24 {
            assert_eq!(kernel.unmap(gsi), 0);
        }
    }
}
