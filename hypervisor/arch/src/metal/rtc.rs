//! The real-time clock: what time it was when the machine began. It is read once, before there is a guest; its ports are nobody's.

use x86_64::instructions::port::Port;

use super::acpi::Rtc;
use super::machine::Machine;
use super::time;
use crate::calendar::{CalendarTime, RtcRegisters};

/// How long the clock may be about to change its registers, in ms. SPEC: Motorola MC146818A, table 5: 2 at most. One that does
/// not come to an end is none.
const PATIENCE: u64 = 10;

/// Registers. SPEC: Motorola MC146818A, figure 10.
const SECOND: u8 = 0;
const MINUTE: u8 = 2;
const HOUR: u8 = 4;
const DAY: u8 = 7;
const MONTH: u8 = 8;
const YEAR: u8 = 9;
const STATUS: u8 = 0xa;
const FORMAT: u8 = 0xb;

/// In [`STATUS`]: the registers are about to change, or do.
const IS_UPDATING: u8 = 1 << 7;

impl Machine {
    /// What the real-time clock says now, to a second. `None`: there is none, or it says nothing that makes sense. Takes some
    /// milliseconds if it is just changing. Not to be called when guests run.
    pub fn real_time_clock(&self) -> Option<CalendarTime> {
        match self.rtc() {
            Rtc::Absent => None,
            Rtc::There { century } => read(century)?.time(),
        }
    }
}

fn read(century: Option<u8>) -> Option<RtcRegisters> {
    let mut found = None;
    // An update is announced before it begins, but whoever looks may be kept for long behind the look: by firmware, or
    // because the machine is a virtual one. So what counts has been read twice.
    time::wait_until(PATIENCE, || {
        if register(STATUS) & IS_UPDATING == 0 {
            let registers = registers(century);
            let is_steady = registers == self::registers(century);
            found = is_steady.then_some(registers);
        }
        found.is_some()
    });
    found
}

fn registers(century: Option<u8>) -> RtcRegisters {
    RtcRegisters {
        second: register(SECOND),
        minute: register(MINUTE),
        hour: register(HOUR),
        day: register(DAY),
        month: register(MONTH),
        year: register(YEAR),
        century: century.map(register),
        format: register(FORMAT),
    }
}

/// Reads a register. Those beyond 0x7f are not reached: bit 7 of the index keeps NMIs away.
fn register(index: u8) -> u8 {
    let (mut select, mut value) = (Port::<u8>::new(0x70), Port::<u8>::new(0x71));
    // SAFETY: reading the registers named here, and RAM, does nothing; nobody else uses the ports.
    unsafe {
        select.write(index & 0x7f);
        value.read()
    }
}
