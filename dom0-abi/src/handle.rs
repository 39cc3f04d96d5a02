//! Addresses of typed objects in a guest's memory, as structures carry them.

use core::fmt;
use core::marker::PhantomData;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::GuestAddr;

/// The guest virtual address of a `T`, or of the first of several: a claim that nobody has checked.
///
/// ABI: `public/arch-x86/xen.h`, `XEN_GUEST_HANDLE`.
#[doc(alias = "XEN_GUEST_HANDLE")]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct GuestHandle<T> {
    address: u64,
    target: PhantomData<fn() -> T>,
}

impl<T> GuestHandle<T> {
    /// The handle that points nowhere.
    pub const NULL: Self = Self::new(GuestAddr::new(0));

    /// Says that a `T` is at this address.
    pub const fn new(address: GuestAddr) -> Self {
        Self {
            address: address.get(),
            target: PhantomData,
        }
    }

    /// The address.
    pub const fn addr(self) -> GuestAddr {
        GuestAddr::new(self.address)
    }

    /// Whether this is [`GuestHandle::NULL`].
    pub const fn is_null(self) -> bool {
        self.address == 0
    }

    /// The handle of the object `index` places further on; `None` if no address that far exists.
    pub const fn element(self, index: u64) -> Option<Self> {
        let Some(bytes) = index.checked_mul(size_of::<T>() as u64) else {
            return None;
        };
        match self.address.checked_add(bytes) {
            Some(address) => Some(Self {
                address,
                target: PhantomData,
            }),
            None => None,
        }
    }
}

// Not derived: that would ask the same of `T`, of which there is none here.
impl<T> Clone for GuestHandle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for GuestHandle<T> {}

impl<T> PartialEq for GuestHandle<T> {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
    }
}

impl<T> Eq for GuestHandle<T> {}

impl<T> Default for GuestHandle<T> {
    fn default() -> Self {
        Self::NULL
    }
}

impl<T> fmt::Debug for GuestHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GuestHandle({:#x})", self.address)
    }
}
