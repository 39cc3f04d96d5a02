//! Guest pointers as claims: an address and a type, nothing checked. The only ways to what they point at are a read that
//! gives an owned copy and a write of a plain value, each of which checks the range that it touches.
//!
//! INVARIANT (I12): a value is read once, and what was checked is what is used, because a read gives a copy.
//! INVARIANT (I13): each element is checked where it is touched (XSA-212: the base alone was), by `Cpu`'s guest access.
//! INVARIANT (I15): only types without padding are written.

use core::fmt;

use dom0_abi::addr::GuestAddr;
use dom0_abi::errno::Errno;
use dom0_abi::handle::GuestHandle;
use oxen_arch::Cpu;
use oxen_arch::guest_range::check_guest_range;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The claim that a `T` is at some address of the running guest.
pub struct GuestPtr<T>(GuestHandle<T>);

impl<T> GuestPtr<T> {
    /// A claim about this address.
    pub const fn new(at: GuestAddr) -> Self {
        Self(GuestHandle::new(at))
    }

    /// The address.
    pub const fn addr(self) -> GuestAddr {
        self.0.addr()
    }

    /// Whether the address is 0, which many calls give a meaning of its own.
    pub const fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Whether a guest can have anything at the address at all: canonical, and not the hypervisor's. What is there is another
    /// question, which each access asks.
    pub const fn can_be_guests(self) -> bool {
        check_guest_range(self.addr(), 1).is_ok()
    }

    /// The same for `count` values in a row; of none, for the first byte.
    pub const fn row_can_be_guests(self, count: u32) -> bool {
        let len = (size_of::<T>()).saturating_mul(count as usize);
        check_guest_range(self.addr(), if len == 0 { 1 } else { len }).is_ok()
    }

    /// A claim about what lies `bytes` behind. An address beyond the last one wraps; every access to it is checked.
    pub const fn offset<U>(self, bytes: u64) -> GuestPtr<U> {
        GuestPtr::new(GuestAddr::new(self.addr().get().wrapping_add(bytes)))
    }

    /// The claim that what is here is followed by others of its kind: the one `index` places further on.
    pub const fn element(self, index: u64) -> Self {
        self.offset(index.wrapping_mul(size_of::<T>() as u64))
    }
}

impl<T: FromBytes> GuestPtr<T> {
    /// Copies the value in. `EFAULT` if any byte of it cannot be read.
    #[inline]
    pub fn read(self, cpu: &Cpu) -> Result<T, Errno> {
        cpu.read_guest(self.addr()).map_err(|_| Errno::EFAULT)
    }

    /// The same without trying hard, for a value of half a word, a word, or two. `None`: it cannot be read, or not so easily.
    #[inline(always)]
    pub(crate) fn read_at_once(self, cpu: &Cpu) -> Option<T> {
        cpu.read_guest_at_once(self.addr())
    }
}

impl<T: IntoBytes + Immutable> GuestPtr<T> {
    /// Copies a value out. `EFAULT` if any byte of it cannot be written; those before it may have been.
    pub fn write(self, cpu: &Cpu, value: &T) -> Result<(), Errno> {
        cpu.write_guest(self.addr(), value)
            .map_err(|_| Errno::EFAULT)
    }
}

impl GuestPtr<u8> {
    /// Copies bytes out. `EFAULT` if any of them cannot be written; those before it may have been.
    pub fn write_bytes(self, cpu: &Cpu, bytes: &[u8]) -> Result<(), Errno> {
        cpu.write_guest_bytes(self.addr(), bytes)
            .map_err(|_| Errno::EFAULT)
    }
}

impl<T> From<GuestHandle<T>> for GuestPtr<T> {
    fn from(handle: GuestHandle<T>) -> Self {
        Self(handle)
    }
}

impl<T> Clone for GuestPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for GuestPtr<T> {}

impl<T> fmt::Debug for GuestPtr<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GuestPtr({})", self.addr())
    }
}
