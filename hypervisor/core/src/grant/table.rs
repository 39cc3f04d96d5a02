//! The grants that a domain gives: its table, in frames that it shares with the hypervisor, and who uses which.
//!
//! For each frame of the table there is one of the hypervisor's with the active entries. A use is a [`Pin`]. The first pin of a
//! grant takes a general reference to the frame, the last one gives it back, so as long as somebody uses a grant neither the frame
//! is free nor the granter gone.
//!
//! INVARIANT: an active entry changes under the lock of its stripe, and so do, as far as the hypervisor is concerned, the flags of
//! the granter's entry: they say that somebody reads or writes from before he can until after he cannot any more.
//! INVARIANT: a table that is closed gets no new pins and no frames, and its shared frames are not touched.
//! LOCK: stripes, and `growth`, rank `Grants`. Under neither a CPU waits for others.

use dom0_abi::addr::Mfn;
use dom0_abi::errno::Errno;
use dom0_abi::grant_table::{ENTRIES_PER_FRAME, GrantStatus};
use dom0_abi::ids::{DomId, GrantRef};
use oxen_arch::memory::{MemWord, PhysMem};
use oxen_arch::sync::atomic::{AtomicBool, Ordering};
use oxen_arch::sync::{Guard, Rank, SpinLock};

use super::directory::{Directory, ROOM};
use super::end::End;
use super::entry::{Access, Active, Shared};
use super::handles::Handles;
use super::track::Track;
use crate::budget::Budget;
use crate::domain::Domain;
use crate::domain::teardown::FRAME;
use crate::frame::{FrameRef, Memory};
use crate::page_type::{PageType, Stop, TypeRef};

/// Locks of active entries; neighbours have different ones.
const STRIPES: usize = 8;
/// How often the granter may change its entry under our hands (XSA-24).
const RETRIES: u32 = 5;
/// In place of the number of a shared frame that was given back.
const GONE: u64 = 0xffff_ffff;
const PER_FRAME: u32 = ENTRIES_PER_FRAME as u32;

/// How large the tables of a domain may get, in frames. ABI: `public/domctl.h`, `struct xen_domctl_createdomain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What the domain grants: 512 entries in each.
    pub max_grant_frames: u32,
    /// What it maps: 256 handles for each.
    pub max_maptrack_frames: u32,
}

impl Limits {
    /// The most that there is room for.
    pub const MOST: Self = Self {
        max_grant_frames: ROOM,
        max_maptrack_frames: 1024,
    };

    /// What a domain gets for which nobody says otherwise.
    pub const DEFAULT: Self = Self {
        max_grant_frames: 64,
        max_maptrack_frames: 1024,
    };
}

/// The grants of a domain: those that it gives, and handles for those that it maps.
#[derive(Debug)]
pub struct GrantTable {
    limits: Limits,
    /// Of each frame of the table its number, in the lower half, and that of the active entries.
    frames: Directory,
    is_closed: AtomicBool,
    stripes: [SpinLock<()>; STRIPES],
    growth: SpinLock<()>,
    pub(super) handles: Handles,
    pub(super) end: End,
}

/// What somebody wants to do with a grant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    /// Who.
    pub(super) mapper: DomId,
    pub(super) reference: GrantRef,
    pub(super) access: Access,
    /// How often, at the same time.
    pub(super) count: u8,
    /// It maps the frame, and does not just copy it.
    pub(super) is_map: bool,
}

/// What is seen of a table by who compares it with what there is (`audit`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A frame of the table.
    Frame(Mfn),
    /// A grant that somebody uses.
    Active(GrantRef, Active),
}

/// Uses of a grant that begin and end together. Dropping it ends them: what the granter is told, and when, is in order if nobody
/// reaches the frame by them any more.
#[must_use = "dropping it ends the uses"]
pub(super) struct Pin<'t, 'm> {
    table: &'t GrantTable,
    memory: Memory<'m>,
    reference: GrantRef,
    access: Access,
    count: u8,
    mfn: Mfn,
    cache: u64,
}

impl Pin<'_, '_> {
    /// The frame.
    #[inline(always)]
    pub(super) fn mfn(&self) -> Mfn {
        self.mfn
    }

    /// The cache mode that the granter wants, as flags of its entry.
    #[inline(always)]
    pub(super) fn cache(&self) -> u64 {
        self.cache
    }

    /// Leaves the uses to a handle. They come back by [`GrantTable::unpin`].
    #[inline(always)]
    pub(super) fn into_track(self) {
        core::mem::forget(self);
    }
}

impl Drop for Pin<'_, '_> {
    fn drop(&mut self) {
        let &mut Self {
            table,
            memory,
            reference,
            access,
            count,
            ..
        } = self;
        table.unpin(&memory, reference, access, count);
    }
}

/// Where a grant is, for one operation.
struct Place<'m> {
    active: MemWord<'m>,
    /// The number of the frame with the granter's entry, or [`GONE`].
    frame: u64,
    index: usize,
}

impl<'m> Place<'m> {
    /// The granter's entry. `None`: its frame was given back.
    #[inline(always)]
    fn shared(&self, mem: &'m PhysMem) -> Option<MemWord<'m>> {
        if self.frame == GONE {
            return None;
        }
        mem.page(Mfn::new(self.frame)).ok()?.word(self.index).ok()
    }

    #[inline(always)]
    fn active(&self) -> Active {
        Active(self.active.load())
    }
}

impl GrantTable {
    /// Without a frame. Limits that are too high are brought down.
    pub const fn new(limits: Limits) -> Self {
        let frames = limits.max_grant_frames;
        Self {
            limits: Limits {
                max_grant_frames: if frames < ROOM { frames } else { ROOM },
                ..limits
            },
            frames: Directory::new(),
            is_closed: AtomicBool::new(false),
            stripes: [const { SpinLock::new(Rank::Grants, ()) }; STRIPES],
            growth: SpinLock::new(Rank::Grants, ()),
            handles: Handles::new(limits.max_maptrack_frames),
            end: End::new(),
        }
    }

    /// How many frames the table has.
    pub fn nr_frames(&self) -> u32 {
        self.frames.count()
    }

    /// How many it can have.
    pub fn max_frames(&self) -> u32 {
        self.limits.max_grant_frames
    }

    /// How many entries a guest sees: with the first frame, which is there as soon as somebody looks.
    pub(super) fn nr_entries(&self) -> u32 {
        self.nr_frames().max(1).saturating_mul(PER_FRAME)
    }

    /// A frame of the table. `None`: it has not so many, or they were given back.
    pub fn frame(&self, mem: &PhysMem, index: u32) -> Option<Mfn> {
        let shared = self.frames.get(mem, index)? & GONE;
        (shared != GONE).then_some(Mfn::new(shared))
    }

    /// Makes the table so large. `EINVAL`: it is closed, or must not be so large; further as [`Memory::clean_frame`].
    /// [`Stop::Again`]: it is larger than before, but not large enough.
    pub fn grow(
        &self,
        memory: Memory<'_>,
        owner: DomId,
        nr_frames: u32,
        budget: &mut Budget,
    ) -> Result<(), Stop> {
        if nr_frames > self.max_frames() {
            return Err(Errno::EINVAL.into());
        }
        while self.nr_frames() < nr_frames {
            self.add(memory, owner, budget)?;
        }
        Ok(())
    }

    /// Adds a frame, unless another CPU has just done so.
    fn add(&self, memory: Memory<'_>, owner: DomId, budget: &mut Budget) -> Result<(), Stop> {
        let count = self.nr_frames();
        self.frames.prepare(memory, budget)?;
        // Both, before the domain has one of them: what is clean stays so if there is no budget for the other.
        let active = memory.clean_frame(budget)?;
        let shared = memory.clean_frame(budget)?;
        if !budget.spend() {
            return Err(Stop::Again);
        }
        let mut charge = memory.frames.charge(owner, 1, u64::MAX)?;
        let shared = memory.assign_clean(shared, &mut charge).start;
        let held = match TypeRef::writable(memory, shared, owner) {
            Ok(held) => held,
            Err(stop) => {
                // Refused only if the domain has given it back already.
                let _ = memory.release_domain_frame(shared, owner);
                return Err(stop);
            }
        };
        let word = |active: Mfn| shared.get() | active.get() << 32;
        let active = memory.keep(active);
        let growth = self.growth.lock();
        let is_open = !self.is_closed.load(Ordering::Relaxed);
        let is_added = is_open && self.frames.push(memory.mem(), count, word(active));
        drop(growth);
        if is_added {
            // For as long as the table is open.
            let _ = held.into_held();
            return Ok(());
        }
        drop(held);
        // As above.
        let _ = memory.release_domain_frame(shared, owner);
        memory.end_kept(active);
        if is_open {
            Ok(())
        } else {
            Err(Errno::EINVAL.into())
        }
    }

    /// Begins uses of a grant, of this count.
    ///
    /// [`GrantStatus::BadGntref`]: there is no such entry; [`GrantStatus::GeneralError`]: it does not allow this use, somebody else
    /// uses it, or there are too many uses; [`GrantStatus::BadPage`]: it names a frame that is not the granter's. Nothing has changed
    /// then.
    #[inline(always)]
    pub(super) fn pin<'t, 'm>(
        &'t self,
        memory: &Memory<'m>,
        granter: DomId,
        Use {
            mapper,
            reference,
            access,
            count,
            is_map,
        }: Use,
    ) -> Result<Pin<'t, 'm>, GrantStatus> {
        let mem = memory.mem();
        let Some(place) = self.place(mem, reference) else {
            return Err(self.no_place(reference));
        };
        let stripe = self.stripe(reference);
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(GrantStatus::GeneralError);
        }
        let shared = place.shared(mem).ok_or(GrantStatus::GeneralError)?;
        let old = place.active();
        if old.is_used() && old.mapper() != mapper {
            return Err(GrantStatus::GeneralError);
        }
        let is_told = old.is_used() && (access == Access::Read || old.writers() > 0);
        let entry = if is_told {
            Shared(shared.load())
        } else {
            claim(shared, mapper, access, !old.is_used(), is_map)?
        };
        let new = if old.is_used() {
            old.more(access, count)
        } else {
            let frame = memory.acquire(entry.mfn(), granter);
            let new = Active::first(mapper, entry.mfn(), access, count);
            frame.ok().zip(new).map(|(frame, new)| {
                frame.into_raw();
                new
            })
        };
        let Some(new) = new else {
            unclaim(shared, old);
            return Err(if old.is_used() {
                GrantStatus::GeneralError
            } else {
                GrantStatus::BadPage
            });
        };
        place.active.store(new.0);
        drop(stripe);
        Ok(Pin {
            table: self,
            memory: *memory,
            reference,
            access,
            count,
            mfn: new.mfn(),
            cache: entry.0,
        })
    }

    /// Why there is no place for a grant. A table of which nobody has seen the first frame allows nothing.
    #[cold]
    fn no_place(&self, reference: GrantRef) -> GrantStatus {
        if reference.get() >= self.nr_entries() {
            GrantStatus::BadGntref
        } else {
            GrantStatus::GeneralError
        }
    }

    /// Ends uses: of a handle, or of a [`Pin`].
    pub(super) fn unpin(
        &self,
        memory: &Memory<'_>,
        reference: GrantRef,
        access: Access,
        count: u8,
    ) {
        let mem = memory.mem();
        let place = self.place(mem, reference);
        let stripe = self.stripe(reference);
        let less = place.and_then(|place| {
            let old = place.active();
            let new = old.less(access, count)?;
            Some((place, old, new))
        });
        let Some((place, old, new)) = less else {
            debug_assert!(false, "grant {reference} loses a pin that it does not have");
            return;
        };
        place.active.store(new.0);
        if !self.is_closed.load(Ordering::Relaxed)
            && let Some(shared) = place.shared(mem)
        {
            unclaim(shared, new);
        }
        drop(stripe);
        if !new.is_used() {
            drop(FrameRef::from_raw(*memory, old.mfn()));
        }
    }

    /// The frame of a grant that the caller has a pin of.
    #[inline(always)]
    pub(super) fn pinned_frame(&self, mem: &PhysMem, reference: GrantRef) -> Option<Mfn> {
        let active = self.active(mem, reference);
        active.is_used().then(|| active.mfn())
    }

    /// Who uses a grant.
    #[inline(always)]
    pub fn active(&self, mem: &PhysMem, reference: GrantRef) -> Active {
        let place = self.place(mem, reference);
        place.map_or(Active::NONE, |place| place.active())
    }

    /// Swaps two entries that nobody uses.
    ///
    /// [`GrantStatus::BadGntref`]: there is no such entry; [`GrantStatus::Eagain`]: one is in use, or another CPU is at it.
    pub(super) fn swap(&self, mem: &PhysMem, a: GrantRef, b: GrantRef) -> Result<(), GrantStatus> {
        if a.get().max(b.get()) >= self.nr_entries() {
            return Err(GrantStatus::BadGntref);
        }
        if a == b {
            return Ok(());
        }
        let stripe = self.stripe(a);
        // Not waited for, so it does not matter which of the two comes first.
        let other = self
            .stripe_of(b)
            .filter(|_| stripe_index(a) != stripe_index(b));
        let other = match other {
            Some(other) => Some(other.try_lock().ok_or(GrantStatus::Eagain)?),
            None => None,
        };
        if !self.is_closed.load(Ordering::Relaxed)
            && let (Some(a), Some(b)) = (self.place(mem, a), self.place(mem, b))
            && let (Some(shared_a), Some(shared_b)) = (a.shared(mem), b.shared(mem))
        {
            if a.active().is_used() || b.active().is_used() {
                return Err(GrantStatus::Eagain);
            }
            let (entry_a, entry_b) = (shared_a.load(), shared_b.load());
            shared_a.store(entry_b);
            shared_b.store(entry_a);
        }
        drop((other, stripe));
        Ok(())
    }

    /// Closes the table: when it returns, nobody is at its shared frames any more.
    pub(super) fn close(&self) {
        let growth = self.growth.lock();
        self.is_closed.store(true, Ordering::Relaxed);
        drop(growth);
        for stripe in &self.stripes {
            drop(stripe.lock());
        }
    }

    /// Whether it is closed: its domain ends.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// Gives a shared frame of a closed table back to its domain alone. No two CPUs do so at the same time.
    pub(super) fn end_shared(&self, memory: Memory<'_>, index: u32) {
        let mem = memory.mem();
        if let Some(shared) = self.frame(mem, index)
            && let Some(word) = self.frames.get(mem, index)
        {
            self.frames.set(mem, index, word | GONE);
            drop(TypeRef::counted(memory, shared, PageType::Writable));
        }
    }

    /// Gives the frames of the hypervisor's back, as far as the budget goes; `true`: all of them. Nobody has a pin, or refers to the domain.
    pub fn free(&self, memory: Memory<'_>, budget: &mut Budget) -> bool {
        while self.frames.count() > 0 {
            if !budget.take(FRAME) {
                return false;
            }
            if let Some(word) = self.frames.pop(memory.mem()) {
                debug_assert_eq!(word & GONE, GONE);
                memory.end_kept(Mfn::new(word >> 32));
            }
        }
        self.frames.end(memory);
        self.handles.end_frames(memory, budget)
    }

    /// Visits the shared frames, and the active entries that are used, while nothing moves.
    pub(crate) fn visit(&self, mem: &PhysMem, mut visit: impl FnMut(Seen)) {
        for index in 0..self.nr_frames() {
            if let Some(mfn) = self.frame(mem, index) {
                visit(Seen::Frame(mfn));
            }
        }
        for reference in (0..self.nr_frames().saturating_mul(PER_FRAME)).map(GrantRef::new) {
            let active = self.active(mem, reference);
            if active != Active::NONE {
                visit(Seen::Active(reference, active));
            }
        }
    }

    /// Visits the handles that are maps, while nothing moves.
    pub fn visit_maps(&self, mem: &PhysMem, mut visit: impl FnMut(u32, Track)) {
        for handle in 0..self.handles.used() {
            if let Some(track) = self.handles.get(mem, handle) {
                visit(handle, track);
            }
        }
    }

    /// How many handles were ever used, and how many are maps or free, while nothing moves.
    pub(crate) fn count_handles(&self, mem: &PhysMem, domain: &Domain) -> (u32, u32) {
        let mut found = 0_u32;
        self.visit_maps(mem, |_, _| found = found.saturating_add(1));
        for vcpu in domain.vcpus() {
            found = found.saturating_add(self.handles.count_free(mem, &vcpu.handles));
        }
        (self.handles.used(), found)
    }

    fn stripe(&self, reference: GrantRef) -> Option<Guard<'_, ()>> {
        self.stripe_of(reference).map(SpinLock::lock)
    }

    fn stripe_of(&self, reference: GrantRef) -> Option<&SpinLock<()>> {
        self.stripes.get(stripe_index(reference))
    }

    /// Where a grant is. `None`: there is no such entry.
    #[inline(always)]
    fn place<'m>(&self, mem: &'m PhysMem, reference: GrantRef) -> Option<Place<'m>> {
        let number = reference.get();
        let index = (number % PER_FRAME) as usize;
        let frames = self.frames.get(mem, number / PER_FRAME)?;
        Some(Place {
            active: mem.page(Mfn::new(frames >> 32)).ok()?.word(index).ok()?,
            frame: frames & GONE,
            index,
        })
    }
}

const fn stripe_index(reference: GrantRef) -> usize {
    reference.get() as usize % STRIPES
}

/// Marks the granter's entry, as it is at one moment, as in use.
#[inline(always)]
fn claim(
    shared: MemWord<'_>,
    mapper: DomId,
    access: Access,
    is_new: bool,
    is_map: bool,
) -> Result<Shared, GrantStatus> {
    let mut entry = shared.load();
    for _ in 0..RETRIES {
        let marked = Shared(entry).claimed(mapper, access, is_new, is_map)?;
        match shared.compare_exchange(entry, marked.0) {
            Ok(_) => return Ok(marked),
            Err(now) => entry = now,
        }
    }
    Err(GrantStatus::GeneralError)
}

/// Takes the marks from the granter's entry that those who use it do not need any more.
#[inline(always)]
fn unclaim(shared: MemWord<'_>, active: Active) {
    let mut marks = 0;
    if active.writers() == 0 {
        marks |= Shared::WRITING;
    }
    if !active.is_used() {
        marks |= Shared::READING;
    }
    if marks != 0 {
        shared.fetch_and(!marks);
    }
}
