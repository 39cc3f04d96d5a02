//! Fills machine memory with what a layout says.
//!
//! The initial mapping is one block of machine memory, so that in it mfn = block + pfn; so is a p2m list that lies apart.
//! The rest comes in whatever extents there are, large ones first. Until all is written the large pieces are held by
//! handles, which free them on the way out; only the rest is assigned piece by piece, and found again through the p2m
//! list if it has to be given back.

use arrayvec::ArrayVec;
use dom0_abi::addr::{Mfn, PAGE_SHIFT, PAGE_SIZE, Pfn};
use dom0_abi::arch::LEGACY_MAX_VCPUS;
use dom0_abi::ids::DomId;
use dom0_abi::xen::{Dom0VgaConsoleInfo, VcpuInfo};
use oxen_arch::boot::{BootModule, MfnRange};
use oxen_arch::memory::{BadFrame, PhysMem};

use super::error::{BuildError, Purpose};
use super::hypercall_page;
use super::kernel::{Kernel, Segment};
use super::layout::{Layout, P2M_ENTRIES, P2mPlace, PfnRange};
use super::start_info::Contents;
use super::tables::{Protection, Tables};
use crate::frame::{MAX_ORDER, Memory, OwnedFrames, Placement, Scrub};

/// The bits of an address that say where in its page it is.
const IN_PAGE: u64 = PAGE_SIZE as u64 - 1;

/// What to put where.
pub(super) struct Plan<'a> {
    pub memory: Memory<'a>,
    pub owner: DomId,
    pub kernel: &'a Kernel<'a>,
    pub layout: &'a Layout,
    pub command_line: &'a str,
    pub screen: Option<Dom0VgaConsoleInfo>,
}

/// Where it was put.
pub(super) struct Placed {
    pub root: Mfn,
    pub shared_info: Mfn,
    pub mapped: MfnRange,
    pub p2m_list: MfnRange,
    pub p2m_tables: MfnRange,
}

impl Plan<'_> {
    /// Builds the domain's memory. Takes the initrd out of `initrd` if it gives the module's own frames to the domain.
    ///
    /// After an error every frame is free again, those of a taken initrd too, and the M2P names none of them.
    pub fn place(&self, initrd: &mut Option<BootModule>) -> Result<Placed, BuildError> {
        let layout = self.layout;
        let block = self.alloc(layout.mapped.len(), Purpose::InitialMapping)?;
        let apart = match layout.p2m {
            P2mPlace::Mapped(_) => None,
            P2mPlace::Apart { list, tables, .. } => {
                let count = list.len().saturating_add(tables.len());
                Some(self.alloc(count, Purpose::P2m)?)
            }
        };
        let shared_info = self.alloc(1, Purpose::SharedInfo)?;
        let nr_rest = layout.nr_pages.saturating_sub(layout.rest.get());
        if nr_rest > self.memory.frames.statistics().free {
            return Err(BuildError::NoMemory(Purpose::Rest, nr_rest));
        }

        let initrd_len = initrd.as_ref().map(|module| module.bytes().len() as u64);
        let module = match (layout.initrd, layout.initrd_behind()) {
            (_, Some(pfns)) => super::adopt(self.memory.frames, initrd).map(|frames| {
                let (used, _unused) = frames.split(pfns.len());
                used
            }),
            (Some(pfns), None) => {
                let bytes = initrd.as_ref().map_or(&[][..], BootModule::bytes);
                let place = sub_range(block.range(), pfns);
                write_bytes(self.mem(), place.start, 0, bytes)?;
                None
            }
            (None, None) => None,
        };

        let (p2m_list, p2m_tables) = match (&apart, layout.p2m) {
            (Some(apart), P2mPlace::Apart { list, .. }) => split(apart.range(), list.len()),
            _ => (sub_range(block.range(), layout.p2m_list()), MfnRange::EMPTY),
        };
        let contents = Contents {
            layout,
            shared_info: shared_info.start(),
            initrd_len,
            command_line: self.command_line,
            screen: self.screen,
        };
        self.write_image(block.start(), &contents)?;
        let root = self.write_tables(block.range(), p2m_list, p2m_tables)?;
        write_shared_info(self.mem(), shared_info.start())?;

        // Pfns in order: what is mapped, the initrd, the p2m list apart, the rest.
        let mut list = P2m::new(self.memory, p2m_list)?;
        let held = [Some(&block), module.as_ref(), apart.as_ref()];
        let filled = held
            .into_iter()
            .flatten()
            .try_for_each(|frames| list.append(frames.range()).map_err(BuildError::from))
            .and_then(|()| self.fill_rest(&mut list));
        let placed = Placed {
            root,
            shared_info: shared_info.start(),
            mapped: block.range(),
            p2m_list,
            p2m_tables,
        };
        let handles = [Some(block), module, apart, Some(shared_info)];
        let assigned = filled.and_then(|()| self.assign(handles));
        if assigned.is_err() {
            list.take_back(self.owner, layout.rest);
        }
        assigned.map(|()| placed)
    }

    fn mem(&self) -> &PhysMem {
        self.memory.mem()
    }

    fn alloc(&self, nr_frames: u64, purpose: Purpose) -> Result<OwnedFrames<'_>, BuildError> {
        self.memory
            .alloc_contiguous(nr_frames, Placement::Anywhere)
            .map_err(|_| BuildError::NoMemory(purpose, nr_frames))
    }

    /// Writes what the guest finds in its initial mapping, but for tables and p2m list.
    fn write_image(&self, block: Mfn, contents: &Contents) -> Result<(), BuildError> {
        let (mem, layout) = (self.mem(), self.layout);
        for segment in self.kernel.segments() {
            write_segment(mem, block, &segment)?;
        }
        if let Some(va) = self.kernel.notes().hypercall_page {
            let at = va.wrapping_sub(layout.virt_base);
            hypercall_page::fill(mem, offset(block, at >> PAGE_SHIFT))?;
        }
        contents.write(mem, offset(block, layout.start_info.get()))?;
        mem.zero_frame(offset(block, layout.stack.get()))?;
        Ok(())
    }

    /// Writes the page tables; returns the root.
    fn write_tables(
        &self,
        block: MfnRange,
        p2m_list: MfnRange,
        p2m_tables: MfnRange,
    ) -> Result<Mfn, BadFrame> {
        let layout = self.layout;
        let mut tables = Tables::new(self.memory.machine, sub_range(block, layout.tables))?;
        for (pfn, mfn) in layout.mapped.iter().zip(block.iter()) {
            let protection = if layout.tables.contains(pfn) {
                Protection::ReadOnly
            } else {
                Protection::Writable
            };
            tables.map(layout.va(pfn), mfn, protection)?;
        }
        if let P2mPlace::Apart { va, .. } = layout.p2m {
            tables.continue_with(p2m_tables);
            for (va, mfn) in (va..).step_by(PAGE_SIZE).zip(p2m_list.iter()) {
                tables.map(va, mfn, Protection::Writable)?;
            }
        }
        Ok(tables.root())
    }

    /// Gives the domain what it still lacks, the largest extents first.
    fn fill_rest(&self, list: &mut P2m) -> Result<(), BuildError> {
        let mut order = MAX_ORDER;
        loop {
            let missing = self.layout.nr_pages.saturating_sub(list.len);
            let Some(largest) = missing.checked_ilog2() else {
                return Ok(());
            };
            order = order.min(u8::try_from(largest).unwrap_or(MAX_ORDER));
            match self.memory.alloc(order, Placement::Anywhere) {
                Ok(extent) => {
                    list.append(extent.range())?;
                    self.assign([Some(extent)])?;
                }
                Err(_) => {
                    order = order
                        .checked_sub(1)
                        .ok_or(BuildError::NoMemory(Purpose::Rest, missing))?;
                }
            }
        }
    }

    /// Makes the domain the owner of frames, as they are: they hold what was written for it, or it boots with them.
    /// After an error all of them are free.
    fn assign<const N: usize>(&self, handles: [Option<OwnedFrames>; N]) -> Result<(), BuildError> {
        let mut assigned = ArrayVec::<MfnRange, N>::new();
        for frames in handles.into_iter().flatten() {
            match self.memory.assign(frames, self.owner, Scrub::Keep) {
                Ok(range) => assigned.push(range),
                Err(_) => {
                    for mfn in assigned.iter().flat_map(|range| range.iter()) {
                        // Just assigned, so it is the domain's.
                        let _ = self.memory.release_domain_frame(mfn, self.owner);
                    }
                    return Err(BuildError::BadFrame);
                }
            }
        }
        Ok(())
    }
}

/// The p2m list under construction: pfns get their frames in order.
struct P2m<'m> {
    memory: Memory<'m>,
    list: MfnRange,
    len: u64,
}

impl<'m> P2m<'m> {
    /// Starts a list; what is behind its last entry, in its last frame, is zero.
    fn new(memory: Memory<'m>, list: MfnRange) -> Result<Self, BadFrame> {
        let last = offset(list.start, list.len().saturating_sub(1));
        memory.mem().zero_frame(last)?;
        Ok(Self {
            memory,
            list,
            len: 0,
        })
    }

    /// Gives the next pfns to frames, here and in the M2P.
    fn append(&mut self, frames: MfnRange) -> Result<(), BadFrame> {
        for mfn in frames.iter() {
            let pfn = Pfn::new(self.len);
            let (frame, at) = self.place(pfn);
            self.memory.mem().store_u64(frame.at(at), mfn.get())?;
            self.memory.machine.m2p().set(mfn, Some(pfn));
            self.len = self.len.saturating_add(1);
        }
        Ok(())
    }

    /// Forgets all that was appended. Frames from pfn `rest` on were assigned, and go back.
    fn take_back(&self, owner: DomId, rest: Pfn) {
        for pfn in (0..self.len).map(Pfn::new) {
            let (frame, at) = self.place(pfn);
            // What was written there can be read.
            let Ok(mfn) = self.memory.mem().load_u64(frame.at(at)).map(Mfn::new) else {
                continue;
            };
            self.memory.machine.m2p().set(mfn, None);
            if pfn >= rest {
                // Refused for frames whose handle has freed them already.
                let _ = self.memory.release_domain_frame(mfn, owner);
            }
        }
    }

    /// The frame of an entry, and where in it the entry is.
    fn place(&self, pfn: Pfn) -> (Mfn, usize) {
        let at = (pfn.get() % P2M_ENTRIES).wrapping_mul(8);
        (
            offset(self.list.start, pfn.get() / P2M_ENTRIES),
            at as usize,
        )
    }
}

/// The frame `n` behind `start`. Saturates: a frame that does not exist is refused by its first access.
fn offset(start: Mfn, n: u64) -> Mfn {
    Mfn::new(start.get().saturating_add(n))
}

/// The frames of some pfns of the initial mapping.
fn sub_range(block: MfnRange, pfns: PfnRange) -> MfnRange {
    MfnRange::new(
        offset(block.start, pfns.start.get()),
        offset(block.start, pfns.end.get()),
    )
}

/// The first `n` frames, and the others.
fn split(range: MfnRange, n: u64) -> (MfnRange, MfnRange) {
    let middle = offset(range.start, n.min(range.len()));
    (
        MfnRange::new(range.start, middle),
        MfnRange::new(middle, range.end),
    )
}

/// Writes the shared page as a domain finds it: no events, and all vCPUs that have their place here mask them.
fn write_shared_info(mem: &PhysMem, page: Mfn) -> Result<(), BadFrame> {
    const VCPU_INFO: usize = size_of::<VcpuInfo>();
    const UPCALL_MASK: usize = core::mem::offset_of!(VcpuInfo, evtchn_upcall_mask);
    mem.zero_frame(page)?;
    (UPCALL_MASK..)
        .step_by(VCPU_INFO)
        .take(LEGACY_MAX_VCPUS)
        .try_for_each(|at| mem.store_u8(page.at(at), 1))
}

/// Writes a segment: its bytes, and zeros up to its end.
fn write_segment(mem: &PhysMem, block: Mfn, segment: &Segment) -> Result<(), BadFrame> {
    const ZEROS: &[u8] = &[0; PAGE_SIZE];
    write_bytes(mem, block, segment.start, segment.bytes)?;
    let mut at = segment.start.saturating_add(segment.bytes.len() as u64);
    while at < segment.end {
        let in_page = (PAGE_SIZE as u64).saturating_sub(at & IN_PAGE);
        let len = in_page.min(segment.end.saturating_sub(at));
        let zeros = ZEROS.get(..len as usize).unwrap_or(ZEROS);
        write_bytes(mem, block, at, zeros)?;
        at = at.saturating_add(len);
    }
    Ok(())
}

/// Writes bytes at an offset from the start of a run of frames.
fn write_bytes(mem: &PhysMem, start: Mfn, at: u64, bytes: &[u8]) -> Result<(), BadFrame> {
    let (mut frame, mut in_frame) = (offset(start, at >> PAGE_SHIFT), (at & IN_PAGE) as usize);
    let mut rest = bytes;
    while !rest.is_empty() {
        let room = PAGE_SIZE.saturating_sub(in_frame);
        let (now, later) = rest.split_at_checked(room).unwrap_or((rest, &[]));
        mem.write_bytes(frame.at(in_frame), now)?;
        (frame, in_frame, rest) = (offset(frame, 1), 0, later);
    }
    Ok(())
}
