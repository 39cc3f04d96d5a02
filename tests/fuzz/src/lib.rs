//! Fuzz targets: bytes become what three domains do on a model machine; the auditor looks at the machine afterwards.
//!
//! An input is read as a sequence of steps (`game`). Most steps of a target are of its own kind (`steps`), the others write
//! to memory, pin, change vCPUs and end domains, so that there is something to hit. Where a frame is wanted, a byte chooses
//! from those that could be meant: tables and pages of the caller, frames of others, of the hypervisor, of nobody.
//! The machine is made anew for each input, so an input does the same every time.
#![forbid(unsafe_code)]

#[allow(dead_code)] // The property tests use more of it.
#[path = "../../../hypervisor/core/tests/properties/books.rs"]
mod books;
mod events;
mod game;
mod grants;
mod pick;
mod steps;
mod vcpus;
#[allow(dead_code)] // The property tests use more of it.
#[path = "../../../hypervisor/core/tests/properties/world.rs"]
mod world;

use game::Game;

/// What is fuzzed.
pub struct Target {
    /// What it is called.
    pub name: &'static str,
    /// What it does, for people.
    pub what: &'static str,
    /// What comes before the first step.
    begin: fn(&mut Game<'_>),
    /// One step.
    step: fn(&mut Game<'_>),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "mmu_update",
        what: "lists of mmu_update, with odd counts, pointers and foreign domains",
        begin: |_| (),
        step: steps::mmu_update,
    },
    Target {
        name: "mmuext_op",
        what: "lists of mmuext_op, every command",
        begin: |_| (),
        step: steps::mmuext_op,
    },
    Target {
        name: "memory_op",
        what: "memory that comes and goes, exchange, maps",
        begin: |_| (),
        step: steps::memory_op,
    },
    Target {
        name: "pte",
        what: "entries of every level, by update, by va mapping and by pin",
        begin: |_| (),
        step: steps::pte,
    },
    Target {
        name: "ptwr",
        what: "instructions that write to page tables",
        begin: steps::begin_ptwr,
        step: steps::ptwr,
    },
    Target {
        name: "grant",
        what: "grants given, mapped, copied, swapped and ended, with odd references, flags and places",
        begin: |_| (),
        step: grants::grant,
    },
    Target {
        name: "evtchn",
        what: "ports made, connected, sent through, moved and closed, and what guests write about them",
        begin: |_| (),
        step: events::event,
    },
    Target {
        name: "vcpu_op",
        what: "vCPUs made, started, stopped, woken and put to sleep, their timers and areas, and CPUs that run them by turns",
        begin: vcpus::begin,
        step: vcpus::vcpu,
    },
    Target {
        name: "hypercall",
        what: "any hypercall with any arguments",
        begin: |_| (),
        step: steps::hypercall,
    },
];

/// The target of a name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Carries an input out; an error says what the auditor found. `speaks`: prints each step.
pub fn run(target: &Target, bytes: &[u8], speaks: bool) -> Result<(), String> {
    let mut game = Game::new(bytes, speaks);
    (target.begin)(&mut game);
    while game.goes_on() {
        game.step(target.step);
    }
    game.end()
}
