//! The IO-APIC of a model machine, its PCI bus, and registers of devices.
//!
//! The controller is as strict as a real one: an edge that comes while its line is closed is lost, a level that is held arrives again
//! whenever its line is open and the last interrupt has been ended.

use std::collections::BTreeMap;
use std::vec::Vec;

use dom0_abi::addr::{Maddr, Mfn};

use super::cpu::Cpu;
use super::machine::Machine;
use crate::boot::CpuId;
use crate::lines::{LineMode, Message, PciFunction, Target};

/// How many lines there are.
const LINES: usize = 24;
/// Where the IO-APICs are. The second one has no lines.
const IO_APICS: [Mfn; 2] = [Mfn::new(0xf_ec00), Mfn::new(0xf_ec01)];

/// A line, and what the controller keeps of it.
#[derive(Clone, Debug)]
struct Line {
    mode: LineMode,
    cpu: CpuId,
    vector: u8,
    is_open: bool,
    is_held: bool,
    /// A level has arrived and was not ended.
    in_service: bool,
}

/// All that devices have.
pub(super) struct Bus {
    lines: Vec<Line>,
    configuration: BTreeMap<PciFunction, [u32; 64]>,
    registers: BTreeMap<u64, u32>,
}

impl Default for Bus {
    fn default() -> Self {
        let line = Line {
            mode: LineMode::ISA,
            cpu: CpuId::BOOT,
            vector: 0,
            is_open: false,
            is_held: false,
            in_service: false,
        };
        Self {
            lines: std::vec![line; LINES],
            configuration: BTreeMap::new(),
            registers: BTreeMap::new(),
        }
    }
}

impl Line {
    /// What arrives now that something has changed, if a level is held.
    fn look(&mut self) -> Option<Target> {
        let arrives = self.mode.is_level && self.is_held && self.is_open && !self.in_service;
        self.in_service |= arrives;
        arrives.then_some(self.target())
    }

    fn target(&self) -> Target {
        Target {
            cpu: self.cpu,
            vector: self.vector,
        }
    }
}

impl Machine {
    /// One past the last interrupt line (GSI) of devices.
    pub fn nr_lines(&self) -> u32 {
        LINES as u32
    }

    /// How a line speaks as far as firmware says.
    pub fn line_mode(&self, gsi: u32) -> LineMode {
        LineMode::usual(gsi)
    }

    /// Chooses the CPU at which a line arrives, and closes it. `false`: there is no such line.
    pub fn route_line(&self, gsi: u32, cpu: CpuId) -> bool {
        self.with_line(gsi, |line| {
            line.cpu = cpu;
            line.is_open = false;
            // As an edge, for which nothing is in service: see `io_apic` of the machine.
            (line.mode, line.in_service) = (LineMode::ISA, false);
            None
        })
    }

    /// Chooses how a line is understood, as what it arrives, and whether it is open. A level that is held while a line is opened
    /// arrives at once; an edge while it is closed never. `false`: there is no such line.
    pub fn set_line(&self, gsi: u32, mode: LineMode, vector: u8, is_open: bool) -> bool {
        self.with_line(gsi, |line| {
            (line.mode, line.vector, line.is_open) = (mode, vector, is_open);
            line.look()
        })
    }

    /// The value of a register of the IO-APIC at an address, if there is one.
    pub fn io_apic_register(&self, at: Maddr, register: u32) -> Option<u32> {
        let version = ((LINES as u32) - 1) << 16 | 0x20;
        (at == IO_APICS[0].start()).then_some(if register == 1 { version } else { 0 })
    }

    /// What a device writes to interrupt a CPU. `None`: no message reaches that.
    pub fn message(&self, to: Target) -> Option<Message> {
        Message::to(to.cpu.get(), to.vector)
    }

    /// Reads four bytes of the configuration of a PCI function; all ones if there is no such function.
    pub fn read_pci(&self, function: PciFunction, register: u8) -> u32 {
        let devices = self.parts.devices.lock();
        let configuration = devices.bus.configuration.get(&function);
        configuration.map_or(u32::MAX, |words| words[usize::from(register) / 4])
    }

    /// Writes four bytes of it.
    pub fn write_pci(&self, function: PciFunction, register: u8, value: u32) {
        let mut devices = self.parts.devices.lock();
        if let Some(words) = devices.bus.configuration.get_mut(&function) {
            words[usize::from(register) / 4] = value;
        }
    }

    /// Reads a register of a device, of four bytes. `None`: RAM or an interrupt controller is there.
    pub fn read_register(&self, at: Maddr) -> Option<u32> {
        let registers = &self.parts.devices.lock().bus.registers;
        self.is_devices(at)
            .then(|| registers.get(&at.get()).copied().unwrap_or(u32::MAX))
    }

    /// Writes one. `None`, and nothing is done: as for reading.
    pub fn write_register(&self, at: Maddr, value: u32) -> Option<()> {
        let registers = &mut self.parts.devices.lock().bus.registers;
        self.is_devices(at).then(|| {
            registers.insert(at.get(), value);
        })
    }

    fn is_devices(&self, at: Maddr) -> bool {
        let is_ram = self.memory_map().ram().any(|ram| ram.contains(at.mfn()));
        at.get().is_multiple_of(4) && !self.is_io_apic(at.mfn()) && !is_ram
    }

    /// Whether the registers of an IO-APIC are in a frame of addresses.
    pub fn is_io_apic(&self, mfn: Mfn) -> bool {
        IO_APICS.contains(&mfn)
    }

    fn with_line(&self, gsi: u32, change: impl FnOnce(&mut Line) -> Option<Target>) -> bool {
        let arrives = match self.parts.devices.lock().bus.lines.get_mut(gsi as usize) {
            Some(line) => change(line),
            None => return false,
        };
        if let Some(target) = arrives {
            self.arrive(target);
        }
        true
    }

    fn arrive(&self, target: Target) {
        let mut processor = self.parts.processor(target.cpu);
        processor.waiting.devices.insert(target.vector);
    }
}

/// What only the model has.
impl Machine {
    /// A device begins or ends to hold its line.
    pub fn hold_line(&self, gsi: u32, is_held: bool) {
        self.with_line(gsi, |line| {
            let is_edge = is_held && !line.is_held && !line.mode.is_level;
            line.is_held = is_held;
            if is_edge && line.is_open {
                return Some(line.target());
            }
            line.look()
        });
    }

    /// Whether a line is open.
    pub fn is_line_open(&self, gsi: u32) -> bool {
        let devices = self.parts.devices.lock();
        devices
            .bus
            .lines
            .get(gsi as usize)
            .is_some_and(|line| line.is_open)
    }

    /// A device sends a message. Panics if that goes to no CPU.
    pub fn send_message(&self, message: Message) {
        let cpu = CpuId::new(message.address >> 12 & 0xff);
        let vector = message.data as u8;
        assert_eq!(Message::to(cpu.get(), vector), Some(message));
        self.arrive(Target { cpu, vector });
    }

    /// Puts a function on the bus.
    pub fn plug(&self, function: PciFunction, configuration: [u32; 64]) {
        let mut devices = self.parts.devices.lock();
        devices.bus.configuration.insert(function, configuration);
    }
}

impl Cpu {
    /// Ends the interrupt of a device, as the machine does when its handler is done.
    pub fn end_interrupt(&self, vector: u8) {
        let arrives: Vec<Target> = {
            let mut devices = self.parts.devices.lock();
            let lines = devices.bus.lines.iter_mut();
            let own = lines.filter(|line| line.target().vector == vector && line.cpu == self.id);
            own.filter_map(|line| {
                line.in_service = false;
                line.look()
            })
            .collect()
        };
        for target in arrives {
            self.processor().waiting.devices.insert(target.vector);
        }
    }
}
