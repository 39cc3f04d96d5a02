//! The big run: random operations of all vCPUs in random order, with random ends of domains, and the auditor behind them.

use std::collections::VecDeque;

use dom0_abi::errno::Errno;
use dom0_abi::hypercalls::Hypercall;
use oxen_core::budget::Budget;

use crate::ops::{Call, Maker, Op};
use crate::rng::Rng;
use crate::world::{ARGS, Config, FRAMES, Outcome, PRESENT, STACKS, USER, WRITABLE, World, linear};

/// What came about, so that it can be seen that the run is worth something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub steps: u64,
    pub calls: u64,
    pub succeeded: u64,
    pub refused: u64,
    pub preempted: u64,
    pub abandoned: u64,
    pub writes: u64,
    pub trapped: u64,
    pub users: u64,
    pub gone: u64,
    pub kills: u64,
    pub audits: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.calls += other.calls;
        self.succeeded += other.succeeded;
        self.refused += other.refused;
        self.preempted += other.preempted;
        self.abandoned += other.abandoned;
        self.writes += other.writes;
        self.trapped += other.trapped;
        self.users += other.users;
        self.gone += other.gone;
        self.kills += other.kills;
        self.audits += other.audits;
    }
}

/// A run.
pub struct Run {
    pub world: World,
    rng: Rng,
    pub counts: Counts,
    /// The auditor looks every so many steps.
    every: u64,
    last: String,
    /// Calls in a row whose arguments could not be put into memory.
    lost: [[u32; 2]; 3],
    /// What vCPUs are about to do.
    plans: [[VecDeque<Op>; 2]; 3],
}

impl Run {
    pub fn new(config: Config, every: u64) -> Self {
        Self {
            world: World::new(config),
            rng: Rng::new(config.seed),
            counts: Counts::default(),
            every,
            last: String::new(),
            lost: [[0; 2]; 3],
            plans: Default::default(),
        }
    }

    /// Does so many steps.
    pub fn steps(&mut self, steps: u64) -> Result<(), String> {
        for _ in 0..steps {
            self.step()?;
            self.counts.steps += 1;
            if self.counts.steps.is_multiple_of(self.every) {
                self.check()?;
            }
        }
        Ok(())
    }

    /// Ends everything, and looks whether all is free again.
    pub fn finish(mut self) -> Result<Counts, String> {
        self.check()?;
        self.last = String::from("the end of everything");
        let finished = self.world.finish();
        finished.map_err(|text| self.blame(text))?;
        Ok(self.counts)
    }

    fn check(&mut self) -> Result<(), String> {
        self.counts.audits += 1;
        let checked = self.world.check();
        checked.map_err(|text| self.blame(text))
    }

    fn blame(&self, text: String) -> String {
        format!(
            "step {} of {:?}, behind {}: {text}",
            self.counts.steps, self.world.config, self.last
        )
    }

    fn step(&mut self) -> Result<(), String> {
        if self.counts.steps.is_multiple_of(32) {
            self.world.refresh((self.counts.steps / 32 % 3) as usize);
        }
        match self.rng.below(1000) {
            0..60 => self.world.host.machine.agitate(),
            60..120 => {
                let units = match self.rng.below(6) {
                    0 => u32::MAX,
                    1 => Budget::FULL.units(),
                    2 => 25 + self.rng.below(120) as u32,
                    _ => 24 + self.rng.below(20) as u32,
                };
                self.world.host.set_entry_budget(Budget::new(units));
            }
            120..150 if !self.world.dying.is_empty() => {
                let index = self.rng.below(self.world.dying.len() as u64) as usize;
                let units = 25 + self.rng.below(700) as u32;
                let cpu = self.rng.below(6) as usize;
                self.last = format!("teardown of {:?}", self.world.dying[index]);
                self.world.tear_down(index, cpu, Budget::new(units));
            }
            150..152 => {
                let slot = self.rng.below(3) as usize;
                self.kill(slot);
            }
            _ => self.turn()?,
        }
        Ok(())
    }

    fn kill(&mut self, slot: usize) {
        self.counts.kills += 1;
        self.last = format!("the end of place {slot}");
        // Memory for too many at a time is not there.
        while self.world.dying.len() > 12 {
            let before = self.world.dying.len();
            for index in (0..before).rev() {
                self.world.tear_down(index, 0, Budget::ENDLESS);
            }
            if self.world.dying.len() == before {
                // The control domain maps their pages.
                self.world.kill(0);
                self.lost[0] = [0; 2];
            }
        }
        self.world.kill(slot);
        self.lost[slot] = [0; 2];
        self.plans[slot] = Default::default();
    }

    /// Lets user code do something.
    fn user_turn(&mut self, slot: usize, seat: usize) -> Result<(), String> {
        self.last = format!("place {slot} vcpu {seat}, user code");
        let at = linear(self.rng.below(FRAMES as u64) as usize);
        match self.rng.below(4) {
            0 => {
                let outcome = self.world.leave_user(slot, seat);
                self.settle(slot, outcome);
            }
            1 => {
                self.world.read(slot, seat, at, &mut [0; 8]);
            }
            // Where no kernel's stack is: a kernel would not survive that.
            _ if at >> 13 == linear(STACKS) >> 13 => {}
            _ => self.write(slot, seat, at + 0x20, &[0xff; 8])?,
        }
        Ok(())
    }

    /// Lets one vCPU do something.
    fn turn(&mut self) -> Result<(), String> {
        let slot = self.rng.below(3) as usize;
        let seat = self.rng.below(2) as usize;
        if self.world.players[slot].seats[seat].is_user {
            return self.user_turn(slot, seat);
        }
        if self.world.players[slot].seats[seat].is_pending {
            if self.rng.percent(90) {
                let outcome = self.world.resume(slot, seat);
                self.settle(slot, outcome);
                return Ok(());
            }
            self.counts.abandoned += 1;
        }
        if self.lost[slot][seat] > 0 {
            self.repair(slot, seat);
            return Ok(());
        }
        if self.rng.one_in(24) {
            return self.refusal(slot, seat);
        }
        let op = match self.plans[slot][seat].pop_front() {
            Some(op) => op,
            None => {
                let mut ops = Maker::new(self.world.scene(), &mut self.rng, slot, seat).ops();
                let first = ops.remove(0);
                self.plans[slot][seat].extend(ops);
                first
            }
        };
        self.last = format!("place {slot} vcpu {seat}: {op:x?}");
        match op {
            Op::EnterUser => {
                self.counts.users += 1;
                let outcome = self.world.enter_user(slot, seat);
                self.settle(slot, outcome);
            }
            Op::Trapped(at, values, instruction) => {
                let outcome = self
                    .world
                    .trapped_write(slot, seat, at, values, &instruction);
                self.counts.trapped += u64::from(outcome == Outcome::Returned(0));
                self.settle(slot, outcome);
            }
            Op::Call(call) => {
                if self.put(slot, seat, &call) {
                    let outcome = self.world.call(slot, seat, call.call.number(), call.args);
                    self.settle(slot, outcome);
                }
            }
            Op::Write(at, bytes) => self.write(slot, seat, at, &bytes)?,
            Op::Read(at, length) => {
                self.world.read(slot, seat, at, &mut vec![0; length]);
            }
        }
        Ok(())
    }

    /// Lets a guest's code write; neither tables nor what others have may change by that (I1, I8).
    fn write(&mut self, slot: usize, seat: usize, at: u64, bytes: &[u8]) -> Result<(), String> {
        let looks = self.rng.one_in(16);
        let before = looks.then(|| (self.world.books(), self.world.contents_of_others(slot)));
        if self.world.write(slot, seat, at, bytes) {
            self.counts.writes += 1;
        }
        let Some((books, contents)) = before else {
            return Ok(());
        };
        if let Some(difference) = books.difference(&self.world.books()) {
            return Err(self.blame(format!("a write to memory, but {difference}")));
        }
        // A control domain may have mapped what others have.
        let may = slot == 0 || self.world.config.wild;
        if !may && contents != self.world.contents_of_others(slot) {
            return Err(self.blame(String::from("it changed the memory of others")));
        }
        Ok(())
    }

    /// Puts what a call needs into memory, as the guest does. It may have lost the memory for it.
    fn put(&mut self, slot: usize, seat: usize, call: &Call) -> bool {
        let put = |(at, bytes): &(u64, Vec<u8>)| self.world.write(slot, seat, *at, bytes);
        let is_there = call.data.iter().all(put);
        if !is_there {
            self.lost[slot][seat] += 1;
        }
        is_there
    }

    fn settle(&mut self, slot: usize, outcome: Outcome) {
        self.counts.calls += 1;
        match outcome {
            Outcome::Returned(value) if value < 0 => self.counts.refused += 1,
            Outcome::Returned(_) => self.counts.succeeded += 1,
            Outcome::Pending => self.counts.preempted += 1,
            Outcome::Gone => {
                self.counts.gone += 1;
                self.kill(slot);
            }
        }
    }

    /// Gives a vCPU memory for arguments again; if that does not help, its domain ends.
    fn repair(&mut self, slot: usize, seat: usize) {
        let index = ARGS + seat;
        let player = &self.world.players[slot];
        let entry = player.entry(index, PRESENT | WRITABLE | USER);
        self.last = format!("place {slot} vcpu {seat}: repair");
        let number = Hypercall::UpdateVaMapping.number();
        let args = [linear(index), entry, 6, 0, 0];
        let outcome = self.world.call(slot, seat, number, args);
        self.settle(slot, outcome);
        let is_there = self.world.write(slot, seat, linear(index), &[0; 8]);
        let lost = &mut self.lost[slot][seat];
        *lost = if is_there { 0 } else { *lost + 1 };
        if *lost > 6 {
            self.kill(slot);
        }
    }

    /// Makes a call to its end which may be refused; then nothing has changed (I9).
    fn refusal(&mut self, slot: usize, seat: usize) -> Result<(), String> {
        let call = Maker::new(self.world.scene(), &mut self.rng, slot, seat).single();
        self.last = format!("place {slot} vcpu {seat}, refused: {call:x?}");
        if !self.put(slot, seat, &call) {
            return Ok(());
        }
        // What is left of earlier calls would change meanwhile.
        let budget = self.world.host.entry_budget();
        self.world.host.set_entry_budget(Budget::ENDLESS);
        self.world.drain();
        let before = self.world.books();
        let outcome = self.world.call(slot, seat, call.call.number(), call.args);
        self.world.host.set_entry_budget(budget);
        if let Outcome::Returned(value) = outcome
            && value < 0
            && value != Errno::EFAULT.as_return()
            && before.is_settled()
        {
            let after = self.world.books();
            if let Some(difference) = before.difference(&after) {
                return Err(self.blame(format!("refused by {value}, but {difference}")));
            }
        }
        self.settle(slot, outcome);
        Ok(())
    }
}

/// Runs a seed; on failure runs it again with the auditor behind each step, to name the first that is wrong.
pub fn run_seed(seed: u64, steps: u64) -> Result<Counts, String> {
    let attempt = |every| {
        let mut run = Run::new(Config::of(seed), every);
        run.steps(steps)?;
        run.finish()
    };
    match attempt(32) {
        Ok(counts) => Ok(counts),
        Err(late) => Err(attempt(1).err().unwrap_or(late)),
    }
}
