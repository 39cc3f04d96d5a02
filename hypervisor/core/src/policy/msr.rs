//! The model-specific registers that a paravirtual kernel may touch: deny by default, one row for each that is allowed.
//!
//! No row lets a guest at a register of the hardware. What can be read is a constant, a value taken from the host at
//! boot, or state of the vCPU; what can be written is state of the vCPU, or nothing.

use core::cmp::Ordering;
use core::fmt;

use dom0_abi::ids::VcpuId;
use oxen_arch::Cpu;

use super::cpuid::CpuidPolicy;
use crate::domain::privileged_state::PrivilegedState;

/// The register is not the guest's to read or write like this; nothing has changed. The guest gets #GP(0).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused;

/// Who made the CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vendor {
    /// Intel.
    Intel,
    /// AMD, and Hygon.
    Amd,
    /// Anybody else: only the registers of all vendors exist.
    Other,
}

/// On which CPUs a row counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum On {
    All,
    Intel,
    Amd,
}

/// A value that boot took from the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum HostValue {
    PlatformId,
    Microcode,
    MiscEnable,
    Efer,
}

/// State of the vCPU behind a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Tsc,
    ApicBase,
    FsBase,
    GsBase,
    UserGsBase,
    TscAux,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Read {
    Const(u64),
    Host(HostValue),
    State(State),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Write {
    /// #GP.
    Refuse,
    /// Only the value that a read gives, which changes nothing.
    Same,
    /// Only zero, which changes nothing.
    Zero,
    /// Anything; it vanishes.
    Ignore,
    /// Becomes state of the vCPU, if it is valid.
    FsBase,
    GsBase,
    UserGsBase,
    TscAux,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Row {
    first: u32,
    last: u32,
    /// Of each `step` numbers from `first` on only the first is meant.
    step: u32,
    name: &'static str,
    on: On,
    read: Read,
    write: Write,
    note: &'static str,
}

pub use oxen_arch::registers::PAT;

const fn one(
    msr: u32,
    name: &'static str,
    on: On,
    read: Read,
    write: Write,
    note: &'static str,
) -> Row {
    Row {
        first: msr,
        last: msr,
        step: 1,
        name,
        on,
        read,
        write,
        note,
    }
}

const fn every_fourth(
    first: u32,
    last: u32,
    name: &'static str,
    read: Read,
    write: Write,
    note: &'static str,
) -> Row {
    Row {
        first,
        last,
        step: 4,
        name,
        on: On::All,
        read,
        write,
        note,
    }
}

use HostValue::*;
use Read::{Const, Host};
use State::*;

/// Two machine-check banks, no extension. The machine's own errors are the hypervisor's to handle.
const MCG_CAP: u64 = 2;

/// All that is allowed, in ascending order (rows of one step pattern overlap, but no register has two rows).
#[rustfmt::skip]
const TABLE: &[Row] = &[
    one(0x10, "TSC", On::All, Read::State(Tsc), Write::Refuse, ""),
    one(0x17, "PLATFORM_ID", On::Intel, Host(PlatformId), Write::Refuse, "names the microcode"),
    one(0x1b, "APIC_BASE", On::All, Read::State(ApicBase), Write::Same, "enabled; vCPU 0 is the boot processor"),
    one(0x8b, "UCODE_REV", On::All, Host(Microcode), Write::Ignore, "kernels write 0 before they read"),
    one(0xce, "PLATFORM_INFO", On::Intel, Const(0), Write::Refuse, "no CPUID faulting for guests"),
    one(0x179, "MCG_CAP", On::All, Const(MCG_CAP), Write::Refuse, "two banks without content"),
    one(0x17a, "MCG_STATUS", On::All, Const(0), Write::Zero, ""),
    one(0x17b, "MCG_CTL", On::All, Const(u64::MAX), Write::Ignore, ""),
    one(0x1a0, "MISC_ENABLE", On::All, Host(MiscEnable), Write::Same, "fast strings as the host; no performance monitoring"),
    one(0x277, "PAT", On::All, Const(PAT), Write::Same, "fixed by the ABI"),
    every_fourth(0x400, 0x407, "MC0_CTL, MC1_CTL", Const(u64::MAX), Write::Ignore, ""),
    every_fourth(0x401, 0x407, "MC0_STATUS, MC1_STATUS", Const(0), Write::Zero, ""),
    every_fourth(0x402, 0x407, "MC0_ADDR, MC1_ADDR", Const(0), Write::Zero, ""),
    every_fourth(0x403, 0x407, "MC0_MISC, MC1_MISC", Const(0), Write::Zero, ""),
    one(0xc000_0080, "EFER", On::All, Host(Efer), Write::Same, "SCE, LME, LMA, NXE"),
    one(0xc000_0100, "FS_BASE", On::All, Read::State(FsBase), Write::FsBase, "canonical"),
    one(0xc000_0101, "GS_BASE", On::All, Read::State(GsBase), Write::GsBase, "canonical; of kernel mode"),
    one(0xc000_0102, "KERNEL_GS_BASE", On::All, Read::State(UserGsBase), Write::UserGsBase, "canonical; of user mode"),
    one(0xc000_0103, "TSC_AUX", On::All, Read::State(TscAux), Write::TscAux, "32 bits, where RDTSCP exists"),
    Row { first: 0xc001_0000, last: 0xc001_0007, step: 1, name: "PERF_CTL, PERF_CTR", on: On::Amd, read: Const(0), write: Write::Refuse, note: "" },
    one(0xc001_0010, "SYSCFG", On::Amd, Const(0), Write::Same, ""),
    one(0xc001_0015, "HWCR", On::Amd, Const(1 << 24), Write::Same, "the TSC runs at the rated frequency"),
    one(0xc001_001d, "TOP_MEM2", On::Amd, Const(0), Write::Same, ""),
    one(0xc001_1029, "DE_CFG", On::Amd, Const(1 << 1), Write::Same, "LFENCE is serialising"),
];

/// What the registers hold on this host.
#[derive(Clone, Debug)]
pub struct MsrPolicy {
    vendor: Vendor,
    platform_id: u64,
    microcode: u64,
    misc_enable: u64,
    efer: u64,
    has_tsc_aux: bool,
}

impl MsrPolicy {
    /// Derives the policy from the host's registers; `read` gives `None` for one that the CPU lacks.
    pub fn derive(cpuid: &CpuidPolicy, mut read: impl FnMut(u32) -> Option<u64>) -> Self {
        const FAST_STRINGS: u64 = 1 << 0;
        const BTS_UNAVAILABLE: u64 = 1 << 11;
        const PEBS_UNAVAILABLE: u64 = 1 << 12;
        let vendor = cpuid.vendor();
        let mut host = |vendors: &[Vendor], msr| {
            if vendors.contains(&vendor) {
                read(msr).unwrap_or(0)
            } else {
                0
            }
        };
        Self {
            vendor,
            platform_id: host(&[Vendor::Intel], 0x17),
            microcode: host(&[Vendor::Intel, Vendor::Amd], 0x8b),
            misc_enable: (host(&[Vendor::Intel], 0x1a0) & FAST_STRINGS)
                | BTS_UNAVAILABLE
                | PEBS_UNAVAILABLE,
            // SCE, LME and LMA; NXE where the guest sees NX.
            efer: 0x501 | if cpuid.has_nx() { 1 << 11 } else { 0 },
            has_tsc_aux: cpuid.has_rdtscp(),
        }
    }

    /// Reads a register for a guest's kernel. [`Refused`]: not listed.
    pub fn read(
        &self,
        cpu: &Cpu,
        state: &PrivilegedState,
        vcpu: VcpuId,
        msr: u32,
    ) -> Result<u64, Refused> {
        let row = self.row(msr).ok_or(Refused)?;
        Ok(match row.read {
            Const(value) => value,
            Host(value) => self.host(value),
            Read::State(Tsc) => cpu.tsc(),
            Read::State(ApicBase) => apic_base(vcpu),
            Read::State(FsBase) => cpu.fs_base(),
            Read::State(GsBase) => cpu.gs_base(),
            Read::State(UserGsBase) => cpu.user_gs_base(),
            Read::State(TscAux) => u64::from(state.tsc_aux()),
        })
    }

    /// Writes a register for a guest's kernel. [`Refused`]: not listed, read-only, or not with this value; nothing has
    /// changed.
    pub fn write(
        &self,
        cpu: &Cpu,
        state: &mut PrivilegedState,
        vcpu: VcpuId,
        msr: u32,
        value: u64,
    ) -> Result<(), Refused> {
        let row = self.row(msr).ok_or(Refused)?;
        let only_if = |condition: bool| condition.then_some(()).ok_or(Refused);
        match row.write {
            Write::Refuse => Err(Refused),
            Write::Ignore => Ok(()),
            Write::Zero => only_if(value == 0),
            Write::Same => only_if(self.read(cpu, state, vcpu, msr) == Ok(value)),
            Write::FsBase => cpu.set_fs_base(value).map_err(|_| Refused),
            Write::GsBase => cpu.set_gs_base(value).map_err(|_| Refused),
            Write::UserGsBase => cpu.set_user_gs_base(value).map_err(|_| Refused),
            Write::TscAux => {
                state.set_tsc_aux(u32::try_from(value).map_err(|_| Refused)?);
                cpu.load_tsc_aux(state.tsc_aux());
                Ok(())
            }
        }
    }

    fn host(&self, value: HostValue) -> u64 {
        match value {
            PlatformId => self.platform_id,
            Microcode => self.microcode,
            MiscEnable => self.misc_enable,
            Efer => self.efer,
        }
    }

    fn row(&self, msr: u32) -> Option<&'static Row> {
        let row = lookup(msr)?;
        let here = match row.on {
            On::All => true,
            On::Intel => self.vendor == Vendor::Intel,
            On::Amd => self.vendor == Vendor::Amd,
        };
        let exists = row.read != Read::State(TscAux) || self.has_tsc_aux;
        (here && exists).then_some(row)
    }
}

fn apic_base(vcpu: VcpuId) -> u64 {
    const ENABLED: u64 = 1 << 11;
    const BOOT_PROCESSOR: u64 = 1 << 8;
    let boot_processor = if vcpu.get() == 0 { BOOT_PROCESSOR } else { 0 };
    0xfee0_0000 | ENABLED | boot_processor
}

fn lookup(msr: u32) -> Option<&'static Row> {
    TABLE
        .iter()
        .filter(|row| (row.first..=row.last).contains(&msr))
        .find(|row| {
            msr.checked_sub(row.first)
                .and_then(|distance| distance.checked_rem(row.step))
                == Some(0)
        })
}

/// Writes the policy as a page of the documentation.
pub fn markdown(out: &mut impl fmt::Write) -> fmt::Result {
    writeln!(
        out,
        "| number | name | CPUs | read | write | why |\n|---|---|---|---|---|---|"
    )?;
    for row in TABLE {
        match row.first.cmp(&row.last) {
            Ordering::Less => write!(out, "| {:#x}-{:#x}", row.first, row.last)?,
            _ => write!(out, "| {:#x}", row.first)?,
        }
        if row.step != 1 {
            write!(out, ", every {}th", row.step)?;
        }
        write!(out, " | {} | {:?} | ", row.name, row.on)?;
        match row.read {
            Const(value) => write!(out, "{value:#x}")?,
            Host(value) => write!(out, "from the host: {value:?}")?,
            Read::State(state) => write!(out, "of the vCPU: {state:?}")?,
        }
        let write = match row.write {
            Write::Refuse => "#GP",
            Write::Same => "the value read, else #GP",
            Write::Zero => "0, else #GP",
            Write::Ignore => "ignored",
            Write::FsBase | Write::GsBase | Write::UserGsBase | Write::TscAux => {
                "if valid, else #GP"
            }
        };
        writeln!(out, " | {write} | {} |", row.note)?;
    }
    writeln!(out, "\nEvery other register gives #GP(0).")
}

#[cfg(test)]
mod tests;
