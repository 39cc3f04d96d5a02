//! What of the machine's addresses are devices that a domain with devices may map.

use dom0_abi::addr::Mfn;
use oxen_arch::Machine;
use oxen_arch::boot::MfnRange;

/// The registers of the local APICs, of which there is one page for each CPU at the same place, and behind it what the bus
/// takes for interrupt messages. SPEC: Intel SDM volume 3, 10.4.1, 10.11.1.
const LOCAL_APICS: MfnRange = MfnRange::new(Mfn::new(0xf_ee00), Mfn::new(0xf_ef00));
/// Where PCs have the first IO-APIC, found or not. Others are where firmware says.
const IO_APIC: MfnRange = MfnRange::new(Mfn::new(0xf_ec00), Mfn::new(0xf_ec01));

/// What firmware and the start of CPUs use, RAM or not. Its RAM is not memory that could become a domain's.
const LOW: MfnRange = MfnRange::new(Mfn::new(0), Mfn::new(0x100));

/// The addresses that are not like other devices' for domains: interrupts are the hypervisor's.
#[derive(Debug)]
pub struct IoMemory {
    hidden: [MfnRange; 1],
    read_only: [MfnRange; 1],
}

impl IoMemory {
    /// The rules of a PC.
    pub const fn new() -> Self {
        Self {
            hidden: [LOCAL_APICS],
            read_only: [IO_APIC],
        }
    }

    /// Where interrupt controllers are, in order: reserved addresses, whether firmware says so or not.
    pub const fn interrupt_controllers(&self) -> [MfnRange; 2] {
        let ([io_apic], [local_apics]) = (self.read_only, self.hidden);
        [io_apic, local_apics]
    }

    /// What is at a frame of addresses.
    pub fn kind(&self, machine: &Machine, mfn: Mfn) -> Kind {
        if self.hidden.iter().any(|range| range.contains(mfn)) {
            Kind::Hidden
        } else if self.read_only.iter().any(|range| range.contains(mfn)) || machine.is_io_apic(mfn)
        {
            Kind::ReadOnly
        } else if machine.memory_map().ram().any(|range| range.contains(mfn)) {
            if LOW.contains(mfn) {
                Kind::Hidden
            } else {
                Kind::Memory
            }
        } else {
            Kind::Device
        }
    }
}

/// What is at a frame of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// RAM.
    Memory,
    /// Not RAM: a device, or nothing.
    Device,
    /// A device that a domain may look at. Kernels ask an IO-APIC for its version; a writable mapping becomes a read-only one.
    ReadOnly,
    /// What no domain may map.
    Hidden,
}

impl Default for IoMemory {
    fn default() -> Self {
        Self::new()
    }
}
