//! `vm_assist`: behaviours that a guest switches on and off for the whole domain.

use dom0_abi::errno::Errno;
use dom0_abi::xen::{VmAssist, VmAssistCommand};

use super::{CallCtx, HypercallResult, Reply};

/// Records that a behaviour is on or off.
///
/// `EINVAL`: no such behaviour. `ENOSYS`: no such command. ABI: `public/xen.h`, `VMASST_CMD_*`.
#[inline(never)]
pub fn vm_assist(ctx: &mut CallCtx<'_>, command: u32, kind: u32) -> HypercallResult {
    let assist = VmAssist::try_from(kind).map_err(|_| Errno::EINVAL)?;
    let command = VmAssistCommand::try_from(command).map_err(|_| Errno::ENOSYS)?;
    ctx.domain
        .assists
        .set(assist, command == VmAssistCommand::Enable);
    Ok(Reply::DONE)
}
