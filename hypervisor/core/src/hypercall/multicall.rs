//! `multicall`: several calls in one.

use dom0_abi::errno::Errno;
use dom0_abi::handle::GuestHandle;
use dom0_abi::xen::MulticallEntry;

use super::continuation::Continuation;
use super::decode::Arguments;
use super::{CallCtx, HypercallResult, Reply, settled, table};
use crate::frame::Unpaid;
use crate::guest_access::GuestPtr;

/// Where in an entry its result lies.
const RESULT: u64 = core::mem::offset_of!(MulticallEntry, result) as u64;

/// Makes the calls one by one and writes each result into its entry.
///
/// `EFAULT`: the list lies where no guest has memory, even if it is empty; an entry could not be read, or its result not written; the calls before it, and in the second case its own,
/// have been made. A call that leaves the caller's context ends the batch: what comes behind it would run for somebody
/// else (XSA-213). ABI: `public/xen.h`, `multicall_entry`.
#[inline(never)]
pub fn multicall(
    ctx: &mut CallCtx<'_>,
    calls: GuestHandle<MulticallEntry>,
    count: u32,
) -> HypercallResult {
    if ctx.in_multicall {
        return Err(Errno::EINVAL);
    }
    let calls = GuestPtr::from(calls);
    if !calls.can_be_guests() {
        return Err(Errno::EFAULT);
    }
    ctx.in_multicall = true;
    let result = batch(ctx, calls, count);
    ctx.in_multicall = false;
    result
}

fn batch(ctx: &mut CallCtx<'_>, calls: GuestPtr<MulticallEntry>, count: u32) -> HypercallResult {
    let mut unpaid = Unpaid::new(&ctx.vcpu.undo);
    for index in 0..count {
        unpaid.pay(&mut ctx.budget);
        let place = calls.element(u64::from(index));
        let rest = Continuation::Multicall {
            calls: GuestHandle::new(place.addr()),
            count: count.saturating_sub(index),
        };
        // The first entry is always made, so that a batch that is resumed gets on.
        if index > 0 && (ctx.must_leave() || !ctx.budget.spend()) {
            return ctx.goes_on(rest);
        }
        let mut entry = place.read(ctx.cpu)?;
        let result = place.offset::<u64>(RESULT);
        let made = one(ctx, &entry);
        match settled(ctx, made) {
            Ok(Reply::Value(value)) => result.write(ctx.cpu, &value)?,
            Err(errno) => result.write(ctx.cpu, &errno.as_register())?,
            Ok(Reply::Continue(_)) => {
                if let Some(rest) = ctx.rest.take() {
                    rest.resume_in_entry(&mut entry);
                }
                place.write(ctx.cpu, &entry)?;
                return ctx.goes_on(rest);
            }
            Ok(Reply::ContextLeft) => return Ok(Reply::ContextLeft),
        }
    }
    Ok(Reply::Value(0))
}

fn one(ctx: &mut CallCtx<'_>, entry: &MulticallEntry) -> HypercallResult {
    let [a, b, c, d, e, _] = entry.args;
    let arguments = Arguments([a, b, c, d, e]);
    table::dispatch(ctx, entry.op, |_| arguments, |_| Err(Errno::ENOSYS))
}
