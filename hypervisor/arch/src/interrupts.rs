//! Interrupts: what they mean, and which vector is whose.
//!
//! Those of the hypervisor have the highest class of priorities, so that none of a device's comes before them; the flush of a
//! TLB, for which another CPU waits, comes first of all.
#![forbid(unsafe_code)]

/// The vector of the serial port.
pub const SERIAL_VECTOR: u8 = 0xb0;
/// The vectors of all other devices.
const DEVICE_VECTORS: core::ops::Range<u8> = 0x30..SERIAL_VECTOR;
/// What guests use for system calls: not a device's.
const SYSTEM_CALL_VECTOR: u8 = 0x80;
/// A CPU's own timer.
pub(crate) const TIMER_VECTOR: u8 = 0xf8;
const RESCHEDULE_VECTOR: u8 = 0xf9;
const EVENT_VECTOR: u8 = 0xfa;
const CALL_VECTOR: u8 = 0xfb;
/// Another CPU wants translations to be forgotten. Served below `core`.
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
pub(crate) const FLUSH_VECTOR: u8 = 0xfc;
/// The APIC reports an error: masked, but it wants a vector.
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
pub(crate) const ERROR_VECTOR: u8 = 0xfe;
/// The APIC reports that an interrupt went away: nothing to do, nothing to acknowledge.
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
pub(crate) const SPURIOUS_VECTOR: u8 = 0xff;

/// What one CPU has to tell another. Those of one kind that have not been taken yet are one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Ipi {
    /// Something has changed about what the CPU should run.
    Reschedule,
    /// The vCPU that the CPU runs has an event.
    Event,
    /// There is something to be done on the CPU itself.
    Call,
}

impl Ipi {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Reschedule, Self::Event, Self::Call];

    /// Its vector.
    pub const fn vector(self) -> u8 {
        match self {
            Self::Reschedule => RESCHEDULE_VECTOR,
            Self::Event => EVENT_VECTOR,
            Self::Call => CALL_VECTOR,
        }
    }
}

/// The vectors that devices can get, the serial port aside.
pub fn device_vectors() -> impl Iterator<Item = u8> + Clone {
    DEVICE_VECTORS.filter(|vector| *vector != SYSTEM_CALL_VECTOR)
}

/// The same, beginning with another one at each turn: a place among 128.
pub fn device_vectors_from(turn: u32) -> impl Iterator<Item = u8> + Clone {
    let first = DEVICE_VECTORS.start.wrapping_add(turn as u8 & 0x7f);
    let before = device_vectors().filter(move |vector| *vector < first);
    let behind = device_vectors().filter(move |vector| *vector >= first);
    behind.chain(before)
}

/// Why a CPU was interrupted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interrupt {
    /// The time that was given to `Cpu::set_timer` has come, or is near: who wants to know looks at the clock, and sets the
    /// timer again.
    Timer,
    /// Another CPU.
    Ipi(Ipi),
    /// A device.
    Device(u8),
}

impl Interrupt {
    /// What a vector means.
    pub fn of_vector(vector: u8) -> Self {
        if vector == TIMER_VECTOR {
            return Self::Timer;
        }
        let ipi = Ipi::ALL.into_iter().find(|ipi| ipi.vector() == vector);
        ipi.map_or(Self::Device(vector), Self::Ipi)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_vector_means_one_thing() {
        let own = [
            SERIAL_VECTOR,
            TIMER_VECTOR,
            FLUSH_VECTOR,
            ERROR_VECTOR,
            SPURIOUS_VECTOR,
        ];
        let all: BTreeSet<u8> = own
            .into_iter()
            .chain(Ipi::ALL.map(Ipi::vector))
            .chain(device_vectors())
            .inspect(|vector| assert!(*vector >= 0x20 && *vector != 0x80))
            .collect();
        let devices = device_vectors().count();
        assert_eq!(all.len(), own.len() + Ipi::ALL.len() + devices);
        for turn in 0..300 {
            let in_turn: BTreeSet<u8> = device_vectors_from(turn).collect();
            assert_eq!(in_turn, device_vectors().collect());
            assert_eq!(device_vectors_from(turn).count(), devices);
        }
        for vector in device_vectors() {
            assert_eq!(Interrupt::of_vector(vector), Interrupt::Device(vector));
        }
        for ipi in Ipi::ALL {
            assert_eq!(Interrupt::of_vector(ipi.vector()), Interrupt::Ipi(ipi));
            assert!(ipi.vector() < FLUSH_VECTOR);
        }
        assert_eq!(Interrupt::of_vector(TIMER_VECTOR), Interrupt::Timer);
        assert_eq!(
            Interrupt::of_vector(SERIAL_VECTOR),
            Interrupt::Device(SERIAL_VECTOR)
        );
    }
}
