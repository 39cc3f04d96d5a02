//! Which virtual addresses can be a guest's, before any page table is asked.
#![forbid(unsafe_code)]

use core::fmt;

use dom0_abi::addr::GuestAddr;

/// The first address of the hypervisor's part of the address space. ABI: `public/arch-x86/xen-x86_64.h`,
/// `HYPERVISOR_VIRT_START`.
#[doc(alias = "HYPERVISOR_VIRT_START")]
pub const HYPERVISOR_START: u64 = 0xffff_8000_0000_0000;
/// The last address of that part. ABI: `public/arch-x86/xen-x86_64.h`, `HYPERVISOR_VIRT_END`.
#[doc(alias = "HYPERVISOR_VIRT_END")]
pub const HYPERVISOR_LAST: u64 = 0xffff_87ff_ffff_ffff;
const LOWER_LAST: u64 = 0x0000_7fff_ffff_ffff;
/// The first address behind it, where the guest's part begins: counted from here on, past the last address to 0, it is one range.
const GUEST_START: u64 = HYPERVISOR_LAST + 1;
/// How long that range is.
const GUEST_LEN: u64 = LOWER_LAST.wrapping_sub(HYPERVISOR_LAST);

/// A guest's memory could not be reached: nothing is mapped there, or not with the rights of user mode, or the address
/// cannot be a guest's. Of a write the bytes before may have been written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestFault {
    /// The first byte that was not reached.
    pub at: GuestAddr,
}

impl fmt::Display for GuestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "guest address {} cannot be reached", self.at)
    }
}

/// Whether all upper bits of the address are copies of bit 47.
pub const fn is_canonical(address: u64) -> bool {
    address <= LOWER_LAST || address >= HYPERVISOR_START
}

/// Checks that all of `len` bytes from `at` on are canonical and outside the hypervisor's part. As for the CPU, address 0 is
/// behind the last one. No byte at all is always well.
#[inline]
pub const fn check_guest_range(at: GuestAddr, len: usize) -> Result<(), GuestFault> {
    let offset = at.get().wrapping_sub(GUEST_START);
    match GUEST_LEN.checked_sub(len as u64) {
        _ if len == 0 => Ok(()),
        Some(last) if offset <= last => Ok(()),
        _ => Err(GuestFault { at }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges() {
        let ok = |at: u64, len: usize| check_guest_range(GuestAddr::new(at), len).is_ok();
        assert!(ok(0, 0) && ok(0, 1) && ok(0, 1 << 47) && ok(LOWER_LAST, 1));
        assert!(!ok(0, (1 << 47) + 1) && !ok(LOWER_LAST, 2) && !ok(LOWER_LAST + 1, 1));
        assert!(
            !ok(HYPERVISOR_START - 1, 1) && !ok(HYPERVISOR_START, 1) && !ok(HYPERVISOR_LAST, 1)
        );
        assert!(!ok(HYPERVISOR_LAST, 2) && ok(HYPERVISOR_LAST + 1, 1));
        assert!(
            ok(u64::MAX, 1) && ok(u64::MAX, 2) && !ok(1, usize::MAX) && !ok(u64::MAX, usize::MAX)
        );
        assert!(ok(u64::MAX, (1 << 47) + 1) && !ok(u64::MAX, (1 << 47) + 2));
        assert!(ok(GUEST_START, GUEST_LEN as usize) && !ok(GUEST_START, GUEST_LEN as usize + 1));
        assert!(ok(HYPERVISOR_START, 0), "no byte is touched");
        // Around the hole and the hypervisor's part there is no address from which a long range could leap over it.
        assert!(!ok(0, usize::MAX) && !ok(LOWER_LAST, usize::MAX));
        assert!(is_canonical(LOWER_LAST) && !is_canonical(LOWER_LAST + 1));
        assert!(
            !is_canonical(HYPERVISOR_START - 1)
                && is_canonical(HYPERVISOR_START)
                && is_canonical(u64::MAX)
        );
    }
}
