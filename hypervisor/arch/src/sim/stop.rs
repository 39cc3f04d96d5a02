//! How a model machine ends.

use std::boxed::Box;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// What was asked of the machine. It is also the payload with which the asking thread unwinds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// Start again.
    Reboot,
    /// Stand still for ever.
    Halt,
    /// End, without a word how power is switched off.
    PowerOff,
    /// Switch power off, with these values for ACPI's registers.
    SwitchedOff([u16; 2]),
    /// A panic, to see what it shows.
    Crash,
}

impl Stop {
    /// Unwinds without a message of the panic hook.
    pub(super) fn unwind(self) -> ! {
        resume_unwind(Box::new(self))
    }
}

/// Runs `run`; if the machine is stopped meanwhile, says how. Panics go on.
pub fn catch_stop<R>(run: impl FnOnce() -> R) -> Result<R, Stop> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| match payload.downcast::<Stop>() {
        Ok(stop) => *stop,
        Err(panic) => resume_unwind(panic),
    })
}
