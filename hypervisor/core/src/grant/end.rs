//! The end of a domain's grants: those that it gives take no new uses, those that it maps are given back.
//!
//! What others have mapped of the domain they keep, and its frames with it, until they end that, or end themselves: so granters and
//! mappers can end in any order. Entries that lead to granted frames go with their tables.
//!
//! INVARIANT (I10, I21): none of the domain's vCPUs runs, or will, so nobody reaches a frame by what is still in its tables.

use oxen_arch::sync::{Rank, SpinLock};

use super::unmap;
use crate::budget::Budget;
use crate::domain::Domain;
use crate::domain::table::DomainTable;
use crate::domain::teardown::FRAME;
use crate::frame::Memory;

/// What it costs to give a map back, in units of the budget; one is paid for a look at so many handles.
const MAP: u32 = 10;
const HANDLES_PER_UNIT: u32 = 8;
/// What it costs to close a table: each of its locks is taken.
const CLOSE: u32 = 5;

/// How far the end has come. LOCK: rank `Domain`.
#[derive(Debug)]
pub(super) struct End(SpinLock<Step>);

#[derive(Debug)]
enum Step {
    Close,
    /// From this handle on.
    Handles(u32),
    /// Those of handles, from the last.
    HandleFrames,
    /// The shared ones, from this one on.
    SharedFrames(u32),
    Done,
}

impl End {
    /// It has not begun.
    pub(super) const fn new() -> Self {
        Self(SpinLock::new(Rank::Domain, Step::Close))
    }
}

/// Goes on with the end, as far as the budget goes. `true` when it is done. None of the domain's vCPUs runs, or will.
pub fn end(
    memory: Memory<'_>,
    domains: &DomainTable,
    domain: &Domain,
    budget: &mut Budget,
) -> bool {
    let grants = &domain.grants;
    let mut step = grants.end.0.lock();
    loop {
        *step = match *step {
            Step::Close => {
                if !budget.take(CLOSE) {
                    return false;
                }
                grants.close();
                grants.handles.close();
                Step::Handles(0)
            }
            Step::Handles(handle) if handle >= grants.handles.used() => Step::HandleFrames,
            Step::Handles(handle) => {
                let map = grants.handles.handle(memory.mem(), handle);
                let map = map.and_then(|map| Some((map, map.track()?)));
                let is_due = handle.is_multiple_of(HANDLES_PER_UNIT);
                let cost = if map.is_some() { MAP } else { 0 };
                if !budget.take(cost.saturating_add(u32::from(is_due))) {
                    return false;
                }
                if let Some((map, track)) = map {
                    let parts = track.pinned();
                    unmap::release(memory, domains, domain, track, parts);
                    map.forget();
                }
                Step::Handles(handle.saturating_add(1))
            }
            Step::HandleFrames => {
                if !budget.take(FRAME) {
                    return false;
                }
                if grants.handles.end_frame(memory) {
                    Step::HandleFrames
                } else {
                    Step::SharedFrames(0)
                }
            }
            Step::SharedFrames(index) if index >= grants.nr_frames() => Step::Done,
            Step::SharedFrames(index) => {
                if !budget.take(FRAME) {
                    return false;
                }
                grants.end_shared(memory, index);
                Step::SharedFrames(index.saturating_add(1))
            }
            Step::Done => return true,
        };
    }
}
