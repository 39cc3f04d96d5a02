//! The I/O ports that a domain may reach: all but a list for dom0, none for any other.
//!
//! An access without the right is no fault: reads give all ones, writes vanish, as where no device answers. The fault
//! comes earlier, for code without the virtual I/O privilege level.

use core::fmt;

use arrayvec::ArrayVec;
use oxen_arch::PortWidth;

/// A range of ports, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl PortRange {
    /// The ports from `first` to `last`.
    pub const fn new(first: u16, last: u16) -> Self {
        Self { first, last }
    }

    const fn meets(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// What becomes of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// It goes to the device.
    Direct,
    /// Reads give all ones, writes vanish.
    Denied,
}

struct Row {
    range: PortRange,
    name: &'static str,
    why: &'static str,
}

const fn row(first: u16, last: u16, name: &'static str, why: &'static str) -> Row {
    Row {
        range: PortRange::new(first, last),
        name,
        why,
    }
}

/// What even dom0 does not reach.
#[rustfmt::skip]
const DENIED: &[Row] = &[
    row(0x20, 0x21, "interrupt controller, master", "interrupts are the hypervisor's"),
    row(0x40, 0x43, "interval timer", "the hypervisor calibrates by it"),
    row(0x61, 0x61, "gate of the interval timer", "goes with the timer"),
    row(0x70, 0x73, "real-time clock", "index and data are two accesses that a hypervisor's would come between"),
    row(0xa0, 0xa1, "interrupt controller, slave", "interrupts are the hypervisor's"),
    row(0x4d0, 0x4d1, "edge or level of interrupts", "interrupts are the hypervisor's"),
];

/// Ranges that a host can hide in addition.
pub const MAX_HIDDEN: usize = 8;

/// More ranges to hide than there is room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyRanges;

/// The ports of one domain.
#[derive(Clone, Debug)]
pub struct PortRights {
    is_dom0: bool,
    hidden: ArrayVec<PortRange, MAX_HIDDEN>,
}

impl PortRights {
    /// No port at all.
    pub const fn none() -> Self {
        Self {
            is_dom0: false,
            hidden: ArrayVec::new_const(),
        }
    }

    /// Those of dom0: all but the list and what the hypervisor uses itself on this host (its serial console, the timer
    /// whose port the firmware names).
    ///
    /// [`TooManyRanges`]: more than [`MAX_HIDDEN`]; to leave one out would give it away.
    pub fn dom0(hidden: &[PortRange]) -> Result<Self, TooManyRanges> {
        Ok(Self {
            is_dom0: true,
            hidden: hidden.try_into().map_err(|_| TooManyRanges)?,
        })
    }

    /// What becomes of an access. One that touches a denied port with a single byte is denied as a whole, and so is one
    /// that reaches over the last port.
    pub fn check(&self, port: u16, width: PortWidth) -> Access {
        let more = u16::from(width.bytes()).saturating_sub(1);
        let Some(last) = port.checked_add(more) else {
            return Access::Denied;
        };
        let touched = PortRange::new(port, last);
        let mut denied = DENIED.iter().map(|row| row.range);
        let mut hidden = self.hidden.iter();
        let is_denied = !self.is_dom0
            || denied.any(|range| range.meets(touched))
            || hidden.any(|range| range.meets(touched));
        if is_denied {
            Access::Denied
        } else {
            Access::Direct
        }
    }
}

/// Writes the policy as a page of the documentation.
pub fn markdown(out: &mut impl fmt::Write) -> fmt::Result {
    writeln!(out, "| ports | what | dom0 | why |\n|---|---|---|---|")?;
    for Row { range, name, why } in DENIED {
        writeln!(
            out,
            "| {:#x}-{:#x} | {name} | denied | {why} |",
            range.first, range.last
        )?;
    }
    writeln!(
        out,
        "| of the hypervisor's serial console | | denied | in use |\n| all others | | direct | |\n\n\
         Other domains reach no port. A denied read gives all ones, a denied write vanishes."
    )
}

#[cfg(test)]
mod tests {
    use std::string::String;

    use super::*;

    const WIDTHS: [PortWidth; 3] = [PortWidth::Byte, PortWidth::Word, PortWidth::Dword];
    const SERIAL: PortRange = PortRange::new(0x3f8, 0x3ff);

    #[test]
    fn every_port_in_every_width() {
        let dom0 = PortRights::dom0(&[SERIAL]).unwrap();
        let is_denied = |port: u32| {
            matches!(
                port,
                0x20 | 0x21 | 0x40..=0x43 | 0x61 | 0x70..=0x73 | 0xa0 | 0xa1 | 0x3f8..=0x3ff | 0x4d0 | 0x4d1 | 0x10000..
            )
        };
        for port in 0..=u16::MAX {
            for width in WIDTHS {
                let first = u32::from(port);
                let any = (first..first + u32::from(width.bytes())).any(is_denied);
                let expected = if any { Access::Denied } else { Access::Direct };
                assert_eq!(dom0.check(port, width), expected, "{port:#x} {width:?}");
                assert_eq!(PortRights::none().check(port, width), Access::Denied);
            }
        }
    }

    #[test]
    fn hidden_ranges_have_a_limit() {
        assert!(PortRights::dom0(&[SERIAL; MAX_HIDDEN]).is_ok());
        assert_eq!(
            PortRights::dom0(&[SERIAL; MAX_HIDDEN + 1]).err(),
            Some(TooManyRanges)
        );
        let nothing_hidden = PortRights::dom0(&[]).unwrap();
        assert_eq!(nothing_hidden.check(0x3f8, PortWidth::Byte), Access::Direct);
    }

    #[test]
    fn the_page_lists_every_row() {
        let mut page = String::new();
        markdown(&mut page).unwrap();
        assert_eq!(page.matches("| denied |").count(), DENIED.len() + 1);
    }
}
