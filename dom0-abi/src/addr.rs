//! Frame numbers and addresses.
//!
//! *mfn* and *maddr* name a place in the machine's memory; *pfn* is a guest's own, contiguous numbering of the frames
//! it was given. They are different types because mixing them up is how one guest reads another's memory.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes in a page, and in a frame of machine memory.
pub const PAGE_SIZE: usize = 4096;
/// Binary logarithm of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
        )]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Wraps a bare number.
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The bare number, as the ABI carries it.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The number `n` further on; `None` if that does not exist.
            pub const fn checked_add(self, n: u64) -> Option<Self> {
                match self.0.checked_add(n) {
                    Some(value) => Some(Self(value)),
                    None => None,
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

number! {
    /// The number of a frame of machine memory.
    Mfn
}
number! {
    /// The number of a frame in a guest's own, contiguous view of its memory.
    Pfn
}
number! {
    /// A byte address in machine memory.
    Maddr
}
number! {
    /// A virtual address as a guest names it: a claim, neither known to be canonical nor known to be the guest's.
    GuestAddr
}

impl Mfn {
    /// The address of the frame's first byte. Wraps for numbers that no machine has; such a frame is never in memory,
    /// so an access to it is refused like any other outside RAM.
    pub const fn start(self) -> Maddr {
        Maddr(self.0 << PAGE_SHIFT)
    }

    /// The address of byte `offset` of the frame; only the low 12 bits of `offset` count.
    pub const fn at(self, offset: usize) -> Maddr {
        Maddr((self.0 << PAGE_SHIFT) | (offset as u64 & 0xfff))
    }

    /// The address of word `index` of the frame, 8 bytes each: of an entry of a page table, of a descriptor. Only the low 9 bits
    /// of `index` count.
    pub const fn word(self, index: usize) -> Maddr {
        self.at(index.wrapping_mul(8))
    }
}

impl Maddr {
    /// The frame that holds this byte.
    pub const fn mfn(self) -> Mfn {
        Mfn(self.0 >> PAGE_SHIFT)
    }

    /// Where in its frame this byte lies.
    pub const fn offset(self) -> usize {
        (self.0 & 0xfff) as usize
    }
}
