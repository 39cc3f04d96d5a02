//! The local APIC of a CPU: interrupts to other CPUs, the end of an interrupt, the timer.
//!
//! The registers are a page of memory (xAPIC) or model-specific registers (x2APIC): the latter where the CPU has them, or firmware
//! has turned them on already. All CPUs of a machine are alike in this.

use core::arch::asm;

use dom0_abi::addr::Maddr;
use x86_64::instructions::port::Port;
use x86_64::registers::model_specific::Msr;

use super::layout;
use crate::counters::{Event, count};
use crate::interrupts::{ERROR_VECTOR, SPURIOUS_VECTOR, TIMER_VECTOR};
use crate::sync::atomic::{AtomicBool, Ordering};

/// Where the registers are mapped: behind the room for the screen.
pub(super) const LOCAL_APIC: u64 = layout::DEVICES + (64 << 30);

const APIC_BASE: u32 = 0x1b;
const BASE_ENABLED: u64 = 1 << 11;
const BASE_X2: u64 = 1 << 10;
const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

// SPEC: Intel SDM volume 3, 11.4.1: offsets in the register page; 11.12.1.2: as model-specific registers.
const ID: u64 = 0x20;
const TASK_PRIORITY: u64 = 0x80;
const END_OF_INTERRUPT: u64 = 0xb0;
const SPURIOUS: u64 = 0xf0;
const COMMAND: u64 = 0x300;
const COMMAND_HIGH: u64 = 0x310;
const LVT_TIMER: u64 = 0x320;
const LINT0: u64 = 0x350;
const LINT1: u64 = 0x360;
const LVT_ERROR: u64 = 0x370;
const TIMER_START: u64 = 0x380;
const TIMER_NOW: u64 = 0x390;
const TIMER_DIVIDER: u64 = 0x3e0;
const FIRST_MSR: u32 = 0x800;

const SPURIOUS_ENABLED: u32 = 1 << 8;
const LVT_MASKED: u32 = 1 << 16;
const LVT_NMI: u32 = 0b100 << 8;
const TIMER_DEADLINE: u32 = 0b10 << 17;
const DIVIDE_BY_1: u32 = 0b1011;

const COMMAND_NMI: u32 = 0b100 << 8;
const COMMAND_INIT: u32 = 0b101 << 8;
const COMMAND_STARTUP: u32 = 0b110 << 8;
const COMMAND_ASSERT: u32 = 1 << 14;
const COMMAND_PENDING: u32 = 1 << 12;

const TSC_DEADLINE: u32 = 0x6e0;

/// The registers are model-specific ones. Written once, before anything here is used.
static IS_X2: AtomicBool = AtomicBool::new(false);
/// The timer takes a time to fire at. Written once, as above.
static HAS_DEADLINE: AtomicBool = AtomicBool::new(false);

/// What has to be mapped, as (virtual, machine) address of a page.
pub(super) fn mapping() -> (u64, Maddr) {
    (LOCAL_APIC, Maddr::new(base() & BASE_ADDRESS))
}

fn base() -> u64 {
    // SAFETY: every CPU with an APIC has the register.
    unsafe { Msr::new(APIC_BASE).read() }
}

/// Whether the registers are those of an x2APIC.
pub(super) fn is_x2() -> bool {
    IS_X2.load(Ordering::Relaxed)
}

/// Whether the timer takes a time to fire at.
pub(super) fn has_deadline() -> bool {
    HAS_DEADLINE.load(Ordering::Relaxed)
}

fn msr(register: u64) -> Msr {
    Msr::new(FIRST_MSR + (register >> 4) as u32)
}

fn read(register: u64) -> u32 {
    if is_x2() {
        // SAFETY: the CPU is in the mode that has the registers.
        unsafe { msr(register).read() as u32 }
    } else {
        // SAFETY: mapped by `machine`; reading has no side effects on the registers used here.
        unsafe { ((LOCAL_APIC + register) as *const u32).read_volatile() }
    }
}

fn write(register: u64, value: u32) {
    if is_x2() {
        count(Event::MsrWrite);
        // SAFETY: as in `read`; the values are the ones that the manual wants.
        unsafe { msr(register).write(value.into()) };
    } else {
        // SAFETY: as in `read`.
        unsafe { ((LOCAL_APIC + register) as *mut u32).write_volatile(value) };
    }
}

/// Silences the two 8259s, decides how APICs are reached, and turns that of the first CPU on.
pub(super) fn init() {
    for port in [0x21, 0xa1] {
        // SAFETY: the mask registers of the 8259s, which nobody else uses any more.
        unsafe { Port::<u8>::new(port).write(0xff) };
    }
    let features = raw_cpuid::CpuId::new().get_feature_info();
    let has = |flag: fn(&raw_cpuid::FeatureInfo) -> bool| features.as_ref().is_some_and(flag);
    let is_x2 = has(raw_cpuid::FeatureInfo::has_x2apic) || base() & BASE_X2 != 0;
    IS_X2.store(is_x2, Ordering::Relaxed);
    HAS_DEADLINE.store(
        has(raw_cpuid::FeatureInfo::has_tsc_deadline),
        Ordering::Relaxed,
    );
    enable(true);
}

/// Turns the APIC of this CPU on. The NMI line is for the first one.
pub(super) fn enable(is_first: bool) {
    let mut register = Msr::new(APIC_BASE);
    // SAFETY: the register exists. The mode with model-specific registers is entered by way of the other one, and is never
    // left.
    unsafe {
        let value = register.read();
        if value & BASE_X2 == 0 {
            register.write(value | BASE_ENABLED);
            if is_x2() {
                register.write(value | BASE_ENABLED | BASE_X2);
            }
        }
    }
    // First: while an APIC is off, its interrupts stay masked whatever is written.
    write(SPURIOUS, SPURIOUS_ENABLED | u32::from(SPURIOUS_VECTOR));
    write(LINT0, LVT_MASKED);
    write(LINT1, LVT_NMI | if is_first { 0 } else { LVT_MASKED });
    write(LVT_ERROR, LVT_MASKED | u32::from(ERROR_VECTOR));
    write(TASK_PRIORITY, 0);
    write(TIMER_DIVIDER, DIVIDE_BY_1);
    let mode = if has_deadline() { TIMER_DEADLINE } else { 0 };
    write(LVT_TIMER, mode | u32::from(TIMER_VECTOR));
    // The mode is known before a time is written: a store to memory does not wait for that by itself.
    fence();
}

/// The number of this CPU's APIC.
pub(super) fn id() -> u32 {
    let id = read(ID);
    if is_x2() { id } else { id >> 24 }
}

/// Whether the CPU with this APIC can be told anything.
pub(super) fn reaches(id: u32) -> bool {
    is_x2() || id < 0xff
}

/// Ends the interrupt that is being served.
pub(super) fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

/// Interrupts a CPU.
pub(super) fn interrupt(id: u32, vector: u8) {
    command(id, COMMAND_ASSERT | u32::from(vector));
}

/// Interrupts a CPU whatever it does.
pub(super) fn interrupt_by_nmi(id: u32) {
    command(id, COMMAND_ASSERT | COMMAND_NMI);
}

/// Makes a CPU wait for [`start`].
pub(super) fn reset(id: u32) {
    command(id, COMMAND_ASSERT | COMMAND_INIT);
}

/// Makes a CPU that waits begin at a page below 1 MiB.
pub(super) fn start(id: u32, page: Maddr) {
    command(
        id,
        COMMAND_ASSERT | COMMAND_STARTUP | (page.get() >> 12) as u32 & 0xff,
    );
}

fn command(id: u32, what: u32) {
    count(Event::Ipi);
    if is_x2() {
        // The write does not wait for stores, which the other CPU is to see.
        fence();
        // SAFETY: as in `write`.
        unsafe { msr(COMMAND).write(u64::from(id) << 32 | u64::from(what)) };
    } else {
        while read(COMMAND) & COMMAND_PENDING != 0 {
            core::hint::spin_loop();
        }
        write(COMMAND_HIGH, id << 24);
        write(COMMAND, what);
    }
}

/// Orders stores before a write of a model-specific register. SPEC: Intel SDM volume 3, 11.12.3.
fn fence() {
    // SAFETY: waits.
    unsafe { asm!("mfence", "lfence", options(nostack, preserves_flags)) };
}

/// Makes the timer fire when this CPU's time-stamp counter is there; 0: not at all.
pub(super) fn set_deadline(tsc: u64) {
    count(Event::MsrWrite);
    // SAFETY: the CPU has the register, since the caller has asked `has_deadline`.
    unsafe { Msr::new(TSC_DEADLINE).write(tsc) };
}

/// Makes the timer fire after so many ticks; 0: not at all.
pub(super) fn set_ticks(ticks: u32) {
    write(TIMER_START, ticks);
}

/// How many ticks the timer has to go.
pub(super) fn ticks_left() -> u32 {
    read(TIMER_NOW)
}
