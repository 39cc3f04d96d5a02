//! The IO-APICs, as far as the console's interrupt needs them.

use dom0_abi::addr::{Maddr, PAGE_SIZE};

use super::acpi::{IoApic, Topology};
use super::apic;

/// Where the registers are mapped: behind those of the local APIC.
const IO_APICS: u64 = apic::LOCAL_APIC + PAGE_SIZE as u64;

// SPEC: 82093AA data sheet, 3.2: index and data window; redirection entries from register 0x10 on, two words each.
const DATA: u64 = 0x10;
const VERSION: u32 = 1;
const FIRST_PIN: u32 = 0x10;
const MASKED: u32 = 1 << 16;

/// What has to be mapped, as (virtual, machine) addresses of pages.
pub(super) fn mappings(topology: &Topology) -> impl Iterator<Item = (u64, Maddr)> + '_ {
    let numbered = topology.io_apics.iter().enumerate();
    numbered.map(|(index, io)| (page(index), Maddr::new(io.registers.get() & !0xfff)))
}

fn page(index: usize) -> u64 {
    IO_APICS + (index * PAGE_SIZE) as u64
}

/// The registers of an IO-APIC.
struct Registers(u64);

impl Registers {
    fn of(index: usize, io: &IoApic) -> Self {
        Self(page(index) + (io.registers.get() & 0xfff))
    }

    fn read(&self, register: u32) -> u32 {
        // SAFETY: index and data register of an IO-APIC, mapped by `machine`.
        unsafe {
            (self.0 as *mut u32).write_volatile(register);
            ((self.0 + DATA) as *mut u32).read_volatile()
        }
    }

    fn write(&self, register: u32, value: u32) {
        // SAFETY: as above.
        unsafe {
            (self.0 as *mut u32).write_volatile(register);
            ((self.0 + DATA) as *mut u32).write_volatile(value);
        }
    }
}

/// Masks every pin: an interrupt that firmware left on, of a device that nobody serves, would come again as soon as it is
/// ended.
pub(super) fn mask_all(topology: &Topology) {
    for (index, io) in topology.io_apics.iter().enumerate() {
        let registers = Registers::of(index, io);
        let last = registers.read(VERSION) >> 16 & 0xff;
        for pin in 0..=last {
            registers.write(FIRST_PIN + 2 * pin, MASKED);
        }
    }
}

/// Sends an ISA interrupt to the first CPU as `vector`. False if no IO-APIC serves it.
pub(super) fn route_isa(topology: &Topology, irq: u8, vector: u8) -> bool {
    let moved = topology.overrides.iter().find(|entry| entry.irq == irq);
    let gsi = moved.map_or(u32::from(irq), |entry| entry.gsi);
    let flags = moved.map_or(0, |entry| entry.flags);
    // SPEC: ACPI 6.5, 5.2.12.5: 3 in each field says low, level.
    let is_low = flags & 0b11 == 0b11;
    let is_level = flags >> 2 & 0b11 == 0b11;
    let numbered = topology.io_apics.iter().enumerate().rev();
    let serving = numbered.clone().find(|(_, io)| io.first_gsi <= gsi);
    // An IO-APIC has eight bits for the CPU.
    let cpu = topology.cpus.first().and_then(|id| u8::try_from(*id).ok());
    let (Some((index, io)), Some(cpu)) = (serving, cpu) else {
        return false;
    };
    let registers = Registers::of(index, io);
    let entry = FIRST_PIN + 2 * (gsi - io.first_gsi);
    registers.write(entry + 1, u32::from(cpu) << 24);
    registers.write(
        entry,
        u32::from(vector) | u32::from(is_low) << 13 | u32::from(is_level) << 15,
    );
    true
}
