//! Descriptor tables. ABI: `public/xen.h`, `public/arch-x86/xen.h`.

use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall;

use super::call;

/// Makes `frames` (mfns) the calling vCPU's global descriptor table of so many descriptors. The frames become descriptor
/// pages: what Rust has in them it can no longer write.
///
/// # Safety
///
/// The selectors in use must mean the same in the new table.
#[doc(alias = "HYPERVISOR_set_gdt")]
pub unsafe fn set_gdt(frames: &[u64], entries: u64) -> Result<u64, Errno> {
    // A list shorter than what the hypervisor reads would go on in whatever lies behind it.
    if (frames.len() as u64) < entries.div_ceil(512).min(16) {
        return Err(Errno::EINVAL);
    }
    // SAFETY: the hypervisor reads as many frames as hold `entries`; the caller answers for the selectors.
    unsafe {
        call(
            Hypercall::SetGdt,
            [frames.as_ptr() as u64, entries, 0, 0, 0],
        )
    }
}

/// Writes the descriptor at a machine address.
///
/// # Safety
///
/// The page must be one of the calling domain's in which Rust has nothing but descriptors, and the selectors in use must
/// mean the same with the new descriptor.
#[doc(alias = "HYPERVISOR_update_descriptor")]
pub unsafe fn update_descriptor(place: u64, descriptor: u64) -> Result<u64, Errno> {
    // SAFETY: the caller answers for the place.
    unsafe { call(Hypercall::UpdateDescriptor, [place, descriptor, 0, 0, 0]) }
}
