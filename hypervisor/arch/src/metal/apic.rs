//! Local APIC and IO-APIC, as far as one CPU and the console's interrupt need them.

use dom0_abi::addr::{Maddr, PAGE_SIZE};
use x86_64::instructions::port::Port;
use x86_64::registers::model_specific::Msr;

use super::acpi::Topology;
use super::layout;
use crate::sync::atomic::{AtomicU32, Ordering};

/// The vector of the serial port. Vectors of higher priority are left to timers and other CPUs.
pub const SERIAL_VECTOR: u8 = 0xb0;
/// The vector on which the APIC reports that an interrupt went away: nothing to do, nothing to acknowledge.
const SPURIOUS_VECTOR: u8 = 0xff;

/// Where the registers are mapped: behind the room for the screen.
const LOCAL_APIC: u64 = layout::DEVICES + (64 << 30);
const IO_APICS: u64 = LOCAL_APIC + PAGE_SIZE as u64;

const APIC_BASE: u32 = 0x1b;
const APIC_BASE_ENABLED: u64 = 1 << 11;
const APIC_BASE_X2: u64 = 1 << 10;

// SPEC: Intel SDM volume 3, 11.4.1: offsets in the register page.
const ID: u64 = 0x20;
const TASK_PRIORITY: u64 = 0x80;
const END_OF_INTERRUPT: u64 = 0xb0;
const SPURIOUS: u64 = 0xf0;
const SPURIOUS_ENABLED: u32 = 1 << 8;
const LINT0: u64 = 0x350;
const LINT1: u64 = 0x360;
const LVT_MASKED: u32 = 1 << 16;
const LVT_NMI: u32 = 0b100 << 8;

/// What has to be mapped, as (virtual, machine) addresses of pages.
pub(super) fn mappings(topology: &Topology) -> impl Iterator<Item = (u64, Maddr)> + '_ {
    // SAFETY: every CPU with an APIC has the register.
    let local = unsafe { Msr::new(APIC_BASE).read() } & 0x000f_ffff_ffff_f000;
    let io = topology
        .io_apics
        .iter()
        .enumerate()
        .map(|(index, io)| (io_apic_page(index), Maddr::new(io.registers.get() & !0xfff)));
    core::iter::once((LOCAL_APIC, Maddr::new(local))).chain(io)
}

fn io_apic_page(index: usize) -> u64 {
    IO_APICS + (index * PAGE_SIZE) as u64
}

fn register(at: u64) -> *mut u32 {
    (LOCAL_APIC + at) as *mut u32
}

fn read(at: u64) -> u32 {
    // SAFETY: mapped by `machine`; reading has no side effects on the registers used here.
    unsafe { register(at).read_volatile() }
}

fn write(at: u64, value: u32) {
    // SAFETY: as above; the values are the ones that the manual wants.
    unsafe { register(at).write_volatile(value) };
}

static BOOT_APIC_ID: AtomicU32 = AtomicU32::new(0);

/// Silences the two 8259s and turns this CPU's APIC on.
pub(super) fn init() {
    for port in [0x21, 0xa1] {
        // SAFETY: the mask registers of the 8259s, which nobody else uses any more.
        unsafe { Port::<u8>::new(port).write(0xff) };
    }
    let mut base = Msr::new(APIC_BASE);
    // SAFETY: the register exists; leaving x2APIC mode goes through "disabled".
    unsafe {
        let value = base.read();
        if value & APIC_BASE_X2 != 0 {
            base.write(value & !(APIC_BASE_X2 | APIC_BASE_ENABLED));
        }
        base.write((base.read() & !APIC_BASE_X2) | APIC_BASE_ENABLED);
    }
    write(LINT0, LVT_MASKED);
    write(LINT1, LVT_NMI);
    write(TASK_PRIORITY, 0);
    write(SPURIOUS, SPURIOUS_ENABLED | u32::from(SPURIOUS_VECTOR));
    BOOT_APIC_ID.store(read(ID) >> 24, Ordering::Relaxed);
}

/// Masks every pin of the IO-APICs: an interrupt that firmware left on, of a device that nobody serves, would come again as
/// soon as it is ended.
pub(super) fn mask_all(topology: &Topology) {
    const VERSION: u32 = 1;
    const FIRST_PIN: u32 = 0x10;
    for (index, io) in topology.io_apics.iter().enumerate() {
        let page = io_apic_page(index) + (io.registers.get() & 0xfff);
        let (select, data) = (page as *mut u32, (page + 0x10) as *mut u32);
        // SAFETY: index and data register of an IO-APIC, mapped by `machine`.
        let last = unsafe {
            select.write_volatile(VERSION);
            data.read_volatile() >> 16 & 0xff
        };
        for pin in 0..=last {
            // SAFETY: as above.
            unsafe {
                select.write_volatile(FIRST_PIN + 2 * pin);
                data.write_volatile(LVT_MASKED);
            }
        }
    }
}

/// Ends the interrupt that is being served.
pub(super) fn end_of_interrupt(vector: u8) {
    if vector != SPURIOUS_VECTOR {
        write(END_OF_INTERRUPT, 0);
    }
}

/// Sends an ISA interrupt to this CPU as `vector`. False if no IO-APIC serves it.
pub(super) fn route_isa(topology: &Topology, irq: u8, vector: u8) -> bool {
    let moved = topology.overrides.iter().find(|entry| entry.irq == irq);
    let gsi = moved.map_or(u32::from(irq), |entry| entry.gsi);
    let flags = moved.map_or(0, |entry| entry.flags);
    // SPEC: ACPI 6.5, 5.2.12.5: 3 in each field says low, level.
    let is_low = flags & 0b11 == 0b11;
    let is_level = flags >> 2 & 0b11 == 0b11;
    let serving = topology
        .io_apics
        .iter()
        .enumerate()
        .rev()
        .find(|(_, io)| io.first_gsi <= gsi);
    let Some((index, io)) = serving else {
        return false;
    };
    let pin = gsi - io.first_gsi;
    let page = io_apic_page(index) + (io.registers.get() & 0xfff);
    let set = |register: u32, value: u32| {
        // SAFETY: index and data register of an IO-APIC, mapped by `machine`.
        unsafe {
            (page as *mut u32).write_volatile(register);
            ((page + 0x10) as *mut u32).write_volatile(value);
        }
    };
    // SPEC: 82093AA data sheet, 3.2.4: redirection entries from register 0x10 on, two words each.
    let entry = 0x10 + 2 * pin;
    set(entry + 1, BOOT_APIC_ID.load(Ordering::Relaxed) << 24);
    set(
        entry,
        u32::from(vector) | u32::from(is_low) << 13 | u32::from(is_level) << 15,
    );
    true
}
