//! Verdicts, in the form that the runner reads (see `tests/guests/README.md`).

use core::fmt::{Debug, Display};
use core::panic::PanicInfo;

use dom0_abi::sched::ShutdownReason;
use guest_pv_drivers::hypercall;

use crate::println;
use crate::single::Single;

static NAME: Single<&str> = Single::new("?");

/// Counts what the checks of a guest came to.
pub struct Report {
    failures: u32,
    checks: u32,
}

impl Report {
    /// One check that holds or does not; `reason` says what was seen.
    pub fn check(&mut self, name: impl Display, holds: bool, reason: impl Display) {
        self.checks += 1;
        if holds {
            println!("TEST {name}: ok");
        } else {
            self.failures += 1;
            println!("TEST {name}: FAIL {reason}");
        }
    }

    /// One check of a value against the only right one.
    pub fn equal<T: PartialEq + Debug>(&mut self, name: impl Display, seen: T, right: T) {
        let holds = seen == right;
        self.check(
            name,
            holds,
            format_args!("seen {seen:x?}, right {right:x?}"),
        );
    }

    /// A check that cannot be made on this hypervisor.
    pub fn skip(&mut self, name: impl Display, reason: impl Display) {
        println!("TEST {name}: skip {reason}");
    }
}

/// Runs a guest's checks, prints its verdict, powers the machine off.
pub fn run(name: &'static str, main: fn(&mut Report)) -> ! {
    NAME.set(name);
    let mut report = Report {
        failures: 0,
        checks: 0,
    };
    main(&mut report);
    let holds = report.failures == 0 && report.checks > 0;
    println!("GUEST {name}: {}", if holds { "PASS" } else { "FAIL" });
    hypercall::shutdown(ShutdownReason::PowerOff)
}

/// Gives up: for what no check foresees.
pub fn abandon() -> ! {
    println!("GUEST {}: FAIL", NAME.get());
    hypercall::shutdown(ShutdownReason::PowerOff)
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    println!("TEST no panic: FAIL {info}");
    abandon()
}
