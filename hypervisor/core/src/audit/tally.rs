//! The uses of each frame, counted, against its record.

use dom0_abi::addr::Mfn;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::uses::{self, Needs, Seen, Use};
use super::{Finding, Problem};
use crate::frame::{Kind, TypeState};
use crate::host::Host;
use crate::page_type::PageType;

/// What was found of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Tally {
    types: u32,
    general: u32,
    lists: u16,
    queues: u16,
    free: u16,
    unused: u16,
}

impl Tally {
    /// Nothing.
    pub const NONE: Self = Self {
        types: 0,
        general: 0,
        lists: 0,
        queues: 0,
        free: 0,
        unused: 0,
    };
}

/// Counts all uses, and reports those that contradict the type.
pub(super) fn count(host: &Host, tallies: &mut [Tally], report: &mut dyn FnMut(Finding)) {
    uses::visit(host, &mut |seen| match seen {
        Seen::Use(used) => {
            if let Some(tally) = of(tallies, used.mfn) {
                match used.needs {
                    Needs::General => tally.general = tally.general.saturating_add(1),
                    Needs::Type(_) => tally.types = tally.types.saturating_add(1),
                }
            }
            if let Some(finding) = contradicts(host, used) {
                report(finding);
            }
        }
        Seen::Finding(finding) => report(finding),
    });
    for domain in uses::domains(host) {
        for queue in domain.undo_queues() {
            queue.visit(&host.frames, |mfn| {
                if let Some(tally) = of(tallies, mfn) {
                    tally.queues = tally.queues.saturating_add(1);
                }
            });
        }
    }
    host.frames.visit_free(|first, order| {
        let count = 1_u64.checked_shl(order.into()).unwrap_or(0);
        for mfn in (first.get()..first.get().saturating_add(count)).map(Mfn::new) {
            if let Some(tally) = of(tallies, mfn) {
                tally.free = tally.free.saturating_add(1);
            }
        }
    });
    for owner in uses::ids() {
        let mut found = 0_u64;
        host.frames.visit_of(owner, |mfn| {
            found = found.saturating_add(1);
            let is_owner = matches!(
                host.frames.words(mfn),
                Some((Kind::Owned { owner: its, .. }, _)) if its == owner
            );
            if let Some(tally) = of(tallies, mfn) {
                // In a wrong list it counts for two, which is never right.
                let times = if is_owner { 1 } else { 2 };
                tally.lists = tally.lists.saturating_add(times);
            }
        });
        let recorded = host.frames.count_of(owner);
        if recorded != found {
            let what = Problem::Account {
                owner,
                recorded,
                found,
            };
            let mfn = Mfn::new(0);
            report(Finding { mfn, what });
        }
    }
}

fn of(tallies: &mut [Tally], mfn: Mfn) -> Option<&mut Tally> {
    tallies.get_mut(usize::try_from(mfn.get()).ok()?)
}

/// A use that needs a type must find it.
fn contradicts(host: &Host, used: Use) -> Option<Finding> {
    let Needs::Type(needed) = used.needs else {
        return None;
    };
    match host.frames.type_state(used.mfn) {
        Some(TypeState::InUse { ty, .. }) if ty == needed => None,
        _ => Some(Finding {
            mfn: used.mfn,
            what: Problem::OtherType {
                by: used.by,
                needed,
            },
        }),
    }
}

/// Compares all records with what was counted.
pub(super) fn compare(host: &Host, tallies: &[Tally], report: &mut dyn FnMut(Finding)) {
    for (mfn, tally) in (0..).map(Mfn::new).zip(tallies) {
        if let Some((kind, state)) = host.frames.words(mfn) {
            let mut report = |what| report(Finding { mfn, what });
            of_owner(kind, state, tally, &mut report);
            of_type(state, tally, &mut report);
            if tally.free > 0 && host.machine.m2p().get(mfn).is_some() {
                report(Problem::Named);
            }
        }
    }
}

fn of_owner(kind: Kind, state: TypeState, tally: &Tally, report: &mut dyn FnMut(Problem)) {
    let lists = u16::from(matches!(kind, Kind::Owned { .. }));
    if tally.lists != lists {
        report(Problem::Listed(tally.lists));
    }
    match kind {
        Kind::Owned { count, .. } => {
            if count == 0 {
                report(Problem::Dead);
            }
            if count != tally.general {
                report(Problem::General {
                    recorded: count,
                    found: tally.general,
                });
            }
        }
        Kind::Private | Kind::FreeHead { .. } | Kind::Twin { .. } => {
            let is_typed = !matches!(state, TypeState::None { .. });
            if is_typed || tally.general > 0 || tally.types > 0 {
                report(Problem::Unowned);
            }
        }
    }
    let is_free_right = match kind {
        Kind::Owned { .. } | Kind::Twin { .. } => tally.free == 0,
        Kind::FreeHead { .. } => tally.free == 1,
        // Inside a block that another one heads, or in use by the hypervisor.
        Kind::Private => tally.free <= 1,
    };
    if !is_free_right {
        report(Problem::Free(tally.free));
    }
}

fn of_type(state: TypeState, tally: &Tally, report: &mut dyn FnMut(Problem)) {
    let recorded = match state {
        TypeState::InUse { count, .. } => count,
        _ => 0,
    };
    if recorded != tally.types || matches!(state, TypeState::InUse { count: 0, .. }) {
        report(Problem::Types {
            recorded,
            found: tally.types,
        });
    }
    match state {
        TypeState::Changing { .. } => report(Problem::Changing),
        TypeState::Undoing { ty, .. } if !matches!(ty, PageType::Table(_)) => {
            report(Problem::NoTable);
        }
        TypeState::Parked {
            ty: PageType::Writable,
            ..
        } => report(Problem::NoTable),
        _ => {}
    }
    let queues = u16::from(matches!(state, TypeState::Undoing { .. }));
    if tally.queues != queues {
        report(Problem::Queued(tally.queues));
    }
}
