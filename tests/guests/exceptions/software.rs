//! Software interrupts: by the trap table's own privilege levels.

use kit::trap::{clear_entry, set_entry, vector};
use kit::{Report, probe};

use crate::{Expected, expect};

/// What a guest gets for an interrupt that its table does not permit: an error code that names the entry.
const fn refused(vector: u64) -> Expected {
    Expected {
        resume_flag: None,
        ..Expected::fault(vector::GP, Some(vector << 3 | 2))
    }
}

/// The old entry of system calls has a way of its own in the hypervisor, which does not ask for the level.
const INT80: u8 = 0x80;

macro_rules! check_int {
    ($report:expr, $($number:literal)+) => {$(
        {
            const N: u8 = $number;
            let number = u64::from(N);
            let int = || probe!(concat!("int ", $number));
            let at_level_0 = if N == INT80 { Expected::trap(N, 2) } else { refused(number) };
            expect($report, format_args!("int {N:#x}: level 0"), int(), at_level_0);
            // Level 1 is the guest's kernel, level 3 its user mode as well.
            for dpl in [1, 2, 3] {
                set_entry(N, dpl, false);
                // Never an error code, even where the vector as an exception has one; rip is behind the instruction.
                expect($report, format_args!("int {N:#x}: level {dpl}"), int(), Expected { resume_flag: None, ..Expected::trap(N, 2) });
            }
            // Without #GP's own entry there is nothing left to raise.
            if N != vector::GP {
                clear_entry(N);
                expect($report, format_args!("int {N:#x}: no entry"), int(), refused(number));
            }
            set_entry(N, 0, false);
        }
    )+};
}

pub fn check(report: &mut Report) {
    // The CPU's own exceptions, vectors without meaning, the old entries of system calls, the last one.
    check_int!(report, 0 1 2 6 8 13 14 0x20 0x80 0x82 0xff);

    // These two have instructions that any level may use, so the table's level is not asked.
    expect(
        report,
        "#BP: int3",
        probe!("int3"),
        Expected::trap(vector::BP, 1),
    );
    expect(
        report,
        "#BP: int 3",
        probe!(".byte 0xcd, 3"),
        Expected::trap(vector::BP, 2),
    );
    expect(
        report,
        "#OF: int 4",
        probe!("int 4"),
        Expected::trap(vector::OF, 2),
    );
    expect(
        report,
        "#DB: icebp",
        probe!(".byte 0xf1"),
        Expected::trap(vector::DB, 1),
    );
}
