//! Which vCPUs of a domain poll: they are woken by any port that becomes pending, since what they wait for may be masked.
//!
//! ORDERING: a vCPU enters, then looks at its port; who makes a port pending does that first, then looks here. All of
//! it is sequentially consistent, so one of both sees the other, and no wake-up is lost.

use dom0_abi::ids::VcpuId;
use oxen_arch::sync::atomic::{AtomicU64, Ordering};

/// A bit for each vCPU.
#[derive(Debug)]
pub struct Pollers([AtomicU64; 2]);

impl Pollers {
    /// None polls.
    pub fn new() -> Self {
        Self([AtomicU64::new(0), AtomicU64::new(0)])
    }

    /// Notes that a vCPU is about to sleep until a port is pending.
    pub fn enter(&self, vcpu: VcpuId) {
        if let Some((word, bit)) = self.place(vcpu) {
            word.fetch_or(bit, Ordering::SeqCst);
        }
    }

    /// Notes that a vCPU does not poll any more.
    pub fn leave(&self, vcpu: VcpuId) {
        if let Some((word, bit)) = self.place(vcpu) {
            word.fetch_and(!bit, Ordering::SeqCst);
        }
    }

    /// Whether any polls.
    #[inline(always)]
    pub fn is_anybody(&self) -> bool {
        self.0.iter().any(|word| word.load(Ordering::SeqCst) != 0)
    }

    /// Calls `wake` for each that polls.
    pub fn for_each(&self, mut wake: impl FnMut(VcpuId)) {
        for (first, word) in [0_u32, 64].into_iter().zip(&self.0) {
            let mut bits = word.load(Ordering::SeqCst);
            while bits != 0 {
                wake(VcpuId::new(first.wrapping_add(bits.trailing_zeros())));
                bits &= bits.wrapping_sub(1);
            }
        }
    }

    fn place(&self, vcpu: VcpuId) -> Option<(&AtomicU64, u64)> {
        let word = self.0.get((vcpu.get() / 64) as usize)?;
        Some((word, 1_u64.wrapping_shl(vcpu.get())))
    }
}

impl Default for Pollers {
    fn default() -> Self {
        Self::new()
    }
}
