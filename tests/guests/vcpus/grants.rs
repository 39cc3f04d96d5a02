//! Grants that all vCPUs map, copy from and end at the same time, while one of them takes them back.

use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use dom0_abi::grant_table::{CopyFlags, GrantStatus, MapFlags};
use dom0_abi::ids::DomId;
use guest_pv_drivers::hypercall;
use kit::Report;
use kit::grants::{Grants, PERMIT, copy, copy_end, map, unmap};
use kit::memory::Page;
use kit::page_tables::{Lab, page};

use crate::clock::Clock;
use crate::orders::{ENDS, RACE, players, together};
use crate::vcpu::{MOST, Vcpu};

const OKAY: i16 = GrantStatus::Okay as i16;
const HOST: u32 = MapFlags::HOST_MAP.bits();
const READONLY: u32 = MapFlags::READONLY.bits();

/// How many grants are fought for, and the first one's reference.
const COUNT: usize = 4;
const FIRST: u32 = 9;
/// How often each vCPU tries something, and how many maps all try to end at once.
const TRIES: usize = 400;
const MAPS: u64 = 60;
/// Above the number of its grant, what a page begins with while it is granted; and when it is not.
const GRANTED: u64 = 0x6000;
const TAKEN_BACK: u64 = 0x7000;

/// What it is about, while [`check`] runs.
struct Field {
    grants: Grants,
    /// The page of each grant.
    pages: [&'static Page; COUNT],
    /// The page into which each vCPU copies.
    own: [&'static Page; MOST],
    /// How many maps, copies and grants that were taken back there have been.
    done: [AtomicU64; 3],
    /// The map that all try to end: its handle. How often somebody has met the others, and how many have ended a map.
    handle: AtomicU32,
    met: AtomicU64,
    ends: AtomicU64,
}

const MAPPED: usize = 0;
const COPIED: usize = 1;
const TOOK_BACK: usize = 2;

static FIELD: AtomicUsize = AtomicUsize::new(0);

fn field() -> &'static Field {
    // SAFETY: `check` keeps it as long as anybody carries out its orders.
    unsafe { &*ptr::with_exposed_provenance(FIELD.load(Ordering::SeqCst)) }
}

/// A word of memory that is mapped now.
fn word_at(at: u64) -> &'static AtomicU64 {
    // SAFETY: of a page of the kit's, or of a map that the caller has. All vCPUs access it by atomic accesses.
    unsafe { &*ptr::with_exposed_provenance(at as usize) }
}

/// The address at which a vCPU maps.
fn place(number: usize) -> u64 {
    Lab::address(Grants::FREE_SLOT + number)
}

/// What a page begins with.
fn has(at: u64, kind: u64, grant: usize) -> bool {
    word_at(at).load(Ordering::SeqCst) == kind + grant as u64
}

fn reference(grant: usize) -> u32 {
    FIRST + grant as u32
}

/// What a vCPU does among others: how often something was not as it must be.
pub fn race(vcpu: &'static Vcpu) -> u64 {
    let (field, players) = (field(), players());
    let takes_back = players > 1 && vcpu.number() == players - 1;
    let mut wrong = 0;
    for round in 0..TRIES {
        let grant = (round * 5 + vcpu.number()) % COUNT;
        let (what, is_done) = match round % 3 {
            _ if takes_back => (TOOK_BACK, take_back(field, grant)),
            0 => (COPIED, copies(field, vcpu, grant, &mut wrong)),
            how => (MAPPED, maps(vcpu, grant, how == 1, &mut wrong)),
        };
        field.done[what].fetch_add(u64::from(is_done), Ordering::SeqCst);
    }
    wrong
}

/// Maps a grant, if it is one now: as long as it is mapped nobody can take it back.
fn maps(vcpu: &Vcpu, grant: usize, to_write: bool, wrong: &mut u64) -> bool {
    let at = place(vcpu.number());
    let flags = HOST | if to_write { 0 } else { READONLY };
    let mapped = map(reference(grant), flags, at);
    if mapped.status != OKAY {
        return false;
    }
    for _ in 0..20 {
        *wrong += u64::from(!has(at, GRANTED, grant));
    }
    if to_write {
        word_at(at + 8).fetch_add(1, Ordering::SeqCst);
    }
    *wrong += u64::from(unmap(mapped.handle, at, 0) != OKAY);
    true
}

/// Copies from a grant, if it is one now.
fn copies(field: &Field, vcpu: &Vcpu, grant: usize, wrong: &mut u64) -> bool {
    let own = field.own[vcpu.number()];
    let from = copy_end(DomId::DOM0, reference(grant).into(), 0);
    let to = copy_end(DomId::SELF, own.mfn(), 0);
    if copy(from, to, 8, CopyFlags::SOURCE_GREF.bits()) != OKAY {
        return false;
    }
    *wrong += u64::from(!has(own.address(), GRANTED, grant));
    true
}

/// Takes a grant back that nobody uses, has the page for itself, and grants it again.
fn take_back(field: &Field, grant: usize) -> bool {
    let page = field.pages[grant];
    let entry = field.grants.at(reference(grant));
    let unused = Grants::granting(PERMIT, DomId::DOM0, page.mfn());
    let order = Ordering::SeqCst;
    if entry
        .compare_exchange(unused, unused & !0xffff, order, order)
        .is_err()
    {
        return false;
    }
    word_at(page.address()).store(TAKEN_BACK + grant as u64, order);
    let _ = hypercall::sched_yield();
    word_at(page.address()).store(GRANTED + grant as u64, order);
    entry.store(unused, order);
    true
}

/// Tries to end the same map as all others, again and again: how often that was refused to all, or done by several.
pub fn ends(vcpu: &'static Vcpu) -> u64 {
    let (field, players) = (field(), players() as u64);
    let mut wrong = 0;
    for round in 0..MAPS {
        if vcpu.number() == 0 {
            let mapped = map(reference(0), HOST, place(0));
            wrong += u64::from(mapped.status != OKAY);
            field.handle.store(mapped.handle, Ordering::SeqCst);
        }
        meet(field, 3 * round + 1, players);
        let handle = field.handle.load(Ordering::SeqCst);
        if unmap(handle, place(0), 0) == OKAY {
            field.ends.fetch_add(1, Ordering::SeqCst);
        }
        meet(field, 3 * round + 2, players);
        wrong += u64::from(field.ends.load(Ordering::SeqCst) != round + 1);
        wrong += u64::from(field.grants.flags(reference(0)) != PERMIT && vcpu.number() == 0);
        // The next map is made when all have looked.
        meet(field, 3 * round + 3, players);
    }
    wrong
}

/// Waits until all have come here for this time.
fn meet(field: &Field, time: u64, players: u64) {
    field.met.fetch_add(1, Ordering::SeqCst);
    while field.met.load(Ordering::SeqCst) < time * players {
        let _ = hypercall::sched_yield();
    }
}

/// Has all vCPUs map, copy and end.
pub fn check(report: &mut Report, count: usize, clock: Clock) {
    let Some(grants) = Lab::new().ok().and_then(Grants::new) else {
        return report.check("the grant table is mapped", false, "refused");
    };
    let pages = core::array::from_fn(|grant| {
        let page = grants.fresh(reference(grant), 0);
        page.set_word(0, GRANTED + grant as u64);
        page
    });
    let field = Field {
        grants,
        pages,
        own: core::array::from_fn(|_| page()),
        done: [const { AtomicU64::new(0) }; 3],
        handle: AtomicU32::new(0),
        met: AtomicU64::new(0),
        ends: AtomicU64::new(0),
    };
    FIELD.store((&raw const field).expose_provenance(), Ordering::SeqCst);
    together(report, "grants under race", count, clock, RACE);
    let done = field
        .done
        .each_ref()
        .map(|done| done.load(Ordering::SeqCst));
    let all = done
        .iter()
        .enumerate()
        .all(|(what, done)| *done > 0 || what == TOOK_BACK && count == 1);
    report.check(
        "maps, copies and what was taken back",
        all,
        format_args!("{done:?}"),
    );
    for grant in 0..COUNT {
        let flags = field.grants.flags(reference(grant));
        report.equal(format_args!("grant {grant} is left"), flags, PERMIT);
    }
    together(report, "ends of the same maps", count, clock, ENDS);
}
