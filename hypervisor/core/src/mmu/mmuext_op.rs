//! `mmuext_op`: pins, roots, flushes, whole pages.

use dom0_abi::addr::{GuestAddr, Mfn};
use dom0_abi::errno::Errno;
use dom0_abi::handle::GuestHandle;
use dom0_abi::ids::DomId;
use dom0_abi::xen::{MmuextCommand, MmuextOp};
use oxen_arch::memory::BadFrame;
use oxen_arch::tlb::Flush;

use super::flush::{self, Whose};
use super::list::{List, with_undone};
use super::owners::{self, Owner};
use crate::address_space;
use crate::budget::Budget;
use crate::descriptor;
use crate::domain::vcpu::GuestMode;
use crate::domain::{Capabilities, Domain};
use crate::hypercall::continuation::Continuation;
use crate::hypercall::{CallCtx, HypercallResult};
use crate::page_type::hold::Reach;
use crate::page_type::{HeldType, Level, PageType, Stop, TypeRef, promote};

/// What it costs to write all of a page, eight bytes at a time, in units of the budget.
const WHOLE_PAGE: u32 = 6;

/// Carries out requests in order.
///
/// `foreign`: the domain whose frames are pinned, unpinned, cleared or copied. Errors of single requests are at their functions;
/// `EPERM`, `ESRCH` as for `mmu_update`; `ENOSYS`: no such command; `EFAULT`: the list is out of reach. Requests before
/// the one that failed have been carried out. ABI: `public/xen.h`, `HYPERVISOR_mmuext_op`.
#[inline(never)]
pub fn mmuext_op(
    ctx: &mut CallCtx<'_>,
    ops: GuestHandle<MmuextOp>,
    count: u32,
    done: GuestHandle<u32>,
    foreign: u32,
) -> HypercallResult {
    let list = List {
        requests: ops,
        count,
        done,
        foreign,
    };
    if let Some(reply) = list.settled() {
        return Ok(reply);
    }
    let owner = owners::owner(ctx, DomId::new(foreign as u16))?;
    list.run(
        ctx,
        |rest| Continuation::MmuextOp {
            ops: rest.requests,
            count: rest.count,
            done: rest.done,
            foreign: rest.foreign,
        },
        |ctx, op| with_undone(ctx, |ctx| one(ctx, &owner, &op)),
    )
}

fn one(ctx: &mut CallCtx<'_>, owner: &Owner<'_>, op: &MmuextOp) -> Result<(), Stop> {
    let mfn = Mfn::new(op.arg1);
    let address = GuestAddr::new(op.arg1);
    let vcpus = Whose::Map(GuestHandle::new(GuestAddr::new(op.arg2)));
    let command = MmuextCommand::try_from(op.cmd).map_err(|_| Errno::ENOSYS)?;
    let flush = |ctx: &mut CallCtx<'_>, whose, what| {
        let flushed = flush::flush(ctx, whose, what);
        flushed.map_err(|_| Stop::Refused(Errno::EINVAL))
    };
    if !owner.is_own() && is_for_the_caller(command) {
        return Err(Errno::EPERM.into());
    }
    match command {
        MmuextCommand::PinL1Table => pin(ctx, owner, mfn, Level::L1),
        MmuextCommand::PinL2Table => pin(ctx, owner, mfn, Level::L2),
        MmuextCommand::PinL3Table => pin(ctx, owner, mfn, Level::L3),
        MmuextCommand::PinL4Table => pin(ctx, owner, mfn, Level::L4),
        MmuextCommand::UnpinTable => {
            let domain = domain(owner)?;
            // What this was the last reference of is undone before the call returns.
            drop(TypeRef::unpin(ctx.memory(), mfn, domain.id)?);
            Ok(())
        }
        MmuextCommand::NewBasePtr => new_root(ctx, mfn),
        MmuextCommand::NewUserBasePtr => new_user_root(ctx, mfn),
        MmuextCommand::TlbFlushLocal => flush(ctx, Whose::Own, Some(Flush::All)),
        MmuextCommand::InvlpgLocal => flush(ctx, Whose::Own, flush::of_page(address)),
        MmuextCommand::TlbFlushMulti => flush(ctx, vcpus, Some(Flush::All)),
        MmuextCommand::InvlpgMulti => flush(ctx, vcpus, flush::of_page(address)),
        MmuextCommand::TlbFlushAll => flush(ctx, Whose::All, Some(Flush::All)),
        MmuextCommand::InvlpgAll => flush(ctx, Whose::All, flush::of_page(address)),
        MmuextCommand::FlushCache | MmuextCommand::FlushCacheGlobal => write_back(ctx),
        MmuextCommand::SetLdt => Ok(descriptor::set_ldt(ctx, address, op.arg2 as u32)?),
        MmuextCommand::ClearPage => {
            let page = TypeRef::writable(ctx.memory(), mfn, domain(owner)?.id)?;
            ctx.budget.pay(WHOLE_PAGE);
            zero(ctx, &page)
        }
        MmuextCommand::CopyPage => {
            ctx.budget.pay(WHOLE_PAGE);
            copy(ctx, owner, mfn, Mfn::new(op.arg2))
        }
        // No page is larger than 4 KiB.
        MmuextCommand::MarkSuper | MmuextCommand::UnmarkSuper => Err(Errno::EOPNOTSUPP.into()),
    }
}

/// Whether a command is about the calling vCPU or domain and nobody else's frames.
const fn is_for_the_caller(command: MmuextCommand) -> bool {
    !matches!(
        command,
        MmuextCommand::PinL1Table
            | MmuextCommand::PinL2Table
            | MmuextCommand::PinL3Table
            | MmuextCommand::PinL4Table
            | MmuextCommand::UnpinTable
            | MmuextCommand::ClearPage
            | MmuextCommand::CopyPage
            | MmuextCommand::MarkSuper
            | MmuextCommand::UnmarkSuper
    )
}

/// The domain that frames are said to belong to. `EINVAL`: they are said to be no domain's.
fn domain<'o>(owner: &'o Owner<'_>) -> Result<&'o Domain, Errno> {
    match owner {
        Owner::Domain(named) => Ok(named.domain()),
        Owner::Devices | Owner::Hypervisor => Err(Errno::EINVAL),
    }
}

/// Makes a frame a table, and keeps it one until it is unpinned.
///
/// `EINVAL`: it is not the domain's, is used as something else, is pinned already, or something in it is not allowed. `EBUSY`,
/// `EPERM` as for an entry by `mmu_update`.
fn pin(ctx: &mut CallCtx<'_>, owner: &Owner<'_>, mfn: Mfn, level: Level) -> Result<(), Stop> {
    let domain = domain(owner)?;
    let reach = Reach::own(ctx.host, domain);
    let (memory, ty) = (ctx.memory(), PageType::Table(level));
    let table = promote::acquire(memory, &reach, mfn, ty, &mut ctx.budget)?;
    Ok(table.pin()?)
}

/// Makes a frame the root of kernel mode, on which the vCPU runs from then on. `EINVAL` and others as for [`pin`]; the vCPU
/// stays on the root it has.
fn new_root(ctx: &mut CallCtx<'_>, mfn: Mfn) -> Result<(), Stop> {
    let root = root(ctx, mfn)?;
    let old = ctx.state.root.replace(root.into_held());
    address_space::forget(ctx);
    address_space::load(ctx, mfn, GuestMode::Kernel);
    end(ctx, old);
    Ok(())
}

fn end(ctx: &CallCtx<'_>, root: Option<HeldType>) {
    if let Some(root) = root {
        drop(TypeRef::from_held(ctx.memory(), root));
    }
}

/// Makes a frame the root of user mode; 0 takes it away. Fails as [`new_root`].
fn new_user_root(ctx: &mut CallCtx<'_>, mfn: Mfn) -> Result<(), Stop> {
    let new = if mfn.get() == 0 {
        None
    } else {
        Some(root(ctx, mfn)?.into_held())
    };
    let old = core::mem::replace(&mut ctx.state.user_root, new);
    address_space::forget(ctx);
    end(ctx, old);
    Ok(())
}

/// A root of the caller's own: roots of others are not loaded for anybody.
pub(crate) fn root<'a>(ctx: &mut CallCtx<'a>, mfn: Mfn) -> Result<TypeRef<'a>, Stop> {
    let reach = Reach::own(ctx.host, ctx.domain);
    let ty = PageType::Table(Level::L4);
    promote::acquire(ctx.memory(), &reach, mfn, ty, &mut ctx.budget)
}

/// Writes caches back for a domain that owns devices; others have nothing that sees the difference.
fn write_back(ctx: &mut CallCtx<'_>) -> Result<(), Stop> {
    if !ctx.domain.capabilities.contains(Capabilities::HARDWARE) {
        return Err(Errno::EACCES.into());
    }
    ctx.cpu.write_back_caches();
    // One instruction, and a millisecond where caches are large: nothing else in this entry.
    ctx.budget = Budget::SPENT;
    Ok(())
}

fn zero(ctx: &CallCtx<'_>, page: &TypeRef<'_>) -> Result<(), Stop> {
    let zeroed = ctx.host.mem().zero_frame(page.mfn());
    zeroed.map_err(|BadFrame| Stop::Refused(Errno::EINVAL))
}

/// Copies a page of a domain to another one of it. `EINVAL`: one is not the domain's, or the target is used as something that
/// must not be written to.
fn copy(ctx: &CallCtx<'_>, owner: &Owner<'_>, to: Mfn, from: Mfn) -> Result<(), Stop> {
    let domain = domain(owner)?;
    let source = ctx.memory().acquire(from, domain.id)?;
    let target = TypeRef::writable(ctx.memory(), to, domain.id)?;
    let copied = ctx.host.mem().copy_frame(source.mfn(), target.mfn());
    copied.map_err(|BadFrame| Stop::Refused(Errno::EINVAL))
}
