//! The public Xen PV ABI of x86-64 as data: hypercall numbers, structures, flags, error codes.
//!
//! One module per public header. No logic and no unsafe code: both ends of the ABI, the hypervisor and a guest, build
//! on it. Sizes, field offsets and constants are checked against Debian's C headers by `tests/abi`.
#![no_std]
#![forbid(unsafe_code)]

pub mod addr;
pub mod arch;
pub mod callback;
pub mod domctl;
pub mod elfnote;
pub mod errno;
pub mod event_channel;
pub mod features;
pub mod grant_table;
pub mod handle;
pub mod hypercalls;
pub mod ids;
pub mod io;
pub mod kexec;
pub mod memory;
pub mod nmi;
pub mod physdev;
pub mod platform;
pub mod pmu;
pub mod record;
pub mod sched;
pub mod sysctl;
pub mod vcpu;
pub mod version;
pub mod xen;

/// Every wire structure of the crate, by module.
pub const LAYOUTS: &[&[record::Layout]] = &[
    arch::LAYOUTS,
    callback::LAYOUTS,
    domctl::LAYOUTS,
    event_channel::LAYOUTS,
    grant_table::LAYOUTS,
    io::blkif::LAYOUTS,
    io::console::LAYOUTS,
    io::netif::LAYOUTS,
    io::ring::LAYOUTS,
    io::xs_wire::LAYOUTS,
    kexec::LAYOUTS,
    memory::LAYOUTS,
    nmi::LAYOUTS,
    physdev::LAYOUTS,
    platform::LAYOUTS,
    sched::LAYOUTS,
    sysctl::LAYOUTS,
    vcpu::LAYOUTS,
    version::LAYOUTS,
    xen::LAYOUTS,
];

/// Every constant of the crate that has a name in the C headers, by module.
pub const CONSTANTS: &[&[record::Group]] = &[
    &[
        errno::Errno::CONSTANTS,
        hypercalls::Hypercall::CONSTANTS,
        ids::DomId::CONSTANTS,
    ],
    arch::CONSTANTS,
    callback::CONSTANTS,
    elfnote::CONSTANTS,
    features::CONSTANTS,
    nmi::CONSTANTS,
    sched::CONSTANTS,
    vcpu::CONSTANTS,
    version::CONSTANTS,
    event_channel::CONSTANTS,
    grant_table::CONSTANTS,
    memory::CONSTANTS,
    physdev::CONSTANTS,
    platform::CONSTANTS,
    domctl::CONSTANTS,
    sysctl::CONSTANTS,
    pmu::CONSTANTS,
    kexec::CONSTANTS,
    io::blkif::CONSTANTS,
    io::netif::CONSTANTS,
    io::xenbus::CONSTANTS,
    io::xs_wire::CONSTANTS,
    xen::CONSTANTS,
];
