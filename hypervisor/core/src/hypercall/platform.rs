//! `platform_op`: what the control domain does with the machine.

use dom0_abi::errno::Errno;
use dom0_abi::handle::GuestHandle;
use dom0_abi::platform::{
    AcpiSleepFlags, EfiConfigTable, EfiInfoIndex, EnterAcpiSleep, FirmwareInfo, FirmwareInfoType,
    INTERFACE_VERSION, PlatformCommand, PlatformOp, Settime32, Settime64,
};

use super::continuation::Continuation;
use super::{CallCtx, HypercallResult, Reply};
use crate::guest_access::GuestPtr;
use crate::info;
use crate::time::wall::WallTime;

/// `EFAULT`: the argument cannot be read. `EACCES`: it is of another version of the interface. `ENOSYS`: no such command, or one that is
/// not here; further as the command's. ABI: `public/platform.h`, `HYPERVISOR_platform_op`.
#[doc(alias = "HYPERVISOR_platform_op")]
#[inline(never)]
pub fn platform_op(ctx: &mut CallCtx<'_>, op: GuestHandle<PlatformOp>) -> HypercallResult {
    let mut request = GuestPtr::from(op).read(ctx.cpu)?;
    if request.interface_version != INTERFACE_VERSION {
        return Err(Errno::EACCES);
    }
    let done = match PlatformCommand::try_from(request.cmd) {
        Ok(PlatformCommand::Settime32) => {
            let time: Settime32 = request.variant();
            set_time(ctx, time.secs.into(), time.nsecs, time.system_time)?
        }
        Ok(PlatformCommand::Settime64) => {
            let time: Settime64 = request.variant();
            if time.mbz != 0 {
                return Err(Errno::EINVAL);
            }
            set_time(ctx, time.secs, time.nsecs, time.system_time)?
        }
        Ok(PlatformCommand::FirmwareInfo) => {
            let mut info: FirmwareInfo = request.variant();
            tell_of_firmware(ctx, &mut info)?;
            request.set_variant(&info);
            GuestPtr::from(op).write(ctx.cpu, &request)?;
            return Ok(Reply::DONE);
        }
        Ok(PlatformCommand::EnterAcpiSleep) => return enter_sleep(ctx, request.variant()),
        _ => return Err(Errno::ENOSYS),
    };
    match done {
        true => Ok(Reply::DONE),
        false => ctx.goes_on(Continuation::PlatformOp { op }),
    }
}

/// Sets the wall clock: it is `secs` s and `nsecs` ns after the beginning of 1970 at a system time in ns. Returns whether all domains have been
/// told.
///
/// `EINVAL`: system time 0 would be before 1970, or later than the page that domains share with us can say.
/// ABI: `public/platform.h`, `XENPF_settime64`, `XENPF_settime32`.
#[doc(alias = "XENPF_settime64")]
#[doc(alias = "XENPF_settime32")]
fn set_time(ctx: &mut CallCtx<'_>, secs: u64, nsecs: u32, system_time: u64) -> Result<bool, Errno> {
    let origin = WallTime::of_system_time_0(secs, nsecs, system_time).ok_or(Errno::EINVAL)?;
    Ok(ctx.host.set_wall_clock(origin, &mut ctx.budget))
}

/// Answers what firmware said at boot: versions and tables of EFI, in which the control domain finds those of ACPI.
///
/// `ENOSYS`: firmware is not EFI, or anything else is asked.
/// ABI: `public/platform.h`, `XENPF_firmware_info`.
#[doc(alias = "XENPF_firmware_info")]
fn tell_of_firmware(ctx: &CallCtx<'_>, info: &mut FirmwareInfo) -> Result<(), Errno> {
    if FirmwareInfoType::try_from(info.kind) != Ok(FirmwareInfoType::EfiInfo) {
        return Err(Errno::ENOSYS);
    }
    let efi = ctx.host.machine.efi().ok_or(Errno::ENOSYS)?;
    match EfiInfoIndex::try_from(info.index) {
        Ok(EfiInfoIndex::Version) => info.set_variant(&efi.revision),
        Ok(EfiInfoIndex::RtVersion) => info.set_variant(&efi.runtime_revision),
        Ok(EfiInfoIndex::ConfigTable) => info.set_variant(&EfiConfigTable {
            addr: efi.tables.get(),
            nent: efi.count,
            _pad0: 0,
        }),
        _ => return Err(Errno::ENOSYS),
    }
    Ok(())
}

/// Switches the machine off, as ACPI's state S5 does.
///
/// `EINVAL`: no such state, or unknown flags. `EOPNOTSUPP`: a state from which the machine would wake, or one by registers that are not here.
/// ABI: `public/platform.h`, `XENPF_enter_acpi_sleep`.
#[doc(alias = "XENPF_enter_acpi_sleep")]
fn enter_sleep(ctx: &CallCtx<'_>, sleep: EnterAcpiSleep) -> HypercallResult {
    const OFF: u32 = 5;
    let flags = AcpiSleepFlags::from_bits(sleep.flags).ok_or(Errno::EINVAL)?;
    if !(1..=OFF).contains(&sleep.sleep_state) {
        return Err(Errno::EINVAL);
    }
    let machine = &ctx.host.machine;
    let is_extended = flags.contains(AcpiSleepFlags::EXTENDED);
    if sleep.sleep_state != OFF || is_extended || !machine.has_switch() {
        return Err(Errno::EOPNOTSUPP);
    }
    info!(
        ctx.host.out(ctx.cpu),
        "dom0 switches the machine off (ACPI S5)"
    );
    machine.switch_off([sleep.val_a, sleep.val_b])
}
