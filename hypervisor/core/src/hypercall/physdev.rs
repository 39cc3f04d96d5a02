//! `physdev_op`: what a domain may do with devices.

use dom0_abi::addr::GuestAddr;
use dom0_abi::errno::Errno;
use dom0_abi::physdev::{PhysdevCommand, SetIopl};

use super::{CallCtx, HypercallResult, Reply};
use crate::guest_access::GuestPtr;

/// `ENOSYS`: no such command, or one that comes with devices' interrupts; `EFAULT`: the argument cannot be read; further as the command's.
/// ABI: `public/physdev.h`, `PHYSDEVOP_*`.
#[inline(never)]
pub fn physdev_op(ctx: &mut CallCtx<'_>, command: i32, arg: GuestAddr) -> HypercallResult {
    match PhysdevCommand::try_from(command as u32) {
        Ok(PhysdevCommand::SetIopl) => {
            let request: SetIopl = GuestPtr::new(arg).read(ctx.cpu)?;
            ctx.state.privileged.set_iopl(request.iopl)?;
            Ok(Reply::DONE)
        }
        _ => Err(Errno::ENOSYS),
    }
}
