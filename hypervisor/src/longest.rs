//! How long the longest entry of a guest was since the guest wrote its last line: told behind each line, in a bench build,
//! under QEMU's `-icount`, where a tick of the time stamp counter is an instruction.
//!
//! From the first instruction of a handler to its last: all but the entry stub and the way out, which take less than a
//! hundred. Of one in which the CPU sleeps, what comes behind the last sleep counts.

use core::sync::atomic::{AtomicU64, Ordering};

use dom0_abi::arch::CpuUserRegs;
use dom0_abi::hypercalls::Hypercall;
use oxen_arch::Cpu;
use oxen_core::host::Host;
use oxen_core::info;

/// Shorter entries are not worth a line.
const SHORT: u64 = 10_000;

static LONGEST: AtomicU64 = AtomicU64::new(0);
/// What it was: its vector, and the number of the hypercall.
static WHAT: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// An entry under way; it ends with this value.
pub struct Entry<'a> {
    host: &'a Host,
    cpu: &'a Cpu,
    what: [u64; 2],
    start: u64,
}

impl<'a> Entry<'a> {
    /// Begins to count, with the registers that the guest came with.
    pub fn begin(host: &'a Host, cpu: &'a Cpu, regs: &CpuUserRegs) -> Self {
        Self {
            host,
            cpu,
            what: [regs.entry_vector.into(), regs.rax],
            start: cpu.tsc(),
        }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let start = self.start.max(self.cpu.awake_since());
        let instructions = self.cpu.tsc().wrapping_sub(start);
        if LONGEST.fetch_max(instructions, Ordering::Relaxed) < instructions {
            for (place, value) in WHAT.iter().zip(self.what) {
                place.store(value, Ordering::Relaxed);
            }
        }
        let [_, number] = self.what;
        if number == Hypercall::ConsoleIo.number() {
            let longest = LONGEST.swap(0, Ordering::Relaxed);
            if longest > SHORT {
                let [vector, number] = WHAT.each_ref().map(|at| at.load(Ordering::Relaxed));
                info!(
                    self.host.out(self.cpu),
                    "longest entry: {longest} instructions, vector {vector:#x}, rax {number:#x}",
                );
            }
        }
    }
}
