//! The table of hypercalls: what each does here, who may call it, who handles it. Dispatch and the coverage page of the
//! documentation are made from it; a call that the ABI gains does not compile until it has a row.
//!
//! Handlers are not inlined here, so that no call pays for another one's frame. The dispatcher has none: it is part of the entry.

use core::fmt::{self, Write};

use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::{Callers, Hypercall};
use oxen_arch::registers::Attempt;

use super::at_once::Way;
use super::decode::{Arguments, Request};
use super::{
    CallCtx, HypercallResult, callbacks, console_io, cpu_state, multicall, physdev, platform,
    sched, trap_table, vcpu_op, version, vm_assist,
};
use crate::descriptor;
use crate::event;
use crate::grant;
use crate::memory_op;
use crate::mmu;
use crate::trap::iret;

/// How far a call is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It works. The text says what is left out, if anything is.
    Done(&'static str),
    /// It comes with a later part of the work, which the text names; until then `ENOSYS`.
    Planned(&'static str),
    /// It will not come; callers get this error, for this reason.
    Refused(Errno, &'static str),
}

macro_rules! table {
    (
        |$ctx:ident|
        $($variant:ident $({ $($arg:ident),* })? => $kind:ident($($detail:tt)*);)+
    ) => {
        /// How far a call is done.
        pub const fn status(call: Hypercall) -> Status {
            match call {
                $(Hypercall::$variant => table!(@status $kind($($detail)*)),)+
            }
        }

        /// The numbers, to be told from each other.
        #[allow(non_upper_case_globals)]
        mod number {
            use super::Hypercall;
            $(pub(super) const $variant: u64 = Hypercall::$variant.number();)+
        }

        /// Makes the call of a number, if the caller may. `EPERM` otherwise, before anything is looked at (I28). What no call is
        /// goes to `unlisted`.
        ///
        /// One decision over the number leads to the arm of the call, where its arguments have their types and its callers are
        /// known: both are constants there. Of `arguments` only those are looked at that the call has.
        #[inline(always)]
        pub fn dispatch(
            $ctx: &mut CallCtx<'_>,
            number: u64,
            arguments: impl FnOnce(&CallCtx<'_>) -> Arguments,
            unlisted: impl FnOnce(&CallCtx<'_>) -> HypercallResult,
        ) -> HypercallResult {
            match number {
                $(number::$variant => {
                    if const { is_for_control(Hypercall::$variant) } && !$ctx.is_control() {
                        return Err(Errno::EPERM);
                    }
                    match Request::decode(Hypercall::$variant, arguments($ctx)) {
                        Request::$variant { $($($arg,)*)? .. } => table!(@run $kind($($detail)*)),
                        // It is the variant that was asked for.
                        _ => Err(Errno::ENOSYS),
                    }
                })+
                _ => unlisted($ctx),
            }
        }

        /// The numbers of the calls that are made often, and may go the straight way, one bit for each.
        pub const STRAIGHT: u64 = 0 $(| table!(@bit $kind, Hypercall::$variant))+;

        /// Makes a call on the straight way, if it may go that and nothing is in its way.
        #[inline(always)]
        pub(super) fn dispatch_at_once(
            $ctx: Way<'_>,
            number: u64,
            arguments: Arguments,
        ) -> Attempt {
            match number {
                $(number::$variant => table!(
                    @at_once $kind($($detail)*),
                    Request::decode(Hypercall::$variant, arguments), Request::$variant { $($($arg,)*)? .. }
                ),)+
                _ => Attempt::NOTHING,
            }
        }
    };
    (@bit Often, $call:expr) => { 1 << $call.number() };
    (@bit $kind:ident, $call:expr) => { 0 };
    (@at_once Often($note:literal, if $may:expr, $at_once:expr, $handler:expr), $request:expr, $shape:pat) => {
        match $request {
            $shape if $may => $at_once,
            _ => Attempt::NOTHING,
        }
    };
    (@at_once $kind:ident($($detail:tt)*), $request:expr, $shape:pat) => { Attempt::NOTHING };
    (@status Often($note:literal, if $may:expr, $at_once:expr, $handler:expr)) => { Status::Done($note) };
    (@status Done($note:literal, $handler:expr)) => { Status::Done($note) };
    (@status Planned($with:literal)) => { Status::Planned($with) };
    (@status Refused($errno:ident, $reason:literal)) => { Status::Refused(Errno::$errno, $reason) };
    (@run Often($note:literal, if $may:expr, $at_once:expr, $handler:expr)) => { $handler };
    (@run Done($note:literal, $handler:expr)) => { $handler };
    (@run Planned($with:literal)) => { Err(Errno::ENOSYS) };
    (@run Refused($errno:ident, $reason:literal)) => { Err(Errno::$errno) };
}

table! {
    |ctx|
    SetTrapTable { traps } => Done("", trap_table::set_trap_table(ctx, traps));
    MmuUpdate { requests, count, done, foreign } => Often(
        "",
        if mmu::is_one_of_own(count, foreign),
        mmu::mmu_update_at_once(ctx, requests, done),
        mmu::mmu_update(ctx, requests, count, done, foreign)
    );
    SetGdt { frames, entries } => Done("", descriptor::set_gdt(ctx, frames, entries));
    StackSwitch { ss, sp } => Done("", cpu_state::stack_switch(ctx, ss, sp));
    SetCallbacks { event, failsafe, syscall } => Done("", callbacks::set_callbacks(ctx, event, failsafe, syscall));
    FpuTaskswitch { set } => Done("", cpu_state::fpu_taskswitch(ctx, set));
    SchedOpCompat { command, arg } => Done("`yield`, `block`, `shutdown`: all it has", sched::sched_op_compat(ctx, command, arg));
    PlatformOp { op } => Done("`settime64`, `settime32`; `firmware_info` for EFI's versions and tables alone, `enter_acpi_sleep` for S5 alone", platform::platform_op(ctx, op));
    SetDebugreg { register, value } => Done("", cpu_state::set_debugreg(ctx, register, value));
    GetDebugreg { register } => Done("", cpu_state::get_debugreg(ctx, register));
    UpdateDescriptor { maddr, descriptor } => Done("", descriptor::update_descriptor(ctx, maddr, descriptor));
    MemoryOp { command, arg } => Done(
        "what is for translated guests alone answers as for others; `claim_pages` looks, but promises nothing",
        memory_op::memory_op(ctx, command, arg)
    );
    Multicall { calls, count } => Done("", multicall::multicall(ctx, calls, count));
    UpdateVaMapping { va, entry, flags } => Often(
        "",
        if mmu::is_nobody_elses(flags),
        mmu::update_va_mapping_at_once(ctx, va, entry, flags),
        mmu::update_va_mapping(ctx, va, entry, flags)
    );
    SetTimerOp { deadline_ns } => Done("", vcpu_op::set_timer_op(ctx, deadline_ns));
    EventChannelOpCompat { op } => Done("", event::ops::event_channel_op_compat(ctx, op));
    XenVersion { command, arg } => Done("no build id", version::xen_version(ctx, command, arg));
    ConsoleIo { command, count, buffer } => Done("", console_io::console_io(ctx, command, count, buffer));
    PhysdevOpCompat { op } => Done("", physdev::physdev_op_compat(ctx, op));
    GrantTableOp { command, ops, count } => Done(
        "version 1; without `transfer`, `dump_table`, `cache_flush`",
        grant::grant_table_op(ctx, command, ops, count)
    );
    VmAssist { command, kind } => Done("", vm_assist::vm_assist(ctx, command, kind));
    UpdateVaMappingOtherdomain { va, entry, flags, owner } => Done(
        "",
        mmu::update_va_mapping_otherdomain(ctx, va, entry, flags, owner)
    );
    Iret => Done("", iret::iret(ctx));
    VcpuOp { command, vcpu, arg } => Done("", vcpu_op::vcpu_op(ctx, command, vcpu, arg));
    SetSegmentBase { which, base } => Done("", cpu_state::set_segment_base(ctx, which, base));
    MmuextOp { ops, count, done, foreign } => Done("", mmu::mmuext_op(ctx, ops, count, done, foreign));
    XsmOp => Refused(ENOSYS, "no security module; the toolstack takes any error for that");
    NmiOp { command, arg } => Done("", callbacks::nmi_op(ctx, command, arg));
    SchedOp { command, arg } => Done("", sched::sched_op(ctx, command, arg));
    CallbackOp { command, arg } => Done("", callbacks::callback_op(ctx, command, arg));
    XenoprofOp => Refused(ENOSYS, "no profiler");
    EventChannelOp { command, arg } => Often(
        "`reset` of another domain when that has shut down",
        if event::ops::is_send(command),
        event::ops::send_at_once(ctx, arg),
        event::ops::event_channel_op(ctx, command, arg)
    );
    PhysdevOp { command, arg } => Done(
        "interrupts and functions of the caller alone; no `pirq_eoi_gmfn`: every interrupt wants its `eoi`",
        physdev::physdev_op(ctx, command, arg)
    );
    HvmOp => Refused(ENOSYS, "for guests in hardware containers");
    Sysctl => Planned("Debian's tools");
    Domctl => Planned("Debian's tools");
    KexecOp => Refused(ENOSYS, "no crash kernel");
    TmemOp => Refused(ENOSYS, "removed from the ABI");
    ArgoOp => Refused(ENOSYS, "off by default where it exists");
    XenpmuOp => Refused(EOPNOTSUPP, "no virtual performance counters");
    DmOp => Refused(ENOSYS, "for guests in hardware containers");
    HypfsOp => Refused(ENOSYS, "no file system of settings");
    Mca => Refused(ENOSYS, "machine checks stop the host");
}

/// Whether a call is made for domains that control others only.
const fn is_for_control(call: Hypercall) -> bool {
    matches!(call.callers(), Callers::Control) && matches!(status(call), Status::Done(_))
}

/// Writes the page of the documentation that says what of the ABI is there.
pub fn coverage_markdown(out: &mut dyn Write) -> fmt::Result {
    out.write_str(
        "# Hypercalls\n\n\
         Generated from the dispatch table by `cargo xtask docs`. \"Control\" means domains that control others. A number \
         that is not listed answers `ENOSYS`.\n\n\
         | number | hypercall | arguments | callers | state | notes |\n\
         |---|---|---|---|---|---|\n",
    )?;
    for &call in Hypercall::ALL {
        write!(out, "| {} | `{}` |", call.number(), call.name())?;
        if call.args().is_empty() {
            out.write_str(" none")?;
        }
        for (index, (name, _)) in call.args().iter().enumerate() {
            write!(out, "{} `{name}`", if index == 0 { "" } else { "," })?;
        }
        let callers = match call.callers() {
            Callers::Any => "any",
            Callers::Control => "control",
            Callers::Retired => "none",
        };
        let (state, note) = match status(call) {
            Status::Done(note) => ("done", note),
            Status::Planned(with) => ("planned: `ENOSYS`", with),
            Status::Refused(Errno::EOPNOTSUPP, reason) => ("refused: `EOPNOTSUPP`", reason),
            Status::Refused(Errno::ENOSYS, reason) => ("refused: `ENOSYS`", reason),
            Status::Refused(_, reason) => ("refused", reason),
        };
        writeln!(out, " | {callers} | {state} | {note} |")?;
    }
    Ok(())
}
