//! The IO-APICs: which line arrives where, as what, and whether at all.
//!
//! LOCK: index and data register are two accesses; rank `Devices` keeps them together.

use arrayvec::ArrayVec;
use dom0_abi::addr::{Maddr, PAGE_SIZE};

use super::acpi::Topology;
use super::apic;
use crate::lines::LineMode;
use crate::sync::{Once, Rank, SpinLock};

/// Where the registers are mapped: behind those of the local APIC.
const IO_APICS: u64 = apic::LOCAL_APIC + PAGE_SIZE as u64;

// SPEC: 82093AA data sheet, 3.2: index and data window; redirection entries from register 0x10 on, two words each.
const DATA: u64 = 0x10;
const VERSION: u32 = 1;
const FIRST_PIN: u32 = 0x10;

/// What has to be mapped, as (virtual, machine) addresses of pages.
pub(super) fn mappings(topology: &Topology) -> impl Iterator<Item = (u64, Maddr)> + '_ {
    let numbered = topology.io_apics.iter().enumerate();
    numbered.map(|(index, io)| (page(index), Maddr::new(io.registers.get() & !0xfff)))
}

fn page(index: usize) -> u64 {
    IO_APICS + (index * PAGE_SIZE) as u64
}

/// One of them.
struct IoApic {
    /// Where its registers are mapped.
    registers: u64,
    /// Where they are.
    at: Maddr,
    /// The lines that it serves.
    lines: core::ops::Range<u32>,
}

static ALL: Once<ArrayVec<IoApic, 16>> = Once::new();
static LOCK: SpinLock<()> = SpinLock::new(Rank::Devices, ());

impl IoApic {
    fn read(&self, register: u32) -> u32 {
        let _lock = LOCK.lock();
        // SAFETY: index and data register of an IO-APIC, mapped by `machine`.
        unsafe {
            (self.registers as *mut u32).write_volatile(register);
            ((self.registers.wrapping_add(DATA)) as *mut u32).read_volatile()
        }
    }

    fn write(&self, register: u32, value: u32) {
        let _lock = LOCK.lock();
        // SAFETY: as above.
        unsafe {
            (self.registers as *mut u32).write_volatile(register);
            ((self.registers.wrapping_add(DATA)) as *mut u32).write_volatile(value);
        }
    }
}

/// Finds out how many lines there are, and closes all: an interrupt that firmware left on, of a device that nobody serves, would come
/// again as soon as it is ended.
pub(super) fn init(topology: &Topology) {
    ALL.call_once(|| {
        let numbered = topology.io_apics.iter().enumerate();
        numbered
            .map(|(index, io)| {
                let mut found = IoApic {
                    registers: page(index) + (io.registers.get() & 0xfff),
                    at: io.registers,
                    lines: io.first_gsi..io.first_gsi,
                };
                let pins = (found.read(VERSION) >> 16 & 0xff) + 1;
                found.lines.end = io.first_gsi.saturating_add(pins);
                for pin in 0..pins {
                    found.write(FIRST_PIN + 2 * pin, LineMode::ISA.entry(0, false));
                }
                found
            })
            .collect()
    });
}

fn all() -> &'static [IoApic] {
    ALL.get().map_or(&[], |all| all)
}

/// Calls `act` with the controller of a line and its entry there. `false`: none serves it.
fn with_line(gsi: u32, act: impl FnOnce(&IoApic, u32)) -> bool {
    let serving = all().iter().find(|io| io.lines.contains(&gsi));
    serving.is_some_and(|io| {
        // No more than 255 pins: nothing wraps.
        let pin = gsi.wrapping_sub(io.lines.start);
        act(io, pin.wrapping_mul(2).wrapping_add(FIRST_PIN));
        true
    })
}

/// One past the last line.
pub(super) fn nr_lines() -> u32 {
    all().iter().map(|io| io.lines.end).max().unwrap_or(0)
}

/// Chooses the CPU at which a line arrives: an entry has eight bits for its APIC. The line is closed. `false`: no controller serves it.
pub(super) fn route(gsi: u32, apic_id: u8) -> bool {
    with_line(gsi, |io, entry| {
        // As an edge, by which the controller forgets a level that has arrived and was not ended yet: its end will not find the
        // line, which has another vector then, and without it no other one would arrive ever.
        io.write(entry, LineMode::ISA.entry(0, false));
        io.write(entry.wrapping_add(1), u32::from(apic_id) << 24);
    })
}

/// Chooses how a line is understood, as what it arrives, and whether. `false`: no controller serves it.
pub(super) fn set(gsi: u32, mode: LineMode, vector: u8, is_open: bool) -> bool {
    with_line(gsi, |io, entry| {
        io.write(entry, mode.entry(vector, is_open))
    })
}

/// The value of a register of the controller at an address, if there is one.
pub(super) fn register(at: Maddr, register: u32) -> Option<u32> {
    let found = all().iter().find(|io| io.at == at)?;
    Some(found.read(register))
}

/// The line of an interrupt of an ISA device.
pub(super) fn isa_line(topology: &Topology, irq: u8) -> u32 {
    let moved = topology.overrides.iter().find(|entry| entry.irq == irq);
    moved.map_or(u32::from(irq), |entry| entry.gsi)
}

/// How a line speaks, as far as firmware's tables say; what they do not speak of is as on its bus.
pub(super) fn default_mode(topology: &Topology, gsi: u32) -> LineMode {
    // SPEC: ACPI 6.5, 5.2.12.5: 3 in each field says low, level.
    match topology.overrides.iter().find(|entry| entry.gsi == gsi) {
        Some(entry) => LineMode {
            is_low: entry.flags & 0b11 == 0b11,
            is_level: entry.flags >> 2 & 0b11 == 0b11,
        },
        None => LineMode::usual(gsi),
    }
}
