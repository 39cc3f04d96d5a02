//! The ways to end the machine's run.

use x86_64::instructions::port::Port;
use x86_64::instructions::{hlt, interrupts};

use super::acpi::{ResetRegister, SleepRegisters};
use super::smp;
use crate::sync::Once;

static RESET: Once<ResetRegister> = Once::new();
static SLEEP: Once<SleepRegisters> = Once::new();

/// Keeps the registers that the ACPI tables name.
pub(super) fn init(reset: Option<ResetRegister>, sleep: Option<SleepRegisters>) {
    if let Some(reset) = reset {
        RESET.call_once(|| reset);
    }
    if let Some(sleep) = sleep {
        SLEEP.call_once(|| sleep);
    }
}

/// Whether the ACPI tables name what [`switch_off`] needs.
pub(super) fn has_switch() -> bool {
    SLEEP.get().is_some()
}

/// Switches power off, with all other CPUs stopped; where it stays on, stops this one too. `types`: the two registers, with the type of sleep
/// that the machine means by off. SPEC: ACPI 6.5, 4.8.3.2.1 and 16.1.7.
pub(super) fn switch_off(types: [u16; 2]) -> ! {
    const TYPE: u16 = 7 << 10;
    const ENABLE: u16 = 1 << 13;
    interrupts::disable();
    smp::stop_others();
    if let Some(sleep) = SLEEP.get() {
        let ports = [Some(sleep.first), sleep.second];
        // Sleep begins when the last register is enabled: all have the type by then.
        for enable in [0, ENABLE] {
            for (port, kind) in ports.into_iter().zip(types) {
                let Some(port) = port else { continue };
                let mut register = Port::<u16>::new(port);
                // SAFETY: the machine ends here, whatever the devices do.
                unsafe {
                    let others = register.read() & !(TYPE | ENABLE);
                    register.write(others | kind & TYPE | enable);
                }
            }
        }
    }
    halt()
}

/// Resets the machine, with all other CPUs stopped: by ACPI, by the chip set, by the keyboard controller, by a triple fault.
pub fn reboot() -> ! {
    interrupts::disable();
    smp::stop_others();
    // SAFETY: the machine ends here, whatever the devices do.
    unsafe {
        if let Some(reset) = RESET.get() {
            Port::<u8>::new(reset.port).write(reset.value);
            pause();
        }
        Port::<u8>::new(0xcf9).write(0x02_u8);
        Port::<u8>::new(0xcf9).write(0x06_u8);
        pause();
        Port::<u8>::new(0x64).write(0xfe_u8);
        pause();
        x86_64::instructions::tables::lidt(&x86_64::structures::DescriptorTablePointer {
            limit: 0,
            base: x86_64::VirtAddr::zero(),
        });
        core::arch::asm!("ud2", options(noreturn));
    }
}

/// Gives a device time to act.
fn pause() {
    for _ in 0..10_000_000 {
        core::hint::spin_loop();
    }
}

/// Executes an instruction that does not exist: for whoever wants to see what a panic shows.
pub fn crash() -> ! {
    // SAFETY: the fault ends in a panic.
    unsafe { core::arch::asm!("ud2", options(noreturn)) }
}

/// Stops all CPUs for ever.
pub(super) fn halt_all() -> ! {
    interrupts::disable();
    smp::stop_others();
    halt()
}

/// Stops this CPU for ever.
pub fn halt() -> ! {
    interrupts::disable();
    loop {
        hlt();
    }
}
