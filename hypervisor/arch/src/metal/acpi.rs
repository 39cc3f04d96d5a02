//! What the ACPI tables say about the machine: CPUs, interrupt controllers, timers, the real-time clock, the registers that reset it and
//! switch it off.
//!
//! The tables are firmware's and trusted. They are read once, on the first page tables, which map the first 4 GiB onto
//! themselves; tables above that are left alone. AML is the control domain's business.

use core::ptr::NonNull;

use acpi::address::{AddressSpace, GenericAddress};
use acpi::fadt::Fadt;
use acpi::hpet::HpetInfo;
use acpi::madt::{Madt, MadtEntry};
use acpi::rsdp::Rsdp;
use acpi::{AcpiHandler, AcpiTables, PhysicalMapping};
use arrayvec::ArrayVec;
use dom0_abi::addr::Maddr;

use super::layout;

/// An IO-APIC: where its registers are and the first interrupt that it serves.
#[derive(Clone, Copy, Debug)]
pub(super) struct IoApic {
    pub(super) registers: Maddr,
    pub(super) first_gsi: u32,
}

/// An ISA interrupt that does not arrive where its number says, or not with the polarity and trigger of ISA.
#[derive(Clone, Copy, Debug)]
pub(super) struct Override {
    pub(super) irq: u8,
    pub(super) gsi: u32,
    /// As the MADT has it: polarity in bits 0-1, trigger mode in bits 2-3.
    pub(super) flags: u16,
}

/// How the machine is reset through ACPI.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResetRegister {
    pub(super) port: u16,
    pub(super) value: u8,
}

/// The ports of the registers that put the machine to sleep: the first, and the second where there are two.
#[derive(Clone, Copy, Debug)]
pub(super) struct SleepRegisters {
    pub(super) first: u16,
    pub(super) second: Option<u16>,
}

/// The real-time clock.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rtc {
    /// There is none at the usual ports.
    Absent,
    /// There is one, as far as is known.
    There {
        /// The register that has the century, if any has.
        century: Option<u8>,
    },
}

impl Default for Rtc {
    fn default() -> Self {
        Self::There { century: None }
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Topology {
    /// APIC ids of all CPUs that can be used, the one that runs first.
    pub(super) cpus: ArrayVec<u32, { layout::MAX_CPUS }>,
    /// What ACPI calls each of them, in the same order; [`UNNAMED`] where it does not.
    acpi_ids: ArrayVec<u32, { layout::MAX_CPUS }>,
    pub(super) io_apics: ArrayVec<IoApic, 16>,
    pub(super) overrides: ArrayVec<Override, 16>,
    pub(super) reset: Option<ResetRegister>,
    pub(super) sleep: Option<SleepRegisters>,
    /// The registers of the HPET.
    pub(super) hpet: Option<Maddr>,
    /// The port of the timer of ACPI's power management.
    pub(super) pm_timer: Option<u16>,
    pub(super) rtc: Rtc,
}

/// The number of no processor of ACPI.
const UNNAMED: u32 = u32::MAX;

impl Topology {
    fn add_cpu(&mut self, apic_id: u32, acpi_id: u32) {
        if let Some(place) = self.cpus.iter().position(|known| *known == apic_id) {
            // The one that runs is there, and some tables name others twice.
            if let Some(name) = self.acpi_ids.get_mut(place)
                && *name == UNNAMED
            {
                *name = acpi_id;
            }
        } else if self.cpus.try_push(apic_id).is_ok() {
            // More CPUs than there is room for are not used.
            let _ = self.acpi_ids.try_push(acpi_id);
        }
    }

    /// What ACPI calls the CPU whose APIC has this number.
    pub(super) fn acpi_id(&self, apic_id: u32) -> u32 {
        let mut both = self.cpus.iter().zip(&self.acpi_ids);
        let found = both.find(|(known, _)| **known == apic_id);
        found.map_or(UNNAMED, |(_, name)| *name)
    }
}

/// Tables below 4 GiB, where they are.
#[derive(Clone)]
struct Identity;

impl AcpiHandler for Identity {
    unsafe fn map_physical_region<T>(
        &self,
        address: usize,
        size: usize,
    ) -> PhysicalMapping<Self, T> {
        // Tables that cannot be reached read as the first bytes of memory, whose signature and checksum are wrong.
        let reachable = if address.saturating_add(size) <= 1 << 32 {
            address
        } else {
            0x1000
        };
        let start = NonNull::new(reachable as *mut T).unwrap_or(NonNull::dangling());
        // SAFETY: mapped onto itself, for as long as the mapping is used.
        unsafe { PhysicalMapping::new(address, start, size, size, Self) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

/// Reads the tables. Without any, the machine has the CPU that runs and nothing else.
pub(super) fn read(rsdp: Option<Maddr>) -> Topology {
    let boot_cpu = own_apic_id();
    let mut topology = Topology::default();
    topology.add_cpu(boot_cpu, UNNAMED);
    let Some(tables) = tables(rsdp) else {
        return topology;
    };
    if let Ok(madt) = tables.find_table::<Madt>() {
        read_madt(&madt, &mut topology);
    }
    if let Ok(fadt) = tables.find_table::<Fadt>() {
        topology.reset = reset_register(&fadt);
        topology.sleep = sleep_registers(&fadt);
        topology.pm_timer = pm_timer(&fadt);
        topology.rtc = rtc(&fadt);
    }
    topology.hpet = HpetInfo::new(&tables)
        .ok()
        .map(|hpet| Maddr::new(hpet.base_address as u64))
        .filter(|registers| registers.get() != 0);
    topology
}

/// The number of this CPU's APIC: all of its bits where the CPU says them. SPEC: Intel SDM volume 2, CPUID, leaf 0xb.
fn own_apic_id() -> u32 {
    const TOPOLOGY: u32 = 0xb;
    let topology = raw_cpuid::cpuid!(TOPOLOGY);
    if raw_cpuid::cpuid!(0).eax >= TOPOLOGY && topology.ebx != 0 {
        return topology.edx;
    }
    raw_cpuid::CpuId::new()
        .get_feature_info()
        .map_or(0, |info| u32::from(info.initial_local_apic_id()))
}

fn tables(rsdp: Option<Maddr>) -> Option<AcpiTables<Identity>> {
    let Some(at) = rsdp else {
        // SAFETY: the BIOS area is mapped onto itself.
        return unsafe { AcpiTables::search_for_rsdp_bios(Identity) }.ok();
    };
    let at = at.get() as usize;
    // SAFETY: a copy of the structure that the loader made; tables are where it says.
    unsafe {
        let rsdp = Identity.map_physical_region::<Rsdp>(at, size_of::<Rsdp>());
        // A copy of the short form has no second part: only `revision` says so.
        let (revision, root) = match rsdp.revision() {
            0 => (0, rsdp.rsdt_address() as usize),
            revision => (revision, rsdp.xsdt_address() as usize),
        };
        AcpiTables::from_rsdt(Identity, revision, root).ok()
    }
}

fn read_madt(madt: &PhysicalMapping<Identity, Madt>, topology: &mut Topology) {
    // SPEC: ACPI 6.5, 5.2.12.2.
    const ENABLED: u32 = 1;
    for entry in madt.get().entries() {
        match entry {
            MadtEntry::LocalApic(cpu) if cpu.flags & ENABLED != 0 => {
                topology.add_cpu(cpu.apic_id.into(), cpu.processor_id.into());
            }
            MadtEntry::LocalX2Apic(cpu) if cpu.flags & ENABLED != 0 => {
                topology.add_cpu(cpu.x2apic_id, cpu.processor_uid);
            }
            MadtEntry::IoApic(io_apic) => {
                let registers = Maddr::new(u64::from(io_apic.io_apic_address));
                let first_gsi = io_apic.global_system_interrupt_base;
                let _ = topology.io_apics.try_push(IoApic {
                    registers,
                    first_gsi,
                });
            }
            MadtEntry::InterruptSourceOverride(entry) => {
                let (irq, gsi, flags) = (entry.irq, entry.global_system_interrupt, entry.flags);
                let _ = topology.overrides.try_push(Override { irq, gsi, flags });
            }
            _ => {}
        }
    }
}

fn reset_register(fadt: &PhysicalMapping<Identity, Fadt>) -> Option<ResetRegister> {
    let flags = fadt.flags;
    if !flags.supports_system_reset_via_fadt() {
        return None;
    }
    Some(ResetRegister {
        port: port(&fadt.reset_register().ok()?)?,
        value: fadt.reset_value,
    })
}

/// SPEC: ACPI 6.5, 5.2.9, `PM1a_CNT_BLK` and `PM1b_CNT_BLK`.
fn sleep_registers(fadt: &PhysicalMapping<Identity, Fadt>) -> Option<SleepRegisters> {
    let second = fadt.pm1b_control_block().ok()?;
    Some(SleepRegisters {
        first: port(&fadt.pm1a_control_block().ok()?)?,
        second: second.as_ref().and_then(port),
    })
}

/// SPEC: ACPI 6.5, 5.2.9, `CENTURY`, and 5.2.9.3, `CMOS RTC Not Present`.
fn rtc(fadt: &PhysicalMapping<Identity, Fadt>) -> Rtc {
    const REGISTERS: u8 = 0x80;
    let (flags, century) = (fadt.iapc_boot_arch, fadt.century);
    if flags.use_time_and_alarm_namespace_for_rtc() {
        return Rtc::Absent;
    }
    Rtc::There {
        century: (century != 0 && century < REGISTERS).then_some(century),
    }
}

fn pm_timer(fadt: &PhysicalMapping<Identity, Fadt>) -> Option<u16> {
    port(&fadt.pm_timer_block().ok()??)
}

/// The port that a register has, if it has one.
fn port(register: &GenericAddress) -> Option<u16> {
    if register.address_space != AddressSpace::SystemIo {
        return None;
    }
    u16::try_from(register.address)
        .ok()
        .filter(|&port| port != 0)
}
