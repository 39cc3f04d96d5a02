//! RFLAGS: what a guest shows, and what it may run with.
//!
//! INVARIANT (I24): a guest runs with IF=1, IOPL=0, NT=0, VM=0: the way out sees to that (`arch`), and what a guest asks for or is
//! given is made so beforehand. What it takes for IF is the event mask, and what it takes for
//! IOPL is kept beside the registers. SPEC: Intel SDM volume 1, 3.4.3.

use oxen_arch::registers::{FORCED_FLAGS, GUEST_FLAGS};

/// Carry.
pub const CF: u64 = 1 << 0;
/// Parity of the lowest byte of a result.
pub const PF: u64 = 1 << 2;
/// Carry out of the lowest four bits.
pub const AF: u64 = 1 << 4;
/// The result is zero.
pub const ZF: u64 = 1 << 6;
/// The result is negative.
pub const SF: u64 = 1 << 7;
/// Single step.
pub const TF: u64 = 1 << 8;
/// Interrupts are on.
pub const IF: u64 = 1 << 9;
/// String instructions go down.
pub const DF: u64 = 1 << 10;
/// Signed overflow.
pub const OF: u64 = 1 << 11;
const IOPL_SHIFT: u32 = 12;
const IOPL: u64 = 3 << IOPL_SHIFT;
/// The next instruction ignores breakpoints.
pub const RF: u64 = 1 << 16;
const AC: u64 = 1 << 18;

/// The flags that a guest runs with when it asks for these.
pub const fn for_guest(rflags: u64) -> u64 {
    (rflags & GUEST_FLAGS) | FORCED_FLAGS
}

/// The flags that a handler begins with: no single step, no resume, no alignment check.
pub const fn for_handler(rflags: u64) -> u64 {
    for_guest(rflags) & !(TF | RF | AC)
}

/// The flags as a frame shows them.
pub const fn as_shown(rflags: u64, events_are_on: bool, iopl: u8) -> u64 {
    let shown_if = if events_are_on { IF } else { 0 };
    (rflags & !(IF | IOPL)) | shown_if | ((iopl as u64 & 3) << IOPL_SHIFT)
}

/// The I/O privilege level that flags carry.
pub const fn iopl(rflags: u64) -> u32 {
    ((rflags & IOPL) >> IOPL_SHIFT) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALWAYS_ONE: u64 = 1 << 1;
    const NT: u64 = 1 << 14;
    const VM: u64 = 1 << 17;
    const ID: u64 = 1 << 21;
    const OWN: u64 = CF | PF | AF | ZF | SF | TF | DF | OF | RF | AC | ID;

    #[test]
    fn i24_no_request_gives_a_guest_more_than_its_own_flags() {
        for bit in 0..64 {
            for rflags in [1_u64 << bit, !(1_u64 << bit), 0, u64::MAX] {
                for made in [for_guest(rflags), for_handler(rflags)] {
                    assert_eq!(made & IF, IF);
                    assert_eq!(made & (IOPL | NT | VM), 0);
                    assert_eq!(made & !(OWN | IF | ALWAYS_ONE), 0);
                }
                assert_eq!(for_handler(rflags) & (TF | RF | AC), 0);
                assert_eq!(for_guest(rflags) & OWN, rflags & OWN);
            }
        }
    }

    #[test]
    fn a_frame_shows_the_virtual_flags() {
        let real = for_guest(CF | ZF);
        assert_eq!(as_shown(real, true, 0), 0x243);
        assert_eq!(as_shown(real, false, 0), 0x43);
        assert_eq!(as_shown(real, false, 3), 0x3043);
        assert_eq!(iopl(0x3043), 3);
        assert_eq!(iopl(real), 0);
    }
}
