//! Messages of PCI functions.

use dom0_abi::addr::Maddr;
use dom0_abi::physdev::PciDevice;
use oxen_arch::{Message, PciFunction};

use super::*;

const FUNCTION: PciFunction = PciFunction {
    bus: 1,
    devfn: 0x18,
};
const BAR: u64 = 0xfe00_0000;
const TABLE: u64 = BAR + 0x2000;

/// A function with MSI at 0x50, of 64 bits and maskable, and a table of 4 entries, told at 0x70.
fn configuration() -> [u32; 64] {
    let mut words = [0; 64];
    words[0] = 0x1234_8086;
    words[1] = 1 << 20 | 1 << 1;
    words[0x10 / 4] = BAR as u32;
    words[0x34 / 4] = 0x50;
    words[0x50 / 4] = 1 << 24 | 1 << 23 | 0b101 << 20 | 0x70 << 8 | 5;
    words[0x5c / 4] = 0xabcd_0000;
    words[0x70 / 4] = 3 << 16 | 0x11;
    words[0x74 / 4] = 0x2000;
    words
}

fn kernel() -> Kernel {
    let kernel = Kernel::new();
    kernel.guest.host.machine.plug(FUNCTION, configuration());
    kernel
}

fn of_function(request: &mut MapPirq) {
    request.bus = FUNCTION.bus.into();
    request.devfn = FUNCTION.devfn.into();
}

fn entry(number: i32) -> impl Fn(&mut MapPirq) {
    move |request| {
        of_function(request);
        (request.entry_nr, request.table_base) = (number, BAR);
    }
}

fn register(kernel: &Kernel, at: u64) -> u32 {
    let value = kernel.guest.host.machine.read_register(Maddr::new(at));
    value.unwrap()
}

#[test]
fn a_function_is_told_what_to_send_and_may_when_it_is_bound() {
    let mut kernel = kernel();
    let pirq = kernel.map_message(of_function).unwrap();
    assert!(pirq >= kernel.guest.host.irqs.nr_lines());
    let config = |kernel: &Kernel, at| kernel.guest.host.machine.read_pci(FUNCTION, at);
    assert_eq!(config(&kernel, 0x60) & 1, 1, "masked");
    assert_eq!(config(&kernel, 0x50) >> 20 & 0b111, 0, "one message");
    assert_eq!(config(&kernel, 0x5c) & 0xffff_0000, 0xabcd_0000);
    let (address, data) = (config(&kernel, 0x54), config(&kernel, 0x5c) & 0xffff);
    let message = Message { address, data };
    kernel.guest.host.machine.send_message(message);
    assert_eq!(kernel.interrupts(), 1, "of nobody yet");
    let port = kernel.bind(pirq).unwrap();
    assert!(!kernel.is_pending(port));
    assert_eq!(config(&kernel, 0x60) & 1, 0);
    kernel.guest.host.machine.send_message(message);
    assert_eq!(kernel.interrupts(), 1);
    assert!(kernel.take(port));
    kernel.guest.host.machine.send_message(message);
    assert_eq!(kernel.interrupts(), 1);
    assert_eq!(config(&kernel, 0x60) & 1, 1, "one more is held back");
    assert_eq!(kernel.eoi(pirq), 0);
    assert!(kernel.take(port));
    assert_eq!(config(&kernel, 0x60) & 1, 0);
    assert_eq!(kernel.unmap(pirq), 0);
    assert_eq!(config(&kernel, 0x60) & 1, 1);
    kernel.guest.host.machine.send_message(message);
    assert_eq!(kernel.interrupts(), 1);
    assert!(!kernel.is_pending(port));
}

#[test]
fn entries_of_a_table_are_interrupts_of_their_own() {
    let mut kernel = kernel();
    let pirqs: Vec<u32> = (0..4)
        .map(|number| kernel.map_message(entry(number)).unwrap())
        .collect();
    let exists = kernel.map_message(entry(2));
    assert_eq!(exists, Err(failure(Errno::EEXIST)));
    let behind = kernel.map_message(entry(4));
    assert_eq!(behind, Err(failure(Errno::EINVAL)));
    let ports: Vec<Port> = pirqs
        .iter()
        .map(|pirq| kernel.bind(*pirq).unwrap())
        .collect();
    for (index, at) in [0, 1, 2, 3].map(|index| (index, TABLE + 16 * index as u64)) {
        assert_eq!(register(&kernel, at + 4), 0);
        assert_eq!(register(&kernel, at + 12) & 1, 0);
        let (address, data) = (register(&kernel, at), register(&kernel, at + 8));
        let machine = &kernel.guest.host.machine;
        machine.send_message(Message { address, data });
        assert_eq!(kernel.interrupts(), 1);
        let told: Vec<bool> = ports.iter().map(|port| kernel.take(*port)).collect();
        let expected: Vec<bool> = (0..4).map(|other| other == index).collect();
        assert_eq!(told, expected);
    }
    // What the function forgets in a reset is said again.
    let machine = &kernel.guest.host.machine;
    machine.write_register(Maddr::new(TABLE), 0).unwrap();
    let mut device = PciDevice {
        seg: 0,
        bus: FUNCTION.bus,
        devfn: FUNCTION.devfn,
    };
    let prepared = kernel.physdev(PhysdevCommand::PrepareMsix, &mut device);
    assert_eq!(prepared, failure(Errno::EBUSY));
    let restored = kernel.physdev(PhysdevCommand::RestoreMsiExt, &mut device);
    assert_eq!(restored, 0);
    assert_ne!(register(&kernel, TABLE), 0);
    assert_eq!(register(&kernel, TABLE + 12) & 1, 0);
    for pirq in pirqs {
        assert_eq!(kernel.unmap(pirq), 0);
    }
    assert_eq!(register(&kernel, TABLE + 12) & 1, 1);
    let prepared = kernel.physdev(PhysdevCommand::PrepareMsix, &mut device);
    assert_eq!(prepared, 0);
}

/// A function is as little to be trusted as the domain that may have configured it.
#[test]
fn functions_that_lie() {
    let refused = |change: &dyn Fn(&mut [u32; 64]), request: &dyn Fn(&mut MapPirq)| {
        let mut kernel = Kernel::new();
        let mut words = configuration();
        change(&mut words);
        kernel.guest.host.machine.plug(FUNCTION, words);
        kernel.map_message(request).unwrap_err()
    };
    let [einval, enodev, enxio] = [Errno::EINVAL, Errno::ENODEV, Errno::ENXIO].map(failure);
    let table = &entry(0);
    assert_eq!(
        refused(&|words| words[0x10 / 4] = 0x10_0000, table),
        einval,
        "memory"
    );
    assert_eq!(
        refused(&|words| words[0x10 / 4] = 0xfec0_0000 - 0x2000, table),
        einval
    );
    assert_eq!(
        refused(&|words| words[0x10 / 4] = 0xc001, table),
        einval,
        "ports"
    );
    assert_eq!(
        refused(&|words| words[0x74 / 4] = 7, table),
        einval,
        "no such memory"
    );
    assert_eq!(refused(&|words| words[1] = 1 << 20, table), enxio);
    assert_eq!(refused(&|words| words[1] = 0, table), enodev);
    assert_eq!(refused(&|words| words[0] = u32::MAX, table), enodev);
    assert_eq!(refused(&|words| words[0x34 / 4] = 0, table), enodev);
    assert_eq!(
        refused(&|words| words[0x50 / 4] = 0x50 << 8, table),
        enodev,
        "a circle"
    );
    let elsewhere = |request: &mut MapPirq| {
        of_function(request);
        request.bus |= 1 << 16;
    };
    assert_eq!(refused(&|_| {}, &elsewhere), enodev, "another segment");
    let several = |request: &mut MapPirq| {
        of_function(request);
        request.kind = MapPirqType::MultiMsi.get();
        request.entry_nr = 4;
    };
    assert_eq!(refused(&|_| {}, &several), failure(Errno::EOPNOTSUPP));
    let line = |request: &mut MapPirq| {
        of_function(request);
        request.pirq = 3;
    };
    assert_eq!(refused(&|_| {}, &line), einval, "a line's number");
}

#[test]
fn a_promised_number_is_kept_for_a_message() {
    let mut kernel = kernel();
    let mut request = GetFreePirq::new_zeroed();
    request.kind = MapPirqType::Msi.get();
    let result = kernel.physdev(PhysdevCommand::GetFreePirq, &mut request);
    assert_eq!(result, 0);
    let first = kernel.map_message(of_function).unwrap();
    assert_ne!(first, request.pirq);
    let mapped = kernel.map_message(|map| {
        entry(0)(map);
        map.pirq = request.pirq as i32;
    });
    assert_eq!(mapped, Ok(request.pirq));
}
