//! The public Xen PV ABI of x86-64 as data: hypercall numbers, structures, flags, error codes.
//!
//! One module per public header. No logic and no unsafe code: both ends of the ABI, the hypervisor and a guest, build
//! on it. Sizes, field offsets and constants are checked against Debian's C headers by `tests/abi`.
#![no_std]
#![forbid(unsafe_code)]

pub mod addr;
pub mod arch;
pub mod errno;
pub mod handle;
pub mod hypercalls;
pub mod ids;
pub mod record;
