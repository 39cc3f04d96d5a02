//! How a frame gets a type: it is claimed, what is left of its old use is flushed, its contents are checked, and only then
//! can anybody use it (XSA-401).
//!
//! A tree of tables is checked from its root without recursion: at most four tables are under way, each with the index of the
//! entry it has come to. The work can stop at each entry. Then all tables under way are *parked*, with their indexes, and
//! the rest is done by whoever wants one of them next: the same caller again, as a rule. If an entry is refused, all tables
//! under way are refused, and what their entries hold goes back like that of any table which is not used any more.

use arrayvec::ArrayVec;
use dom0_abi::addr::Mfn;
use dom0_abi::arch::{HYPERVISOR_FIRST_SLOT, HYPERVISOR_LAST_SLOT};
use dom0_abi::errno::Errno;
use dom0_abi::ids::DomId;
use oxen_arch::memory::BadFrame;
use oxen_arch::sync::atomic::{Ordering, fence};

use super::entry::{Entry, PageRules};
use super::hold::{Hold, Reach};
use super::refs::give_up;
use super::{ENTRIES, Level, PageType, Stop, TypeRef, twin};
use crate::budget::Budget;
use crate::descriptor::page::check_page;
use crate::frame::type_word::{TypeEffect, TypeEvent, TypeRefused, needs_flush};
use crate::frame::{Memory, Unpaid, Work};

/// What a line of entries costs beside them, and beside what is asked for before it, in units of the budget: with that, half as
/// much again.
const LINE: u32 = 3;
/// What finding the table that an entry leads to costs beside the entry.
const FOUND: u32 = 2;

/// The slots of a root that are the hypervisor's.
pub(crate) fn is_ours(level: Level, index: u16) -> bool {
    let index = usize::from(index);
    level == Level::L4 && (HYPERVISOR_FIRST_SLOT..=HYPERVISOR_LAST_SLOT).contains(&index)
}

/// Makes a frame of `reach.tables` what the caller needs it as, with all that this takes, or finds it so.
///
/// `EINVAL`: the frame is not the domain's, is used as something else, or something in it is not allowed; `ENOMEM`: a root needs
/// a twin, and there is no memory for it. The frame and everything below it is as before then, once the undo queue has been
/// worked off. [`Stop::Again`]: the rest is to be done by calling again.
pub fn acquire<'m>(
    memory: Memory<'m>,
    reach: &Reach<'_>,
    mfn: Mfn,
    ty: PageType,
    budget: &mut Budget,
) -> Result<TypeRef<'m>, Stop> {
    match claim(memory, mfn, ty, reach.tables)? {
        Claim::Ready(found) => Ok(found),
        Claim::Work(first) => {
            let mut jobs = Jobs::new();
            jobs.push(first);
            check(memory, reach, &mut jobs, budget).inspect_err(|stop| match stop {
                Stop::Again => park(memory, &jobs),
                Stop::Refused(_) => refuse(memory, &jobs),
            })?;
            Ok(TypeRef::counted(memory, mfn, ty))
        }
    }
}

/// Makes a frame writable that is not so yet.
#[cold]
pub(super) fn claim_writable<'m>(
    memory: Memory<'m>,
    mfn: Mfn,
    owner: DomId,
) -> Result<TypeRef<'m>, Stop> {
    match claim(memory, mfn, PageType::Writable, owner)? {
        Claim::Ready(found) => Ok(found),
        // Nothing in it has to be checked.
        Claim::Work(_) => {
            finish(memory, mfn);
            Ok(TypeRef::counted(memory, mfn, PageType::Writable))
        }
    }
}

/// A frame that is being made ready: in the state `Changing`, in our hands.
#[derive(Clone, Copy)]
struct Job {
    mfn: Mfn,
    ty: PageType,
    /// The entry that comes next. Those before it hold references.
    next: u16,
}

type Jobs = ArrayVec<Job, 4>;

enum Claim<'m> {
    /// It has the type.
    Ready(TypeRef<'m>),
    /// It has to be made ready.
    Work(Job),
}

/// Finds a frame of a domain to have the type, or begins to make it so: no other CPU can use the frame, and none holds
/// translations from its old use.
fn claim<'m>(memory: Memory<'m>, mfn: Mfn, ty: PageType, owner: DomId) -> Result<Claim<'m>, Stop> {
    if let Some(found) = TypeRef::share_at_once(memory, mfn, ty, owner) {
        return Ok(Claim::Ready(found));
    }
    let frame = memory.acquire(mfn, owner)?;
    let next = match memory.frames.type_event(mfn, TypeEvent::Claim(ty)) {
        Ok(TypeEffect::Claimed {
            was,
            stamp,
            is_incoherent,
        }) => {
            frame.into_raw();
            memory.undo.note(Work::Claimed);
            if needs_flush(was, ty) {
                let others = memory.machine.flush_stale(memory.cpu, stamp);
                memory.undo.note(Work::Shootdown(others));
            }
            if is_incoherent {
                // XSA-402: what other CPUs read must be what we check. A domain's frame is RAM.
                let _: Result<(), BadFrame> = memory.mem().flush_cache(mfn);
                memory.undo.note(Work::CacheFlushed);
            }
            0
        }
        // The type has its general reference since it was claimed first.
        Ok(TypeEffect::Resumed(next)) => next,
        Ok(TypeEffect::First) => {
            frame.into_raw();
            return Ok(Claim::Ready(TypeRef::counted(memory, mfn, ty)));
        }
        Ok(_) => return Ok(Claim::Ready(TypeRef::counted(memory, mfn, ty))),
        Err(TypeRefused::Busy | TypeRefused::Undoing) => return Err(Stop::Again),
        Err(_) => return Err(Errno::EINVAL.into()),
    };
    Ok(Claim::Work(Job { mfn, ty, next }))
}

/// Declares a frame in our hands ready; one reference to its type is the caller's.
fn finish(memory: Memory<'_>, mfn: Mfn) {
    let finished = memory.frames.type_event(mfn, TypeEvent::Finish);
    debug_assert_eq!(finished, Ok(TypeEffect::Done), "{mfn} was in our hands");
}

/// What comes next in a table.
enum Step {
    /// Another table, which may have to be checked first.
    Table(Mfn, PageType),
    /// Nothing: all of it has been checked.
    End,
}

/// Checks the last job, and all that it needs, until none is left. What a table that is done is needed for holds its one
/// reference: the entry above it, in the end the caller.
fn check(
    memory: Memory<'_>,
    reach: &Reach<'_>,
    jobs: &mut Jobs,
    budget: &mut Budget,
) -> Result<(), Stop> {
    if !budget.spend_table() {
        return Err(Stop::Again);
    }
    let mut unpaid = Unpaid::new(memory.undo);
    while let Some(job) = jobs.last_mut() {
        unpaid.pay(budget);
        match step(memory, reach, job, budget)? {
            Step::Table(mfn, ty) => match claim(memory, mfn, ty, reach.tables)? {
                Claim::Ready(found) => {
                    found.into_entry();
                    job.next = job.next.saturating_add(1);
                }
                Claim::Work(below) => {
                    // Levels only go down, so there is room.
                    jobs.try_push(below)
                        .map_err(|_| Stop::Refused(Errno::EINVAL))?;
                    if !budget.spend_table() {
                        return Err(Stop::Again);
                    }
                }
            },
            Step::End => {
                let mfn = job.mfn;
                if job.ty == PageType::Table(Level::L4) {
                    own_slots(memory, mfn)?;
                    twin::attach(memory, mfn)?;
                }
                finish(memory, mfn);
                jobs.pop();
                if let Some(above) = jobs.last_mut() {
                    above.next = above.next.saturating_add(1);
                }
            }
        }
    }
    Ok(())
}

/// Looks at the next entry of a table that is not empty, and moves `job.next` to it; L1 tables are gone through at once.
fn step(
    memory: Memory<'_>,
    reach: &Reach<'_>,
    job: &mut Job,
    budget: &mut Budget,
) -> Result<Step, Stop> {
    let level = match job.ty {
        PageType::Table(level) => level,
        PageType::Descriptors => {
            check_page(memory.mem(), job.mfn, &mut job.next, budget)?;
            return Ok(Step::End);
        }
        // Made ready as soon as it is claimed.
        PageType::Writable => return Err(Errno::EINVAL.into()),
    };
    if level == Level::L1 {
        pages(memory, reach, job, budget)?;
        return Ok(Step::End);
    }
    loop {
        let found = memory
            .mem()
            .next_nonzero_word(job.mfn, usize::from(job.next))
            .map_err(|BadFrame| Errno::EINVAL)?;
        let Some((index, word)) = found else {
            job.next = ENTRIES;
            return Ok(Step::End);
        };
        job.next = index as u16;
        if is_ours(level, job.next) {
            // Whatever is there is replaced in the end.
            job.next = (HYPERVISOR_LAST_SLOT as u16).saturating_add(1);
            continue;
        }
        if !budget.spend_entry() {
            return Err(Stop::Again);
        }
        let entry = Entry(word);
        let fixed = reach.check(level, entry)?;
        if !fixed.is_present() {
            job.next = job.next.saturating_add(1);
            continue;
        }
        budget.pay(FOUND);
        let Some(below) = level.below() else {
            return Err(Errno::EINVAL.into());
        };
        if fixed != entry {
            put(memory, job.mfn, index, fixed)?;
        }
        return Ok(Step::Table(fixed.mfn(), PageType::Table(below)));
    }
}

/// Checks the entries of an L1 table from `job.next` on, and takes what they need.
#[inline(never)]
fn pages(
    memory: Memory<'_>,
    reach: &Reach<'_>,
    job: &mut Job,
    budget: &mut Budget,
) -> Result<(), Stop> {
    let rules = *reach.page_rules;
    let mut unpaid = Unpaid::new(memory.undo);
    while let Some(mut line) = (memory.mem())
        .next_nonzero_line(job.mfn, usize::from(job.next))
        .map_err(|BadFrame| Errno::EINVAL)?
    {
        if !budget.spend_entry() {
            return Err(Stop::Again);
        }
        line.keep_from(usize::from(job.next));
        let mut cost = LINE;
        for (offset, &word) in line.words.iter().enumerate() {
            if word != 0 {
                let index = line.first.wrapping_add(offset);
                cost = cost.wrapping_add(1);
                page(&memory, reach, &rules, job, index, Entry(word))
                    .inspect_err(|_| job.next = index as u16)?;
            }
        }
        job.next = line.end() as u16;
        budget.pay(cost);
        unpaid.pay(budget);
    }
    job.next = ENTRIES;
    Ok(())
}

/// Checks an entry of an L1 table, and takes what it needs.
#[inline(always)]
fn page(
    memory: &Memory<'_>,
    reach: &Reach<'_>,
    rules: &PageRules,
    job: &Job,
    index: usize,
    entry: Entry,
) -> Result<(), Stop> {
    let hold = Hold::take_page(memory, reach, rules.check(entry)?)?;
    if hold.entry() != entry {
        put(*memory, job.mfn, index, hold.entry())?;
    }
    hold.into_entry();
    Ok(())
}

/// Writes an entry of a table in our hands.
fn put(memory: Memory<'_>, table: Mfn, index: usize, entry: Entry) -> Result<(), Errno> {
    (memory.mem())
        .store_u64(table.word(index), entry.0)
        .map_err(|BadFrame| Errno::EINVAL)
}

/// Puts the hypervisor's own entries into a root (I7).
fn own_slots(memory: Memory<'_>, root: Mfn) -> Result<(), Errno> {
    for slot in HYPERVISOR_FIRST_SLOT..=HYPERVISOR_LAST_SLOT {
        let entry = memory.machine.root_entry(slot).unwrap_or(0);
        put(memory, root, slot, Entry(entry))?;
    }
    Ok(())
}

/// Leaves all tables under way to whoever goes on.
fn park(memory: Memory<'_>, jobs: &Jobs) {
    for job in jobs.iter().rev() {
        let parked = memory.frames.type_event(job.mfn, TypeEvent::Park(job.next));
        debug_assert_eq!(parked, Ok(TypeEffect::Done));
        // ORDERING: as for a pin (`TypeRef::pin`): the end of the domain may not have seen it.
        fence(Ordering::SeqCst);
        if memory.frames.is_given_back(job.mfn) {
            abandon(memory, job.mfn);
        }
    }
}

/// Gives all tables under way up.
fn refuse(memory: Memory<'_>, jobs: &Jobs) {
    for job in jobs.iter().rev() {
        give_up(memory, job.mfn, job.next);
    }
}

/// Gives up a frame that was parked and that nobody will go on with: its domain ends. Nothing happens to others.
pub fn abandon(memory: Memory<'_>, mfn: Mfn) {
    if let Ok(TypeEffect::Resumed(progress)) = memory.frames.type_event(mfn, TypeEvent::Abandon) {
        give_up(memory, mfn, progress);
    }
}
