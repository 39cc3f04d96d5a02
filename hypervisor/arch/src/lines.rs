//! Interrupts of devices: lines of IO-APICs, and messages; and the functions on the PCI bus that send the latter.
//!
//! A line is told from others by its number among those of all IO-APICs (GSI), as ACPI's tables and the ABI have it.
#![forbid(unsafe_code)]

use crate::boot::CpuId;

/// How a line speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LineMode {
    /// It is held until its device is served; otherwise it changes once.
    pub is_level: bool,
    /// Low means that the device wants to be served.
    pub is_low: bool,
}

impl LineMode {
    /// As on an ISA bus.
    pub const ISA: Self = Self {
        is_level: false,
        is_low: false,
    };
    /// As on a PCI bus.
    pub const PCI: Self = Self {
        is_level: true,
        is_low: true,
    };

    /// As on the bus of a line of which nobody says more.
    pub(crate) const fn usual(gsi: u32) -> Self {
        const ISA_LINES: u32 = 16;
        if gsi < ISA_LINES {
            Self::ISA
        } else {
            Self::PCI
        }
    }

    /// The lower word of a redirection entry. SPEC: 82093AA data sheet, 3.2.4.
    #[cfg_attr(not(target_os = "none"), allow(dead_code))]
    pub(crate) const fn entry(self, vector: u8, is_open: bool) -> u32 {
        vector as u32
            | (self.is_low as u32) << 13
            | (self.is_level as u32) << 15
            | (!is_open as u32) << 16
    }
}

/// Where an interrupt arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// The CPU.
    pub cpu: CpuId,
    /// As what.
    pub vector: u8,
}

/// What a device writes, and where, to interrupt a CPU. The address is below 4 GiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// Where.
    pub address: u32,
    /// What.
    pub data: u32,
}

const MESSAGES: u32 = 0xfee0_0000;

impl Message {
    /// For the CPU whose APIC has this number: at once, to that CPU alone. `None`: a message has eight bits for it.
    /// SPEC: Intel SDM volume 3, 11.11.
    pub(crate) fn to(apic_id: u32, vector: u8) -> Option<Self> {
        (apic_id < 0xff).then_some(Self {
            address: MESSAGES | apic_id << 12,
            data: u32::from(vector),
        })
    }
}

/// A function on the PCI bus.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PciFunction {
    /// Its bus.
    pub bus: u8,
    /// Device in bits 3-7, function in bits 0-2.
    pub devfn: u8,
}

impl PciFunction {
    /// What selects four bytes of its configuration. SPEC: PCI local bus 3.0, 3.2.2.3.2.
    #[cfg_attr(not(target_os = "none"), allow(dead_code))]
    pub(crate) fn select(self, register: u8) -> u32 {
        const ENABLED: u32 = 1 << 31;
        ENABLED
            | u32::from(self.bus) << 16
            | u32::from(self.devfn) << 8
            | u32::from(register) & !0b11
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_and_messages_are_as_the_hardware_has_them() {
        assert_eq!(LineMode::ISA.entry(0x31, true), 0x31);
        assert_eq!(LineMode::PCI.entry(0x31, true), 0xa031);
        assert_eq!(LineMode::PCI.entry(0x31, false), 0x1_a031);
        let message = Message::to(3, 0x45);
        let (address, data) = (0xfee0_3000, 0x45);
        assert_eq!(message, Some(Message { address, data }));
        assert_eq!(Message::to(0xff, 0x45), None);
        let function = PciFunction {
            bus: 2,
            devfn: 0x1f << 3 | 2,
        };
        assert_eq!(function.select(0x3f), 0x8002_fa3c);
    }
}
