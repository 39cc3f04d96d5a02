//! What a vCPU begins with, as its domain's kernel describes it. ABI: `public/arch-x86/xen.h`, `vcpu_guest_context`.
//!
//! The description is read in pieces, each of them once, and what is read is checked before it is kept. The frames that it names
//! are taken one after the other; what has been taken waits in the state of the vCPU, where a call that goes on finds it, as does the end of
//! the domain.

use core::mem::offset_of;

use dom0_abi::addr::{GuestAddr, Mfn, PAGE_SHIFT};
use dom0_abi::arch::{TrapInfo, VcpuGuestContext, VgcfFlags};
use dom0_abi::errno::Errno;
use oxen_arch::Cpu;
use oxen_arch::guest_range::is_canonical;
use zerocopy::{FromBytes, IntoBytes};

use super::privileged_state::cr0;
use super::teardown;
use super::trap_table::TrapEntry;
use super::vcpu::{Callback, GuestMode, KernelStack, SegmentBases, Vcpu, VcpuState};
use crate::descriptor;
use crate::guest_access::GuestPtr;
use crate::hypercall::CallCtx;
use crate::mmu::{root, with_undone};
use crate::page_type::{HeldType, Stop, TypeRef};
use crate::trap::flags;

/// What reading and checking the description costs, in units of the budget.
const READING: u32 = 16;

/// Reads a field of the description.
macro_rules! field {
    ($cpu:expr, $at:expr, $field:ident) => {
        read($cpu, $at, offset_of!(VcpuGuestContext, $field))?
    };
}

/// Gives a vCPU of the caller's domain, which has none yet, what it begins with. It is down then, unless the description wants it up.
///
/// `EEXIST`: it has that. `EFAULT`: the description cannot be read. `EINVAL`: an address is not canonical, or a table or a root is not what
/// it must be. Nothing has changed then.
pub fn initialise(
    ctx: &mut CallCtx<'_>,
    target: &Vcpu,
    at: GuestPtr<VcpuGuestContext>,
) -> Result<(), Stop> {
    if target.is_initialised() {
        return Err(Errno::EEXIST.into());
    }
    // The caller's is locked: if this one is too, somebody else initialises it, or looks at it.
    let mut state = target.try_lock().ok_or(Stop::Again)?;
    if target.is_initialised() {
        return Err(Errno::EEXIST.into());
    }
    ctx.budget.pay(READING);
    match fill(ctx, target, &mut state, at.addr()) {
        Ok(wants) => {
            target.initialised();
            drop(state);
            if wants.contains(VgcfFlags::ONLINE) {
                ctx.host.bring_up(ctx.cpu, target);
            }
            Ok(())
        }
        Err(Stop::Refused(errno)) => {
            teardown::release_references(ctx.memory(), &mut state);
            Err(errno.into())
        }
        Err(Stop::Again) => Err(Stop::Again),
    }
}

fn fill(
    ctx: &mut CallCtx<'_>,
    target: &Vcpu,
    state: &mut VcpuState,
    at: GuestAddr,
) -> Result<VgcfFlags, Stop> {
    let wants = VgcfFlags::from_bits_retain(field!(ctx.cpu, at, flags));
    let callbacks: [u64; 3] = [
        field!(ctx.cpu, at, event_callback_eip),
        field!(ctx.cpu, at, failsafe_callback_eip),
        field!(ctx.cpu, at, syscall_callback_eip),
    ];
    let bases: [u64; 3] = [
        field!(ctx.cpu, at, fs_base),
        field!(ctx.cpu, at, gs_base_kernel),
        field!(ctx.cpu, at, gs_base_user),
    ];
    let (kernel_ss, kernel_sp): (u64, u64) = (
        field!(ctx.cpu, at, kernel_ss),
        field!(ctx.cpu, at, kernel_sp),
    );
    // Of a vCPU that has none yet: to where they belong at once.
    let regs = &mut state.regs;
    read_bytes(
        ctx.cpu,
        at,
        offset_of!(VcpuGuestContext, user_regs),
        regs.as_mut_bytes(),
    )?;
    let iopl = flags::iopl(regs.rflags);
    let others = [regs.rip, regs.rsp, kernel_sp];
    let mut addresses = callbacks.iter().chain(&bases).chain(&others);
    if !addresses.all(|&address| is_canonical(address)) {
        return Err(Errno::EINVAL.into());
    }
    (regs.cs, regs.ss) = (regs.cs | 3, regs.ss | 3);
    regs.rflags = flags::for_guest(regs.rflags);
    read_registers(ctx.cpu, state, at, wants)?;
    read_traps(ctx.cpu, state, at)?;

    let mut gdt_frames = [0_u64; 16];
    read_bytes(
        ctx.cpu,
        at,
        offset_of!(VcpuGuestContext, gdt_frames),
        gdt_frames.as_mut_bytes(),
    )?;
    let gdt = (&gdt_frames, field!(ctx.cpu, at, gdt_ents));
    let ldt = (
        GuestAddr::new(field!(ctx.cpu, at, ldt_base)),
        field!(ctx.cpu, at, ldt_ents),
    );
    descriptor::give_tables(ctx, &mut state.tables, gdt, ldt)?;
    let control: [u64; 8] = field!(ctx.cpu, at, ctrlreg);
    let [cr0, user_root, _, kernel_root, cr4, ..] = control;
    take_root(ctx, &mut state.root, Some(mfn_of_cr3(kernel_root)))?;
    let user_root = Some(mfn_of_cr3(user_root)).filter(|root| root.get() != 0);
    take_root(ctx, &mut state.user_root, user_root)?;
    target.set_mode(match wants.contains(VgcfFlags::IN_KERNEL) {
        true => GuestMode::Kernel,
        false if user_root.is_some() => GuestMode::User,
        false => return Err(Errno::EINVAL.into()),
    });

    state.privileged.set_task_switched(cr0 & cr0::TS != 0);
    state.privileged.set_cr4(cr4);
    // Two bits are never out of range.
    let _ = state.privileged.set_iopl(iopl);
    let [event, failsafe, syscall] = callbacks;
    state.callbacks.event = event;
    state.callbacks.failsafe = Callback {
        address: failsafe,
        masks_events: wants.contains(VgcfFlags::FAILSAFE_DISABLES_EVENTS),
    };
    state.callbacks.syscall = Callback {
        address: syscall,
        masks_events: wants.contains(VgcfFlags::SYSCALL_DISABLES_EVENTS),
    };
    state.kernel_stack = KernelStack {
        ss: kernel_ss as u16 | 3,
        sp: kernel_sp,
    };
    let [fs, gs_kernel, gs_user] = bases;
    state.bases = SegmentBases {
        fs,
        gs_kernel,
        gs_user,
    };
    Ok(wants)
}

/// Floating point and breakpoints. A breakpoint that is refused is none.
fn read_registers(
    cpu: &Cpu,
    state: &mut VcpuState,
    at: GuestAddr,
    wants: VgcfFlags,
) -> Result<(), Errno> {
    if wants.contains(VgcfFlags::I387_VALID) {
        let image = offset_of!(VcpuGuestContext, fpu_ctxt);
        read_bytes(cpu, at, image, state.fpu.as_legacy_mut())?;
    }
    let debug: [u64; 8] = field!(cpu, at, debugreg);
    for (number, value) in (0..).zip(debug) {
        let _ = state.privileged.set_debug_register(number, value);
    }
    Ok(())
}

/// The handlers, one for each vector, whatever vector they name.
fn read_traps(cpu: &Cpu, state: &mut VcpuState, at: GuestAddr) -> Result<(), Errno> {
    let first = offset_of!(VcpuGuestContext, trap_ctxt) as u64;
    let list = GuestPtr::<TrapInfo>::new(GuestAddr::new(at.get().wrapping_add(first)));
    for vector in 0..=u8::MAX {
        let info = list.element(vector.into()).read(cpu)?;
        if !is_canonical(info.address) {
            return Err(Errno::EINVAL);
        }
        state.traps.set(vector, TrapEntry::of(&info));
    }
    Ok(())
}

fn read<T: FromBytes>(cpu: &Cpu, at: GuestAddr, offset: usize) -> Result<T, Errno> {
    GuestPtr::new(GuestAddr::new(at.get().wrapping_add(offset as u64))).read(cpu)
}

fn read_bytes(cpu: &Cpu, at: GuestAddr, offset: usize, into: &mut [u8]) -> Result<(), Errno> {
    let at = GuestAddr::new(at.get().wrapping_add(offset as u64));
    cpu.read_guest_bytes(at, into).map_err(|_| Errno::EFAULT)
}

/// The frame that a CR3 of the ABI names: bits of its number that do not fit into the upper part are in the lower one.
fn mfn_of_cr3(cr3: u64) -> Mfn {
    Mfn::new(cr3.rotate_right(PAGE_SHIFT))
}

/// Takes a root, unless it was taken before.
fn take_root(
    ctx: &mut CallCtx<'_>,
    place: &mut Option<HeldType>,
    mfn: Option<Mfn>,
) -> Result<(), Stop> {
    if place.as_ref().map(HeldType::mfn) == mfn {
        return Ok(());
    }
    if let Some(other) = place.take() {
        drop(TypeRef::from_held(ctx.memory(), other));
    }
    if let Some(mfn) = mfn {
        *place = Some(with_undone(ctx, |ctx| root(ctx, mfn))?.into_held());
    }
    Ok(())
}
