//! System time, as the hypervisor tells it in `vcpu_info`.

use core::arch::x86_64::_rdtsc;
use core::mem::offset_of;
use core::ptr;

use dom0_abi::xen::{VcpuInfo, VcpuTimeInfo};

/// Where the time is told.
#[derive(Clone, Copy)]
pub struct Clock(pub u64);

impl Clock {
    /// That in the `vcpu_info` at this address.
    pub fn of(info: u64) -> Self {
        Self(info + offset_of!(VcpuInfo, time) as u64)
    }

    /// What is told, and the time-stamp counter at that moment.
    pub fn read(self) -> (VcpuTimeInfo, u64) {
        loop {
            // SAFETY: the page stays mapped.
            let info = unsafe { self.look() };
            // SAFETY: reads a counter.
            let tsc = unsafe { _rdtsc() };
            // SAFETY: as above.
            let again = unsafe { self.look() };
            if info.version == again.version && info.version.is_multiple_of(2) {
                return (info, tsc);
            }
        }
    }

    unsafe fn look(self) -> VcpuTimeInfo {
        let at = ptr::with_exposed_provenance::<VcpuTimeInfo>(self.0 as usize);
        // SAFETY: the caller's promise.
        unsafe { at.read_volatile() }
    }

    /// System time now. ABI: `public/xen.h`, `struct vcpu_time_info`.
    pub fn now(self) -> u64 {
        let (info, tsc) = self.read();
        let cycles = tsc.wrapping_sub(info.tsc_timestamp);
        let shifted = if info.tsc_shift < 0 {
            cycles >> info.tsc_shift.unsigned_abs()
        } else {
            cycles << info.tsc_shift
        };
        let scaled = (u128::from(shifted) * u128::from(info.tsc_to_system_mul)) >> 32;
        info.system_time.wrapping_add(scaled as u64)
    }
}
