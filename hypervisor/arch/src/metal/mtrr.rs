//! Memory-type ranges: those of all CPUs must be the same. SPEC: Intel SDM volume 3, 12.11.

use core::arch::asm;

use arrayvec::ArrayVec;
use x86_64::registers::control::{Cr0, Cr0Flags};
use x86_64::registers::model_specific::Msr;

use super::cpu::Cpu;

const CAPABILITIES: u32 = 0xfe;
const HAS_FIXED: u64 = 1 << 8;
const FIXED: [u32; 11] = [
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
];
/// Base and mask of each, one behind the other.
const VARIABLE: u32 = 0x200;
const DEFAULT: u32 = 0x2ff;
const ENABLED: u64 = 1 << 11;

/// The registers of a CPU: number and value of each, the one that enables them left out.
#[derive(PartialEq, Eq)]
pub(super) struct Mtrrs {
    default: u64,
    others: ArrayVec<(u32, u64), 64>,
}

impl Mtrrs {
    /// Reads those of this CPU; `None` if it has none.
    pub(super) fn read() -> Option<Self> {
        let features = raw_cpuid::CpuId::new().get_feature_info()?;
        if !features.has_mtrr() {
            return None;
        }
        // SAFETY: the CPU has the registers that it says it has; reading them does nothing.
        let read = |msr: u32| unsafe { Msr::new(msr).read() };
        let capabilities = read(CAPABILITIES);
        let fixed = FIXED.into_iter().filter(|_| capabilities & HAS_FIXED != 0);
        let variable = (VARIABLE..).take(2 * (capabilities & 0xff) as usize);
        let mut others = ArrayVec::new();
        for msr in fixed.chain(variable) {
            // No CPU has more.
            let _ = others.try_push((msr, read(msr)));
        }
        Some(Self {
            default: read(DEFAULT),
            others,
        })
    }

    /// Gives this CPU these registers, with its caches off and empty meanwhile, as all say that must be done.
    pub(super) fn load(&self, cpu: &Cpu) {
        let cr0 = Cr0::read();
        // SAFETY: the CPU is like the one that they were read from. While caches are off, memory is as it is with them on. Ranges
        // that are off make all memory uncached, which is slow and nothing else.
        unsafe {
            Cr0::write((cr0 | Cr0Flags::CACHE_DISABLE) - Cr0Flags::NOT_WRITE_THROUGH);
            asm!("wbinvd", options(nostack, preserves_flags));
            cpu.flush_tlb();
            Msr::new(DEFAULT).write(self.default & !ENABLED);
            for (msr, value) in &self.others {
                Msr::new(*msr).write(*value);
            }
            Msr::new(DEFAULT).write(self.default);
            asm!("wbinvd", options(nostack, preserves_flags));
            cpu.flush_tlb();
            Cr0::write(cr0);
        }
    }
}
