//! How a bench build tells what it counts: by a hypercall whose number the ABI leaves to the architecture and x86 does not
//! use. Other builds, and Xen, answer it with `ENOSYS`.
//!
//! In: rdi is the index of a counter, from 0 on. If rsi is 0 the answer is its count on this CPU, if it is 1 its name: eight
//! bytes, the first of them the lowest, zeros behind. `ENOENT`: there is no such counter.

use dom0_abi::arch::CpuUserRegs;
use dom0_abi::errno::Errno;
use dom0_abi::xen::HYPERCALL_ARCH_7;
use oxen_arch::counters::{Event, read};

use super::{HypercallResult, Reply};

/// Answers a call that is none of the ABI's table.
pub(super) fn unlisted(regs: &CpuUserRegs) -> HypercallResult {
    if regs.rax != HYPERCALL_ARCH_7 {
        return Err(Errno::ENOSYS);
    }
    let index = usize::try_from(regs.rdi).map_err(|_| Errno::ENOENT)?;
    let event = *Event::ALL.get(index).ok_or(Errno::ENOENT)?;
    match regs.rsi {
        0 => Ok(Reply::Value(read(event))),
        1 => {
            let mut name = [0; 8];
            for (to, from) in name.iter_mut().zip(event.name().bytes()) {
                *to = from;
            }
            Ok(Reply::Value(u64::from_le_bytes(name)))
        }
        _ => Err(Errno::EINVAL),
    }
}
