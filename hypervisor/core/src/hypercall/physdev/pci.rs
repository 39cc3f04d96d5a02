//! The commands about functions on the PCI bus.
//!
//! The hypervisor keeps no list of them: it asks the bus. That has one segment, whose configuration is reached by ports.

use dom0_abi::addr::GuestAddr;
use dom0_abi::errno::Errno;
use dom0_abi::physdev::{ManagePci, PciDevice, PciMmcfgReserved, PhysdevCommand};
use oxen_arch::PciFunction;

use super::CallCtx;
use crate::guest_access::GuestPtr;
use crate::irq::message;

/// What messages cost that are said again, of all that there may be.
const RESTORE: u32 = 100;

/// A function that is there. `ENODEV`: it is not.
pub(super) fn function(
    ctx: &CallCtx<'_>,
    segment: u16,
    bus: u8,
    devfn: u8,
) -> Result<PciFunction, Errno> {
    let function = PciFunction { bus, devfn };
    if segment != 0 || !message::exists(&ctx.host.machine, function) {
        return Err(Errno::ENODEV);
    }
    Ok(function)
}

/// A command about one function, which the argument begins with.
///
/// `ENODEV`: there is no such function, or it has no table of messages that could be prepared; `EBUSY`: the table is in use.
/// ABI: `public/physdev.h`, `PHYSDEVOP_pci_device_add` and others.
#[doc(alias = "PHYSDEVOP_pci_device_add")]
#[doc(alias = "PHYSDEVOP_restore_msi_ext")]
#[doc(alias = "PHYSDEVOP_prepare_msix")]
pub(super) fn about_function(
    ctx: &mut CallCtx<'_>,
    command: PhysdevCommand,
    arg: GuestAddr,
) -> Result<(), Errno> {
    use PhysdevCommand as Cmd;
    let (segment, bus, devfn) = match command {
        Cmd::ManagePciAdd | Cmd::ManagePciAddExt | Cmd::ManagePciRemove | Cmd::RestoreMsi => {
            let request: ManagePci = GuestPtr::new(arg).read(ctx.cpu)?;
            (0, request.bus, request.devfn)
        }
        _ => {
            let request: PciDevice = GuestPtr::new(arg).read(ctx.cpu)?;
            (request.seg, request.bus, request.devfn)
        }
    };
    let (irqs, machine) = (&ctx.host.irqs, &ctx.host.machine);
    match command {
        // It may be gone already.
        Cmd::ManagePciRemove | Cmd::PciDeviceRemove => Ok(()),
        Cmd::RestoreMsi | Cmd::RestoreMsiExt => {
            let function = function(ctx, segment, bus, devfn)?;
            ctx.budget.pay(RESTORE);
            irqs.restore(machine, function)
        }
        Cmd::PrepareMsix | Cmd::ReleaseMsix => {
            let function = function(ctx, segment, bus, devfn)?;
            if !message::has_table(machine, function) {
                return Err(Errno::ENODEV);
            }
            match irqs.sends(function) {
                true => Err(Errno::EBUSY),
                false => Ok(()),
            }
        }
        _ => function(ctx, segment, bus, devfn).map(|_| ()),
    }
}

/// Takes note of configuration in memory: the hypervisor does without. ABI: `public/physdev.h`, `PHYSDEVOP_pci_mmcfg_reserved`.
#[doc(alias = "PHYSDEVOP_pci_mmcfg_reserved")]
pub(super) fn mmcfg_reserved(
    ctx: &CallCtx<'_>,
    arg: GuestPtr<PciMmcfgReserved>,
) -> Result<(), Errno> {
    arg.read(ctx.cpu).map(|_| ())
}
