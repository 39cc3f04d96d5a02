//! The twins of roots: a root in use has one that is its equal wherever a guest may reach, and no other frame is a twin.
//!
//! That nothing refers to a twin is `tally`'s: it belongs to nobody, and must have no uses.

use dom0_abi::addr::Mfn;
use dom0_abi::arch::{HYPERVISOR_FIRST_SLOT, HYPERVISOR_LAST_SLOT};
use oxen_arch::paging_facts::SPARE_SLOT;

use super::{Finding, Problem, uses};
use crate::frame::{Kind, TypeState};
use crate::host::Host;
use crate::page_type::{Level, PageType};

/// What CPUs mark.
const MARKS: u64 = 0x60;

/// Looks at all roots and all twins.
pub(super) fn check(host: &Host, report: &mut dyn FnMut(Finding)) {
    for mfn in (0..host.frames.end().get()).map(Mfn::new) {
        match host.frames.words(mfn) {
            Some((Kind::Twin { root }, _)) if !has(host, root, mfn) => {
                let what = Problem::StrayTwin(root);
                report(Finding { mfn, what });
            }
            Some((
                Kind::Owned { .. },
                TypeState::InUse {
                    ty: PageType::Table(Level::L4),
                    ..
                },
            )) if host.machine.uses_twins() => compare(host, mfn, report),
            _ => {}
        }
    }
    for owner in uses::ids() {
        let mut found = 0_u64;
        host.frames.visit_of(owner, |mfn| {
            found = found.saturating_add(u64::from(twin(host, mfn).is_some()));
        });
        let recorded = host.frames.twins_of(owner);
        if recorded != found {
            let what = Problem::Twins {
                owner,
                recorded,
                found,
            };
            let mfn = Mfn::new(0);
            report(Finding { mfn, what });
        }
    }
}

/// Whether a frame is a root, in use or until a moment ago, and this is its twin.
fn has(host: &Host, root: Mfn, mfn: Mfn) -> bool {
    let root_state = host.frames.type_state(root);
    let is_root = matches!(
        root_state,
        Some(
            TypeState::InUse {
                ty: PageType::Table(Level::L4),
                ..
            } | TypeState::Undoing {
                ty: PageType::Table(Level::L4),
                ..
            }
        )
    );
    host.machine.uses_twins() && is_root && twin(host, root) == Some(mfn)
}

/// The twin that a frame names, where a root does, if that is its twin.
fn twin(host: &Host, root: Mfn) -> Option<Mfn> {
    const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    let at = root.word(SPARE_SLOT);
    let note = host.mem().load_u64(at).ok()?;
    let mfn = Mfn::new((note ^ ADDRESS) >> 12);
    match host.frames.words(mfn)?.0 {
        Kind::Twin { root: of } if of == root => Some(mfn),
        _ => None,
    }
}

fn compare(host: &Host, root: Mfn, report: &mut dyn FnMut(Finding)) {
    let Some(twin) = twin(host, root) else {
        let what = Problem::NoTwin;
        report(Finding { mfn: root, what });
        return;
    };
    for index in 0..512_u16 {
        let load = |table: Mfn| host.mem().load_u64(table.word(index.into()));
        let is_ours = (HYPERVISOR_FIRST_SLOT..=HYPERVISOR_LAST_SLOT).contains(&usize::from(index));
        let wanted = if is_ours {
            host.machine.twin_entry(index.into()).unwrap_or(0)
        } else {
            load(root).unwrap_or(0)
        };
        let entry = load(twin).unwrap_or(u64::MAX);
        if (entry ^ wanted) & !MARKS != 0 {
            let what = Problem::Twin { index, entry };
            report(Finding { mfn: root, what });
        }
    }
}
