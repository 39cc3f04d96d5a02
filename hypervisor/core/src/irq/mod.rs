//! Interrupts of devices: whose they are, and how they reach a domain.
//!
//! A domain with devices knows an interrupt by a number, its *pirq*. The numbers of lines are those of the machine (GSI); behind them come
//! numbers for messages (MSI). It maps a pirq, which finds it a CPU and a vector there, and binds it to a port of its own, which opens it.
//!
//! | file | what |
//! |---|---|
//! | `phase` | what becomes of an interrupt that arrives, and when its source is closed: decisions |
//! | `vectors` | which vector of which CPU is whose |
//! | `message` | functions on the PCI bus that send messages |
//! | `source` | lines and messages, opened and closed |
//! | `map` | mapping, and its end |
//! | `arrive` | the way from a CPU to a port, and the domain's answer |
//!
//! INVARIANT: a pirq has one owner, and only that owner's port of that pirq is told ([`crate::event::pirq`]): the two name each other.
//! A port that is closed leaves the name of its pirq behind; who looks at it next finds out.
//! INVARIANT: between two answers of its domain an interrupt keeps CPUs busy at most twice: then its source is closed until the
//! answer. No level is lost by that, since it is held; a second edge, or message, is told behind the answer.
//! LOCK: rank `InterruptMap` for who maps and unmaps; rank `Interrupt`, one for each pirq, under which nothing is waited for but the
//! registers of devices.

mod arrive;
mod map;
pub mod message;
mod phase;
mod pirq;
mod source;
mod vectors;

#[cfg(test)]
mod tests;

use core::ops::Range;

use dom0_abi::ids::{DomId, Port};
use oxen_arch::memory::BootSlice;
use oxen_arch::sync::{Rank, SpinLock};
use oxen_arch::{LineMode, Machine, Target};

pub use arrive::{arrived, end};
pub use map::Wanted;
pub use message::MessageSource;
use phase::Phase;
pub use pirq::Pirq;
use pirq::{MAX_LINES, MESSAGES};
use source::Source;
use vectors::Vectors;

/// What is known of a pirq.
#[derive(Debug)]
struct Record {
    /// How its line speaks; of a message nothing.
    mode: LineMode,
    /// The hypervisor uses it itself.
    is_kept: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    Free,
    /// A domain was promised it.
    Promised(DomId),
    Mapped(Mapping),
}

/// An interrupt that is somebody's.
#[derive(Debug)]
struct Mapping {
    owner: DomId,
    source: Source,
    /// Where it arrives; nowhere, if the hypervisor uses it.
    target: Option<Target>,
    /// The port that was bound last.
    port: Option<Port>,
    is_shared: bool,
    phase: Phase,
}

impl Record {
    fn mapping(&mut self) -> Option<&mut Mapping> {
        match &mut self.state {
            State::Mapped(mapping) => Some(mapping),
            State::Free | State::Promised(_) => None,
        }
    }

    /// The mapping, if it is this domain's.
    fn mapping_of(&mut self, owner: DomId) -> Option<&mut Mapping> {
        self.mapping().filter(|mapping| mapping.owner == owner)
    }
}

/// All interrupts of devices.
pub struct Irqs {
    nr_lines: u32,
    records: BootSlice<SpinLock<Record>>,
    vectors: Vectors,
    mapping: SpinLock<()>,
}

impl Irqs {
    /// Those of a machine; nobody has any. `None`: memory is short.
    pub fn new(machine: &Machine) -> Option<Self> {
        let nr_lines = machine.nr_lines().min(MAX_LINES);
        let count = usize::try_from(nr_lines.saturating_add(MESSAGES)).ok()?;
        let records = machine.boot_slice(count, |number| {
            let record = Record {
                mode: machine.line_mode(u32::try_from(number).unwrap_or(u32::MAX)),
                is_kept: false,
                state: State::Free,
            };
            SpinLock::new(Rank::Interrupt, record)
        })?;
        Some(Self {
            nr_lines,
            records,
            vectors: Vectors::new(machine)?,
            mapping: SpinLock::new(Rank::InterruptMap, ()),
        })
    }

    /// How many lines there are: the pirqs below that.
    pub fn nr_lines(&self) -> u32 {
        self.nr_lines
    }

    /// The numbers that there are: those of lines, and behind them those of messages.
    fn numbers(&self) -> Range<u32> {
        0..self.nr_lines.saturating_add(MESSAGES)
    }

    /// The interrupt of this number, if there is one.
    pub fn pirq(&self, number: u32) -> Option<Pirq> {
        Pirq::new(number).filter(|_| self.numbers().contains(&number))
    }

    /// The interrupt of a line, if there is that.
    pub fn line(&self, gsi: u32) -> Option<Pirq> {
        self.pirq(gsi).filter(|_| gsi < self.nr_lines)
    }

    /// A line is the hypervisor's own: no domain ever binds it.
    pub fn keep_line(&self, gsi: u32) {
        if let Some(record) = self.pirq(gsi).and_then(|pirq| self.record(pirq)) {
            record.lock().is_kept = true;
        }
    }

    fn record(&self, pirq: Pirq) -> Option<&SpinLock<Record>> {
        self.records.get(usize::try_from(pirq.get()).ok()?)
    }

    /// The pirqs of messages.
    fn messages(&self) -> impl Iterator<Item = (Pirq, &SpinLock<Record>)> {
        (self.nr_lines..self.numbers().end).filter_map(|number| {
            let pirq = Pirq::new(number)?;
            Some((pirq, self.record(pirq)?))
        })
    }
}
