//! Calls that go on later: the one place that turns the rest of a call into guest registers.
//!
//! A call that used up its budget leaves what remains in the caller's own registers (or in its multicall entry) and steps
//! back to the `syscall` instruction, so that events are delivered in between and the guest, by going on, makes the rest
//! of the call. INVARIANT: nothing is kept on our side, and what comes back is an ordinary call, decoded and checked like
//! any other; a guest that changes it only makes a different call.

use dom0_abi::arch::{CpuUserRegs, TrapInfo};
use dom0_abi::handle::GuestHandle;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::xen::{ConsoleIoCommand, MulticallEntry};

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
        regs.rip = regs.rip.wrapping_sub(SYSCALL_LENGTH);
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
