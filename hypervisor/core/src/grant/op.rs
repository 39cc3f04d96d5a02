//! `grant_table_op`: which command it is, and how lists of operations are carried out.

use dom0_abi::addr::GuestAddr;
use dom0_abi::errno::Errno;
use dom0_abi::grant_table::{GrantStatus, GrantTableCommand};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{copy, map, queries, unmap};
use crate::frame::Unpaid;
use crate::guest_access::GuestPtr;
use crate::hypercall::continuation::Continuation;
use crate::hypercall::{CallCtx, HypercallResult, Reply};
use crate::page_type::Stop;

/// Bits of a command that say which it is. The others are for progress within an operation, which none makes here.
const NUMBER: u32 = 0xfff;

/// Carries out a command.
///
/// `EINVAL`: there are too many operations, or not the one that a command takes, or the bits above its number are set; `ENOSYS`:
/// there is no such command here; `EFAULT`: an operation cannot be read, or its result not written: those before it have been
/// carried out. What becomes of each operation is in its status. ABI: `public/grant_table.h`, `HYPERVISOR_grant_table_op`.
#[doc(alias = "HYPERVISOR_grant_table_op")]
#[inline(never)]
pub fn grant_table_op(
    ctx: &mut CallCtx<'_>,
    command: u32,
    ops: GuestAddr,
    count: u32,
) -> HypercallResult {
    use GrantTableCommand as Cmd;
    if count.cast_signed() < 0 || command & !NUMBER != 0 {
        return Err(Errno::EINVAL);
    }
    let list = List {
        command,
        ops,
        count,
    };
    match Cmd::try_from(command).map_err(|_| Errno::ENOSYS)? {
        Cmd::MapGrantRef => list.run(ctx, map::map_grant_ref),
        Cmd::UnmapGrantRef => unmap::unmap_grant_ref(ctx, list),
        Cmd::UnmapAndReplace => unmap::unmap_and_replace(ctx, list),
        Cmd::Copy => list.run(ctx, copy::copy),
        Cmd::SwapGrantRef => list.run(ctx, queries::swap_grant_ref),
        Cmd::SetupTable => list.run_one(ctx, queries::setup_table),
        Cmd::QuerySize => list.run_one(ctx, queries::query_size),
        Cmd::SetVersion => list.run_always(ctx, queries::set_version),
        Cmd::GetVersion => list.run_always(ctx, queries::get_version),
        Cmd::GetStatusFrames => list.run_one(ctx, queries::get_status_frames),
        Cmd::Transfer => Err(Errno::EOPNOTSUPP),
        Cmd::DumpTable | Cmd::CacheFlush => Err(Errno::ENOSYS),
    }
}

/// Why an operation was not carried out. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// For this reason, which is for the caller to know.
    Status(GrantStatus),
    /// It has to be tried again.
    Again,
}

impl From<GrantStatus> for Refused {
    fn from(status: GrantStatus) -> Self {
        Self::Status(status)
    }
}

/// How an operation ended: its status, or that it has to be tried again.
pub(super) fn status_of(result: Result<(), Refused>) -> Result<i16, Stop> {
    match result {
        Ok(()) => Ok(GrantStatus::Okay.get()),
        Err(Refused::Status(status)) => Ok(status.get()),
        Err(Refused::Again) => Err(Stop::Again),
    }
}

/// Operations in a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    pub(super) command: u32,
    pub(super) ops: GuestAddr,
    pub(super) count: u32,
}

impl List {
    /// Carries out operations in order. `one` reads one, and writes what became of it; the error of a call that ends is its.
    pub(super) fn run<'a, T: FromBytes + IntoBytes + Immutable>(
        self,
        ctx: &mut CallCtx<'a>,
        mut one: impl FnMut(&mut CallCtx<'a>, GuestPtr<T>) -> Result<(), Stop>,
    ) -> HypercallResult {
        let ops = self.all()?;
        let mut unpaid = Unpaid::new(&ctx.vcpu.undo);
        for done in 0..self.count {
            let place = ops.element(done.into());
            let mut step = Ok(());
            if done > 0 {
                unpaid.pay(&mut ctx.budget);
                if !ctx.budget.spend_request() {
                    step = Err(Stop::Again);
                }
            }
            match step.and_then(|()| one(ctx, place)) {
                Ok(()) => {}
                Err(Stop::Refused(errno)) => return Err(errno),
                Err(Stop::Again) => return self.goes_on(ctx, place, done),
            }
        }
        Ok(Reply::DONE)
    }

    /// The operations. `EFAULT`: no guest can have them there.
    pub(super) fn all<T>(self) -> Result<GuestPtr<T>, Errno> {
        let ops = GuestPtr::<T>::new(self.ops);
        if ops.row_can_be_guests(self.count) {
            Ok(ops)
        } else {
            Err(Errno::EFAULT)
        }
    }

    /// Ends a call of which `done` operations are carried out, and of which the next is this.
    pub(super) fn goes_on<T>(
        self,
        ctx: &mut CallCtx<'_>,
        next: GuestPtr<T>,
        done: u32,
    ) -> HypercallResult {
        ctx.goes_on(Continuation::GrantTableOp {
            command: self.command,
            ops: next.addr(),
            count: self.count.saturating_sub(done),
        })
    }

    /// Carries out the one operation that a command takes. `EINVAL`: there are more, or none.
    fn run_one<'a, T: FromBytes + IntoBytes + Immutable>(
        self,
        ctx: &mut CallCtx<'a>,
        one: impl FnMut(&mut CallCtx<'a>, GuestPtr<T>) -> Result<(), Stop>,
    ) -> HypercallResult {
        if self.count != 1 {
            return Err(Errno::EINVAL);
        }
        self.run(ctx, one)
    }

    /// The same for a command that does not look at how many there are.
    fn run_always<'a, T: FromBytes + IntoBytes + Immutable>(
        self,
        ctx: &mut CallCtx<'a>,
        one: impl FnMut(&mut CallCtx<'a>, GuestPtr<T>) -> Result<(), Stop>,
    ) -> HypercallResult {
        Self { count: 1, ..self }.run(ctx, one)
    }
}
