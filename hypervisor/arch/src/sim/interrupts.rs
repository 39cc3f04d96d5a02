//! Interrupts and timers of the model CPUs, and the clock.
//!
//! Nothing arrives by itself: an interrupt waits at its CPU until whoever plays that CPU takes it, between two operations, as
//! it does on a machine whose hypervisor runs with interrupts off. So a run repeats.

use std::collections::BTreeSet;
use std::vec::Vec;

use super::cpu::Cpu;
use super::machine::Machine;
use crate::boot::CpuId;
use crate::clock::ClockTime;
use crate::interrupts::{Interrupt, Ipi};
use crate::sync::atomic::Ordering;

/// What waits at a CPU.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// From other CPUs: of each kind one.
    ipis: BTreeSet<Ipi>,
    /// When the timer fires.
    timer: Option<ClockTime>,
    /// It has.
    timer_fired: bool,
    /// Vectors of devices: of each one.
    pub(super) devices: BTreeSet<u8>,
}

impl Waiting {
    /// Lets the timer fire if it is time.
    fn look(&mut self, now: ClockTime) {
        if self.timer.is_some_and(|then| then <= now) {
            self.timer = None;
            self.timer_fired = true;
        }
    }

    /// Takes what has the highest priority.
    fn take(&mut self) -> Option<Interrupt> {
        if let Some(ipi) = self.ipis.pop_last() {
            return Some(Interrupt::Ipi(ipi));
        }
        if core::mem::take(&mut self.timer_fired) {
            return Some(Interrupt::Timer);
        }
        self.devices.pop_last().map(Interrupt::Device)
    }

    fn is_anything(&self) -> bool {
        self.timer_fired || !self.ipis.is_empty() || !self.devices.is_empty()
    }
}

/// An interrupt that was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SentIpi {
    /// To which CPU.
    pub to: CpuId,
    /// What it is told.
    pub what: Ipi,
}

impl Machine {
    /// Interrupts a CPU, which may be the caller's own.
    pub fn interrupt(&self, cpu: CpuId, what: Ipi) {
        self.parts
            .devices
            .lock()
            .ipis
            .push(SentIpi { to: cpu, what });
        self.parts.processor(cpu).waiting.ipis.insert(what);
    }

    /// Takes the log of the interrupts that were sent to CPUs.
    pub fn take_ipi_log(&self) -> Vec<SentIpi> {
        core::mem::take(&mut self.parts.devices.lock().ipis)
    }
}

impl Cpu {
    /// The clock that all CPUs share. Every look makes it go on by one.
    pub fn clock(&self) -> ClockTime {
        ClockTime::from_cycles(self.tsc())
    }

    /// What this CPU's time-stamp counter is to be added for the clock.
    pub fn clock_offset(&self) -> u64 {
        0
    }

    /// Sets this CPU's timer, which is one: at that time it fires once. `None`: not at all; if it has fired already, the interrupt
    /// comes nevertheless.
    pub fn set_timer(&self, deadline: Option<ClockTime>) {
        let now = self.clock();
        let waiting = &mut self.processor().waiting;
        waiting.look(now);
        waiting.timer = deadline;
    }

    /// Idles until an interrupt: returns at once, if one waits; else when the timer fires by the machine's clock, which then goes on
    /// to there; without a timer a millisecond later.
    pub fn wait_for_interrupt(&self) {
        let now = self.clock();
        let mut processor = self.processor();
        processor.registers.waits += 1;
        processor.waiting.look(now);
        if processor.waiting.is_anything() {
            return;
        }
        let a_while = now.after(u64::from(self.parts.tsc_khz));
        let end = processor.waiting.timer.unwrap_or(a_while);
        let rest = end
            .cycles()
            .saturating_sub(self.parts.tsc.load(Ordering::SeqCst));
        self.parts.tsc.fetch_add(rest, Ordering::SeqCst);
    }
}

/// What only the model has.
impl Cpu {
    /// Takes an interrupt that waits at this CPU, the most urgent one first. It is for whoever plays the CPU to handle it.
    pub fn take_interrupt(&self) -> Option<Interrupt> {
        let now = self.clock();
        let waiting = &mut self.processor().waiting;
        waiting.look(now);
        waiting.take()
    }

    /// When the timer fires, if it is set.
    pub fn timer(&self) -> Option<ClockTime> {
        self.processor().waiting.timer
    }
}
