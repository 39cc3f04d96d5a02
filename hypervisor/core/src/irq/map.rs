//! Interrupts become a domain's, and cease to be.
//!
//! INVARIANT: what is mapped is written to its source, closed, before anybody can find it, and is closed when it ceases to be.

use dom0_abi::errno::Errno;
use dom0_abi::ids::DomId;
use oxen_arch::sync::SpinLock;
use oxen_arch::{LineMode, Machine, PciFunction, Target};

use super::message::MessageSource;
use super::phase::Phase;
use super::source::Source;
use super::{Irqs, Mapping, Pirq, Record, State, arrive};
use crate::domain::Domain;

/// Which pirq a domain wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Any that is free.
    Any,
    /// This one.
    This(Pirq),
}

impl Irqs {
    /// Maps a line for a domain; again, if it has it already. Its pirq is its number: no other may be wanted.
    ///
    /// `EINVAL`: there is no such line, or another pirq is wanted; `EPERM`: another domain has it; `ENOSPC`: there is no vector for it.
    pub fn map_line(
        &self,
        machine: &Machine,
        owner: DomId,
        gsi: u32,
        wanted: Wanted,
    ) -> Result<Pirq, Errno> {
        let pirq = self.line(gsi).ok_or(Errno::EINVAL)?;
        if wanted != Wanted::Any && wanted != Wanted::This(pirq) {
            return Err(Errno::EINVAL);
        }
        let _mapping = self.mapping.lock();
        let mut record = self.record(pirq).ok_or(Errno::EINVAL)?.lock();
        match &record.state {
            State::Mapped(mapping) if mapping.owner == owner => return Ok(pirq),
            State::Mapped(_) => return Err(Errno::EPERM),
            State::Free | State::Promised(_) => {}
        }
        let target = match record.is_kept {
            true => None,
            false => Some(self.route(machine, pirq, gsi)?),
        };
        record.state = mapped(owner, Source::Line { gsi }, target);
        Ok(pirq)
    }

    /// Finds a line a vector. It is closed.
    fn route(&self, machine: &Machine, pirq: Pirq, gsi: u32) -> Result<Target, Errno> {
        let target = self.vectors.take(machine, pirq).ok_or(Errno::ENOSPC)?;
        if machine.route_line(gsi, target.cpu) {
            return Ok(target);
        }
        self.vectors.give_back(target, pirq);
        Err(Errno::EINVAL)
    }

    /// Maps a message for a domain, and says to its function what to send.
    ///
    /// `EEXIST`: it is mapped; `EINVAL`: the pirq that is wanted is no message's, or is taken; `ENOSPC`: there is no pirq, or no vector;
    /// otherwise as [`MessageSource::write`].
    pub fn map_message(
        &self,
        machine: &Machine,
        owner: DomId,
        source: MessageSource,
        wanted: Wanted,
    ) -> Result<Pirq, Errno> {
        let _mapping = self.mapping.lock();
        if self.messages().any(|(_, record)| record.lock().is(source)) {
            return Err(Errno::EEXIST);
        }
        let pirq = match wanted {
            Wanted::Any => self.free_message()?,
            Wanted::This(pirq) => {
                let is_it = |free: Pirq| free == pirq;
                self.messages()
                    .find(|(free, record)| is_it(*free) && record.lock().state.is_for(owner))
                    .ok_or(Errno::EINVAL)?
                    .0
            }
        };
        let target = self.vectors.take(machine, pirq).ok_or(Errno::ENOSPC)?;
        let message = machine.message(target).ok_or(Errno::ENOSPC);
        let written = message.and_then(|message| source.write(machine, message));
        written.inspect_err(|_| self.vectors.give_back(target, pirq))?;
        if let Some(record) = self.record(pirq) {
            record.lock().state = mapped(owner, Source::Message(source), Some(target));
        }
        Ok(pirq)
    }

    /// Promises a domain a pirq for a message. `ENOSPC`: there is none.
    pub fn promise(&self, owner: DomId) -> Result<Pirq, Errno> {
        let _mapping = self.mapping.lock();
        let pirq = self.free_message()?;
        if let Some(record) = self.record(pirq) {
            record.lock().state = State::Promised(owner);
        }
        Ok(pirq)
    }

    fn free_message(&self) -> Result<Pirq, Errno> {
        let mut messages = self.messages();
        let is_free = |record: &SpinLock<Record>| matches!(record.lock().state, State::Free);
        let found = messages.find(|(_, record)| is_free(record));
        found.map(|(pirq, _)| pirq).ok_or(Errno::ENOSPC)
    }

    /// Takes an interrupt from a domain; a port that is bound to it stays, and is told no more.
    ///
    /// `EINVAL`: the domain does not have it.
    pub fn unmap(&self, machine: &Machine, owner: DomId, pirq: Pirq) -> Result<(), Errno> {
        let _mapping = self.mapping.lock();
        let mut record = self.record(pirq).ok_or(Errno::EINVAL)?.lock();
        match &record.state {
            State::Promised(whose) if *whose == owner => record.state = State::Free,
            State::Mapped(mapping) if mapping.owner == owner => {
                let target = mapping.target;
                record.step(machine, |_, _| Phase::unbound());
                record.state = State::Free;
                if let Some(target) = target {
                    self.vectors.give_back(target, pirq);
                }
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    /// Takes all interrupts from a domain that is no more.
    pub fn release(&self, machine: &Machine, owner: DomId) {
        for pirq in self.numbers().filter_map(Pirq::new) {
            // Refused for what it does not have.
            let _ = self.unmap(machine, owner, pirq);
        }
    }

    /// Says how a line speaks. It stays closed, or open: who says so has not bound it.
    ///
    /// `EINVAL`: there is no such line; `EEXIST`: it is in use.
    pub fn set_mode(&self, domain: &Domain, gsi: u32, mode: LineMode) -> Result<(), Errno> {
        let pirq = self.line(gsi).ok_or(Errno::EINVAL)?;
        let mut record = self.record(pirq).ok_or(Errno::EINVAL)?.lock();
        let is_in_use = match &record.state {
            State::Mapped(mapping) if mapping.owner == domain.id => {
                let port = mapping.port;
                port.is_some_and(|port| arrive::is_bound(domain, port, pirq))
            }
            State::Mapped(_) => true,
            State::Free | State::Promised(_) => false,
        };
        if record.is_kept || is_in_use {
            return Err(Errno::EEXIST);
        }
        record.mode = mode;
        Ok(())
    }

    /// Says to a function once more what to send, for what it may have forgotten. `EINVAL`: as [`MessageSource::write`].
    pub fn restore(&self, machine: &Machine, function: PciFunction) -> Result<(), Errno> {
        let _mapping = self.mapping.lock();
        for (_, record) in self.messages() {
            let mut record = record.lock();
            let Some(mapping) = record.mapping() else {
                continue;
            };
            let Source::Message(source) = mapping.source else {
                continue;
            };
            let message = mapping.target.and_then(|target| machine.message(target));
            if let Some(message) = message.filter(|_| source.function == function) {
                source.write(machine, message)?;
                record.step(machine, Phase::restored);
            }
        }
        Ok(())
    }

    /// Whether a function sends messages that are mapped.
    pub fn sends(&self, function: PciFunction) -> bool {
        let mut messages = self.messages();
        messages.any(|(_, record)| {
            let mut record = record.lock();
            record.mapping().is_some_and(|mapping| {
                matches!(mapping.source, Source::Message(source) if source.function == function)
            })
        })
    }
}

impl State {
    /// Whether it is free for a domain.
    fn is_for(&self, domain: DomId) -> bool {
        match self {
            Self::Free => true,
            Self::Promised(owner) => *owner == domain,
            Self::Mapped(_) => false,
        }
    }
}

impl Record {
    fn is(&mut self, source: MessageSource) -> bool {
        let mapping = self.mapping();
        mapping.is_some_and(|mapping| mapping.source == Source::Message(source))
    }
}

const fn mapped(owner: DomId, source: Source, target: Option<Target>) -> State {
    State::Mapped(Mapping {
        owner,
        source,
        target,
        port: None,
        is_shared: false,
        phase: Phase::Unbound,
    })
}
