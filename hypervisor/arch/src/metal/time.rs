//! Time: how fast the time-stamp counter and the timers of the CPUs run, the clock, and the one timer of each CPU.
//!
//! The counter is measured against the first of these that the machine has: what CPUID says, the HPET, ACPI's timer, channel 2 of
//! the 8254. That takes 10 ms; where CPUs have no timer that goes by the counter, another 2 ms.

use core::fmt;
use core::ptr;

use dom0_abi::addr::{Maddr, PAGE_SIZE};
use x86_64::instructions::port::Port;

use super::acpi::Topology;
use super::apic;
use super::cpu::{Cpu, read_tsc};
use super::layout;
use super::machine::Machine;
use crate::clock::{ClockTime, TimerRate, frequency_khz};
use crate::sync::Once;

/// Where the registers of the HPET are mapped: behind the room for APICs.
const HPET: u64 = layout::DEVICES + (65 << 30);

/// Measured is for 1/100 s.
const PART_OF_A_SECOND: u64 = 100;
/// And the timers of CPUs for 1/500 s.
const PART_FOR_TIMERS: u64 = 500;
/// A counter that has not moved when it was read so often in a row does not run.
const PATIENCE: u32 = 5_000;
/// What is assumed where nothing can be measured.
const FALLBACK_KHZ: u32 = 1_000_000;

/// What the counter was measured against.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeSource {
    /// Nothing: the CPU says itself how fast it runs.
    Cpuid,
    /// The high-precision event timer.
    Hpet,
    /// The timer of ACPI's power management.
    PmTimer,
    /// Channel 2 of the 8254.
    Pit,
    /// Nothing: there is nothing that runs.
    Nothing,
}

impl fmt::Display for TimeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpuid => "as CPUID says",
            Self::Hpet => "measured against the HPET",
            Self::PmTimer => "measured against ACPI's timer",
            Self::Pit => "measured against the 8254",
            Self::Nothing => "a guess, since there is nothing to measure it against",
        })
    }
}

/// What is known of time. Made before any guest runs.
struct Facts {
    tsc_khz: u32,
    source: TimeSource,
    /// How fast the timers of the CPUs run, if they do not go by the counter.
    timer: Option<TimerRate>,
}

static FACTS: Once<Facts> = Once::new();

/// What has to be mapped, as (virtual, machine) address of a page.
pub(super) fn mapping(topology: &Topology) -> Option<(u64, Maddr)> {
    let registers = topology.hpet?;
    // They are 1 KiB, aligned to that.
    Some((HPET, Maddr::new(registers.get() & !0xfff)))
}

/// Measures. The APIC of this CPU must be on.
pub(super) fn init(topology: &Topology) {
    let by_cpuid = || {
        let info = raw_cpuid::CpuId::new().get_tsc_info()?;
        let khz = u32::try_from(info.tsc_frequency()? / 1000).ok()?;
        (khz > 0).then_some((khz, TimeSource::Cpuid))
    };
    let (tsc_khz, source) = by_cpuid()
        .or_else(|| Some((by_hpet(topology.hpet?)?, TimeSource::Hpet)))
        .or_else(|| Some((by_pm_timer(topology.pm_timer?)?, TimeSource::PmTimer)))
        .or_else(|| Some((by_pit()?, TimeSource::Pit)))
        .unwrap_or((FALLBACK_KHZ, TimeSource::Nothing));
    let timer = (!apic::has_deadline()).then(|| measure_timer(tsc_khz));
    FACTS.call_once(|| Facts {
        tsc_khz,
        source,
        timer,
    });
}

fn by_hpet(registers: Maddr) -> Option<u32> {
    // SPEC: IA-PC HPET 1.0a, 2.3.
    const CAPABILITIES: u64 = 0;
    const CONFIGURATION: u64 = 0x10;
    const COUNTER: u64 = 0xf0;
    const RUNS: u32 = 1;
    /// No HPET is slower: 100 ns.
    const LONGEST_PERIOD: u32 = 100_000_000;
    const FEMTOSECONDS: u64 = 1_000_000_000_000_000;
    let page = HPET + registers.get() % PAGE_SIZE as u64;
    let at = |register: u64| ptr::with_exposed_provenance_mut::<u32>((page + register) as usize);
    // SAFETY: mapped by `machine`; the period is the upper half of the register.
    let period = unsafe { at(CAPABILITIES + 4).read_volatile() };
    if period == 0 || period > LONGEST_PERIOD {
        return None;
    }
    // SAFETY: as above. It is started for a while if firmware has not: nobody uses it yet.
    unsafe {
        let before = at(CONFIGURATION).read_volatile();
        at(CONFIGURATION).write_volatile(before | RUNS);
        let read = || at(COUNTER).read_volatile();
        let khz = measure(read, u32::MAX, FEMTOSECONDS / u64::from(period));
        at(CONFIGURATION).write_volatile(before);
        khz
    }
}

fn by_pm_timer(port: u16) -> Option<u32> {
    // SPEC: ACPI 6.5, 4.8.3.3: 24 bits at least.
    const HERTZ: u64 = 3_579_545;
    const BITS: u32 = 0xff_ffff;
    // SAFETY: reading the timer does nothing.
    measure(|| unsafe { Port::<u32>::new(port).read() }, BITS, HERTZ)
}

/// The 8254 counts down to 0 once, and says when it is there. Its count is not read: that takes several accesses.
fn by_pit() -> Option<u32> {
    const HERTZ: u64 = 1_193_182;
    const TICKS: u64 = HERTZ / PART_OF_A_SECOND;
    const IS_DONE: u8 = 0x20;
    /// A counter that goes on by more meanwhile would be one of more than 10 GHz.
    const MOST_CYCLES: u64 = 10_000_000_000 / PART_OF_A_SECOND;
    let (mut gate, mut mode, mut counter) = (
        Port::<u8>::new(0x61),
        Port::<u8>::new(0x43),
        Port::<u8>::new(0x42),
    );
    // SAFETY: channel 2 drives nothing but the speaker, which stays off.
    unsafe {
        let before = gate.read();
        gate.write((before & !0b10) | 0b01);
        // Channel 2, low byte then high byte, one shot.
        mode.write(0xb0);
        counter.write(TICKS as u8);
        counter.write((TICKS >> 8) as u8);
        let start = read_tsc();
        let (mut is_done, mut cycles) = (false, 0);
        while !is_done && cycles < MOST_CYCLES {
            is_done = gate.read() & IS_DONE != 0;
            cycles = read_tsc().wrapping_sub(start);
        }
        gate.write(before);
        frequency_khz(cycles, TICKS, HERTZ).filter(|_| is_done)
    }
}

/// Measures the time-stamp counter against one that is read by `read`, of these bits and this frequency. `None` if that one does
/// not run.
fn measure(read: impl Fn() -> u32, bits: u32, hertz: u64) -> Option<u32> {
    let (first, start) = read_both(&read);
    let mut last = first;
    let mut patience = PATIENCE;
    while u64::from(last.wrapping_sub(first) & bits) < hertz / PART_OF_A_SECOND {
        let now = read();
        patience = if now == last {
            patience.checked_sub(1)?
        } else {
            PATIENCE
        };
        last = now;
    }
    let (last, end) = read_both(&read);
    let ticks = u64::from(last.wrapping_sub(first) & bits);
    frequency_khz(end.wrapping_sub(start), ticks, hertz)
}

/// Reads another counter and the time-stamp counter at the same time, as nearly as some attempts come to it.
fn read_both(read: impl Fn() -> u32) -> (u32, u64) {
    let attempts = (0..8).map(|_| {
        let before = read_tsc();
        let value = read();
        let took = read_tsc().wrapping_sub(before);
        (took, value, before.wrapping_add(took / 2))
    });
    let best = attempts.min_by_key(|(took, ..)| *took);
    best.map_or((0, 0), |(_, value, tsc)| (value, tsc))
}

/// Measures this CPU's timer against the counter. That of the others is alike: it counts cycles of the bus.
fn measure_timer(tsc_khz: u32) -> TimerRate {
    let cycles = u64::from(tsc_khz) * 1000 / PART_FOR_TIMERS;
    apic::set_ticks(u32::MAX);
    let (left, start) = read_both(apic::ticks_left);
    while read_tsc().wrapping_sub(start) < cycles {
        core::hint::spin_loop();
    }
    let (less, end) = read_both(apic::ticks_left);
    apic::set_ticks(0);
    TimerRate::new(left.wrapping_sub(less), end.wrapping_sub(start))
}

/// The time-stamp counter's frequency.
pub(super) fn tsc_khz() -> u32 {
    FACTS.get().map_or(FALLBACK_KHZ, |facts| facts.tsc_khz)
}

/// How far the counter goes on in so many milliseconds.
pub(super) fn cycles(milliseconds: u64) -> u64 {
    u64::from(tsc_khz()).wrapping_mul(milliseconds)
}

/// Waits until something holds, for so many milliseconds at most; whether it did.
pub(super) fn wait_until(milliseconds: u64, mut holds: impl FnMut() -> bool) -> bool {
    let start = read_tsc();
    let cycles = cycles(milliseconds);
    loop {
        if holds() {
            return true;
        }
        if read_tsc().wrapping_sub(start) >= cycles {
            return false;
        }
        core::hint::spin_loop();
    }
}

impl Machine {
    /// How fast the time-stamp counter, and with it the clock, runs.
    pub fn tsc_khz(&self) -> u32 {
        tsc_khz()
    }

    /// How that is known.
    pub fn time_source(&self) -> TimeSource {
        FACTS
            .get()
            .map_or(TimeSource::Nothing, |facts| facts.source)
    }
}

impl Cpu {
    /// The clock that all CPUs share.
    #[inline]
    pub fn clock(&self) -> ClockTime {
        ClockTime::from_cycles(read_tsc().wrapping_add(self.local.clock_offset.get()))
    }

    /// What this CPU's time-stamp counter is to be added for the clock.
    pub fn clock_offset(&self) -> u64 {
        self.local.clock_offset.get()
    }

    /// Sets this CPU's timer, which is one: at that time, or a little later, or earlier if it is far away, the CPU is interrupted
    /// once. `None`: not at all; an interrupt that is under way already comes nevertheless.
    pub fn set_timer(&self, deadline: Option<ClockTime>) {
        match (FACTS.get().and_then(|facts| facts.timer), deadline) {
            (None, None) => apic::set_deadline(0),
            (None, Some(then)) => {
                // By what is left until then: less than the clock's offset from the counter is also a time.
                let tsc = read_tsc();
                let now = ClockTime::from_cycles(tsc.wrapping_add(self.clock_offset()));
                apic::set_deadline(tsc.saturating_add(now.until(then)));
            }
            (Some(_), None) => apic::set_ticks(0),
            (Some(rate), Some(then)) => apic::set_ticks(rate.ticks(self.clock().until(then))),
        }
    }
}
