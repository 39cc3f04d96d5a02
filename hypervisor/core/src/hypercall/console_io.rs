//! `console_io`: the console's own call, with its caller and its rest put into terms of this module.

use dom0_abi::handle::GuestHandle;

use super::continuation::Continuation;
use super::{CallCtx, HypercallResult, Reply};
use crate::budget::Budget;
use crate::console::op::{self, Progress};
use crate::domain::Capabilities;

/// Writes to and reads from the host's console. Errors are those of [`op::console_io`].
#[inline(never)]
pub fn console_io(
    ctx: &mut CallCtx<'_>,
    command: u32,
    count: u32,
    buffer: GuestHandle<u8>,
) -> HypercallResult {
    let may = ctx.domain.capabilities.contains(Capabilities::CONSOLE);
    let out = ctx.host.out(ctx.cpu);
    // A serial line takes its time: what else the caller wants waits for the next entry (I18).
    ctx.budget = Budget::SPENT;
    match op::console_io(out, ctx.cpu, may, command, count, buffer.addr())? {
        Progress::Done(value) => Ok(Reply::Value(value)),
        Progress::Continue { count, buffer } => ctx.goes_on(Continuation::ConsoleWrite {
            count,
            buffer: GuestHandle::new(buffer),
        }),
    }
}
