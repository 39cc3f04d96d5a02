//! dom0: from the loader's modules to the registers of its first instruction.

use core::fmt;

use dom0_abi::addr::PAGE_SHIFT;
use dom0_abi::ids::{DomId, VcpuId};
use oxen_arch::Cpu;
use oxen_arch::boot::{BootInfo, Modules};
use oxen_core::cmdline::Dom0MemoryError;
use oxen_core::domain::builder::error::BuildError;
use oxen_core::domain::builder::start_info::Firmware;
use oxen_core::domain::builder::{self, Request};
use oxen_core::domain::dom0;
use oxen_core::frame::{RESERVE, UndoQueue};
use oxen_core::host::{AddDomainError, Host};
use oxen_core::{info, warn};

/// Why dom0 cannot be started.
pub enum Dom0Error {
    /// The loader brought no module.
    NoKernel,
    /// `dom0_mem=` cannot be met.
    Memory(Dom0MemoryError),
    /// The modules are not what they should be, or do not fit.
    Build(BuildError),
    /// The domain itself cannot be made.
    Domain(AddDomainError),
}

impl fmt::Display for Dom0Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKernel => {
                f.write_str("the boot loader brought no module: dom0's kernel is missing")
            }
            Self::Memory(error) => write!(f, "dom0_mem: {error}"),
            Self::Build(error) => write!(f, "{error}"),
            Self::Domain(error) => write!(f, "dom0: {error:?}"),
        }
    }
}

/// Builds dom0 and starts its first vCPU.
///
/// Not inlined: what it needs of the stack, the values that dom0 and its vCPU are made of, is not to be added to what the
/// start of the hypervisor needs.
#[inline(never)]
pub fn start(
    host: &Host,
    cpu: &Cpu,
    boot: &BootInfo,
    modules: Modules,
    arguments: &str,
) -> Result<(), Dom0Error> {
    let out = host.out(cpu);
    let mut modules = modules.into_iter();
    let mut kernel = modules.next();
    if kernel.is_none() {
        return Err(Dom0Error::NoKernel);
    }
    let mut initrd = modules.next();
    for unused in modules {
        warn!(
            out,
            "a third module of {} bytes is not used",
            unused.bytes().len()
        );
    }
    let free = host.frames.statistics().free;
    let pages = host
        .settings
        .dom0_mem
        .pages(free, RESERVE)
        .map_err(Dom0Error::Memory)?;
    let request = Request {
        kernel: &mut kernel,
        initrd: &mut initrd,
        nr_pages: pages.nr_pages,
        owner: DomId::DOM0,
        screen: boot.screen,
        firmware: if boot.is_efi {
            Firmware::Efi
        } else {
            Firmware::Bios
        },
        arguments,
    };
    let undo = UndoQueue::new();
    let built = builder::build(host.memory(cpu, &undo), request).map_err(Dom0Error::Build)?;
    info!(
        out,
        "dom0: {}, {} MiB, {} vCPUs, entry {:#x}",
        built.kernel_name,
        built.nr_pages >> 8,
        dom0::nr_vcpus(host),
        built.start.rip
    );
    if built.is_command_line_cut {
        warn!(out, "dom0's command line is too long: its end is missing");
    }
    let domain = dom0::add(host, cpu, &built, pages.max_pages, &[]).map_err(Dom0Error::Domain)?;

    let free = host.frames.statistics().free;
    let ram = boot.memory_map.ram_bytes() >> PAGE_SHIFT;
    info!(
        out,
        "memory: {} MiB free, {} KiB kept by the hypervisor",
        free >> 8,
        ram.saturating_sub(free).saturating_sub(built.nr_pages) << 2,
    );
    info!(
        out,
        "dom0 starts, {} million cycles after the boot loader",
        cpu.tsc().wrapping_sub(boot.entry_tsc) / 1_000_000,
    );
    out.release_screen();
    if let Some(first) = domain.vcpu(VcpuId::new(0)) {
        host.bring_up(cpu, first);
    }
    Ok(())
}
