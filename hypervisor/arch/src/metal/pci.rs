//! The configuration of functions on the PCI bus, by the two ports that every PC has.
//!
//! A domain with devices uses the same ports, in two accesses of its own. LOCK: rank `Devices`; whoever does something here leaves the
//! first port as it was, and each access of a domain is made under the lock, so neither notices the other.

use super::cpu::{port_in, port_out};
use crate::lines::PciFunction;
use crate::registers::PortWidth;
use crate::sync::{Guard, Rank, SpinLock};

/// SPEC: PCI local bus 3.0, 3.2.2.3.2.
const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
/// Ports of which an access may touch one of those.
const NEAR: core::ops::RangeInclusive<u16> = ADDRESS - 3..=DATA + 3;

static LOCK: SpinLock<()> = SpinLock::new(Rank::Devices, ());

/// To be held while a domain's access to a port is made.
pub(super) fn guard(port: u16) -> Option<Guard<'static, ()>> {
    NEAR.contains(&port).then(|| LOCK.lock())
}

/// Does something with four bytes of a function's configuration.
fn with_selected<R>(function: PciFunction, register: u8, act: impl FnOnce() -> R) -> R {
    let _lock = LOCK.lock();
    // SAFETY: the ports of the host bridge; which function is selected changes nothing by itself.
    unsafe {
        let before = port_in(ADDRESS, PortWidth::Dword);
        port_out(ADDRESS, PortWidth::Dword, function.select(register));
        let result = act();
        port_out(ADDRESS, PortWidth::Dword, before);
        result
    }
}

/// Reads four bytes; all ones if there is no such function.
pub(super) fn read(function: PciFunction, register: u8) -> u32 {
    // SAFETY: configuration of a function, selected by the caller.
    with_selected(function, register, || unsafe {
        port_in(DATA, PortWidth::Dword)
    })
}

/// Writes four bytes.
pub(super) fn write(function: PciFunction, register: u8, value: u32) {
    // SAFETY: as in `read`. What a device does that is configured so is the trust that its domain has (design, 10): `core` writes where that
    // domain could.
    with_selected(function, register, || unsafe {
        port_out(DATA, PortWidth::Dword, value);
    });
}
