//! The end that nobody wanted: reason, registers, callers; then a restart, or a halt with `noreboot`.

use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use oxen_arch::emergency;

/// What `noreboot` says, kept here because a panic may come before there is a host.
static NOREBOOT: AtomicBool = AtomicBool::new(false);
/// A panic is being reported: a second one, caused by the report, must not begin it anew.
static IS_REPORTING: AtomicBool = AtomicBool::new(false);

/// Keeps what the command line says.
pub fn set_noreboot(noreboot: bool) {
    NOREBOOT.store(noreboot, Ordering::Relaxed);
}

/// Ends a boot that cannot go on, for a reason outside the hypervisor.
pub fn stop(reason: fmt::Arguments<'_>) -> ! {
    let _ = writeln!(Emergency, "(OXEN) {reason}");
    end()
}

#[panic_handler]
fn panic(panic: &PanicInfo<'_>) -> ! {
    if IS_REPORTING.swap(true, Ordering::Relaxed) {
        emergency::halt();
    }
    // Nothing that they do shall change what is to be seen, nor get into it.
    emergency::stop_others();
    let _ = report(panic);
    end()
}

fn report(panic: &PanicInfo<'_>) -> fmt::Result {
    writeln!(Emergency, "(OXEN) panic: {}", panic.message())?;
    if let Some(cpu) = emergency::cpu() {
        writeln!(Emergency, "(OXEN)   on CPU {cpu}")?;
    }
    if let Some(place) = panic.location() {
        writeln!(Emergency, "(OXEN)   at {place}")?;
    }
    writeln!(Emergency, "{}", emergency::ControlRegisters)?;
    writeln!(Emergency, "(OXEN) called from")?;
    for address in emergency::callers() {
        writeln!(Emergency, "  {}", emergency::Symbol(address))?;
    }
    Ok(())
}

fn end() -> ! {
    if NOREBOOT.load(Ordering::Relaxed) {
        let _ = writeln!(Emergency, "(OXEN) halted: noreboot");
        emergency::halt()
    }
    let _ = writeln!(Emergency, "(OXEN) restarting");
    emergency::reboot()
}

/// Serial line and screen, whoever holds them.
struct Emergency;

impl Write for Emergency {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for line in text.split_inclusive('\n') {
            match line.strip_suffix('\n') {
                Some(line) => {
                    emergency::write(line.as_bytes());
                    emergency::write(b"\r\n");
                }
                None => emergency::write(line.as_bytes()),
            }
        }
        Ok(())
    }
}
