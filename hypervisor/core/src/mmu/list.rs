//! Calls that have a list of requests, a count, a place for the number done, and the domain they are for: `mmu_update` and
//! `mmuext_op`.

use core::iter;

use dom0_abi::errno::Errno;
use dom0_abi::handle::GuestHandle;
use dom0_abi::xen::MMU_COUNT_PREEMPTED;
use oxen_arch::Cpu;
use zerocopy::FromBytes;

use crate::frame::Unpaid;
use crate::guest_access::GuestPtr;
use crate::hypercall::continuation::Continuation;
use crate::hypercall::{CallCtx, HypercallResult, Reply};
use crate::page_type::{Stop, undo};

/// The arguments that such calls have in common.
#[derive(Debug)]
pub(super) struct List<T> {
    pub(super) requests: GuestHandle<T>,
    pub(super) count: u32,
    pub(super) done: GuestHandle<u32>,
    pub(super) foreign: u32,
}

impl<T> Clone for List<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for List<T> {}

impl<T: FromBytes + Copy> List<T> {
    /// The result that a call brings which is over but for what had to be given back ([`Continuation::Settle`]).
    pub(super) fn settled(&self) -> Option<Reply> {
        if self.count != MMU_COUNT_PREEMPTED {
            return None;
        }
        self.kept()
    }

    #[cold]
    fn kept(&self) -> Option<Reply> {
        let result = i64::from(self.foreign.cast_signed()).cast_unsigned();
        self.requests.is_null().then_some(Reply::Value(result))
    }

    /// Carries out the requests in order, up to the first that fails, and tells the caller how many were done, if it can be told.
    ///
    /// `EFAULT`: a request cannot be read. A list that takes long is gone on with later: then the number done so far is where the
    /// caller wants it, and is read from there again, so whoever changes it is told a wrong number and nothing else.
    #[inline(always)]
    pub(super) fn run<'a>(
        self,
        ctx: &mut CallCtx<'a>,
        rest: impl Fn(Self) -> Continuation,
        mut carry_out: impl FnMut(&mut CallCtx<'a>, T) -> Result<(), Stop>,
    ) -> HypercallResult {
        let count = self.count & !MMU_COUNT_PREEMPTED;
        let requests = GuestPtr::from(self.requests);
        if !requests.row_can_be_guests(count) {
            return Err(Errno::EFAULT);
        }
        let before = if self.count == count {
            0
        } else {
            GuestPtr::from(self.done).read(ctx.cpu).unwrap_or(0)
        };
        let mut result = Ok(Reply::DONE);
        let mut done = 0;
        let mut unpaid = Unpaid::new(&ctx.vcpu.undo);
        while done < count {
            let place = requests.element(u64::from(done));
            // A request finds done what those before it have begun.
            let is_ready = done == 0
                || (!unpaid.pay(&mut ctx.budget) || undo::drain(ctx.memory(), &mut ctx.budget))
                    && ctx.budget.spend_request();
            let step = if !is_ready {
                Err(Stop::Again)
            } else {
                place
                    .read(ctx.cpu)
                    .map_err(Stop::Refused)
                    .and_then(|request| carry_out(ctx, request))
            };
            match step {
                Ok(()) => done = done.saturating_add(1),
                Err(Stop::Refused(errno)) => {
                    result = Err(errno);
                    break;
                }
                Err(Stop::Again) => {
                    result = ctx.goes_on(rest(Self {
                        requests: GuestHandle::new(place.addr()),
                        count: count.saturating_sub(done) | MMU_COUNT_PREEMPTED,
                        ..self
                    }));
                    break;
                }
            }
        }
        tell(ctx.cpu, self.done, before.wrapping_add(done));
        result
    }
}

/// Tells the caller how many requests were done. Who does not want to know gives an address where nothing can be written.
#[inline]
pub(super) fn tell(cpu: &Cpu, at: GuestHandle<u32>, done: u32) {
    let at = GuestPtr::from(at);
    if !at.is_null() {
        let _ = at.write(cpu, &done);
    }
}

/// Tries something, and once more when what it may have waited for is done.
#[inline]
pub(crate) fn with_undone<'a, R>(
    ctx: &mut CallCtx<'a>,
    mut attempt: impl FnMut(&mut CallCtx<'a>) -> Result<R, Stop>,
) -> Result<R, Stop> {
    let mut is_first = true;
    loop {
        let result = attempt(ctx);
        if !(is_first && matches!(result, Err(Stop::Again))) {
            return result;
        }
        is_first = false;
        if !help(ctx) {
            return Err(Stop::Again);
        }
    }
}

/// Works on what waits to be undone for the caller, and for other vCPUs of its domain: they may not run now. `false`: there was nothing, or
/// there is more to do.
#[cold]
#[inline(never)]
fn help(ctx: &mut CallCtx<'_>) -> bool {
    let mut has_helped = false;
    for queue in iter::once(&ctx.vcpu.undo).chain(ctx.domain.undo_queues()) {
        if queue.is_empty() {
            continue;
        }
        has_helped = true;
        if !undo::drain(ctx.host.memory(ctx.cpu, queue), &mut ctx.budget) {
            return false;
        }
    }
    has_helped
}
