//! The way of an interrupt to a port, and the answer of its domain.

use dom0_abi::errno::Errno;
use dom0_abi::ids::{DomId, Port};
use oxen_arch::{Cpu, Target};

use super::phase::Phase;
use super::{Irqs, Mapping, Pirq, State};
use crate::domain::Domain;
use crate::event::pirq;
use crate::event::word::PortState;
use crate::host::Host;

/// Whom an interrupt is for.
type Told = Option<(DomId, Port)>;

fn told(mapping: &Mapping) -> Told {
    Some((mapping.owner, mapping.port?))
}

/// A device has interrupted this CPU. When this returns the interrupt is ended: a level that is held is closed by then. For whoever takes
/// interrupts: it waits for nothing.
pub fn arrived(host: &Host, cpu: &Cpu, vector: u8) {
    let target = Target {
        cpu: cpu.id(),
        vector,
    };
    // One that is nobody's was on its way when its source was closed.
    let Some(pirq) = host.irqs.vectors.find(target) else {
        return;
    };
    let Some(record) = host.irqs.record(pirq) else {
        return;
    };
    let told = {
        let mut record = record.lock();
        let is_here = |mapping: &mut Mapping| mapping.target == Some(target);
        if !record.mapping().is_some_and(is_here) {
            return;
        }
        record
            .step(&host.machine, Phase::arrived)
            .and_then(self::told)
    };
    tell(host, cpu, pirq, told);
}

/// The domain has served an interrupt, and wants the next one.
///
/// `EINVAL`: it is not the domain's. ABI: `public/physdev.h`, `PHYSDEVOP_eoi`.
#[doc(alias = "PHYSDEVOP_eoi")]
pub fn end(host: &Host, cpu: &Cpu, domain: &Domain, pirq: Pirq) -> Result<(), Errno> {
    let record = host.irqs.record(pirq).ok_or(Errno::EINVAL)?;
    let told = {
        let mut record = record.lock();
        record.mapping_of(domain.id).ok_or(Errno::EINVAL)?;
        record
            .step(&host.machine, Phase::ended)
            .and_then(self::told)
    };
    tell(host, cpu, pirq, told);
    Ok(())
}

/// Tells a port. One that has been closed is bound to nothing any more.
fn tell(host: &Host, cpu: &Cpu, pirq: Pirq, told: Told) {
    let Some((owner, port)) = told else {
        return;
    };
    let domain = host.domains.get(owner);
    let domain = domain.as_deref();
    if domain.is_some_and(|domain| pirq::raise(host, cpu, domain, port, pirq)) {
        return;
    }
    if let Some(record) = host.irqs.record(pirq) {
        let mut record = record.lock();
        // Unless it has been bound again meanwhile.
        let is_bound = |port| domain.is_some_and(|domain| is_bound(domain, port, pirq));
        if record
            .mapping()
            .is_some_and(|now| !now.port.is_some_and(is_bound))
        {
            record.step(&host.machine, |_, _| Phase::unbound());
        }
    }
}

impl Irqs {
    /// Whether a domain may bind an interrupt now.
    ///
    /// `EINVAL`: it has not mapped it; `EBUSY`: the hypervisor uses it; `EEXIST`: it is bound.
    pub fn may_bind(&self, domain: &Domain, pirq: Pirq) -> Result<(), Errno> {
        let mut record = self.record(pirq).ok_or(Errno::EINVAL)?.lock();
        let is_kept = record.is_kept;
        let mapping = record.mapping_of(domain.id).ok_or(Errno::EINVAL)?;
        match mapping.port {
            Some(port) if is_bound(domain, port, pirq) => Err(Errno::EEXIST),
            _ if is_kept => Err(Errno::EBUSY),
            _ => Ok(()),
        }
    }

    /// Binds an interrupt to a port, which `publish` makes one, and opens it. Fails as [`Self::may_bind`]; nothing is done then.
    pub fn bind(
        &self,
        host: &Host,
        domain: &Domain,
        pirq: Pirq,
        (port, is_shared): (Port, bool),
        publish: impl FnOnce(),
    ) -> Result<(), Errno> {
        let record = self.record(pirq).ok_or(Errno::EINVAL)?;
        // Nobody else binds or unmaps it meanwhile, whose lock for that is another one.
        let _mapping = self.mapping.lock();
        self.may_bind(domain, pirq)?;
        let mut record = record.lock();
        if let Some(mapping) = record.mapping() {
            mapping.port = Some(port);
            mapping.is_shared = is_shared;
        }
        publish();
        record.step(&host.machine, |_, _| Phase::bound());
        Ok(())
    }

    /// Whether several domains may have an interrupt, as far as its owner is concerned. `EINVAL`: it is none of the domain's.
    pub fn is_shared(&self, domain: &Domain, pirq: Pirq) -> Result<bool, Errno> {
        let mut record = self.record(pirq).ok_or(Errno::EINVAL)?.lock();
        match &record.state {
            State::Promised(owner) if *owner == domain.id => Ok(false),
            _ => {
                let mapping = record.mapping_of(domain.id).ok_or(Errno::EINVAL)?;
                Ok(mapping.is_shared)
            }
        }
    }
}

/// Whether a port is still an interrupt's.
pub(super) fn is_bound(domain: &Domain, port: Port, pirq: Pirq) -> bool {
    let binding = domain.events.binding(port);
    binding.is_ok_and(|binding| binding.state == PortState::Pirq(pirq))
}
