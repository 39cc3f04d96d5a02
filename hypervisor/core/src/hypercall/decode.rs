//! From registers to typed arguments. The enum and its decoder are an expansion of the ABI's table, so that a call's
//! arguments are stated once.

use dom0_abi::addr::GuestAddr;
use dom0_abi::arch::{CpuUserRegs, TrapInfo};
use dom0_abi::domctl::Domctl;
use dom0_abi::for_each_hypercall;
use dom0_abi::handle::GuestHandle;
use dom0_abi::hypercalls::Hypercall;
use dom0_abi::ids::{DomId, VcpuId};
use dom0_abi::platform::PlatformOp;
use dom0_abi::sysctl::Sysctl;
use dom0_abi::xen::{MmuUpdate, MmuextOp, MulticallEntry};

/// The argument registers of a call, in order: rdi, rsi, rdx, r10, r8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arguments(pub [u64; 5]);

impl Arguments {
    /// Takes them from the caller's registers.
    pub const fn of(regs: &CpuUserRegs) -> Self {
        Self([regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8])
    }

    /// Puts them into registers.
    pub const fn store(self, regs: &mut CpuUserRegs) {
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8] = self.0;
    }
}

/// What an argument register is read as. Bits that the type lacks are not looked at, as the ABI passes C types.
trait FromRegister {
    fn from_register(value: u64) -> Self;
}

impl FromRegister for u64 {
    fn from_register(value: u64) -> Self {
        value
    }
}

impl FromRegister for u32 {
    fn from_register(value: u64) -> Self {
        value as u32
    }
}

impl FromRegister for i32 {
    fn from_register(value: u64) -> Self {
        value as i32
    }
}

impl FromRegister for GuestAddr {
    fn from_register(value: u64) -> Self {
        Self::new(value)
    }
}

impl FromRegister for DomId {
    fn from_register(value: u64) -> Self {
        Self::new(value as u16)
    }
}

impl FromRegister for VcpuId {
    fn from_register(value: u64) -> Self {
        Self::new(value as u32)
    }
}

impl<T> FromRegister for GuestHandle<T> {
    fn from_register(value: u64) -> Self {
        Self::new(GuestAddr::new(value))
    }
}

macro_rules! define_request {
    ($(
        $(#[$meta:meta])*
        $variant:ident $name:ident = $number:literal => $c:literal {
            args: [$($arg:ident: $ty:ty),*], header: $header:literal, callers: $callers:ident
        }
    )+) => {
        /// A hypercall with its arguments.
        #[derive(Clone, Copy, Debug)]
        pub enum Request {
            $(
                $(#[$meta])*
                $variant {
                    $(
                        #[doc = concat!("`", stringify!($arg), "` of `", $c, "`.")]
                        $arg: $ty,
                    )*
                },
            )+
        }

        impl Request {
            /// Reads the arguments of a call. Inlined, so that for a call that is known nothing is left but the conversions.
            #[inline(always)]
            pub fn decode(call: Hypercall, arguments: Arguments) -> Self {
                let mut registers = arguments.0.into_iter();
                let mut next = move || registers.next().unwrap_or(0);
                match call {
                    $(Hypercall::$variant => {
                        $(let $arg = FromRegister::from_register(next());)*
                        Self::$variant { $($arg),* }
                    })+
                }
            }
        }
    };
}

for_each_hypercall!(define_request);
