//! Calls that go on later: the one place that turns the rest of a call into guest registers.
//!
//! A call that used up its budget leaves what remains in the caller's own registers (or in its multicall entry) and steps
//! back to the `syscall` instruction, so that events are delivered in between and the guest, by going on, makes the rest
//! of the call. INVARIANT: what comes back is an ordinary call, decoded and checked like any other; a guest that changes it
//! only makes a different call. What little is kept on our side (frames that `set_gdt` or an exchange has taken) is given back
//! by the next call of its kind, or with the vCPU.

use dom0_abi::addr::GuestAddr;
use dom0_abi::arch::{CpuUserRegs, TrapInfo};
use dom0_abi::handle::GuestHandle;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::{DomId, VcpuId};
use dom0_abi::platform::PlatformOp;
use dom0_abi::xen::{ConsoleIoCommand, MMU_COUNT_PREEMPTED, MmuUpdate, MmuextOp, MulticallEntry};

use super::decode::Arguments;

/// Bytes of the `syscall` instruction, which every entry of a hypercall ends with.
pub const SYSCALL_LENGTH: u64 = 2;

/// The rest of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuation {
    /// Of `multicall`: the entries from `calls` on.
    Multicall {
        /// The next entry.
        calls: GuestHandle<MulticallEntry>,
        /// How many are left.
        count: u32,
    },
    /// Of `set_trap_table`: the entries from `traps` on.
    SetTrapTable {
        /// The next entry.
        traps: GuestHandle<TrapInfo>,
    },
    /// Of a write by `console_io`: the bytes from `buffer` on.
    ConsoleWrite {
        /// How many are left.
        count: u32,
        /// The next one.
        buffer: GuestHandle<u8>,
    },
    /// Of `mmu_update`: the requests from `requests` on.
    MmuUpdate {
        /// The next request.
        requests: GuestHandle<MmuUpdate>,
        /// How many are left, and the mark of a call that goes on.
        count: u32,
        /// Where the number done is wanted, and is kept meanwhile.
        done: GuestHandle<u32>,
        /// Whose pages and tables.
        foreign: u32,
    },
    /// Of `mmuext_op`: the requests from `ops` on.
    MmuextOp {
        /// The next request.
        ops: GuestHandle<MmuextOp>,
        /// How many are left, and the mark of a call that goes on.
        count: u32,
        /// Where the number done is wanted, and is kept meanwhile.
        done: GuestHandle<u32>,
        /// Whose frames.
        foreign: u32,
    },
    /// Of `update_va_mapping`: all of it.
    UpdateVaMapping {
        /// The address.
        va: GuestAddr,
        /// The entry.
        entry: u64,
        /// What is flushed.
        flags: u64,
    },
    /// Of `update_va_mapping_otherdomain`: all of it.
    UpdateVaMappingOtherdomain {
        /// The address.
        va: GuestAddr,
        /// The entry.
        entry: u64,
        /// What is flushed.
        flags: u64,
        /// Whose page.
        owner: DomId,
    },
    /// Of `set_gdt`: all of it, with what has been taken waiting in the caller's state.
    SetGdt {
        /// The frames.
        frames: GuestHandle<u64>,
        /// How many descriptors.
        entries: u32,
    },
    /// Of `update_descriptor`: all of it.
    UpdateDescriptor {
        /// Where.
        maddr: u64,
        /// What.
        descriptor: u64,
    },
    /// Of `set_segment_base`: all of it.
    SetSegmentBase {
        /// Which.
        which: u32,
        /// The base, or the selector.
        base: u64,
    },
    /// Of `memory_op`: all of it, with the progress in the command.
    MemoryOp {
        /// Command and progress.
        command: u64,
        /// The argument.
        arg: GuestAddr,
    },
    /// Of `event_channel_op`: all of it, with what is done not to be found any more.
    EventChannelOp {
        /// The command.
        command: u32,
        /// The argument.
        arg: GuestAddr,
    },
    /// Of `platform_op`: all of it, with what is done not to be found any more.
    PlatformOp {
        /// The argument.
        op: GuestHandle<PlatformOp>,
    },
    /// Of `grant_table_op`: the operations from `ops` on.
    GrantTableOp {
        /// The command.
        command: u32,
        /// The next operation.
        ops: GuestAddr,
        /// How many are left.
        count: u32,
    },
    /// Of `vcpu_op`: all of it, with what has been taken waiting in the other vCPU's state.
    VcpuOp {
        /// The command.
        command: u32,
        /// The other vCPU.
        vcpu: VcpuId,
        /// The argument.
        arg: GuestAddr,
    },
    /// Of any call: only its result is left, which it brings when all page tables that it took out of use are undone. An
    /// `mmu_update` without requests; where the domain stands there is the result.
    Settle {
        /// The result: a number or an error of 32 bits.
        value: u64,
    },
}

/// Makes the caller's next instruction the call that it has just come with.
pub(super) fn make_again(regs: &mut CpuUserRegs) {
    regs.rip = regs.rip.wrapping_sub(SYSCALL_LENGTH);
}

impl Continuation {
    /// The call that does the rest, and those of its arguments that it has; the others are 0.
    pub const fn encode(self) -> (Hypercall, Arguments) {
        match self {
            Self::Multicall { calls, count } => (
                Hypercall::Multicall,
                Arguments([calls.addr().get(), count as u64, 0, 0, 0]),
            ),
            Self::SetTrapTable { traps } => (
                Hypercall::SetTrapTable,
                Arguments([traps.addr().get(), 0, 0, 0, 0]),
            ),
            Self::ConsoleWrite { count, buffer } => (
                Hypercall::ConsoleIo,
                Arguments([
                    ConsoleIoCommand::Write.get() as u64,
                    count as u64,
                    buffer.addr().get(),
                    0,
                    0,
                ]),
            ),
            Self::MmuUpdate {
                requests,
                count,
                done,
                foreign,
            } => (
                Hypercall::MmuUpdate,
                list(requests.addr(), count, done.addr(), foreign),
            ),
            Self::MmuextOp {
                ops,
                count,
                done,
                foreign,
            } => (
                Hypercall::MmuextOp,
                list(ops.addr(), count, done.addr(), foreign),
            ),
            Self::UpdateVaMapping { va, entry, flags } => (
                Hypercall::UpdateVaMapping,
                Arguments([va.get(), entry, flags, 0, 0]),
            ),
            Self::UpdateVaMappingOtherdomain {
                va,
                entry,
                flags,
                owner,
            } => (
                Hypercall::UpdateVaMappingOtherdomain,
                Arguments([va.get(), entry, flags, owner.get() as u64, 0]),
            ),
            Self::SetGdt { frames, entries } => (
                Hypercall::SetGdt,
                Arguments([frames.addr().get(), entries as u64, 0, 0, 0]),
            ),
            Self::UpdateDescriptor { maddr, descriptor } => (
                Hypercall::UpdateDescriptor,
                Arguments([maddr, descriptor, 0, 0, 0]),
            ),
            Self::SetSegmentBase { which, base } => (
                Hypercall::SetSegmentBase,
                Arguments([which as u64, base, 0, 0, 0]),
            ),
            Self::MemoryOp { command, arg } => (
                Hypercall::MemoryOp,
                Arguments([command, arg.get(), 0, 0, 0]),
            ),
            Self::EventChannelOp { command, arg } => (
                Hypercall::EventChannelOp,
                Arguments([command as u64, arg.get(), 0, 0, 0]),
            ),
            Self::PlatformOp { op } => (
                Hypercall::PlatformOp,
                Arguments([op.addr().get(), 0, 0, 0, 0]),
            ),
            Self::GrantTableOp {
                command,
                ops,
                count,
            } => (
                Hypercall::GrantTableOp,
                Arguments([command as u64, ops.get(), count as u64, 0, 0]),
            ),
            Self::VcpuOp { command, vcpu, arg } => (
                Hypercall::VcpuOp,
                Arguments([command as u64, vcpu.get() as u64, arg.get(), 0, 0]),
            ),
            Self::Settle { value } => (
                Hypercall::MmuUpdate,
                list(
                    GuestAddr::new(0),
                    MMU_COUNT_PREEMPTED,
                    GuestAddr::new(0),
                    value as u32,
                ),
            ),
        }
    }

    /// Makes the caller's next instruction the rest of the call. Registers that carry no argument of it stay as they are.
    pub fn resume_in(self, regs: &mut CpuUserRegs) {
        let (call, arguments) = self.encode();
        let mut values = Arguments::of(regs);
        for (value, new) in values.0.iter_mut().zip(arguments.0).take(call.args().len()) {
            *value = new;
        }
        values.store(regs);
        regs.rax = call.number();
        make_again(regs);
    }

    /// Makes a multicall entry the rest of the call.
    pub fn resume_in_entry(self, entry: &mut MulticallEntry) {
        let (call, arguments) = self.encode();
        for (value, new) in entry
            .args
            .iter_mut()
            .zip(arguments.0)
            .take(call.args().len())
        {
            *value = new;
        }
        entry.op = call.number();
    }
}

/// The arguments of a call with a list.
const fn list(requests: GuestAddr, count: u32, done: GuestAddr, foreign: u32) -> Arguments {
    Arguments([requests.get(), count as u64, done.get(), foreign as u64, 0])
}
