//! Functions on the PCI bus that send messages: where what they write is said, and how they are silenced.
//!
//! The hypervisor says address and data, and masks; the domain that owns the function turns its messages on and off. What is read from a
//! function is as little to be trusted as its domain, which could have written it.
//!
//! SPEC: PCI local bus 3.0, 6.1 (header), 6.7 (list of capabilities), 6.8 (MSI and MSI-X).

use dom0_abi::addr::Maddr;
use dom0_abi::errno::Errno;
use oxen_arch::{Machine, Message, PciFunction};

const COMMAND_AND_STATUS: u8 = 0x04;
const SEES_MEMORY: u32 = 1 << 1;
const HAS_CAPABILITIES: u32 = 1 << 20;
const FIRST_BAR: u8 = 0x10;
const CAPABILITIES: u8 = 0x34;

const MSI: u8 = 0x05;
const MSI_X: u8 = 0x11;
/// More than fit behind the header: a list that does not end has a circle.
const MOST_CAPABILITIES: usize = 48;

// Of the first word of an MSI capability.
const SEVERAL: u32 = 0b111 << 20;
const IS_64: u32 = 1 << 23;
const IS_MASKABLE: u32 = 1 << 24;

// Of an entry of an MSI-X table.
const ENTRY: u64 = 16;
const ENTRY_ADDRESS_HIGH: u64 = 4;
const ENTRY_DATA: u64 = 8;
const ENTRY_CONTROL: u64 = 12;
const MASKED: u32 = 1;

/// One message of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageSource {
    /// The function.
    pub function: PciFunction,
    place: Place,
}

/// Where it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the configuration: MSI.
    Capability {
        at: u8,
        is_64: bool,
        is_maskable: bool,
    },
    /// In an entry of a table in the function's memory: MSI-X.
    Entry(Maddr),
}

/// Whether there is such a function.
pub fn exists(machine: &Machine, function: PciFunction) -> bool {
    const NOBODY: u32 = 0xffff;
    machine.read_pci(function, 0) & 0xffff != NOBODY
}

/// Whether a function has an MSI-X table.
pub fn has_table(machine: &Machine, function: PciFunction) -> bool {
    capability(machine, function, MSI_X).is_some()
}

impl MessageSource {
    /// The only message of a function by MSI, or the one of an entry of its MSI-X table.
    ///
    /// `ENODEV`: there is no such function, or it sends none; `EINVAL`: the table has no such entry, or is nowhere where a device can be; `ENXIO`:
    /// the function does not see its memory.
    pub fn find(
        machine: &Machine,
        function: PciFunction,
        entry: Option<u16>,
    ) -> Result<Self, Errno> {
        let place = match entry {
            None => {
                let (at, control) = capability(machine, function, MSI).ok_or(Errno::ENODEV)?;
                Place::Capability {
                    at,
                    is_64: control & IS_64 != 0,
                    is_maskable: control & IS_MASKABLE != 0,
                }
            }
            Some(entry) => {
                let (at, control) = capability(machine, function, MSI_X).ok_or(Errno::ENODEV)?;
                let last = control >> 16 & 0x7ff;
                if u32::from(entry) > last {
                    return Err(Errno::EINVAL);
                }
                if machine.read_pci(function, COMMAND_AND_STATUS) & SEES_MEMORY == 0 {
                    return Err(Errno::ENXIO);
                }
                let table = machine.read_pci(function, at.saturating_add(4));
                let bar = memory(machine, function, (table & 0b111) as u8).ok_or(Errno::EINVAL)?;
                let offset = u64::from(table & !0b111);
                let entry = ENTRY.saturating_mul(entry.into()).saturating_add(offset);
                Place::Entry(Maddr::new(bar.checked_add(entry).ok_or(Errno::EINVAL)?))
            }
        };
        Ok(Self { function, place })
    }

    /// Says what the function writes, and silences it. `EINVAL`: that is said nowhere where a device can be.
    pub fn write(&self, machine: &Machine, message: Message) -> Result<(), Errno> {
        self.open(machine, false).ok_or(Errno::EINVAL)?;
        let Message { address, data } = message;
        match self.place {
            Place::Capability { at, is_64, .. } => {
                let write = |offset: u8, value| {
                    machine.write_pci(self.function, at.saturating_add(offset), value);
                };
                let read = |offset: u8| machine.read_pci(self.function, at.saturating_add(offset));
                write(0, read(0) & !SEVERAL);
                write(4, address);
                let place = if is_64 { 12 } else { 8 };
                if is_64 {
                    write(8, 0);
                }
                write(place, read(place) & !0xffff | data);
            }
            Place::Entry(at) => {
                let write = |offset, value| machine.write_register(field(at, offset), value);
                write(0, address)
                    .and_then(|()| write(ENTRY_ADDRESS_HIGH, 0))
                    .and_then(|()| write(ENTRY_DATA, data))
                    .ok_or(Errno::EINVAL)?;
            }
        }
        Ok(())
    }

    /// Lets the function speak, or silences it where it can be silenced. What it had to say meanwhile comes when it may speak. `None`: it
    /// is nowhere where a device can be.
    pub fn open(&self, machine: &Machine, is_open: bool) -> Option<()> {
        let change = |old: u32| old & !MASKED | if is_open { 0 } else { MASKED };
        match self.place {
            Place::Capability {
                at,
                is_64,
                is_maskable: true,
            } => {
                let mask = at.saturating_add(if is_64 { 16 } else { 12 });
                let old = machine.read_pci(self.function, mask);
                machine.write_pci(self.function, mask, change(old));
                Some(())
            }
            Place::Capability { .. } => Some(()),
            Place::Entry(at) => {
                let control = field(at, ENTRY_CONTROL);
                let old = machine.read_register(control)?;
                machine.write_register(control, change(old))
            }
        }
    }
}

const fn field(entry: Maddr, offset: u64) -> Maddr {
    Maddr::new(entry.get().saturating_add(offset))
}

/// Where a capability of a function is, and the word that it begins with.
fn capability(machine: &Machine, function: PciFunction, wanted: u8) -> Option<(u8, u32)> {
    if !exists(machine, function)
        || machine.read_pci(function, COMMAND_AND_STATUS) & HAS_CAPABILITIES == 0
    {
        return None;
    }
    let mut at = machine.read_pci(function, CAPABILITIES) as u8 & !0b11;
    for _ in 0..MOST_CAPABILITIES {
        if at < 0x40 {
            return None;
        }
        let word = machine.read_pci(function, at);
        if word as u8 == wanted {
            return Some((at, word));
        }
        at = (word >> 8) as u8 & !0b11;
    }
    None
}

/// Where a function's memory of this number begins.
fn memory(machine: &Machine, function: PciFunction, number: u8) -> Option<u64> {
    const BARS: u8 = 6;
    const IS_PORTS: u32 = 1;
    const KIND: u32 = 0b110;
    const KIND_64: u32 = 0b100;
    let bar = |number: u8| {
        let at = FIRST_BAR.checked_add(number.checked_mul(4)?)?;
        (number < BARS).then(|| machine.read_pci(function, at))
    };
    let low = bar(number)?;
    if low & IS_PORTS != 0 {
        return None;
    }
    let high = match low & KIND {
        KIND_64 => bar(number.checked_add(1)?)?,
        _ => 0,
    };
    Some(u64::from(high) << 32 | u64::from(low & !0xf))
}
