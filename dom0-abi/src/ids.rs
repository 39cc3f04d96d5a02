//! Names of the things a hypercall talks about: domains, vCPUs, ports, grants.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::record::{Constant, Group};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($raw:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
        )]
        #[repr(transparent)]
        pub struct $name($raw);

        impl $name {
            /// Wraps a bare number.
            pub const fn new(value: $raw) -> Self {
                Self(value)
            }

            /// The bare number, as the ABI carries it.
            pub const fn get(self) -> $raw {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id! {
    /// The number of a domain, or one of the special values below. ABI: `public/xen.h`, `domid_t`.
    #[doc(alias = "domid_t")]
    DomId(u16)
}
id! {
    /// The number of a vCPU within its domain.
    VcpuId(u32)
}
id! {
    /// The number of an event channel port within its domain. ABI: `public/event_channel.h`, `evtchn_port_t`.
    #[doc(alias = "evtchn_port_t")]
    Port(u32)
}
id! {
    /// A granter's index into its own grant table. ABI: `public/grant_table.h`, `grant_ref_t`.
    #[doc(alias = "grant_ref_t")]
    GrantRef(u32)
}

impl DomId {
    /// The control domain.
    pub const DOM0: Self = Self(0);
    /// The first number that no domain can have.
    #[doc(alias = "DOMID_FIRST_RESERVED")]
    pub const FIRST_RESERVED: Self = Self(0x7ff0);
    /// The calling domain.
    #[doc(alias = "DOMID_SELF")]
    pub const SELF: Self = Self(0x7ff0);
    /// Memory-mapped I/O space.
    #[doc(alias = "DOMID_IO")]
    pub const IO: Self = Self(0x7ff1);
    /// The hypervisor's own pages that it shows to the control domain.
    #[doc(alias = "DOMID_XEN")]
    pub const XEN: Self = Self(0x7ff2);
    /// Pages shared copy-on-write.
    #[doc(alias = "DOMID_COW")]
    pub const COW: Self = Self(0x7ff3);
    /// No domain at all.
    #[doc(alias = "DOMID_INVALID")]
    pub const INVALID: Self = Self(0x7ff4);
    /// What runs where nothing runs.
    #[doc(alias = "DOMID_IDLE")]
    pub const IDLE: Self = Self(0x7fff);

    /// The record of the special numbers.
    pub const CONSTANTS: Group = Group {
        rust: concat!(module_path!(), "::DomId"),
        constants: &[
            Self::FIRST_RESERVED.record("DOMID_FIRST_RESERVED"),
            Self::SELF.record("DOMID_SELF"),
            Self::IO.record("DOMID_IO"),
            Self::XEN.record("DOMID_XEN"),
            Self::COW.record("DOMID_COW"),
            Self::INVALID.record("DOMID_INVALID"),
            Self::IDLE.record("DOMID_IDLE"),
        ],
    };

    const fn record(self, c: &'static str) -> Constant {
        Constant {
            c,
            value: self.0 as u64,
            width: size_of::<Self>(),
        }
    }

    /// Whether an ordinary domain can have this number.
    pub const fn is_ordinary(self) -> bool {
        self.0 < Self::FIRST_RESERVED.0
    }
}

/// The 16 bytes that name a domain for its toolstack (a UUID). ABI: `public/xen.h`, `xen_domain_handle_t`.
#[doc(alias = "xen_domain_handle_t")]
pub type DomainHandle = [u8; 16];
