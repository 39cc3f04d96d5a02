//! Hypercalls of a PV guest kernel, typed.
//!
//! One function for each call that a guest here uses. A function is safe where the hypervisor touches nothing of the
//! guest's but what a reference allows; the others say what the caller must see to. Failure is the ABI's error number.
//! The calls are valid in guest kernel mode only: from anywhere else, `syscall` is the guest's own affair.
// UNSAFETY: the `syscall` instruction.
#![allow(unsafe_code)]

pub mod descriptors;
pub mod events;
pub mod memory;

use core::arch::asm;
use core::ptr;

use dom0_abi::arch::{SegmentBase, TrapInfo};
use dom0_abi::callback::{CallbackCommand, CallbackRegister};
use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::DomId;
use dom0_abi::sched::{SchedCommand, SchedShutdown, ShutdownReason};
use dom0_abi::version::VersionCommand;
use dom0_abi::xen::{
    ConsoleIoCommand, MmuUpdate, MmuextOp, MulticallEntry, VmAssist, VmAssistCommand,
};
use zerocopy::{FromBytes, IntoBytes};

/// Issues the hypercall `number` as it stands: any number, any arguments (in the order of rdi, rsi, rdx, r10, r8), the
/// bare content of rax as result. For tests of what the hypervisor does with nonsense; else use the functions below.
///
/// # Safety
///
/// The caller must know what the hypervisor does with the arguments: which memory of the guest it writes or unmaps,
/// where it makes the guest go on.
pub unsafe fn raw(number: u64, args: [u64; 5]) -> u64 {
    let result;
    let [rdi, rsi, rdx, r10, r8] = args;
    // SAFETY: the hypervisor returns behind the instruction with rax as result and rcx, r11 lost; it may also destroy
    // the argument registers. What else it does is in the caller's hands.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            inlateout("rdi") rdi => _,
            inlateout("rsi") rsi => _,
            inlateout("rdx") rdx => _,
            inlateout("r10") r10 => _,
            inlateout("r8") r8 => _,
            lateout("rcx") _,
            lateout("r11") _,
        )
    };
    result
}

/// Tells error numbers from results. The ABI keeps the last 4095 values of 64 bits for errors.
pub fn decode(result: u64) -> Result<u64, Errno> {
    let value = result.cast_signed();
    if !(-4095..0).contains(&value) {
        return Ok(result);
    }
    // A number that this side does not know is a failure all the same.
    Err(Errno::from_return(value).unwrap_or(Errno::EINVAL))
}

/// Issues a hypercall that has a name.
///
/// # Safety
///
/// As for [`raw`].
pub unsafe fn call(which: Hypercall, args: [u64; 5]) -> Result<u64, Errno> {
    // SAFETY: the caller's promise is the same.
    decode(unsafe { raw(which.number(), args) })
}

/// Sets entries of the virtual trap table; the list ends at an entry with address zero. An empty list clears the table.
///
/// # Safety
///
/// Each address must be that of a trap handler.
#[doc(alias = "HYPERVISOR_set_trap_table")]
pub unsafe fn set_trap_table(entries: &[TrapInfo]) -> Result<u64, Errno> {
    let list = match entries.last() {
        None => 0,
        Some(last) if last.address == 0 => entries.as_ptr() as u64,
        // Without its end the list would go on in whatever lies behind it.
        Some(_) => return Err(Errno::EINVAL),
    };
    // SAFETY: the hypervisor reads the list up to its end; the caller answers for the handlers.
    unsafe { call(Hypercall::SetTrapTable, [list, 0, 0, 0, 0]) }
}

/// Sets or clears the task-switched flag: whether the next use of the FPU raises #NM.
#[doc(alias = "HYPERVISOR_fpu_taskswitch")]
pub fn fpu_taskswitch(set: bool) -> Result<u64, Errno> {
    // SAFETY: touches no memory; #NM goes to the trap table like any other trap.
    unsafe { call(Hypercall::FpuTaskswitch, [u64::from(set), 0, 0, 0, 0]) }
}

/// Writes a debug register.
#[doc(alias = "HYPERVISOR_set_debugreg")]
pub fn set_debugreg(register: u32, value: u64) -> Result<u64, Errno> {
    // SAFETY: touches no memory; #DB goes to the trap table like any other trap.
    unsafe {
        call(
            Hypercall::SetDebugreg,
            [u64::from(register), value, 0, 0, 0],
        )
    }
}

/// Reads a debug register.
#[doc(alias = "HYPERVISOR_get_debugreg")]
pub fn get_debugreg(register: u32) -> Result<u64, Errno> {
    // SAFETY: touches no memory.
    unsafe { call(Hypercall::GetDebugreg, [u64::from(register), 0, 0, 0, 0]) }
}

/// Makes the hypercalls that the entries describe, in order, and leaves each one's result in its entry.
///
/// # Safety
///
/// As for [`raw`], for each entry.
#[doc(alias = "HYPERVISOR_multicall")]
pub unsafe fn multicall(entries: &mut [MulticallEntry]) -> Result<u64, Errno> {
    // SAFETY: the hypervisor reads and writes the entries; the caller answers for the calls.
    unsafe {
        call(
            Hypercall::Multicall,
            [entries.as_mut_ptr() as u64, entries.len() as u64, 0, 0, 0],
        )
    }
}

/// Writes the level-1 page-table entry that maps `va`, and flushes as `flags` say.
///
/// # Safety
///
/// Whatever Rust knows to be at `va` must stay true under the new entry.
#[doc(alias = "HYPERVISOR_update_va_mapping")]
pub unsafe fn update_va_mapping(va: u64, entry: u64, flags: u64) -> Result<u64, Errno> {
    // SAFETY: the caller answers for the change.
    unsafe { call(Hypercall::UpdateVaMapping, [va, entry, flags, 0, 0]) }
}

/// Writes the level-1 page-table entry that maps `va`, as [`update_va_mapping`] does, with a frame of another domain.
///
/// # Safety
///
/// As for [`update_va_mapping`].
#[doc(alias = "HYPERVISOR_update_va_mapping_otherdomain")]
pub unsafe fn update_va_mapping_otherdomain(
    va: u64,
    entry: u64,
    flags: u64,
    owner: DomId,
) -> Result<u64, Errno> {
    let args = [va, entry, flags, u64::from(owner.get()), 0];
    // SAFETY: the caller answers for the change.
    unsafe { call(Hypercall::UpdateVaMappingOtherdomain, args) }
}

/// How far a list of operations came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// What the call answered. The first operation that fails ends the list; what came before it stays done.
    pub result: Result<u64, Errno>,
    /// How many operations the hypervisor says were done; [`Batch::UNTOLD`] if it did not say.
    pub done: u32,
}

impl Batch {
    /// A number of operations that no call has room for.
    pub const UNTOLD: u32 = u32::MAX;
}

/// A call that takes a list, a count, where to write what was done, and whose frames are meant.
///
/// # Safety
///
/// As for [`raw`], for each operation.
unsafe fn batch<T>(which: Hypercall, list: &[T], foreigndom: u32) -> Batch {
    let mut done = Batch::UNTOLD;
    let args = [
        list.as_ptr() as u64,
        list.len() as u64,
        ptr::from_mut(&mut done) as u64,
        u64::from(foreigndom),
        0,
    ];
    // SAFETY: the hypervisor reads the list and writes `done`; the caller answers for the operations.
    let result = unsafe { call(which, args) };
    Batch { result, done }
}

/// Whose frames a batch is about, and whose page tables if those are another domain's still: `foreigndom`.
pub fn foreigndom(frames: DomId, tables: Option<DomId>) -> u32 {
    let tables = tables.map_or(0, |tables| u32::from(tables.get()) + 1);
    tables << 16 | u32::from(frames.get())
}

/// Writes page-table entries and machine-to-physical entries, in order. `foreigndom` is that of [`foreigndom`].
///
/// # Safety
///
/// Whatever Rust knows to be at the addresses that change must stay true.
#[doc(alias = "HYPERVISOR_mmu_update")]
pub unsafe fn mmu_update(updates: &[MmuUpdate], foreigndom: u32) -> Batch {
    // SAFETY: the caller answers for the updates.
    unsafe { batch(Hypercall::MmuUpdate, updates, foreigndom) }
}

/// Does what the entries say to page tables, roots and caches, in order. `foreigndom` is that of [`foreigndom`].
///
/// # Safety
///
/// Whatever Rust knows of the guest's memory must stay true: frames that become page tables lose their writable
/// mappings, a new root must map what the old one did.
#[doc(alias = "HYPERVISOR_mmuext_op")]
pub unsafe fn mmuext_op(entries: &[MmuextOp], foreigndom: u32) -> Batch {
    // SAFETY: the caller answers for the operations.
    unsafe { batch(Hypercall::MmuextOp, entries, foreigndom) }
}

/// Sets the stack on which the hypervisor enters the guest kernel from user mode.
///
/// # Safety
///
/// Below `stack` must be memory that nothing else uses while the guest is in user mode.
#[doc(alias = "HYPERVISOR_stack_switch")]
pub unsafe fn stack_switch(selector: u16, stack: u64) -> Result<u64, Errno> {
    // SAFETY: the caller answers for the stack.
    unsafe {
        call(
            Hypercall::StackSwitch,
            [u64::from(selector), stack, 0, 0, 0],
        )
    }
}

/// The hypervisor's version: major in the upper, minor in the lower 16 bits.
#[doc(alias = "XENVER_version")]
pub fn xen_version() -> Result<u64, Errno> {
    // SAFETY: this command takes no argument and touches no memory.
    unsafe {
        call(
            Hypercall::XenVersion,
            [VersionCommand::Version as u64, 0, 0, 0, 0],
        )
    }
}

/// The size of the pages that the hypervisor hands out.
#[doc(alias = "XENVER_pagesize")]
pub fn page_size() -> Result<u64, Errno> {
    // SAFETY: this command takes no argument and touches no memory.
    unsafe {
        call(
            Hypercall::XenVersion,
            [VersionCommand::PageSize as u64, 0, 0, 0, 0],
        )
    }
}

/// A command of `xen_version` that fills in or reads `argument`.
///
/// # Safety
///
/// `T` must be what the ABI defines for the command, or longer.
#[doc(alias = "HYPERVISOR_xen_version")]
pub unsafe fn xen_version_query<T: FromBytes + IntoBytes>(
    command: VersionCommand,
    argument: &mut T,
) -> Result<u64, Errno> {
    // SAFETY: the hypervisor writes no more than the command's structure; any bytes are a valid `T`.
    unsafe {
        call(
            Hypercall::XenVersion,
            [command as u64, ptr::from_mut(argument) as u64, 0, 0, 0],
        )
    }
}

/// Writes text on the hypervisor's console.
#[doc(alias = "CONSOLEIO_write")]
pub fn console_write(text: &[u8]) -> Result<u64, Errno> {
    // SAFETY: the hypervisor reads `text`.
    unsafe {
        call(
            Hypercall::ConsoleIo,
            [
                ConsoleIoCommand::Write as u64,
                text.len() as u64,
                text.as_ptr() as u64,
                0,
                0,
            ],
        )
    }
}

/// Takes what was typed on the hypervisor's console; returns how many bytes.
#[doc(alias = "CONSOLEIO_read")]
pub fn console_read(into: &mut [u8]) -> Result<u64, Errno> {
    // SAFETY: the hypervisor writes at most `into.len()` bytes to `into`.
    unsafe {
        call(
            Hypercall::ConsoleIo,
            [
                ConsoleIoCommand::Read as u64,
                into.len() as u64,
                into.as_mut_ptr() as u64,
                0,
                0,
            ],
        )
    }
}

/// Switches an assistance on (`enable`) or off.
#[doc(alias = "HYPERVISOR_vm_assist")]
pub fn vm_assist(enable: bool, kind: VmAssist) -> Result<u64, Errno> {
    let command = if enable {
        VmAssistCommand::Enable
    } else {
        VmAssistCommand::Disable
    };
    // SAFETY: touches no memory of the guest.
    unsafe { call(Hypercall::VmAssist, [command as u64, kind as u64, 0, 0, 0]) }
}

/// Sets a segment base.
///
/// # Safety
///
/// Nothing that is addressed through the segment may rely on the old base.
#[doc(alias = "HYPERVISOR_set_segment_base")]
pub unsafe fn set_segment_base(which: SegmentBase, base: u64) -> Result<u64, Errno> {
    // SAFETY: the caller answers for the users of the segment.
    unsafe { call(Hypercall::SetSegmentBase, [which as u64, base, 0, 0, 0]) }
}

/// Sets an entry point at which the hypervisor enters the guest kernel.
///
/// # Safety
///
/// The address must be that of a handler of this kind of entry.
#[doc(alias = "CALLBACKOP_register")]
pub unsafe fn register_callback(callback: &CallbackRegister) -> Result<u64, Errno> {
    let argument = ptr::from_ref(callback) as u64;
    // SAFETY: the hypervisor reads the argument; the caller answers for the handler.
    unsafe {
        call(
            Hypercall::CallbackOp,
            [CallbackCommand::Register as u64, argument, 0, 0, 0],
        )
    }
}

/// Lets other vCPUs run.
#[doc(alias = "SCHEDOP_yield")]
pub fn sched_yield() -> Result<u64, Errno> {
    // SAFETY: touches no memory.
    unsafe { call(Hypercall::SchedOp, [SchedCommand::Yield as u64, 0, 0, 0, 0]) }
}

/// Ends the domain.
#[doc(alias = "SCHEDOP_shutdown")]
pub fn shutdown(reason: ShutdownReason) -> ! {
    let argument = SchedShutdown {
        reason: reason.get(),
    };
    // SAFETY: the hypervisor reads the argument.
    let _ = unsafe {
        call(
            Hypercall::SchedOp,
            [
                SchedCommand::Shutdown as u64,
                ptr::from_ref(&argument) as u64,
                0,
                0,
                0,
            ],
        )
    };
    loop {
        // A hypervisor that lets the caller go on has refused the reason; there is nothing else to do.
        let _ = sched_yield();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreigndom_holds_the_owner_of_tables_plus_one() {
        assert_eq!(foreigndom(DomId::SELF, None), 0x7ff0);
        assert_eq!(foreigndom(DomId::IO, Some(DomId::DOM0)), 0x0001_7ff1);
        assert_eq!(foreigndom(DomId::DOM0, Some(DomId::DOM0)), 0x0001_0000);
    }

    #[test]
    fn errors_are_the_last_4095_numbers_and_nothing_else() {
        assert_eq!(decode(0), Ok(0));
        assert_eq!(decode(0x0004_0011), Ok(0x0004_0011));
        // The largest results: an address at the top of the guest's half, and one below the errors.
        assert_eq!(decode(0xffff_ffff_8000_0000), Ok(0xffff_ffff_8000_0000));
        assert_eq!(decode(-4096i64 as u64), Ok(-4096i64 as u64));
        for &error in Errno::ALL {
            assert_eq!(decode(error.as_register()), Err(error));
        }
        assert_eq!(
            decode(-4095i64 as u64),
            Err(Errno::EINVAL),
            "an error without a name is an error"
        );
    }
}
