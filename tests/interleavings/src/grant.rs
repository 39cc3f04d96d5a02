//! A domain that maps grants, with one vCPU: handles, their words and the stack of free ones are the hypervisor's own.

#[path = "../../../hypervisor/core/src/grant/entry.rs"]
pub mod entry;
#[path = "../../../hypervisor/core/src/grant/handle.rs"]
#[expect(dead_code, reason = "nothing ends a whole domain here")]
mod handle;
#[path = "../../../hypervisor/core/src/grant/track.rs"]
pub mod track;

use dom0_abi::addr::Mfn;
use dom0_abi::ids::{DomId, GrantRef, VcpuId};

use self::entry::Access;
use self::handle::{FreeHandles, Handle};
use self::track::{Parts, Track};
use crate::memory::PhysMem;

/// As many handles as there are.
pub const HANDLES: u32 = 3;

const WORDS: Mfn = Mfn::new(1);

/// Its handles.
pub struct Mapper {
    mem: PhysMem,
    free: FreeHandles,
}

impl Mapper {
    /// All of them are free.
    pub fn new() -> Self {
        let words = (0..HANDLES).map(|number| WORDS.at(number as usize * 8));
        let mapper = Self {
            mem: PhysMem::of(words),
            free: FreeHandles::new(),
        };
        for number in (0..HANDLES).rev() {
            mapper.put(number);
        }
        mapper
    }

    fn find(&self, number: u32) -> Option<Handle<'_>> {
        let word = self.mem.page(WORDS).ok()?.word(number as usize).ok()?;
        Some(Handle::new(number, word))
    }

    /// Takes a free handle.
    pub fn take(&self) -> Option<u32> {
        self.free
            .pop(|number| self.find(number))
            .map(Handle::number)
    }

    /// Gives one back.
    pub fn put(&self, number: u32) {
        self.free.push(self.find(number).unwrap());
    }

    /// Takes one and makes it a map of this reference for CPUs and for devices.
    pub fn map(&self, reference: u32) -> Option<u32> {
        let handle = self.free.pop(|number| self.find(number))?;
        handle.set(Track::new(
            DomId::new(1),
            GrantRef::new(reference),
            Parts {
                host: true,
                device: true,
            },
            Access::Write,
            false,
            VcpuId::new(0),
        ));
        Some(handle.number())
    }

    /// Begins to end parts of a map, as `unmap` does; what it was then.
    pub fn begin(&self, number: u32, parts: Parts) -> Option<Track> {
        let handle = self.find(number)?;
        let track = handle.track()?;
        handle.begin_end(track, parts).then_some(track)
    }

    /// Makes them mapped again.
    pub fn undo(&self, number: u32, parts: Parts) {
        self.find(number).unwrap().undo_end(parts);
    }

    /// Ends them; whether the handle is free by that.
    pub fn end(&self, number: u32, track: Track, parts: Parts) -> bool {
        let is_free = self.find(number).unwrap().end(track, parts);
        if is_free {
            self.put(number);
        }
        is_free
    }

    /// The free ones, when nothing moves.
    pub fn free(&self) -> Vec<u32> {
        let free = self.free.iter(|number| self.find(number));
        free.take(2 * HANDLES as usize)
            .map(Handle::number)
            .collect()
    }
}

impl Default for Mapper {
    fn default() -> Self {
        Self::new()
    }
}
