//! What grants use, and whether their books agree: those of granters, who uses what, and those of mappers, which handles they
//! have.

use dom0_abi::addr::Mfn;
use dom0_abi::ids::DomId;

use super::uses::{self, By, Needs, Seen, Use};
use super::{Finding, Problem};
use crate::domain::Domain;
use crate::grant::entry::{Access, Active};
use crate::grant::table::Seen as Granted;
use crate::grant::track::Track;
use crate::host::Host;
use crate::page_type::PageType;

/// Visits what the grants of a domain use: those that it gives, and those that it maps for devices. Entries of tables make uses of
/// their own.
pub(super) fn visit(host: &Host, domain: &Domain, visit: &mut dyn FnMut(Seen)) {
    let mem = host.mem();
    let mut used = |mfn, needs, by| visit(Seen::Use(Use { mfn, needs, by }));
    domain.grants.visit(mem, |seen| match seen {
        Granted::Frame(mfn) => {
            let needs = Needs::Type(PageType::Writable);
            used(mfn, needs, By::GrantTable(domain.id));
        }
        Granted::Active(reference, active) => {
            let by = By::Grant(domain.id, reference);
            used(active.mfn(), Needs::General, by);
        }
    });
    domain.grants.visit_maps(mem, |handle, track| {
        if track.pinned().device {
            let needs = match track.access() {
                Access::Read => Needs::General,
                Access::Write => Needs::Type(PageType::Writable),
            };
            let mfn = active_of(host, track).mfn();
            used(mfn, needs, By::DeviceMap(domain.id, handle));
        }
    });
}

/// Whether a domain has a map for CPUs by which it may reach a frame so. One that ends may have entries left: it does not run.
pub(super) fn may_reach(host: &Host, mapper: DomId, mfn: Mfn, is_writable: bool) -> bool {
    let Some(mapper) = host.domains.get(mapper) else {
        return false;
    };
    let mut may = mapper.grants.is_closed();
    mapper.grants.visit_maps(host.mem(), |_, track| {
        let is_enough = !is_writable || track.access() == Access::Write;
        may |= track.pinned().host && is_enough && active_of(host, track).mfn() == mfn;
    });
    may
}

/// Reports grants that have other pins than there are maps, maps of grants that do not know of them, and handles that are lost.
pub(super) fn check(host: &Host, report: &mut dyn FnMut(Finding)) {
    let mem = host.mem();
    let mut problem = |what| {
        let mfn = Mfn::new(0);
        report(Finding { mfn, what });
    };
    for granter in uses::domains(host) {
        granter.grants.visit(mem, |seen| {
            let Granted::Active(reference, active) = seen else {
                return;
            };
            let mut found = Active::NONE;
            let mapper = host.domains.get(active.mapper());
            if let Some(mapper) = mapper {
                mapper.grants.visit_maps(mem, |_, track| {
                    if (track.granter(), track.reference()) == (granter.id, reference) {
                        let parts = track.pinned().count();
                        found = found.more(track.access(), parts).unwrap_or(found);
                    }
                });
            }
            if (found.pins(), found.writers()) != (active.pins(), active.writers()) {
                problem(Problem::Pins {
                    granter: granter.id,
                    reference,
                    recorded: (active.pins(), active.writers()),
                    found: (found.pins(), found.writers()),
                });
            }
        });
    }
    for mapper in uses::domains(host) {
        mapper.grants.visit_maps(mem, |handle, track| {
            if active_of(host, track).mapper() != mapper.id || !active_of(host, track).is_used() {
                let mapper = mapper.id;
                problem(Problem::StrayMap { mapper, handle });
            }
        });
        let (recorded, found) = mapper.grants.count_handles(mem, &mapper);
        if recorded != found && !mapper.grants.is_closed() {
            let owner = mapper.id;
            problem(Problem::Handles {
                owner,
                recorded,
                found,
            });
        }
    }
}

/// The active entry of the grant that somebody has mapped.
fn active_of(host: &Host, track: Track) -> Active {
    let granter = host.domains.get(track.granter());
    granter.map_or(Active::NONE, |granter| {
        granter.grants.active(host.mem(), track.reference())
    })
}
