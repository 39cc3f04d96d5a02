//! What single operations cost: instructions in the hypervisor for calls, trapped writes of page-table entries, and events; and what two
//! vCPUs do with each other, if the command line says on what they run: `same-cpu` or `other-cpu`.
//!
//! Under `-icount shift=0` the time stamp counter counts instructions, so a row is exact and the same on every machine;
//! without it the rows mean nothing, but each is tried all the same. A line `BENCH <row> <n>` says how many instructions
//! one operation takes, from the guest's instruction that asks for it to the next. The loop around it and the loading of a
//! hypercall's arguments are subtracted; what the guest does for a list of arguments is not. A row that the hypervisor
//! refuses is skipped.
//!
//! Where the hypervisor counts what else it does, lines `COUNT <row> <counter> <n>` say how much of that one operation takes.
#![no_std]
#![no_main]
// UNSAFETY: hypercalls with bare arguments, and writes to page tables.
#![allow(unsafe_code)]

mod calls;
mod counters;
mod events;
mod frames;
mod grants;
mod peers;
mod tables;
mod trapped;
mod updates;
mod user_mode;

use core::arch::asm;
use core::hint::black_box;

use counters::{Counters, Counts};
use guest_pv_drivers::hypercall;
use kit::frames::take;
use kit::page_tables::{Lab, Table};
use kit::{Report, println, start_info};
use peers::On;

kit::guest!("bench-mmu", main);

fn main(report: &mut Report) {
    let mut bench = Bench::new(report);
    let line = &start_info().cmd_line;
    let end = line.iter().position(|&byte| byte == 0).unwrap_or(0);
    match &line[..end] {
        b"same-cpu" => peers::measure(&mut bench, On::SameCpu),
        b"other-cpu" => peers::measure(&mut bench, On::OtherCpu),
        _ => alone(&mut bench),
    }
}

/// All that takes one vCPU.
fn alone(bench: &mut Bench<'_>) {
    calls::measure(bench);
    events::measure(bench);
    match Lab::new() {
        Ok(lab) => {
            let bed = TestBed {
                lab,
                frames: [take(1), take(1)].map(kit::frames::mfn_of),
            };
            updates::measure(bench, &bed);
            trapped::measure(bench, &bed);
            grants::measure(bench, &bed.lab);
        }
        Err(error) => bench
            .report
            .skip("page-table entries", format_args!("{error:?}")),
    }
    tables::measure(bench);
    user_mode::measure(bench);
    frames::measure(bench);
}

/// Rounds of each row. The one that takes least counts, for the hypervisor's own timers fall into the others.
const ROUNDS: usize = 4;
/// Operations of a round, unless a row says otherwise.
const COUNT: u64 = 512;

/// A level-1 table to write, and two frames to map by it.
struct TestBed {
    lab: Lab,
    frames: [u64; 2],
}

impl TestBed {
    fn table(&self) -> Table {
        self.lab.table(1)
    }
}

/// What asks for an operation, and so what the guest itself does for each.
#[derive(Clone, Copy, PartialEq)]
enum Asked {
    ByHypercall,
    ByInstruction,
}

/// Measures rows.
struct Bench<'a> {
    report: &'a mut Report,
    counters: Counters,
    /// Instructions of [`COUNT`] turns of the loop without any operation.
    turns: u64,
    /// The same with the arguments of a hypercall in each.
    turns_with_arguments: u64,
}

/// The time stamp counter, once everything before is done.
fn now() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a register that guests may read.
    unsafe { asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Instructions of so many turns, and all results in one. A result is what the hypercall returned: errors are the only
/// ones with the highest bit set.
fn turns(count: u64, operation: &mut impl FnMut(u64) -> u64) -> (u64, u64) {
    let mut results = 0;
    let start = now();
    for index in 0..count {
        results |= operation(black_box(index));
    }
    (now() - start, results)
}

/// The least that so many turns took in some rounds.
fn least(count: u64, operation: &mut impl FnMut(u64) -> u64) -> u64 {
    let times = [(); ROUNDS].map(|()| turns(count, operation).0);
    times.into_iter().min().unwrap_or(0)
}

/// What so many operations took.
#[derive(Clone, Copy)]
struct Cost {
    instructions: u64,
    counts: Counts,
}

impl Cost {
    /// More than anything.
    const MAX: Self = Self {
        instructions: u64::MAX,
        counts: Counts::MAX,
    };

    /// The lesser of each.
    fn min(self, other: Self) -> Self {
        Self {
            instructions: self.instructions.min(other.instructions),
            counts: self.counts.min(&other.counts),
        }
    }

    /// What is left of each.
    fn minus(self, other: Self) -> Self {
        Self {
            instructions: self.instructions.saturating_sub(other.instructions),
            counts: self.counts.minus(&other.counts),
        }
    }
}

/// A hypercall without the hypervisor: its arguments are loaded, its result is taken.
fn no_hypercall(number: u64, arguments: [u64; 5]) -> u64 {
    let [rdi, rsi, rdx, r10, r8] = arguments;
    let result;
    // SAFETY: does nothing; the memory and registers that it seems to need are those of a hypercall.
    unsafe {
        asm!(
            "",
            inlateout("rax") number => result,
            inlateout("rdi") rdi => _,
            inlateout("rsi") rsi => _,
            inlateout("rdx") rdx => _,
            inlateout("r10") r10 => _,
            inlateout("r8") r8 => _,
            lateout("rcx") _,
            lateout("r11") _,
        )
    };
    result
}

impl<'a> Bench<'a> {
    fn new(report: &'a mut Report) -> Self {
        Self {
            report,
            counters: Counters::find(),
            turns: least(COUNT, &mut |_| 0),
            turns_with_arguments: least(COUNT, &mut |_| no_hypercall(0, [0; 5])),
        }
    }

    /// Measures [`COUNT`] hypercalls, each with a number of its own.
    fn row(&mut self, name: &str, operation: impl FnMut(u64) -> u64) {
        self.rows(name, COUNT, 1, || {}, operation);
    }

    /// Measures `count` hypercalls, after a preparation that is not measured, and says what each of the `parts` of one
    /// costs.
    fn rows(
        &mut self,
        name: &str,
        count: u64,
        parts: u64,
        prepare: impl FnMut(),
        mut operation: impl FnMut(u64) -> u64,
    ) {
        if let Err(error) = hypercall::decode(operation(0)) {
            self.report.skip(name, format_args!("{error:?}"));
            return;
        }
        self.measure(name, Asked::ByHypercall, [count, parts], prepare, operation);
    }

    /// Measures operations that work.
    fn measure(
        &mut self,
        name: &str,
        asked: Asked,
        [count, parts]: [u64; 2],
        mut prepare: impl FnMut(),
        mut operation: impl FnMut(u64) -> u64,
    ) {
        let mut best = Cost::MAX;
        let mut results = 0;
        for _ in 0..ROUNDS {
            prepare();
            let (counts, (instructions, result)) =
                self.counters.around(|| turns(count, &mut operation));
            best = best.min(Cost {
                instructions,
                counts,
            });
            results |= result;
        }
        self.report.check(name, results >> 63 == 0, "a call failed");
        let own = match asked {
            Asked::ByHypercall => self.turns_with_arguments,
            Asked::ByInstruction => self.turns,
        };
        best.instructions = best.instructions.saturating_sub(own * count / COUNT);
        self.print(name, &best, count * parts);
    }

    /// Prints the row of something that took `cost` for `operations`.
    fn print(&self, name: &str, cost: &Cost, operations: u64) {
        println!(
            "BENCH {name} {}",
            (cost.instructions + operations / 2) / operations
        );
        self.counters.print(name, &cost.counts, operations);
    }
}
