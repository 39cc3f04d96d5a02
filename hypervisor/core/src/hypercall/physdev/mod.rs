//! `physdev_op` and its older form: what a domain may do with devices and their interrupts.
//!
//! INVARIANT (I28): what is not for all domains is refused to one without devices before anything is read or looked at.

mod interrupts;
mod pci;

use dom0_abi::addr::GuestAddr;
use dom0_abi::errno::Errno;
use dom0_abi::physdev::{PhysdevCommand, PhysdevOp, SetIobitmap, SetIopl};

use super::{CallCtx, HypercallResult, Reply};
use crate::domain::Capabilities;
use crate::guest_access::GuestPtr;

/// `ENOSYS`: no such command, or one that is not here; `EPERM`: it is for domains with devices; `EFAULT`: the argument cannot be read, or the
/// answer not be written; further as the command's. ABI: `public/physdev.h`, `PHYSDEVOP_*`.
#[doc(alias = "HYPERVISOR_physdev_op")]
#[inline(never)]
pub fn physdev_op(ctx: &mut CallCtx<'_>, command: i32, arg: GuestAddr) -> HypercallResult {
    use PhysdevCommand as Cmd;
    let command = Cmd::try_from(command as u32).map_err(|_| Errno::ENOSYS)?;
    if !is_for_all(command) && !ctx.domain.capabilities.contains(Capabilities::HARDWARE) {
        return Err(Errno::EPERM);
    }
    match command {
        // First, being the one that matters: all others come seldom.
        Cmd::Eoi => interrupts::eoi(ctx, GuestPtr::new(arg))?,
        // What it was for is done by `eoi`.
        Cmd::IrqUnmaskNotify => {}
        Cmd::IrqStatusQuery => interrupts::irq_status_query(ctx, GuestPtr::new(arg))?,
        Cmd::SetIopl => {
            let request: SetIopl = GuestPtr::new(arg).read(ctx.cpu)?;
            ctx.state.privileged.set_iopl(request.iopl)?;
        }
        Cmd::SetIobitmap => {
            let request: SetIobitmap = GuestPtr::new(arg).read(ctx.cpu)?;
            let bitmap = request.bitmap.addr();
            (ctx.state.privileged).set_port_bitmap(bitmap, request.nr_ports)?;
        }
        Cmd::ApicRead => interrupts::apic_read(ctx, GuestPtr::new(arg))?,
        // Lines are routed by mapping, binding and `setup_gsi`.
        Cmd::ApicWrite => return Err(Errno::EPERM),
        Cmd::AllocIrqVector => interrupts::alloc_irq_vector(ctx, GuestPtr::new(arg))?,
        Cmd::FreeIrqVector => {}
        Cmd::MapPirq => interrupts::map_pirq(ctx, GuestPtr::new(arg))?,
        Cmd::UnmapPirq => interrupts::unmap_pirq(ctx, GuestPtr::new(arg))?,
        Cmd::SetupGsi => interrupts::setup_gsi(ctx, GuestPtr::new(arg))?,
        Cmd::GetFreePirq => interrupts::get_free_pirq(ctx, GuestPtr::new(arg))?,
        Cmd::ManagePciAdd
        | Cmd::ManagePciAddExt
        | Cmd::ManagePciRemove
        | Cmd::PciDeviceAdd
        | Cmd::PciDeviceRemove
        | Cmd::RestoreMsi
        | Cmd::RestoreMsiExt
        | Cmd::PrepareMsix
        | Cmd::ReleaseMsix => pci::about_function(ctx, command, arg)?,
        Cmd::PciMmcfgReserved => pci::mmcfg_reserved(ctx, GuestPtr::new(arg))?,
        // The hypervisor uses no debug port.
        Cmd::DbgpOp => {}
        // Every interrupt wants its end, as `irq_status_query` says: there is nothing that the page could say.
        Cmd::PirqEoiGmfnV1 | Cmd::PirqEoiGmfnV2 => return Err(Errno::ENOSYS),
    }
    Ok(Reply::DONE)
}

/// Whether a command is for domains without devices too: it concerns the caller alone.
const fn is_for_all(command: PhysdevCommand) -> bool {
    use PhysdevCommand as Cmd;
    matches!(
        command,
        Cmd::SetIopl | Cmd::SetIobitmap | Cmd::PirqEoiGmfnV1 | Cmd::PirqEoiGmfnV2
    )
}

/// The same with command and argument in one structure. `ENOSYS`: it is a command that came later.
/// ABI: `public/physdev.h`, `physdev_op`.
#[inline(never)]
pub fn physdev_op_compat(ctx: &mut CallCtx<'_>, op: GuestAddr) -> HypercallResult {
    const ARGUMENT: u64 = core::mem::offset_of!(PhysdevOp, u) as u64;
    let place = GuestPtr::<PhysdevOp>::new(op);
    let op = place.read(ctx.cpu)?;
    if op.cmd > PhysdevCommand::FreeIrqVector.get() {
        return Err(Errno::ENOSYS);
    }
    physdev_op(ctx, op.cmd as i32, place.offset::<u8>(ARGUMENT).addr())
}
