//! The commands about interrupts.

use dom0_abi::addr::Maddr;
use dom0_abi::errno::Errno;
use dom0_abi::ids::DomId;
use dom0_abi::physdev::{
    ApicAccess, Eoi, GetFreePirq, IrqStatusFlags, IrqStatusQuery, IrqVector, MapPirq, MapPirqType,
    SetupGsi, UnmapPirq,
};
use oxen_arch::LineMode;
use zerocopy::{Immutable, IntoBytes};

use super::CallCtx;
use super::pci;
use crate::guest_access::GuestPtr;
use crate::irq::{self, MessageSource, Pirq, Wanted};

/// What a look at the records of all messages costs, of which there are a few hundred.
const LOOK: u32 = 20;

/// Says that an interrupt was served. `EINVAL`: it is not the caller's. ABI: `public/physdev.h`, `PHYSDEVOP_eoi`.
pub(super) fn eoi(ctx: &CallCtx<'_>, arg: GuestPtr<Eoi>) -> Result<(), Errno> {
    let request = arg.read(ctx.cpu)?;
    let pirq = ctx.host.irqs.pirq(request.irq).ok_or(Errno::EINVAL)?;
    irq::end(ctx.host, ctx.cpu, ctx.domain, pirq)
}

/// Tells that an interrupt needs an end, as all do, and whether others may have it. `EINVAL`: there is no such interrupt.
/// ABI: `public/physdev.h`, `PHYSDEVOP_irq_status_query`.
#[doc(alias = "PHYSDEVOP_irq_status_query")]
pub(super) fn irq_status_query(
    ctx: &CallCtx<'_>,
    arg: GuestPtr<IrqStatusQuery>,
) -> Result<(), Errno> {
    let mut request = arg.read(ctx.cpu)?;
    let pirq = ctx.host.irqs.pirq(request.irq).ok_or(Errno::EINVAL)?;
    let mut flags = IrqStatusFlags::NEEDS_EOI;
    // Of one that is not mapped there is nothing more to say.
    let is_shared = ctx.host.irqs.is_shared(ctx.domain, pirq).unwrap_or(false);
    flags.set(IrqStatusFlags::SHARED, is_shared);
    request.flags = flags.bits();
    arg.write(ctx.cpu, &request)
}

/// Reads a register of an IO-APIC. `ENXIO`: there is none at that address. ABI: `public/physdev.h`, `PHYSDEVOP_apic_read`.
#[doc(alias = "PHYSDEVOP_apic_read")]
pub(super) fn apic_read(ctx: &CallCtx<'_>, arg: GuestPtr<ApicAccess>) -> Result<(), Errno> {
    let mut request = arg.read(ctx.cpu)?;
    let at = Maddr::new(request.apic_physbase);
    let value = ctx.host.machine.io_apic_register(at, request.reg);
    request.value = value.ok_or(Errno::ENXIO)?;
    arg.write(ctx.cpu, &request)
}

/// Tells the vector of a line, which is a matter of the hypervisor: the line's own number. `EINVAL`: there is no such line.
/// ABI: `public/physdev.h`, `PHYSDEVOP_alloc_irq_vector`.
#[doc(alias = "PHYSDEVOP_alloc_irq_vector")]
pub(super) fn alloc_irq_vector(ctx: &CallCtx<'_>, arg: GuestPtr<IrqVector>) -> Result<(), Errno> {
    let mut request = arg.read(ctx.cpu)?;
    let line = ctx.host.irqs.line(request.irq).ok_or(Errno::EINVAL)?;
    request.vector = line.get();
    arg.write(ctx.cpu, &request)
}

/// Maps a line or a message of a function for the caller.
///
/// `ESRCH`: it is for another domain; `EINVAL`: no such kind of interrupt; `EOPNOTSUPP`: several messages, which would want
/// hardware that translates them; further as [`irq::Irqs::map_line`], [`MessageSource::find`] and [`irq::Irqs::map_message`].
/// ABI: `public/physdev.h`, `PHYSDEVOP_map_pirq`.
#[doc(alias = "PHYSDEVOP_map_pirq")]
pub(super) fn map_pirq(ctx: &mut CallCtx<'_>, arg: GuestPtr<MapPirq>) -> Result<(), Errno> {
    let mut request = arg.read(ctx.cpu)?;
    is_own(ctx, request.domid)?;
    ctx.budget.pay(LOOK);
    let kind = MapPirqType::try_from(request.kind).map_err(|_| Errno::EINVAL)?;
    let (host, owner) = (ctx.host, ctx.domain.id);
    let wanted = match u32::try_from(request.pirq) {
        Err(_) => Wanted::Any,
        Ok(number) => Wanted::This(host.irqs.pirq(number).ok_or(Errno::EINVAL)?),
    };
    let entry = u16::try_from(request.entry_nr).map_err(|_| Errno::EINVAL)?;
    let entry = match kind {
        MapPirqType::Gsi => {
            let gsi = u32::try_from(request.index).map_err(|_| Errno::EINVAL)?;
            let pirq = host.irqs.map_line(&host.machine, owner, gsi, wanted)?;
            request.pirq = pirq.get() as i32;
            return told(ctx, arg, &request, pirq);
        }
        MapPirqType::MultiMsi if entry > 1 => return Err(Errno::EOPNOTSUPP),
        MapPirqType::MultiMsi => None,
        MapPirqType::Msi | MapPirqType::MsiSeg => (request.table_base != 0).then_some(entry),
        MapPirqType::Unknown => return Err(Errno::EINVAL),
    };
    let segment = match kind {
        MapPirqType::Msi => 0,
        _ => (request.bus >> 16) as u16,
    };
    let devfn = u8::try_from(request.devfn).map_err(|_| Errno::EINVAL)?;
    let function = pci::function(ctx, segment, request.bus as u8, devfn)?;
    let source = MessageSource::find(&host.machine, function, entry)?;
    let pirq = (host.irqs).map_message(&host.machine, owner, source, wanted)?;
    request.pirq = pirq.get() as i32;
    told(ctx, arg, &request, pirq)
}

/// Tells the caller what has been mapped, or promised. If that cannot be told it is the caller's no more.
fn told<T: IntoBytes + Immutable>(
    ctx: &CallCtx<'_>,
    arg: GuestPtr<T>,
    answer: &T,
    pirq: Pirq,
) -> Result<(), Errno> {
    arg.write(ctx.cpu, answer).inspect_err(|_| {
        let host = ctx.host;
        // Another vCPU may have been faster.
        let _ = host.irqs.unmap(&host.machine, ctx.domain.id, pirq);
    })
}

/// Takes an interrupt from the caller. `ESRCH`: it is another domain's; `EINVAL`: it is not mapped.
/// ABI: `public/physdev.h`, `PHYSDEVOP_unmap_pirq`.
#[doc(alias = "PHYSDEVOP_unmap_pirq")]
pub(super) fn unmap_pirq(ctx: &CallCtx<'_>, arg: GuestPtr<UnmapPirq>) -> Result<(), Errno> {
    let request = arg.read(ctx.cpu)?;
    is_own(ctx, request.domid)?;
    let number = u32::try_from(request.pirq).map_err(|_| Errno::EINVAL)?;
    let host = ctx.host;
    let pirq = host.irqs.pirq(number).ok_or(Errno::EINVAL)?;
    host.irqs.unmap(&host.machine, ctx.domain.id, pirq)
}

/// Says how a line speaks. `EINVAL`: there is no such line; `EEXIST`: it is in use. ABI: `public/physdev.h`, `PHYSDEVOP_setup_gsi`.
#[doc(alias = "PHYSDEVOP_setup_gsi")]
pub(super) fn setup_gsi(ctx: &CallCtx<'_>, arg: GuestPtr<SetupGsi>) -> Result<(), Errno> {
    let request = arg.read(ctx.cpu)?;
    let gsi = u32::try_from(request.gsi).map_err(|_| Errno::EINVAL)?;
    let mode = LineMode {
        is_level: request.triggering != 0,
        is_low: request.polarity != 0,
    };
    ctx.host.irqs.set_mode(ctx.domain, gsi, mode)
}

/// Promises the caller a number for a message. `EINVAL`: it is not for one; `ENOSPC`: there is none.
/// ABI: `public/physdev.h`, `PHYSDEVOP_get_free_pirq`.
#[doc(alias = "PHYSDEVOP_get_free_pirq")]
pub(super) fn get_free_pirq(
    ctx: &mut CallCtx<'_>,
    arg: GuestPtr<GetFreePirq>,
) -> Result<(), Errno> {
    let mut request = arg.read(ctx.cpu)?;
    ctx.budget.pay(LOOK);
    match MapPirqType::try_from(request.kind) {
        Ok(MapPirqType::Msi | MapPirqType::MsiSeg | MapPirqType::MultiMsi) => {}
        // The numbers of lines are those of the machine.
        Ok(MapPirqType::Gsi | MapPirqType::Unknown) | Err(_) => return Err(Errno::EINVAL),
    }
    let pirq = ctx.host.irqs.promise(ctx.domain.id)?;
    request.pirq = pirq.get();
    told(ctx, arg, &request, pirq)
}

/// Refuses what is for another domain: interrupts of others come with devices of others.
fn is_own(ctx: &CallCtx<'_>, domid: DomId) -> Result<(), Errno> {
    match domid {
        DomId::SELF => Ok(()),
        id if id == ctx.domain.id => Ok(()),
        _ => Err(Errno::ESRCH),
    }
}
