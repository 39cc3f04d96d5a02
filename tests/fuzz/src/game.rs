//! The course of one input.

use arbitrary::Unstructured;
use dom0_abi::hypercalls::Hypercall;
use oxen_core::budget::Budget;

use crate::pick::Picker;
use crate::steps;
use crate::vcpus;
use crate::world::{ARGS, Config, Outcome, World, linear};

/// How many steps an input has at most.
const STEPS: u32 = 48;
/// How often a call that was preempted is gone on with before it is left where it is.
const RESUMPTIONS: u32 = 200;
/// How many domains may end, each of which costs memory until the end of the input.
const KILLS: u32 = 3;
/// What entries of guests begin with: as a rule the real thing, else so little that they stop again and again.
const FULL: u32 = Budget::FULL.units();
const BUDGETS: [u32; 8] = [FULL, FULL, FULL, FULL, 200, 60, 30, 25];

/// The machine, what is left of the input, and whose turn it is.
pub struct Game<'i> {
    pub world: World,
    pub input: Unstructured<'i>,
    pub slot: usize,
    pub seat: usize,
    /// CPUs look for something else to run where a vCPU does not go on. Otherwise that is the end of its domain.
    pub schedules: bool,
    speaks: bool,
    is_over: bool,
    steps: u32,
    kills: u32,
    /// Where the next data goes to in the caller's page for arguments.
    place: u64,
}

impl<'i> Game<'i> {
    pub fn new(bytes: &'i [u8], speaks: bool) -> Self {
        let mut input = Unstructured::new(bytes);
        let kind: u8 = input.arbitrary().unwrap_or(0);
        let config = Config {
            seed: u64::from(kind),
            pcid: kind & 1 != 0,
            l1tf: kind & 2 != 0,
            xpti: kind & 64 != 0,
            // The control domain plays, which may do to others what nobody else may.
            wild: kind & 4 != 0,
            forgets_flushes: false,
        };
        let world = World::new(config);
        let budget = BUDGETS[usize::from(kind >> 3) % BUDGETS.len()];
        world.host.set_entry_budget(Budget::new(budget));
        let game = Self {
            slot: usize::from(!config.wild),
            world,
            input,
            seat: 0,
            schedules: false,
            speaks,
            is_over: false,
            steps: 0,
            kills: 0,
            place: 0,
        };
        game.say(|| format!("{config:?}, budget {budget}"));
        game
    }

    /// Whether there is another step.
    pub fn goes_on(&self) -> bool {
        !self.is_over && !self.input.is_empty() && self.steps < STEPS
    }

    /// One step: as a rule the target's.
    pub fn step(&mut self, own: fn(&mut Self)) {
        self.steps += 1;
        self.place = 0;
        match self.byte() {
            0..24 => steps::write(self),
            24..32 => self.change_turn(),
            32..34 => self.kill(),
            34..44 => self.world.host.machine.agitate(),
            44..60 => steps::mmuext_one(self),
            60..76 => steps::mmu_update_one(self),
            76..80 => self.resume(),
            _ => own(self),
        }
    }

    /// The auditor's word, and whether all memory is free when all domains have ended.
    pub fn end(mut self) -> Result<(), String> {
        self.world.check()?;
        self.world.finish()
    }

    /// Prints something, if anybody wants to know.
    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.speaks {
            println!("  {}", text());
        }
    }

    /// A byte of the input; behind its end, 0.
    pub fn byte(&mut self) -> u8 {
        self.input.arbitrary().unwrap_or(0)
    }

    /// A word of it.
    pub fn word(&mut self) -> u64 {
        self.input.arbitrary().unwrap_or(0)
    }

    /// Things that could be meant.
    pub fn picker(&mut self) -> Picker<'_, 'i> {
        Picker {
            world: &self.world,
            input: &mut self.input,
            slot: self.slot,
        }
    }

    fn change_turn(&mut self) {
        let byte = self.byte();
        self.seat = usize::from(byte & 1);
        if byte & 2 != 0 {
            let slot = usize::from(byte >> 2) % 3;
            self.slot = if self.world.config.wild {
                slot
            } else {
                1 + slot % 2
            };
        }
        self.say(|| format!("place {} vcpu {}", self.slot, self.seat));
    }

    pub fn kill(&mut self) {
        self.kills += 1;
        if self.kills > KILLS {
            self.is_over = true;
            return;
        }
        self.say(|| format!("the end of place {}", self.slot));
        self.world.kill(self.slot);
        let units = 25 + u32::from(self.byte());
        let last = self.world.dying.len().saturating_sub(1);
        self.world.tear_down(last, 0, Budget::new(units));
    }

    fn resume(&mut self) {
        if self.world.players[self.slot].seats[self.seat].is_pending {
            let outcome = self.world.resume(self.slot, self.seat);
            self.settle(outcome);
        }
    }

    /// Puts bytes where a call of the vCPU finds them; their address.
    pub fn data(&mut self, bytes: &[u8]) -> u64 {
        let page = linear(ARGS + self.seat);
        let at = page + self.place;
        self.place = (self.place + bytes.len() as u64).next_multiple_of(8);
        // A guest that has lost the page hands over an address where nothing is.
        let is_there = self.world.write(self.slot, self.seat, at, bytes);
        if !is_there {
            self.say(|| String::from("the page of arguments is lost"));
        }
        at
    }

    /// Makes a call. Some are left half-way.
    pub fn call(&mut self, call: Hypercall, args: [u64; 5]) {
        self.call_number(call.number(), args);
    }

    /// The same by number.
    pub fn call_number(&mut self, number: u64, args: [u64; 5]) {
        if self.is_over {
            return;
        }
        self.say(|| format!("call {number} {args:x?}"));
        let mut outcome = self.world.call(self.slot, self.seat, number, args);
        if outcome == Outcome::Pending {
            let patience = if self.byte() < 200 { RESUMPTIONS } else { 0 };
            for _ in 0..patience {
                outcome = self.world.resume(self.slot, self.seat);
                if outcome != Outcome::Pending {
                    break;
                }
            }
        }
        self.settle(outcome);
    }

    /// What became of a vCPU.
    pub fn settle(&mut self, outcome: Outcome) {
        self.say(|| format!("    {outcome:?}"));
        match outcome {
            Outcome::Gone if self.schedules => vcpus::look_around(self),
            Outcome::Gone => self.kill(),
            Outcome::Returned(_) | Outcome::Pending => {}
        }
    }
}
